//! Warm sets: blobs that many members shall have before anybody asks for them.
//!
//! Question: how do thousands of members learn what to warm, and how does the asker learn that N of M are ready, when
//! members are slow, dead, or the asker itself dies?
//!
//! Answer: the order travels down a tree over the targets ([`tree`]) and reports travel up it, at a bounded rate. Each
//! member is asked by somebody who waits for its answer; one that stays silent is passed over, and its part of the
//! targets goes to the next. A report names what has become of *each* member below (a bit, or a reason), so nothing has
//! to be added up: a report that is lost, comes late, comes twice or comes by two ways changes nothing. That is what
//! lets two nodes ask for one set, lets another take over from an asker that died, and lets a member that was given up
//! turn out to be alive. The order does its work without the asker; only the answer to it needs one. Without the tree
//! the asker would hear a thousand reports in a second; without the waiting a dead member would take its whole branch
//! with it.
//!
//! Bytes move as they always do: a blob of a set begins a flight, a few at a time, and the swarm sees to the rest.
//!
//! Invariant: a run of a set has one [`Output::Warmed`], after which only a new [`Input::Warm`](crate::Input::Warm)
//! makes the asker speak of it again.

pub mod blobs;
pub mod report;
pub mod set;
pub mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{Digest, WarmSetId};
use crate::io::{Output, WarmTally};
use crate::limits::{MEMBERS_MAX, WARM_BLOBS_MAX, WARM_FAILURES_MAX, WARM_SETS_MAX};
use crate::name::Scope;
use crate::peer::{PeerId, Roster};
use crate::swarm::Event;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{Message, Pace, WarmFault, WarmOrder};

use report::Report;
use set::Set;

/// What is asked for, see [`Input::Warm`](crate::Input::Warm).
#[derive(Clone, Debug)]
pub struct Asked {
    /// The blobs and their sizes.
    pub blobs: Vec<(Digest, u64)>,
    /// Where they may be fetched.
    pub scope: Scope,
    /// The members.
    pub targets: Vec<PeerId>,
    /// Time from now.
    pub deadline: Duration,
    /// See [`Input::Warm`](crate::Input::Warm).
    pub keep_until: u64,
    /// How fast.
    pub pace: Pace,
}

impl Asked {
    /// Nothing of it is done.
    pub fn refused(&self, why: WarmFault) -> WarmTally {
        let targets: BTreeSet<_> = self.targets.iter().copied().collect();
        let size = self.blobs.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        WarmTally {
            of: targets.len(),
            failed: targets.len(),
            bytes_of: size.saturating_mul(targets.len() as u64),
            failures: targets.into_iter().take(WARM_FAILURES_MAX).map(|peer| (peer, why)).collect(),
            ..WarmTally::default()
        }
    }
}

/// What the swarm lends while a set moves on.
pub struct Desk<'a> {
    /// The moment.
    pub now: Time,
    /// The members.
    pub roster: &'a Roster,
    /// Bytes that have been received of a blob of some size.
    pub received: &'a dyn Fn(&Digest, u64) -> u64,
    /// Whether all of a blob has left upstream.
    pub is_here: &'a dyn Fn(&Digest) -> bool,
    /// To members.
    pub mail: &'a mut Mail,
    /// To flights.
    pub events: &'a mut VecDeque<Event>,
    /// To the driver.
    pub outputs: &'a mut VecDeque<Output>,
}

/// The sets that this node works on, or has worked on lately.
pub struct Warming {
    me: PeerId,
    sets: BTreeMap<WarmSetId, Set>,
    /// Blobs whose flights were begun for sets, and their sizes.
    flying: BTreeMap<Digest, u64>,
    draining: bool,
}

impl Warming {
    /// No sets yet.
    pub fn new(me: PeerId) -> Self {
        Warming { me, sets: BTreeMap::new(), flying: BTreeMap::new(), draining: false }
    }

    // ---- getters ----

    /// Sets that are known, those that are over included.
    pub fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// A set.
    pub fn set(&self, set: WarmSetId) -> Option<&Set> {
        self.sets.get(&set)
    }

    /// Blobs whose flights were begun for sets, and their sizes.
    pub fn flying(&self) -> &BTreeMap<Digest, u64> {
        &self.flying
    }

    /// Whether a set that is known has, or had, a pace to keep to.
    pub fn is_paced(&self) -> bool {
        self.sets.values().any(Set::is_paced)
    }

