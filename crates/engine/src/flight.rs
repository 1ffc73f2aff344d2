//! One blob on its way into the store, for everybody who waits for it.
//!
//! Invariant: the flight is a function of what it has been told. Handlers change the state; [`Flight::advance`] alone
//! derives from the state what is to be done next. At most one of `Look`, `Size`, `Prepare`, `Verify`, `Commit` and
//! `Shut` is unanswered, and which one is its [`Phase`].

mod deliver;
mod receive;
mod share;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::demand::Part;
use crate::fault::{LocalFault, SourceFault};
use crate::ids::{Digest, FetchId, TicketId};
use crate::io::{Found, Outcome, Output, PullFault};
use crate::limits::{RESTARTS_MAX, SCOPES_PER_FLIGHT_MAX, SPOILED_MAX};
use crate::name::{Registry, Scope};
use crate::ranges::ByteRanges;
use crate::time::Time;
use crate::wire::WarmFault;

/// The answer a flight waits for, or what it is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for [`Found`].
    Looking,
    /// The store has nothing; it is not decided yet how the size is found out.
    Sizeless,
    /// Waits for the size.
    Sizing,
    /// Waits for a place.
    Preparing,
    /// Receives bytes.
    Receiving,
    /// Waits for the verdict over the digest.
    Verifying,
    /// Verified; waits for the store.
    Committing,
    /// Ends as soon as its transfers have; then shuts.
    Ending,
    /// Waits for its files to be closed.
    Shutting,
    /// Over: the engine removes it.
    Over,
}

#[derive(Debug)]
struct Ticket {
    part: Part,
    /// The bytes meant, once the size is known.
    range: Option<Range<u64>>,
    /// Bytes up to here are ready.
    ready_to: u64,
    /// Whether the client has been answered.
    served: bool,
}

/// Whether other members bring the blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Sharing {
    /// Everything comes from upstream.
    #[default]
    Off,
    /// Only these bytes may be fetched upstream, in order of their offsets; the rest comes from members.
    On(Vec<Range<u64>>),
    /// The swarm could not help this time.
    Alone,
}

#[derive(Debug)]
struct Fetch {
    start: u64,
    /// `None` until the end is known.
    end: Option<u64>,
    frontier: u64,
    /// It has been told to end, and has not answered yet.
    cancelled: bool,
}

/// What the engine lends a flight while it advances.
pub(crate) struct Context<'a> {
    pub now: Time,
    pub out: &'a mut VecDeque<Output>,
    pub next_fetch: &'a mut u64,
    /// Transfers that may still be opened by clients' flights, over all flights.
    pub fetches_free: &'a mut usize,
    /// The same for flights nobody waits for.
    pub prefetches_free: &'a mut usize,
    /// Size of the blob by the manifests that named it.
    pub size_hint: Option<u64>,
    /// Whether there are other members: a flight that can be shared then waits for what they say.
    pub shares: bool,
}

/// State of one flight; see the module's head.
#[derive(Debug)]
pub struct Flight {
    digest: Digest,
    phase: Phase,
    size: Option<u64>,
    /// Whether the hint of a manifest may be used; not after it has turned out wrong.
    trusts_hint: bool,
    scopes: Vec<Scope>,
    scope_at: usize,
    have: ByteRanges,
    verified: bool,
    whole_wanted: bool,
    /// Clients or manifests have asked for it, and not only a warm set.
    wanted_by_others: bool,
    /// A manifest has named the blob while this life of the flight was ending.
    wanted_again: bool,
    tickets: BTreeMap<TicketId, Ticket>,
    fetches: BTreeMap<FetchId, Fetch>,
    /// Why transfers are opened next.
    failed_before: bool,
    failures: u32,
    under_way: bool,
    retry_at: Option<Time>,
    restarts: u32,
    /// Attempts with members that ended with wrong bytes.
    spoiled: u32,
    unsaved: u64,
    unsaved_since: Option<Time>,
    checkpointing: bool,
    /// Whether the bytes stay on disk when the flight ends.
    keep: bool,
    draining: bool,
    sharing: Sharing,
    /// Upstream has failed for all that this node was to fetch for the swarm.
    lease_fault: Option<PullFault>,
    /// All bytes were there, and were not those of the digest.
    mismatched: bool,
    /// The store has it.
    stored: bool,
    /// How it ends for those who wait for all of it, once that is known.
    result: Option<Result<(), WarmFault>>,
}

