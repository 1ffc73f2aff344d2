//! Leases: who fetches which pieces upstream.
//!
//! Question: how many members fetch a blob upstream at a time, and how is it cut between them? Answer: one, in order,
//! for as long as one is as fast as several: pieces then arrive in the order in which they are hashed and read, and the
//! registry sees one request. The home measures; if what is left takes long, it tries twice as many, and goes on
//! doubling while that is faster (a registry that limits each connection). With several, each gets a run of the next
//! pieces that takes about half of the time that is left, so they finish together and the order stays rough. A lease
//! without progress is taken away and given to somebody else. Prevents: a copy for each member, one slow member between
//! the origin and everybody, and a hundred requests for one layer.

mod adopters;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits::{
    GAP_PART_MIN, LEASE_DENIALS_MAX, LEASE_FAILURES_MAX, LEASE_FIRST_BYTE_MAX, LEASE_LOOK_PAUSE,
    LEASE_MEASURE_PIECES_MIN, LEASE_MEASURE_TIME, LEASE_PIECE_TIME, LEASE_PIECE_TIME_MAX, LEASE_REGATHER,
    LEASE_RUN_TIME_MIN, LEASE_SHARE_TIME_MIN, LEASE_STALL, LEASE_SURPLUS_PIECES, LEASE_WIDEN_GAIN_MIN,
    LEASE_WIDEN_TIME_MIN, LEASE_WIDTH_PIECES_MIN, LEASE_WIDTH_TIME_MAX, LEASE_WIDTH_TIME_MIN,
    LEASES_ADOPTED_MAX, LEASES_GRANTED_MAX, LEASES_PER_BLOB_MAX, RESUME_PAUSE_FIRST, RESUME_PAUSE_MAX,
};
use crate::peer::PeerId;
use crate::swarm::pieces::PieceSet;
use crate::time::Time;
use crate::wire::{LeaseEnd, LeaseId, Run};

use adopters::Adopters;

/// A lease that is worked on.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    /// Who fetches.
    pub holder: PeerId,
    /// What.
    pub run: Run,
    /// When a piece came last.
    came: Time,
    /// The same, or when its holder said last that it is slow on purpose.
    seen: Time,
    /// When bytes came last, as far as was told.
    alive: Time,
    /// When bytes came first that have not made a piece whole, as far as was told.
    breathed: Option<Time>,
    /// Whether a piece has arrived.
    begun: bool,
}

impl Active {
    fn new(now: Time, holder: PeerId, run: Run, begun: bool) -> Self {
        Active { holder, run, came: now, seen: now, alive: now, breathed: None, begun }
    }

    /// Whether anything has arrived.
    pub fn has_begun(&self) -> bool {
        self.begun || self.breathed.is_some()
    }
}

/// What the home has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A member gets a lease.
    Grant {
        /// To whom.
        to: PeerId,
        /// Its name.
        lease: LeaseId,
        /// The pieces.
        run: Run,
    },
    /// A lease ends earlier.
    Trim {
        /// Whose.
        holder: PeerId,
        /// Which.
        lease: LeaseId,
        /// Its new end.
        end: u32,
    },
    /// Nobody can fetch it.
    GiveUp(LeaseEnd),
}

/// Rate at one width.
#[derive(Clone, Copy, Debug)]
struct Measure {
    since: Time,
    /// Reported when it began.
    from: u32,
    /// When it is looked at next.
    look: Time,
}

/// The leases of one blob.
pub struct Leases {
    epoch: u64,
    next: u32,
    active: BTreeMap<LeaseId, Active>,
    /// Pieces that some member has.
    there: PieceSet,
    /// Leases at a time.
    width: usize,
    /// Whether more would not be faster.
    settled: bool,
    /// When their number was changed last.
    changed: Time,
    measure: Option<Measure>,
    /// Rate before the last widening, pieces per second.
    rate_before: f64,
    rate: f64,
    /// Members that could not fetch it.
    failed: BTreeSet<PeerId>,
    adopters: Adopters,
    /// Lease holders that are busy.
    busy: BTreeSet<PeerId>,
    failures: u32,
    /// Leases without progress since a piece came.
    stalls: u32,
    denials: u32,
    retry_at: Option<Time>,
    /// Time that holders get beside the usual, because this node is late itself, or others are.
    excuse: Duration,
    /// When it was last advanced.
    looked: Time,
    over: bool,
}

