//! Waiting for something to become true, with a deadline that names what was waited for.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition: short against everything that is waited for, long against a look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a local server may take until it answers, on two busy cores.
pub const START_MAX: Duration = Duration::from_secs(60);

/// Looks until `condition` holds. Panics with `what` after `within`.
pub async fn until<F>(what: impl Display, within: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < within, "waited {within:?} in vain for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// [`until`] for a condition that can be looked at without waiting.
pub async fn until_true(what: impl Display, within: Duration, mut condition: impl FnMut() -> bool) {
    until(what, within, || std::future::ready(condition())).await;
}
