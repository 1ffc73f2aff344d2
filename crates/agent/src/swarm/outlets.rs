//! The streams that other members have opened here: what the engine sends goes into them, piece by piece.
//!
//! Invariants: every piece that the engine sends is answered with one `Uploaded`, also when its stream is gone (I4); a
//! stream that ends before all it was asked for has been sent tells the engine so; a piece leaves only after the
//! repositories that the blob is known to be in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::Frame;
use parking_lot::Mutex;
use shoal_engine::limits::UPLOADS_PER_PEER_MAX;
use shoal_engine::peer::PeerId;
use shoal_engine::pieces::piece_count;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{Message, Run};
use shoal_engine::{Digest, Input, Scope};
use shoal_store::{Content, Store, Visibility};
use tokio::sync::mpsc;
use tracing::{Span, field};

use super::wire;
use crate::driver::{FlightIo, Handle};
use crate::metrics::Metrics;
use crate::rate::Throttle;
use crate::registry::sendfile::MappedFile;
use crate::trace;

/// Bytes in one frame: large enough that frames cost nothing, small enough that a piece leaves evenly.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// Name of a stream: to whom, of which blob, for which class.
pub type StreamKey = (PeerId, Digest, u8);

/// All streams that are open. Cheap to clone.
#[derive(Clone)]
pub struct Outlets(Arc<Inner>);

struct Inner {
    open: Mutex<Open>,
    store: Store,
    throttle: Throttle,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Open {
    streams: HashMap<StreamKey, (u64, mpsc::Sender<Parcel>)>,
    next: u64,
}

/// A piece to be sent.
struct Parcel {
    send: Send,
    flight: Option<Arc<FlightIo>>,
    handle: Handle,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.handle.input_detached(Input::Uploaded { upload: self.send.upload });
    }
}

/// What somebody has asked for.
pub struct Wanted {
    /// Size of the blob in bytes.
    pub size: u64,
    /// Pieces of the class that are wanted.
    pub pieces: u32,
}

impl Wanted {
    /// What a subscription asks for; `None` for any other message.
    pub fn of(message: &Message) -> Option<(Digest, u8, Wanted)> {
        let Message::Subscribe { digest, size, classes, class, runs, .. } = message else { return None };
        let last = piece_count(*size) as u32;
        // Pieces below `n` that are of the class.
        let below = |n: u32| {
            (n.min(last) + (*classes).max(1) as u32 - 1).saturating_sub(u32::from(*class))
                / u32::from((*classes).max(1))
        };
        let of_class = |run: &Run| below(run.end).saturating_sub(below(run.first));
        let pieces = runs.iter().map(of_class).fold(0, u32::saturating_add);
        Some((*digest, *class, Wanted { size: *size, pieces: pieces.min(last) }))
    }
}

impl Outlets {
    pub fn new(store: Store, throttle: Throttle, metrics: Arc<Metrics>) -> Self {
        Outlets(Arc::new(Inner { open: Mutex::default(), store, throttle, metrics }))
    }

    /// Opens a stream; one of the same name ends. The engine is to be told afterwards.
    pub fn open(&self, key: StreamKey, wanted: Wanted, handle: Handle) -> impl Stream<Item = Item> + use<> {
        let (parcels, queue) = mpsc::channel(UPLOADS_PER_PEER_MAX + 1);
        let mut open = self.0.open.lock();
        let id = open.next;
        open.next += 1;
        open.streams.insert(key, (id, parcels));
        drop(open);
        let outlet = Outlet {
            outlets: self.clone(),
            key,
            id,
            queue,
            left: wanted.pieces,
            size: wanted.size,
            frames: VecDeque::new(),
            parcel: None,
            stored: None,
            told: 0,
            sent: 0,
            span: Span::current(),
            handle,
        };
        stream::unfold(outlet, Outlet::next)
    }

    /// Sends a piece. Where its stream is gone, the engine is told that it has left.
    pub fn send(&self, send: Send, flight: Option<Arc<FlightIo>>, handle: &Handle) {
        let parcel = Parcel { send, flight, handle: handle.clone() };
        let open = self.0.open.lock();
        if let Some((_, parcels)) = open.streams.get(&(send.to, send.digest, send.class)) {
            // The engine never has more pieces on the way than there is room for; should it, the piece is lost, and the
            // member asks again.
            let _ = parcels.try_send(parcel);
        }
    }

    /// Ends a stream: the engine has nothing for it.
    pub fn close(&self, key: &StreamKey) {
        self.0.open.lock().streams.remove(key);
    }

