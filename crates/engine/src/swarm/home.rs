//! Homes: the book of a blob, and what its keeper tells.
//!
//! The first living home of a digest knows who has the blob and who is receiving it, decides who feeds whom
//! ([`forest`]) and who fetches upstream ([`leases`]), and hands out the list of piece hashes. It holds no byte of the
//! blob. Losing it costs time and perhaps some duplicate bytes: whoever misses it joins at the next one.
//!
//! Invariant: a book speaks only to members that have spoken to it.

pub mod forest;
pub mod leases;

pub mod account;
mod complaints;
mod feeds;
mod hearings;
mod joining;
mod lists;
mod rivals;
mod roll;
mod succession;
mod trust;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::Digest;
use crate::limits::{BOOKS_MAX, ENTRIES_PER_FRAME_MAX, HOLDERS_PER_BLOB_MAX, KNOWN_MAX, ROLL_PAUSE};
use crate::peer::{PeerId, Roster};
use crate::pieces::piece_count;
use crate::swarm::classes::class_count;
use crate::swarm::list::PieceList;
use crate::time::Time;
use crate::wire::{Complaint, Entry, Feed, LeaseEnd, LeaseId, Message, Run};

use forest::{Forest, Node};
use hearings::Hearings;
use leases::{Action, Leases};
use rivals::{Asked, Rivals, StandIn};
use succession::Census;
use trust::Distrust;

pub use joining::Joining;
pub use rivals::Told;

/// Stands for leases of homes before this one.
const EPOCH_BEFORE: u64 = u64::MAX;

/// Messages to send, in order.
pub type Mail = VecDeque<(PeerId, Message)>;

/// The book of one blob with members that are receiving it.
struct Book {
    me: PeerId,
    /// See [`Home`].
    life: u64,
    digest: Digest,
    size: u64,
    pieces: u32,
    forest: Forest,
    leases: Leases,
    list: PieceList,
    /// What each lease has brought or brings, and who has it: the roots are fed from these.
    brought: BTreeMap<LeaseId, Feed>,
    /// Members that were told to fetch and whose pieces make up the list.
    reporters: BTreeSet<PeerId>,
    /// Members that say that their source, or one that has everything, is silent, with the class: the piece that they wait for, and since
    /// when.
    silences: BTreeMap<(Node, u8), (u32, Time)>,
    /// Members that have everything and send nothing, with those to whom they do not.
    mute: BTreeMap<Node, BTreeSet<Node>>,
    hearings: Hearings,
    accusers: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Members that have told or sent something wrong of this blob: they fetch nothing and report nothing any more.
    distrusted: BTreeSet<PeerId>,
    /// When the last of them was found out.
    distrusted_at: Option<Time>,
    /// Times the list was put right.
    repairs: u32,
    /// Complaints about wrong bytes after which pieces are fetched again.
    refetches: u32,
    /// Number of the present list.
    list_number: u64,
    /// Whether somebody has received everything by this list and found it right.
    attested: bool,
    /// Members that have found it wrong.
    mismatched: BTreeSet<PeerId>,
    census: Option<Census>,
    asked: Option<Asked>,
    /// Better homes that others have named, and that were asked whether they are.
    named: BTreeSet<PeerId>,
    stands_in: Option<StandIn>,
    /// A member that was asked to take the hashes of what it has.
    listing: Option<PeerId>,
    /// Members that wait for the complete list, and whether they follow it as it comes because they know the rest.
    unlisted: BTreeMap<PeerId, bool>,
    /// Receivers that were asked for the hashes of what they have, because a home that knew them is gone.
    reporters_of_lists: BTreeSet<PeerId>,
    asked_last: Option<PeerId>,
    /// Members that had less than most others when this home took over.
    behind: BTreeSet<PeerId>,
    asked_for_hashes: Option<Time>,
    /// When pieces were last reported.
    reported: Time,
    /// When receivers are asked next whether they still receive.
    roll_at: Time,
}

/// A blob that some members have and nobody receives.
#[derive(Clone, Debug, Default)]
struct Known {
    size: u64,
    holders: Vec<PeerId>,
}

/// All books that this node keeps.
pub struct Home {
    me: PeerId,
    /// Where the numbers of lists and of leases begin in this life of the node; 0 until the list of members names it.
    life: u64,
    books: BTreeMap<Digest, Book>,
    known: BTreeMap<Digest, Known>,
    distrusts: BTreeMap<Digest, Distrust>,
    rivals: Rivals,
}

