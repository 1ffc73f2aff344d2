//! The streams that this node has opened at other members: what comes in is hashed, laid in its place, and told to the
//! engine, which says whether it counts.
//!
//! Invariants: what is on its way of all streams together has a bound in memory; a stream that the engine has not closed
//! and that ends early is told to it once; after it was closed nothing of it is told any more but a piece that was being laid:
//! what lies in a flight has been told, so that it is judged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use shoal_engine::limits::UPLOADS_PER_PEER_MAX;
use shoal_engine::peer::{Member, PeerId};
use shoal_engine::pieces::piece_count;
use shoal_engine::swarm::pieces::{PieceSet, piece_bytes};
use shoal_engine::wire::{Message, Refusal};
use shoal_engine::{Digest, Input, Registry, Scope};
use shoal_store::Visibility;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, Span, field};

use super::dial::{Connection, DialError, Dialer, HEAD_TIMEOUT, Post};
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

/// Times that a stream is asked for anew where somebody answers and no connection comes about. The engine turns to others sooner.
const ASKED_AGAIN_MAX: u32 = 4;
/// Pause before the first of them; each other one is twice as long as the one before it.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(200);

/// Pieces of one stream that may come twice: those that were on the way when this node asked for the class anew.
const REPEATED_MAX: usize = UPLOADS_PER_PEER_MAX;

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
    /// Nobody is there, or somebody with whom no connection comes about.
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
    /// It sends the same again and again.
    #[error("piece {0} came once more, as {REPEATED_MAX} did before")]
    Repeated(u32),
    /// The member has the blob from elsewhere, and not as everybody may have it.
    #[error("the member does not have it from {0}, nor is it known to be public")]
    Withheld(Registry),
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

impl InletError {
    /// What it means to the engine. Of a member that answers and is too busy for a connection the port is not closed.
    fn input(&self, peer: PeerId, digest: Digest, class: u8) -> Input {
        match self {
            InletError::Dial(error) if error.is_closed_port() => Input::PortClosed { peer },
            InletError::Offer(OfferError::Store(error)) => Input::Unkept { digest, fault: error.fault() },
            _ => {
                let message = Message::Refuse { digest, class, reason: Refusal::Unknown };
                Input::Heard { from: peer, message }
            }
        }
    }
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
    /// The registry that it is asked for through, if a client has named it and nobody else: a made-up one would say that it has
    /// whatever another registry's clients alone may have. Pieces count of members that have the blob from there, or know it
    /// to be public.
    pub stranger: Option<Registry>,
}

/// The pieces that have come on a stream.
struct Came {
    pieces: PieceSet,
    repeated: usize,
}

impl Came {
    fn new(size: u64) -> Self {
        Came { pieces: PieceSet::new(piece_count(size) as u32), repeated: 0 }
    }

    /// One more; whether it had not come before.
    fn add(&mut self, piece: u32) -> Result<bool, InletError> {
        let is_new = self.pieces.insert(piece);
        self.repeated += usize::from(!is_new);
        if self.repeated > REPEATED_MAX { Err(InletError::Repeated(piece)) } else { Ok(is_new) }
    }
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

    /// Whether who has the blob like this may send it.
    fn trusts(&self, scope: &Scope, visibility: Visibility) -> bool {
        let is_theirs = |stranger: &Registry| *stranger == scope.registry;
        visibility == Visibility::Public || self.stranger.as_ref().is_none_or(is_theirs)
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
            if let InletError::Offer(OfferError::Store(error)) = &error {
                handle.store_health().failed(error);
            }
            handle.input(error.input(peer, digest, class)).await;
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
        let ask = || async {
            let (path, content_type) = (STREAM_PATH, "application/octet-stream");
            let post = Post { path, content_type, body: frame.clone(), head_timeout: HEAD_TIMEOUT };
            self.dialer.post(&subscription.member, post, &Reached::default()).await
        };
        let (response, connection) = again_if_busy(ask).await?;
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
        let mut came = Came::new(size);
        let mut is_trusted = subscription.into.stranger.is_none();
        while let Some(record) = records.next().await? {
            let (piece, backlog, len) = match record {
                Record::Piece { piece, backlog, len } => (piece, backlog, len),
                Record::Source(scope, visibility) => {
                    if subscription.into.trusts(&scope, visibility) {
                        subscription.into.flight.vouch(&scope, visibility);
                        is_trusted = true;
                    }
                    continue;
                }
            };
            if let Some(stranger) = subscription.into.stranger.as_ref().filter(|_| !is_trusted) {
                return Err(InletError::Withheld(stranger.clone()));
            }
            let range = piece_bytes(size, piece);
            let is_ours = piece % u32::from(classes.max(1)) == u32::from(class);
            if !is_ours || range.start >= range.end || range.end - range.start != u64::from(len) {
                return Err(InletError::NoSuchPiece(piece));
            }
            // Before a place in memory is taken, which others need who do not hold back.
            let held_back = subscription.into.flight.restraint().admit(len as usize).await;
            let _room = self.room.acquire_many(len.div_ceil(1024)).await.map_err(|_| InletError::Ending)?;
            let throttled = self.throttle.admit(len as usize).await;
            let bytes = tokio::time::timeout(PIECE_TIMEOUT, records.bytes(len as usize)).await;
            let bytes = bytes.map_err(|_| InletError::Slow)??;
            held_back.passed();
            throttled.passed();
            self.metrics.peer_received_bytes.inc_by(u64::from(len));
            received.bytes += u64::from(len);
            if !came.add(piece)? {
                continue;
            }
            let (flight, handle) = (Arc::clone(&subscription.into.flight), handle.clone());
            // On one thread, and to the end: a piece that lay there untold would be in the way of the next one.
            let offered = tokio::task::spawn_blocking(move || -> Result<(), OfferError> {
                // What has been told before is still to be judged.
                if let Some(hash) = flight.offer(piece, from, bytes)? {
                    handle.arrived(flight, Input::Arrived { from, digest, piece, hash, backlog });
                }
                Ok(())
            });
            offered.await.map_err(|_| InletError::Ending)??;
            left = left.saturating_sub(1);
        }
        self.dialer.keep(connection);
        if left == 0 { Ok(()) } else { Err(StreamError::Short.into()) }
    }
}

