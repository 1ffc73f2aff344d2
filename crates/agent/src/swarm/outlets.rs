//! The streams that other members have opened here: what the engine sends goes into them, piece by piece.
//!
//! Invariants: every piece that the engine sends is answered with one `Uploaded`, also when its stream is gone (I4); a
//! stream that ends before all it was asked for has been sent tells the engine so; a piece leaves only after the
//! repositories that the blob is known to be in; a stored blob that cannot be read for one member is not offered to the next.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::Frame;
use parking_lot::Mutex;
use shoal_engine::limits::{RUNS_PER_MESSAGE_MAX, UPLOADS_PER_PEER_MAX};
use shoal_engine::peer::PeerId;
use shoal_engine::pieces::{BLOB_BYTES_MAX, piece_count};
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{Message, Run, are_fit};
use shoal_engine::{Digest, Input, Scope};
use shoal_store::{Content, Store, Visibility};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{Span, field};

use super::wire;
use crate::driver::{FlightIo, Handle, read_at};
use crate::metrics::Metrics;
use crate::rate::Throttle;
use crate::store_health::StoredFile;
use crate::trace;

/// Bytes of a piece that are read from the disk at once and leave as one frame: large enough that frames cost nothing, small enough
/// that a piece leaves evenly and a slow reader keeps little in memory, twice. Below what the allocator maps anew for each buffer,
/// whose every page would cost a fault.
const READ_BYTES_MAX: u64 = 256 << 10;
/// How long a part of a stored blob may take to be read before its stream ends: as long as a member may take nothing of one.
const READ_PATIENCE: Duration = Duration::from_secs(30);

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

/// Why a message opens no stream. Its sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwantedError {
    /// It says something else.
    #[error("it is no subscription")]
    OtherMessage,
    /// No member asks for that, and to look through it would cost more than it is worth.
    #[error(
        "a subscription is to a blob of at most {BLOB_BYTES_MAX} bytes, and has at most {RUNS_PER_MESSAGE_MAX} runs, \
         which end inside the blob and name no piece again and again"
    )]
    OutOfBounds,
}

impl Wanted {
    /// What a subscription asks for.
    ///
    /// # Errors
    /// The message is no subscription that an honest member sends. Its runs may come in any order, and overlap: they follow
    /// the leases of those who fetch.
    pub fn of(message: &Message) -> Result<(Digest, u8, Wanted), UnwantedError> {
        let Message::Subscribe { digest, size, classes, class, runs, .. } = message else {
            return Err(UnwantedError::OtherMessage);
        };
        if !are_fit(runs, *size, RUNS_PER_MESSAGE_MAX) {
            return Err(UnwantedError::OutOfBounds);
        }
        let last = piece_count(*size) as u32;
        // Pieces below `n` that are of the class.
        let below = |n: u32| {
            (n.min(last) + (*classes).max(1) as u32 - 1).saturating_sub(u32::from(*class))
                / u32::from((*classes).max(1))
        };
        let of_class = |run: &Run| below(run.end).saturating_sub(below(run.first));
        let pieces = runs.iter().map(of_class).fold(0, u32::saturating_add);
        Ok((*digest, *class, Wanted { size: *size, pieces: pieces.min(last) }))
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
            sending: None,
            behind: None,
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
    Io(#[from] io::Error),
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
    sending: Option<Sending>,
    /// The piece behind it, which is read meanwhile.
    behind: Option<Result<Sending, OutletError>>,
    /// The blob, once a piece of it was not on its way any more but in the store.
    stored: Option<Stored>,
    /// Repositories of the flight that have been named.
    told: usize,
    /// Bytes of pieces that were sent.
    sent: u64,
    span: Span,
    handle: Handle,
}

/// A piece on its way out.
struct Sending {
    /// What goes before its bytes.
    head: Vec<Bytes>,
    parts: Parts,
    len: u64,
    /// Held for its drop alone.
    _parcel: Parcel,
}

struct Stored {
    bytes: Source,
    /// Repositories that have not been named yet.
    untold: Vec<(Scope, Visibility)>,
}

/// Where the bytes of a piece are.
#[derive(Clone)]
enum Source {
    Inline(Bytes),
    File(StoredFile),
    Flight(Arc<FlightIo>),
}

impl Source {
    /// Begins to read a part, on a thread that may wait for the disk.
    fn begin(&self, range: Range<u64>) -> JoinHandle<io::Result<Bytes>> {
        match self.clone() {
            Source::Inline(all) => {
                tokio::task::spawn_blocking(move || Ok(all.slice(range.start as usize..range.end as usize)))
            }
            Source::File(file) => tokio::spawn(file.read(move |file| read_at(file, range))),
            Source::Flight(flight) => tokio::task::spawn_blocking(move || flight.read(range)),
        }
    }

    /// A part could not be read.
    fn failed(&self, range: Range<u64>, error: &io::Error) {
        if let Source::File(file) = self {
            file.failed(range, error);
        }
    }
}

/// The bytes of a piece, part by part. The next one is read while the one before is sent.
struct Parts {
    source: Source,
    /// What nobody has been told to read.
    rest: Range<u64>,
    coming: Option<(Range<u64>, JoinHandle<io::Result<Bytes>>)>,
}

impl Parts {
    fn new(source: Source, range: Range<u64>) -> Self {
        let mut parts = Parts { source, rest: range, coming: None };
        parts.begin();
        parts
    }

    fn begin(&mut self) {
        let end = self.rest.end.min(self.rest.start + READ_BYTES_MAX);
        let part = std::mem::replace(&mut self.rest.start, end)..end;
        self.coming = (!part.is_empty()).then(|| (part.clone(), self.source.begin(part)));
    }

    /// The next part; `None` behind the last.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some((range, coming)) = self.coming.take() else { return Ok(None) };
        let read = coming.await.map_err(io::Error::other)?;
        let part = read.inspect_err(|error| self.source.failed(range, error))?;
        self.begin();
        Ok(Some(part))
    }
}

impl Outlet {
    async fn next(mut self) -> Option<(Item, Self)> {
        match self.frame().await {
            Ok(frame) => Some((Ok(Frame::data(frame?)), self)),
            Err(error) => {
                self.queue.close();
                (self.sending, self.behind) = (None, None);
                Some((Err(error), self))
            }
        }
    }

