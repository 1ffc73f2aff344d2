//! The driver: the one task that owns the engine. It awaits in a `select!`, thinks in synchronous code, and carries
//! out what the engine decides.
//!
//! Invariant: the driver's task never waits for anything but its inbox and the engine's next wakeup; whatever takes
//! time (the disk, upstream) runs as an effect of its own and comes back as one input (I4).

mod batch;
mod body;
mod effects;
mod exchange;
mod flight;
mod hashes;
mod pass;
mod read;
mod restraint;
mod small;
mod story;
mod ticket;
mod traces;
mod turn;
mod warm;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;
use shoal_engine::limits::SCOPES_PER_FLIGHT_MAX;
use shoal_engine::peer::PeerId;
use shoal_engine::{Digest, Engine, FetchId, Input, Output, Scope, TicketId, Time};
use shoal_store::Store;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::admin::openapi::DigestText;
use crate::metrics::Metrics;
use crate::node::{Asked, Cause};
use crate::sources::Sources;
use crate::store_health::StoreHealth;
use crate::swarm::Swarm;
use crate::upstream::{ClientToken, UpstreamError};

pub(crate) use flight::function as hash_function;
pub(crate) use small::is_named;

pub use body::{BlobBody, BodyError, Opened};
pub(crate) use flight::{FlightIo, FlightProof, OfferError};
pub(crate) use read::read_at;
pub(crate) use story::{BRIEF_DIGITS, Naming, brief_name};
pub use story::{BlobSpan, BlobStory, Book, ClassStory, Lease, OnItsOwn, SourceShare};
pub use ticket::{Ending, Ticket};
pub(crate) use warm::{WarmNews, WarmOrder};

use pass::PassThrough;
use ticket::Shared;
use turn::Turn;

/// Commands that wait for the driver at a time; whoever sends one more waits. A command takes microseconds.
const INBOX_MAX: usize = 4096;
/// Pause between two looks at whether a member that does not answer lives.
const SILENCE_LOOK: Duration = Duration::from_millis(100);

/// What the sources said that is kept for the error message; the last ones tell most.
const CAUSES_MAX: usize = 8;

/// Stories of flights that have ended are swept when there are this many.
const STORIES_SWEEP: usize = 1024;

/// What a driver needs.
pub struct Settings {
    /// Bounds of the engine.
    pub engine: shoal_engine::engine::Settings,
    /// Blobs up to this size are kept in memory while they arrive and are stored inline, bytes.
    pub inline_max: u64,
    /// A client that gets no byte for this long is cut off, so that its runtime can ask elsewhere.
    pub body_idle_timeout: Duration,
}

enum Command {
    /// Something happened; with the bytes' place where an effect has opened one.
    Input(Input, Option<Box<FlightIo>>),
    /// A piece of a member lies in this flight.
    Arrived(Arc<FlightIo>, Input),
    /// What a source said, for the answer to those who wait.
    Blame(Digest, Cause),
    /// A manifest has told the size of a blob; the request that brought it sets the blob in motion.
    Described {
        digest: Digest,
        size: u64,
        prefetch: Option<Asked>,
        span: Span,
    },
    Open {
        ticket: TicketId,
        digest: Digest,
        part: Part,
        asked: Asked,
        shared: Arc<Shared>,
        span: Span,
    },
    Status(oneshot::Sender<Vec<FlightStatus>>),
    KnownSize(Digest, oneshot::Sender<Option<u64>>),
    SaysNothing(PeerId, oneshot::Sender<bool>),
    /// Bytes have gone straight from upstream to a client.
    Passed(Digest, Arc<str>, u64),
    /// A member has sent a small blob whole, which is stored.
    Brought(Digest, story::Source, u64),
    Explain(Digest, oneshot::Sender<BlobStory>),
    Book(Digest, Naming, oneshot::Sender<Option<Book>>),
    Busiest(usize, oneshot::Sender<Vec<Digest>>),
    Idle(oneshot::Sender<()>),
    Warm(Box<WarmOrder>, oneshot::Sender<watch::Receiver<WarmNews>>),
    UpstreamBytes(HashSet<Digest>, Duration, oneshot::Sender<u64>),
}

