//! The members below: who has been told, who has answered, and what becomes of those who have not.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use super::Set;
use crate::limits::{WARM_ANSWER_MAX, WARM_CHILDREN_MAX, WARM_FANOUT, WARM_SILENCE_MAX};
use crate::peer::{PeerId, Roster};
use crate::swarm::warm::Desk;
use crate::swarm::warm::blobs::Standing;
use crate::swarm::warm::report::Report;
use crate::swarm::warm::tree::{Part, hand_on, parts};
use crate::time::Time;
use crate::wire::{Message, WarmFault, WarmOrder};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// It has been asked and has not answered yet.
    Asked,
    /// It has answered.
    Heard,
    /// It has been given up, and its part handed on.
    Skipped,
}

/// A member that this node has told, with the part it sees to.
pub(super) struct Child {
    /// The member itself, then those it passes the order on to.
    members: Vec<PeerId>,
    misses: u32,
    /// Orders about these members: the first, and the latest.
    since: u32,
    order: u32,
    contact: Contact,
    /// When a word from it is due, while one of its members is undecided.
    due: Time,
    bytes: u64,
}

impl Child {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Set {
    // ---- handlers ----

    /// Members that are to be told. Those that are known already keep their place.
    pub(super) fn add(&mut self, targets: &[PeerId]) {
        let mut new = Vec::new();
        for peer in targets.iter().filter(|peer| **peer != self.me) {
            if let Entry::Vacant(place) = self.targets.entry(*peer) {
                place.insert(Standing::Waiting);
                new.push(*peer);
            }
        }
        self.parts.extend(parts(&new, WARM_FANOUT, 0));
    }

    /// A new run: those below who have failed are tried again. Whoever answered passes the run on to its own part; the
    /// others are told anew.
    pub(super) fn renew_targets(&mut self, desk: &mut Desk<'_>) {
        for standing in self.targets.values_mut().filter(|s| matches!(s, Standing::Failed(_))) {
            *standing = Standing::Waiting;
        }
        self.missed.clear();
        self.asked_twice.clear();
        self.children.retain(|_, child| child.contact != Contact::Skipped);
        let mut told: BTreeSet<_> = self.parts.iter().flat_map(|part| &part.members).copied().collect();
        let mut again = Vec::new();
        for (peer, child) in &self.children {
            told.extend(&child.members);
            if child.members.iter().any(|member| self.targets[member] == Standing::Waiting) {
                again.push(*peer);
            }
        }
        for peer in again {
            let order = self.new_order();
            self.children.get_mut(&peer).expect("it was listed a moment ago").order = order;
            self.ask_child(desk, &peer);
        }
        let left = self.targets.iter().filter(|(p, s)| **s == Standing::Waiting && !told.contains(p));
        let left: Vec<_> = left.map(|(peer, _)| *peer).collect();
        self.parts.extend(parts(&left, WARM_FANOUT, 0));
    }

    /// A member tells what has become of its part. Being ready is for good and believed of any order; all else only of
    /// the latest.
    pub(in super::super) fn handle_report(
        &mut self,
        desk: &mut Desk<'_>,
        from: PeerId,
        order: u32,
        report: &Report,
        bytes: u64,
    ) {
        let told_the_end = self.told_the_end();
        let Some(child) = self.children.get_mut(&from) else { return };
        let Some(standings) = report.standings(child.members.len()) else { return };
        if !(child.since..=child.order).contains(&order) {
            return;
        }
        let stopped = self.stopped.is_some();
        if self.stopped == Some(WarmFault::Cancelled) && standings.contains(&Standing::Waiting) {
            desk.mail.push_back((from, Message::WarmCancel { set: self.id }));
        }
        let counts = order == child.order && !told_the_end;
        if counts || child.contact != Contact::Skipped {
            (child.contact, child.due, child.bytes) = (Contact::Heard, desk.now + WARM_SILENCE_MAX, bytes);
        }
        for (member, said) in child.members.iter().zip(standings) {
            let Some(standing) = self.targets.get_mut(member) else { continue };
            let before = *standing;
            match (before, said) {
                (Standing::Ready, _) => {}
                (_, Standing::Ready) => *standing = Standing::Ready,
                (_, Standing::Failed(_)) if counts => *standing = said,
                (Standing::Failed(_), Standing::Waiting) if counts && !stopped => *standing = said,
                _ => {}
            }
            if *standing != before {
                self.dirty = true;
                self.missed.remove(member);
            }
        }
    }

    pub(in super::super) fn handle_refused(&mut self, from: PeerId, order: u32, why: WarmFault) {
        if self.children.get(&from).is_some_and(|child| child.order == order) {
            self.skip(&from, why);
        }
    }

    pub(in super::super) fn handle_lost(&mut self, peer: &PeerId) {
        self.parents.retain(|parent| parent.peer != *peer);
        if self.is_due(peer) {
            self.skip(peer, WarmFault::Unreachable);
        }
    }