impl Flight {
    /// A new flight; its first question goes to the store.
    pub(crate) fn new(digest: Digest, out: &mut VecDeque<Output>) -> Self {
        out.push_back(Output::Look { digest });
        Flight {
            digest,
            phase: Phase::Looking,
            size: None,
            trusts_hint: true,
            scopes: Vec::new(),
            scope_at: 0,
            have: ByteRanges::new(),
            verified: false,
            whole_wanted: false,
            wanted_by_others: false,
            wanted_again: false,
            tickets: BTreeMap::new(),
            fetches: BTreeMap::new(),
            failed_before: false,
            failures: 0,
            under_way: false,
            retry_at: None,
            restarts: 0,
            spoiled: 0,
            unsaved: 0,
            unsaved_since: None,
            checkpointing: false,
            keep: true,
            draining: false,
            sharing: Sharing::Off,
            lease_fault: None,
            mismatched: false,
            stored: false,
            result: None,
        }
    }

    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The registry of the repository that it was first asked for through.
    pub fn registry(&self) -> Option<&Registry> {
        self.scopes.first().map(|scope| &scope.registry)
    }

    /// The repository that it was first asked for through.
    pub fn first_scope(&self) -> Option<&Scope> {
        self.scopes.first()
    }

    /// What it is busy with.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Size in bytes, once known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes received, those of earlier flights included.
    pub fn received(&self) -> u64 {
        self.have.len()
    }

    /// Clients that wait.
    pub fn ticket_count(&self) -> usize {
        self.tickets.len()
    }

    /// First byte that is missing for the client that has waited longest and can be told more.
    pub fn next_wanted(&self) -> Option<u64> {
        self.tickets.values().find_map(|ticket| {
            let range = ticket.range.as_ref()?;
            (ticket.ready_to < range.end).then_some(ticket.ready_to)
        })
    }

    /// Transfers under way.
    pub fn fetch_count(&self) -> usize {
        self.fetches.len()
    }

    /// Transfers under way that have been told to end: each leaves a place for another.
    pub(crate) fn leaving_count(&self) -> usize {
        self.fetches.values().filter(|f| f.cancelled).count()
    }

    /// Whether clients or manifests have asked for it, and not only warm sets.
    pub fn is_wanted_by_others(&self) -> bool {
        self.wanted_by_others
    }

    /// Whether clients wait and only a free place is missing.
    pub(crate) fn waits_for_place(&self) -> bool {
        let stuck = self.phase == Phase::Receiving && self.fetches.is_empty() && self.retry_at.is_none();
        let feeds = matches!(&self.sharing, Sharing::On(ranges) if ranges.is_empty());
        stuck && !feeds && !self.tickets.is_empty() && !self.is_whole()
    }

    /// How it has ended for those who wanted all of it.
    pub(crate) fn result(&self) -> Result<(), WarmFault> {
        debug_assert_eq!(self.phase, Phase::Over);
        let unwanted = if self.draining { WarmFault::Draining } else { WarmFault::Cancelled };
        self.result.unwrap_or(Err(unwanted))
    }

    /// When the flight wants to be woken.
    pub(crate) fn next_wakeup(&self) -> Option<Time> {
        // With all bytes there only an answer can move it on.
        if self.phase != Phase::Receiving || self.is_whole() {
            return None;
        }
        let checkpoint = self.checkpoint_due_at();
        self.retry_at.into_iter().chain(checkpoint).min()
    }

    // ---- handlers ----

    pub(crate) fn handle_scope(&mut self, scope: Scope) {
        if !self.scopes.contains(&scope) && self.scopes.len() < SCOPES_PER_FLIGHT_MAX {
            self.scopes.push(scope);
        }
    }

    pub(crate) fn handle_open(&mut self, ticket: TicketId, scope: Scope, part: Part) {
        self.handle_scope(scope);
        self.wanted_by_others = true;
        let before = self.tickets.insert(ticket, Ticket { part, range: None, ready_to: 0, served: false });
        assert!(before.is_none(), "{ticket:?} was opened twice");
    }

    pub(crate) fn handle_close(&mut self, ticket: TicketId) {
        self.tickets.remove(&ticket);
    }

    pub(crate) fn handle_prefetch(&mut self, scope: Scope) {
        self.wanted_by_others = true;
        self.handle_warm(scope);
    }

    /// A warm set wants all of it.
    pub(crate) fn handle_warm(&mut self, scope: Scope) {
        self.handle_scope(scope);
        match self.phase {
            Phase::Ending | Phase::Shutting => self.wanted_again = true,
            _ => self.whole_wanted = true,
        }
    }

