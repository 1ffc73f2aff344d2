//! The exchange of one blob: this node's side of receiving it from other members.
//!
//! It joins at the home, subscribes to its feeds class by class, checks each piece against the list, does the work of
//! its leases, and complains about feeds that do not do theirs. It is a function of what it has been told; time comes
//! with each call.
//!
//! Invariant: a piece is in `have` only if this node fetched it upstream or it matched the list.

use std::collections::BTreeMap;

use crate::ids::Digest;
use crate::limits::RUNS_OF_HAVE_MAX;
use crate::limits::{
    ALL_SILENT_MAX, COMPARE_TIME, COMPLAINT_PAUSE, CRAWL_SHARE_MAX, ENDGAME_PIECES, EXCHANGE_CHECK,
    FEED_SILENCE_MAX, FEEDS_PER_CLASS_MAX, HASH_WAIT, HOME_SILENCE_MAX, JOIN_TIMEOUT, LAG_PIECES_MIN,
    LAG_STARVED_SHARE, PENDING_PIECES_MAX, REPORT_AGE_MAX, REPORT_PIECES, RUNS_PER_MESSAGE_MAX,
};
use crate::peer::PeerId;
use crate::pieces::piece_count;
use crate::swarm::classes::class_of;
use crate::swarm::home::Mail;
use crate::swarm::list::{PieceList, Verdict, Via};
use crate::swarm::pieces::{PieceSet, piece_bytes};
use crate::time::Time;
use crate::wire::{ClassFeeds, Complaint, Entry, Feed, LeaseEnd, LeaseId, Message, PieceHash, Run};

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
    /// Pieces that have arrived and cannot be judged yet, with their senders.
    pending: BTreeMap<u32, (PeerId, PieceHash, Time)>,
    /// Pieces that have arrived and turned out to be of no use before they could be judged.
    useless: Vec<(u32, PeerId)>,
    proof_asked: Option<Time>,
    classes: Vec<Class>,
    leases: BTreeMap<LeaseId, Work>,
    /// Hashes that the home has not been told yet.
    unreported: Vec<(LeaseId, Entry)>,
    report_at: Option<Time>,
    busy: bool,
    homes: Vec<PeerId>,
    standing: Standing,
    asked: Time,
    /// When the home last said anything, or a piece came.
    heard: Time,
    checked: Time,
    was_in_a_book: bool,
    /// Whether a home was lost: the next one may not know yet that it is the first.
    lost_homes: bool,
    compared: Time,
    /// Whether most feeds wait for this node.
    is_slow: bool,
    me: PeerId,
}

