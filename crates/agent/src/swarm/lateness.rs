//! Waiting on a machine that is busy.
//!
//! Question: when has somebody else taken too long, if this node waits for a processor itself? Answer: later by as many times what it
//! came late out of its own wait as the engine gives for silence ([`EXCUSE_MAX`] at most). Prevents: hundreds of busy agents that take
//! each other for gone and ask the registry, each for itself.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use shoal_engine::limits::{DEAF_AFTER_ANSWERS, EXCUSE_MAX};
use tokio::time::Instant;

/// Waits for so long, and longer if this node is late.
pub async fn patiently(time: Duration) {
    let due = Instant::now() + time;
    tokio::time::sleep_until(due).await;
    tokio::time::sleep(excuse(due.elapsed())).await;
}

/// What comes of `future` if that takes no longer than [`patiently`] waits.
pub async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    let (future, waited) = (pin!(future), pin!(patiently(time)));
    tokio::select! {
        biased;
        output = future => Some(output),
        () = waited => None,
    }
}

fn excuse(late: Duration) -> Duration {
    late.saturating_mul(DEAF_AFTER_ANSWERS).min(EXCUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_late_gives_others_longer_but_not_for_ever() {
        for (late, longer) in [(0, 0), (10, 80), (100, 800), (10_000, EXCUSE_MAX.as_millis() as u64)] {
            assert_eq!(excuse(Duration::from_millis(late)), Duration::from_millis(longer), "{late} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_time_waits_no_longer() {
        let begun = Instant::now();
        assert_eq!(within(SECOND, std::future::pending::<()>()).await, None);
        assert!(begun.elapsed() < SECOND + SECOND / 10, "{:?}", begun.elapsed());
        assert_eq!(within(SECOND, tokio::time::sleep(SECOND / 2)).await, Some(()));
    }
}
