//! A world for the engine: virtual time, a fake driver that carries out every output, and a ledger that checks after
//! each step what must always hold.
//!
//! What is checked, and where: each effect is asked for when nothing else is under way and its place is open
//! (`effects.rs`); transfers never fetch what is there or coming, and stay within the bounds (`transfer.rs`); tickets
//! are served in order, within their range, only bytes that were written, the last piece only after the verdict, and
//! end exactly once with a reason the world knows of (`client.rs`); a wakeup is never asked for in the past, and when
//! nothing is left to happen nothing is left under way (here).

#![allow(dead_code, reason = "each test binary uses its own part of the world")]

mod client;
mod effects;
mod outside;
pub mod plan;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_engine::engine::Settings;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::limits::FLIGHTS_MAX;
use shoal_engine::{
    ByteRanges, Digest, Engine, FetchId, Input, LocalFault, Output, Scope, SourceFault, TicketId, Time,
};

pub use client::Client;
pub use outside::Act;
use plan::{Disk, Effect, Plan, Rng};
use transfer::Transfer;

/// Inputs after which a run is taken for one that never ends. The longest honest run takes a tenth of it.
const STEPS_MAX: u64 = 200_000;

/// Lines of the trace that a failed check shows.
const TRACE_TAIL: usize = 60;

/// How fast the world is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time an effect of the disk takes.
    pub disk: Duration,
    /// Time until a source answers.
    pub upstream: Duration,
    /// Time between two steps of a transfer.
    pub step: Duration,
    /// Bytes that a transfer brings in one step.
    pub step_bytes: u64,
    /// Time between a byte's arrival on disk and the engine's hearing of it.
    pub lag: Duration,
    /// Time between the last byte of a transfer and the transfer's end.
    pub ending: Duration,
    /// Whether these times vary by up to a half in both directions.
    pub jitter: bool,
}

impl Default for Pace {
    /// 100 MiB/s in steps of one MiB.
    fn default() -> Self {
        Pace {
            disk: Duration::from_millis(2),
            upstream: Duration::from_millis(50),
            step: Duration::from_millis(10),
            step_bytes: 1 << 20,
            lag: Duration::from_millis(1),
            ending: Duration::ZERO,
            jitter: false,
        }
    }
}

/// Number of a blob in its world.
pub type BlobNo = usize;

/// The place where a blob's bytes are being written.
#[derive(Debug, Default)]
pub struct Place {
    size: Option<u64>,
    /// Bytes on disk.
    written: ByteRanges,
    /// Bytes on disk that the engine knows of.
    told: ByteRanges,
    bad: bool,
    verified: bool,
    /// Bytes written twice, and bytes that a transfer had brought beyond the end it was trimmed to.
    rewritten: u64,
    overrun: u64,
}

/// One blob, and what happened to it.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    pub plan: Plan,
    pub disk: Disk,
    pub place: Option<Place>,
    busy: Option<Effect>,
    checkpointing: Option<ByteRanges>,
    /// What the engine has been told; a ticket may only fail for a reason that is here.
    blames: Vec<Blame>,
    /// Transfers that were asked for, as (scope, start, end).
    pub requests: Vec<(usize, u64, Option<u64>)>,
    pub size_requests: Vec<usize>,
    /// Bytes that upstream has sent.
    pub fetched: u64,
    pub trims: u32,
    pub commits: u32,
    pub checkpoints: u32,
    pub verdicts: Vec<bool>,
    pub reasons: Vec<shoal_engine::io::FetchReason>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Blame {
    Source(SourceFault),
    Local(LocalFault),
    WrongBytes,
    WrongSize,
}

/// Something that will happen.
#[derive(Clone, Debug)]
enum Event {
    Answer(BlobNo, Effect),
    Arrive(FetchId),
    Step(FetchId),
    Tell(Input),
    Do(Act),
}

/// See the module's head.
pub struct World {
    engine: Engine,
    settings: Settings,
    pace: Pace,
    pub now: Time,
    rng: Rng,
    pub blobs: Vec<Blob>,
    clients: BTreeMap<TicketId, Client>,
    transfers: BTreeMap<FetchId, Transfer>,
    fetch_ids: BTreeSet<FetchId>,
    events: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    draining: bool,
    steps: u64,
    pub trace: Vec<String>,
    /// The most transfers that were under way at a time.
    pub transfers_peak: usize,
}

/// Ends the test with what happened last.
macro_rules! check {
    ($world:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $world.fail(&format!($($message)+));
        }
    };
}
use check;

impl World {
    pub fn new() -> World {
        World::with(Pace::default(), Settings::default(), 1)
    }

