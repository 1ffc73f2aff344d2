//! Pass-through: straight from upstream to one client, when the store cannot be used.
//!
//! Invariants: memory is bounded by one piece and a few chunks; a transfer that breaks goes on at the byte reached; a
//! reader that gets the blob from its first byte on gets the last piece only after the digest has matched (I2). For a
//! range that begins later nothing here has seen the beginning, and the client's own check is the check, as it would
//! be without us.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::Digest;
use shoal_engine::pieces::last_piece_start;
use shoal_engine::retry::{self, Verdict, View};
use tokio::sync::{Semaphore, mpsc};
use tracing::Instrument as _;

use super::flight::{FlightIo, function};
use crate::node::{Asked, Cause};
use crate::sources::{Sender, Sources};
use crate::trace::TARGET;

/// Chunks between upstream and one client.
const CHUNKS_MAX: usize = 8;

/// How long a client waits for a free transfer.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct PassThrough {
    sources: Sources,
    /// Pass-through has no singleflight: this bound is what keeps a node with a sick disk from storming upstream.
    permits: Arc<Semaphore>,
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
    pub fn new(sources: Sources, transfers_max: usize) -> Self {
        PassThrough { sources, permits: Arc::new(Semaphore::new(transfers_max)) }
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
        let permit = tokio::time::timeout(PERMIT_TIMEOUT, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(PassError::Busy(self.permits.available_permits())) };
        let mut gate = Gate::new(rest).await;
        let mut at = rest.from;
        let mut failures = 0;
        while at < rest.range.end {
            let began_at = at;
            let Err(error) = self.transfer(rest, &mut at, &mut gate, chunks).await else { break };
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
                Verdict::Again(pause) => tokio::time::sleep(pause).await,
                Verdict::NextScope | Verdict::GiveUp(_) => return Err(PassError::Source(error.cause())),
            }
        }
        let senders = std::mem::take(&mut gate.senders);
        let opened = gate.open(rest, chunks).await;
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
        chunks: &mpsc::Sender<Result<Bytes, PassError>>,
    ) -> Result<(), crate::upstream::UpstreamError> {
        let mut stream = self.sources.open_blob(&rest.asked, &rest.digest, *at, Some(rest.range.end)).await?;
        if !gate.senders.contains(&stream.sender) {
            gate.senders.push(stream.sender.clone());
        }
        while let Some(chunk) = stream.next().await? {
            let offset = *at;
            *at += chunk.len() as u64;
            gate.pass(offset, chunk, chunks).await;
        }
        Ok(())
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

    async fn pass(&mut self, offset: u64, mut chunk: Bytes, chunks: &mpsc::Sender<Result<Bytes, PassError>>) {
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk);
        }
        let free = usize::try_from(self.sealed_from.saturating_sub(offset)).unwrap_or(usize::MAX);
        if free < chunk.len() {
            self.held.push(chunk.split_off(free));
        }
        if !chunk.is_empty() {
            // A client that has gone ends the whole task.
            let _ = chunks.send(Ok(chunk)).await;
        }
    }

    async fn open(
        self,
        rest: &Rest,
        chunks: &mpsc::Sender<Result<Bytes, PassError>>,
    ) -> Result<(), PassError> {
        if let Some(hash) = self.hash
            && hash.finish().as_ref() != rest.digest.hash()
        {
            return Err(PassError::WrongContent);
        }
        for chunk in self.held {
            let _ = chunks.send(Ok(chunk)).await;
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
