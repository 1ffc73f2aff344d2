//! The queue of events: what happens next, and of what happens at the same moment, what was planned first.
//!
//! Invariant: events come out by time, then in the order in which they were planned, so a run depends on nothing but
//! its inputs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A moment of the simulation: nanoseconds since its beginning.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: f64 = 1e9;

/// Seconds as nanoseconds, rounded up so that no duration of something is nothing.
pub fn nanos(seconds: f64) -> Nanos {
    debug_assert!(seconds >= 0.0, "a duration of {seconds} s");
    (seconds * SECOND).ceil() as Nanos
}

struct Planned<E> {
    at: Nanos,
    order: u64,
    event: E,
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The queue, and with it the clock.
pub struct Queue<E> {
    heap: BinaryHeap<Planned<E>>,
    now: Nanos,
    planned: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), now: 0, planned: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the event that came out last.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Events planned so far.
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// Plans an event; one that lies in the past happens now.
    pub fn plan(&mut self, at: Nanos, event: E) {
        self.planned += 1;
        self.heap.push(Planned { at: at.max(self.now), order: self.planned, event });
    }

    /// Takes out the next event and moves the clock to it.
    #[expect(
        clippy::should_implement_trait,
        reason = "a queue that moves a clock is no iterator: more is planned meanwhile"
    )]
    pub fn next(&mut self) -> Option<E> {
        let Planned { at, event, .. } = self.heap.pop()?;
        self.now = at;
        Some(event)
    }
}