    /// How fast a blob that flies for sets may come: as the fastest of them has it, without a bound if one has none.
    /// `is_here` says that all of a blob has left upstream.
    pub fn pace_of(&self, digest: &Digest, is_here: &dyn Fn(&Digest) -> bool) -> Option<(WarmSetId, Pace)> {
        let mut paces =
            self.sets.values().filter(|set| set.flies(digest)).map(|set| set.pace_of(digest, is_here));
        let first = paces.next()??;
        paces.try_fold(first, |(id, pace), next| {
            next.map(|(other, with)| match () {
                () if with.per_node == 0 || (pace.per_node > 0 && with.per_node > pace.per_node) => {
                    (other, faster(pace, with))
                }
                () => (id, faster(pace, with)),
            })
        })
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.sets.values().filter_map(Set::next_wakeup).min()
    }

    // ---- what the driver says ----

    /// See [`Input::Warm`](crate::Input::Warm).
    pub fn ask(&mut self, desk: &mut Desk<'_>, id: WarmSetId, asked: Asked) {
        let has_room = |set: &Set| set.begins_afresh() || set.has_room(&asked.targets);
        let fault = self.fault_of(id, (&asked.scope, &asked.blobs, &asked.targets), has_room);
        if let Some(fault) = fault {
            return desk.outputs.push_back(Output::Warmed { set: id, tally: asked.refused(fault) });
        }
        let set = self.sets.entry(id).or_insert_with(|| Set::new(self.me, id, &asked.scope, &asked.blobs));
        set.ask(desk, &asked);
        self.advance_set(desk, id);
    }

    /// See [`Input::WarmCancel`](crate::Input::WarmCancel).
    pub fn cancel(&mut self, desk: &mut Desk<'_>, id: WarmSetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let stopped = set.cancel(desk);
        self.land(desk, stopped);
        self.advance_all(desk);
    }

    /// A flight has ended, for whomever it was.
    pub fn flight_over(&mut self, desk: &mut Desk<'_>, digest: Digest, result: Result<(), WarmFault>) {
        if self.flying.remove(&digest).is_some() {
            for set in self.sets.values_mut() {
                set.flight_over(desk, &digest, result);
            }
            self.advance_all(desk);
        }
    }

    /// All of a blob has left upstream: the next one may begin.
    pub fn handle_here(&mut self, desk: &mut Desk<'_>, digest: &Digest) {
        if self.flying.contains_key(digest) {
            self.advance_all(desk);
        }
    }

    /// A blob has left the store.
    pub fn evicted(&mut self, digest: &Digest) {
        self.sets.values_mut().for_each(|set| set.handle_evicted(digest));
    }

    /// There is no room for the flight of a blob.
    pub fn postponed(&mut self, now: Time, digest: &Digest) {
        self.flying.remove(digest);
        for set in self.sets.values_mut() {
            set.postponed(now, digest);
        }
    }

    /// Nothing is taken on any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    // ---- what members say ----

    /// One of the messages about sets.
    pub fn hear(&mut self, desk: &mut Desk<'_>, from: PeerId, message: Message) {
        match message {
            Message::Warm(order) => self.handle_order(desk, from, order),
            Message::WarmProgress { set, order, ready, failed, bytes } => {
                if let Some(known) = self.sets.get_mut(&set) {
                    known.handle_report(desk, from, order, &Report { ready, failed }, bytes);
                    self.advance_set(desk, set);
                }
            }
            Message::WarmRefuse { set, order, why } => {
                if let Some(known) = self.sets.get_mut(&set) {
                    known.handle_refused(from, order, why);
                    self.advance_set(desk, set);
                }
            }
            Message::WarmCancel { set } => self.cancel(desk, set),
            Message::WarmPace { set, run, pace } => {
                if let Some(known) = self.sets.get_mut(&set) {
                    known.handle_pace(desk, from, run, pace);
                }
            }
            _ => {}
        }
    }

    fn handle_order(&mut self, desk: &mut Desk<'_>, from: PeerId, order: WarmOrder) {
        let (set, number) = (order.set, order.order);
        if let Err(why) = self.take_on(desk, from, order) {
            desk.mail.push_back((from, Message::WarmRefuse { set, order: number, why }));
        }
    }

