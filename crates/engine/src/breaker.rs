//! Circuit breaker: is a source asked at all?
//!
//! Question: a source has failed lately; is it worth a client's time to ask it? Answer: one that lets clients wait
//! (nobody there, no answer in time) is left alone after its first failure; one that answers with errors after a few in
//! a row, because an error may concern one blob only. Left alone for a pause that doubles while it does not get well;
//! then one request finds out, and until it is back nobody else pays. Prevents: a dead mirror that costs its timeout for
//! every blob of every image (`contract.md` F14), and a mirror that is never asked again.

use std::time::Duration;

use crate::limits::{BREAKER_ERRORS_MAX, BREAKER_PAUSE_FIRST, BREAKER_PAUSE_MAX};
use crate::time::Time;

/// How a source failed, as far as the next client is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It let us wait, or nobody was there.
    Absent,
    /// It answered with an error.
    Error,
}

/// Whether a source may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is well.
    Yes,
    /// It was not well; this one request may find out. The others get [`Admission::No`] until it is answered.
    Probe,
    /// It is left alone.
    No,
}

/// The memory of one source's failures.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// Errors since the last success.
    errors: u32,
    /// Times the pause has been entered since the last success.
    pauses: u32,
    /// Set while the source is left alone.
    left_alone_until: Option<Time>,
    /// Somebody is finding out, and is given up as lost at that time.
    probing_until: Option<Time>,
}

impl Breaker {
    /// Whether the source may be asked now. A caller that gets [`Admission::Probe`] tells how it went. Where nobody else
    /// can be asked (`is_last`), one request at a time finds out during the pause as well.
    pub fn admit(&mut self, now: Time, is_last: bool) -> Admission {
        match self.left_alone_until {
            None => Admission::Yes,
            Some(until) if now < until && !is_last => Admission::No,
            Some(_) if self.probing_until.is_some_and(|until| now < until) => Admission::No,
            Some(_) => {
                self.probing_until = Some(now + BREAKER_PAUSE_FIRST);
                Admission::Probe
            }
        }
    }

    /// Whether the source is left alone, without asking to be admitted.
    pub fn is_open(&self) -> bool {
        self.left_alone_until.is_some()
    }

    /// The source has answered.
    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// A request has ended in a way that says nothing of the source. The next one may find out.
    pub fn undecided(&mut self) {
        self.probing_until = None;
    }

    /// The source has failed.
    pub fn failed(&mut self, now: Time, failure: Failure) {
        self.errors += 1;
        let opens = failure == Failure::Absent || self.errors >= BREAKER_ERRORS_MAX;
        self.probing_until = None;
        // Requests that were under way when the pause began say nothing new.
        let is_paused = self.left_alone_until.is_some_and(|until| now < until);
        if !opens || is_paused {
            return;
        }
        let pause = BREAKER_PAUSE_FIRST.saturating_mul(1 << self.pauses.min(16)).min(BREAKER_PAUSE_MAX);
        self.pauses += 1;
        self.left_alone_until = Some(now + pause);
    }

    /// How long the source is still left alone; zero if it is not.
    pub fn pause_left(&self, now: Time) -> Duration {
        self.left_alone_until.map_or(Duration::ZERO, |until| until - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn who_is_absent_is_left_alone_at_once() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.admit(at(0), false), Admission::Yes);
        breaker.failed(at(0), Failure::Absent);
        assert_eq!(breaker.admit(at(1), false), Admission::No);
        let pause = BREAKER_PAUSE_FIRST.as_secs();
        assert_eq!(breaker.pause_left(at(1)), BREAKER_PAUSE_FIRST - Duration::from_secs(1));
        assert_eq!(breaker.admit(at(pause), false), Admission::Probe);
        assert_eq!(breaker.admit(at(pause), false), Admission::No, "one finds out");
        breaker.succeeded();
        assert_eq!(breaker.admit(at(pause), false), Admission::Yes);
    }

    #[test]
    fn the_last_one_is_asked_by_one_at_a_time() {
        let mut breaker = Breaker::default();
        breaker.failed(at(0), Failure::Absent);
        assert_eq!(breaker.admit(at(1), true), Admission::Probe);
        assert_eq!(breaker.admit(at(1), true), Admission::No);
        breaker.undecided();
        assert_eq!(breaker.admit(at(1), true), Admission::Probe);
        breaker.failed(at(2), Failure::Absent);
        assert_eq!(
            breaker.admit(at(2), true),
            Admission::Probe,
            "the next one, as soon as it is known how it went"
        );
    }

    #[test]
    fn one_error_is_no_outage() {
        let mut breaker = Breaker::default();
        for n in 1..BREAKER_ERRORS_MAX {
            breaker.failed(at(u64::from(n)), Failure::Error);
            assert_eq!(breaker.admit(at(u64::from(n)), false), Admission::Yes, "{n}");
        }
        breaker.failed(at(9), Failure::Error);
        assert_eq!(breaker.admit(at(9), false), Admission::No);
        breaker.succeeded();
        breaker.failed(at(10), Failure::Error);
        assert_eq!(breaker.admit(at(10), false), Admission::Yes, "errors count in a row only");
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let (mut breaker, mut now) = (Breaker::default(), at(0));
        let mut pauses = Vec::new();
        for _ in 0..10 {
            breaker.failed(now, Failure::Absent);
            pauses.push(breaker.pause_left(now));
            now = now + breaker.pause_left(now);
            assert_eq!(breaker.admit(now, false), Admission::Probe);
        }
        assert_eq!(pauses[..2], [BREAKER_PAUSE_FIRST, BREAKER_PAUSE_FIRST * 2]);
        assert_eq!(pauses.last(), Some(&BREAKER_PAUSE_MAX));
    }

    #[test]
    fn late_failures_do_not_lengthen_the_pause() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.failed(at(0), Failure::Absent);
        }
        assert_eq!(breaker.pause_left(at(0)), BREAKER_PAUSE_FIRST);
    }

    #[test]
    fn a_probe_that_is_lost_is_made_again() {
        let mut breaker = Breaker::default();
        breaker.failed(at(0), Failure::Absent);
        let pause = BREAKER_PAUSE_FIRST.as_secs();
        assert_eq!(breaker.admit(at(pause), false), Admission::Probe);
        assert_eq!(breaker.admit(at(2 * pause), false), Admission::Probe);
    }
}
