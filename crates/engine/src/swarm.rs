//! The swarm: what this node does with other members, for all blobs.
//!
//! It routes messages between three parts: [`exchange`] (receiving a blob), [`upload`] (sending pieces) and [`home`]
//! (keeping the book of a blob). What concerns a flight comes out as an [`Event`], which the engine carries to it.
//! A member that is its own home talks to itself by the same messages; they never leave the node.

pub mod classes;
pub mod exchange;
pub mod home;
pub mod list;
pub mod pace;
pub mod pieces;
pub mod upload;
pub mod warm;

mod announce;
mod gone;
mod members;
mod parts;
mod seeds;
mod silence;
mod spoiled;
mod unheard;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::engine::alone_pause;
use crate::homes::homes;
use crate::ids::{Digest, WarmSetId};
use crate::io::Output;
use crate::limits::{AHEAD_ROWS_MAX, MEMBERS_WAIT, RUNS_PER_MESSAGE_MAX};
use crate::name::Scope;
use crate::peer::{PeerId, Roster};
use crate::pieces::piece_count;
use crate::ranges::ByteRanges;
use crate::time::Time;
use crate::wire::{Hashes, LeaseEnd, Message, PieceHash, Refusal, Run, WarmFault, are_fit};

use announce::Announcements;
use classes::{RELAY, class_count};
use exchange::{Arrival, Exchange, Load, Standing};
use gone::Gone;
use home::{Home, Joining, Mail, Told};
use list::PieceList;
use pace::Paces;
use parts::{FormerMembers, discard, living_homes, may_be_home, received as received_bytes};
use pieces::PieceSet;
use seeds::Seed;
use silence::Silence;
use spoiled::Spoiled;
use unheard::Unheard;
use upload::{UploadId, Uploads};
use warm::{Asked, Desk, Warming};

/// What concerns a flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece that came from a member counts.
    Accepted(Digest, u32),
    /// All of a blob has left upstream.
    Left,
    /// What may be fetched upstream has changed.
    Leases(Digest),
    /// The swarm cannot help.
    Alone(Digest, LeaseEnd),
    /// Everything that was checked against the list is suspect.
    Restarted(Digest),
    /// A warm set wants a blob of this size, which may be fetched there.
    Warm(Digest, u64, Scope),
    /// No warm set wants the blob any more.
    Unwarm(Digest),
}

/// What a stream is opened for, see [`Message::Subscribe`].
#[derive(Clone, Debug)]
struct Wanted {
    size: u64,
    classes: u8,
    class: u8,
    runs: Vec<Run>,
    unlisted: Run,
}

/// See the module's head.
pub struct Swarm {
    me: PeerId,
    roster: Arc<Roster>,
    home: Home,
    exchanges: BTreeMap<Digest, Exchange>,
    uploads: Uploads,
    seeds: BTreeMap<Digest, Seed>,
    uses: u64,
    /// Streams that wait until it is known whether this node has the blob.
    inspecting: BTreeMap<Digest, Vec<(PeerId, Wanted)>>,
    /// Members that wait for the hashes of a blob that this node has.
    listing: BTreeMap<Digest, BTreeMap<PeerId, u32>>,
    gone: Gone,
    silence: Silence,
    unheard: Unheard,
    former: FormerMembers,
    spoiled: Spoiled,
    /// Until when a node without members waits for some.
    alone_until: Option<Time>,
    /// Whether that time has passed.
    waited: bool,
    announcements: Announcements,
    warming: Warming,
    paces: Paces,
    mail: Mail,
    events: VecDeque<Event>,
    effects: VecDeque<Output>,
}

