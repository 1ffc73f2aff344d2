//! One warm set on one node: its own blobs, the members below it in the tree, and those it reports to.
//!
//! Invariant: a member below is undecided only while it is in a part that waits to be told, or in the part of somebody
//! from whom a word is due ([`Child`]). So a set always ends: by reports, by silence, or by its deadline.

mod children;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{Digest, WarmSetId};
use crate::io::{Output, WarmTally};
use crate::limits::{
    MEMBERS_MAX, PACE_LOOK, WARM_CALM_PAUSE, WARM_DEADLINE_MAX, WARM_FAILURES_MAX, WARM_GRACE,
    WARM_PARENTS_MAX, WARM_REMEMBERED, WARM_REPORT_PAUSE, WARM_RUNS_MAX,
};
use crate::name::Scope;
use crate::peer::PeerId;
use crate::swarm::Event;
use crate::time::Time;
use crate::wire::{Message, Pace, WarmFault, WarmOrder};

use super::blobs::{Blobs, Standing};
use super::report::Report;
use super::tree::Part;
use super::{Asked, Desk};
use children::Child;

/// The driver wants to hear of the set.
struct Asker {
    targets: Vec<PeerId>,
    told: Option<WarmTally>,
    told_at: Time,
    /// It has been told the end.
    over: bool,
}

/// A member that has sent an order.
struct Parent {
    peer: PeerId,
    order: u32,
    /// This node, then the targets.
    members: Vec<PeerId>,
}

/// See the module's head.
pub struct Set {
    me: PeerId,
    id: WarmSetId,
    scope: Scope,
    blobs: Blobs,
    /// Whether this node shall have the blobs itself.
    takes_part: bool,
    asker: Option<Asker>,
    parents: Vec<Parent>,
    /// Beginnings that are known, the current one last.
    runs: VecDeque<u64>,
    next_order: u32,
    /// The members below.
    targets: BTreeMap<PeerId, Standing>,
    children: BTreeMap<PeerId, Child>,
    /// Those that this node itself has given up: they are tried again when they come back.
    missed: BTreeSet<PeerId>,
    /// Those that were silent once in this run.
    asked_twice: BTreeSet<PeerId>,
    parts: VecDeque<Part>,
    deadline: Time,
    /// Seconds since 1970; 0 for none.
    keep_until: u64,
    /// How fast it may come; `None` if nobody has ever said.
    pace: Option<Pace>,
    /// The run that this was said for: relays pass nothing else on, so that each run has one pace.
    pace_run: Option<u64>,
    /// A run has begun of which nobody has said how fast it may be: as fast as it comes, from then on.
    free_at: Option<Time>,
    stopped: Option<WarmFault>,
    begin_again_at: Option<Time>,
    over_since: Option<Time>,
    reported_at: Time,
    /// There are news since the last report.
    dirty: bool,
    /// The last report said that all is decided.
    reported_end: bool,
    wake_at: Option<Time>,
}

impl Set {
    /// A set that nobody has asked for yet.
    pub(super) fn new(me: PeerId, id: WarmSetId, scope: &Scope, blobs: &[(Digest, u64)]) -> Self {
        Set {
            me,
            id,
            scope: scope.clone(),
            blobs: Blobs::new(blobs.iter().copied()),
            takes_part: false,
            asker: None,
            parents: Vec::new(),
            runs: VecDeque::new(),
            next_order: 0,
            targets: BTreeMap::new(),
            children: BTreeMap::new(),
            missed: BTreeSet::new(),
            asked_twice: BTreeSet::new(),
            parts: VecDeque::new(),
            deadline: Time::ZERO,
            keep_until: 0,
            pace: None,
            pace_run: None,
            free_at: None,
            stopped: None,
            begin_again_at: None,
            over_since: None,
            reported_at: Time::ZERO,
            dirty: false,
            reported_end: false,
            wake_at: None,
        }
    }

    // ---- getters ----

    /// Its name.
    pub fn id(&self) -> WarmSetId {
        self.id
    }