    pub fn with(pace: Pace, settings: Settings, seed: u64) -> World {
        World {
            engine: Engine::new(settings),
            settings,
            pace,
            now: Time::ZERO + Duration::from_secs(1),
            rng: Rng(seed),
            blobs: Vec::new(),
            clients: BTreeMap::new(),
            transfers: BTreeMap::new(),
            fetch_ids: BTreeSet::new(),
            events: BTreeMap::new(),
            next_event: 0,
            draining: false,
            steps: 0,
            trace: Vec::new(),
            transfers_peak: 0,
        }
    }

    // ---- getters ----

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn client(&self, ticket: TicketId) -> &Client {
        &self.clients[&ticket]
    }

    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.values()
    }

    pub fn outcome(&self, ticket: TicketId) -> Option<Outcome> {
        self.clients[&ticket].outcome
    }

    /// Bytes of a blob under way that a power cut would take.
    pub fn at_risk(&self, blob: BlobNo) -> u64 {
        let Blob { place, disk, .. } = &self.blobs[blob];
        let safe = if let Disk::Partial { have, .. } = disk { have.len() } else { 0 };
        place.as_ref().map_or(0, |place| place.written.len() - safe)
    }

    /// Transfers under way that have not been cancelled.
    pub fn running(&self, blob: BlobNo) -> usize {
        self.transfers.values().filter(|t| t.blob == blob && !t.cancelled).count()
    }

    // ---- the run ----

    /// Runs until nothing is left to happen.
    pub fn run(&mut self) {
        while self.step(None) {}
        self.check_quiet();
    }

    /// Runs until `condition` holds; it has to.
    pub fn run_until(&mut self, condition: impl Fn(&World) -> bool) {
        while !condition(self) {
            let stepped = self.step(None);
            check!(self, stepped, "nothing is left to happen, and what was waited for has not");
        }
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(Some(until)) {}
        self.now = until;
    }

    /// Lets the next thing happen; false when there is none (before `until`).
    fn step(&mut self, until: Option<Time>) -> bool {
        self.steps += 1;
        check!(self, self.steps < STEPS_MAX, "the run does not end");
        let event = self.events.keys().next().copied();
        let wakeup = self.engine.next_wakeup();
        let at = match (event, wakeup) {
            (None, None) => return false,
            (Some((at, _)), None) => at,
            (None, Some(at)) => at,
            (Some((event, _)), Some(wakeup)) => event.min(wakeup),
        };
        if until.is_some_and(|until| at > until) {
            return false;
        }
        self.now = self.now.max(at);
        match event.filter(|(event, _)| *event <= at) {
            None => self.input(Input::Wakeup),
            Some(key) => {
                let event = self.events.remove(&key).expect("just seen");
                self.happen(event);
            }
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Answer(blob, effect) => self.answer(blob, effect),
            Event::Arrive(fetch) => self.arrive(fetch),
            Event::Step(fetch) => self.step_transfer(fetch),
            Event::Tell(input) => self.tell(input),
            Event::Do(act) => self.act(act),
        }
    }

    fn input(&mut self, input: Input) {
        self.trace.push(format!("{:?} > {input:?}", self.now.since_origin()));
        let is_wakeup = matches!(input, Input::Wakeup);
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.trace.push(format!("{:?} < {output:?}", self.now.since_origin()));
            self.carry_out(output);
        }
        let early = self.engine.next_wakeup().filter(|at| is_wakeup && *at <= self.now);
        check!(self, early.is_none(), "a wakeup led to the wish for one at once: {early:?}");
        self.check_counts();
        self.check_alive();
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Look { digest } => self.begin(digest, Effect::Look),
            Output::Size { digest, scope } => {
                let blob = self.number(digest);
                self.blobs[blob].size_requests.push(number_of(&scope));
                self.begin(digest, Effect::Size);
            }
            Output::Prepare { digest, size } => {
                self.begin(digest, Effect::Prepare);
                let blob = self.number(digest);
                self.blobs[blob].place = Some(Place { size, ..Place::default() });
            }
            Output::Fetch { fetch, digest, scope, start, end, reason } => {
                let blob = self.number(digest);
                self.blobs[blob].reasons.push(reason);
                self.begin_fetch(fetch, blob, number_of(&scope), start, end);
            }
            Output::Trim { fetch, end } => self.trim(fetch, end),
            Output::Cancel { fetch } => self.cancel(fetch),
            Output::Checkpoint { digest, have } => self.begin_checkpoint(digest, have),
            Output::Verify { digest } => self.begin(digest, Effect::Verify),
            Output::Commit { digest } => self.begin(digest, Effect::Commit),
            Output::Shut { digest, keep } => {
                self.begin(digest, Effect::Shut);
                self.put_down(digest, keep);
            }
            Output::Serve { ticket, size, start, end } => self.serve(ticket, size, start..end),
            Output::Ready { ticket, to } => self.ready(ticket, to),
            Output::End { ticket, outcome } => self.end(ticket, outcome),
            Output::Tell { .. }
            | Output::Upload(_)
            | Output::Place { .. }
            | Output::Discard { .. }
            | Output::Inspect { .. }
            | Output::List { .. }
            | Output::Keep { .. }
            | Output::Pace { .. }
            | Output::Warming { .. }
            | Output::Warmed { .. } => self.fail("a node that works alone talks to members"),
        }
    }

    // ---- what must hold ----

    fn check_counts(&self) {
        let flights = self.engine.flights().count();
        check!(self, flights <= FLIGHTS_MAX, "{flights} flights");
        let transfers: usize = self.engine.flights().map(|f| f.fetch_count()).sum();
        let mine = self.transfers.len();
        check!(self, transfers == mine, "the engine knows of {transfers} transfers, the world of {mine}");
        let tickets: usize = self.engine.flights().map(|f| f.ticket_count()).sum();
        let open = self.clients.values().filter(|c| c.is_open()).count();
        check!(self, tickets == open, "the engine knows of {tickets} tickets, the world of {open}");
    }

    /// Each flight waits for an answer, for a moment, or for a place that somebody else holds.
    fn check_alive(&self) {
        let full = self.transfers.len() >= self.settings.fetches_max;
        for flight in self.engine.flights() {
            let number = self.number(flight.digest());
            let blob = &self.blobs[number];
            let answer = blob.busy.is_some() || blob.checkpointing.is_some();
            let transfer = self.transfers.values().any(|t| t.blob == number);
            let moment = self.engine.next_wakeup().is_some();
            let place = if flight.ticket_count() > 0 { full } else { !self.transfers.is_empty() };
            check!(self, answer || transfer || moment || place, "nothing will ever happen to {flight:?}");
        }
    }

    /// Nothing is left to happen: nothing may be left under way (D1), but for a transfer that stalls on purpose.
    fn check_quiet(&self) {
        if self.transfers.values().any(|t| t.stalled) {
            return;
        }
        let open: Vec<_> = self.clients.iter().filter(|(_, c)| c.is_open()).collect();
        check!(self, open.is_empty(), "nothing is left to happen, and these wait: {open:?}");
        let flights: Vec<_> = self.engine.flights().collect();
        check!(self, flights.is_empty(), "nothing is left to happen, and this is under way: {flights:?}");
        check!(self, self.transfers.is_empty(), "transfers nobody knows of");
    }

    fn fail(&self, message: &str) -> ! {
        let from = self.trace.len().saturating_sub(TRACE_TAIL);
        panic!("{message}\n... {}", self.trace[from..].join("\n    "));
    }

    // ---- bookkeeping ----

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + after, self.next_event), event);
    }

    fn vary(&mut self, time: Duration) -> Duration {
        if !self.pace.jitter {
            return time;
        }
        time / 2 + time.mul_f64(self.rng.below(1024) as f64 / 1024.0)
    }

    fn number(&self, digest: Digest) -> BlobNo {
        let number = u64::from_be_bytes(digest.hash()[..8].try_into().expect("eight bytes"));
        usize::try_from(number).expect("a small number") - 1
    }
}