/// One flight, for a person who looks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FlightStatus {
    /// The blob.
    #[schema(value_type = DigestText)]
    pub digest: Digest,
    /// The repository that it was first asked for through, with its registry; unset while nobody has said.
    #[serde(default)]
    pub repository: Option<String>,
    /// Size in bytes, if known.
    pub size: Option<u64>,
    /// Bytes received.
    pub received: u64,
    /// Clients that wait for it.
    pub clients: usize,
    /// Upstream transfers under way.
    pub transfers: usize,
    /// What it is busy with.
    pub phase: String,
}

/// How everything else talks to the driver. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Command>,
    next_ticket: Arc<AtomicU64>,
    pass: PassThrough,
    health: StoreHealth,
}

impl Handle {
    /// Whether the store takes what comes.
    pub fn store_health(&self) -> &StoreHealth {
        &self.health
    }

    /// Asks for a part of a blob that is not in the store. The ticket ends when it is dropped.
    pub async fn open(&self, asked: &Asked, digest: Digest, part: Part) -> Ticket {
        let id = TicketId(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        let shared = Shared::new();
        let ticket = Ticket::new(id, Arc::clone(&shared), self.clone());
        let (asked, ours, span) = (asked.clone(), Arc::clone(&shared), Span::current());
        let command = Command::Open { ticket: id, digest, part, asked, shared: ours, span };
        if self.inbox.send(command).await.is_err() {
            shared.end(Ending::gone());
        }
        ticket
    }

    /// Tells what a manifest has said of a blob, and whether it should start to move.
    pub async fn described(&self, digest: Digest, size: u64, prefetch: Option<&Asked>) {
        let (prefetch, span) = (prefetch.cloned(), Span::current());
        let _ = self.inbox.send(Command::Described { digest, size, prefetch, span }).await;
    }

    /// The size of a blob in bytes, if a manifest or a transfer has told it.
    pub async fn known_size(&self, digest: Digest) -> Option<u64> {
        self.ask(|tell| Command::KnownSize(digest, tell)).await.flatten()
    }

    /// Waits until a member that was asked about something is known to say nothing: for good, if it lives.
    pub(crate) async fn until_silent(&self, peer: PeerId, about: Digest) {
        self.input(Input::Awaited { peer, about }).await;
        while self.ask(|tell| Command::SaysNothing(peer, tell)).await == Some(false) {
            tokio::time::sleep(SILENCE_LOOK).await;
        }
    }

    /// Where a blob comes or came from; `None` when the driver has ended. Whether it is stored is not the driver's to know.
    pub async fn explain(&self, digest: Digest) -> Option<BlobStory> {
        self.ask(|tell| Command::Explain(digest, tell)).await
    }

    /// What this node knows of a blob as one of its homes.
    pub(crate) async fn book(&self, digest: Digest, naming: Naming) -> Option<Book> {
        self.ask(|tell| Command::Book(digest, naming, tell)).await.flatten()
    }

    /// The blobs that most members are receiving by the books that this node keeps, most first.
    pub(crate) async fn busiest(&self, max: usize) -> Vec<Digest> {
        self.ask(|tell| Command::Busiest(max, tell)).await.unwrap_or_default()
    }

    /// The flights under way.
    pub async fn status(&self) -> Vec<FlightStatus> {
        self.ask(Command::Status).await.unwrap_or_default()
    }

    /// Whether it is there, and gets round to answering.
    pub async fn answers(&self) -> bool {
        self.ask(Command::Status).await.is_some()
    }

    /// Begins nothing new; returns when nothing is under way any more, or when `deadline` has passed and everything
    /// has been put down.
    pub async fn drain(&self, deadline: Duration) {
        self.input(Input::Drain).await;
        let idle = self.idle();
        if tokio::time::timeout(deadline, idle).await.is_err() {
            self.input(Input::Stop).await;
            // What is put down now is on its way to the disk; a disk that hangs must not hold the agent for ever.
            let _ = tokio::time::timeout(deadline.max(Duration::from_secs(5)), self.idle()).await;
        }
    }

    async fn idle(&self) {
        let _ = self.ask(Command::Idle).await;
    }

    /// Asks the driver something; `None` when it has ended.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (tell, told) = oneshot::channel();
        self.inbox.send(question(tell)).await.ok()?;
        told.await.ok()
    }