    /// Ends all streams to members that are not there any more.
    pub fn retain(&self, is_member: impl Fn(&PeerId) -> bool) {
        self.0.open.lock().streams.retain(|(to, _, _), _| is_member(to));
    }
}

type Item = Result<Frame<Bytes>, OutletError>;

/// Why a stream ends early. The member sees a connection that closes.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// The blob is not there any more.
    #[error("the blob is not in the store any more")]
    Gone,
    /// It cannot be read.
    #[error("the blob cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

struct Outlet {
    outlets: Outlets,
    key: StreamKey,
    id: u64,
    queue: mpsc::Receiver<Parcel>,
    /// Pieces that are still to be sent.
    left: u32,
    size: u64,
    frames: VecDeque<Bytes>,
    /// What is being sent.
    parcel: Option<Parcel>,
    /// The blob, once a piece of it was not on its way any more but in the store.
    stored: Option<Stored>,
    /// Repositories of the flight that have been named.
    told: usize,
    /// Bytes of pieces that were sent.
    sent: u64,
    span: Span,
    handle: Handle,
}

struct Stored {
    bytes: StoredBytes,
    /// Repositories that have not been named yet.
    untold: Vec<(Scope, Visibility)>,
}

enum StoredBytes {
    Inline(Bytes),
    File(Arc<MappedFile>),
}

impl Outlet {
    async fn next(mut self) -> Option<(Item, Self)> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                self.outlets.0.throttle.pass(frame.len()).await;
                return Some((Ok(Frame::data(frame)), self));
            }
            // Asked for more: what was there before has been handed on.
            self.parcel = None;
            if self.left == 0 {
                return None;
            }
            let parcel = self.queue.recv().await?;
            self.left -= 1;
            if let Err(error) = self.load(parcel).await {
                self.queue.close();
                return Some((Err(error), self));
            }
        }
    }

    async fn load(&mut self, parcel: Parcel) -> Result<(), OutletError> {
        let Send { piece, backlog, .. } = parcel.send;
        let range = piece_bytes(self.size, piece);
        let len = range.end - range.start;
        let (bytes, fresh) = match &parcel.flight {
            Some(flight) => {
                let fresh = flight.vouched_after(self.told);
                self.told += fresh.len();
                (flight.bytes(range)?, fresh)
            }
            None => {
                let stored = self.stored().await?;
                let bytes = match &stored.bytes {
                    StoredBytes::Inline(all) => all.slice(range.start as usize..range.end as usize),
                    StoredBytes::File(file) => file.bytes(range),
                };
                (bytes, std::mem::take(&mut stored.untold))
            }
        };
        self.frames.extend(fresh.iter().filter_map(|(scope, visibility)| wire::source(scope, *visibility)));
        self.frames.push_back(wire::piece_head(piece, backlog, len as u32));
        let mut rest = bytes;
        while !rest.is_empty() {
            self.frames.push_back(rest.split_to(rest.len().min(FRAME_BYTES_MAX)));
        }
        self.outlets.0.metrics.peer_sent_bytes.inc_by(len);
        self.sent += len;
        self.parcel = Some(parcel);
        Ok(())
    }

    async fn stored(&mut self) -> Result<&mut Stored, OutletError> {
        if self.stored.is_none() {
            let (store, digest) = (self.outlets.0.store.clone(), self.key.1);
            let read = move || -> Result<Option<Stored>, OutletError> {
                let Ok(Some(blob)) = store.get(&digest, SystemTime::now()) else { return Ok(None) };
                let bytes = match &blob.content {
                    Content::Inline(bytes) => StoredBytes::Inline(bytes.clone()),
                    Content::File(file) => StoredBytes::File(MappedFile::new(Arc::clone(file), blob.size)?),
                };
                Ok(Some(Stored { bytes, untold: store.links(&digest).unwrap_or_default() }))
            };
            let found = tokio::task::spawn_blocking(read).await.map_err(|_| OutletError::Gone)??;
            self.stored = Some(found.ok_or(OutletError::Gone)?);
        }
        Ok(self.stored.as_mut().expect("just read"))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let (from, digest, class) = self.key;
        self.span.record("shoal.digest", field::display(digest));
        self.span.record("shoal.bytes", self.sent);
        trace::end(&self.span);
        let mut open = self.outlets.0.open.lock();
        let is_current = open.streams.get(&self.key).is_some_and(|(id, _)| *id == self.id);
        if is_current {
            open.streams.remove(&self.key);
        }
        drop(open);
        if is_current && self.left > 0 {
            self.handle
                .input_detached(Input::Heard { from, message: Message::Unsubscribe { digest, class } });
        }
    }
}