fn scope_no(number: usize) -> Scope {
    Scope {
        registry: "registry.test".parse().expect("a registry"),
        repository: format!("library/image{number}").parse().expect("a repository"),
    }
}

fn number_of(scope: &Scope) -> usize {
    let digits = scope.repository.as_str().trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().expect("a scope of this world")
}

impl Blob {
    /// Whether the engine was told of something that explains this.
    fn explains(&self, fault: PullFault) -> bool {
        let source = |wanted: fn(&SourceFault) -> bool| {
            self.blames.iter().any(|b| matches!(b, Blame::Source(f) if wanted(f)))
        };
        match fault {
            PullFault::Unknown => source(|f| matches!(f, SourceFault::Missing)),
            PullFault::Denied => source(|f| matches!(f, SourceFault::Denied { .. })),
            PullFault::Loop => source(|f| matches!(f, SourceFault::Loop)),
            PullFault::Exhausted => source(|f| {
                use SourceFault::{Interrupted, Protocol, RateLimited, Transient};
                matches!(f, Transient | Interrupted | Protocol | RateLimited { .. })
            }),
            PullFault::WrongContent => {
                self.blames.iter().any(|b| matches!(b, Blame::WrongBytes | Blame::WrongSize))
            }
            PullFault::Draining => false,
        }
    }
}
