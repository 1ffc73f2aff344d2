//! The effects: what the driver does for the engine, on the disk's threads or as upstream transfers.
//!
//! Invariant (I4): each function here leads to exactly one answering input, also when a thread panics or the disk
//! fails; an effect that could be forgotten would leave a flight hanging for ever.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use shoal_engine::io::{FetchFault, FetchReason, Found};
use shoal_engine::{ByteRanges, Digest, FetchId, Input, LocalFault, Scope, SourceFault};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use super::batch::{Batches, Closed};
use super::flight::FlightIo;
use super::hashes::PieceHashes;
use super::story::OnItsOwn;
use super::{Driver, Handle, Running};
use crate::node::{Asked, Cause};
use crate::sources::{Incoming, Sources};
use crate::store_health::{DiskError, StoreHealth};
use crate::trace::{self, TARGET};
use crate::upstream::{MANIFEST_BYTES_MAX, UpstreamError};

/// Bytes of upstream that wait together for their turn where a flight is held back: at a slow pace they still come often
/// enough for everybody to see that they do.
const HELD_PART_BYTES: usize = 64 << 10;

impl Driver {
    pub(super) fn look(&mut self, digest: Digest) {
        self.traces.begun(digest);
        let flight = self.traces.flight(&digest);
        let span = tracing::info_span!(target: TARGET, parent: &flight, "look", shoal.found = field::Empty);
        let (store, handle) = (self.store.clone(), self.handle.clone());
        let registry = self.engine.flight(&digest).and_then(|flight| flight.registry()).cloned();
        let looked = move || -> Result<(Found, Option<FlightIo>), DiskError> {
            if store.get(&digest, SystemTime::now())?.is_some() {
                return Ok((Found::Whole, None));
            }
            let Some(size) = store.partial_size(&digest)? else { return Ok((Found::Absent, None)) };
            let partial = store.partial(&digest, size)?;
            if partial.origin().map(|(scope, _)| &scope.registry) != registry.as_ref() {
                // What another registry has sent is not for whom this one lets in (and the other way round).
                partial.discard()?;
                return Ok((Found::Absent, None));
            }
            let found = Found::Partial { size, have: partial.have().into_iter().collect() };
            Ok((found, Some(FlightIo::in_file(digest, Arc::new(partial)))))
        };
        let small = self.small_blob(digest);
        let looking = async move {
            let looked = on_disk(handle.store_health(), 0, looked).await;
            let (mut found, io) = looked.unwrap_or_else(|fault| (Found::Broken(fault), None));
            if let (Found::Absent, Some(small)) = (&found, small) {
                let driver = handle.clone();
                let brought = tokio::spawn(async move { small.bring(&driver).await }.in_current_span());
                if brought.await.unwrap_or(false) {
                    found = Found::Whole;
                }
            }
            Span::current().record("shoal.found", found_name(&found));
            handle.answer(Input::Looked { digest, found }, io).await;
        };
        tokio::spawn(looking.instrument(span));
    }

    pub(super) fn prepare(&mut self, digest: Digest, size: Option<u64>) {
        if let Some(size) = size.filter(|size| *size <= self.settings.inline_max) {
            let io = FlightIo::in_memory(digest, size);
            return self.answer(Input::Prepared { digest, result: Ok(()) }, Some(io));
        }
        let (store, handle) = (self.store.clone(), self.handle.clone());
        let health = handle.store_health().clone();
        let prepared = move || -> Result<FlightIo, DiskError> {
            let partial = match size {
                Some(size) => {
                    let partial = store.partial(&digest, size)?;
                    health.has_room(size);
                    partial
                }
                None => store.partial_unsized(&digest)?,
            };
            Ok(FlightIo::in_file(digest, Arc::new(partial)))
        };
        self.blocking(
            0,
            prepared,
            move |prepared| match prepared {
                Ok(io) => (Input::Prepared { digest, result: Ok(()) }, Some(io)),
                Err(fault) => (Input::Prepared { digest, result: Err(fault) }, None),
            },
            handle,
            tracing::info_span!(target: TARGET, parent: &self.traces.flight(&digest), "prepare"),
        );
    }