/// What comes of `ask`, which is done more than once where somebody answers who is too busy for a connection. Whether that takes too
/// long is for the engine to judge, by what comes.
async fn again_if_busy<T, F>(ask: impl Fn() -> F) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut pauses = (0..ASKED_AGAIN_MAX).map(|times| ASK_PAUSE_MIN * (1 << times));
    loop {
        match (ask().await, pauses.next()) {
            (Err(error), Some(pause)) if !error.is_closed_port() => {
                tracing::debug!(%error, "no stream yet from a member that answers");
                tokio::time::sleep(pause).await;
            }
            (asked, _) => return asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use shoal_engine::Algorithm;
    use shoal_engine::pieces::PIECE_BYTES_MIN;
    use tokio::time::Instant;

    use super::*;

    fn into(gives_way: bool) -> Destination {
        let flight = Arc::new(FlightIo::in_memory(Digest::new(Algorithm::Sha256, &[1; 32]), 8));
        Destination { flight, gives_way, stranger: None }
    }

    #[test]
    fn what_the_end_of_a_stream_means() {
        let (peer, digest) = (PeerId([1; 32]), Digest::new(Algorithm::Sha256, &[1; 32]));
        let source = || std::io::ErrorKind::TimedOut.into();
        let address = "127.0.0.1:5002".parse().unwrap();
        for (error, closed) in [
            (InletError::Dial(DialError::NoAddress), true),
            (InletError::Dial(DialError::Unreachable), true),
            (InletError::Dial(DialError::Connect { address, source: source() }), true),
            (InletError::Dial(DialError::Secure { address, source: source() }), false),
            (InletError::Dial(DialError::Silent(HEAD_TIMEOUT)), false),
            (InletError::Status(StatusCode::BAD_REQUEST), false),
            (InletError::Stream(StreamError::Short), false),
            (InletError::Repeated(1), false),
        ] {
            let input = error.input(peer, digest, 3);
            let is_closed = matches!(input, Input::PortClosed { .. });
            let is_refused = matches!(input, Input::Heard { message: Message::Refuse { class: 3, .. }, .. });
            assert_eq!((is_closed, is_refused), (closed, !closed), "{error}");
        }
    }

    #[test]
    fn a_piece_comes_once_on_a_stream() {
        let mut came = Came::new(3 * PIECE_BYTES_MIN);
        for piece in 0..3 {
            assert!(came.add(piece).unwrap());
        }
        for _ in 0..REPEATED_MAX {
            assert!(!came.add(1).unwrap(), "it was on its way when the class was asked for anew");
        }
        assert!(matches!(came.add(2), Err(InletError::Repeated(2))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_only_busy_is_asked_again() {
        // What comes of each attempt: somebody is busy there, nobody is there, or a stream; and how often is asked.
        for (attempts, times, waited) in [
            ("stream", 1, 0),
            ("nobody", 1, 0),
            ("busy busy stream", 3, 600),
            ("busy nobody", 2, 200),
            ("busy busy busy busy stream", 5, 3000),
            ("busy busy busy busy busy stream", 5, 3000),
        ] {
            let (asked, begun) = (Cell::new(0), Instant::now());
            let ask = || {
                let attempt = attempts.split(' ').nth(asked.replace(asked.get() + 1));
                std::future::ready(match attempt {
                    Some("busy") => Err(DialError::Silent(HEAD_TIMEOUT)),
                    Some("nobody") => Err(DialError::Unreachable),
                    _ => Ok(()),
                })
            };
            let is_open = again_if_busy(ask).await.is_ok();
            let expected = attempts.split(' ').nth(times - 1) == Some("stream");
            assert_eq!((asked.get(), is_open), (times, expected), "{attempts}");
            assert_eq!(begun.elapsed().as_millis(), waited, "{attempts}");
        }
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
