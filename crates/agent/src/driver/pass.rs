//! Pass-through: straight from upstream to one client, when the store cannot be used.
//!
//! Invariants: memory is bounded by one piece and a few chunks; a transfer that breaks goes on at the byte reached; a
//! reader that gets the blob from its first byte on gets the last piece only after the digest has matched (I2), and nothing
//! more where what a flight has brought it cannot be hashed. For a range that begins later nothing here has seen the
//! beginning, and the client's own check is the check, as it would be without us. Of the transfers that may run at a time,
//! one whose client reads slowly is none, nor is one that waits for the disk (I7).

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::store_health::{StoreHealth, overdue, patience_with_disk};
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

/// Threads that read back what flights have brought, one for each: a few of those that may wait for disks, so that one that hangs
/// leaves the others.
const READS_MAX: usize = 8;

#[derive(Clone)]
pub(crate) struct PassThrough {
    sources: Sources,
    /// Where it is told who sent what.
    driver: mpsc::Sender<Command>,
    /// Pass-through has no singleflight: this bound is what keeps a node with a sick disk from storming upstream.
    permits: Arc<Semaphore>,
    transfers_max: usize,
    /// Places for threads that read back what flights have brought.
    reads: Arc<Semaphore>,
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
    /// The flight that brought the bytes before `from`, if one did, and the disk that it is on.
    pub flight: Option<(Arc<FlightIo>, StoreHealth)>,
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
    /// What the client has got from its flight cannot be read back, and the rest not be verified without it.
    #[error("what has been sent cannot be read back, and the rest not be verified without it: {0}")]
    Unread(Arc<io::Error>),
}

impl PassThrough {
    pub fn new(sources: Sources, transfers_max: usize, driver: mpsc::Sender<Command>) -> Self {
        let (permits, reads) = (Arc::new(Semaphore::new(transfers_max)), Arc::new(Semaphore::new(READS_MAX)));
        PassThrough { sources, driver, permits, transfers_max, reads }
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
        // Before it has a place, which is not for those who wait for the disk.
        let mut gate = Gate::new(rest, &self.reads).await?;
        let mut outlet = Outlet::new(chunks, &self.permits, self.transfers_max);
        outlet.take_place().await?;
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
    async fn new(rest: &Rest, reads: &Arc<Semaphore>) -> Result<Self, PassError> {
        let complete = rest.range == (0..rest.size);
        let hash = match &rest.flight {
            _ if !complete => None,
            _ if rest.from == 0 => Some(ring::digest::Context::new(function(rest.digest))),
            Some((flight, health)) => Some(hash_before(rest.from, flight, health, reads).await?),
            // Nobody has kept what came before.
            None => return Err(PassError::Unread(Arc::new(io::ErrorKind::NotFound.into()))),
        };
        let sealed_from = if hash.is_some() { last_piece_start(rest.size) } else { u64::MAX };
        Ok(Gate { hash, sealed_from, held: Vec::new(), senders: Vec::new() })
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

/// A hash over the first `upto` bytes of a flight, where its clients go on without it. What the running hash has not kept is read once
/// for all of them.
async fn hash_before(
    upto: u64,
    flight: &Arc<FlightIo>,
    health: &StoreHealth,
    reads: &Arc<Semaphore>,
) -> Result<ring::digest::Context, PassError> {
    let (prefix, is_new) = flight.prefix(upto);
    if is_new {
        let kept = flight.kept_hash(upto);
        let (prefix, flight, health, reads) =
            (Arc::clone(&prefix), Arc::clone(flight), health.clone(), Arc::clone(reads));
        // A task of its own: the others still wait for it when the client that was first has left.
        tokio::spawn(async move {
            let hash = match kept {
                Ok(hash) => Ok(hash),
                Err(unread) => read_back(upto, unread, &flight, reads).await.map_err(|error| {
                    let (digest, error) = (flight.digest(), Arc::new(error));
                    tracing::error!(
                        %digest, sent = upto, %error,
                        "what clients have got of a blob cannot be read back to verify the rest; they are cut off"
                    );
                    health.unreadable(&PassError::Unread(Arc::clone(&error)));
                    error
                }),
            };
            // Nobody else sets it.
            let _ = prefix.hash.set(hash);
        });
    }
    prefix.hash.wait().await.clone().map_err(PassError::Unread)
}

/// The same, with `unread` bytes of it read on a thread of the disk, which get the time for that and no more.
async fn read_back(
    upto: u64,
    unread: u64,
    flight: &Arc<FlightIo>,
    reads: Arc<Semaphore>,
) -> io::Result<ring::digest::Context> {
    let patience = patience_with_disk(unread);
    let (due_at, flight) = (Instant::now() + patience, Arc::clone(flight));
    let read = async move {
        let place = reads.acquire_owned().await.map_err(io::Error::other)?;
        let reading = tokio::task::spawn_blocking(move || {
            let hash = flight.prefix_hash(upto, due_at);
            // Not before it has returned, whoever has stopped to wait for it meanwhile.
            drop(place);
            hash
        });
        // An error means that it panicked.
        reading.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    tokio::time::timeout(patience, read).await.unwrap_or_else(|_| Err(overdue(patience)))
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
mod tests;