    pub(super) fn size(&mut self, digest: Digest, scope: Scope) {
        let (sources, handle, driver) = (self.sources.clone(), self.handle.clone(), self.handle.clone());
        let asked = self.asked_for(digest, scope);
        // A client's token is between this node and the registry.
        let swarm = self.swarm.clone().filter(|_| asked.bearer.is_none());
        let span = tracing::info_span!(target: TARGET, parent: &self.traces.flight(&digest), "size");
        tokio::spawn(async move {
            let told = async move {
                let upstream = async { sources.blob_size(&asked, &digest).await.map(|told| told.size) };
                match swarm {
                    Some(swarm) => Box::pin(swarm.size(&asked.scope, &digest, upstream, &driver)).await,
                    None => upstream.await,
                }
            };
            let told = tokio::spawn(told.instrument(span));
            let result = match told.await {
                Ok(Ok(size)) => Ok(size),
                Ok(Err(error)) => {
                    let fault = error.fault();
                    match fault {
                        // An answer like any other; the request's own line says it as well.
                        SourceFault::Missing => {
                            tracing::debug!(digest = %digest.short(), %error, "no source has a blob");
                        }
                        _ => {
                            tracing::warn!(digest = %digest.short(), %error, "no source gives a blob");
                        }
                    }
                    handle.blame_all(digest, &error).await;
                    Err(fault)
                }
                Err(_) => Err(SourceFault::Protocol),
            };
            handle.input(Input::Sized { digest, result }).await;
        });
    }