    /// How this node itself stands; ready if it is not asked for.
    pub fn own(&self) -> Standing {
        if self.takes_part { self.blobs.standing() } else { Standing::Ready }
    }

    /// The members that this node's own driver has asked for, and how each stands.
    pub fn asked(&self) -> impl Iterator<Item = (PeerId, Standing)> + '_ {
        let targets = self.asker.as_ref().map(|asker| &asker.targets[..]).unwrap_or_default();
        targets.iter().map(|peer| (*peer, self.standing(peer)))
    }

    /// Members that this node has spoken to.
    pub fn children_count(&self) -> usize {
        self.children.len()
    }

    pub(super) fn next_wakeup(&self) -> Option<Time> {
        self.wake_at
    }

    pub(super) fn over_since(&self) -> Option<Time> {
        self.over_since
    }

    pub(super) fn is_forgotten(&self, now: Time) -> bool {
        self.over_since.is_some_and(|since| now >= since + WARM_REMEMBERED)
    }

    pub(super) fn flies(&self, digest: &Digest) -> bool {
        self.blobs.flies(digest)
    }

    pub(super) fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// How fast one of its blobs may come; `None` if as fast as it comes.
    ///
    /// Question: several members fetch the blobs of a set upstream at the same time, and none knows what the others take; how do
    /// they keep to one rate? Answer: a blob may take as much of it as it has of the bytes that are still to be fetched. Whoever
    /// has a lease on it knows that without asking, and what it does not know yet only makes its share too small. Prevents:
    /// a rate that is exceeded while its keeper is away.
    pub(super) fn pace_of(
        &self,
        digest: &Digest,
        is_here: &dyn Fn(&Digest) -> bool,
    ) -> Option<(WarmSetId, Pace)> {
        let pace = self.pace.filter(|pace| *pace != Pace::FREE)?;
        let share = |rate: u64| (rate as f64 * self.blobs.share(digest, is_here)).max(1.0) as u64;
        let upstream = if pace.upstream == 0 { 0 } else { share(pace.upstream) };
        Some((self.id, Pace { upstream, ..pace }))
    }

    /// Whether the set is of these blobs, in whatever order, and comes from there.
    pub(super) fn is_of(&self, scope: &Scope, blobs: &[(Digest, u64)]) -> bool {
        self.scope == *scope && self.blobs.are(blobs)
    }

    /// Whether members can be added that are not known yet. One that stands twice counts twice.
    pub(super) fn has_room(&self, targets: &[PeerId]) -> bool {
        let is_new = |peer: &&PeerId| **peer != self.me && !self.targets.contains_key(*peer);
        self.targets.len() + targets.iter().filter(is_new).count() <= MEMBERS_MAX
    }

    /// Whether who asks now asks for other members than those before: that has ended. Meanwhile it asks for more.
    pub(super) fn begins_afresh(&self) -> bool {
        let under_way = self.asker.as_ref().is_some_and(|asker| !asker.over);
        !under_way && self.over_since.is_some() && self.parents.is_empty()
    }

    fn standing(&self, peer: &PeerId) -> Standing {
        match *peer == self.me {
            true => self.own(),
            false => self.targets.get(peer).copied().unwrap_or(Standing::Waiting),
        }
    }

    fn is_decided(&self) -> bool {
        self.own() != Standing::Waiting && self.targets.values().all(|s| *s != Standing::Waiting)
    }

    fn told_the_end(&self) -> bool {
        self.asker.as_ref().is_some_and(|asker| asker.over)
    }

    // ---- handlers ----

    pub(super) fn ask(&mut self, desk: &mut Desk<'_>, asked: &Asked) {
        if self.begins_afresh() {
            self.forget_targets();
        }
        let under_way = self.asker.take().filter(|asker| !asker.over);
        let mut targets = under_way.map(|asker| asker.targets).unwrap_or_default();
        let mut seen: BTreeSet<_> = targets.iter().copied().collect();
        targets.extend(asked.targets.iter().copied().filter(|peer| seen.insert(*peer)));
        self.takes_part |= targets.contains(&self.me);
        // No two askers, and no two lives of one, name a beginning alike.
        let run = self.me.prefix() ^ desk.now.since_origin().as_nanos() as u64;
        self.keep_longer(desk, asked.keep_until);
        if self.pace.is_some() || asked.pace != Pace::FREE {
            (self.pace, self.pace_run, self.free_at) = (Some(asked.pace), Some(run), None);
        }
        self.begin_run(desk, run, asked.deadline);
        self.add(&targets);
        self.asker = Some(Asker { targets, told: None, told_at: desk.now, over: false });
    }

    pub(super) fn handle_order(&mut self, desk: &mut Desk<'_>, from: PeerId, order: WarmOrder) {
        self.takes_part = true;
        let is_new = !self.runs.contains(&order.run);
        if is_new && self.pace.is_some() {
            // How fast this run may be is said next, if it is.
            self.free_at = Some(desk.now + PACE_LOOK);
        }
        if self.keep_longer(desk, order.keep_until) || is_new {
            self.begin_run(desk, order.run, Duration::from_millis(order.deadline_ms));
        }
        self.add(&order.targets);
        self.parents.retain(|parent| parent.peer != from);
        if self.parents.len() >= WARM_PARENTS_MAX {
            self.parents.remove(0);
        }
        let members = std::iter::once(self.me).chain(order.targets).collect();
        self.parents.push(Parent { peer: from, order: order.order, members });
        self.report_to(desk, self.parents.len() - 1);
        if self.parents.len() == 1 {
            (self.reported_at, self.dirty) = (desk.now, false);
        }
    }

    /// Somebody above says how fast the run may be that it began last. Those below are told what is news.
    pub(super) fn handle_pace(&mut self, desk: &mut Desk<'_>, from: PeerId, run: u64, pace: Pace) {
        let is_above = self.parents.iter().any(|parent| parent.peer == from);
        if !is_above || self.runs.back() != Some(&run) || self.pace_run == Some(run) {
            return;
        }
        (self.pace, self.pace_run, self.free_at) = (Some(pace), Some(run), None);
        for peer in self.told_children() {
            desk.mail.push_back((peer, Message::WarmPace { set: self.id, run, pace }));
        }
    }

    pub(super) fn handle_evicted(&mut self, digest: &Digest) {
        self.blobs.handle_evicted(digest);
    }

    pub(super) fn flight_over(
        &mut self,
        desk: &mut Desk<'_>,
        digest: &Digest,
        result: Result<(), WarmFault>,
    ) {
        let is_ours = self.blobs.handle_over(digest, result);
        self.dirty |= is_ours;
        if is_ours && result.is_ok() && self.keep_until > 0 {
            desk.outputs.push_back(Output::Keep { digest: *digest, until: self.keep_until });
        }
    }

    /// Whether the blobs shall stay longer than was known: those that are there are told of at once, and the members below,
    /// ready or not, have to hear of it, too. A run begins then.
    fn keep_longer(&mut self, desk: &mut Desk<'_>, until: u64) -> bool {
        if until <= self.keep_until {
            return false;
        }
        self.keep_until = until;
        self.ask_all_again();
        if self.takes_part {
            let keep = |digest| Output::Keep { digest, until };
            desk.outputs.extend(self.blobs.ready().map(keep));
        }
        true
    }

    pub(super) fn postponed(&mut self, now: Time, digest: &Digest) {
        if self.blobs.handle_postponed(digest) {
            let at = now + WARM_REPORT_PAUSE;
            self.begin_again_at = Some(at);
            self.wake_at = Some(self.wake_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Nobody wants it any more. The blobs that were on their way.
    pub(super) fn cancel(&mut self, desk: &mut Desk<'_>) -> Vec<Digest> {
        if self.stopped.is_some() || self.is_decided() {
            return Vec::new();
        }
        (self.stopped, self.begin_again_at) = (Some(WarmFault::Cancelled), None);
        for peer in self.children.keys().filter(|peer| desk.roster.contains(peer)) {
            desk.mail.push_back((*peer, Message::WarmCancel { set: self.id }));
        }
        self.fail_undecided(WarmFault::Cancelled);
        // Whoever passed the word on knows.
        self.reported_end = true;
        self.dirty = false;
        self.blobs.stop(WarmFault::Cancelled)
    }

    /// Nothing is known of the members below any more.
    fn ask_all_again(&mut self) {
        self.targets.values_mut().for_each(|standing| *standing = Standing::Waiting);
        self.children.clear();
        self.parts.clear();
    }

    /// Nobody is a target any more: whoever was one before has nothing to do with what is asked for next.
    fn forget_targets(&mut self) {
        // What was put off here is not begun any more, and nobody is to be woken for it.
        (self.takes_part, self.begin_again_at) = (false, None);
        self.targets.clear();
        self.missed.clear();
        self.children.clear();
        self.parts.clear();
    }

    /// What has failed is tried again, once for each run. After the end, those that were ready are asked as well: they may
    /// have lost since what they had.
    fn begin_run(&mut self, desk: &mut Desk<'_>, run: u64, deadline: Duration) {
        if self.runs.is_empty() {
            // Reports to an earlier life of this node must not be taken for reports to this one.
            self.next_order = (desk.now.since_origin().as_millis() as u32) << 8;
        }
        if self.runs.len() >= WARM_RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.retain(|known| *known != run);
        self.runs.push_back(run);
        self.deadline = desk.now + deadline.min(WARM_DEADLINE_MAX);
        self.stopped = None;
        if self.over_since.take().is_some() {
            self.ask_all_again();
        }
        self.blobs.renew();
        self.renew_targets(desk);
        self.dirty = true;
    }

    // ---- what follows ----

    /// Everything that is to be done now. The blobs that were on their way and are not wanted any more.
    pub(super) fn advance(
        &mut self,
        desk: &mut Desk<'_>,
        flying: &mut BTreeMap<Digest, u64>,
        draining: bool,
    ) -> Vec<Digest> {
        let now = desk.now;
        let mut landed = Vec::new();
        if draining {
            landed = self.blobs.stop(WarmFault::Draining);
            self.dirty |= !landed.is_empty();
        }
        if now >= self.deadline && self.stopped.is_none() {
            (self.stopped, self.begin_again_at) = (Some(WarmFault::Deadline), None);
            self.dirty = true;
            landed.append(&mut self.blobs.stop(WarmFault::Deadline));
        }
        if self.free_at.is_some_and(|at| at <= now) {
            (self.pace, self.free_at) = (Some(Pace::FREE), None);
        }
        if now >= self.deadline + WARM_GRACE {
            self.fail_undecided(WarmFault::Deadline);
        }
        self.advance_children(desk);
        self.begin_blobs(desk, flying);
        self.report(desk);
        self.tell(desk);
        let over = self.is_decided() && self.asker.as_ref().is_none_or(|asker| asker.over);
        self.over_since = over.then(|| self.over_since.unwrap_or(now));
        self.wake_at = self.wanted_wakeup(now);
        landed
    }

    fn begin_blobs(&mut self, desk: &mut Desk<'_>, flying: &mut BTreeMap<Digest, u64>) {
        if self.begin_again_at.is_some_and(|at| desk.now < at) || !self.takes_part {
            return;
        }
        self.begin_again_at = None;
        let (scope, events) = (&self.scope, &mut *desk.events);
        self.blobs.begin(flying, desk.is_here, |digest, size| {
            events.push_back(Event::Warm(digest, size, scope.clone()));
        });
    }

    fn fail_undecided(&mut self, why: WarmFault) {
        self.parts.clear();
        for standing in self.targets.values_mut().filter(|s| **s == Standing::Waiting) {
            *standing = Standing::Failed(why);
            self.dirty = true;
        }
    }

    // ---- reports ----

    fn report(&mut self, desk: &mut Desk<'_>) {
        let decided = self.is_decided();
        self.reported_end &= decided;
        let ends = decided && !self.reported_end;
        if ends || self.report_at(decided).is_some_and(|at| at <= desk.now) {
            (0..self.parents.len()).for_each(|at| self.report_to(desk, at));
            self.reported_at = desk.now;
            self.dirty = false;
            self.reported_end = decided;
        }
    }

    fn report_at(&self, decided: bool) -> Option<Time> {
        match (decided, self.dirty) {
            _ if self.parents.is_empty() => None,
            (_, true) => Some(self.reported_at + WARM_REPORT_PAUSE),
            (false, false) => Some(self.reported_at + WARM_CALM_PAUSE),
            (true, false) => None,
        }
    }

    fn report_to(&self, desk: &mut Desk<'_>, parent: usize) {
        let Parent { peer, order, members } = &self.parents[parent];
        let Report { ready, failed } = Report::new(members.iter().map(|member| self.standing(member)));
        let bytes = self.partial_bytes(desk);
        let message = Message::WarmProgress { set: self.id, order: *order, ready, failed, bytes };
        desk.mail.push_back((*peer, message));
    }

    /// Bytes that those have who are not ready: this node and the members below.
    fn partial_bytes(&self, desk: &Desk<'_>) -> u64 {
        let own = if self.own() == Standing::Ready { 0 } else { self.blobs.bytes(desk.received) };
        self.children.values().fold(own, |sum, child| sum.saturating_add(child.bytes()))
    }

    // ---- what the driver is told ----

    fn tell(&mut self, desk: &mut Desk<'_>) {
        let Some(asker) = self.asker.as_ref().filter(|asker| !asker.over) else { return };
        let over = asker.targets.iter().all(|peer| self.standing(peer) != Standing::Waiting);
        if !over && desk.now < asker.told_at + WARM_REPORT_PAUSE {
            return;
        }
        let tally = self.tally(&asker.targets, desk);
        let news = asker.told.as_ref() != Some(&tally);
        let set = self.id;
        match over {
            true => desk.outputs.push_back(Output::Warmed { set, tally: tally.clone() }),
            false if news => desk.outputs.push_back(Output::Warming { set, tally: tally.clone() }),
            false => {}
        }
        if let Some(asker) = &mut self.asker {
            (asker.over, asker.told, asker.told_at) = (over, Some(tally), desk.now);
        }
    }

    fn tally(&self, targets: &[PeerId], desk: &Desk<'_>) -> WarmTally {
        let mut tally = WarmTally { of: targets.len(), ..WarmTally::default() };
        for peer in targets {
            match self.standing(peer) {
                Standing::Waiting => {}
                Standing::Ready => tally.ready += 1,
                Standing::Failed(why) => {
                    tally.failed += 1;
                    tally.failures.push((*peer, why));
                }
            }
        }
        tally.failures.sort_unstable();
        tally.failures.truncate(WARM_FAILURES_MAX);
        let bytes = |members: usize| self.blobs.size().saturating_mul(members as u64);
        let partial = self.partial_bytes(desk).min(bytes(tally.of - tally.ready));
        tally.bytes = bytes(tally.ready).saturating_add(partial);
        tally.bytes_of = bytes(tally.of);
        tally
    }

    fn wanted_wakeup(&self, now: Time) -> Option<Time> {
        if let Some(since) = self.over_since {
            let news = self.report_at(true).filter(|_| self.dirty);
            return Some((since + WARM_REMEMBERED).min(news.unwrap_or(Time::from_origin(Duration::MAX))));
        }
        let deadline = if now < self.deadline { self.deadline } else { self.deadline + WARM_GRACE };
        let told = self.asker.as_ref().filter(|a| !a.over).map(|a| a.told_at + WARM_REPORT_PAUSE);
        let others =
            [self.report_at(self.is_decided()), told, self.begin_again_at, self.word_due_at(), self.free_at];
        others.into_iter().flatten().chain([deadline]).min()
    }
}
