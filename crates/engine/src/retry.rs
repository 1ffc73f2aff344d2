//! Retry: what follows a failed transfer.
//!
//! Question: a source failed; is it asked again, when, and on whose behalf? Answer: before any byte has come, once for
//! each client that waits, up to a bound, so that a leader's failure is not handed to the waiters (D5) and yet one
//! client costs a sick source one request (F10); after bytes have come, at once if the last attempt brought some, and
//! with growing pauses if not, because clients that are cut in the middle lose more than the source does. Prevents:
//! a stampede of retries on a sick registry, and a pull that fails at 79 % of a large layer.

use std::time::Duration;

use crate::fault::SourceFault;
use crate::io::PullFault;
use crate::limits::{OPEN_ATTEMPTS_MAX, RESUME_ATTEMPTS_MAX, RESUME_PAUSE_FIRST, RESUME_PAUSE_MAX};

/// Borrowed view of a flight whose transfer just failed.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Transfers that failed in a row without a byte of progress, this one included if it brought none.
    pub failures: u32,
    /// Whether this transfer brought bytes before it broke.
    pub progressed: bool,
    /// Whether this flight has received bytes at all since it began.
    pub under_way: bool,
    /// Clients that wait.
    pub tickets: usize,
    /// Whether the blob may be asked for through a repository that has not been tried.
    pub more_scopes: bool,
    /// Arbitrary number for the jitter: the same flight and attempt give the same pause.
    pub jitter: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the same source again after a pause.
    Again(Duration),
    /// Ask through the next repository, at once.
    NextScope,
    /// It cannot be had.
    GiveUp(PullFault),
}

/// The decision.
pub fn after_fault(fault: &SourceFault, view: View) -> Verdict {
    match fault {
        SourceFault::Transient | SourceFault::Interrupted | SourceFault::Protocol => again(None, view),
        SourceFault::RateLimited { retry_after } if view.under_way => again(*retry_after, view),
        SourceFault::RateLimited { .. } => Verdict::GiveUp(PullFault::Exhausted),
        SourceFault::Missing | SourceFault::Denied { .. } | SourceFault::Stopped if view.more_scopes => {
            Verdict::NextScope
        }
        SourceFault::Missing => Verdict::GiveUp(PullFault::Unknown),
        SourceFault::Denied { .. } => Verdict::GiveUp(PullFault::Denied),
        SourceFault::WrongContent => Verdict::GiveUp(PullFault::WrongContent),
        SourceFault::Loop => Verdict::GiveUp(PullFault::Loop),
        SourceFault::Stopped => Verdict::GiveUp(PullFault::Exhausted),
    }
}

fn again(wished: Option<Duration>, view: View) -> Verdict {
    if view.progressed {
        return Verdict::Again(Duration::ZERO);
    }
    if view.under_way {
        if view.failures >= RESUME_ATTEMPTS_MAX {
            return Verdict::GiveUp(PullFault::Exhausted);
        }
        let pause = RESUME_PAUSE_FIRST.saturating_mul(1 << (view.failures - 1).min(16));
        let pause = pause.max(wished.unwrap_or_default()).min(RESUME_PAUSE_MAX);
        // Up to a half on top, so that the nodes of a cluster that broke together do not come back together.
        return Verdict::Again(pause + pause.mul_f64((view.jitter % 1024) as f64 / 2048.0));
    }
    let attempts = u32::try_from(view.tickets).unwrap_or(u32::MAX).clamp(1, OPEN_ATTEMPTS_MAX);
    if view.failures >= attempts {
        Verdict::GiveUp(PullFault::Exhausted)
    } else {
        Verdict::Again(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_failure() {
        let cold = View {
            failures: 1,
            progressed: false,
            under_way: false,
            tickets: 1,
            more_scopes: false,
            jitter: 0,
        };
        let broken = View { progressed: true, under_way: true, failures: 0, ..cold };
        let stuck = View { under_way: true, ..cold };
        let now = Verdict::Again(Duration::ZERO);
        let exhausted = Verdict::GiveUp(PullFault::Exhausted);
        let limited = SourceFault::RateLimited { retry_after: Some(Duration::from_secs(3)) };
        let denied = SourceFault::Denied { status: 403 };
        let table = [
            ("F10: one client, one request", SourceFault::Transient, cold, exhausted),
            ("D5: the next waiter leads", SourceFault::Transient, View { tickets: 20, ..cold }, now),
            (
                "a sick source is not stormed",
                SourceFault::Transient,
                View { tickets: 20, failures: 3, ..cold },
                exhausted,
            ),
            ("a prefetch tries once", SourceFault::Transient, View { tickets: 0, ..cold }, exhausted),
            ("L1: a break after bytes resumes at once", SourceFault::Interrupted, broken, now),
            ("then with a pause", SourceFault::Transient, stuck, Verdict::Again(Duration::from_millis(250))),
            (
                "that grows",
                SourceFault::Interrupted,
                View { failures: 3, ..stuck },
                Verdict::Again(Duration::from_secs(1)),
            ),
            ("and ends", SourceFault::Interrupted, View { failures: 6, ..stuck }, exhausted),
            ("F4: no client waits for a rate limit", limited.clone(), View { tickets: 9, ..cold }, exhausted),
            ("in the middle it is respected", limited, stuck, Verdict::Again(Duration::from_secs(3))),
            (
                "another repository may have it",
                SourceFault::Missing,
                View { more_scopes: true, ..cold },
                Verdict::NextScope,
            ),
            ("nobody has it", SourceFault::Missing, cold, Verdict::GiveUp(PullFault::Unknown)),
            (
                "another repository may be open",
                denied.clone(),
                View { more_scopes: true, ..cold },
                Verdict::NextScope,
            ),
            ("no access", denied, cold, Verdict::GiveUp(PullFault::Denied)),
            (
                "F5: a mirror's denial is not repeated",
                SourceFault::Stopped,
                View { tickets: 9, ..cold },
                exhausted,
            ),
            ("C17", SourceFault::Loop, View { tickets: 9, ..cold }, Verdict::GiveUp(PullFault::Loop)),
        ];
        for (name, fault, view, verdict) in table {
            assert_eq!(after_fault(&fault, view), verdict, "{name}");
        }
    }

    #[test]
    fn pauses_stay_bounded() {
        for failures in 1..RESUME_ATTEMPTS_MAX {
            for jitter in [0, 7, 1023, u64::MAX] {
                let view = View {
                    failures,
                    progressed: false,
                    under_way: true,
                    tickets: 1,
                    more_scopes: false,
                    jitter,
                };
                let wish = SourceFault::RateLimited { retry_after: Some(Duration::from_secs(3600)) };
                for fault in [SourceFault::Transient, wish] {
                    let Verdict::Again(pause) = after_fault(&fault, view) else {
                        panic!("gave up at {failures}")
                    };
                    assert!(pause <= RESUME_PAUSE_MAX.mul_f64(1.5), "{pause:?}");
                }
            }
        }
    }
}
