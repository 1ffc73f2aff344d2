//! The machine: routes inputs to flights, and lets flights advance within the node's bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::flight::{Context, Flight, Phase};
use crate::ids::{Digest, FetchId, TicketId, WarmSetId};
use crate::io::{Input, Outcome, Output, PullFault};
use crate::limits::{
    ALONE_PAUSE_MAX, ALONE_PAUSE_PER_MEMBER, FETCHES_MAX, FLIGHTS_MAX, PREFETCH_FETCHES_MAX,
    PREFETCH_FLIGHTS_MAX, PREFETCH_FLIGHTS_PER_REGISTRY_MAX, SIZES_MAX, TICKETS_MAX,
};
use crate::name::{Registry, Scope};
use crate::peer::PeerId;
use crate::pieces::is_large;
use crate::prefetch::{Large, Prefetches};
use crate::swarm::pace::Flying;
use crate::swarm::pieces::piece_bytes;
use crate::swarm::warm::Asked;
use crate::swarm::{Event, Swarm};
use crate::time::Time;
use crate::wire::{LeaseEnd, WarmFault};

/// What an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Settings {
    /// Upstream transfers of this node at a time.
    pub fetches_max: usize,
    /// This node's name among the members; `None` if it works alone for good.
    pub peer: Option<PeerId>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { fetches_max: FETCHES_MAX, peer: None }
    }
}

/// The state of one node. See the crate's head for how it is driven.
pub struct Engine {
    settings: Settings,
    flights: BTreeMap<Digest, Flight>,
    /// Flights in the order they began: who came first is served first when transfers are scarce.
    births: BTreeMap<u64, Digest>,
    next_birth: u64,
    tickets: BTreeMap<TicketId, Digest>,
    fetches: BTreeMap<FetchId, Digest>,
    next_fetch: u64,
    /// Flights whose clients wait for a free place: while there are any, nobody else takes one.
    waiting: BTreeSet<Digest>,
    sizes: Sizes,
    prefetches: Prefetches,
    /// Whether a prefetch may begin that waited.
    prefetch_due: bool,
    swarm: Option<Swarm>,
    out: VecDeque<Output>,
    draining: bool,
    wakeup: Option<Time>,
    /// The time of the last input.
    last: Time,
}

/// Sizes that manifests have told, bounded; the oldest is forgotten first.
#[derive(Default)]
struct Sizes {
    by_digest: BTreeMap<Digest, u64>,
    order: VecDeque<Digest>,
}

impl Sizes {
    fn remember(&mut self, digest: Digest, size: u64) {
        if self.by_digest.insert(digest, size).is_none() {
            self.order.push_back(digest);
            if self.order.len() > SIZES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_digest.remove(&oldest);
            }
        }
    }
}