impl Leases {
    /// No leases yet, on a blob of `pieces` pieces. `epoch` names this life of the book.
    pub fn new(epoch: u64, pieces: u32) -> Self {
        Leases {
            epoch,
            next: 0,
            active: BTreeMap::new(),
            there: PieceSet::new(pieces),
            width: 1,
            settled: false,
            changed: Time::ZERO,
            measure: None,
            rate_before: 0.0,
            rate: 0.0,
            failed: BTreeSet::new(),
            adopters: Adopters::default(),
            busy: BTreeSet::new(),
            failures: 0,
            stalls: 0,
            denials: 0,
            retry_at: None,
            excuse: Duration::ZERO,
            looked: Time::ZERO,
            over: false,
        }
    }

    /// The leases that are worked on.
    pub fn active(&self) -> impl Iterator<Item = (&LeaseId, &Active)> {
        self.active.iter()
    }

    /// Whether some member has, or fetches, every piece.
    pub fn is_covered(&self) -> bool {
        self.gap_from(0).is_none()
    }

    /// Whether some member has each piece.
    pub fn is_there(&self) -> bool {
        self.there.is_full()
    }

    /// Whether a member works on a lease.
    pub fn holds(&self, peer: &PeerId) -> bool {
        self.active.values().any(|a| a.holder == *peer)
    }

    /// Whether this member alone fetches all that nobody has yet.
    pub fn is_covered_by(&self, peer: &PeerId) -> bool {
        self.active.values().filter(|a| a.holder == *peer).any(|a| {
            self.there.first_missing(0).is_none_or(|first| a.run.first <= first)
                && a.run.end == self.there.total()
        })
    }

    /// The first piece of a run that nobody is known to have; its end if there is none.
    pub fn first_missing(&self, run: Run) -> u32 {
        self.there.first_missing(run.first).map_or(run.end, |piece| piece.min(run.end))
    }

    /// Number of leases granted so far.
    pub fn granted(&self) -> u32 {
        self.next
    }

