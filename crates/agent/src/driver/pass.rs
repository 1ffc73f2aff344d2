//! Pass-through: straight from upstream to one client, when the store cannot be used.
//!
//! Invariants: memory is bounded by one piece and a few chunks; a transfer that breaks goes on at the byte reached; a
//! reader that gets the blob from its first byte on gets the last piece only after the digest has matched (I2). For a
//! range that begins later nothing here has seen the beginning, and the client's own check is the check, as it would
//! be without us. Of the transfers that may run at a time, one whose client reads slowly is none (I7).

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::Digest;
use shoal_engine::pieces::last_piece_start;
use shoal_engine::retry::{self, Verdict, View};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tracing::Instrument as _;

use super::Command;
use super::flight::{FlightIo, function};
use crate::node::{Asked, Cause};
use crate::sources::{Sender, Sources};
use crate::trace::TARGET;

/// Chunks between upstream and one client.
const CHUNKS_MAX: usize = 8;

/// Bytes after which the driver is told how many have come.
const TOLD_EVERY_BYTES: u64 = 1 << 20;

/// How long a client waits for a free transfer.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a transfer waits for its client before it gives its place to another one. A client that keeps up takes a chunk within
/// milliseconds.
const SLOW_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct PassThrough {
    sources: Sources,
    /// Where it is told who sent what.
    driver: mpsc::Sender<Command>,
    /// Pass-through has no singleflight: this bound is what keeps a node with a sick disk from storming upstream.
    permits: Arc<Semaphore>,
    transfers_max: usize,
}

/// What a client still needs.
pub(crate) struct Rest {
    pub asked: Asked,
    pub digest: Digest,
    /// Size of the whole blob in bytes.
    pub size: u64,
    /// What the client was promised.
    pub range: Range<u64>,
    /// The first byte it has not got.
    pub from: u64,
    /// The flight that brought the bytes before `from`, if one did.
    pub flight: Option<Arc<FlightIo>>,
}

/// Why pass-through failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    /// All places are taken by other clients.
    #[error("all {0} pass-through transfers are busy")]
    Busy(usize),
    /// The source failed; what it said.
    #[error("{}: {}", .0.source, .0.reason)]
    Source(Cause),
    /// The bytes do not match the digest.
    #[error("the bytes do not match the digest")]
    WrongContent,
}

impl PassThrough {
    pub fn new(sources: Sources, transfers_max: usize, driver: mpsc::Sender<Command>) -> Self {
        PassThrough { sources, driver, permits: Arc::new(Semaphore::new(transfers_max)), transfers_max }
    }

    /// Starts the transfer. Chunks come out of the channel; it closes after the last byte or after an error.
    pub fn start(&self, rest: Rest) -> mpsc::Receiver<Result<Bytes, PassError>> {
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let this = self.clone();
        let span = tracing::info_span!(
            target: TARGET, "pass", shoal.digest = %rest.digest, shoal.start = rest.from, shoal.end = rest.range.end
        );
        let passed = async move {
            tokio::select! {
                result = this.run(&rest, &chunks) => if let Err(error) = result {
                    let _ = chunks.send(Err(error)).await;
                },
                () = chunks.closed() => {}
            }
        };
        tokio::spawn(passed.instrument(span));
        receiver
    }

    async fn run(
        &self,
        rest: &Rest,
        chunks: &mpsc::Sender<Result<Bytes, PassError>>,
    ) -> Result<(), PassError> {
        let mut outlet = Outlet::new(chunks, &self.permits, self.transfers_max);
        outlet.take_place().await?;
        let mut gate = Gate::new(rest).await;
        let mut at = rest.from;
        let mut failures = 0;
        while at < rest.range.end {
            let began_at = at;
            let Err(error) = self.transfer(rest, &mut at, &mut gate, &mut outlet).await else { break };
            let progressed = at > began_at;
            failures = if progressed { 0 } else { failures + 1 };
            let view = View {
                failures,
                progressed,
                under_way: at > rest.range.start,
                tickets: 1,
                more_scopes: false,
                jitter: at,
            };
            match retry::after_fault(&error.fault(), view) {
                Verdict::Again(pause) => {
                    tokio::time::sleep(pause).await;
                    outlet.take_place().await?;
                }
                Verdict::NextScope | Verdict::GiveUp(_) => return Err(PassError::Source(error.cause())),
            }
        }
        let senders = std::mem::take(&mut gate.senders);
        let opened = gate.open(rest, &mut outlet).await;
        if matches!(opened, Err(PassError::WrongContent)) {
            self.sources.blame(&rest.digest, &senders).await;
        }
        opened
    }

    async fn transfer(
        &self,
        rest: &Rest,
        at: &mut u64,
        gate: &mut Gate,
        outlet: &mut Outlet<'_>,
    ) -> Result<(), crate::upstream::UpstreamError> {
        let mut stream = self.sources.open_blob(&rest.asked, &rest.digest, *at, Some(rest.range.end)).await?;
        if !gate.senders.contains(&stream.sender) {
            gate.senders.push(stream.sender.clone());
        }
        let mut tally = Tally { of: self, digest: rest.digest, name: stream.sender.name().into(), untold: 0 };
        while let Some(chunk) = stream.next().await? {
            let offset = *at;
            *at += chunk.len() as u64;
            tally.add(chunk.len() as u64);
            gate.pass(offset, chunk, outlet).await;
        }
        Ok(())
    }
}