    /// The next bytes that leave; `None` when there are no more.
    async fn frame(&mut self) -> Result<Option<Bytes>, OutletError> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                self.outlets.0.throttle.pass(frame.len()).await;
                return Ok(Some(frame));
            }
            if let Some(sending) = &mut self.sending {
                if let Some(part) = sending.parts.next().await? {
                    let is_last = sending.parts.coming.is_none();
                    self.frames.push_back(part);
                    if is_last {
                        self.look_behind().await;
                    }
                    continue;
                }
                // Asked for more: what was there before has been handed on.
                self.sending = None;
            }
            let mut sending = match self.behind.take() {
                Some(behind) => behind?,
                None if self.left == 0 => return Ok(None),
                None => {
                    let Some(parcel) = self.queue.recv().await else { return Ok(None) };
                    self.left -= 1;
                    self.load(parcel).await?
                }
            };
            self.frames.extend(sending.head.drain(..));
            self.outlets.0.metrics.peer_sent_bytes.inc_by(sending.len);
            self.sent += sending.len;
            self.sending = Some(sending);
        }
    }

    /// Has the piece that waits behind the one that is sent read, if there is one.
    async fn look_behind(&mut self) {
        if self.left > 0
            && let Ok(parcel) = self.queue.try_recv()
        {
            self.left -= 1;
            self.behind = Some(self.load(parcel).await);
        }
    }

    async fn load(&mut self, parcel: Parcel) -> Result<Sending, OutletError> {
        let Send { piece, backlog, .. } = parcel.send;
        let range = piece_bytes(self.size, piece);
        let len = range.end - range.start;
        let (source, fresh) = match &parcel.flight {
            Some(flight) => {
                let fresh = flight.vouched_after(self.told);
                self.told += fresh.len();
                (Source::Flight(Arc::clone(flight)), fresh)
            }
            None => {
                let stored = self.stored().await?;
                (stored.bytes.clone(), std::mem::take(&mut stored.untold))
            }
        };
        let mut head: Vec<Bytes> =
            fresh.iter().filter_map(|(scope, visibility)| wire::source(scope, *visibility)).collect();
        head.push(wire::piece_head(piece, backlog, len as u32));
        Ok(Sending { head, parts: Parts::new(source, range), len, _parcel: parcel })
    }

    async fn stored(&mut self) -> Result<&mut Stored, OutletError> {
        if self.stored.is_none() {
            let (store, digest) = (self.outlets.0.store.clone(), self.key.1);
            let health = self.handle.store_health().clone();
            let read = move || {
                let blob = health.readable(&store, &digest).ok().flatten()?;
                let bytes = match &blob.content {
                    Content::Inline(bytes) => Source::Inline(bytes.clone()),
                    Content::File(file) => Source::File(StoredFile::new(&health, &blob, file, READ_PATIENCE)),
                };
                Some(Stored { bytes, untold: store.links(&digest).unwrap_or_default() })
            };
            let found = tokio::task::spawn_blocking(read).await.ok().flatten();
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use futures_util::StreamExt as _;
    use shoal_engine::Algorithm;
    use shoal_engine::pieces::PIECE_BYTES_MIN;
    use shoal_engine::swarm::upload::UploadId;
    use shoal_store::Options;

    use super::*;
    use crate::config::Config;
    use crate::driver;
    use crate::store_health::StoreHealth;
    use crate::upstream::{self, Upstream};

    fn bytes(len: u64) -> Bytes {
        (0..len).map(|n| (n / 7) as u8).collect::<Vec<_>>().into()
    }

    #[test]
    fn what_a_subscription_asks_for() {
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        let run = |first, end| Run { first, end };
        let out_of_bounds = Err(UnwantedError::OutOfBounds);
        let size = 16 * PIECE_BYTES_MIN;
        for (size, runs, expected) in [
            (size, vec![run(1, 6), run(13, 14)], Ok(3)),
            (size, vec![], Ok(0)),
            // As leases that were parted and taken over leave it.
            (size, vec![run(8, 16), run(0, 8), run(4, 12)], Ok(6)),
            (size, vec![run(0, 17)], out_of_bounds),
            (size, vec![run(0, 16), run(0, 16), run(0, 1)], out_of_bounds),
            (size, vec![run(0, 0); RUNS_PER_MESSAGE_MAX + 1], out_of_bounds),
            (u64::MAX, vec![run(0, u32::MAX)], out_of_bounds),
        ] {
            let unlisted = run(0, 0);
            let message = Message::Subscribe { digest, size, classes: 4, class: 1, runs, unlisted };
            let wanted = Wanted::of(&message).map(|(_, _, wanted)| wanted.pieces);
            assert_eq!(wanted, expected, "{message:?}");
        }
        let other = Wanted::of(&Message::Hail).map(|_| ());
        assert_eq!(other, Err(UnwantedError::OtherMessage));
    }

    fn joined(parts: &[Bytes]) -> Vec<u8> {
        parts.concat()
    }

    #[tokio::test]
    async fn a_piece_is_read_part_by_part() {
        let all = bytes(2 * READ_BYTES_MAX + 1000);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        store.put(&digest, None, &all, SystemTime::now()).unwrap();
        let blob = store.get(&digest, SystemTime::now()).unwrap().unwrap();
        let Content::File(file) = &blob.content else { panic!("it is too large for the index") };
        let health = StoreHealth::new(store.clone(), Metrics::new());
        let file = StoredFile::new(&health, &blob, file, READ_PATIENCE);
        for source in [Source::File(file), Source::Inline(all.clone())] {
            let mut parts = Parts::new(source, 10..all.len() as u64);
            let mut read = Vec::new();
            while let Some(part) = parts.next().await.unwrap() {
                read.push(part);
            }
            let most = READ_BYTES_MAX as usize;
            assert_eq!(read.iter().map(Bytes::len).collect::<Vec<_>>(), [most, most, 990]);
            assert!(joined(&read) == all[10..]);
        }
    }

    /// A stored blob of two pieces leaves as it is. When its file is shortened, its stream ends and not the process, and the blob
    /// leaves the store, which is what tells the homes.
    #[tokio::test]
    async fn what_cannot_be_read_ends_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let metrics = Metrics::new();
        let upstream = Upstream::new(upstream::Settings::default(), Arc::clone(&metrics)).unwrap();
        let settings = Config::default().driver_settings();
        let handle = driver::spawn(settings, store.clone(), upstream, Arc::clone(&metrics), None);
        let outlets = Outlets::new(store.clone(), Throttle::default(), metrics);

        let all = bytes(PIECE_BYTES_MIN + 1000);
        let hash = ring::digest::digest(&ring::digest::SHA256, &all);
        let digest = Digest::new(Algorithm::Sha256, hash.as_ref());
        store.put(&digest, None, &all, SystemTime::now()).unwrap();
        let to = PeerId([1; 32]);
        let open = || {
            let wanted = Wanted { size: all.len() as u64, pieces: 2 };
            Box::pin(outlets.open((to, digest, 0), wanted, handle.clone()))
        };
        let send = |piece: u32| {
            let upload = UploadId(u64::from(piece));
            outlets.send(Send { upload, to, digest, class: 0, piece, backlog: 7 }, None, &handle);
        };

        let stream = open();
        (0..2).for_each(send);
        let sent: Vec<_> = stream.map(|frame| frame.unwrap().into_data().unwrap()).collect().await;
        let (first, second) = (all.slice(..PIECE_BYTES_MIN as usize), all.slice(PIECE_BYTES_MIN as usize..));
        let heads = (wire::piece_head(0, 7, PIECE_BYTES_MIN as u32), wire::piece_head(1, 7, 1000));
        assert!(joined(&sent) == joined(&[heads.0, first, heads.1, second]));

        let mut stream = open();
        send(0);
        for _ in 0..2 {
            stream.next().await.unwrap().unwrap();
        }
        let (departed, mut departures) = mpsc::unbounded_channel();
        store.on_departure(move |digest| {
            let _ = departed.send(*digest);
        });
        let path = folder.path().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
        File::options().write(true).open(path).unwrap().set_len(PIECE_BYTES_MIN).unwrap();
        send(1);
        assert!(stream.next().await.unwrap().is_ok(), "the head of the piece");
        assert!(matches!(stream.next().await, Some(Err(OutletError::Io(_)))));
        let departure = tokio::time::timeout(Duration::from_secs(30), departures.recv());
        assert_eq!(departure.await.expect("it leaves"), Some(digest));

        let mut stream = open();
        send(0);
        assert!(matches!(stream.next().await, Some(Err(OutletError::Gone))));
    }
}
