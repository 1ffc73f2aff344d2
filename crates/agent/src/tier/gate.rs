//! Whether the store is asked at all: the engine's circuit breaker on this process's clock.

use std::time::Duration;

use parking_lot::Mutex;
use shoal_engine::Time;
use shoal_engine::breaker::{Admission, Breaker};
use tokio::time::Instant;

use super::error::TierFault;

/// A breaker that many tasks share.
pub(super) struct Gate {
    origin: Instant,
    breaker: Mutex<Breaker>,
}

impl Gate {
    pub fn new() -> Self {
        Gate { origin: Instant::now(), breaker: Mutex::default() }
    }

    /// Whether a request may be made now; if not, how much longer the store is left alone, which is nothing while somebody
    /// else finds out. Who is let through tells how it went.
    pub fn admit(&self) -> Result<(), Duration> {
        let now = self.now();
        let mut breaker = self.breaker.lock();
        match breaker.admit(now, false) {
            Admission::Yes | Admission::Probe => Ok(()),
            Admission::No => Err(breaker.pause_left(now)),
        }
    }

    /// How a request went; `None` for a fault is that the store answered. Tells the operator when the store is left
    /// alone from here on, and when it is back.
    pub fn settle(&self, fault: Option<&TierFault>) {
        let now = self.now();
        let mut breaker = self.breaker.lock();
        let was_open = breaker.is_open();
        match fault {
            None => {
                breaker.succeeded();
                if was_open {
                    tracing::info!("the object store answers again");
                }
            }
            Some(fault) => {
                let Some(failure) = fault.failure() else { return };
                breaker.failed(now, failure);
                if !was_open && breaker.is_open() {
                    let pause = breaker.pause_left(now);
                    tracing::warn!(%fault, ?pause, "the object store has failed and is left alone; pulls go on without it");
                }
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }
}
