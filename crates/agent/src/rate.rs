//! How fast bytes may pass: one throttle for all transfers of a direction together, and a pace for some of them that may
//! change while they wait.
//!
//! Invariant: over any time the bytes that pass are at most the rate's share of it and one chunk; those who wait pass in
//! the order in which they came.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
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

/// Lets bytes pass at a rate that may change, or fall away, while they wait. Cheap to clone; clones share the rate.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Paced>);

#[derive(Debug, Default)]
struct Paced {
    gauge: Mutex<Gauge>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Gauge {
    /// Bytes per second; `None` for as many as come.
    rate: Option<u64>,
    /// Up to when `passed` is reckoned.
    at: Option<Instant>,
    /// Bytes that have passed, and those that have passed or wait.
    passed: f64,
    booked: f64,
}

impl Gauge {
    /// What passes until now. Time in which nobody waits is not saved up.
    fn reckon(&mut self, now: Instant) {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.passed = match self.rate {
            Some(rate) => (self.passed + rate as f64 * since.as_secs_f64()).min(self.booked),
            None => self.booked,
        };
    }
}

impl Pace {
    /// At most so many bytes a second from now on, also for those who wait; `None` and 0 for as many as come.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let mut gauge = self.0.gauge.lock();
        gauge.reckon(Instant::now());
        gauge.rate = bytes_per_second.filter(|rate| *rate > 0);
        drop(gauge);
        self.0.changed.notify_waiters();
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        let mine = {
            let mut gauge = self.0.gauge.lock();
            gauge.reckon(Instant::now());
            gauge.booked += bytes as f64;
            gauge.booked - bytes as f64
        };
        loop {
            let changed = self.0.changed.notified();
            let due = {
                let mut gauge = self.0.gauge.lock();
                let now = Instant::now();
                gauge.reckon(now);
                match gauge.rate {
                    // Fractions of a byte are what reckoning leaves over.
                    Some(rate) if mine - gauge.passed >= 1.0 => {
                        now + Duration::from_secs_f64((mine - gauge.passed) / rate as f64).max(GRAIN)
                    }
                    _ => return,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes 40 times 25 kB on two tasks, and tells when it was done.
    async fn a_million(pace: &Pace) -> Duration {
        let begun = Instant::now();
        let pass = || async {
            for _ in 0..20 {
                pace.pass(25_000).await;
            }
        };
        tokio::join!(pass(), pass());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_may_change_while_bytes_wait() {
        let pace = Pace::default();
        assert_eq!(a_million(&pace).await, Duration::ZERO, "there is none yet");
        // Seconds after which the rate becomes another, and how long all of it takes: the last chunk is not waited for.
        let table =
            [(0.0, Some(250_000), 3.9), (2.0, Some(1_000_000), 2.475), (1.0, None, 1.0), (1.0, Some(0), 1.0)];
        for (after, rate, takes) in table {
            pace.set(Some(250_000));
            let change = async {
                tokio::time::sleep(Duration::from_secs_f64(after)).await;
                pace.set(rate);
            };
            let (taken, ()) = tokio::join!(a_million(&pace), change);
            let taken = taken.as_secs_f64();
            assert!((takes - 0.03..=takes + 0.03).contains(&taken), "{rate:?} after {after} s: {taken} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_saves_no_idle_time_up() {
        let pace = Pace::default();
        pace.set(Some(1000));
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..3 {
            pace.pass(1000).await;
        }
        assert!((1.99..2.01).contains(&begun.elapsed().as_secs_f64()));
    }

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
