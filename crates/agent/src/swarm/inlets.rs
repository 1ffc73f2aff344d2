//! The streams that this node has opened at other members: what comes in is hashed, laid in its place, and told to the
//! engine, which says whether it counts.
//!
//! Invariants: what is on its way of all streams together has a bound in memory; a stream that the engine has not closed
//! and that ends early is told to it once; after it was closed nothing of it is told any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use shoal_engine::Input;
use shoal_engine::peer::Member;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::wire::{Message, Refusal};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, Span, field};

use super::dial::{Connection, DialError, Dialer};
use super::failover::Reached;
use super::outlets::{StreamKey, Wanted};
use super::wire::{Record, Records, STREAM_PATH, StreamError};
use crate::driver::{FlightIo, Handle, OfferError, brief_name};
use crate::metrics::Metrics;
use crate::rate::Throttle;
use crate::trace::{self, TARGET};

/// Bytes of pieces that are on their way into this node at a time, KiB. Sixteen of the largest size.
const ON_THE_WAY_KIB_MAX: usize = 64 << 10;

/// Longest time for the bytes of one piece, once it has begun. The engine turns to others much sooner.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time that a stream waits for the one that brings what a client waits for first: a piece that its sender has takes
/// less between nodes that are near, and nobody loses much where it has none.
const GIVES_WAY_MAX: Duration = Duration::from_millis(10);

/// All streams that are open. Cheap to clone.
#[derive(Clone)]
pub struct Inlets(Arc<Inner>);

struct Inner {
    dialer: Arc<Dialer>,
    open: Mutex<Open>,
    room: Semaphore,
    throttle: Throttle,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Open {
    streams: HashMap<StreamKey, (u64, DropGuard)>,
    next: u64,
}

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
enum InletError {
    /// Nobody is there.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The member does not open streams for us.
    #[error("the member answered {0}")]
    Status(StatusCode),
    /// A piece that does not exist, or that has another length.
    #[error("piece {0} is not one of this blob's")]
    NoSuchPiece(u32),
    /// The bytes of a piece did not come.
    #[error("a piece took longer than {PIECE_TIMEOUT:?}")]
    Slow,
    /// This node could not take it.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The agent ends.
    #[error("the agent ends")]
    Ending,
}

/// A stream that is to be opened.
pub struct Subscription {
    /// At whom.
    pub member: Arc<Member>,
    /// The subscription, in full.
    pub message: Message,
    /// Where the bytes go.
    pub into: Destination,
}

/// Where the bytes of a stream go.
pub struct Destination {
    /// The blob's flight.
    pub flight: Arc<FlightIo>,
    /// Whether another stream brings what a client waits for: as long as nothing of the blob is there it goes first, since
    /// the first pieces of a dozen streams that share a link and a processor all come as late as the last of them.
    pub gives_way: bool,
}

/// Counts for a span what came; also if the stream is closed in the middle.
struct Received {
    span: Span,
    bytes: u64,
}

impl Drop for Received {
    fn drop(&mut self) {
        self.span.record("shoal.bytes", self.bytes);
    }
}

/// Of the current flight.
fn transfer_span(subscription: &Subscription, class: u8) -> Span {
    tracing::info_span!(
        target: TARGET,
        "transfer",
        otel.kind = "client",
        shoal.source = "member",
        shoal.source.name = brief_name(&subscription.member.peer),
        shoal.zone = &*subscription.member.zone,
        shoal.class = class,
        shoal.bytes = field::Empty,
        shoal.outcome = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty
    )
}

impl Destination {
    async fn give_way(&self) {
        if self.gives_way {
            // Whether it has begun or not.
            let _ = tokio::time::timeout(GIVES_WAY_MAX, self.flight.begun()).await;
        }
    }
}

impl Inlets {
    pub fn new(dialer: Arc<Dialer>, throttle: Throttle, metrics: Arc<Metrics>) -> Self {
        let room = Semaphore::new(ON_THE_WAY_KIB_MAX);
        Inlets(Arc::new(Inner { dialer, open: Mutex::default(), room, throttle, metrics }))
    }

    /// Opens a stream; one of the same name is closed.
    pub fn open(&self, subscription: Subscription, handle: Handle) {
        let Message::Subscribe { digest, size, class, .. } = subscription.message else { return };
        let peer = subscription.member.peer;
        let key = (peer, digest, class);
        let cancel = CancellationToken::new();
        let id = {
            let mut open = self.0.open.lock();
            let id = open.next;
            open.next += 1;
            open.streams.insert(key, (id, cancel.clone().drop_guard()));
            id
        };
        let inner = Arc::clone(&self.0);
        let span = transfer_span(&subscription, class);
        let received = async move {
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => return trace::outcome(&Span::current(), Ok::<_, &InletError>("closed")),
                received = inner.receive(&subscription, size, &handle) => received,
            };
            trace::outcome(&Span::current(), received.as_ref().map(|()| "complete"));
            if !inner.close(&key, Some(id)) {
                return;
            }
            let Err(error) = received else { return };
            tracing::debug!(?peer, digest = %digest.short(), class, %error, "a stream from a member ended early");
            let input = match error {
                InletError::Dial(_) => Input::PortClosed { peer },
                InletError::Offer(OfferError::Store(error)) => {
                    handle.store_health().failed(&error);
                    Input::Unkept { digest, fault: error.fault() }
                }
                _ => {
                    let message = Message::Refuse { digest, class, reason: Refusal::Unknown };
                    Input::Heard { from: peer, message }
                }
            };
            handle.input(input).await;
        };
        tokio::spawn(received.instrument(span));
    }