    /// Works on what a member orders, or says why not.
    fn take_on(&mut self, desk: &mut Desk<'_>, from: PeerId, order: WarmOrder) -> Result<(), WarmFault> {
        let id = order.set;
        let (Ok(registry), Ok(repository)) = (order.registry.parse(), order.repository.parse()) else {
            return Err(WarmFault::Malformed);
        };
        let scope = Scope { registry, repository };
        let has_room = |set: &Set| set.has_room(&order.targets);
        if let Some(fault) = self.fault_of(id, (&scope, &order.blobs, &order.targets), has_room) {
            return Err(fault);
        }
        let new = || Set::new(self.me, id, &scope, &order.blobs);
        self.sets.entry(id).or_insert_with(new).handle_order(desk, from, order);
        self.advance_set(desk, id);
        Ok(())
    }

    /// Why this node does not work on a set, if it does not. Its name stands for its blobs and where they come from: others
    /// under a name that is known would be reported as if they had come.
    fn fault_of(
        &mut self,
        id: WarmSetId,
        (scope, blobs, targets): (&Scope, &[(Digest, u64)], &[PeerId]),
        has_room: impl Fn(&Set) -> bool,
    ) -> Option<WarmFault> {
        let known = self.sets.get(&id);
        let is_another = known.is_some_and(|set| !set.is_of(scope, blobs));
        let is_full = known.is_some_and(|set| !has_room(set));
        let too_large = blobs.len() > WARM_BLOBS_MAX || targets.len() > MEMBERS_MAX;
        match () {
            () if self.draining => Some(WarmFault::Draining),
            () if is_another => Some(WarmFault::Malformed),
            () if too_large || is_full || !self.make_room(id) => Some(WarmFault::Busy),
            () => None,
        }
    }

    /// A member cannot be reached, or is none any more.
    pub fn handle_lost(&mut self, desk: &mut Desk<'_>, peer: &PeerId) {
        self.sets.values_mut().for_each(|set| set.handle_lost(peer));
        self.advance_all(desk);
    }

    /// There are other members than before.
    pub fn handle_members(&mut self, desk: &mut Desk<'_>, before: &Roster) {
        self.sets.values_mut().for_each(|set| set.handle_members(desk.roster, before));
        self.advance_all(desk);
    }

    // ---- what follows ----

    /// Time has passed.
    pub fn advance(&mut self, desk: &mut Desk<'_>) {
        self.sets.retain(|_, set| !set.is_forgotten(desk.now));
        let due = |set: &&Set| set.next_wakeup().is_some_and(|at| at <= desk.now);
        let due: Vec<_> = self.sets.values().filter(due).map(Set::id).collect();
        due.into_iter().for_each(|id| self.advance_set(desk, id));
    }

    fn advance_all(&mut self, desk: &mut Desk<'_>) {
        let ids: Vec<_> = self.sets.keys().copied().collect();
        ids.into_iter().for_each(|id| self.advance_set(desk, id));
    }

    fn advance_set(&mut self, desk: &mut Desk<'_>, id: WarmSetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        let stopped = set.advance(desk, &mut self.flying, self.draining);
        self.land(desk, stopped);
    }

    /// A set does not wait for these any more; perhaps another does.
    fn land(&mut self, desk: &mut Desk<'_>, stopped: Vec<Digest>) {
        for digest in stopped {
            if !self.sets.values().any(|set| set.flies(&digest)) && self.flying.remove(&digest).is_some() {
                desk.events.push_back(Event::Unwarm(digest));
            }
        }
    }

    /// Whether the set is known or there is room for it; what is over goes first.
    fn make_room(&mut self, id: WarmSetId) -> bool {
        if self.sets.contains_key(&id) || self.sets.len() < WARM_SETS_MAX {
            return true;
        }
        let over = self.sets.values().filter_map(|set| Some((set.over_since()?, set.id()))).min();
        over.is_some_and(|(_, oldest)| self.sets.remove(&oldest).is_some())
    }
}

/// The faster of two, bound by bound; 0 is no bound.
fn faster(one: Pace, other: Pace) -> Pace {
    let of = |a: u64, b: u64| if a == 0 || b == 0 { 0 } else { a.max(b) };
    Pace { upstream: of(one.upstream, other.upstream), per_node: of(one.per_node, other.per_node) }
}

#[cfg(test)]
mod tests;
