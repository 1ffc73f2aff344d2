//! Question: who passes an order to warm on to whom?
//!
//! Answer: the list is cut into [`WARM_FANOUT`](crate::limits::WARM_FANOUT) parts of equal length; the first of each is
//! told, and passes the rest of its part on in the same way. So nobody speaks to more than a handful of members, and
//! 1,000 are reached in four hops. The part of a first one that does not answer goes to the next of that part, whole:
//! a member that is dead costs one wait. From the second one on that is silent the part is halved each time, so that
//! a hundred of them in a row cost seven waits and not a hundred.

use crate::peer::PeerId;

/// A part of the targets: the first is told, and passes the rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The members, the one that is told first.
    pub members: Vec<PeerId>,
    /// How many have been asked to see to it and have not.
    pub misses: u32,
}

/// Cuts targets into at most `count` parts whose lengths differ by at most one. None is empty.
pub fn parts(targets: &[PeerId], count: usize, misses: u32) -> Vec<Part> {
    let count = count.min(targets.len());
    (0..count)
        .map(|at| {
            let (from, to) = (targets.len() * at / count, targets.len() * (at + 1) / count);
            Part { members: targets[from..to].to_vec(), misses }
        })
        .collect()
}

/// What becomes of the rest of a part whose first one did not see to it; `misses` counts that one.
pub fn hand_on(rest: &[PeerId], misses: u32) -> Vec<Part> {
    parts(rest, if misses > 1 { 2 } else { 1 }, misses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u8) -> Vec<PeerId> {
        (0..count).map(|n| PeerId([n; 32])).collect()
    }

    fn lengths(parts: &[Part]) -> Vec<usize> {
        parts.iter().map(|p| p.members.len()).collect()
    }

    #[test]
    fn parts_are_even_and_keep_the_order() {
        let table: [(u8, usize, &[usize]); 7] = [
            (0, 8, &[]),
            (1, 8, &[1]),
            (8, 8, &[1; 8]),
            (9, 8, &[1, 1, 1, 1, 1, 1, 1, 2]),
            (20, 8, &[2, 3, 2, 3, 2, 3, 2, 3]),
            (125, 8, &[15, 16, 15, 16, 16, 15, 16, 16]),
            (5, 1, &[5]),
        ];
        for (count, fanout, expected) in table {
            let targets = peers(count);
            let parts = parts(&targets, fanout, 0);
            assert_eq!(lengths(&parts), expected, "{count} by {fanout}");
            assert_eq!(parts.into_iter().flat_map(|p| p.members).collect::<Vec<_>>(), targets);
        }
    }

    #[test]
    fn what_is_left_behind_goes_to_the_next_and_is_halved_from_then_on() {
        let table: [(u8, u32, &[usize]); 5] =
            [(0, 1, &[]), (9, 1, &[9]), (9, 2, &[4, 5]), (1, 2, &[1]), (9, 7, &[4, 5])];
        for (count, misses, expected) in table {
            let parts = hand_on(&peers(count), misses);
            assert_eq!(lengths(&parts), expected, "{count} after {misses}");
            assert!(parts.iter().all(|p| p.misses == misses));
        }
    }

    #[test]
    fn a_thousand_are_reached_in_four_hops() {
        fn depth(targets: &[PeerId]) -> u32 {
            let parts = parts(targets, crate::limits::WARM_FANOUT, 0);
            parts.iter().map(|p| 1 + depth(&p.members[1..])).max().unwrap_or(0)
        }
        for (count, hops) in [(1u32, 1), (8, 1), (9, 2), (1000, 4), (10_000, 5)] {
            let targets: Vec<_> = (0..count)
                .map(|n| {
                    let mut name = [0; 32];
                    name[..4].copy_from_slice(&n.to_be_bytes());
                    PeerId(name)
                })
                .collect();
            assert_eq!(depth(&targets), hops, "{count}");
        }
    }
}