    /// Closes a stream.
    pub fn close(&self, key: &StreamKey) {
        self.0.close(key, None);
    }

    /// Closes all streams from members that are not there any more.
    pub fn retain(&self, is_member: impl Fn(&shoal_engine::peer::PeerId) -> bool) {
        self.0.open.lock().streams.retain(|(from, _, _), _| is_member(from));
    }
}

impl Inner {
    /// Takes a stream from the table; with an `id`, only if it is that one. Tells whether it was there.
    fn close(&self, key: &StreamKey, id: Option<u64>) -> bool {
        let mut open = self.open.lock();
        let fits = open.streams.get(key).is_some_and(|(of, _)| id.is_none_or(|id| id == *of));
        fits && open.streams.remove(key).is_some()
    }

    async fn receive(
        &self,
        subscription: &Subscription,
        size: u64,
        handle: &Handle,
    ) -> Result<(), InletError> {
        subscription.into.give_way().await;
        let frame = Bytes::from(subscription.message.encode());
        let reached = Reached::default();
        let posted =
            self.dialer.post(&subscription.member, STREAM_PATH, "application/octet-stream", frame, &reached);
        let (response, connection) = posted.await?;
        if response.status() != StatusCode::OK {
            return Err(InletError::Status(response.status()));
        }
        let records = Records::new(response.into_body());
        self.take(records, connection, subscription, size, handle).await
    }

    async fn take(
        &self,
        mut records: Records,
        connection: Connection,
        subscription: &Subscription,
        size: u64,
        handle: &Handle,
    ) -> Result<(), InletError> {
        let Message::Subscribe { digest, classes, class, .. } = subscription.message else { return Ok(()) };
        let from = subscription.member.peer;
        let mut left = Wanted::of(&subscription.message).map_or(0, |(_, _, wanted)| wanted.pieces);
        let mut received = Received { span: Span::current(), bytes: 0 };
        while let Some(record) = records.next().await? {
            let (piece, backlog, len) = match record {
                Record::Piece { piece, backlog, len } => (piece, backlog, len),
                Record::Source(scope, visibility) => {
                    subscription.into.flight.vouch(&scope, visibility);
                    continue;
                }
            };
            let range = piece_bytes(size, piece);
            let is_ours = piece % u32::from(classes.max(1)) == u32::from(class);
            if !is_ours || range.start >= range.end || range.end - range.start != u64::from(len) {
                return Err(InletError::NoSuchPiece(piece));
            }
            // Before a place in memory is taken, which others need who do not hold back.
            subscription.into.flight.restraint().pass(len as usize).await;
            let _room = self.room.acquire_many(len.div_ceil(1024)).await.map_err(|_| InletError::Ending)?;
            self.throttle.pass(len as usize).await;
            let bytes = tokio::time::timeout(PIECE_TIMEOUT, records.bytes(len as usize)).await;
            let bytes = bytes.map_err(|_| InletError::Slow)??;
            self.metrics.peer_received_bytes.inc_by(u64::from(len));
            received.bytes += u64::from(len);
            let flight = Arc::clone(&subscription.into.flight);
            let offered = tokio::task::spawn_blocking(move || flight.offer(piece, from, bytes)).await;
            let hash = offered.map_err(|_| InletError::Ending)??;
            handle.input(Input::Arrived { from, digest, piece, hash, backlog }).await;
            left = left.saturating_sub(1);
        }
        self.dialer.keep(connection);
        if left == 0 { Ok(()) } else { Err(StreamError::Short.into()) }
    }
}

#[cfg(test)]
mod tests {
    use shoal_engine::{Algorithm, Digest};

    use super::*;
    use tokio::time::Instant;

    fn into(gives_way: bool) -> Destination {
        let flight = Arc::new(FlightIo::in_memory(Digest::new(Algorithm::Sha256, &[1; 32]), 8));
        Destination { flight, gives_way }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_wait_for_the_one_that_a_client_needs_but_not_for_long() {
        let begun = Instant::now();
        into(false).give_way().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "it brings what the client needs");

        into(true).give_way().await;
        assert!(begun.elapsed() >= GIVES_WAY_MAX, "nothing comes");

        let (begun, stream) = (Instant::now(), into(true));
        let flight = Arc::clone(&stream.flight);
        let first = async {
            tokio::time::sleep(GIVES_WAY_MAX / 4).await;
            flight.write(0, &[Bytes::from_static(b"abcd")]).unwrap();
        };
        tokio::join!(stream.give_way(), first);
        assert!(begun.elapsed() < GIVES_WAY_MAX / 2, "the first piece is there");
        stream.give_way().await;
        assert!(begun.elapsed() < GIVES_WAY_MAX / 2, "it has been there before");
    }
}