    pub(super) fn fetch(
        &mut self,
        fetch: FetchId,
        digest: Digest,
        scope: Scope,
        start: u64,
        end: Option<u64>,
        reason: FetchReason,
    ) {
        let Some(flight) = self.flights.get(&digest).cloned() else {
            let result = Err(FetchFault::Local(LocalFault::StoreBroken));
            return self.answer(Input::FetchEnded { fetch, result }, None);
        };
        match reason {
            FetchReason::First => {}
            FetchReason::Retry => self.metrics.upstream_retry(&self.sources.upstream().label(&scope)),
            FetchReason::Resume => self.metrics.upstream_resume(&self.sources.upstream().label(&scope)),
        }
        let end = Arc::new(AtomicU64::new(end.unwrap_or(u64::MAX)));
        let cancel = CancellationToken::new();
        self.fetches.insert(fetch, Running { digest, end: Arc::clone(&end), cancel: cancel.clone() });
        let exchange = self.engine.swarm().and_then(|swarm| swarm.exchange(&digest));
        if let Some(why) = exchange.and_then(OnItsOwn::of) {
            tracing::info!(digest = %digest.short(), %why, "this node fetches a blob by itself");
            self.metrics.on_its_own(why.as_str());
            flight.set_on_its_own(why);
        }
        let span = transfer_span(&self.traces.of_fetch(&digest, start, exchange), start);
        let transfer = Transfer {
            fetch,
            digest,
            asked: self.asked_for(digest, scope),
            start,
            end,
            cancel,
            flight,
            handle: self.handle.clone(),
            sources: self.sources.clone(),
            shares: self.swarm.is_some(),
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            // A panic in the transfer must answer like any other failure.
            let result = tokio::spawn(transfer.traced().instrument(span)).await;
            let result = result.unwrap_or(Err(FetchFault::Local(LocalFault::StoreBroken)));
            handle.input(Input::FetchEnded { fetch, result }).await;
        });
    }

    pub(super) fn checkpoint(&mut self, digest: Digest, have: ByteRanges) {
        self.on_flight(
            digest,
            move |flight| match flight.partial() {
                Some(partial) => Ok(partial.checkpoint(&have.iter().collect::<Vec<_>>())?),
                None => Ok(()),
            },
            move |result| Input::Checkpointed { digest, result },
            Span::none(),
        );
    }

    pub(super) fn verify(&mut self, digest: Digest) {
        let (metrics, handle, sources) =
            (Arc::clone(&self.metrics), self.handle.clone(), self.sources.clone());
        let runtime = tokio::runtime::Handle::current();
        let flight = self.traces.flight(&digest);
        let span =
            tracing::info_span!(target: TARGET, parent: &flight, "verify", shoal.matches = field::Empty);
        self.on_flight(
            digest,
            move |flight| {
                let matches = flight.verify()?;
                if !matches {
                    metrics.verify_failure();
                    let reason = "the bytes that upstream sent do not match the digest".into();
                    handle.blame_blocking(digest, Cause { source: digest.to_string(), reason });
                    tracing::error!(%digest, "the bytes that upstream sent do not match the digest");
                    // Before the verdict is told: what follows from it must not ask the same mirror again.
                    runtime.block_on(sources.blame(&digest, &flight.senders()));
                }
                Ok(matches)
            },
            move |result| {
                if let Ok(matches) = result {
                    Span::current().record("shoal.matches", matches);
                }
                Input::Verified { digest, result }
            },
            span,
        );
    }

    pub(super) fn commit(&mut self, digest: Digest) {
        let (store, sources) = (self.store.clone(), self.sources.clone());
        self.on_flight(
            digest,
            move |flight| {
                let now = SystemTime::now();
                // Before it is stored: whoever finds it there must find its repositories, or asks the registry for nothing.
                for (scope, visibility) in flight.vouched() {
                    store.link(&scope, &digest, visibility)?;
                }
                match (flight.partial(), flight.seal()) {
                    (Some(partial), _) => drop(Arc::clone(partial).commit(None, now)?),
                    (None, Some(bytes)) => store.put(&digest, None, &bytes, now)?,
                    (None, None) => unreachable!("a flight is in a file or in memory"),
                }
                let senders = flight.senders();
                if sources.wants(&senders)
                    && let Some(blob) = store.get(&digest, now)?
                {
                    sources.offer(digest, blob.size, blob.content, &senders);
                }
                Ok(())
            },
            move |result| Input::Committed { digest, result },
            tracing::info_span!(target: TARGET, parent: &self.traces.flight(&digest), "commit"),
        );
    }

    pub(super) fn shut(&mut self, digest: Digest, keep: Option<ByteRanges>) {
        self.on_flight(
            digest,
            move |flight| {
                match (flight.partial(), keep) {
                    (Some(partial), Some(have)) => partial.checkpoint(&have.iter().collect::<Vec<_>>())?,
                    (Some(partial), None) => partial.discard()?,
                    (None, _) => {}
                }
                Ok(())
            },
            move |_| Input::Shut { digest },
            Span::none(),
        );
    }

    // ---- how effects run and answer ----

    /// Runs something that reads or syncs up to so many bytes on a thread of the disk, and answers with what comes out; an
    /// error becomes a local fault.
    fn blocking<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
        answer: impl FnOnce(Result<T, LocalFault>) -> (Input, Option<FlightIo>) + Send + 'static,
        handle: Handle,
        span: Span,
    ) {
        let health = self.handle.store_health().clone();
        let done = async move {
            let (input, io) = answer(on_disk(&health, bytes, work).await);
            handle.answer(input, io).await;
        };
        tokio::spawn(done.instrument(span));
    }

    fn on_flight<T: Send + 'static>(
        &self,
        digest: Digest,
        work: impl FnOnce(&FlightIo) -> Result<T, DiskError> + Send + 'static,
        input: impl FnOnce(Result<T, LocalFault>) -> Input + Send + 'static,
        span: Span,
    ) {
        match self.flights.get(&digest).cloned() {
            Some(flight) => {
                // Any of it may not have been hashed or synced yet.
                let bytes = flight.size().unwrap_or(0);
                self.blocking(bytes, move || work(&flight), |r| (input(r), None), self.handle.clone(), span);
            }
            None => self.answer(input(Err(LocalFault::StoreBroken)), None),
        }
    }

    /// Answers at once; not from inside the engine's turn, but through the inbox like every other answer.
    fn answer(&self, input: Input, io: Option<FlightIo>) {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.answer(input, io).await });
    }
}

