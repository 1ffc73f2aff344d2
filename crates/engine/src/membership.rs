//! Membership: who is there?
//!
//! Every member knows every member. The protocol is SWIM (Das, Gupta and Motivala, 2002) with suspicion and gossip, by
//! `foca`; this module gives it time, chance, packets and a memory, and adds what a cluster of nodes that come and go at
//! once needs: whole lists for whoever joins or finds that its list differs, attempts to reach those that are gone, a
//! question at once when a connection breaks, and lists at a bounded rate.
//!
//! It is a machine of its own beside the [`Engine`](crate::Engine), of the same shape: [`Membership::handle`], then
//! [`Membership::poll_output`] until it is empty, and [`Membership::next_wakeup`]. Invariant: whatever members send, no
//! member can be made to panic, to remember more than its bounds, or to hold a list on which it is not itself.
//!
//! Admission is not decided here: whoever has a connection is a member, and a member is believed when it says that
//! another is gone. The other will object, and come back as its next generation.

mod acquaintances;
mod book;
mod chance;
mod clock;
mod config;
mod details;
mod doubts;
mod identity;
mod io;
mod partners;
mod probes;
mod reach;
mod settle;
mod suspects;
mod timers;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foca::{AccumulatingRuntime, Foca, Message, NoCustomBroadcast, State, Timer};

use crate::limits::{
    DOUBTS_MAX, ROSTER_PAUSE, SILENCE_MAX, SUSPICION, SYNC_CALM, SYNC_PAUSE_FIRST, SYNC_PAUSE_MAX,
};
use crate::peer::{Member, PeerId};
use crate::time::Time;

use acquaintances::Acquaintances;
use book::{Book, Entry};
use chance::Chance;
use clock::Clock;
pub use details::MemberFault;
use doubts::Doubts;
use identity::Identity;
pub use io::{Event, Input, Output};
use partners::Partners;
use probes::Probes;
use reach::Reach;
use suspects::Suspects;
use timers::Timers;
pub use wire::PacketFault;
use wire::{Codec, KIND_PING};

/// What one node knows of the others. See the crate's head for how it is driven.
pub struct Membership {
    foca: Foca<Identity, Codec, Chance, NoCustomBroadcast>,
    /// What `foca` wants done; empty between two inputs.
    wishes: AccumulatingRuntime<Identity>,
    clock: Clock,
    timers: Timers,
    book: Book,
    reach: Reach,
    doubts: Doubts,
    suspects: Suspects,
    probes: Probes,
    partners: Partners,
    acquaintances: Acquaintances,
    /// When those that are gone are looked through next.
    forget_due: Time,
    /// When something last came from a member.
    heard: Time,
    chance: Chance,
    /// Last change of the list, as far as comparing it is concerned.
    changed: Time,
    /// When the others are shown our list, after it has changed.
    show_due: Option<Time>,
    sync_next: Time,
    sync_pause: Duration,
    roster_last: Option<Time>,
    roster_due: Option<Time>,
    has_left: bool,
    out: VecDeque<Output>,
}

impl Membership {
    /// A node that knows only itself. All its choices follow from `seed`, which should differ from node to node.
    pub fn new(now: Time, me: Member, seed: u64) -> Result<Self, MemberFault> {
        details::check(&me)?;
        let me = Arc::new(me);
        let mut chance = Chance::new(seed);
        let for_foca = Chance::new(chance.next());
        let mut membership = Membership {
            foca: Foca::new(Identity::new(Arc::clone(&me)), config::config(), for_foca, Codec),
            wishes: AccumulatingRuntime::new(),
            clock: Clock::default(),
            timers: Timers::default(),
            book: Book::new(me),
            reach: Reach::default(),
            doubts: Doubts::default(),
            suspects: Suspects::default(),
            probes: Probes::default(),
            partners: Partners::default(),
            acquaintances: Acquaintances::default(),
            forget_due: now,
            heard: now,
            chance,
            changed: now,
            show_due: None,
            sync_next: now,
            sync_pause: SYNC_PAUSE_FIRST,
            roster_last: None,
            roster_due: Some(now),
            has_left: false,
            out: VecDeque::new(),
        };
        membership.hand_out(now);
        membership.plan();
        Ok(membership)
    }

    // ---- getters ----

    /// This node, as the others are told.
    pub fn me(&self) -> &Arc<Member> {
        self.book.me()
    }

    /// Number of members that are alive, this one included.
    pub fn members(&self) -> usize {
        self.book.living() + 1
    }

