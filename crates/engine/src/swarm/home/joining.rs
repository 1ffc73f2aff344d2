//! What a member says that joins, and whether a home takes it in.
//!
//! Question: what may a member make its home walk over and keep? Answer: the pieces of a blob of the largest size about once, and as many
//! runs, leases and feeds as an honest member has. Prevents: one message that costs a home its memory, or all others seconds.

use crate::limits::{FEEDS_PER_CLASS_MAX, LEASES_GRANTED_MAX, RUNS_OF_HAVE_MAX};
use crate::swarm::classes::CLASSES_MAX;
use crate::wire::{ClassFeeds, LeaseId, Run, are_fit};

/// A member says that it receives a blob.
pub struct Joining {
    /// Size of the blob, bytes.
    pub size: u64,
    /// Pieces that it has.
    pub have: Vec<Run>,
    /// Leases that it works on.
    pub leases: Vec<(LeaseId, Run)>,
    /// Whether it was in a book before.
    pub again: bool,
    /// Whether homes before this one did not answer: they may have kept a book.
    pub insists: bool,
    /// Who feeds it already.
    pub feeds: Vec<ClassFeeds>,
}

impl Joining {
    /// Whether a home can take it in.
    pub(super) fn is_fit(&self) -> bool {
        are_fit(&self.have, self.size, RUNS_OF_HAVE_MAX)
            && self.leases.len() <= LEASES_GRANTED_MAX as usize
            && self.feeds.len() <= CLASSES_MAX
            && self.feeds.iter().all(|class| class.feeds.len() <= FEEDS_PER_CLASS_MAX)
    }
}

#[cfg(test)]
impl Joining {
    /// Of a member that has nothing and has asked nobody before.
    pub(super) fn fresh() -> Self {
        Joining { size: 1 << 20, have: vec![], leases: vec![], again: false, insists: false, feeds: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::BLOB_BYTES_MAX;
    use crate::wire::Feed;

    #[test]
    fn what_no_honest_member_says_is_not_taken_in() {
        let run = |first, end| Run { first, end };
        let lease = (LeaseId { epoch: 1, number: 1 }, run(0, 1));
        let feed = Feed { peer: crate::peer::PeerId([1; 32]), run: run(0, 1) };
        let class = |feeds| ClassFeeds { class: 0, feeds: vec![feed; feeds] };
        let (fresh, size) = (Joining::fresh, BLOB_BYTES_MAX);
        let table = [
            (fresh(), true, "nothing yet"),
            (Joining { size, ..fresh() }, true, "the largest blob"),
            (Joining { size: size + 1, ..fresh() }, false, "a larger one"),
            (Joining { have: vec![run(0, 4)], ..fresh() }, true, "all of it"),
            (Joining { have: vec![run(0, 5)], ..fresh() }, false, "more than there is"),
            (Joining { have: vec![run(0, 4); 3], ..fresh() }, false, "all of it again and again"),
            (
                Joining { have: vec![run(1, 1); RUNS_OF_HAVE_MAX + 1], ..fresh() },
                false,
                "nothing, very often",
            ),
            (Joining { leases: vec![lease; 1 + LEASES_GRANTED_MAX as usize], ..fresh() }, false, "leases"),
            (Joining { feeds: vec![class(FEEDS_PER_CLASS_MAX)], ..fresh() }, true, "feeds"),
            (Joining { feeds: vec![class(FEEDS_PER_CLASS_MAX + 1)], ..fresh() }, false, "too many feeds"),
            (Joining { feeds: vec![class(1); CLASSES_MAX + 1], ..fresh() }, false, "classes"),
        ];
        for (joining, expected, why) in table {
            assert_eq!(joining.is_fit(), expected, "{why}");
        }
    }
}
