//! The exchange of one blob: this node's side of receiving it from other members.
//!
//! It joins at the home, subscribes to its feeds class by class, checks each piece against the list, does the work of
//! its leases, and complains about feeds that do not do theirs. It is a function of what it has been told; time comes
//! with each call.
//!
//! Invariant: a piece is in `have` only if this node fetched it upstream or it matched the list.

mod deaf;
mod leases;
mod life;
mod outrun;
mod ports;
mod restraint;
mod streams;
mod trust;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::Digest;
use crate::limits::{
    ENTRIES_PER_FRAME_MAX, EXCHANGE_CHECK, REDIRECTS_MAX, REPORT_AGE_MAX, REPORT_PIECES, RUNS_OF_HAVE_MAX,
};
use crate::peer::PeerId;
use crate::pieces::piece_count;
use crate::swarm::classes::class_of;
use crate::swarm::home::Mail;
use crate::swarm::list::{PieceList, Via};
use crate::swarm::pieces::{PieceSet, piece_bytes};
use crate::time::Time;
use crate::wire::{ClassFeeds, Complaint, Entry, LeaseEnd, LeaseId, Message, PieceHash, Run};

use deaf::Deaf;
pub use life::Load;
use outrun::Outrun;
use restraint::Restraint;
use trust::Trust;

/// How the exchange stands with the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has asked to be in the book; of the homes, the n-th.
    Joining(usize),
    /// It is in the book.
    Joined,
    /// No home answers, or the home cannot help: everything comes from upstream.
    Alone(LeaseEnd),
}

/// One member that feeds one class.
#[derive(Clone)]
struct Source {
    peer: PeerId,
    runs: Vec<Run>,
    /// Pieces that waited at the feed behind the last one that came.
    backlog: u32,
    /// Whether it has been complained about: if it is the feed again, it is asked again for what is missing.
    failed: bool,
}

/// One class.
#[derive(Default)]
struct Class {
    sources: Vec<Source>,
    /// Feeds that were replaced and may send the last pieces all the same.
    former: Vec<PeerId>,
    /// Pieces of the class that are there.
    got: u32,
    total: u32,
    /// What `got` was when the rates were last compared.
    got_before: u32,
    last_piece: Time,
    complained: Option<Time>,
}

/// At which pieces come from members.
#[derive(Default)]
struct Pace {
    /// Smoothed time between two pieces, seconds; the mean of the first ones, which come in bursts.
    gap: f64,
    gaps: u32,
    last: Option<Time>,
}

impl Pace {
    fn add(&mut self, now: Time) {
        let Some(last) = self.last.replace(now) else { return };
        self.gaps = self.gaps.saturating_add(1);
        let weight = (1.0 / f64::from(self.gaps)).max(0.1);
        self.gap += weight * ((now - last).as_secs_f64() - self.gap);
    }
}

/// A lease that this node works on.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The pieces; the end moves when it is trimmed.
    pub run: Run,
    /// First piece that has not come.
    pub at: u32,
}

/// What became of a piece that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is what it should be: its bytes count.
    Accepted,
    /// Its hash is not known yet; it counts as soon as it is.
    Pending,
    /// It was there already.
    Duplicate,
    /// It is wrong.
    Wrong,
}

/// See the module's head.
pub struct Exchange {
    digest: Digest,
    size: u64,
    have: PieceSet,
    list: PieceList,
    /// The home that was joined, and the list of it whose hashes count.
    list_of: Option<(PeerId, u64)>,
    /// Pieces that have arrived and cannot be judged yet, with their senders.
    pending: BTreeMap<u32, (PeerId, PieceHash, Time)>,
    /// Pieces that have arrived and turned out to be of no use before they could be judged.
    useless: Vec<(u32, PeerId)>,
    proof_asked: Option<Time>,
    trust: Trust,
    classes: Vec<Class>,
    leases: BTreeMap<LeaseId, Work>,
    /// Hashes that the home has not been told yet.
    unreported: Vec<(LeaseId, Entry)>,
    report_at: Option<Time>,
    /// When the home last heard that bytes come from upstream.
    told_alive: Time,
    busy: bool,
    outrun: Outrun,
    homes: Vec<PeerId>,
    standing: Standing,
    asked: Time,
    /// When the home last said anything, or a piece came.
    heard: Time,
    checked: Time,
    was_in_a_book: bool,
    /// Members whose ports for pieces could not be reached.
    closed: BTreeSet<PeerId>,
    deaf: Deaf,
    /// The home that could not be reached any more.
    lost_home: Option<PeerId>,
    /// Whether a home was left because of what it told, or of its silence: the next one would send this node back.
    left_home: bool,
    /// How often homes have named another one since one last welcomed this node.
    redirects: u8,
    compared: Time,
    /// Whether that was ever done.
    is_compared: bool,
    /// Whether this node was seen to receive more slowly than the others.
    is_slow: bool,
    /// How many pieces were there, and how many were listed, when the rates were last compared.
    compared_at: (u32, u32),
    /// How many pieces its feeds had for it at that time.
    behind_at: u32,
    pace: Pace,
    restraint: Restraint,
    load: Load,
    me: PeerId,
}