impl Exchange {
    /// An exchange that joins at the first of `homes`.
    pub fn new(
        now: Time,
        me: PeerId,
        (digest, size): (Digest, u64),
        have: PieceSet,
        homes: Vec<PeerId>,
        mail: &mut Mail,
    ) -> Self {
        let pieces = piece_count(size) as u32;
        let mut exchange = Exchange {
            digest,
            size,
            have,
            list: PieceList::new(pieces),
            pending: BTreeMap::new(),
            useless: Vec::new(),
            proof_asked: None,
            classes: Vec::new(),
            leases: BTreeMap::new(),
            unreported: Vec::new(),
            report_at: None,
            busy: false,
            homes,
            standing: Standing::Joining(0),
            asked: now,
            heard: now,
            checked: now,
            was_in_a_book: false,
            lost_homes: false,
            compared: now,
            is_slow: false,
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

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        let next = match self.standing {
            Standing::Joining(_) => Some(self.asked + JOIN_TIMEOUT),
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

    /// Pieces that wait for their hashes.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    // ---- what the home says ----

    /// See [`Message::Welcome`].
    pub fn handle_welcome(
        &mut self,
        now: Time,
        from: PeerId,
        classes: u8,
        feeds: Vec<ClassFeeds>,
        mail: &mut Mail,
    ) {
        if classes == 0 || usize::from(classes) > crate::swarm::classes::CLASSES_MAX {
            return;
        }
        // Too late: the flight has gone to upstream for all of it, and does not come back.
        if matches!(self.standing, Standing::Alone(_)) {
            return;
        }
        if self.classes.len() != usize::from(classes) {
            self.classes = (0..classes).map(|_| Class::default()).collect();
            for piece in 0..self.have.total() {
                let class = &mut self.classes[usize::from(class_of(piece, classes))];
                class.total += 1;
                class.got += u32::from(self.have.contains(piece));
            }
        }
        self.standing = Standing::Joined;
        self.was_in_a_book = true;
        // This home has not been told.
        self.is_slow = false;
        (self.heard, self.checked) = (now, now);
        self.homes.retain(|home| *home != from);
        self.homes.insert(0, from);
        self.handle_feeds(now, feeds, mail);
    }

    /// See [`Message::NotHome`].
    pub fn handle_not_home(&mut self, now: Time, from: PeerId, home: PeerId, mail: &mut Mail) {
        if self.home() != Some(from) || home == from {
            return;
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

    /// See [`Message::Lease`]. False if this node works on it already.
    pub fn handle_lease(&mut self, now: Time, lease: LeaseId, run: Run, mail: &mut Mail) -> bool {
        self.heard = now;
        let end = run.end.min(self.have.total());
        let fresh = !run.is_empty() && run.first < end && !self.leases.contains_key(&lease);
        if fresh {
            let at = self.have.first_missing(run.first).unwrap_or(end).min(end);
            self.leases.insert(lease, Work { run: Run { first: run.first, end }, at });
            self.end_leases(mail);
        }
        fresh
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

    /// See [`Message::Hashes`]. Answers the pieces that were waiting and are judged now, with their senders and whether
    /// they count, and the hashes that are news.
    pub fn handle_hashes(
        &mut self,
        now: Time,
        from: PeerId,
        entries: &[Entry],
        mail: &mut Mail,
    ) -> (Vec<(u32, PeerId, bool)>, Vec<Entry>) {
        let via = if self.home() == Some(from) { Via::Trusted } else { Via::Relay(from) };
        let news: Vec<_> = entries.iter().copied().filter(|entry| self.list.set(*entry, via)).collect();
        let mut judged = Vec::new();
        for entry in &news {
            let Some((sender, hash, _)) = self.pending.remove(&entry.piece) else { continue };
            match self.judge(now, sender, entry.piece, hash, mail) {
                Arrival::Pending => {}
                arrival => judged.push((entry.piece, sender, arrival == Arrival::Accepted)),
            }
        }
        (judged, news)
    }

    /// All that was checked against the list is worth nothing.
    pub fn handle_restart(&mut self, now: Time, mail: &mut Mail) {
        let pieces = self.have.total();
        self.drop_feeds(mail);
        self.have = PieceSet::new(pieces);
        self.list = PieceList::new(pieces);
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
        self.judge(now, from, piece, hash, mail)
    }

    fn judge(&mut self, now: Time, from: PeerId, piece: u32, hash: PieceHash, mail: &mut Mail) -> Arrival {
        match self.list.judge(piece, hash, &from) {
            Verdict::Right => {
                self.insert(piece);
                self.end_leases(mail);
                Arrival::Accepted
            }
            Verdict::Unknown => self.wait_for_hash(now, from, piece, hash),
            // A relayed hash may itself be the lie: the home's word decides whom to blame.
            Verdict::Wrong if !self.list.is_trusted(piece) => {
                self.ask_proof(now, vec![Run { first: piece, end: piece + 1 }], mail);
                self.wait_for_hash(now, from, piece, hash)
            }
            Verdict::Wrong => {
                let class = class_of(piece, self.classes.len() as u8);
                self.complain(now, class, from, Complaint::Wrong, mail);
                self.forget_source(class, &from, mail);
                Arrival::Wrong
            }
        }
    }

    fn wait_for_hash(&mut self, now: Time, from: PeerId, piece: u32, hash: PieceHash) -> Arrival {
        let twice = self.pending.get(&piece).is_some_and(|(sender, _, _)| *sender != from);
        if self.pending.len() >= PENDING_PIECES_MAX || twice {
            return Arrival::Duplicate;
        }
        self.pending.insert(piece, (from, hash, now));
        Arrival::Pending
    }

    /// A piece that this node fetched upstream is there. `busy` says that upstream is not what is slow.
    pub fn handle_fetched(&mut self, now: Time, piece: u32, hash: PieceHash, busy: bool, mail: &mut Mail) {
        self.busy = busy;
        let entry = Entry { piece, hash };
        self.list.set(entry, Via::Trusted);
        self.insert(piece);
        let lease = self.leases.iter().find(|(_, work)| work.run.contains(piece));
        if let Some((lease, _)) = lease {
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
        if self.home() == Some(*peer) {
            self.refresh_homes(homes());
            self.next_home(now, mail);
        }
        let fed: Vec<_> = self.feeds().filter(|(_, feed)| feed == peer).map(|(class, _)| class).collect();
        for class in fed {
            self.complain(now, class, *peer, Complaint::Lost, mail);
            self.forget_source(class, peer, mail);
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

    /// Looks after the home and the feeds. `homes` are the present ones.
    pub fn advance(&mut self, now: Time, homes: impl Fn() -> Vec<PeerId>, mail: &mut Mail) {
        if self.report_at.is_some_and(|at| at <= now) {
            self.flush(mail);
        }
        match self.standing {
            Standing::Joining(_) if now >= self.asked + JOIN_TIMEOUT => {
                let present = homes();
                self.homes.retain(|home| present.contains(home));
                self.homes
                    .extend(present.iter().filter(|h| !self.homes.contains(h)).copied().collect::<Vec<_>>());
                self.next_home(now, mail);
            }
            Standing::Joined if now >= self.checked + EXCHANGE_CHECK && !self.have.is_full() => {
                self.checked = now;
                if now >= self.heard + HOME_SILENCE_MAX {
                    // A home that lives welcomes again, which costs little; one that does not is replaced.
                    self.join(now, 0, mail);
                } else {
                    self.check_proofs(now, mail);
                    self.check_classes(now, mail);
                }
            }
            _ => {}
        }
    }

    fn check_proofs(&mut self, now: Time, mail: &mut Mail) {
        let waiting = |p: &&u32| self.pending[p].2 + HASH_WAIT <= now;
        let mut runs: Vec<Run> = Vec::new();
        for &piece in self.pending.keys().filter(waiting) {
            if let Some(run) = runs.last_mut().filter(|run| run.end == piece) {
                run.end += 1;
            } else if runs.len() < RUNS_PER_MESSAGE_MAX {
                runs.push(Run { first: piece, end: piece + 1 });
            }
        }
        if !runs.is_empty() {
            self.ask_proof(now, runs, mail);
        }
    }

    fn ask_proof(&mut self, now: Time, runs: Vec<Run>, mail: &mut Mail) {
        if self.proof_asked.is_some_and(|at| now < at + HASH_WAIT) {
            return;
        }
        self.proof_asked = Some(now);
        if let Some(home) = self.home() {
            mail.push_back((home, Message::Prove { digest: self.digest, runs }));
        }
    }

    /// Compares the classes with each other: their feeds have the same to do, so one that falls behind is the feed's
    /// fault, and not that of the source or of this node.
    fn check_classes(&mut self, now: Time, mail: &mut Mail) {
        let compares = now >= self.compared + COMPARE_TIME;
        let shares = median(self.classes.iter().map(|c| f64::from(c.got) / f64::from(c.total.max(1))));
        let gains =
            median(self.classes.iter().filter(|c| c.got < c.total).map(|c| f64::from(c.got - c.got_before)));
        // With most feeds waiting for this node, its own link is what is slow.
        let waiting = self.classes.iter().filter(|c| c.sources.iter().any(|s| s.backlog >= 2)).count();
        let receives_slowly = 2 * waiting > self.classes.len();
        // While nothing comes at all it is the source that is slow.
        let last = self.classes.iter().map(|c| c.last_piece).max().unwrap_or_default();
        let moves = now < last + FEED_SILENCE_MAX / 2;
        if compares {
            self.tell_of_slowness(receives_slowly, mail);
        }
        for at in 0..self.classes.len() {
            let class = &self.classes[at];
            let paused = class.complained.is_some_and(|since| now < since + COMPLAINT_PAUSE);
            if class.got < class.total && !paused {
                let view = View { shares, gains, compares, receives_slowly, moves };
                self.check_class(now, at, view, mail);
            }
        }
        if compares {
            self.compared = now;
            self.classes.iter_mut().for_each(|class| class.got_before = class.got);
        }
    }

    fn check_class(&mut self, now: Time, at: usize, view: View, mail: &mut Mail) {
        let class = &self.classes[at];
        let total = f64::from(class.total);
        let lag = view.shares * total - f64::from(class.got);
        let ending = view.shares >= 1.0;
        let quiet = now - class.last_piece.max(class.complained.unwrap_or_default()) >= FEED_SILENCE_MAX;
        let silent = now - class.last_piece.max(class.complained.unwrap_or_default()) >= ALL_SILENT_MAX;
        // The one that was to send what is missing first.
        let first =
            (at as u32..self.have.total()).step_by(self.classes.len()).find(|p| !self.have.contains(*p));
        let due = |s: &&Source| first.is_some_and(|piece| s.runs.iter().any(|run| run.contains(piece)));
        let Some(source) = class.sources.iter().find(due).or(class.sources.last()) else {
            if quiet && (view.moves || silent) && self.leases.is_empty() {
                self.complain(now, at as u8, PeerId([0; 32]), Complaint::Silent, mail);
            }
            return;
        };
        let (peer, backlog) = (source.peer, source.backlog);
        let gained = f64::from(class.got - class.got_before);
        let crawls = view.compares && gained < CRAWL_SHARE_MAX * view.gains && lag >= LAG_PIECES_MIN;
        let delayed = (crawls && backlog >= 2) || (ending && lag >= 0.5 && backlog >= 1);
        // A feed that has nothing to send either gets more time: those above it are to be mended first.
        let starved = crawls && lag >= LAG_PIECES_MIN.max(LAG_STARVED_SHARE * total);
        // What a feed has said of its backlog says nothing when it sends nothing any more.
        let dead = now - class.last_piece >= ALL_SILENT_MAX;
        if (delayed || starved) && !view.receives_slowly && !dead {
            self.complain(now, at as u8, peer, Complaint::Slow, mail);
        } else if quiet && ((view.moves && (lag >= 1.0 || ending)) || silent) {
            self.complain(now, at as u8, peer, Complaint::Silent, mail);
        }
    }

    fn tell_of_slowness(&mut self, receives_slowly: bool, mail: &mut Mail) {
        let known = std::mem::replace(&mut self.is_slow, receives_slowly);
        if let (true, false, Some(home)) = (receives_slowly, known, self.home()) {
            let (digest, about) = (self.digest, self.me);
            let complaint =
                Message::Complain { digest, class: 0, about, why: Complaint::Slow, missing: Vec::new() };
            mail.push_back((home, complaint));
        }
    }

    fn complain(&mut self, now: Time, class: u8, about: PeerId, why: Complaint, mail: &mut Mail) {
        let Some(home) = self.home() else { return };
        let at = usize::from(class);
        self.classes[at].complained = Some(now);
        let classes = self.classes.len() as u8;
        self.classes[at].sources.iter_mut().filter(|s| s.peer == about).for_each(|s| s.failed = true);
        let sources = &self.classes[at].sources;
        let sends = |s: &Source, piece: u32| s.runs.iter().any(|run| run.contains(piece));
        // What nobody was to send is missing as well.
        let due = |piece: &u32| {
            let by_it = sources.iter().any(|s| s.peer == about && sends(s, *piece));
            by_it || !sources.iter().any(|s| sends(s, *piece))
        };
        let missing = (u32::from(class)..self.have.total())
            .step_by(usize::from(classes))
            .filter(|piece| !self.have.contains(*piece) && due(piece))
            .take(RUNS_PER_MESSAGE_MAX)
            .map(|piece| Run { first: piece, end: piece + 1 })
            .collect();
        mail.push_back((home, Message::Complain { digest: self.digest, class, about, why, missing }));
    }

    /// Those behind the present one are what the list of members says now.
    fn refresh_homes(&mut self, present: Vec<PeerId>) {
        let tried = match self.standing {
            Standing::Joining(rank) => rank + 1,
            Standing::Joined | Standing::Alone(_) => 1,
        };
        self.homes.truncate(tried);
        let fresh: Vec<_> = present.into_iter().filter(|h| !self.homes.contains(h)).collect();
        self.homes.extend(fresh);
    }

    fn next_home(&mut self, now: Time, mail: &mut Mail) {
        let next = match self.standing {
            Standing::Joining(rank) => rank + 1,
            // The one that was in use is gone.
            _ if !self.homes.is_empty() => {
                self.homes.remove(0);
                self.lost_homes = true;
                0
            }
            _ => 0,
        };
        if next < self.homes.len() {
            self.join(now, next, mail);
        } else {
            self.handle_alone(LeaseEnd::Denied, mail);
        }
    }

    fn join(&mut self, now: Time, rank: usize, mail: &mut Mail) {
        self.standing = Standing::Joining(rank);
        (self.asked, self.heard) = (now, now);
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
            insists: rank > 0 || self.lost_homes,
        };
        mail.push_back((home, join));
        // The hashes of what it fetched go with it: the new home has no list.
        if self.was_in_a_book {
            for (lease, work) in &self.leases {
                let entries = self.list.entries(work.run.first..work.at);
                mail.push_back((
                    home,
                    Message::Report { digest: self.digest, lease: *lease, entries, busy: false },
                ));
            }
        }
    }

    // ---- subscriptions ----

    fn set_feeds(&mut self, class: u8, mut feeds: Vec<Feed>, mail: &mut Mail) {
        feeds.truncate(FEEDS_PER_CLASS_MAX);
        let at = usize::from(class);
        let few_left = self.classes[at].total - self.classes[at].got <= ENDGAME_PIECES;
        let old = std::mem::take(&mut self.classes[at].sources);
        let mut sources: Vec<Source> = Vec::new();
        for Feed { peer, run } in feeds {
            match sources.iter_mut().find(|s| s.peer == peer) {
                Some(source) => source.runs.push(run),
                None => {
                    let backlog = old.iter().find(|s| s.peer == peer).map_or(0, |s| s.backlog);
                    sources.push(Source { peer, runs: vec![run], backlog, failed: false });
                }
            }
        }
        for source in &old {
            let stays = sources.iter().any(|s| s.peer == source.peer);
            // The last pieces may come from the old feed or from the new one, whichever is first.
            if !stays && few_left && !sources.is_empty() {
                self.classes[at].former.push(source.peer);
            } else if !stays {
                mail.push_back((source.peer, Message::Unsubscribe { digest: self.digest, class }));
            }
        }
        for source in &sources {
            let before = old.iter().find(|s| s.peer == source.peer);
            if before.is_none_or(|s| s.runs != source.runs || s.failed) {
                self.subscribe(class, source, before.is_some(), mail);
            }
        }
        self.classes[at].former.retain(|peer| sources.iter().all(|s| s.peer != *peer));
        self.classes[at].sources = sources;
    }

    fn subscribe(&self, class: u8, source: &Source, was_open: bool, mail: &mut Mail) {
        let (digest, size, classes) = (self.digest, self.size, self.classes.len() as u8);
        let (runs, unlisted) = (self.missing_runs(class, source), self.list.unlisted());
        if !runs.is_empty() {
            mail.push_back((
                source.peer,
                Message::Subscribe { digest, size, classes, class, runs, unlisted },
            ));
        } else if was_open {
            mail.push_back((source.peer, Message::Unsubscribe { digest, class }));
        }
    }

    /// What a feed shall send: the pieces of the class that are missing and that this node does not fetch itself. Pieces of
    /// other classes may lie in the runs; they are not meant.
    fn missing_runs(&self, class: u8, source: &Source) -> Vec<Run> {
        let classes = self.classes.len() as u32;
        let mut runs: Vec<Run> = Vec::new();
        for run in source.runs.iter().flat_map(|run| self.without_own(*run)) {
            let first = run.first + (u32::from(class) + classes - run.first % classes) % classes;
            let mut previous = None;
            for piece in (first..run.end).step_by(classes as usize).filter(|p| !self.have.contains(*p)) {
                let goes_on = piece >= classes && previous == Some(piece - classes);
                let full = runs.len() == RUNS_PER_MESSAGE_MAX;
                match runs.last_mut().filter(|_| goes_on || full) {
                    Some(last) => last.end = piece + 1,
                    None => runs.push(Run { first: piece, end: piece + 1 }),
                }
                previous = Some(piece);
            }
        }
        runs
    }

    /// A run without what this node fetches itself.
    fn without_own(&self, run: Run) -> Vec<Run> {
        let mut rest = vec![run];
        for work in self.leases.values() {
            rest = rest
                .into_iter()
                .flat_map(|r| {
                    let before = Run { first: r.first, end: r.end.min(work.run.first) };
                    let after = Run { first: r.first.max(work.run.end), end: r.end };
                    [before, after]
                })
                .filter(|r| !r.is_empty())
                .collect();
        }
        rest
    }

    /// What this node fetches itself has changed: its feeds send the rest.
    pub fn resubscribe(&mut self, mail: &mut Mail) {
        for (class, state) in (0..).zip(&self.classes) {
            state.sources.iter().for_each(|source| self.subscribe(class, source, true, mail));
        }
    }

    fn forget_source(&mut self, class: u8, peer: &PeerId, mail: &mut Mail) {
        self.classes[usize::from(class)].sources.retain(|s| s.peer != *peer);
        mail.push_back((*peer, Message::Unsubscribe { digest: self.digest, class }));
    }

    fn drop_feeds(&mut self, mail: &mut Mail) {
        for (number, class) in (0..).zip(&mut self.classes) {
            // Also those that have sent everything: what they were asked for may have come from others.
            for peer in class.sources.drain(..).map(|s| s.peer).chain(class.former.drain(..)) {
                mail.push_back((peer, Message::Unsubscribe { digest: self.digest, class: number }));
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

/// What a class is compared with.
#[derive(Clone, Copy)]
struct View {
    /// Median of the shares that the classes have.
    shares: f64,
    /// Median of the pieces that unfinished classes gained since they were last compared.
    gains: f64,
    /// Whether enough time has passed to compare what they gained.
    compares: bool,
    receives_slowly: bool,
    /// Whether a silent feed can be told from a source that sends nothing.
    moves: bool,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