    /// Tells the engine what has happened.
    pub(crate) async fn input(&self, input: Input) {
        self.answer(input, None).await;
    }

    async fn answer(&self, input: Input, io: Option<FlightIo>) {
        // An error means that the driver has ended, and with it everything the input could concern.
        let _ = self.inbox.send(Command::Input(input, io.map(Box::new))).await;
    }

    async fn blame_all(&self, digest: Digest, error: &UpstreamError) {
        for cause in error.causes() {
            let _ = self.inbox.send(Command::Blame(digest, cause)).await;
        }
    }

    fn blame_blocking(&self, digest: Digest, cause: Cause) {
        let _ = self.inbox.blocking_send(Command::Blame(digest, cause));
    }

    /// For threads of the disk.
    fn input_blocking(&self, input: Input) {
        let _ = self.inbox.blocking_send(Command::Input(input, None));
    }

    /// Tells the engine of a piece that a member has sent, and that lies in this flight. For threads of the disk.
    pub(crate) fn arrived(&self, flight: Arc<FlightIo>, input: Input) {
        let _ = self.inbox.blocking_send(Command::Arrived(flight, input));
    }

    /// For destructors: never waits here, and never loses the message.
    pub(crate) fn input_detached(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(Command::Input(input, _))) =
            self.inbox.try_send(Command::Input(input, None))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let handle = self.clone();
            runtime.spawn(async move { handle.input(input).await });
        }
    }
}

struct Driver {
    engine: Engine,
    origin: Instant,
    inbox: mpsc::Receiver<Command>,
    handle: Handle,
    settings: Arc<Settings>,
    store: Store,
    sources: Sources,
    metrics: Arc<Metrics>,
    swarm: Option<Swarm>,
    flights: HashMap<Digest, Arc<FlightIo>>,
    tickets: HashMap<TicketId, Open>,
    fetches: HashMap<FetchId, Running>,
    stories: HashMap<Digest, Story>,
    /// Where the last blobs came from.
    come: story::Stories,
    /// Who listens to warm sets.
    watched: warm::Watched,
    traces: traces::Traces,
    /// What the blobs of a warm set share that is held back.
    paces: warm::Paces,
    idlers: Vec<oneshot::Sender<()>>,
}

struct Open {
    shared: Arc<Shared>,
    digest: Digest,
}

/// What steers a transfer under way.
struct Running {
    digest: Digest,
    end: Arc<AtomicU64>,
    cancel: CancellationToken,
}

/// What the driver remembers of a blob's flight that the engine has no use for.
#[derive(Default)]
struct Story {
    /// The first request; hop count and client address of the flight's transfers are its own. A prefetch has none.
    asked: Option<Asked>,
    /// The tokens that clients have shown, the last one for each scope: it is the one that lives longest.
    bearers: Vec<(Scope, ClientToken)>,
    /// What the sources said.
    causes: Vec<Cause>,
    /// Whether a member has sent it whole, in one answer.
    brought: bool,
}

