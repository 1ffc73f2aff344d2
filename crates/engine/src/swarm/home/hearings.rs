//! Hearings: what becomes of a complaint that pieces come slowly or not at all.
//!
//! Question: a member near the root of a tree stands still, and within a moment all below it complain, each about its own feed; who is
//! to be replaced? Answer: a complaint waits until those who would complain with it have done so, and is dismissed if the accused
//! itself complains about its feed in the same class: it has nothing to send. Prevents: hundreds of members that lose their feeds and
//! get others that are no better, because of one.
//!
//! Invariant: for each member and class one complaint waits at most, and no more than [`DISMISSALS_MAX`] in a row are dismissed: a
//! member that always complains and never sends is replaced all the same.

use std::collections::BTreeMap;

use super::forest::Node;
use crate::limits::{COMPLAINT_PAUSE, DISMISSALS_MAX, HEARING_TIME};
use crate::time::Time;

struct Hearing {
    accused: Node,
    due: Time,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Hearings {
    waiting: BTreeMap<(Node, u8), Hearing>,
    /// When each member has complained last in a class; those of long ago are forgotten with the next hearing.
    complained: BTreeMap<(Node, u8), Time>,
    /// How many complaints of a member in a class were dismissed since one was upheld.
    dismissed: BTreeMap<(Node, u8), u8>,
}

impl Hearings {
    /// When [`hear`](Self::hear) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.waiting.values().map(|hearing| hearing.due).min()
    }

    /// A member says that it gets little or nothing in a class, whoever feeds it.
    pub fn note(&mut self, now: Time, by: (Node, u8)) {
        self.complained.insert(by, now);
    }

    /// A member complains about another one that feeds it in a class.
    pub fn file(&mut self, now: Time, (node, class): (Node, u8), accused: Node) {
        let due = now + HEARING_TIME;
        self.waiting.entry((node, class)).or_insert(Hearing { accused, due }).accused = accused;
    }

    /// The complaints that are due and upheld: the member, the class, and who is to be replaced.
    pub fn hear(&mut self, now: Time) -> Vec<(Node, u8, Node)> {
        if self.next_wakeup().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.complained.retain(|_, at| now < *at + COMPLAINT_PAUSE + 2 * HEARING_TIME);
        let due = self.waiting.iter().filter(|(_, hearing)| hearing.due <= now);
        let due: Vec<_> = due.map(|((node, class), hearing)| (*node, *class, hearing.accused)).collect();
        self.waiting.retain(|_, hearing| hearing.due > now);
        let is_upheld = |(node, class, accused): &(Node, u8, Node)| {
            let dismissed = self.dismissed.entry((*node, *class)).or_default();
            let is_dismissed =
                self.complained.contains_key(&(*accused, *class)) && *dismissed < DISMISSALS_MAX;
            *dismissed = if is_dismissed { *dismissed + 1 } else { 0 };
            !is_dismissed
        };
        let upheld: Vec<_> = due.into_iter().filter(is_upheld).collect();
        // What they complained about is over.
        for (node, class, _) in &upheld {
            self.complained.remove(&(*node, *class));
        }
        upheld
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_first_of_a_chain_is_replaced() {
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let mut hearings = Hearings::default();
        // 4 is fed by 3, 3 by 2, 2 by 1; in another class 3 is well.
        let file = |hearings: &mut Hearings, now, by, accused| {
            hearings.note(now, by);
            hearings.file(now, by, accused);
        };
        file(&mut hearings, at(0), (4, 1), 3);
        file(&mut hearings, at(0), (4, 0), 3);
        file(&mut hearings, at(30), (3, 1), 2);
        file(&mut hearings, at(60), (2, 1), 1);
        assert_eq!(hearings.next_wakeup(), Some(at(0) + HEARING_TIME));
        assert_eq!(hearings.hear(at(0)), [], "those who complain with it are waited for");
        assert_eq!(hearings.hear(at(60) + HEARING_TIME), [(2, 1, 1), (4, 0, 3)]);
        assert_eq!(hearings.next_wakeup(), None);
        // 2 has another feed since, and does not complain about that one.
        file(&mut hearings, at(60) + COMPLAINT_PAUSE, (3, 1), 2);
        assert_eq!(hearings.hear(at(60) + COMPLAINT_PAUSE + HEARING_TIME), [(3, 1, 2)]);
        // The next time 2 is well, and it is 3 who is slow.
        let later = at(60) + COMPLAINT_PAUSE + 3 * HEARING_TIME;
        file(&mut hearings, later, (4, 1), 3);
        assert_eq!(hearings.hear(later + HEARING_TIME), [(4, 1, 3)]);
    }

    #[test]
    fn one_that_always_complains_is_replaced_all_the_same() {
        let mut hearings = Hearings::default();
        let upheld: Vec<_> = (1..=8)
            .map(|round| {
                let now = Time::ZERO + COMPLAINT_PAUSE * round;
                hearings.note(now, (1, 0));
                hearings.file(now, (2, 0), 1);
                hearings.hear(now + HEARING_TIME).len()
            })
            .collect();
        assert_eq!(upheld, [0, 0, 0, 1, 0, 0, 0, 1]);
    }
}