    /// Those who were given up and are members again get another chance, as long as nobody was told the end.
    pub(in super::super) fn handle_members(&mut self, roster: &Roster, before: &Roster) {
        if self.stopped.is_some() || self.told_the_end() {
            return;
        }
        let back = |peer: &&PeerId| roster.contains(peer) && !before.contains(peer);
        let back: Vec<_> = self.missed.iter().filter(back).copied().collect();
        for peer in back {
            self.missed.remove(&peer);
            self.targets.insert(peer, Standing::Waiting);
            self.parts.push_back(Part { members: vec![peer], misses: 0 });
        }
    }

    // ---- what follows ----

    pub(super) fn advance_children(&mut self, desk: &mut Desk<'_>) {
        let due: Vec<_> = self.children.iter().filter(|(_, c)| c.due <= desk.now).map(|(p, _)| *p).collect();
        for peer in due.into_iter().filter(|peer| self.is_due(peer)).collect::<Vec<_>>() {
            match self.children[&peer].contact {
                Contact::Asked => self.skip(&peer, WarmFault::Silent),
                // Its reports may have been lost, or it has restarted and forgotten: the order is a question.
                Contact::Heard | Contact::Skipped => self.ask_child(desk, &peer),
            }
        }
        let mut open = self.children.keys().filter(|peer| self.is_due(peer)).count();
        while open < WARM_CHILDREN_MAX
            && let Some(part) = self.parts.pop_front()
        {
            open += usize::from(self.launch(desk, part));
        }
    }

    /// When the next word from below is due.
    pub(super) fn word_due_at(&self) -> Option<Time> {
        self.children.iter().filter(|(peer, _)| self.is_due(peer)).map(|(_, child)| child.due).min()
    }

    /// Whether something is still to be heard from this child.
    fn is_due(&self, peer: &PeerId) -> bool {
        let undecided = |member: &PeerId| self.targets[member] == Standing::Waiting;
        let open = |child: &Child| child.contact != Contact::Skipped && child.members.iter().any(undecided);
        self.children.get(peer).is_some_and(open)
    }

    /// Tells the first of a part who is a member. Whether there was one.
    fn launch(&mut self, desk: &mut Desk<'_>, part: Part) -> bool {
        let mut members = Vec::with_capacity(part.members.len());
        for peer in part.members {
            if self.targets[&peer] != Standing::Waiting {
                continue;
            }
            let fault = self.stopped.or((!desk.roster.contains(&peer)).then_some(WarmFault::Unreachable));
            match fault.filter(|_| members.is_empty()) {
                Some(fault) => self.give_up(&peer, fault),
                None => members.push(peer),
            }
        }
        let Some(head) = members.first().copied() else { return false };
        let order = self.new_order();
        let contact = Contact::Asked;
        let child =
            Child { members, misses: part.misses, since: order, order, contact, due: desk.now, bytes: 0 };
        self.children.insert(head, child);
        self.ask_child(desk, &head);
        true
    }

    fn ask_child(&mut self, desk: &mut Desk<'_>, peer: &PeerId) {
        let run = self.runs.back().copied().unwrap_or_default();
        let deadline_ms = (self.deadline - desk.now).as_millis() as u64;
        let Some(child) = self.children.get_mut(peer) else { return };
        child.contact = Contact::Asked;
        child.due = desk.now + WARM_ANSWER_MAX;
        let order = WarmOrder {
            set: self.id,
            run,
            order: child.order,
            blobs: self.blobs.list(),
            registry: self.scope.registry.as_str().to_owned(),
            repository: self.scope.repository.as_str().to_owned(),
            targets: child.members[1..].to_vec(),
            deadline_ms,
            keep_until: self.keep_until,
        };
        desk.mail.push_back((*peer, Message::Warm(order)));
        if let Some(pace) = self.pace.filter(|_| self.pace_run == Some(run)) {
            desk.mail.push_back((*peer, Message::WarmPace { set: self.id, run, pace }));
        }
    }

    /// Members that have been told of the set and see to their part, as far as is known.
    pub(super) fn told_children(&self) -> Vec<PeerId> {
        self.children
            .iter()
            .filter(|(_, child)| child.contact != Contact::Skipped)
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// A child does not see to its part: the undecided rest of it goes to the next. Who was silent is asked once more, for
    /// itself alone: a message may have been lost.
    fn skip(&mut self, peer: &PeerId, why: WarmFault) {
        let Some(child) = self.children.get_mut(peer) else { return };
        child.contact = Contact::Skipped;
        child.bytes = 0;
        let misses = child.misses + 1;
        let undecided = |member: &&PeerId| self.targets[*member] == Standing::Waiting;
        let rest: Vec<_> = child.members[1..].iter().filter(undecided).copied().collect();
        // Before those who are asked a second time, who may take all places for nothing.
        hand_on(&rest, misses).into_iter().for_each(|part| self.parts.push_front(part));
        if self.targets[peer] != Standing::Waiting {
            return;
        }
        match why == WarmFault::Silent && self.asked_twice.insert(*peer) {
            true => self.parts.push_back(Part { members: vec![*peer], misses }),
            false => self.give_up(peer, why),
        }
    }

    fn give_up(&mut self, peer: &PeerId, why: WarmFault) {
        self.targets.insert(*peer, Standing::Failed(why));
        self.missed.insert(*peer);
        self.dirty = true;
    }

    fn new_order(&mut self) -> u32 {
        self.next_order = self.next_order.wrapping_add(1);
        self.next_order
    }
}