/// Starts the driver on the current runtime. Without a swarm the node works alone.
pub fn spawn(
    mut settings: Settings,
    store: Store,
    sources: impl Into<Sources>,
    metrics: Arc<Metrics>,
    swarm: Option<Swarm>,
) -> Handle {
    settings.engine.peer = swarm.as_ref().map(Swarm::me);
    let sources = sources.into();
    let (sender, inbox) = mpsc::channel(INBOX_MAX);
    let settings = Arc::new(settings);
    let handle = Handle {
        next_ticket: Arc::new(AtomicU64::new(1)),
        pass: PassThrough::new(sources.clone(), settings.engine.fetches_max, sender.clone()),
        inbox: sender,
        health: StoreHealth::new(store.clone(), Arc::clone(&metrics)),
    };
    let driver = Driver {
        engine: Engine::new(settings.engine),
        origin: Instant::now(),
        inbox,
        handle: handle.clone(),
        settings,
        store,
        sources,
        metrics,
        swarm,
        flights: HashMap::new(),
        tickets: HashMap::new(),
        fetches: HashMap::new(),
        stories: HashMap::new(),
        come: story::Stories::default(),
        watched: warm::Watched::default(),
        traces: traces::Traces::default(),
        paces: warm::Paces::default(),
        idlers: Vec::new(),
    };
    if driver.swarm.is_some() {
        driver.tell_stored();
    }
    tokio::spawn(driver.run());
    handle
}

impl Driver {
    async fn run(mut self) {
        loop {
            let wakeup = self.engine.next_wakeup().map(|at| (self.origin + at.since_origin()).into());
            match turn::next(&mut self.inbox, wakeup).await {
                Some(Turn::Command(command)) => self.handle_command(command),
                Some(Turn::Wakeup { waiting }) => {
                    waiting.into_iter().for_each(|command| self.handle_command(command));
                    self.handle_input(Input::Wakeup);
                }
                None => return,
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Input(input, None) => self.handle_input(input),
            Command::Input(input, Some(io)) => {
                let flight = Arc::new(*io);
                if flight.should_catch_up() {
                    effects::catch_up(&flight);
                }
                self.flights.insert(flight.digest(), flight);
                self.handle_input(input);
            }
            // What was sent for a flight that has ended says nothing of what lies in the one after it.
            Command::Arrived(flight, input) => {
                if self.flights.get(&flight.digest()).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
                    self.handle_input(input);
                }
            }
            Command::Blame(digest, cause) => self.blame(digest, cause),
            Command::Described { digest, size, prefetch, span } => {
                let prefetch = prefetch.filter(|asked| self.may_join(&digest, &asked.scope));
                if let Some(asked) = &prefetch {
                    self.remember_bearer(digest, asked);
                    self.traces.wanted(digest, &span);
                }
                let prefetch = prefetch.map(|asked| asked.scope);
                self.handle_input(Input::Described { digest, size, prefetch });
            }
            Command::Open { digest, asked, shared, .. } if !self.may_join(&digest, &asked.scope) => {
                shared.end(Ending { outcome: Outcome::PassThrough, causes: Vec::new(), brought: false });
            }
            Command::Open { ticket, digest, part, asked, shared, span } => {
                // The first client of a flight counts as its cause, also when a manifest had set it in motion before.
                let under_way = self.engine.flight(&digest).is_some();
                if under_way && self.stories.get(&digest).is_some_and(|story| story.asked.is_some()) {
                    shared.join();
                } else {
                    self.begin_story(digest, &asked);
                }
                self.remember_bearer(digest, &asked);
                self.traces.wanted(digest, &span);
                self.tickets.insert(ticket, Open { shared, digest });
                self.handle_input(Input::Open { ticket, digest, scope: asked.scope, part });
            }
            Command::Status(tell) => {
                let _ = tell.send(self.status());
            }
            Command::KnownSize(digest, tell) => {
                let of_flight = self.engine.flight(&digest).and_then(|flight| flight.size());
                let _ = tell.send(of_flight.or_else(|| self.engine.size_hint(&digest)));
            }
            Command::SaysNothing(peer, tell) => {
                let now = self.now();
                let _ = tell.send(self.engine.swarm().is_none_or(|swarm| swarm.says_nothing(now, &peer)));
            }
            Command::Passed(digest, upstream, bytes) => {
                self.come.passed(digest, story::Source::Upstream(upstream), bytes);
            }
            Command::Brought(digest, from, size) => {
                self.come.passed(digest, from, size);
                self.story(digest).brought = true;
                self.handle_input(Input::Stored { digest, size });
            }
            Command::Explain(digest, tell) => {
                let _ = tell.send(self.explain(digest));
            }
            Command::Book(digest, naming, tell) => {
                let account = self.engine.swarm().and_then(|swarm| swarm.home().account(&digest));
                let me = self.swarm.as_ref().map(Swarm::me);
                let _ = tell.send(me.zip(account).map(|(me, account)| Book::of(&me, &account, naming)));
            }
            Command::Busiest(max, tell) => {
                let busiest = self.engine.swarm().map(|swarm| swarm.home().busiest(max));
                let _ = tell.send(busiest.unwrap_or_default());
            }
            Command::Warm(order, tell) => {
                let _ = tell.send(self.warm(*order));
            }
            Command::UpstreamBytes(blobs, age, tell) => {
                let _ = tell.send(self.upstream_bytes(&blobs, age));
            }
            Command::Idle(tell) => {
                self.idlers.push(tell);
                self.tell_idlers();
            }
        }
    }