impl Swarm {
    /// The swarm of a node that knows nobody yet.
    pub fn new(me: PeerId) -> Self {
        Swarm {
            me,
            roster: Arc::default(),
            home: Home::new(me),
            exchanges: BTreeMap::new(),
            uploads: Uploads::default(),
            seeds: BTreeMap::new(),
            uses: 0,
            inspecting: BTreeMap::new(),
            listing: BTreeMap::new(),
            gone: Gone::default(),
            silence: Silence::default(),
            unheard: Unheard::default(),
            former: FormerMembers::default(),
            spoiled: Spoiled::default(),
            alone_until: None,
            waited: false,
            announcements: Announcements::new(me),
            warming: Warming::new(me),
            paces: Paces::default(),
            mail: Mail::new(),
            events: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    // ---- getters ----

    /// This node's name.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// The members.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The warm sets.
    pub fn warming(&self) -> &Warming {
        &self.warming
    }

    /// The exchange of a blob that is being received.
    pub fn exchange(&self, digest: &Digest) -> Option<&Exchange> {
        self.exchanges.get(digest)
    }

    /// The books that this node keeps.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Streams to other members.
    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Whether there is anybody to exchange with.
    pub fn has_members(&self) -> bool {
        self.roster.len() > 1
    }

    /// Whether the node has just started and nobody has been found yet: a thousand that start together would otherwise
    /// ask upstream a thousand times before they know each other.
    pub fn awaits_members(&self, now: Time) -> bool {
        !self.has_members() && self.alone_until.is_none_or(|until| now < until)
    }

    /// The node has started: it waits for members for a while.
    pub fn start(&mut self, now: Time) {
        self.alone_until.get_or_insert(now + MEMBERS_WAIT);
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        let waiting = self.alone_until.filter(|_| !self.has_members() && !self.waited);
        self.next_wakeup_of_parts().into_iter().chain(waiting).min()
    }

    /// Whether the wait for members ends with this moment.
    pub fn ends_waiting(&mut self, now: Time) -> bool {
        let over = !self.waited && self.alone_until.is_some_and(|until| now >= until);
        self.waited |= over;
        over
    }

    fn next_wakeup_of_parts(&self) -> Option<Time> {
        let exchanges = self.exchanges.values().filter_map(Exchange::next_wakeup).min();
        let others = [
            self.home.next_wakeup(),
            self.announcements.next_wakeup(),
            self.warming.next_wakeup(),
            self.paces.next_wakeup(),
            self.silence.next_wakeup(),
            self.unheard.next_wakeup(),
        ];
        exchanges.into_iter().chain(others.into_iter().flatten()).min()
    }

    // ---- the node's own blobs ----

    /// A flight is ready to receive.
    pub fn begin(&mut self, now: Time, digest: Digest, size: u64, have: &ByteRanges) {
        let have = PieceSet::of_bytes(size, have);
        let homes = match self.spoiled.is_alone(now, &digest) {
            true => Vec::new(),
            false => living_homes(now, &digest, &self.roster, &self.gone),
        };
        // A better home that says nothing would be named by the one that is asked.
        let passes_over = self.passes_over(now, &digest);
        let mut exchange =
            Exchange::new(now, self.me, (digest, size), have, (homes, passes_over), &mut self.mail);
        exchange.set_spread(alone_pause(&digest, self.me, self.roster.len()));
        if self.silence.is_deaf() {
            exchange.set_deaf(now);
        }
        if let Standing::Alone(end) = exchange.standing() {
            self.events.push_back(Event::Alone(digest, end));
        }
        self.exchanges.insert(digest, exchange);
    }

    /// The flight has its blob in the store.
    pub fn complete(&mut self, now: Time, digest: Digest, size: u64) {
        let list = self.exchanges.remove(&digest).map(|mut exchange| {
            exchange.finish(&mut self.mail);
            discard(digest, &mut exchange, &mut self.effects);
            // The verdict over all may have overtaken the hashes of the last pieces.
            for piece in (0..exchange.have().total()).filter(|piece| !exchange.have().contains(*piece)) {
                self.uploads.offer(&digest, piece);
            }
            if let Some(home) = exchange.home() {
                self.mail.push_back((home, Message::Whole { digest, size }));
            }
            exchange.list().clone()
        });
        self.uploads.end_relay(&digest);
        self.seed(digest, size, list.filter(PieceList::is_complete));
        self.announce(now, digest, size);
    }

    /// The flight ends without its blob.
    pub fn abandon(&mut self, digest: &Digest) {
        let Some(mut exchange) = self.exchanges.remove(digest) else { return };
        exchange.leave(&mut self.mail);
        discard(*digest, &mut exchange, &mut self.effects);
        self.refuse_readers(digest);
    }

    /// The whole digest does not match although every piece matched the list.
    pub fn mismatch(&mut self, now: Time, digest: &Digest) {
        let Some(mut exchange) = self.exchanges.remove(digest) else { return };
        exchange.finish(&mut self.mail);
        discard(*digest, &mut exchange, &mut self.effects);
        if let Some(home) = exchange.home() {
            self.spoiled.add(now, *digest);
            self.mail.push_back((home, Message::Mismatch { digest: *digest }));
        }
        self.refuse_readers(digest);
    }

    /// The sources upstream have failed this node for all that it was to fetch.
    pub fn fetch_failed(&mut self, digest: &Digest, end: LeaseEnd) {
        if let Some(exchange) = self.exchanges.get_mut(digest) {
            exchange.end_all_leases(end, &mut self.mail);
            self.events.push_back(Event::Leases(*digest));
        }
    }

    /// A piece that was fetched upstream is there.
    pub fn fetched(&mut self, now: Time, digest: Digest, piece: u32, hash: PieceHash) {
        let Some(exchange) = self.exchanges.get_mut(&digest) else { return };
        let rows = self.uploads.waiting(&digest) / u32::from(class_count(exchange.have().total()));
        // What is slow on purpose is not made faster by more leases.
        let busy = rows > AHEAD_ROWS_MAX || self.paces.holds(&digest);
        exchange.handle_fetched(now, piece, hash, busy, &mut self.mail);
        discard(digest, exchange, &mut self.effects);
        self.uploads.offer(&digest, piece);
    }

    /// Bytes of a blob have come from upstream.
    pub fn fetched_bytes(&mut self, now: Time, digest: &Digest) {
        if let Some(exchange) = self.exchanges.get_mut(digest) {
            exchange.handle_bytes(now, &mut self.mail);
        }
    }

    /// A blob is in the store: the homes shall know.
    pub fn announce(&mut self, now: Time, digest: Digest, size: u64) {
        if self.announcements.add(now, &self.roster, digest, size) {
            self.home.announce(self.me, digest, size);
        }
    }

    /// A blob has left the store.
    pub fn withdraw(&mut self, digest: Digest) {
        self.seeds.remove(&digest);
        self.announcements.forget(&digest);
        self.warming.evicted(&digest);
        self.refuse_readers(&digest);
        for home in homes(&digest, &self.roster).iter() {
            self.mail.push_back((home, Message::Withdraw { blobs: vec![digest] }));
        }
    }

    /// Bytes that may be fetched upstream for a blob.
    pub fn fetchable(&self, digest: &Digest) -> Vec<std::ops::Range<u64>> {
        self.exchanges.get(digest).map(Exchange::fetchable).unwrap_or_default()
    }

    /// Whether all of a blob is known to have left upstream.
    pub fn has_left(&self, digest: &Digest) -> bool {
        self.exchanges.get(digest).is_some_and(Exchange::has_left)
    }

    // ---- warm sets ----

    /// See [`Input::Warm`](crate::Input::Warm).
    pub fn warm(&mut self, now: Time, set: WarmSetId, asked: Asked) {
        // What this node has of the set shall be known to the homes before the first target asks them.
        self.announcements.flush(&mut self.mail);
        self.with_warming(now, |warming, desk| warming.ask(desk, set, asked));
    }

    /// See [`Input::WarmCancel`](crate::Input::WarmCancel).
    pub fn cancel_warm(&mut self, now: Time, set: WarmSetId) {
        self.with_warming(now, |warming, desk| warming.cancel(desk, set));
    }

    /// A flight has ended.
    pub fn flight_over(&mut self, now: Time, digest: Digest, result: Result<(), WarmFault>) {
        self.with_warming(now, |warming, desk| warming.flight_over(desk, digest, result));
    }

    /// A blob of a warm set cannot be begun now.
    pub fn warm_postponed(&mut self, now: Time, digest: &Digest) {
        self.warming.postponed(now, digest);
    }

    /// The agent ends: no sets are taken on any more.
    pub fn drain(&mut self) {
        self.warming.drain();
    }

    fn with_warming(&mut self, now: Time, f: impl FnOnce(&mut Warming, &mut Desk<'_>)) {
        let exchanges = &self.exchanges;
        f(
            &mut self.warming,
            &mut Desk {
                now,
                roster: &self.roster,
                received: &|digest, size| exchanges.get(digest).map_or(0, |e| received_bytes(e.have(), size)),
                is_here: &|digest| exchanges.get(digest).is_some_and(Exchange::has_left),
                mail: &mut self.mail,
                events: &mut self.events,
                outputs: &mut self.effects,
            },
        );
    }

    // ---- the members ----

    /// A member has said something.
    pub fn hear(&mut self, now: Time, from: PeerId, message: Message) {
        use Message as M;
        self.gone.heard(now, &from);
        if from != self.me {
            self.hear_anybody(now, &from);
        }
        let mail = &mut self.mail;
        match message {
            // The membership is a machine of its own.
            M::Swim(_) => {}
            M::Join { digest, size, have, leases, again, insists, feeds } => {
                let joining = Joining { size, have, leases, again, insists, feeds };
                self.handle_join(now, from, digest, joining);
            }
            M::Report { digest, lease, entries, busy } => {
                self.home.report(now, from, digest, (lease, entries, busy), mail);
            }
            M::Over { digest, lease, at, end } => self.home.over(now, from, digest, (lease, at, end), mail),
            M::Complain { digest, class, about, why, missing } => {
                self.home.complain(now, from, digest, (class, about, why, missing), mail);
            }
            M::Prove { digest, runs } => self.home.prove(now, from, digest, &runs, mail),
            M::List { digest } => self.handle_list(from, digest),
            M::Whole { digest, size } => self.home.whole(now, from, digest, size, &self.roster, mail),
            M::Mismatch { digest } => self.home.mismatch(now, from, digest, mail),
            M::Leave { digest } => self.home.leave(now, from, digest, mail),
            M::Announce { blobs } => {
                for (digest, size) in blobs {
                    self.home.whole(now, from, digest, size, &self.roster, mail);
                }
            }
            // Nobody but another home has a book to hand over.
            M::Holders { digest, size, holders } if homes(&digest, &self.roster).contains(&from) => {
                self.home.handle_holders(digest, size, &holders, &self.roster);
            }
            M::Holders { .. } => {}
            M::Inquire { digest } => {
                let own = self.announcements.stored(&digest);
                self.home.inquired(now, from, (digest, own), &self.roster, mail);
            }
            M::Known { digest, size, holders, receiving, better } => {
                let told = Told { size, holders, receiving, better };
                self.home.told(now, from, digest, told, &self.roster, mail);
            }
            M::Withdraw { blobs } => {
                blobs.into_iter().for_each(|digest| self.home.withdraw(now, from, digest, mail));
            }
            M::Subscribe { digest, size, classes, class, runs, unlisted } => {
                let wanted = Wanted { size, classes, class, runs, unlisted };
                self.uploads.leave_behind(now, &from, (digest, class));
                self.handle_subscribe(from, digest, wanted);
            }
            M::Unsubscribe { digest, class } => {
                self.uploads.unsubscribe(&from, &digest, class);
                if let Some(waiting) = self.inspecting.get_mut(&digest) {
                    waiting.retain(|(peer, wanted)| *peer != from || wanted.class != class);
                }
            }
            M::Hashes(hashes) => self.handle_hashes(now, from, hashes),
            M::Hail => mail.push_back((from, Message::Here)),
            // It has been heard.
            M::Here => {}
            M::Held { digest } => self.handle_held(now, from, digest),
            M::Hurry { digest } => self.handle_hurry(from, digest),
            M::Warm(_)
            | M::WarmProgress { .. }
            | M::WarmRefuse { .. }
            | M::WarmCancel { .. }
            | M::WarmPace { .. } => {
                self.with_warming(now, |warming, desk| warming.hear(desk, from, message));
            }
            M::Welcome { digest, .. }
            | M::NotHome { digest, .. }
            | M::Feeds { digest, .. }
            | M::Lease { digest, .. }
            | M::Trim { digest, .. }
            | M::Alone { digest, .. }
            | M::Restart { digest }
            | M::Refuse { digest, .. } => self.hear_as_receiver(now, from, digest, message),
        }
    }

    fn hear_as_receiver(&mut self, now: Time, from: PeerId, digest: Digest, message: Message) {
        let is_question = matches!(&message, Message::Feeds { feeds, .. } if feeds.is_empty());
        let from_home = self.exchanges.get(&digest).is_some_and(|exchange| exchange.home() == Some(from));
        if is_question && !from_home {
            return self.tell_of_absence(from, digest);
        }
        if let Message::Lease { lease, run, .. } = message
            && !from_home
        {
            // A home that grants a lease to somebody who has left, or has another home, has to look elsewhere.
            let over = Message::Over { digest, lease, at: run.first, end: LeaseEnd::GivenUp };
            return self.mail.push_back((from, over));
        }
        let Some(exchange) = self.exchanges.get_mut(&digest) else { return };
        let mail = &mut self.mail;
        match message {
            Message::Refuse { class, .. } => exchange.handle_refused(now, &from, class, mail),
            Message::Welcome { classes, list, feeds, .. } => {
                let was_deaf = exchange.is_deaf();
                exchange.handle_welcome(now, from, (classes, list), feeds, mail);
                if was_deaf {
                    self.events.push_back(Event::Leases(digest));
                }
            }
            _ if !from_home => {}
            Message::NotHome { home, .. } => exchange.handle_not_home(now, from, home, mail),
            Message::Feeds { feeds, .. } => exchange.handle_feeds(now, feeds, mail),
            Message::Lease { lease, run, .. } if exchange.handle_lease(now, lease, run, mail) => {
                exchange.resubscribe(mail);
                self.events.push_back(Event::Leases(digest));
            }
            Message::Trim { lease, end, .. } => {
                exchange.handle_trim(now, lease, end, mail);
                self.events.push_back(Event::Leases(digest));
            }
            Message::Alone { end, .. } => {
                exchange.handle_alone(end, mail);
                self.events.push_back(Event::Alone(digest, end));
            }
            Message::Restart { .. } => {
                self.spoiled.add(now, digest);
                exchange.handle_restart(now, mail);
                discard(digest, exchange, &mut self.effects);
                self.events.push_back(Event::Restarted(digest));
            }
            _ => {}
        }
    }

    /// A home believes that this node receives a blob by its book: what it was told has been lost, or crosses the question.
    fn tell_of_absence(&mut self, home: PeerId, digest: Digest) {
        let message = match self.announcements.stored(&digest) {
            Some(size) => Message::Whole { digest, size },
            None => Message::Leave { digest },
        };
        self.mail.push_back((home, message));
    }

    // ---- bytes ----

    /// A piece has come from a member.
    pub fn arrived(&mut self, now: Time, from: PeerId, digest: Digest, piece: (u32, PieceHash, u32)) {
        self.hear_anybody(now, &from);
        let mail = &mut self.mail;
        let arrival = self.exchanges.get_mut(&digest).map(|exchange| {
            let arrival = exchange.handle_arrived(now, from, piece, mail);
            discard(digest, exchange, &mut self.effects);
            arrival
        });
        match arrival {
            Some(Arrival::Accepted) => self.accept(digest, piece.0, from),
            Some(Arrival::Pending) => {}
            Some(Arrival::Duplicate | Arrival::Wrong) | None => {
                self.effects.push_back(Output::Discard { digest, piece: piece.0, from });
            }
        }
    }

    fn accept(&mut self, digest: Digest, piece: u32, from: PeerId) {
        self.effects.push_back(Output::Place { digest, piece, from });
        self.events.push_back(Event::Accepted(digest, piece));
        self.uploads.offer(&digest, piece);
    }

    /// A piece has been sent, or has failed to be.
    pub fn sent(&mut self, now: Time, upload: UploadId) {
        self.uploads.sent(now, upload);
    }

    // ---- what follows ----

    /// Time has passed.
    pub fn advance(&mut self, now: Time) {
        self.advance_silence(now);
        self.advance_unheard(now);
        let (roster, gone, mail) = (&self.roster, &self.gone, &mut self.mail);
        let crowd = self.exchanges.values().filter(|exchange| !exchange.have().is_full()).count();
        let load = Load { crowd, excuse: self.silence.excuse(now) };
        for (digest, exchange) in &mut self.exchanges {
            if exchange.next_wakeup().is_none_or(|at| at > now) {
                continue;
            }
            let before = (exchange.leases().count(), exchange.is_deaf());
            exchange.advance(now, || living_homes(now, digest, roster, gone), load, mail);
            discard(*digest, exchange, &mut self.effects);
            if (exchange.leases().count(), exchange.is_deaf()) != before {
                self.events.push_back(Event::Leases(*digest));
            }
            if let Standing::Alone(end) = exchange.standing() {
                self.events.push_back(Event::Alone(*digest, end));
            }
        }
        self.home.excuse(self.silence.excuse_of_holders(now));
        self.home.advance(now, mail);
        for (digest, size) in self.announcements.advance(now, &self.roster, mail) {
            self.home.announce(self.me, digest, size);
        }
        self.with_warming(now, |warming, desk| warming.advance(desk));
    }

    /// Sends what is to be sent; messages to this node itself are heard at once.
    pub fn settle(&mut self, now: Time, out: &mut VecDeque<Output>) {
        while let Some((to, message)) = self.mail.pop_front() {
            if to == self.me {
                self.hear(now, to, message);
            } else {
                self.expect_answer(now, to, &message);
                out.push_back(Output::Tell { to, message });
            }
        }
        out.append(&mut self.effects);
        while let Some(send) = self.uploads.next(now, |digest| self.exchanges.contains_key(digest)) {
            out.push_back(Output::Upload(send));
        }
    }

    /// The next event for a flight.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ---- handlers ----

    fn handle_join(&mut self, now: Time, from: PeerId, digest: Digest, joining: Joining) {
        let first = self.home.first(now, &digest, &self.roster);
        // Who has tried those before this node is not sent round in a circle. Who was in a book and has lost its home may be alone with
        // that, and would fetch what others are fetching: it is sent back, unless this node cannot reach that home either.
        let is_lost = |home| joining.again && self.gone.contains(now, &home);
        let mine = first == Some(self.me) || joining.insists || first.is_some_and(is_lost);
        match first {
            Some(home) if !mine && home != from => {
                self.mail.push_back((from, Message::NotHome { digest, home }));
            }
            _ => {
                // One that is no home of its own blob was never told of it, nor yet one that has just become one.
                if let Some(size) = self.announcements.stored(&digest) {
                    self.home.announce(self.me, digest, size);
                }
                self.home.join(now, from, digest, joining, &self.roster, &mut self.mail);
                if let Some(first) = first.filter(|first| *first != self.me && !self.gone.is_lost(now, first))
                {
                    let wait = self.patience_with_first(now, &first);
                    self.home.ask_first(now, &digest, (first, wait), &self.roster, &mut self.mail);
                    self.unheard.begin(now, first, digest);
                }
            }
        }
    }

    fn handle_subscribe(&mut self, from: PeerId, digest: Digest, wanted: Wanted) {
        let pieces = piece_count(wanted.size) as u32;
        let (classes, class) = (wanted.classes, wanted.class);
        if !are_fit(&wanted.runs, wanted.size, RUNS_PER_MESSAGE_MAX)
            || classes != class_count(pieces)
            || class >= classes
        {
            return self.refuse(from, digest, class, Refusal::Unknown);
        }
        if !self.uploads.has_room(&from, &digest, class) {
            return self.refuse(from, digest, class, Refusal::Busy);
        }
        let (uploads, runs) = (&mut self.uploads, wanted.runs.clone());
        let list = if let Some(exchange) = self.exchanges.get(&digest).filter(|e| e.size() == wanted.size) {
            let have = exchange.have();
            uploads.subscribe(from, digest, class, classes, runs, |piece| have.contains(piece));
            Some(exchange.list())
        } else if let Some(seed) = self.seeds.get_mut(&digest).filter(|s| s.size == wanted.size) {
            self.uses += 1;
            seed.used = self.uses;
            uploads.subscribe(from, digest, class, classes, runs, |_| true);
            uploads.end_relay(&digest);
            seed.list.as_ref()
        } else {
            return self.inspect(from, digest, wanted);
        };
        if let Some(list) = list.filter(|_| class == RELAY) {
            let signed = list.signed(wanted.unlisted);
            self.mail.extend(signed.into_iter().map(|hashes| (from, Message::Hashes(hashes))));
        }
        self.tell_if_held(from, &digest);
    }

    /// See [`Message::Hashes`]. The driver has checked that the home has signed them, so it does not matter who sends them.
    fn handle_hashes(&mut self, now: Time, from: PeerId, hashes: Arc<Hashes>) {
        let digest = hashes.digest;
        let Some(exchange) = self.exchanges.get_mut(&digest) else { return };
        let (roster, former) = (&self.roster, &self.former);
        let is_home = |peer: &PeerId| may_be_home(&digest, peer, roster, former);
        let (judged, is_news) = exchange.handle_hashes(now, &hashes, is_home, &mut self.mail);
        if is_news {
            let readers = self.uploads.readers_of(&digest, RELAY).filter(|reader| *reader != from);
            self.mail.extend(readers.map(|reader| (reader, Message::Hashes(Arc::clone(&hashes)))));
        }
        if is_news && self.has_left(&digest) {
            self.events.push_back(Event::Left);
            self.with_warming(now, |warming, desk| warming.handle_here(desk, &digest));
        }
        for (piece, from, accepted) in judged {
            match accepted {
                true => self.accept(digest, piece, from),
                false => self.effects.push_back(Output::Discard { digest, piece, from }),
            }
        }
    }

    fn refuse(&mut self, to: PeerId, digest: Digest, class: u8, reason: Refusal) {
        self.mail.push_back((to, Message::Refuse { digest, class, reason }));
    }

    fn refuse_readers(&mut self, digest: &Digest) {
        for (to, class) in self.uploads.withdraw(digest) {
            self.refuse(to, *digest, class, Refusal::Unknown);
        }
    }
}