impl Exchange {
    /// An exchange that joins at the first of `homes`; there may be a better one, which is not asked because it says nothing.
    pub fn new(
        now: Time,
        me: PeerId,
        (digest, size): (Digest, u64),
        have: PieceSet,
        (homes, passes_over): (Vec<PeerId>, bool),
        mail: &mut Mail,
    ) -> Self {
        let pieces = piece_count(size) as u32;
        let mut exchange = Exchange {
            digest,
            size,
            have,
            list: PieceList::new(pieces),
            list_of: None,
            pending: BTreeMap::new(),
            useless: Vec::new(),
            proof_asked: None,
            trust: Trust { counted: now, refused: 0, homes: Vec::new() },
            classes: Vec::new(),
            leases: BTreeMap::new(),
            unreported: Vec::new(),
            report_at: None,
            told_alive: now,
            busy: false,
            outrun: Outrun::new(now),
            homes,
            standing: Standing::Joining(0),
            asked: now,
            heard: now,
            checked: now,
            was_in_a_book: false,
            closed: BTreeSet::new(),
            deaf: Deaf::default(),
            lost_home: None,
            left_home: passes_over,
            redirects: 0,
            compared: now,
            is_compared: false,
            is_slow: false,
            compared_at: (0, 0),
            behind_at: 0,
            pace: Pace::default(),
            restraint: Restraint::default(),
            load: Load::default(),
            me,
        };
        exchange.join(now, 0, mail);
        exchange
    }

    // ---- getters ----

    /// How it stands with the home.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pieces that are there.
    pub fn have(&self) -> &PieceSet {
        &self.have
    }

    /// The list of hashes.
    pub fn list(&self) -> &PieceList {
        &self.list
    }

    /// The leases that this node works on.
    pub fn leases(&self) -> impl Iterator<Item = (&LeaseId, &Work)> {
        self.leases.iter()
    }

    /// The member that keeps the book, as far as this node knows.
    pub fn home(&self) -> Option<PeerId> {
        match self.standing {
            Standing::Joining(rank) => self.homes.get(rank).copied(),
            Standing::Joined => self.homes.first().copied(),
            Standing::Alone(_) => None,
        }
    }