/// The way to the client, and the place among the transfers that may run: for opening one, and for as long as its source is what
/// it waits for.
struct Outlet<'p> {
    chunks: &'p mpsc::Sender<Result<Bytes, PassError>>,
    permits: &'p Semaphore,
    transfers_max: usize,
    permit: Option<SemaphorePermit<'p>>,
}

impl<'p> Outlet<'p> {
    fn new(
        chunks: &'p mpsc::Sender<Result<Bytes, PassError>>,
        permits: &'p Semaphore,
        transfers_max: usize,
    ) -> Self {
        Outlet { chunks, permits, transfers_max, permit: None }
    }

    /// Waits for a place, unless it has one.
    async fn take_place(&mut self) -> Result<(), PassError> {
        if self.permit.is_none() {
            let permit = tokio::time::timeout(PERMIT_TIMEOUT, self.permits.acquire()).await;
            let Ok(Ok(permit)) = permit else { return Err(PassError::Busy(self.transfers_max)) };
            self.permit = Some(permit);
        }
        Ok(())
    }

    async fn send(&mut self, chunk: Bytes) {
        // A client that has gone ends the whole task.
        let mut sending = pin!(self.chunks.send(Ok(chunk)));
        if tokio::time::timeout(SLOW_AFTER, sending.as_mut()).await.is_err() {
            self.permit = None;
            let _ = sending.await;
        } else if self.permit.is_none() {
            // It keeps up again. Where there is no place it goes on without: its connection is there, and asks for no other one.
            self.permit = self.permits.try_acquire().ok();
        }
    }
}

/// Counts what a source sends, for a person who asks where the bytes came from; the rest is told when it is dropped, however
/// the transfer ends. A driver that is busy is not waited for.
struct Tally<'p> {
    of: &'p PassThrough,
    digest: Digest,
    name: Arc<str>,
    untold: u64,
}

impl Tally<'_> {
    fn add(&mut self, bytes: u64) {
        self.untold += bytes;
        if self.untold >= TOLD_EVERY_BYTES {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let passed = Command::Passed(self.digest, Arc::clone(&self.name), self.untold);
        if self.untold > 0 && self.of.driver.try_send(passed).is_ok() {
            self.untold = 0;
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Holds back the last piece until the digest has matched, where that can be told.
struct Gate {
    hash: Option<ring::digest::Context>,
    sealed_from: u64,
    held: Vec<Bytes>,
    /// Who has sent bytes.
    senders: Vec<Sender>,
}

impl Gate {
    async fn new(rest: &Rest) -> Self {
        let complete = rest.range == (0..rest.size);
        let hash = match (&rest.flight, rest.from) {
            _ if !complete => None,
            (_, 0) => Some(ring::digest::Context::new(function(rest.digest))),
            (Some(flight), from) => {
                let flight = Arc::clone(flight);
                let prefix = tokio::task::spawn_blocking(move || flight.prefix_hash(from)).await;
                prefix.ok().and_then(Result::ok).flatten()
            }
            (None, _) => None,
        };
        let sealed_from = if hash.is_some() { last_piece_start(rest.size) } else { u64::MAX };
        Gate { hash, sealed_from, held: Vec::new(), senders: Vec::new() }
    }

    async fn pass(&mut self, offset: u64, mut chunk: Bytes, outlet: &mut Outlet<'_>) {
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk);
        }
        let free = usize::try_from(self.sealed_from.saturating_sub(offset)).unwrap_or(usize::MAX);
        if free < chunk.len() {
            self.held.push(chunk.split_off(free));
        }
        if !chunk.is_empty() {
            outlet.send(chunk).await;
        }
    }

    async fn open(self, rest: &Rest, outlet: &mut Outlet<'_>) -> Result<(), PassError> {
        if let Some(hash) = self.hash
            && hash.finish().as_ref() != rest.digest.hash()
        {
            return Err(PassError::WrongContent);
        }
        for chunk in self.held {
            outlet.send(chunk).await;
        }
        Ok(())
    }
}

impl PassError {
    /// What it means for the client.
    pub fn into_cause(self) -> Cause {
        match self {
            PassError::Source(cause) => cause,
            other => Cause { source: "pass-through".into(), reason: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_told_how_many_there_are() {
        let permits = Semaphore::new(2);
        let (chunks, _client) = mpsc::channel(CHUNKS_MAX);
        let _taken = permits.acquire_many(2).await.unwrap();
        let error = Outlet::new(&chunks, &permits, 2).take_place().await.unwrap_err();
        assert_eq!(error.to_string(), "all 2 pass-through transfers are busy");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_leaves_its_place_to_others() {
        let permits = Semaphore::new(1);
        let (chunks, mut client) = mpsc::channel(1);
        let mut outlet = Outlet::new(&chunks, &permits, 1);
        let chunk = Bytes::from_static(b"chunk");
        outlet.take_place().await.unwrap();
        outlet.send(chunk.clone()).await;
        assert_eq!(permits.available_permits(), 0, "it keeps up");
        {
            let mut sending = pin!(outlet.send(chunk.clone()));
            assert!(tokio::time::timeout(2 * SLOW_AFTER, sending.as_mut()).await.is_err());
            assert_eq!(permits.available_permits(), 1);
            client.recv().await.unwrap().unwrap();
            sending.await;
        }
        // Another one has the place; this one's transfer goes on, and does not open another one.
        let taken = permits.try_acquire().unwrap();
        client.recv().await.unwrap().unwrap();
        outlet.send(chunk.clone()).await;
        assert!(outlet.take_place().await.is_err());
        drop(taken);
        client.recv().await.unwrap().unwrap();
        outlet.send(chunk).await;
        assert_eq!(permits.available_permits(), 0, "it keeps up again");
    }
}
