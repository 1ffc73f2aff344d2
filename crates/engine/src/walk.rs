//! The walk over the sources of a repository: what follows when one of them fails?
//!
//! Question: a source has failed; is it asked once more, is the next one asked, or does the walk end? Answer: what may
//! pass (5xx, timeouts, resets) is tried once more after a pause, if there is anybody else to ask at all; then the next
//! source has its turn. What is missing or rate limited there is asked elsewhere at once. A mirror that denies ends the
//! walk, because that is a mistake in somebody's configuration which would otherwise never be noticed, unless the
//! operator wants it passed over. Prevents: retries that multiply, a client that waits for `Retry-After`, and a denial
//! that is hidden by the origin (`contract.md` F1-F5, F10).

use std::time::Duration;

use crate::fault::SourceFault;
use crate::limits::{SAME_SOURCE_JITTER_MAX, SAME_SOURCE_PAUSE};

/// Borrowed view of a walk whose current source has just failed.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Whether the source is a mirror rather than the registry itself.
    pub is_mirror: bool,
    /// Whether the repository has any other source at all.
    pub has_alternatives: bool,
    /// Whether this source has been asked twice already.
    pub retried: bool,
    /// What failing sources may still cost this walk.
    pub budget_left: Duration,
    /// Whether a mirror that denies ends the walk.
    pub denial_stops: bool,
    /// Arbitrary number for the jitter.
    pub jitter: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the same source once more after a pause.
    Again(Duration),
    /// Ask the next source.
    Next,
    /// The walk ends here.
    Stop,
}

/// The decision.
pub fn after_fault(fault: &SourceFault, view: View) -> Step {
    match fault {
        SourceFault::Transient | SourceFault::Interrupted => {
            // Nodes that broke together come back apart.
            let jitter = SAME_SOURCE_JITTER_MAX.mul_f64((view.jitter % 1024) as f64 / 1024.0);
            let pause = SAME_SOURCE_PAUSE + jitter;
            if view.has_alternatives && !view.retried && pause < view.budget_left {
                Step::Again(pause)
            } else {
                Step::Next
            }
        }
        SourceFault::Denied { .. } | SourceFault::Stopped if view.is_mirror && !view.denial_stops => {
            Step::Next
        }
        SourceFault::Denied { .. } | SourceFault::Stopped => Step::Stop,
        SourceFault::Missing
        | SourceFault::RateLimited { .. }
        | SourceFault::Protocol
        | SourceFault::WrongContent
        | SourceFault::Loop => Step::Next,
    }
}

/// What a walk that found nothing means as a whole. `faults` are those of the sources that were asked, in order, with
/// whether each is a mirror.
///
/// The registry itself is believed, whatever mirrors say; without its word, a mirror that could not answer may have
/// what the others miss.
pub fn outcome(faults: &[(bool, SourceFault)]) -> SourceFault {
    let of_source = faults.iter().rev().find(|(is_mirror, _)| !is_mirror);
    if let Some((_, fault)) = of_source {
        return fault.clone();
    }
    match faults.last() {
        // Nobody could be asked; nothing is known of the content.
        None => SourceFault::Transient,
        // The client's runtime goes on to the registry itself, which may well answer.
        Some((_, SourceFault::Denied { .. })) => SourceFault::Stopped,
        Some(_) if faults.iter().all(|(_, fault)| *fault == SourceFault::Missing) => SourceFault::Missing,
        Some((_, fault)) if faults.len() == 1 => fault.clone(),
        Some(_) => SourceFault::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mirror that has just failed for the first time.
    const MIRROR: View = View {
        is_mirror: true,
        has_alternatives: true,
        retried: false,
        budget_left: Duration::from_secs(10),
        denial_stops: true,
        jitter: 0,
    };

    #[test]
    fn what_follows_a_source_that_failed() {
        let mirror = MIRROR;
        let source = View { is_mirror: false, ..mirror };
        let alone = View { has_alternatives: false, ..source };
        let denied = SourceFault::Denied { status: 403 };
        let limited = SourceFault::RateLimited { retry_after: Some(Duration::from_secs(60)) };
        let pause = Step::Again(Duration::from_secs(1));
        let table = [
            ("F2, F10: once more", SourceFault::Transient, mirror, pause),
            ("F10: but only once", SourceFault::Transient, View { retried: true, ..mirror }, Step::Next),
            ("F10: and never the only one", SourceFault::Transient, alone, Step::Next),
            ("F10: the registry too", SourceFault::Transient, source, pause),
            (
                "F14: nor when it has taken too long",
                SourceFault::Transient,
                View { budget_left: Duration::from_secs(1), ..mirror },
                Step::Next,
            ),
            ("F3", SourceFault::Missing, mirror, Step::Next),
            ("F4: nobody waits", limited, mirror, Step::Next),
            ("F5", denied.clone(), mirror, Step::Stop),
            (
                "F5, if the operator says so",
                denied.clone(),
                View { denial_stops: false, ..mirror },
                Step::Next,
            ),
            ("F5: the registry's own no counts", denied, View { denial_stops: false, ..source }, Step::Stop),
            ("a mirror that lies", SourceFault::WrongContent, mirror, Step::Next),
            ("C17: a mirror that is us", SourceFault::Loop, mirror, Step::Next),
            ("a mirror that is no registry", SourceFault::Protocol, mirror, Step::Next),
        ];
        for (name, fault, view, step) in table {
            assert_eq!(after_fault(&fault, view), step, "{name}");
        }
    }

    #[test]
    fn the_pause_is_one_second_and_varies() {
        let view = MIRROR;
        let pauses: std::collections::BTreeSet<_> = (0..1024)
            .map(|jitter| match after_fault(&SourceFault::Transient, View { jitter, ..view }) {
                Step::Again(pause) => pause,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(pauses.iter().all(|p| (SAME_SOURCE_PAUSE..SAME_SOURCE_PAUSE * 2).contains(p)), "{pauses:?}");
        assert!(pauses.len() > 1000);
    }

    #[test]
    fn what_a_walk_means() {
        let denied = SourceFault::Denied { status: 401 };
        let (mirror, source) = (true, false);
        let table = [
            ("nobody to ask", vec![], SourceFault::Transient),
            (
                "the registry knows what it does not have",
                vec![(mirror, SourceFault::Transient), (source, SourceFault::Missing)],
                SourceFault::Missing,
            ),
            (
                "the registry stands before the mirrors",
                vec![(source, SourceFault::Transient), (mirror, SourceFault::Missing)],
                SourceFault::Transient,
            ),
            (
                "a mirror that was down may have it",
                vec![(mirror, SourceFault::Transient), (mirror, SourceFault::Missing)],
                SourceFault::Transient,
            ),
            ("all mirrors miss it", vec![(mirror, SourceFault::Missing); 2], SourceFault::Missing),
            ("F5", vec![(mirror, SourceFault::Missing), (mirror, denied.clone())], SourceFault::Stopped),
            ("the registry denies", vec![(mirror, SourceFault::Missing), (source, denied.clone())], denied),
            ("one mirror's word is its own", vec![(mirror, SourceFault::Loop)], SourceFault::Loop),
        ];
        for (name, faults, expected) in table {
            assert_eq!(outcome(&faults), expected, "{name}");
        }
    }
}