    /// The warm sets that wanted it do not any more.
    pub(crate) fn handle_unwarm(&mut self) {
        if self.wanted_by_others {
            return;
        }
        (self.whole_wanted, self.wanted_again) = (false, false);
        if self.phase == Phase::Receiving {
            self.end(true);
        }
    }

    pub(crate) fn handle_looked(&mut self, found: Found, out: &mut VecDeque<Output>) {
        debug_assert_eq!(self.phase, Phase::Looking);
        match found {
            Found::Whole => {
                self.end_tickets(Outcome::Stored, out);
                self.result = Some(Ok(()));
                self.phase = Phase::Over;
            }
            Found::Partial { size, have } => {
                self.size = Some(size);
                self.have = have;
                self.phase = Phase::Receiving;
            }
            Found::Absent => self.phase = Phase::Sizeless,
            Found::Broken(_) => {
                self.pass_through(out);
                self.phase = Phase::Over;
            }
        }
    }

    pub(crate) fn handle_prepared(&mut self, result: Result<(), LocalFault>, out: &mut VecDeque<Output>) {
        debug_assert_eq!(self.phase, Phase::Preparing);
        match result {
            Ok(()) => self.phase = Phase::Receiving,
            Err(_) => {
                self.pass_through(out);
                self.phase = Phase::Over;
            }
        }
    }

    pub(crate) fn handle_verified(&mut self, result: Result<bool, LocalFault>, out: &mut VecDeque<Output>) {
        debug_assert_eq!(self.phase, Phase::Verifying);
        match result {
            Ok(true) => {
                self.verified = true;
                self.phase = Phase::Committing;
                out.push_back(Output::Commit { digest: self.digest });
            }
            Ok(false) => {
                self.mismatched = true;
                self.start_over(out);
            }
            Err(fault) => self.handle_local_fault(fault, out),
        }
    }

    pub(crate) fn handle_committed(&mut self, result: Result<(), LocalFault>) {
        debug_assert_eq!(self.phase, Phase::Committing);
        match result {
            Ok(()) => {
                self.stored = true;
                self.result = Some(Ok(()));
                self.phase = Phase::Over;
            }
            // Whoever waited has been served from the open file; only the store goes without.
            Err(_) => {
                self.result = Some(Err(WarmFault::Store));
                self.end(false);
            }
        }
    }

    pub(crate) fn handle_checkpointed(&mut self, result: Result<(), LocalFault>, out: &mut VecDeque<Output>) {
        self.checkpointing = false;
        if let Err(fault) = result
            && self.phase == Phase::Receiving
        {
            self.handle_local_fault(fault, out);
        }
    }

    /// The files are closed. Tickets and wishes that came meanwhile begin a new life of this flight.
    pub(crate) fn handle_shut(&mut self, out: &mut VecDeque<Output>) {
        debug_assert_eq!(self.phase, Phase::Shutting);
        if self.tickets.is_empty() && !self.wanted_again {
            self.phase = Phase::Over;
            return;
        }
        let fresh = Flight::new(self.digest, out);
        let old = std::mem::replace(self, fresh);
        self.tickets = old.tickets;
        for ticket in self.tickets.values_mut() {
            // Resolved against the size of the life that has ended.
            ticket.range = None;
        }
        self.scopes = old.scopes;
        // What the tickets of the old life wanted has ended with them.
        self.whole_wanted = old.wanted_again;
        (self.restarts, self.spoiled) = (old.restarts, old.spoiled);
        self.trusts_hint = old.trusts_hint;
        self.draining = old.draining;
    }

    /// Somebody else's clients wait for a place: gives one up, if nobody waits here. What has come is kept, and the
    /// rest comes when there are places again.
    pub(crate) fn make_room(&mut self, out: &mut VecDeque<Output>) -> bool {
        if self.phase != Phase::Receiving || !self.tickets.is_empty() {
            return false;
        }
        let Some((&fetch, running)) = self.fetches.iter_mut().find(|(_, f)| !f.cancelled) else {
            return false;
        };
        running.cancelled = true;
        out.push_back(Output::Cancel { fetch });
        true
    }

    pub(crate) fn handle_drain(&mut self) {
        self.draining = true;
    }

    /// The deadline of the drain has come.
    pub(crate) fn handle_stop(&mut self, out: &mut VecDeque<Output>) {
        self.draining = true;
        self.fail(PullFault::Draining, out);
        if matches!(self.phase, Phase::Receiving) {
            self.end(true);
        }
    }