/// [`StoreHealth::on_disk_by_size`] for a flight: what one gets done there shows that the disk is well.
async fn on_disk<T: Send + 'static>(
    health: &StoreHealth,
    bytes: u64,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, LocalFault> {
    let done = health.on_disk_by_size(bytes, move |_| work()).await;
    if done.is_ok() {
        health.works();
    }
    done
}

/// One transfer from upstream into the place of its flight.
struct Transfer {
    fetch: FetchId,
    digest: Digest,
    asked: Asked,
    start: u64,
    /// End, exclusive; the engine may move it closer while the transfer runs.
    end: Arc<AtomicU64>,
    cancel: CancellationToken,
    flight: Arc<FlightIo>,
    handle: Handle,
    sources: Sources,
    /// Whether others may want the pieces from here.
    shares: bool,
}

impl Transfer {
    async fn traced(self) -> Result<(), FetchFault> {
        let result = self.run().await;
        match &result {
            Err(fault @ (FetchFault::Source(_) | FetchFault::Local(_))) => {
                trace::outcome(&Span::current(), Err(&format_args!("{fault:?}")));
            }
            Err(FetchFault::Cancelled) => trace::outcome(&Span::current(), Ok::<_, &str>("cancelled")),
            Ok(()) => trace::outcome(&Span::current(), Ok::<_, &str>("complete")),
        }
        result
    }

    async fn run(self) -> Result<(), FetchFault> {
        let end = self.end.load(Ordering::Acquire);
        let end = (end != u64::MAX).then_some(end);
        let opened = tokio::select! {
            () = self.cancel.cancelled() => return Err(FetchFault::Cancelled),
            opened = self.sources.open_blob(&self.asked, &self.digest, self.start, end) => opened,
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => match self.as_manifest(&error, end).await {
                Some(stream) => stream,
                None => return Err(self.blame(error).await),
            },
        };
        // Before the first byte is there: whoever asked through this repository waits for nothing more.
        self.flight.vouch(&self.asked.scope, stream.visibility);
        self.flight.comes_from(&stream.sender);
        let span = Span::current();
        span.record("shoal.source", stream.sender.kind());
        span.record("shoal.source.name", stream.sender.name());
        if let Some(total) = stream.total {
            if let Err(error) = self.flight.set_size(total) {
                self.handle.store_health().failed(&error);
                return Err(FetchFault::Local(error.fault()));
            }
            self.handle.input(Input::FetchOpened { fetch: self.fetch, total: Some(total) }).await;
        }
        let (mut batches, queue) = Batches::channel();
        let sink = {
            let (flight, handle, fetch, start) =
                (Arc::clone(&self.flight), self.handle.clone(), self.fetch, self.start);
            let (shares, name) = (self.shares, Arc::from(stream.sender.name()));
            tokio::task::spawn_blocking(move || {
                let hashes = shares.then(|| PieceHashes::new(&flight, start)).flatten();
                sink(&flight, &handle, (fetch, start, &name), hashes, queue)
            })
        };
        let received = tokio::select! {
            () = self.cancel.cancelled() => Err(FetchFault::Cancelled),
            received = self.forward(&mut stream, &mut batches) => received,
        };
        batches.end().await;
        // What has been received is written before the end is told, also of a cancelled transfer: nothing writes after
        // the answer, and the next transfer goes on right behind it.
        let written = sink.await.unwrap_or(Err(LocalFault::StoreBroken));
        let reached = written.map_err(FetchFault::Local)?;
        span.record("shoal.bytes", reached - self.start);
        received?;
        if self.end.load(Ordering::Acquire) == u64::MAX
            && let Err(error) = self.flight.set_size(reached)
        {
            return Err(FetchFault::Local(error.fault()));
        }
        Ok(())
    }

    /// The same bytes from where manifests are: what is small and no blob may be one.
    async fn as_manifest(&self, error: &UpstreamError, end: Option<u64>) -> Option<Incoming> {
        let size = self.flight.size().filter(|size| *size <= MANIFEST_BYTES_MAX)?;
        if error.fault() != SourceFault::Missing {
            return None;
        }
        let range = self.start..end.unwrap_or(size);
        let opened = tokio::select! {
            () = self.cancel.cancelled() => return None,
            opened = self.sources.open_manifest(&self.asked, &self.digest, range) => opened,
        };
        opened.unwrap_or_else(|error| {
            tracing::debug!(digest = %self.digest.short(), %error, "it is no manifest either");
            None
        })
    }