    /// Members that are taken for gone unless they object.
    pub fn suspected(&self) -> impl Iterator<Item = PeerId> + '_ {
        let suspected = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        suspected.map(|member| member.id().peer())
    }

    /// Members that are gone and not forgotten, ascending by name, with the time when they went.
    pub fn lost(&self) -> impl Iterator<Item = (&Arc<Member>, Time)> {
        self.book.lost_since()
    }

    /// Fingerprint of the list of members: nodes that hold equal lists have equal ones.
    pub fn view(&self) -> u64 {
        self.book.view()
    }

    /// When [`Input::Wakeup`] is wanted if nothing happens before.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.clock.wakeup()
    }

    // ---- inputs ----

    /// Takes in what happened. Drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.has_left {
            return;
        }
        let now = self.clock.read(now);
        self.pass_time(now);
        match input {
            Input::Contact { peer } => self.handle_contact(now, peer),
            Input::Packet { from, bytes } => {
                if let Err(fault) = self.handle_packet(now, from, &bytes) {
                    self.out.push_back(Output::Event(Event::Refused { from, fault }));
                }
            }
            Input::Unreachable { peer } => self.handle_unreachable(now, peer),
            Input::Update(member) => self.handle_update(now, member),
            Input::Wakeup => {}
            Input::Leave => self.handle_leave(now),
        }
        if !self.has_left {
            self.reach.plan(now, &self.book, &mut self.chance);
            self.acquaintances.plan(now, self.changed, &self.book, &mut self.chance);
            self.hand_out(now);
        }
        self.plan();
    }

    /// The next thing to do, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn handle_contact(&mut self, now: Time, peer: PeerId) {
        if peer != self.me().peer && !self.book.is_living(&peer) {
            self.reach.add(peer);
            self.announce(now, peer);
        }
    }

    fn handle_packet(&mut self, now: Time, from: PeerId, bytes: &[u8]) -> Result<(), PacketFault> {
        let packet = wire::decode(bytes)?;
        let header = &packet.header;
        let me = self.me().peer;
        if header.src.peer() != from || from == me || header.dst.peer() != me {
            return Err(PacketFault::Misdirected);
        }
        if self.book.is_full() && self.book.get(&from).is_none() {
            return Err(PacketFault::Full);
        }
        let news = self.book.news(&packet.updates)?;
        self.doubts.dispel(&from);
        self.heard = now;
        if let Message::Ack(number) = header.message
            && let Some(after) = self.probes.answered(now, from, number)
        {
            self.out.push_back(Output::Answered { peer: from, after });
        }

        let of_me = || packet.updates.iter().filter(|update| update.peer == me);
        let latest = of_me().map(|update| update.generation).chain([header.dst.generation()]).max();
        self.outlive(now, latest.unwrap_or(0));
        let generation = self.me().generation;
        let is_announce = header.message == Message::Announce;
        if header.dst.generation() != generation && !is_announce {
            // It was sent to an earlier life, by somebody who has not heard of this one.
            return Ok(());
        }

        let handled = self.foca.handle_data(packet.header_bytes, &mut self.wishes);
        self.settle(now, Some(from));
        handled.map_err(|_| PacketFault::Malformed)?;
        if !self.is_current(&header.src) {
            self.tell_of_later_life(now, &header.src);
            return Ok(());
        }
        self.partners.add(from);
        self.acquaintances.heard(from);
        if self.me().generation != generation {
            // It said that this node is dead, which is all it has to say.
            return Ok(());
        }
        let myself = Identity::new(Arc::clone(self.me()));
        let of_this_life = of_me().filter(|update| update.generation == generation);
        let of_this_life: Vec<_> = of_this_life
            .map(|update| foca::Member::new(myself.clone(), update.incarnation, update.state))
            .collect();
        self.take_in(now, &news, header.message == Message::Feed, from);
        self.apply(now, of_this_life, false, Some(from));
        self.compare(now, &header.src, packet.view);
        Ok(())
    }

    fn handle_unreachable(&mut self, now: Time, peer: PeerId) {
        self.partners.end(&peer);
        if self.book.is_living(&peer) && self.doubts.begin(now, peer) {
            self.ask(now, &peer);
        }
    }

    /// Asks a member for a sign of life.
    fn ask(&mut self, now: Time, peer: &PeerId) {
        if let Some(to) = self.book.get(peer).map(Entry::identity) {
            self.compose(now, KIND_PING, &to, &[]);
        }
    }

    fn handle_update(&mut self, now: Time, member: Member) {
        if let Err(fault) = details::check(&member) {
            self.out.push_back(Output::Event(Event::UpdateRefused(fault)));
            return;
        }
        let me = self.me();
        let Some(next) = me.generation.checked_add(1) else { return };
        let member = Member { peer: me.peer, generation: member.generation.max(next), ..member };
        self.become_another(now, member);
    }

    fn handle_leave(&mut self, now: Time) {
        // Fails only where this node's details cannot be encoded, and those have been checked.
        let _ = self.foca.leave_cluster(&mut self.wishes);
        self.settle(now, None);
        self.has_left = true;
        self.timers.clear();
        self.reach = Reach::default();
        self.doubts = Doubts::default();
        self.suspects = Suspects::default();
        self.probes = Probes::default();
        self.partners = Partners::default();
        self.acquaintances = Acquaintances::default();
        (self.show_due, self.roster_due) = (None, None);
    }

    // ---- time ----

    fn plan(&mut self) {
        let of_parts = [self.timers.next_wakeup(), self.reach.next_wakeup(), self.doubts.next_wakeup()];
        let of_parts = of_parts.into_iter().chain([
            self.suspects.next_wakeup(),
            self.probes.next_wakeup(),
            self.acquaintances.next_wakeup(),
        ]);
        let wakeups = of_parts.chain([self.show_due, self.roster_due, self.silence_due()]);
        self.clock.plan(wakeups.flatten().min());
    }

    fn pass_time(&mut self, now: Time) {
        while let Some(timer) = self.timers.pop(now) {
            if self.has_objected(&timer) {
                continue;
            }
            // A timer of an earlier state is refused, and that is all there is to it.
            let _ = self.foca.handle_timer(timer, &mut self.wishes);
            self.settle(now, None);
        }
        if self.show_due.is_some_and(|due| due <= now) {
            self.show_due = None;
            // Whoever has missed something sees it by the view. Cannot fail: this node's details have been checked.
            let _ = self.foca.gossip(&mut self.wishes);
            self.settle(now, None);
        }
        for peer in self.doubts.due(now) {
            self.suspect(now, peer);
        }
        for (id, incarnation) in self.suspects.due(now) {
            self.tell_suspect(now, id, incarnation);
        }
        while let Some(peer) = self.probes.unanswered(now) {
            if self.book.is_living(&peer) {
                self.out.push_back(Output::Reconnect { peer });
            }
        }
        if self.silence_due().is_some_and(|due| due <= now) {
            self.doubt_everybody(now);
        }
        for peer in self.reach.due(now, &self.book, &mut self.chance) {
            self.announce(now, peer);
        }
        if let Some(peer) = self.acquaintances.due(now, self.changed, &self.book, &mut self.chance) {
            self.ask(now, &peer);
        }
    }

    /// Whether it is the verdict over a member that is not suspected any more. `foca` would leave it on the list, but tell it
    /// all the same that it is dead: it would begin another life, and lose all that it sends and receives.
    fn has_objected(&self, timer: &Timer<Identity>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        let suspicion = foca::Member::new(member_id.clone(), *incarnation, State::Suspect);
        !self.is_held(&suspicion)
    }

    /// Whether this is still so by the list.
    fn is_held(&self, suspicion: &foca::Member<Identity>) -> bool {
        self.foca.iter_members().any(|member| member == suspicion)
    }

    /// When everybody is to be doubted, or the next of them.
    fn silence_due(&self) -> Option<Time> {
        let may_ask = self.book.living() > 0 && !self.has_left && self.doubts.next_wakeup().is_none();
        may_ask.then(|| self.heard + SILENCE_MAX)
    }

    fn doubt_everybody(&mut self, now: Time) {
        let unsuspected = self.foca.iter_members().filter(|member| member.state() == State::Alive);
        let peers: Vec<_> = unsuspected.take(DOUBTS_MAX).map(|member| member.id().peer()).collect();
        peers.iter().for_each(|peer| self.handle_unreachable(now, *peer));
        if peers.is_empty() {
            // All are suspected, and will be gone in a moment.
            self.heard = now;
        }
    }

    fn suspect(&mut self, now: Time, peer: PeerId) {
        let found = self.foca.iter_members().find(|member| member.id().peer() == peer);
        let Some((id, incarnation)) = found.map(|member| (member.id().clone(), member.incarnation())) else {
            return;
        };
        self.apply(now, vec![foca::Member::new(id.clone(), incarnation, State::Suspect)], true, None);
        let token = self.timers.token();
        self.set_timer(now, SUSPICION, Timer::ChangeSuspectToDown { member_id: id, incarnation, token });
    }

    /// Asks a suspected member for its objection, unless it has objected.
    fn tell_suspect(&mut self, now: Time, id: Identity, incarnation: foca::Incarnation) {
        let suspicion = foca::Member::new(id.clone(), incarnation, State::Suspect);
        if self.is_held(&suspicion) {
            self.compose(now, KIND_PING, &id, &[suspicion]);
        } else {
            self.suspects.end(&id.peer());
        }
    }

    // ---- news ----

    /// Whether a sender is on the list in this very life.
    fn is_current(&self, sender: &Identity) -> bool {
        let entry = self.book.get(&sender.peer());
        entry.is_some_and(|entry| entry.living && entry.member.generation == sender.generation())
    }

    /// A list is news to the one who asked for it and to nobody else, so of a list only the deaths are passed on.
    fn take_in(&mut self, now: Time, news: &[foca::Member<Identity>], is_list: bool, from: PeerId) {
        news.iter().for_each(|member| self.book.note(member, now));
        let (deaths, births): (Vec<_>, Vec<_>) =
            news.iter().cloned().partition(|member| member.state() == State::Down);
        self.apply(now, births, !is_list, Some(from));
        self.apply(now, deaths, true, Some(from));
    }

    fn apply(&mut self, now: Time, news: Vec<foca::Member<Identity>>, spread: bool, from: Option<PeerId>) {
        if !news.is_empty() {
            // Fails only where something that was decoded cannot be encoded.
            let _ = self.foca.apply_many(news.into_iter(), spread, &mut self.wishes);
            self.settle(now, from);
        }
    }

    /// A sender in an earlier life (its clock went backwards between two starts) learns which life it has to beat.
    fn tell_of_later_life(&mut self, now: Time, sender: &Identity) {
        let Some(entry) = self.book.get(&sender.peer()) else { return };
        if entry.member.generation > sender.generation() {
            let later = foca::Member::alive(entry.identity());
            self.compose(now, wire::KIND_GOSSIP, sender, &[later]);
        }
    }

    /// Begins a life later than `generation`, if that is not an earlier one.
    fn outlive(&mut self, now: Time, generation: u64) {
        if generation > self.me().generation
            && let Some(generation) = generation.checked_add(1)
        {
            self.become_another(now, Member { generation, ..Member::clone(self.me()) });
            self.out.push_back(Output::Event(Event::Renewed { generation }));
        }
    }

    fn become_another(&mut self, now: Time, me: Member) {
        let me = Arc::new(me);
        self.book.set_me(Arc::clone(&me));
        self.mark_changed(now);
        // Fails only where this node's details cannot be encoded, and those have been checked.
        let _ = self.foca.change_identity(Identity::new(me), &mut self.wishes);
        // Lets it notice that it is not alone.
        let _ = self.foca.apply_many(std::iter::empty(), false, &mut self.wishes);
        self.settle(now, None);
    }

    /// A packet of a member whose list differs from ours: if that lasts, its list is asked for.
    fn compare(&mut self, now: Time, sender: &Identity, view: u64) {
        if view == self.view() {
            self.sync_pause = SYNC_PAUSE_FIRST;
        } else if self.changed + SYNC_CALM <= now && self.sync_next <= now {
            self.sync_next = now + self.sync_pause;
            self.sync_pause = (self.sync_pause * 2).min(SYNC_PAUSE_MAX);
            self.announce(now, sender.peer());
        }
    }

    fn announce(&mut self, now: Time, peer: PeerId) {
        let generation = self.book.get(&peer).map_or(0, |entry| entry.member.generation);
        // Fails only where this node's details cannot be encoded, and those have been checked.
        let _ = self.foca.announce(Identity::bare(peer, generation), &mut self.wishes);
        self.settle(now, None);
    }

    // ---- lists ----

    fn mark_changed(&mut self, now: Time) {
        self.changed = now;
        // By then the others are calm as well, and judge what they see.
        self.show_due = Some(now + 2 * SYNC_CALM);
        // If it was a comparison that brought the change, another one may bring more.
        self.sync_next = now;
        self.sync_pause = SYNC_PAUSE_FIRST;
        if self.roster_due.is_none() {
            self.roster_due = Some(self.roster_last.map_or(now, |last| now.max(last + ROSTER_PAUSE)));
        }
    }

    fn hand_out(&mut self, now: Time) {
        if self.roster_due.is_some_and(|due| due <= now) {
            self.roster_due = None;
            self.roster_last = Some(now);
            self.out.push_back(Output::Roster(Arc::new(self.book.roster())));
        }
    }
}