    pub(crate) fn handle_local_fault(&mut self, fault: LocalFault, out: &mut VecDeque<Output>) {
        self.pass_through(out);
        // On a full disk a part of a blob only stands in the way; a broken one may be well again after a restart.
        self.end(fault != LocalFault::StoreFull);
    }

    // ---- endings ----

    /// The bytes were wrong. Clients that have received some of them are cut short of the last piece; those that have
    /// none yet wait for a second try.
    pub(super) fn start_over(&mut self, out: &mut VecDeque<Output>) {
        let (attempts, most) = match self.is_shared() {
            true => (&mut self.spoiled, SPOILED_MAX),
            false => (&mut self.restarts, RESTARTS_MAX),
        };
        let again = *attempts < most && !self.draining;
        *attempts += 1;
        // A manifest may have lied about the size; the source is asked from now on.
        self.trusts_hint = false;
        self.result = Some(Err(WarmFault::WrongContent));
        let failed: Vec<_> =
            self.tickets.iter().filter(|(_, t)| !again || t.served).map(|(id, _)| *id).collect();
        for ticket in failed {
            self.end_ticket(ticket, Outcome::Failed(PullFault::WrongContent), out);
        }
        self.end(false);
    }

    fn give_up(&mut self, fault: PullFault, out: &mut VecDeque<Output>) {
        self.fail(fault, out);
        self.end(true);
    }

    fn fail(&mut self, fault: PullFault, out: &mut VecDeque<Output>) {
        self.result = Some(Err(fault.into()));
        self.end_tickets(Outcome::Failed(fault), out);
    }

    fn end(&mut self, keep: bool) {
        self.keep = keep;
        self.phase = Phase::Ending;
    }

    fn pass_through(&mut self, out: &mut VecDeque<Output>) {
        self.result = Some(Err(WarmFault::Store));
        self.end_tickets(Outcome::PassThrough, out);
    }

    fn end_tickets(&mut self, outcome: Outcome, out: &mut VecDeque<Output>) {
        for (ticket, _) in std::mem::take(&mut self.tickets) {
            out.push_back(Output::End { ticket, outcome });
        }
    }

    fn end_ticket(&mut self, ticket: TicketId, outcome: Outcome, out: &mut VecDeque<Output>) {
        if self.tickets.remove(&ticket).is_some() {
            out.push_back(Output::End { ticket, outcome });
        }
    }

    // ---- what follows from the state ----

    /// Derives everything that is to be done now.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        self.deliver(cx.out);
        match self.phase {
            Phase::Sizeless => self.advance_sizeless(cx),
            Phase::Receiving => self.advance_receiving(cx),
            Phase::Ending => self.advance_ending(cx),
            _ => {}
        }
    }

    fn advance_ending(&mut self, cx: &mut Context<'_>) {
        for (&fetch, running) in &mut self.fetches {
            if !std::mem::replace(&mut running.cancelled, true) {
                cx.out.push_back(Output::Cancel { fetch });
            }
        }
        // Cancelled transfers answer one by one; each answer comes by here again.
        if self.fetches.is_empty() && !self.checkpointing {
            let keep = (self.keep && !self.have.is_empty() && self.size.is_some()).then(|| self.have.clone());
            cx.out.push_back(Output::Shut { digest: self.digest, keep });
            self.phase = Phase::Shutting;
        }
    }

    /// Whether all bytes are there, verified or not.
    fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.have.contains(0..size))
    }

    fn scope(&self) -> Scope {
        self.scopes[self.scope_at].clone()
    }

    fn next_scope(&mut self) -> bool {
        let more = self.scope_at + 1 < self.scopes.len();
        self.scope_at += usize::from(more);
        more
    }

    fn jitter(&self) -> u64 {
        let hash = self.digest.hash();
        (u64::from(hash[0]) << 8 | u64::from(hash[1])) ^ (u64::from(self.failures) * 311)
    }

    fn judge(&mut self, fault: &SourceFault, progressed: bool) -> crate::retry::Verdict {
        crate::retry::after_fault(
            fault,
            crate::retry::View {
                failures: self.failures,
                progressed,
                under_way: self.under_way || self.tickets.values().any(|t| t.served),
                tickets: self.tickets.len(),
                more_scopes: self.scope_at + 1 < self.scopes.len(),
                jitter: self.jitter(),
            },
        )
    }
}