    /// When [`take_stalled`](Self::take_stalled) and [`advance`](Self::advance) are wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let stall = self.active.values().map(|a| self.patient_until(a)).min();
        let measure = self.measure.filter(|_| !self.settled && !self.active.is_empty());
        let measure = measure.map(|m| m.look);
        // What could not be decided at one look is looked at again, and not at the same moment.
        let looks = [measure, self.retry_at].into_iter().flatten().min();
        let look = looks.map(|next| next.max(self.looked + LEASE_LOOK_PAUSE));
        [stall, look].into_iter().flatten().min()
    }

    // ---- what happens ----

    /// A member has these pieces from elsewhere.
    pub fn has(&mut self, runs: &[Run]) {
        runs.iter().for_each(|run| self.there.insert_run(*run));
    }

    /// These pieces, and no others, are with some member.
    pub fn set_there(&mut self, there: PieceSet) {
        debug_assert_eq!(there.total(), self.there.total());
        self.there = there;
        self.measure = None;
    }

    /// Pieces that somebody had are lost with a member; they are fetched again, after a moment in which others may
    /// tell of more.
    pub fn misses(&mut self, now: Time, runs: &[Run]) {
        let total = self.there.total();
        for piece in runs.iter().flat_map(|run| run.first..run.end.min(total)) {
            if self.there.remove(piece) {
                self.retry_at = self.retry_at.or(Some(now + LEASE_REGATHER));
            }
        }
    }

    /// A home has taken over: nothing is granted before others have had time to tell.
    pub fn wait_until(&mut self, at: Time) {
        self.retry_at = Some(at);
    }

    /// Holders get so much more time than usual.
    pub fn excuse(&mut self, by: Duration) {
        self.excuse = by;
    }

    /// How much more.
    pub fn excused(&self) -> Duration {
        self.excuse
    }

    /// Nobody is waited for any more.
    pub fn wait_no_more(&mut self) {
        self.retry_at = None;
    }

    /// A member that joins works on a lease: of the home before, or of this one, whose word it has missed or which it
    /// tells once more. What it is to fetch, `None` if it shall not go on. To say so is no sign of progress.
    pub fn adopt(&mut self, now: Time, lease: LeaseId, holder: PeerId, run: Run) -> Option<Run> {
        let known = self.active.get(&lease).map(|active| active.holder);
        let takes = known.is_none() && lease.epoch != self.epoch && !run.is_empty();
        let fits = run.end <= self.there.total() && self.active.len() < LEASES_ADOPTED_MAX;
        if takes && fits && self.adopters.admit(holder) {
            self.active.insert(lease, Active::new(now, holder, run, true));
        }
        self.active.get(&lease).filter(|active| active.holder == holder).map(|active| active.run)
    }

    /// Pieces have arrived. False if the lease is not this member's (any more).
    pub fn report(
        &mut self,
        now: Time,
        lease: LeaseId,
        from: &PeerId,
        pieces: impl Iterator<Item = u32>,
    ) -> bool {
        let before = self.there.count();
        pieces.for_each(|piece| {
            self.there.insert(piece);
        });
        // What was told before is told again to a home that was silent; it is no progress.
        let progress = self.there.count() > before;
        let mine = self.active.get_mut(&lease).filter(|a| a.holder == *from);
        let known = mine.is_some();
        if let Some(active) = mine.filter(|_| progress) {
            (active.came, active.seen, active.begun) = (now, now, true);
            self.adopters.has_brought(from);
            (self.failures, self.stalls) = (0, 0);
            let (from, look) = (before, now + LEASE_MEASURE_TIME);
            self.measure.get_or_insert(Measure { since: now, from, look });
        }
        known
    }

    /// Bytes arrive at a lease holder, and no piece is whole.
    pub fn breathes(&mut self, now: Time, lease: &LeaseId, holder: &PeerId) {
        if let Some(active) = self.active.get_mut(lease).filter(|active| active.holder == *holder) {
            active.alive = now;
            active.breathed.get_or_insert(now);
        }
    }

    /// A lease holder is slow on purpose, and says that it lives: it has as long for a piece as anybody ever has, and twice as long each
    /// time that nobody was faster.
    pub fn lives(&mut self, now: Time, holder: &PeerId) {
        let piece = LEASE_PIECE_TIME_MAX.saturating_mul(1 << self.stalls.min(8));
        for active in self.active.values_mut().filter(|active| active.holder == *holder) {
            active.seen = active.seen.max(now.min(active.came + piece));
        }
    }

    /// Whether a lease holder is busy: it is left behind by what is new to all, or its readers take less than it has. As long as it is, upstream is
    /// not what is slow, and more leases would only bring pieces out of order.
    pub fn told_busy(&mut self, holder: &PeerId, is_busy: bool) {
        if is_busy {
            self.busy.insert(*holder);
        } else {
            self.busy.remove(holder);
        }
    }

    /// A lease has ended; all of it before `at` has come, from upstream or from members.
    pub fn over(&mut self, now: Time, lease: LeaseId, from: &PeerId, at: u32, end: LeaseEnd) {
        let Some(active) = self.active.get(&lease).copied().filter(|a| a.holder == *from) else { return };
        self.active.remove(&lease);
        self.has(&[Run { first: active.run.first, end: at.min(active.run.end) }]);
        match end {
            LeaseEnd::Done => return,
            LeaseEnd::GivenUp => {}
            LeaseEnd::Denied => self.denials += 1,
            LeaseEnd::Failed => {
                self.failures += 1;
                self.pause(now);
            }
        }
        self.failed.insert(*from);
    }

    fn pause(&mut self, now: Time) {
        let pause = RESUME_PAUSE_FIRST.saturating_mul(1 << (self.failures - 1).min(8));
        self.retry_at = Some(now + pause.min(RESUME_PAUSE_MAX));
    }

    /// What a member fetches cannot be had from it. Somebody else fetches it at once, but where this happens to one that had failed
    /// before there was nobody better: it would be granted the same again as fast as it is complained about.
    pub fn useless(&mut self, now: Time, holder: &PeerId) {
        let before = self.active.len();
        self.active.retain(|_, a| a.holder != *holder);
        if self.active.len() < before && !self.failed.insert(*holder) {
            self.failures += 1;
            self.pause(now);
        }
    }

    /// A member has gone, with its leases.
    pub fn lost(&mut self, peer: &PeerId) {
        self.active.retain(|_, a| a.holder != *peer);
        self.failed.insert(*peer);
    }

    /// A member is too slow for what it has taken on: its leases end where they are.
    pub fn take_from(&mut self, peer: &PeerId) -> Vec<Action> {
        self.failed.insert(*peer);
        self.end_where(|active| active.holder == *peer)
    }

    /// A member says nothing while others speak: leases that it was granted and of which nothing has come end. Those that it has begun end when
    /// nothing comes of them.
    pub fn take_unbegun(&mut self, peer: &PeerId) -> Vec<Action> {
        let ended = self.end_where(|active| active.holder == *peer && !active.has_begun());
        if !ended.is_empty() {
            self.failed.insert(*peer);
        }
        ended
    }

    fn end_where(&mut self, which: impl Fn(&Active) -> bool) -> Vec<Action> {
        let ends = self.active.iter().filter(|(_, active)| which(active));
        let ended = ends.map(|(lease, a)| Action::Trim { holder: a.holder, lease: *lease, end: 0 }).collect();
        self.active.retain(|_, active| !which(active));
        ended
    }

    /// All pieces are suspect.
    pub fn restart(&mut self, epoch: u64) {
        let mut failed = std::mem::take(&mut self.failed);
        failed.extend(self.active.values().map(|a| a.holder));
        let adopters = std::mem::take(&mut self.adopters);
        *self = Leases { failed, adopters, ..Leases::new(epoch, self.there.total()) };
    }

    // ---- what follows ----

    /// Ends the leases of holders from which nothing has come for too long.
    pub fn take_stalled(&mut self, now: Time) -> Vec<Action> {
        let stalled: Vec<_> = self.active.iter().filter(|(_, a)| now >= self.patient_until(a)).collect();
        let ended: Vec<_> = stalled.into_iter().map(|(lease, active)| (*lease, active.holder)).collect();
        for (lease, holder) in &ended {
            self.active.remove(lease);
            self.failed.insert(*holder);
            // Those that it has made up are no sign that nobody is faster.
            if lease.epoch == self.epoch || self.adopters.was_silent(*holder) {
                self.stalls = self.stalls.saturating_add(1);
            }
        }
        ended.into_iter().map(|(lease, holder)| Action::Trim { holder, lease, end: 0 }).collect()
    }

    /// Derives what is to be done. `candidate` names the member that should fetch next, among those that it is not told
    /// to avoid.
    pub fn advance(
        &mut self,
        now: Time,
        mut candidate: impl FnMut(&dyn Fn(&PeerId) -> bool) -> Option<PeerId>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.looked = now;
        if self.over {
            return actions;
        }
        if self.denials >= LEASE_DENIALS_MAX || self.failures >= LEASE_FAILURES_MAX {
            self.over = true;
            let end = if self.denials >= LEASE_DENIALS_MAX { LeaseEnd::Denied } else { LeaseEnd::Failed };
            actions.push(Action::GiveUp(end));
            return actions;
        }
        if self.retry_at.is_some_and(|at| at > now) {
            // A look that is due must not ask for a wakeup in the past until then.
            if let Some(measure) = self.measure.as_mut().filter(|m| m.look <= now) {
                measure.look = now + LEASE_MEASURE_TIME;
            }
            return actions;
        }
        self.retry_at = None;
        self.consider_width(now, &mut actions);
        self.share_the_last(&mut actions);
        while self.active.len() < self.width
            && let Some(gap) = self.next_gap()
        {
            let (active, failed) = (&self.active, &self.failed);
            let busy = |p: &PeerId| active.values().any(|a| a.holder == *p);
            let to = candidate(&|p| busy(p) || failed.contains(p)).or_else(|| {
                // Whoever failed before is better than nobody.
                candidate(&|p| busy(p))
            });
            let Some(to) = to else { break };
            let lease = LeaseId { epoch: self.epoch, number: self.next };
            self.next += 1;
            let run = Run { first: gap.first, end: gap.end.min(gap.first.saturating_add(self.run_len())) };
            self.active.insert(lease, Active::new(now, to, run, false));
            actions.push(Action::Grant { to, lease, run });
        }
        actions
    }

    fn patient_until(&self, active: &Active) -> Time {
        let silent = active.seen + if active.begun { LEASE_STALL } else { LEASE_FIRST_BYTE_MAX };
        let piece = LEASE_PIECE_TIME.saturating_mul(1 << self.stalls.min(8)).min(LEASE_PIECE_TIME_MAX);
        // The first piece is on its way since its first bytes, which a registry may think about for long.
        let since = active.breathed.filter(|_| !active.begun).unwrap_or(active.seen);
        silent.max((active.alive + LEASE_STALL).min(since + piece)) + self.excuse
    }

    /// The first long run of pieces that nobody has or fetches: short ones are holes that others may still fill, and the
    /// front must not wait for them.
    fn next_gap(&self) -> Option<Run> {
        let longest = self.gaps().map(|gap| gap.end - gap.first).max()?;
        self.gaps().find(|gap| GAP_PART_MIN * (gap.end - gap.first) >= longest)
    }

    fn gaps(&self) -> impl Iterator<Item = Run> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let gap = self.gap_from(from)?;
            from = gap.end;
            Some(gap)
        })
    }

    /// The first run at or behind a piece.
    fn gap_from(&self, mut from: u32) -> Option<Run> {
        loop {
            let first = self.there.first_missing(from)?;
            if let Some(active) = self.active.values().find(|a| a.run.contains(first)) {
                from = active.run.end;
                continue;
            }
            let next_lease = self.active.values().map(|a| a.run.first).filter(|f| *f > first).min();
            let end = next_lease.unwrap_or(self.there.total());
            let have = (first..end).find(|p| self.there.contains(*p)).unwrap_or(end);
            return Some(Run { first, end: have });
        }
    }

    fn missing(&self) -> u32 {
        self.there.total() - self.there.count()
    }

    /// Pieces of the next lease.
    fn run_len(&self) -> u32 {
        if self.width == 1 || self.rate <= 0.0 {
            return u32::MAX;
        }
        let each = f64::from(self.missing()) / (2.0 * self.width as f64);
        let least = self.rate / self.width as f64 * LEASE_RUN_TIME_MIN.as_secs_f64();
        each.max(least).max(1.0).ceil() as u32
    }

    fn consider_width(&mut self, now: Time, actions: &mut Vec<Action>) {
        let is_busy = self.active.values().any(|a| self.busy.contains(&a.holder));
        let is_judged = now >= self.changed + LEASE_WIDTH_TIME_MIN;
        if is_busy && self.width > 1 && is_judged {
            // They bring more than goes round.
            self.width /= 2;
            (self.settled, self.changed) = (true, now);
            self.end_surplus(actions);
            return;
        }
        let Some(measure) = self.measure.filter(|_| !self.settled) else { return };
        let time = (now - measure.since).as_secs_f64();
        let pieces = self.there.count().saturating_sub(measure.from);
        if now < measure.look {
            return;
        }
        if is_busy {
            self.measure = None;
            return;
        }
        if self.width > 1 && !is_judged {
            self.measure = Some(Measure { look: self.changed + LEASE_WIDTH_TIME_MIN, ..measure });
            return;
        }
        if self.width > 1 && pieces < LEASE_WIDTH_PIECES_MIN && now < self.changed + LEASE_WIDTH_TIME_MAX {
            self.measure = Some(Measure { look: now + LEASE_MEASURE_TIME, ..measure });
            return;
        }
        if pieces < LEASE_MEASURE_PIECES_MIN && time < 5.0 * LEASE_MEASURE_TIME.as_secs_f64() {
            self.measure = Some(Measure { look: now + LEASE_MEASURE_TIME, ..measure });
            return;
        }
        self.rate = f64::from(pieces.max(1)) / time;
        let faster = self.rate >= LEASE_WIDEN_GAIN_MIN * self.rate_before;
        if self.width > 1 && !faster {
            self.width /= 2;
            self.settled = true;
            self.end_surplus(actions);
            return;
        }
        let left = f64::from(self.missing()) / self.rate;
        if left < LEASE_WIDEN_TIME_MIN.as_secs_f64() || 2 * self.width > LEASES_PER_BLOB_MAX {
            self.settled = true;
            return;
        }
        self.rate_before = self.rate;
        self.width *= 2;
        self.changed = now;
        self.measure = None;
        // Makes room for more of them.
        self.shorten(self.run_len(), |_| true, actions);
    }

    /// Nothing is left to grant and somebody could fetch more: the one that has most left gives away half.
    fn share_the_last(&mut self, actions: &mut Vec<Action>) {
        let idle = self.active.len() < self.width && !self.active.is_empty() && self.next_gap().is_none();
        if self.width == 1 || !idle || self.next >= LEASES_GRANTED_MAX {
            return;
        }
        let least = (self.rate / self.width as f64 * LEASE_SHARE_TIME_MIN.as_secs_f64()).max(2.0);
        let left = |there: &PieceSet, a: &Active| {
            let at = there.first_missing(a.run.first).map_or(a.run.end, |at| at.min(a.run.end));
            (a.run.end - at, at)
        };
        let there = &self.there;
        let Some((lease, active)) = self.active.iter_mut().max_by_key(|(_, a)| left(there, a).0) else {
            return;
        };
        let (pieces, at) = left(there, active);
        if f64::from(pieces) >= 2.0 * least {
            active.run.end = at + pieces / 2;
            actions.push(Action::Trim { holder: active.holder, lease: *lease, end: active.run.end });
        }
    }

    /// One lease is enough: all but the first end with what is on its way. They would end later, at a time when their holders have
    /// half of their links full of what the first one brings, and one of them is left to fetch alone over the other half.
    fn end_surplus(&mut self, actions: &mut Vec<Action>) {
        if self.width == 1 {
            let first = self.active.values().map(|active| active.run.first).min();
            self.shorten(LEASE_SURPLUS_PIECES, |active| Some(active.run.first) != first, actions);
        }
    }

    /// Leases under way keep so many of the pieces that are missing.
    fn shorten(&mut self, len: u32, which: impl Fn(&Active) -> bool, actions: &mut Vec<Action>) {
        for (lease, active) in self.active.iter_mut().filter(|(_, active)| which(active)) {
            let at = self.there.first_missing(active.run.first).unwrap_or(active.run.end);
            let end = at.saturating_add(len);
            if end < active.run.end {
                active.run.end = end;
                actions.push(Action::Trim { holder: active.holder, lease: *lease, end });
            }
        }
    }
}

#[cfg(test)]
mod tests;