impl Home {
    /// The books of `me`: none yet.
    pub fn new(me: PeerId) -> Self {
        let (books, known, distrusts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Home { me, life: 0, books, known, distrusts, rivals: Rivals::default() }
    }

    // ---- getters ----

    /// Blobs in whose books somebody is receiving.
    pub fn receiving_count(&self) -> usize {
        self.books.len()
    }

    /// Blobs of which it is known who has them.
    pub fn known_count(&self) -> usize {
        self.known.len()
    }

    /// Whether this node keeps a blob's book with receivers.
    pub fn keeps(&self, digest: &Digest) -> bool {
        self.books.contains_key(digest)
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.books.values().filter_map(Book::next_wakeup).min()
    }

    // ---- what members say ----

    /// See [`Message::Join`].
    pub fn join(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        joining: Joining,
        roster: &Roster,
        mail: &mut Mail,
    ) {
        let has_room = self.books.contains_key(&digest) || self.books.len() < BOOKS_MAX;
        if !has_room || !joining.is_fit() {
            return mail.push_back((from, Message::Alone { digest, end: LeaseEnd::Denied }));
        }
        let is_new = !self.books.contains_key(&digest);
        let (me, known, distrusts) = ((self.me, self.life), self.known.get(&digest), &mut self.distrusts);
        let book = self.books.entry(digest).or_insert_with(|| {
            let mut book = Book::new(now, me, digest, joining.size);
            if let Some(distrust) = distrusts.remove(&digest) {
                book.remember(now, distrust);
            }
            if joining.again || joining.insists {
                book.succeed(now);
            }
            for holder in known.into_iter().filter(|k| k.size == joining.size).flat_map(|k| &k.holders) {
                if roster.contains(holder) && *holder != from && !book.distrusted.contains(holder) {
                    book.admit_seed(*holder, roster);
                }
            }
            book
        });
        if book.size != joining.size {
            // Two members believe in two sizes: one of their manifests lies, and no list could serve both.
            return mail.push_back((from, Message::Alone { digest, end: LeaseEnd::Denied }));
        }
        if book.is_hopeless() {
            mail.push_back((from, Message::Alone { digest, end: LeaseEnd::GivenUp }));
            return self.close_if_done(&digest);
        }
        if is_new {
            self.ask_rivals(now, &digest, &from, roster, mail);
        }
        let Some(book) = self.books.get_mut(&digest) else { return };
        match book.wait_for_rivals(now, from, joining, roster, mail) {
            None => return,
            Some(joining) => book.join(now, from, joining, roster.zone(&from), mail),
        }
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// See [`Message::Report`].
    pub fn report(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        (lease, entries, busy): (LeaseId, Vec<Entry>, bool),
        mail: &mut Mail,
    ) {
        if let Some(book) = self.books.get_mut(&digest) {
            book.leases.told_busy(&from, busy);
            if entries.is_empty() {
                return book.leases.breathes(now, &lease, &from);
            }
            book.report(now, from, lease, entries, mail);
            book.advance(now, mail);
            self.close_if_done(&digest);
        }
    }

    /// See [`Message::Held`]: whoever has a lease works on it.
    pub fn held(&mut self, now: Time, from: &PeerId, digest: &Digest) {
        if let Some(book) = self.books.get_mut(digest) {
            book.leases.lives(now, from);
        }
    }

    /// See [`Message::Over`].
    pub fn over(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        (lease, at, end): (LeaseId, u32, LeaseEnd),
        mail: &mut Mail,
    ) {
        let Some(book) = self.books.get_mut(&digest) else { return };
        book.over(now, from, lease, at, end);
        if end == LeaseEnd::GivenUp {
            // Its goodbye was lost. Without this it would be the next candidate again.
            book.lose(&from);
        }
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// See [`Message::Complain`].
    pub fn complain(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        (class, about, why, missing): (u8, PeerId, Complaint, Vec<Run>),
        mail: &mut Mail,
    ) {
        let Some(book) = self.books.get_mut(&digest) else { return };
        book.complain(now, from, class, about, why, &missing, mail);
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// See [`Message::Prove`].
    pub fn prove(&mut self, now: Time, from: PeerId, digest: Digest, runs: &[Run], mail: &mut Mail) {
        let Some(book) = self.books.get_mut(&digest) else { return };
        let pieces = runs.iter().flat_map(|run| run.first..run.end.min(book.pieces));
        let entries = book.list.entries(pieces.take(ENTRIES_PER_FRAME_MAX));
        if entries.is_empty() {
            book.unlisted.entry(from).or_default();
            book.ask_for_list(mail);
            book.ask_somebody_for_hashes(now, from, mail);
        } else {
            book.send_entries(from, &entries, mail);
        }
    }

    /// See [`Message::Whole`].
    pub fn whole(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        size: u64,
        roster: &Roster,
        mail: &mut Mail,
    ) {
        self.announce(from, digest, size);
        let Some(book) = self.books.get_mut(&digest) else { return };
        if book.size == size {
            book.whole(from, roster);
            book.advance(now, mail);
        }
        self.close_if_done(&digest);
    }

    /// See [`Message::Mismatch`].
    pub fn mismatch(&mut self, now: Time, from: PeerId, digest: Digest, mail: &mut Mail) {
        let Some(book) = self.books.get_mut(&digest) else { return };
        book.mismatch(now, from, mail);
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// See [`Message::Leave`].
    pub fn leave(&mut self, now: Time, from: PeerId, digest: Digest, mail: &mut Mail) {
        let Some(book) = self.books.get_mut(&digest) else { return };
        // A lease that is still on its way would find it in the book again, if it comes back at once.
        book.take_leases(now, &from, mail);
        book.lose(&from);
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// See [`Message::Announce`].
    pub fn announce(&mut self, from: PeerId, digest: Digest, size: u64) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&digest) {
            return;
        }
        let known = self.known.entry(digest).or_default();
        if known.holders.is_empty() {
            known.size = size;
        }
        if known.size == size && known.holders.len() < HOLDERS_PER_BLOB_MAX && !known.holders.contains(&from)
        {
            known.holders.push(from);
        }
    }

    /// See [`Message::Withdraw`].
    pub fn withdraw(&mut self, now: Time, from: PeerId, digest: Digest, mail: &mut Mail) {
        if let Some(known) = self.known.get_mut(&digest) {
            known.holders.retain(|h| *h != from);
            if known.holders.is_empty() {
                self.known.remove(&digest);
            }
        }
        self.leave(now, from, digest, mail);
    }

    /// A member has gone: nobody is fed by it any more.
    pub fn lost(&mut self, now: Time, peer: &PeerId, mail: &mut Mail) {
        self.has_departed(*peer);
        for book in self.books.values_mut() {
            book.waits_no_more(peer);
            if book.forest.find(peer).is_some() {
                book.lose(peer);
                book.advance(now, mail);
            }
        }
        self.known.retain(|_, known| {
            known.holders.retain(|h| h != peer);
            !known.holders.is_empty()
        });
        self.close_done();
    }

    /// The digests of all books with receivers.
    pub fn receiving(&self) -> Vec<Digest> {
        self.books.keys().copied().collect()
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Time, mail: &mut Mail) {
        for book in self.books.values_mut() {
            if book.next_wakeup().is_some_and(|at| at <= now) {
                book.take_stalled(now, mail);
                book.advance(now, mail);
            }
        }
        self.close_done();
    }

    fn close_if_done(&mut self, digest: &Digest) {
        if self.books.get(digest).is_some_and(Book::is_done) {
            self.close(digest);
        }
    }

    fn close_done(&mut self) {
        let done: Vec<_> =
            self.books.values().filter(|book| book.is_done()).map(|book| book.digest).collect();
        done.iter().for_each(|digest| self.close(digest));
    }
}

impl Book {
    fn new(now: Time, (me, life): (PeerId, u64), digest: Digest, size: u64) -> Self {
        let pieces = piece_count(size) as u32;
        let epoch = trust::number(now, life);
        Book {
            me,
            life,
            digest,
            size,
            pieces,
            forest: Forest::new(class_count(pieces)),
            leases: Leases::new(epoch, pieces),
            list: PieceList::new(pieces),
            brought: BTreeMap::new(),
            reporters: BTreeSet::new(),
            silences: BTreeMap::new(),
            mute: BTreeMap::new(),
            hearings: Hearings::default(),
            accusers: BTreeMap::new(),
            distrusted: BTreeSet::new(),
            distrusted_at: None,
            repairs: 0,
            refetches: 0,
            list_number: epoch,
            attested: false,
            mismatched: BTreeSet::new(),
            census: None,
            asked: None,
            named: BTreeSet::new(),
            stands_in: None,
            listing: None,
            unlisted: BTreeMap::new(),
            reporters_of_lists: BTreeSet::new(),
            asked_last: None,
            behind: BTreeSet::new(),
            asked_for_hashes: None,
            reported: now,
            roll_at: now + ROLL_PAUSE,
        }
    }

    fn next_wakeup(&self) -> Option<Time> {
        let census = self.census.as_ref().map(|census| census.until);
        let asked = self.rivals_waited_for();
        let first = self.stands_in.as_ref().map(|stand_in| stand_in.ask_at);
        let others = [census, asked, first, self.hearings.next_wakeup(), self.leases.next_wakeup()];
        others.into_iter().flatten().chain([self.roll_at]).min()
    }

    fn all(&self) -> Run {
        Run { first: 0, end: self.pieces }
    }

    /// Whether nobody is receiving.
    fn is_done(&self) -> bool {
        self.forest.receiver_count() == 0 && self.waiting().next().is_none()
    }

    fn admit_seed(&mut self, holder: PeerId, roster: &Roster) {
        let node = self.forest.add(holder, roster.zone(&holder));
        self.forest.set_whole(node);
        self.leases.has(&[self.all()]);
    }

    fn join(&mut self, now: Time, from: PeerId, joining: Joining, zone: &str, mail: &mut Mail) {
        let is_new = self.forest.find(&from).is_none_or(|node| self.forest.is_gone(node));
        let node = self.forest.add(from, zone);
        if self.forest.is_whole(node) {
            // It has lost what it had.
            self.forest.remove(node);
            self.forest.add(from, zone);
        }
        for (lease, run) in joining.leases {
            let adopted = match self.has_elsewhere(run) || self.distrusted.contains(&from) {
                true => None,
                false => self.leases.adopt(now, lease, from, run),
            };
            let Some(run) = adopted else {
                mail.push_back((from, Message::Trim { digest: self.digest, lease, end: 0 }));
                continue;
            };
            self.brought.insert(lease, Feed { peer: from, run });
            self.reporters.insert(from);
            self.forest.set_source(node);
        }
        self.leases.has(&joining.have);
        if joining.again || self.census.is_some() {
            self.take_census(now, from, &joining.have);
        }
        if is_new {
            self.resume_feeds(node, joining.feeds);
        }
        // Whoever fetches everything that is missing needs no feed; the others are fed from the start.
        let mut granted = Mail::new();
        self.grant(now, &mut granted);
        if self.forest.find(&from).is_none() {
            // Nobody can fetch it.
            return mail.append(&mut granted);
        }
        if !self.leases.holds(&from) || !self.leases.is_covered_by(&from) {
            self.forest.attach_all(node);
        }
        let feeds = (0..self.forest.classes()).filter_map(|class| self.feeds(node, class)).collect();
        let (digest, classes, list) = (self.digest, self.forest.classes(), self.list_number);
        mail.push_back((from, Message::Welcome { digest, classes, list, feeds }));
        // Behind the Welcome: a member that has gone on to the next home takes no lease from one that has not welcomed it.
        mail.append(&mut granted);
        if self.forest.is_held() {
            return;
        }
        if self.list.is_complete() {
            self.send_list(from, mail);
        } else if self.forest.has_seeds() {
            self.send_list(from, mail);
            self.unlisted.insert(from, true);
            self.ask_for_list(mail);
        } else if self.lists_directly() {
            self.send_list(from, mail);
        }
        // What it was told just now need not be told again.
        let changed = self.forest.take_changed();
        self.tell_feeds(changed.into_iter().filter(|(n, _)| *n != node), mail);
    }

    fn over(&mut self, now: Time, from: PeerId, lease: LeaseId, at: u32, end: LeaseEnd) {
        self.leases.over(now, lease, &from, at, end);
        if let Some(feed) = self.brought.get_mut(&lease).filter(|f| f.peer == from) {
            feed.run.end = feed.run.end.min(at);
            if feed.run.is_empty() {
                self.brought.remove(&lease);
            }
        }
        if let Some(node) = self.forest.find(&from)
            && !self.leases.holds(&from)
        {
            self.forest.unset_source(node);
            let fetched: u32 =
                self.brought.values().filter(|f| f.peer == from).map(|f| f.run.end - f.run.first).sum();
            if fetched < self.pieces {
                self.forest.attach_all(node);
            }
            self.spare_source();
            self.level();
        }
    }

    fn whole(&mut self, from: PeerId, roster: &Roster) {
        self.waits_no_more(&from);
        if self.distrusted.contains(&from) {
            // Nobody is fed by it; but it does not receive any more.
            return self.lose(&from);
        }
        // One that has received it by this list, and found it right.
        let received = self.forest.find(&from).is_some_and(|node| !self.forest.is_whole(node));
        self.attested |= received && self.list.is_complete();
        let node = self.forest.add(from, roster.zone(&from));
        self.forest.set_whole(node);
        self.leases.has(&[self.all()]);
        self.unlisted.remove(&from);
    }

    fn lose(&mut self, peer: &PeerId) {
        self.waits_no_more(peer);
        self.leases.lost(peer);
        self.brought.retain(|_, feed| feed.peer != *peer);
        self.unlisted.remove(peer);
        if self.listing == Some(*peer) {
            self.listing = None;
        }
        if let Some(node) = self.forest.find(peer) {
            self.forest.remove(node);
        }
    }

    // ---- what follows ----

    fn advance(&mut self, now: Time, mail: &mut Mail) {
        if self.is_told(now) {
            self.finish_census(now, mail);
        }
        if self.rivals_waited_for().is_some_and(|until| until <= now) {
            self.begin(now, mail);
        }
        self.hear_complaints(now);
        self.grant(now, mail);
        let changed = self.forest.take_changed();
        self.tell_feeds(changed.into_iter(), mail);
        if !self.unlisted.is_empty() {
            self.ask_for_list(mail);
        }
        self.call_roll(now, mail);
        self.ask_first_again(now, mail);
    }

    fn grant(&mut self, now: Time, mail: &mut Mail) {
        let (forest, distrusted, behind) = (&self.forest, &self.distrusted, &self.behind);
        let salt = u64::from(self.digest.hash()[0]) << 8 | u64::from(self.digest.hash()[1]);
        let mut actions = self.leases.advance(now, |avoid| {
            let fit = |n: &Node| {
                let peer = forest.peer(*n);
                !avoid(&peer) && !distrusted.contains(&peer)
            };
            // One that receives slowly is better than nobody.
            let slow = |n: Node| forest.is_slow(n) || behind.contains(&forest.peer(n));
            let order = |n: &Node| (slow(*n), forest.busyness(*n, salt));
            forest.receivers().filter(fit).min_by_key(order).map(|n| forest.peer(n))
        });
        let idle = self.leases.active().next().is_none() && !self.leases.is_covered();
        let nobody = idle && self.forest.receivers().all(|n| distrusted.contains(&self.forest.peer(n)));
        if nobody || self.is_hopeless() {
            // Nobody is left whose word about the pieces is taken: each has to see for itself.
            actions.push(Action::GiveUp(LeaseEnd::GivenUp));
        }
        if actions.is_empty() {
            return;
        }
        for action in actions {
            self.carry_out(action, mail);
        }
        self.spare_source();
        self.level();
        let roots: Vec<_> = self.forest.fed_by_source().collect();
        self.tell_feeds(roots.into_iter(), mail);
    }

    /// Whoever alone fetches sends everything once to the roots, which is all that its link can do: it feeds nobody besides, also
    /// where it had become one of several and the others have ended.
    fn spare_source(&mut self) {
        let mut holders = self.leases.active().map(|(_, active)| active.holder);
        if let (Some(only), None) = (holders.next(), holders.next())
            && let Some(node) = self.forest.find(&only)
        {
            self.forest.relieve(node);
        }
    }

    /// Not at the end: what is on its way comes sooner from where it is.
    fn level(&mut self) {
        if !self.leases.is_there() {
            self.forest.level();
        }
    }

    fn carry_out(&mut self, action: Action, mail: &mut Mail) {
        let digest = self.digest;
        match action {
            Action::Grant { to, lease, run } => {
                self.brought.insert(lease, Feed { peer: to, run });
                self.reporters.insert(to);
                let node = self.forest.find(&to).expect("a candidate is in the forest");
                self.forest.set_source(node);
                if !self.leases.is_covered_by(&to) {
                    self.forest.attach_all(node);
                }
                mail.push_back((to, Message::Lease { digest, lease, run }));
            }
            Action::Trim { holder, lease, end } => {
                if let Some(feed) = self.brought.get_mut(&lease) {
                    let at = self.leases.first_missing(feed.run);
                    feed.run.end = feed.run.end.min(end.max(at));
                }
                if let Some(node) = self.forest.find(&holder) {
                    if !self.leases.holds(&holder) {
                        self.forest.unset_source(node);
                    }
                    self.forest.attach_all(node);
                }
                mail.push_back((holder, Message::Trim { digest, lease, end }));
            }
            Action::GiveUp(end) => {
                // The book ends with it: whoever asks later tries anew.
                let receivers: Vec<_> = self.forest.receivers().collect();
                for node in receivers {
                    mail.push_back((self.forest.peer(node), Message::Alone { digest, end }));
                    self.forest.remove(node);
                }
            }
        }
    }
}
