//! What holds the bytes of a flight back that nothing but warm sets wants: the pace that the engine has told.
//!
//! Invariants: whoever waits goes on at once when the flight is let go, whoever else is held back; nothing that others need is
//! kept while bytes wait here (no place in memory, no connection's turn).

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::rate::{Pace, Passage};

/// Of one flight; free until the engine says otherwise.
pub(crate) struct Restraint {
    /// Of what comes from upstream.
    upstream: Pace,
    /// Of what comes from anybody to the blobs of the same set; none while the flight is free.
    of_set: watch::Sender<Option<Pace>>,
    held: AtomicBool,
}

impl Default for Restraint {
    fn default() -> Self {
        Restraint {
            upstream: Pace::default(),
            of_set: watch::Sender::new(None),
            held: AtomicBool::new(false),
        }
    }
}

impl Restraint {
    /// The pace changes: bytes per second from upstream (0 for as many as come), and the pace that the set's blobs share.
    pub fn set(&self, upstream: u64, of_set: Option<Pace>) {
        self.held.store(upstream > 0 || of_set.is_some(), Ordering::Relaxed);
        self.upstream.set(Some(upstream));
        self.of_set.send_replace(of_set);
    }

    /// Whether anything holds it back now.
    pub fn holds(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes of upstream may be taken, which they are then.
    pub async fn pass_upstream(&self, bytes: usize) {
        let upstream = self.upstream.admit(bytes).await;
        self.admit(bytes).await.passed();
        upstream.passed();
    }

    /// Waits until so many bytes of a member may be taken.
    pub async fn admit(&self, bytes: usize) -> Passage {
        let mut of_set = self.of_set.subscribe();
        loop {
            let Some(pace) = of_set.borrow_and_update().clone() else { return Passage::default() };
            tokio::select! {
                admitted = pace.admit(bytes) => return admitted,
                changed = of_set.changed() => {
                    if changed.is_err() {
                        return Passage::default();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_is_let_go_does_not_wait_for_those_that_are_not() {
        let pace = Pace::default();
        pace.set(Some(1000));
        let flights = [Restraint::default(), Restraint::default()];
        flights.iter().for_each(|flight| flight.set(0, Some(pace.clone())));
        let begun = Instant::now();
        let receive = |flight: usize| {
            let flight = &flights[flight];
            async move {
                for _ in 0..10 {
                    flight.pass_upstream(1000).await;
                }
                begun.elapsed()
            }
        };
        let let_go = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            flights[0].set(0, None);
        };
        let (free, held, ()) = tokio::join!(receive(0), receive(1), let_go);
        assert_eq!(free, Duration::from_millis(500));
        // Behind the one that the other flight has taken, and not behind the one that it waited for when it was let go.
        let expected = Duration::from_secs(10);
        assert!(held >= expected && held < expected + Duration::from_millis(100), "{held:?}");
    }
}