    async fn forward(&self, stream: &mut Incoming, batches: &mut Batches) -> Result<(), FetchFault> {
        let mut at = self.start;
        while at < self.end.load(Ordering::Acquire) {
            let Ok(next) = pass_on_until(stream.next(), batches).await else { break };
            let mut chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(self.blame(error).await),
            };
            let left = self.end.load(Ordering::Acquire).saturating_sub(at);
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            at += chunk.len() as u64;
            if self.hand_on(chunk, batches).await.is_err() {
                // The sink has failed and says why.
                break;
            }
        }
        Ok(())
    }

    /// Gives what has come to the sink, bit by bit while the flight is held back.
    async fn hand_on(&self, mut chunk: Bytes, batches: &mut Batches) -> Result<(), Closed> {
        let restraint = self.flight.restraint();
        while restraint.holds() && !chunk.is_empty() {
            let part = chunk.split_to(chunk.len().min(HELD_PART_BYTES));
            pass_on_until(restraint.pass_upstream(part.len()), batches).await?;
            batches.push(part).await?;
        }
        if chunk.is_empty() { Ok(()) } else { batches.push(chunk).await }
    }

    async fn blame(&self, error: UpstreamError) -> FetchFault {
        tracing::warn!(digest = %self.digest.short(), %error, "a transfer from upstream failed");
        self.handle.blame_all(self.digest, &error).await;
        FetchFault::Source(error.fault())
    }
}

/// What is known of a transfer from upstream before it is asked for; the rest is recorded as it comes.
fn transfer_span(parent: &Span, start: u64) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: parent,
        "transfer",
        otel.kind = "client",
        shoal.start = start,
        shoal.source = field::Empty,
        shoal.source.name = field::Empty,
        shoal.bytes = field::Empty,
        shoal.outcome = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty
    )
}

fn found_name(found: &Found) -> &'static str {
    match found {
        Found::Whole => "whole",
        Found::Partial { .. } => "part",
        Found::Absent => "nothing",
        Found::Broken(_) => "broken",
    }
}

/// Waits for `next`, which may take long, and passes on what is due meanwhile.
async fn pass_on_until<F: Future>(next: F, batches: &mut Batches) -> Result<F::Output, Closed> {
    let mut next = pin!(next);
    loop {
        tokio::select! {
            biased;
            output = next.as_mut() => return Ok(output),
            passed_on = batches.pass_on_when_due() => passed_on?,
        }
    }
}

/// Writes what comes out of the queue to its place, tells the engine, then hashes. Returns the offset reached.
fn sink(
    flight: &Arc<FlightIo>,
    handle: &Handle,
    (fetch, start, upstream): (FetchId, u64, &Arc<str>),
    mut hashes: Option<PieceHashes>,
    mut queue: mpsc::Receiver<Vec<Bytes>>,
) -> Result<u64, LocalFault> {
    let mut at = start;
    while let Some(batch) = queue.blocking_recv() {
        let offset = at;
        at += flight.write(offset, &batch).map_err(|error| {
            handle.store_health().failed(&error);
            error.fault()
        })?;
        flight.came_from(upstream, offset..at);
        handle.input_blocking(Input::Progress { fetch, to: at });
        let complete = hashes.as_mut().map(|hashes| hashes.update(offset, &batch)).unwrap_or_default();
        for (piece, hash) in complete {
            handle.input_blocking(Input::Hashed { digest: flight.digest(), piece, hash });
        }
        if flight.hash(offset, &batch) {
            catch_up(flight);
        }
    }
    Ok(at)
}

/// Sets a thread to hash what the running hash has missed.
pub(super) fn catch_up(flight: &Arc<FlightIo>) {
    let flight = Arc::clone(flight);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = flight.catch_up() {
            // The verdict reads the same bytes again and fails the flight if they cannot be read.
            tracing::warn!(%error, "cannot read back what was received");
        }
    });
}