impl Engine {
    /// A node that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Engine {
            settings,
            flights: BTreeMap::new(),
            births: BTreeMap::new(),
            next_birth: 0,
            tickets: BTreeMap::new(),
            fetches: BTreeMap::new(),
            next_fetch: 0,
            waiting: BTreeSet::new(),
            sizes: Sizes::default(),
            prefetches: Prefetches::default(),
            prefetch_due: false,
            swarm: settings.peer.map(Swarm::new),
            out: VecDeque::new(),
            draining: false,
            wakeup: None,
            last: Time::ZERO,
        }
    }

    // ---- getters ----

    /// The flights under way, by digest.
    pub fn flights(&self) -> impl Iterator<Item = &Flight> {
        self.flights.values()
    }

    /// The flight of a blob, if it is under way.
    pub fn flight(&self, digest: &Digest) -> Option<&Flight> {
        self.flights.get(digest)
    }

    /// The size that a manifest has told for a blob.
    pub fn size_hint(&self, digest: &Digest) -> Option<u64> {
        self.sizes.by_digest.get(digest).copied()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// What this node does with other members.
    pub fn swarm(&self) -> Option<&Swarm> {
        self.swarm.as_ref()
    }

    /// When [`Input::Wakeup`] is wanted if nothing happens before.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.wakeup
    }

    fn wakeup_of_parts(&self) -> Option<Time> {
        let flights = self.flights.values().filter_map(Flight::next_wakeup).min();
        flights.into_iter().chain(self.swarm.as_ref().and_then(Swarm::next_wakeup)).min()
    }

    // ---- inputs ----

    /// Takes in what happened. Drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        // How late this node is, whatever it is that comes first now: before the last input it could not have been woken.
        let late = self.wakeup.map_or(Duration::ZERO, |wakeup| now - wakeup.max(self.last));
        self.with_swarm(|swarm| {
            swarm.start(now);
            swarm.was_late(now, late);
        });
        match input {
            Input::Open { ticket, digest, scope, part } => self.handle_open(now, ticket, digest, scope, part),
            Input::Close { ticket } => {
                if let Some(digest) = self.tickets.remove(&ticket) {
                    self.with(now, digest, |flight, _| flight.handle_close(ticket));
                }
            }
            Input::Described { digest, size, prefetch } => self.handle_described(now, digest, size, prefetch),
            Input::Looked { digest, found } => self.with(now, digest, |f, out| f.handle_looked(found, out)),
            Input::Sized { digest, result } => self.with(now, digest, |f, out| f.handle_sized(result, out)),
            Input::Prepared { digest, result } => {
                self.with(now, digest, |f, out| f.handle_prepared(result, out));
            }
            Input::FetchOpened { fetch, total } => {
                self.with_fetch(now, fetch, |f, out| f.handle_fetch_opened(fetch, total, out));
            }
            Input::Progress { fetch, to } => {
                self.with_fetch(now, fetch, |f, _| f.handle_progress(fetch, to, now));
                self.tell_alive(now, fetch);
            }
            Input::FetchEnded { fetch, result } => {
                if let Some(digest) = self.fetches.remove(&fetch) {
                    self.with(now, digest, |f, out| f.handle_fetch_ended(fetch, result, now, out));
                    self.advance_waiting(now);
                }
            }
            Input::Checkpointed { digest, result } => {
                self.with(now, digest, |f, out| f.handle_checkpointed(result, out));
            }
            Input::Verified { digest, result } => {
                self.with(now, digest, |f, out| f.handle_verified(result, out));
            }
            Input::Committed { digest, result } => self.with(now, digest, |f, _| f.handle_committed(result)),
            Input::Shut { digest } => self.with(now, digest, |f, out| f.handle_shut(out)),
            Input::Roster(roster) => {
                let waited = self.swarm.as_ref().is_some_and(|swarm| !swarm.has_members());
                self.with_swarm(|swarm| swarm.set_roster(now, roster));
                if waited {
                    self.for_all(now, |_, _| {});
                }
            }
            Input::Heard { from, message } => self.with_swarm(|swarm| swarm.hear(now, from, message)),
            Input::PeerLost { peer } => self.with_swarm(|swarm| swarm.lost(now, &peer)),
            Input::Answered { peer, after } => self.with_swarm(|swarm| swarm.answered(now, &peer, after)),
            Input::PortClosed { peer } => self.with_swarm(|swarm| swarm.port_closed(now, &peer)),
            Input::Arrived { from, digest, piece, hash, backlog } => {
                self.with_swarm(|swarm| swarm.arrived(now, from, digest, (piece, hash, backlog)));
            }
            Input::Hashed { digest, piece, hash } => {
                self.with_swarm(|swarm| swarm.fetched(now, digest, piece, hash));
            }
            Input::Uploaded { upload } => self.with_swarm(|swarm| swarm.sent(now, upload)),
            Input::Inspected { digest, size } => self.with_swarm(|swarm| swarm.inspected(digest, size)),
            Input::Listed { digest, found } => self.with_swarm(|swarm| swarm.listed(digest, found)),
            Input::Listing { digest, first, hashes } => {
                self.with_swarm(|swarm| swarm.lists(digest, first, hashes));
            }
            Input::Stored { digest, size } => self.with_swarm(|swarm| swarm.announce(now, digest, size)),
            Input::Evicted { digest } => self.with_swarm(|swarm| swarm.withdraw(digest)),
            Input::Warm { set, blobs, scope, targets, deadline, keep_until, pace } => {
                self.handle_warm(now, set, Asked { blobs, scope, targets, deadline, keep_until, pace });
            }
            Input::WarmCancel { set } => self.with_swarm(|swarm| swarm.cancel_warm(now, set)),
            Input::Awaited { peer, about } => self.with_swarm(|swarm| swarm.await_member(now, peer, about)),
            Input::Unkept { digest, fault } => {
                self.with(now, digest, |f, out| f.handle_unkept(fault, out));
            }
            Input::Wakeup => {
                self.with_swarm(|swarm| swarm.advance(now));
                match self.swarm.as_mut().is_some_and(|swarm| swarm.ends_waiting(now)) {
                    true => self.for_all(now, |_, _| {}),
                    false => self.wake_flights(now),
                }
            }
            Input::Drain => {
                self.draining = true;
                self.prefetches.clear();
                self.with_swarm(Swarm::drain);
                self.for_all(now, |f, _| f.handle_drain());
            }
            Input::Stop => {
                self.draining = true;
                self.prefetches.clear();
                self.with_swarm(Swarm::drain);
                self.for_all(now, |f, out| f.handle_stop(out));
            }
        }
        self.settle(now);
        self.begin_prefetches(now);
        self.set_paces(now);
        self.make_room();
        self.wakeup = self.wakeup_of_parts();
        self.last = now;
    }

    /// The next thing to do; `None` when all has been said.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.out.pop_front()?;
        match &output {
            Output::End { ticket, .. } => {
                self.tickets.remove(ticket);
            }
            Output::Fetch { fetch, digest, .. } => {
                let before = self.fetches.insert(*fetch, *digest);
                debug_assert!(before.is_none());
            }
            _ => {}
        }
        Some(output)
    }

    // ---- handlers ----

    fn handle_open(
        &mut self,
        now: Time,
        ticket: TicketId,
        digest: Digest,
        scope: Scope,
        part: crate::demand::Part,
    ) {
        if self.draining {
            let outcome = Outcome::Failed(PullFault::Draining);
            return self.out.push_back(Output::End { ticket, outcome });
        }
        let full = self.flights.len() >= FLIGHTS_MAX && !self.flights.contains_key(&digest);
        if full || self.tickets.len() >= TICKETS_MAX {
            return self.out.push_back(Output::End { ticket, outcome: Outcome::PassThrough });
        }
        self.begin(digest);
        self.tickets.insert(ticket, digest);
        let prefetch = self.prefetches.take(&digest);
        self.with(now, digest, |flight, _| {
            prefetch.into_iter().for_each(|scope| flight.handle_prefetch(scope));
            flight.handle_open(ticket, scope, part);
        });
    }

    fn handle_described(&mut self, now: Time, digest: Digest, size: u64, prefetch: Option<Scope>) {
        self.sizes.remember(digest, size);
        let Some(scope) = prefetch else { return };
        let is_new = !self.flights.contains_key(&digest);
        if self.draining || (is_new && !self.may_fetch_ahead(&scope.registry)) {
            return;
        }
        if is_new && is_large(size) && !self.large().has_room() {
            return self.prefetches.push(digest, scope);
        }
        self.begin(digest);
        self.with(now, digest, |flight, _| flight.handle_prefetch(scope));
    }

    fn may_fetch_ahead(&self, registry: &Registry) -> bool {
        let of_it = self.flights.values().filter(|flight| flight.registry() == Some(registry));
        self.flights.len() < PREFETCH_FLIGHTS_MAX && of_it.count() < PREFETCH_FLIGHTS_PER_REGISTRY_MAX
    }

    /// The large blobs on their way. Without other members there are none that could stand in each other's way.
    fn large(&self) -> Large {
        let Some(swarm) = self.swarm.as_ref().filter(|swarm| swarm.has_members()) else {
            return Large::default();
        };
        let size = |flight: &Flight| flight.size().or_else(|| self.size_hint(&flight.digest())).unwrap_or(0);
        let large = self.flights.values().filter(|flight| is_large(size(flight)));
        Large::count(large.map(|flight| swarm.has_left(&flight.digest())))
    }

    /// Prefetches that waited begin as far as there is room by now.
    fn begin_prefetches(&mut self, now: Time) {
        while std::mem::take(&mut self.prefetch_due) && !self.prefetches.is_empty() {
            let mut large = self.large();
            while large.has_room()
                && let Some((digest, scope)) = self.prefetches.pop()
            {
                large.begin();
                self.begin(digest);
                self.with(now, digest, |flight, _| flight.handle_prefetch(scope));
            }
            self.settle(now);
        }
    }

    fn handle_warm(&mut self, now: Time, set: WarmSetId, asked: Asked) {
        match &mut self.swarm {
            Some(swarm) => swarm.warm(now, set, asked),
            None => {
                let tally = asked.refused(WarmFault::Unreachable);
                self.out.push_back(Output::Warmed { set, tally });
            }
        }
    }

    /// A warm set wants a blob.
    fn begin_warm(&mut self, now: Time, digest: Digest, size: u64, scope: Scope) {
        self.sizes.remember(digest, size);
        let full = self.flights.len() >= PREFETCH_FLIGHTS_MAX && !self.flights.contains_key(&digest);
        if full {
            return self.with_swarm(|swarm| swarm.warm_postponed(now, &digest));
        }
        self.begin(digest);
        self.with(now, digest, |flight, _| flight.handle_warm(scope));
    }

    fn begin(&mut self, digest: Digest) {
        if !self.flights.contains_key(&digest) {
            self.flights.insert(digest, Flight::new(digest, &mut self.out));
            self.births.insert(self.next_birth, digest);
            self.next_birth += 1;
        }
    }

    // ---- letting flights advance ----

    fn with_fetch(&mut self, now: Time, fetch: FetchId, f: impl FnOnce(&mut Flight, &mut VecDeque<Output>)) {
        if let Some(digest) = self.fetches.get(&fetch).copied() {
            self.with(now, digest, f);
        }
    }

    /// The home of a blob is told now and then that bytes of it come from upstream: what comes often must not cost much.
    fn tell_alive(&mut self, now: Time, fetch: FetchId) {
        if let (Some(digest), Some(swarm)) = (self.fetches.get(&fetch).copied(), &self.swarm)
            && swarm.exchange(&digest).is_some_and(|exchange| exchange.is_to_tell_alive(now))
        {
            self.with_swarm(|swarm| swarm.fetched_bytes(now, &digest));
        }
    }

    /// One mutation of one flight, then everything that follows from it.
    fn with(&mut self, now: Time, digest: Digest, f: impl FnOnce(&mut Flight, &mut VecDeque<Output>)) {
        let Some(flight) = self.flights.get_mut(&digest) else { return };
        f(flight, &mut self.out);
        // Transfers that were opened in this turn are in the queue and not yet in the table.
        let opened = self.out.iter().filter(|o| matches!(o, Output::Fetch { .. })).count();
        let active = self.fetches.len() + opened;
        let mut fetches_free = self.settings.fetches_max.saturating_sub(active);
        let mut prefetches_free = match self.waiting.is_empty() {
            true => PREFETCH_FETCHES_MAX.min(self.settings.fetches_max).saturating_sub(active),
            false => 0,
        };
        flight.advance(&mut Context {
            now,
            out: &mut self.out,
            next_fetch: &mut self.next_fetch,
            fetches_free: &mut fetches_free,
            prefetches_free: &mut prefetches_free,
            size_hint: self.sizes.by_digest.get(&digest).copied(),
            shares: self.swarm.as_ref().is_some_and(|swarm| swarm.has_members() || swarm.awaits_members(now)),
        });
        if let Some(swarm) = &mut self.swarm {
            follow(flight, swarm, now, &mut self.out);
        }
        // One that others bring waits for them: it must not keep those from a place for whom nobody waits.
        if flight.waits_for_place() {
            self.waiting.insert(digest);
        } else {
            self.waiting.remove(&digest);
        }
        if flight.phase() == Phase::Over {
            assert_eq!(flight.ticket_count(), 0, "a flight ended before its tickets");
            let result = flight.result();
            self.flights.remove(&digest);
            self.births.retain(|_, d| *d != digest);
            self.prefetch_due = true;
            if let Some(swarm) = &mut self.swarm {
                swarm.flight_over(now, digest, result);
            }
        }
    }

    fn with_swarm(&mut self, f: impl FnOnce(&mut Swarm)) {
        if let Some(swarm) = &mut self.swarm {
            f(swarm);
        }
    }

    /// Carries what the swarm says to the flights, and what they make of it back, until both are at rest.
    fn settle(&mut self, now: Time) {
        loop {
            let Some(swarm) = &mut self.swarm else { return };
            swarm.settle(now, &mut self.out);
            let Some(event) = swarm.poll_event() else { return };
            match event {
                Event::Left => self.prefetch_due = true,
                Event::Accepted(digest, piece) => self.with(now, digest, |flight, _| {
                    let size = flight.size().unwrap_or(0);
                    flight.handle_piece(piece_bytes(size, piece), now);
                }),
                Event::Leases(digest) => {
                    let fetchable = swarm.fetchable(&digest);
                    self.with(now, digest, |flight, out| flight.share(fetchable, out));
                }
                Event::Alone(digest, end) => {
                    let members = swarm.roster().len();
                    let (pause, fault) = alone(end, &digest, swarm.me(), members);
                    self.with(now, digest, |flight, out| flight.go_alone(now, pause, fault, out));
                }
                Event::Restarted(digest) => {
                    self.with(now, digest, |flight, out| flight.handle_restarted(out))
                }
                Event::Warm(digest, size, scope) => self.begin_warm(now, digest, size, scope),
                Event::Unwarm(digest) => self.with(now, digest, |flight, _| flight.handle_unwarm()),
            }
        }
    }

    /// Flights that nothing but warm sets wants keep to the sets' pace; the others never do.
    fn set_paces(&mut self, now: Time) {
        let Some(swarm) = &mut self.swarm else { return };
        let flights = &self.flights;
        let state = |digest: &Digest| {
            let flight = flights.get(digest).filter(|flight| flight.phase() == Phase::Receiving)?;
            Some(Flying { received: flight.received(), is_wanted: flight.is_wanted_by_others() })
        };
        if swarm.set_paces(now, state) {
            swarm.settle(now, &mut self.out);
        }
    }

    /// Only flights that asked to be woken: with thousands of them a wakeup of one must not cost all.
    fn wake_flights(&mut self, now: Time) {
        let due = |f: &&Flight| f.next_wakeup().is_some_and(|at| at <= now);
        let digests: Vec<_> = self.flights.values().filter(due).map(Flight::digest).collect();
        for digest in digests {
            self.with(now, digest, |_, _| {});
        }
    }

    fn for_all(&mut self, now: Time, mut f: impl FnMut(&mut Flight, &mut VecDeque<Output>)) {
        let digests: Vec<_> = self.births.values().copied().collect();
        for digest in digests {
            self.with(now, digest, &mut f);
        }
    }

    /// Clients that wait for a place get that of a transfer nobody waits for, the youngest flight's first.
    fn make_room(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let leaving: usize = self.flights.values().map(Flight::leaving_count).sum();
        let mut missing = self.waiting.len().saturating_sub(leaving);
        for digest in self.births.values().rev() {
            let Some(flight) = self.flights.get_mut(digest) else { continue };
            while missing > 0 && flight.make_room(&mut self.out) {
                missing -= 1;
            }
        }
    }

    /// A transfer has ended: whoever came first and waits for a place gets it, clients before prefetches.
    fn advance_waiting(&mut self, now: Time) {
        let waits = |f: &&Flight| f.phase() == Phase::Receiving && f.fetch_count() == 0;
        let (mut clients, mut nobody) = (Vec::new(), Vec::new());
        for flight in self.births.values().filter_map(|d| self.flights.get(d)).filter(waits) {
            if flight.ticket_count() > 0 {
                clients.push(flight.digest())
            } else {
                nobody.push(flight.digest())
            }
        }
        for digest in clients.into_iter().chain(nobody) {
            self.with(now, digest, |_, _| {});
        }
    }
}

