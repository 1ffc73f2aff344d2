//! `POST /v1/proofs`: a challenge that the registry port will answer, for whoever wants to be sure whose port it is, and that it
//! serves.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use shoal_store::{Store, StoreError};
use tokio::time::timeout;

use super::{AdminState, Refusal};
use crate::registry::proof::Proof;
use crate::store_health::StoreHealth;

/// How long the driver may take to answer, which is microseconds when it is well.
const DRIVER_ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long the disk may take for a look, which is less than a millisecond when it is well.
const DISK_ANSWER_MAX: Duration = Duration::from_secs(3);

/// A challenge that the registry ports will answer, for whoever wants to be sure whose port it is.
#[utoipa::path(post, path = "/v1/proofs", operation_id = "proof", tag = "agent", responses(
    (status = 200, description = "The challenge, and what a port of this agent says to it.", body = Proof),
    (status = 503, description = "The agent cannot serve: what decides about blobs does not answer.", body = Refusal),
))]
pub(super) async fn hand_out(State(state): State<AdminState>) -> Result<Json<Proof>, Refusal> {
    // A port behind which every request waits for ever is none that a runtime should ask.
    let driver = timeout(DRIVER_ANSWER_MAX, state.driver.answers());
    match tokio::join!(driver, disk_answers(state.driver.store_health())) {
        (Ok(true), true) => Ok(Json(state.proofs.hand_out(Instant::now()))),
        (Ok(true), false) => Err(cannot_serve("disk")),
        _ => Err(cannot_serve("driver")),
    }
}

fn cannot_serve(silent: &str) -> Refusal {
    let words = format!("the agent cannot serve: its {silent} does not answer");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// Whether the disk answers, be it with an error: pulls go past a store that is broken, and wait for one that says nothing.
async fn disk_answers(health: &StoreHealth) -> bool {
    let looked = health.on_disk(|store| Ok(look(store).is_ok()));
    timeout(DISK_ANSWER_MAX, looked).await.is_ok_and(|answer| answer.is_some())
}

/// The least that asks both the index and the files: what is known of one blob.
fn look(store: &Store) -> Result<(), StoreError> {
    for blob in store.list(None, 1)? {
        store.peek(&blob.digest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_health::tests::{hang, healthy, pass_the_deadline};

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_answers_nobody_and_one_that_is_broken_does() {
        let (_folder, health) = healthy();
        assert!(disk_answers(&health).await);
        let path = "/data".into();
        let cause = std::io::Error::from_raw_os_error(libc::EIO).into();
        health.failed(&StoreError::Broken { operation: "write a partial blob", path, cause });
        assert!(disk_answers(&health).await);
        let (_end, _asked) = hang(&health).await;
        assert!(disk_answers(&health).await, "it may be slow for once");
        pass_the_deadline().await;
        assert!(!disk_answers(&health).await);
    }
}
