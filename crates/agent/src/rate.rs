//! How fast bytes may pass: one throttle for all transfers of a direction together.
//!
//! Invariant: over any time the bytes that pass are at most the rate's share of it and one chunk; those who wait pass in
//! the order in which they came.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Waiting less than this costs more in wake-ups than it evens out.
const GRAIN: Duration = Duration::from_millis(1);

/// Lets bytes pass at a rate. Cheap to clone; clones share the rate.
#[derive(Clone, Debug, Default)]
pub struct Throttle(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    bytes_per_second: u64,
    /// When all that has passed is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// At most so many bytes a second; `None` and 0 for as many as come.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let limited = bytes_per_second.filter(|rate| *rate > 0);
        Throttle(
            limited.map(|bytes_per_second| {
                Arc::new(Inner { bytes_per_second, paid: Mutex::new(Instant::now()) })
            }),
        )
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        let Some(inner) = &self.0 else { return };
        let now = Instant::now();
        let due = {
            let mut paid = inner.paid.lock();
            let due = now.max(*paid);
            *paid = due + Duration::from_secs_f64(bytes as f64 / inner.bytes_per_second as f64);
            due
        };
        if due >= now + GRAIN {
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_the_rate() {
        let throttle = Throttle::new(Some(1_000_000));
        let begun = Instant::now();
        let passing: Vec<_> = (0..4)
            .map(|_| {
                let throttle = throttle.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        throttle.pass(10_000).await;
                    }
                })
            })
            .collect();
        for one in passing {
            one.await.unwrap();
        }
        // Two million bytes, the last chunk of which has passed without being waited for.
        let taken = begun.elapsed().as_secs_f64();
        assert!((1.97..=2.0).contains(&taken), "{taken} s");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_not_saved_up() {
        let throttle = Throttle::new(Some(1000));
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..3 {
            throttle.pass(1000).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let begun = Instant::now();
        for unlimited in [Throttle::new(None), Throttle::new(Some(0)), Throttle::default()] {
            unlimited.pass(usize::MAX).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