    fn handle_input(&mut self, input: Input) {
        let mut ended = None;
        match &input {
            Input::Close { ticket } => {
                self.tickets.remove(ticket);
            }
            Input::FetchEnded { fetch, .. } => ended = self.fetches.remove(fetch),
            Input::Shut { digest } => self.put_down(digest, "put down"),
            // From here on the store answers for the blob; those who still read hold their own handle.
            Input::Committed { digest, result: Ok(()) } => self.put_down(digest, "stored"),
            _ => {}
        }
        let now = self.now();
        tracing::trace!(target: "shoal::engine", ?input);
        self.engine.handle(now, input);
        while let Some(output) = self.engine.poll_output() {
            tracing::trace!(target: "shoal::engine", ?output);
            self.carry_out(output);
        }
        if let Some(Running { digest, .. }) = ended {
            self.traces.fetched(&digest, self.engine.swarm().and_then(|swarm| swarm.exchange(&digest)));
        }
        let flights = self.engine.flights().count();
        self.traces.sweep(flights, |digest| self.engine.flight(digest).is_some());
        self.metrics.flights.set(flights as i64);
        self.metrics.tickets.set(self.tickets.len() as i64);
        self.tell_idlers();
    }

    fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }

    /// One arm for each output, and no other: a new decision of the engine does not compile until it is carried out.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Look { digest } => self.look(digest),
            Output::Size { digest, scope } => self.size(digest, scope),
            Output::Prepare { digest, size } => self.prepare(digest, size),
            Output::Fetch { fetch, digest, scope, start, end, reason } => {
                self.fetch(fetch, digest, scope, start, end, reason);
            }
            Output::Trim { fetch, end } => {
                if let Some(running) = self.fetches.get(&fetch) {
                    running.end.store(end, Ordering::Release);
                }
            }
            Output::Cancel { fetch } => {
                if let Some(running) = self.fetches.get(&fetch) {
                    running.cancel.cancel();
                }
            }
            Output::Checkpoint { digest, have } => self.checkpoint(digest, have),
            Output::Verify { digest } => self.verify(digest),
            Output::Commit { digest } => self.commit(digest),
            Output::Shut { digest, keep } => self.shut(digest, keep),
            Output::Serve { ticket, size, start, end } => {
                if let Some(open) = self.tickets.get(&ticket)
                    && let Some(flight) = self.flights.get(&open.digest)
                {
                    open.shared.serve(size, start..end, Arc::clone(flight));
                }
            }
            Output::Ready { ticket, to } => {
                if let Some(open) = self.tickets.get(&ticket) {
                    open.shared.ready(to);
                }
            }
            Output::Tell { to, message } => self.tell(to, message),
            Output::Upload(send) => self.upload(send),
            Output::Place { digest, piece, from } => self.place(digest, piece, from),
            Output::Discard { digest, piece, from } => self.discard(digest, piece, from),
            Output::Inspect { digest } => self.inspect(digest),
            Output::List { digest } => self.list(digest),
            Output::Keep { digest, until } => self.keep(digest, until),
            Output::Pace { digest, pace } => self.pace(digest, pace),
            Output::Warming { set, tally } => self.tell_warm(set, tally, false),
            Output::Warmed { set, tally } => self.tell_warm(set, tally, true),
            Output::End { ticket, outcome } => {
                if let Some(open) = self.tickets.remove(&ticket) {
                    let story = self.stories.get(&open.digest);
                    let causes = story.map(|story| story.causes.clone()).unwrap_or_default();
                    let brought = story.is_some_and(|story| story.brought);
                    open.shared.end(Ending { outcome, causes, brought });
                }
            }
        }
    }

    fn put_down(&mut self, digest: &Digest, outcome: &'static str) {
        self.traces.ends(digest, outcome);
        self.paces.leave(digest, None);
        if let Some(flight) = self.flights.remove(digest) {
            self.come.keep(*digest, flight.shares());
        }
    }

    fn begin_story(&mut self, digest: Digest, asked: &Asked) {
        let story = self.story(digest);
        story.asked = Some(asked.clone());
        story.causes.clear();
        story.brought = false;
    }

    fn story(&mut self, digest: Digest) -> &mut Story {
        if self.stories.len() >= STORIES_SWEEP.max(2 * self.engine.flights().count()) {
            self.stories.retain(|digest, _| self.engine.flight(digest).is_some());
        }
        self.stories.entry(digest).or_default()
    }

    /// Whether a request may be part of the flight that brings a blob. A flight asks one registry only: what another one
    /// would send on a client's behalf is not for those whom the first one let in, and what a registry that a client
    /// has made up would send must not get mixed with it.
    fn may_join(&self, digest: &Digest, scope: &Scope) -> bool {
        let registry = self.engine.flight(digest).and_then(|flight| flight.registry());
        registry.is_none_or(|registry| *registry == scope.registry)
    }

    /// Keeps the token of a request for the flight that it is part of, or begins.
    fn remember_bearer(&mut self, digest: Digest, asked: &Asked) {
        let begins = self.engine.flight(&digest).is_none();
        let bearers = &mut self.story(digest).bearers;
        if begins {
            bearers.clear();
        }
        let Some(token) = &asked.bearer else { return };
        bearers.retain(|(scope, _)| *scope != asked.scope);
        if bearers.len() < SCOPES_PER_FLIGHT_MAX {
            bearers.push((asked.scope.clone(), token.clone()));
        }
    }

    fn blame(&mut self, digest: Digest, cause: Cause) {
        let causes = &mut self.stories.entry(digest).or_default().causes;
        if causes.len() == CAUSES_MAX {
            causes.remove(0);
        }
        causes.push(cause);
    }

    fn asked_for(&self, digest: Digest, scope: Scope) -> Asked {
        let story = self.stories.get(&digest);
        let first = story.and_then(|s| s.asked.as_ref());
        let bearers = story.map_or(&[][..], |story| &story.bearers);
        Asked {
            bearer: bearers.iter().find(|(of, _)| *of == scope).map(|(_, token)| token.clone()),
            scope,
            hops: first.map(|a| a.hops.clone()).unwrap_or_default(),
            client: first.and_then(|a| a.client),
        }
    }

    fn status(&self) -> Vec<FlightStatus> {
        let status = |f: &shoal_engine::flight::Flight| FlightStatus {
            digest: f.digest(),
            repository: f.first_scope().map(ToString::to_string),
            size: f.size(),
            received: f.received(),
            clients: f.ticket_count(),
            transfers: f.fetch_count(),
            phase: format!("{:?}", f.phase()).to_lowercase(),
        };
        self.engine.flights().map(status).collect()
    }

    fn tell_idlers(&mut self) {
        if self.engine.is_idle() {
            for idler in self.idlers.drain(..) {
                let _ = idler.send(());
            }
        }
    }
}
