//! What one node makes of what it is asked for: what it takes on, and when it wants to be woken.

use std::collections::VecDeque;

use super::*;
use crate::limits::MEMBERS_MAX;
use crate::swarm::Event;
use crate::swarm::home::Mail;
use crate::swarm::warm::{Asked, Desk, Warming};
use crate::wire::WarmOrder;

const ME: usize = 0;
const PARENT: usize = 1;

/// What the swarm lends.
#[derive(Default)]
struct Lent {
    roster: Roster,
    mail: Mail,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
}

fn nothing(_: &Digest, _: u64) -> u64 {
    0
}

fn never(_: &Digest) -> bool {
    false
}

impl Lent {
    fn desk(&mut self, now: Time) -> Desk<'_> {
        Desk {
            now,
            roster: &self.roster,
            received: &nothing,
            is_here: &never,
            mail: &mut self.mail,
            events: &mut self.events,
            outputs: &mut self.outputs,
        }
    }

    /// What an order was refused for, if it was.
    fn refused(&mut self) -> Option<WarmFault> {
        let refused = self.mail.drain(..).find_map(|(to, message)| match message {
            Message::WarmRefuse { why, .. } if to == peer(PARENT) => Some(why),
            _ => None,
        });
        self.outputs.clear();
        refused
    }

    /// What the driver is told that failed, and why.
    fn failures(&mut self) -> Vec<(PeerId, WarmFault)> {
        let ends = self.outputs.drain(..).filter_map(|output| match output {
            Output::Warmed { tally, .. } => Some(tally.failures),
            _ => None,
        });
        ends.flatten().collect()
    }
}

fn blob(number: u8) -> (Digest, u64) {
    (Digest::new(Algorithm::Sha256, &[number; 32]), 1000)
}

fn asked(targets: Vec<PeerId>) -> Asked {
    let (blobs, deadline) = (vec![blob(1), blob(2)], seconds(60.0));
    Asked { blobs, scope: scope(), targets, deadline, keep_until: 0, pace: Pace::FREE }
}

fn order(order: u32, targets: Vec<PeerId>) -> WarmOrder {
    let Asked { blobs, scope, .. } = asked(Vec::new());
    let (registry, repository) = (scope.registry.to_string(), scope.repository.to_string());
    let (run, deadline_ms, keep_until) = (1, 60_000, 0);
    WarmOrder { set: SET, run, order, blobs, registry, repository, targets, deadline_ms, keep_until }
}

#[test]
fn a_set_that_was_put_off_and_has_ended_is_not_woken_in_the_past() {
    let start = Time::from_origin(seconds(1000.0));
    for (is_cancelled, deadline) in [(true, 60.0), (false, 0.5)] {
        let (mut warming, mut lent) = (Warming::new(peer(ME)), Lent::default());
        let first = Asked { deadline: seconds(deadline), ..asked(vec![peer(ME)]) };
        warming.ask(&mut lent.desk(start), SET, first);
        warming.postponed(start, &blob(1).0);
        let again = start + seconds(0.5);
        match is_cancelled {
            true => warming.cancel(&mut lent.desk(again), SET),
            false => warming.advance(&mut lent.desk(again)),
        }
        // Who asks now asks for somebody else.
        lent.roster = Roster::clone(&roster(0..2));
        warming.ask(&mut lent.desk(again), SET, asked(vec![peer(1)]));
        let late = start + WARM_REPORT_PAUSE * 2;
        warming.advance(&mut lent.desk(late));
        let wakeup = warming.next_wakeup();
        assert!(wakeup.is_some_and(|at| at > late), "cancelled: {is_cancelled}: {wakeup:?} at {late:?}");
    }
}

#[test]
fn members_of_all_orders_of_a_set_are_bounded_together() {
    let now = Time::from_origin(seconds(1000.0));
    let range = |from: usize, to: usize| (from..to).map(peer).collect::<Vec<_>>();
    let (mut warming, mut lent) = (Warming::new(peer(ME)), Lent::default());
    // Of the targets, the first is this node.
    let table = [
        (range(0, MEMBERS_MAX), None, "as many as there can be"),
        (range(0, 10), None, "known ones"),
        (range(MEMBERS_MAX, MEMBERS_MAX + 1), None, "one more, in the place of this node"),
        (range(MEMBERS_MAX + 1, MEMBERS_MAX + 2), Some(WarmFault::Busy), "one too many"),
        (range(1, MEMBERS_MAX + 1), None, "those that are known, again"),
    ];
    for (number, (targets, refused, why)) in (0..).zip(table) {
        let order = Message::Warm(order(number, targets));
        warming.hear(&mut lent.desk(now), peer(PARENT), order);
        assert_eq!(lent.refused(), refused, "{why}");
    }
    let more = peer(MEMBERS_MAX + 1);
    warming.ask(&mut lent.desk(now), SET, asked(vec![more]));
    assert_eq!(lent.failures(), [(more, WarmFault::Busy)]);
}

#[test]
fn other_blobs_under_a_known_name_are_refused() {
    let now = Time::from_origin(seconds(1000.0));
    let (mut warming, mut lent) = (Warming::new(peer(ME)), Lent::default());
    let elsewhere = Scope { repository: "team/other".parse().unwrap(), ..scope() };
    let malformed = Some(WarmFault::Malformed);
    let table = [
        (vec![blob(1), blob(2)], scope(), None, "the first says which"),
        (vec![blob(2), blob(1), blob(2)], scope(), None, "the same, otherwise"),
        (vec![blob(1)], scope(), malformed, "fewer"),
        (vec![blob(1), blob(2), blob(3)], scope(), malformed, "more"),
        (vec![blob(1), blob(2)], elsewhere, malformed, "of another repository"),
    ];
    for (number, (blobs, scope, refused, why)) in (0..).zip(table) {
        let (registry, repository) = (scope.registry.to_string(), scope.repository.to_string());
        let told = WarmOrder { blobs: blobs.clone(), registry, repository, ..order(number, Vec::new()) };
        warming.hear(&mut lent.desk(now), peer(PARENT), Message::Warm(told));
        assert_eq!(lent.refused(), refused, "{why}");
        warming.ask(&mut lent.desk(now), SET, Asked { blobs, scope, ..asked(vec![peer(ME)]) });
        let failures: Vec<_> = refused.into_iter().map(|fault| (peer(ME), fault)).collect();
        assert_eq!(lent.failures(), failures, "{why}");
    }
}
