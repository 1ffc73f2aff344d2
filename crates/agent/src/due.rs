//! Waiting for whatever is due next, for loops that do several things and have nothing due now and then.

use tokio::time::Instant;

/// Until then; for ever, if there is no such time.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