    /// Members that feed this node, with the class.
    pub fn feeds(&self) -> impl Iterator<Item = (u8, PeerId)> + '_ {
        (0..).zip(&self.classes).flat_map(|(class, c)| c.sources.iter().map(move |s| (class, s.peer)))
    }

    /// The classes in which a member feeds this node.
    fn fed_by(&self, peer: &PeerId) -> Vec<u8> {
        self.feeds().filter(|(_, feed)| feed == peer).map(|(class, _)| class).collect()
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        let next = match self.standing {
            Standing::Joining(rank) => {
                let answered = self.asked + self.join_timeout(rank);
                Some(self.deaf_wakeup().map_or(answered, |at| at.min(answered)))
            }
            Standing::Joined if self.have.is_full() => None,
            Standing::Joined => Some(self.checked + EXCHANGE_CHECK),
            Standing::Alone(_) => None,
        };
        [next, self.report_at].into_iter().flatten().min()
    }

    /// What is missing and who feeds it, for a person who looks: for each class the first missing piece, how many are
    /// missing, and the feeds.
    pub fn explain(&self) -> Vec<(u8, Option<u32>, u32, Vec<PeerId>)> {
        let first = |class: u8| {
            (u32::from(class)..self.have.total())
                .step_by(self.classes.len())
                .find(|p| !self.have.contains(*p))
        };
        (0..)
            .zip(&self.classes)
            .map(|(class, c)| {
                (class, first(class), c.total - c.got, c.sources.iter().map(|s| s.peer).collect())
            })
            .collect()
    }

    // ---- what the home says ----

    /// See [`Message::Welcome`].
    pub fn handle_welcome(
        &mut self,
        now: Time,
        from: PeerId,
        (classes, list): (u8, u64),
        feeds: Vec<ClassFeeds>,
        mail: &mut Mail,
    ) {
        if classes == 0 || usize::from(classes) > crate::swarm::classes::CLASSES_MAX {
            return;
        }
        // Too late: the flight has gone to upstream for all of it, and does not come back.
        if matches!(self.standing, Standing::Alone(_)) || self.trust.homes.contains(&from) {
            return mail.push_back((from, Message::Leave { digest: self.digest }));
        }
        if self.prefers_another(&from, mail) {
            return;
        }
        if self.classes.len() != usize::from(classes) {
            // Nobody has been silent before this moment.
            self.classes = (0..classes).map(|_| Class { last_piece: now, ..Class::default() }).collect();
            for piece in 0..self.have.total() {
                let class = &mut self.classes[usize::from(class_of(piece, classes))];
                class.total += 1;
                class.got += u32::from(self.have.contains(piece));
            }
        }
        self.standing = Standing::Joined;
        self.redirects = 0;
        self.list_of = Some((from, list));
        self.was_in_a_book = true;
        if std::mem::take(&mut self.is_slow) {
            // This home has not been told.
            self.tell_of_slowness(true, mail);
        }
        (self.heard, self.checked) = (now, now);
        // The wait for the first piece counts: those behind it may come together.
        self.pace.last.get_or_insert(now);
        self.homes.retain(|home| *home != from);
        self.homes.insert(0, from);
        self.handle_feeds(now, feeds, mail);
        self.tell_what_came_meanwhile(now, mail);
    }

    /// See [`Message::NotHome`].
    pub fn handle_not_home(&mut self, now: Time, from: PeerId, home: PeerId, mail: &mut Mail) {
        if self.home() != Some(from) || home == from {
            return;
        }
        self.redirects += 1;
        if self.redirects > REDIRECTS_MAX {
            // They send it round in a circle.
            self.redirects = 0;
            return self.next_home(now, mail);
        }
        if self.trust.homes.contains(&home) {
            return self.join(now, 0, mail);
        }
        self.homes.retain(|h| *h != home);
        self.homes.insert(0, home);
        self.join(now, 0, mail);
    }

    /// See [`Message::Feeds`].
    pub fn handle_feeds(&mut self, now: Time, feeds: Vec<ClassFeeds>, mail: &mut Mail) {
        self.heard = now;
        for ClassFeeds { class, feeds } in feeds {
            if usize::from(class) < self.classes.len() {
                self.set_feeds(class, feeds, mail);
            }
        }
    }

    /// See [`Message::Trim`].
    pub fn handle_trim(&mut self, now: Time, lease: LeaseId, end: u32, mail: &mut Mail) {
        self.heard = now;
        let Some(work) = self.leases.get_mut(&lease) else { return };
        work.run.end = work.run.end.min(end);
        self.flush(mail);
        self.end_leases(mail);
        self.resubscribe(mail);
    }

    /// The node cannot go on with any lease.
    pub fn end_all_leases(&mut self, end: LeaseEnd, mail: &mut Mail) {
        self.flush(mail);
        let Some(home) = self.home() else { return self.leases.clear() };
        for (lease, work) in std::mem::take(&mut self.leases) {
            mail.push_back((home, Message::Over { digest: self.digest, lease, at: work.at, end }));
        }
        self.resubscribe(mail);
    }

    /// See [`Message::Alone`].
    pub fn handle_alone(&mut self, end: LeaseEnd, mail: &mut Mail) {
        self.drop_feeds(mail);
        self.leases.clear();
        self.standing = Standing::Alone(end);
    }

    /// All that was checked against the list is worth nothing.
    pub fn handle_restart(&mut self, now: Time, mail: &mut Mail) {
        let pieces = self.have.total();
        self.drop_feeds(mail);
        self.have = PieceSet::new(pieces);
        self.list = PieceList::new(pieces);
        self.list_of = None;
        self.drop_pending();
        self.leases.clear();
        self.unreported.clear();
        self.report_at = None;
        self.classes.clear();
        self.join(now, 0, mail);
    }

    // ---- bytes ----

    /// A piece has come from a member.
    pub fn handle_arrived(
        &mut self,
        now: Time,
        from: PeerId,
        (piece, hash, backlog): (u32, PieceHash, u32),
        mail: &mut Mail,
    ) -> Arrival {
        if self.classes.is_empty() || piece >= self.have.total() {
            return Arrival::Duplicate;
        }
        let at = piece as usize % self.classes.len();
        let class = &mut self.classes[at];
        if let Some(source) = class.sources.iter_mut().find(|s| s.peer == from) {
            source.backlog = backlog;
        }
        if self.have.contains(piece) {
            return Arrival::Duplicate;
        }
        class.last_piece = now;
        self.heard = now;
        self.pace.add(now);
        // What it has sent before lay where this lies now.
        if self.pending.get(&piece).is_some_and(|(sender, _, _)| *sender == from) {
            self.pending.remove(&piece);
        }
        self.judge(now, from, piece, hash, mail)
    }

    /// A piece that this node fetched upstream is there. `busy` says that its readers take less than it has.
    pub fn handle_fetched(&mut self, now: Time, piece: u32, hash: PieceHash, busy: bool, mail: &mut Mail) {
        let entry = Entry { piece, hash };
        self.list.set(entry, Via::Own);
        self.insert(piece);
        let is_outrun = self.outrun.look(now, (self.have.count(), self.list.known().count()));
        self.busy = busy || is_outrun;
        let lease = self.leases.iter().find(|(_, work)| work.run.contains(piece));
        if let Some((lease, _)) = lease {
            self.told_alive = now;
            self.unreported.push((*lease, entry));
            self.report_at.get_or_insert(now + REPORT_AGE_MAX);
        }
        if self.unreported.len() >= REPORT_PIECES || self.have.is_full() {
            self.flush(mail);
        }
        self.end_leases(mail);
    }

    /// Everything is there: what is subscribed is of no use any more.
    pub fn finish(&mut self, mail: &mut Mail) {
        self.flush(mail);
        self.drop_feeds(mail);
        self.drop_pending();
    }

    /// The node does not want the blob any more.
    pub fn leave(&mut self, mail: &mut Mail) {
        self.finish(mail);
        self.take_leave(mail);
    }

    fn take_leave(&mut self, mail: &mut Mail) {
        // A node that has given up on its homes may be in the book of any of them.
        let homes = self.home().map_or_else(|| self.homes.clone(), |home| vec![home]);
        mail.extend(homes.into_iter().map(|home| (home, Message::Leave { digest: self.digest })));
    }

    /// Pieces, with their senders, whose bytes are kept aside for nothing. Each is named once.
    pub fn take_useless(&mut self) -> Vec<(u32, PeerId)> {
        std::mem::take(&mut self.useless)
    }

    fn drop_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.useless.extend(pending.into_iter().map(|(piece, (from, _, _))| (piece, from)));
    }

    fn insert(&mut self, piece: u32) {
        // Another one has brought it while this one's could not be judged.
        if let Some((from, _, _)) = self.pending.remove(&piece) {
            self.useless.push((piece, from));
        }
        if self.have.insert(piece) && !self.classes.is_empty() {
            let at = piece as usize % self.classes.len();
            self.classes[at].got += 1;
        }
    }

    // ---- members that fail ----

    /// A member cannot be reached.
    pub fn handle_lost(
        &mut self,
        now: Time,
        peer: &PeerId,
        homes: impl Fn() -> Vec<PeerId>,
        mail: &mut Mail,
    ) {
        let fed = self.fed_by(peer);
        let is_home = self.home() == Some(*peer);
        for class in fed {
            if !is_home {
                self.complain(now, class, *peer, Complaint::Lost, mail);
            }
            self.forget_source(class, peer, mail);
        }
        if is_home {
            self.refresh_homes(homes());
            self.next_home(now, mail);
        }
    }

    /// See [`Message::Refuse`].
    pub fn handle_refused(&mut self, now: Time, peer: &PeerId, class: u8, mail: &mut Mail) {
        let mine =
            self.classes.get(usize::from(class)).is_some_and(|c| c.sources.iter().any(|s| s.peer == *peer));
        if mine {
            self.complain(now, class, *peer, Complaint::Refused, mail);
            self.forget_source(class, peer, mail);
        }
    }

    // ---- what follows from time ----

    /// Looks after the home and the feeds. `homes` are the present ones; `load` is the node's.
    pub fn advance(&mut self, now: Time, homes: impl Fn() -> Vec<PeerId>, load: Load, mail: &mut Mail) {
        self.load = load;
        if self.report_at.is_some_and(|at| at <= now) {
            self.flush(mail);
        }
        self.listen(now);
        match self.standing {
            Standing::Joining(rank) if now >= self.asked + self.join_timeout(rank) => {
                let present = self.trusted(homes());
                // The one that does not answer keeps its place, so that the next one is the next.
                let lost = self.lost_home;
                self.homes.retain(|home| present.contains(home) || Some(*home) == lost);
                self.homes
                    .extend(present.iter().filter(|h| !self.homes.contains(h)).copied().collect::<Vec<_>>());
                match self.is_deaf() && self.homes.get(rank + 1) == Some(&self.me) {
                    // By its own book it would have to wait for the better homes.
                    true => self.join(now, rank, mail),
                    false => self.next_home(now, mail),
                }
            }
            Standing::Joined if now >= self.checked + EXCHANGE_CHECK && !self.have.is_full() => {
                self.checked = now;
                if now >= self.heard + self.home_patience() {
                    // A home that lives welcomes again, which costs little; one that does not is replaced.
                    self.join(now, 0, mail);
                } else if self.doubts_home(now) {
                    self.leave_home(now, homes(), mail);
                } else {
                    self.check_proofs(now, mail);
                    if self.restraint.held || self.restraint.excused_until.is_some_and(|until| now < until) {
                        self.check_held(now, mail);
                    } else {
                        self.check_classes(now, mail);
                    }
                }
            }
            _ => {}
        }
        // Nobody may have spoken for some time when it is the next home's turn to be silent.
        self.listen(now);
    }

    fn join(&mut self, now: Time, rank: usize, mail: &mut Mail) {
        self.standing = Standing::Joining(rank);
        (self.asked, self.heard) = (now, now);
        self.load.excuse = Duration::ZERO;
        let Some(&home) = self.homes.get(rank) else {
            self.standing = Standing::Alone(LeaseEnd::Denied);
            return;
        };
        let all = Run { first: 0, end: self.have.total() };
        let leases = self.leases.iter().map(|(lease, work)| (*lease, work.run)).collect();
        let join = Message::Join {
            digest: self.digest,
            size: self.size,
            have: self.have.runs(all, true, RUNS_OF_HAVE_MAX),
            leases,
            again: self.was_in_a_book,
            insists: rank > 0 || self.left_home,
            feeds: self.told_feeds(),
        };
        mail.push_back((home, join));
        // The hashes of what it has go with a lease: the new home has no list.
        if let Some(lease) = self.leases.keys().next().filter(|_| self.was_in_a_book) {
            let have = (0..self.have.total()).filter(|piece| self.have.contains(*piece));
            for entries in self.list.entries(have).chunks(ENTRIES_PER_FRAME_MAX) {
                let (lease, entries) = (*lease, entries.to_vec());
                mail.push_back((
                    home,
                    Message::Report { digest: self.digest, lease, entries, busy: self.busy },
                ));
            }
        }
    }

    // ---- leases ----

    /// The bytes of the leases that are still to be fetched.
    pub fn fetchable(&self) -> Vec<std::ops::Range<u64>> {
        let bytes =
            |run: Run| piece_bytes(self.size, run.first).start..piece_bytes(self.size, run.end - 1).end;
        self.leases
            .values()
            .map(|work| Run { first: work.at, end: work.run.end })
            .filter(|run| !run.is_empty())
            .map(bytes)
            .chain(self.is_deaf().then_some(0..self.size))
            .collect()
    }

    fn flush(&mut self, mail: &mut Mail) {
        self.report_at = None;
        let Some(home) = self.home() else { return self.unreported.clear() };
        let mut by_lease: BTreeMap<LeaseId, Vec<Entry>> = BTreeMap::new();
        for (lease, entry) in self.unreported.drain(..) {
            by_lease.entry(lease).or_default().push(entry);
        }
        for (lease, entries) in by_lease {
            mail.push_back((home, Message::Report { digest: self.digest, lease, entries, busy: self.busy }));
        }
    }

    /// Leases of which everything has come.
    fn end_leases(&mut self, mail: &mut Mail) {
        // Several transfers may work on one lease, and the others bring pieces of it as well.
        for work in self.leases.values_mut() {
            let end = work.run.end;
            work.at = self.have.first_missing(work.at).map_or(end, |at| at.min(end)).max(work.at);
        }
        let done: Vec<_> =
            self.leases.iter().filter(|(_, w)| w.at >= w.run.end).map(|(l, w)| (*l, *w)).collect();
        if done.is_empty() {
            return;
        }
        self.flush(mail);
        for (lease, work) in done {
            self.leases.remove(&lease);
            if let Some(home) = self.home() {
                let over = Message::Over { digest: self.digest, lease, at: work.at, end: LeaseEnd::Done };
                mail.push_back((home, over));
            }
        }
    }
}

#[cfg(test)]
mod tests;