/// What a flight's new state means for the swarm.
fn follow(flight: &mut Flight, swarm: &mut Swarm, now: Time, out: &mut VecDeque<Output>) {
    let digest = flight.digest();
    if flight.can_share()
        && swarm.has_members()
        && let Some(size) = flight.size().filter(|size| *size > 0)
    {
        flight.share(Vec::new(), out);
        swarm.begin(now, digest, size, flight.have());
        return;
    }
    if flight.phase() == Phase::Sizing {
        // The home is asked before the registry.
        swarm.await_answer(now, &digest);
    }
    if swarm.exchange(&digest).is_none() {
        // It came while nobody else was there. Who comes later is to find it.
        if flight.phase() == Phase::Over
            && flight.is_stored()
            && let Some(size) = flight.size().filter(|size| *size > 0)
        {
            swarm.announce(now, digest, size);
        }
        return;
    }
    if flight.is_wanted_by_others() {
        swarm.hurry(&digest);
    }
    if let Some(fault) = flight.take_lease_fault() {
        let denied = matches!(fault, PullFault::Unknown | PullFault::Denied);
        swarm.fetch_failed(&digest, if denied { LeaseEnd::Denied } else { LeaseEnd::Failed });
    }
    match flight.phase() {
        _ if flight.take_mismatch() => swarm.mismatch(now, &digest),
        Phase::Over if flight.is_stored() => swarm.complete(now, digest, flight.size().unwrap_or(0)),
        Phase::Ending | Phase::Shutting | Phase::Over => swarm.abandon(&digest),
        _ => {}
    }
}

/// Time over which the nodes of a swarm with so many members spread what each of them asks upstream without the others.
pub fn alone_spread(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    ALONE_PAUSE_PER_MEMBER.saturating_mul(members).min(ALONE_PAUSE_MAX)
}

/// How long a node waits before it asks upstream without the others. The pauses of a cluster's nodes are spread so that a sick
/// swarm does not become a stampede.
pub(crate) fn alone_pause(digest: &Digest, me: PeerId, members: usize) -> Duration {
    let mixed = crate::homes::mix(me.prefix() ^ u64::from(digest.hash()[31]));
    alone_spread(members).mul_f64((mixed % 1024) as f64 / 1024.0)
}

/// What a node does that the swarm cannot help: how long it waits, or with what fault it gives up.
fn alone(end: LeaseEnd, digest: &Digest, me: PeerId, members: usize) -> (Duration, Option<PullFault>) {
    match end {
        LeaseEnd::Failed => (Duration::ZERO, Some(PullFault::Exhausted)),
        LeaseEnd::Denied | LeaseEnd::GivenUp | LeaseEnd::Done => (alone_pause(digest, me, members), None),
    }
}

#[cfg(test)]
mod tests;
