//! The bytes of one flight: where they are written, how they are hashed, how clients read them.
//!
//! Invariants: bytes are readable before anybody is told that they are; the running hash covers a prefix of what has
//! been written, never more; nobody waits for a hash except the one who asks for the verdict and those who go on without
//! the flight; what a member has sent is not read by anybody, and never replaces what may be read or what the engine is to
//! judge, before the engine has said that it is right.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use shoal_engine::peer::PeerId;
use shoal_engine::pieces::piece_count;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::wire::PieceHash;
use shoal_engine::{Algorithm, ByteRanges, Digest, Scope};
use shoal_store::{Partial, StoreError, Visibility};
use tokio::sync::SetOnce;

use super::read::read_at;
use super::restraint::Restraint;
use super::story::{OnItsOwn, Shares, Source};
use crate::registry::sendfile::MappedFile;
use crate::sources::Sender;

/// Read size when bytes are hashed from the file, bytes.
const HASH_READ_BYTES: usize = 1 << 20;

/// The running hash may lag this far behind the received prefix before a thread is set to catch up, bytes. Less is
/// done in a blink when the verdict is asked for.
const HASH_LAG_BYTES: u64 = 8 << 20;

/// Bytes between two states of the running hash that are kept.
const PASSED_EVERY_BYTES: u64 = 2 << 20;

/// States that are kept, the last ones, of some 200 bytes each. 64 MiB back is further than the hash gets while the engine ends a
/// flight, or in a last piece that nobody may have yet.
const PASSED_MAX: usize = 32;

/// Repositories that are remembered to have the blob of a flight; more than clients ask through at a time.
const VOUCHED_MAX: usize = 64;

/// Bytes of members that wait in memory for the engine's word, in one flight: a few pieces of the largest size.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Where the bytes are while they arrive.
enum Place {
    /// A file of the store, of its full size from the start.
    File(Arc<Partial>),
    /// Memory, for blobs that will be stored inline.
    Memory(Mutex<Vec<u8>>),
}

/// Pieces of members that the engine has not judged yet.
#[derive(Default)]
struct Offers {
    /// What each member has sent of a piece. One at a time: the engine names what it believes by the piece and the member.
    sent: HashMap<(u32, PeerId), Sent>,
    /// Whose piece lies in its place, or is being written there.
    laid: HashMap<u32, PeerId>,
    kept_bytes: usize,
    /// What is being written just now, whoever it is from. No two overlap.
    writing: Vec<Range<u64>>,
}

/// A piece of a member.
enum Sent {
    /// It is being hashed and written: nobody has been told of it.
    Coming,
    /// It lies in its place.
    Laid,
    /// Its place was taken, or it belongs to a blob in memory.
    Kept(Vec<Bytes>),
}

/// Why a piece of a member was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    /// Too much waits already. The member is asked again later.
    #[error("too many pieces wait to be judged")]
    Full,
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A hash over the first `upto` bytes.
struct Hasher {
    context: ring::digest::Context,
    upto: u64,
    /// What it was before, ascending: clients that go on without the flight need the hash of where they are.
    passed: VecDeque<(u64, ring::digest::Context)>,
}

/// A hash over the first `upto` bytes, for all who go on without the flight there.
pub(crate) struct Prefix {
    upto: u64,
    /// The hash, or why these bytes cannot be read.
    pub hash: SetOnce<Result<ring::digest::Context, Arc<io::Error>>>,
}

/// See the module's head.
pub(crate) struct FlightIo {
    digest: Digest,
    place: Place,
    size: OnceLock<u64>,
    mapped: OnceLock<Arc<MappedFile>>,
    sealed: OnceLock<Bytes>,
    written: Mutex<ByteRanges>,
    offers: Mutex<Offers>,
    /// Something that was being written is.
    written_down: Condvar,
    hasher: Mutex<Hasher>,
    catching_up: AtomicBool,
    prefix: Mutex<Option<Arc<Prefix>>>,
    shares: Mutex<Shares>,
    senders: Mutex<Vec<Sender>>,
    /// Whether anything has been written.
    begun: SetOnce<()>,
    restraint: Restraint,
    /// The repositories whose registry has said that they have the blob, and how it was asked.
    vouched: Mutex<Vec<(Scope, Visibility)>>,
}

/// What a request may know of the flight that it waits for: whether its own repository has the blob.
#[derive(Clone)]
pub struct FlightProof(pub(super) Arc<FlightIo>);

impl FlightProof {
    /// How the blob is known to be in a repository; public, if it is public in any.
    pub fn known(&self, scope: &Scope) -> Option<Visibility> {
        let vouched = self.0.vouched.lock();
        let fits = |(of, found): &&(Scope, Visibility)| of == scope || *found == Visibility::Public;
        vouched.iter().filter(fits).map(|(_, found)| *found).max()
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> Option<u64> {
        self.0.size.get().copied()
    }

    /// A repository's registry has said that it has the blob.
    pub fn vouch(&self, scope: &Scope, visibility: Visibility) {
        self.0.vouch(scope, visibility);
    }
}

impl FlightIo {
    /// A blob of known size that is small enough for memory.
    pub fn in_memory(digest: Digest, size: u64) -> Self {
        let buffer = Vec::with_capacity(usize::try_from(size).expect("the inline bound fits into memory"));
        let io = FlightIo::new(digest, Place::Memory(Mutex::new(buffer)), ByteRanges::new());
        io.size.set(size).expect("set once");
        io
    }

    /// A blob in a file of the store, perhaps with bytes of an earlier flight.
    pub fn in_file(digest: Digest, partial: Arc<Partial>) -> Self {
        let written = partial.have().into_iter().collect();
        let size = partial.size();
        let origin = partial.origin().map(|(scope, visibility)| (scope.clone(), visibility));
        let io = FlightIo::new(digest, Place::File(partial), written);
        io.vouched.lock().extend(origin);
        if let Some(size) = size {
            io.size.set(size).expect("set once");
        }
        io
    }

    fn new(digest: Digest, place: Place, written: ByteRanges) -> Self {
        let begun = SetOnce::new_with((!written.is_empty()).then_some(()));
        FlightIo {
            digest,
            place,
            size: OnceLock::new(),
            mapped: OnceLock::new(),
            sealed: OnceLock::new(),
            written: Mutex::new(written),
            offers: Mutex::default(),
            written_down: Condvar::new(),
            hasher: Mutex::new(Hasher::new(function(digest))),
            catching_up: AtomicBool::new(false),
            prefix: Mutex::default(),
            shares: Mutex::default(),
            senders: Mutex::default(),
            begun,
            restraint: Restraint::default(),
            vouched: Mutex::default(),
        }
    }

    /// A source has said that a repository has the blob: by opening it, or when it was asked.
    pub fn vouch(&self, scope: &Scope, visibility: Visibility) {
        if let Place::File(partial) = &self.place {
            partial.set_origin(scope, visibility);
        }
        let mut vouched = self.vouched.lock();
        if let Some((_, known)) = vouched.iter_mut().find(|(of, _)| of == scope) {
            *known = visibility.max(*known);
        } else if vouched.len() < VOUCHED_MAX {
            // One that is not remembered is asked about again.
            vouched.push((scope.clone(), visibility));
        }
    }

    /// The repositories that have the blob, once its bytes have been verified.
    pub fn vouched(&self) -> Vec<(Scope, Visibility)> {
        self.vouched.lock().clone()
    }

    /// Those of them that have become known after the first `known`.
    pub fn vouched_after(&self, known: usize) -> Vec<(Scope, Visibility)> {
        self.vouched.lock().get(known..).unwrap_or_default().to_vec()
    }

    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The file, unless the bytes are in memory.
    pub fn partial(&self) -> Option<&Arc<Partial>> {
        match &self.place {
            Place::File(partial) => Some(partial),
            Place::Memory(_) => None,
        }
    }

    /// Size of the blob in bytes, once it is known.
    pub fn size(&self) -> Option<u64> {
        self.size.get().copied()
    }

    /// Whether these bytes are there.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.written.lock().contains(range)
    }

    /// The size has become known while bytes came in.
    pub fn set_size(&self, size: u64) -> Result<(), StoreError> {
        if self.size.set(size).is_ok()
            && let Place::File(partial) = &self.place
        {
            partial.set_size(size)?;
        }
        Ok(())
    }

    /// Bytes come from there: remembered in case they turn out to be wrong.
    pub fn comes_from(&self, sender: &Sender) {
        let mut senders = self.senders.lock();
        if !senders.contains(sender) {
            senders.push(sender.clone());
        }
    }

    /// Who has sent bytes; no more than there are sources for the repositories that wait.
    pub fn senders(&self) -> Vec<Sender> {
        self.senders.lock().clone()
    }

    /// What holds its bytes back.
    pub fn restraint(&self) -> &Restraint {
        &self.restraint
    }

    // ---- writing ----

    /// Writes chunks that follow each other at `offset`. Blocks on the disk.
    pub fn write(&self, offset: u64, chunks: &[Bytes]) -> Result<u64, StoreError> {
        let len: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let claim = self.claim(self.offers.lock(), offset..offset + len);
        self.put(offset, chunks)?;
        self.may_be_read(claim.range.clone());
        Ok(len)
    }

    /// Waits until nobody writes there, and keeps everybody else from it: what a member has sent must not land on what
    /// another source has sent meanwhile. The lock itself is not held while something is written, since the driver takes it.
    fn claim<'a>(&'a self, mut offers: MutexGuard<'a, Offers>, range: Range<u64>) -> Claim<'a> {
        while offers.is_written_to(&range) {
            self.written_down.wait(&mut offers);
        }
        offers.writing.push(range.clone());
        Claim { flight: self, range }
    }

    fn put(&self, offset: u64, chunks: &[Bytes]) -> Result<(), StoreError> {
        match &self.place {
            Place::File(partial) => partial.write_at(offset, chunks),
            Place::Memory(buffer) => {
                let len = total(chunks);
                let mut at = usize::try_from(offset).expect("inside the inline bound");
                let mut buffer = buffer.lock();
                if buffer.len() < at + len {
                    buffer.resize(at + len, 0);
                }
                for chunk in chunks {
                    buffer[at..at + chunk.len()].copy_from_slice(chunk);
                    at += chunk.len();
                }
                Ok(())
            }
        }
    }

    /// These bytes may be read from now on.
    fn may_be_read(&self, range: Range<u64>) {
        self.written.lock().insert(range);
        // An error means that it had been set.
        let _ = self.begun.set(());
    }

    /// Waits until anything has come, in this life of the flight or an earlier one.
    pub async fn begun(&self) {
        self.begun.wait().await;
    }

    /// Bytes have come from upstream, whose name this is.
    pub fn came_from(&self, upstream: &Arc<str>, span: Range<u64>) {
        self.shares.lock().add_span(Source::Upstream(Arc::clone(upstream)), span, Instant::now());
    }

    /// What each source brought.
    pub fn shares(&self) -> Shares {
        self.shares.lock().clone()
    }

    /// Something is fetched without the other members.
    pub fn set_on_its_own(&self, why: OnItsOwn) {
        self.shares.lock().set_on_its_own(why);
    }

    // ---- what members send ----

    /// Takes a piece that a member has sent, and hashes it. It lies in its place if nothing else does, so that believing
    /// it later costs nothing. `None` if the member has sent it before and that has not been judged. Blocks on the disk.
    pub fn offer(
        &self,
        piece: u32,
        from: PeerId,
        chunks: Vec<Bytes>,
    ) -> Result<Option<PieceHash>, OfferError> {
        let Some(range) = self.piece(piece) else { return Err(OfferError::Full) };
        match self.offers.lock().sent.entry((piece, from)) {
            Entry::Occupied(_) => return Ok(None),
            Entry::Vacant(free) => _ = free.insert(Sent::Coming),
        }
        let mut hasher = blake3::Hasher::new();
        chunks.iter().for_each(|chunk| {
            hasher.update(chunk);
        });
        let sent = self.lay(piece, from, range, chunks);
        let mut offers = self.offers.lock();
        match sent {
            Ok(sent) => {
                offers.sent.insert((piece, from), sent);
                Ok(Some(PieceHash(hasher.finalize().into())))
            }
            Err(error) => {
                offers.sent.remove(&(piece, from));
                offers.clear(piece, &from);
                Err(error)
            }
        }
    }

    /// Writes a piece that nobody has judged to its place or, where something is already, keeps it aside.
    fn lay(
        &self,
        piece: u32,
        from: PeerId,
        range: Range<u64>,
        chunks: Vec<Bytes>,
    ) -> Result<Sent, OfferError> {
        let mut offers = self.offers.lock();
        let is_free =
            !offers.laid.contains_key(&piece) && self.is_empty(&range) && !offers.is_written_to(&range);
        if is_free && let Place::File(partial) = &self.place {
            offers.laid.insert(piece, from);
            let claim = self.claim(offers, range);
            partial.write_at(claim.range.start, &chunks)?;
            return Ok(Sent::Laid);
        }
        if offers.kept_bytes + total(&chunks) > KEPT_BYTES_MAX {
            return Err(OfferError::Full);
        }
        offers.kept_bytes += total(&chunks);
        Ok(Sent::Kept(chunks))
    }

    /// The engine believes a piece: it may be read from now on. Where the bytes had to be kept aside they are written
    /// now, which is a copy into the kernel's memory and no more. False if they are not there.
    pub fn place(&self, piece: u32, from: PeerId) -> Result<bool, StoreError> {
        let Some(range) = self.piece(piece) else { return Ok(false) };
        let mut offers = self.offers.lock();
        let lies_there = offers.laid.get(&piece) == Some(&from);
        match offers.take(piece, from) {
            Some(Sent::Laid) if lies_there => self.may_be_read(range.clone()),
            Some(Sent::Kept(chunks)) => {
                // Bytes of another member that lie there are overwritten, and are not what this piece is any more.
                offers.laid.remove(&piece);
                let claim = self.claim(offers, range.clone());
                self.put(claim.range.start, &chunks)?;
                self.may_be_read(range.clone());
            }
            _ => return Ok(self.has(range)),
        }
        self.shares.lock().add_span(Source::Member(from), range, Instant::now());
        Ok(true)
    }

    /// The engine does not want a piece.
    pub fn discard(&self, piece: u32, from: PeerId) {
        self.offers.lock().take(piece, from);
    }

    /// Whether nothing that counts is there yet.
    fn is_empty(&self, range: &Range<u64>) -> bool {
        self.written.lock().first_gap(range.start, range.end).as_ref() == Some(range)
    }

    /// The bytes of a piece; `None` while the size is not known, and for one that does not exist.
    fn piece(&self, piece: u32) -> Option<Range<u64>> {
        let size = *self.size.get()?;
        (u64::from(piece) < piece_count(size)).then(|| piece_bytes(size, piece))
    }

    /// Hashes chunks that have been written at `offset`, if the hash has come that far. Called by the thread that
    /// wrote them, after everybody has been told of them. Returns whether somebody has to catch up.
    pub fn hash(&self, offset: u64, chunks: &[Bytes]) -> bool {
        // Whoever holds the lock is catching up, and will come across these bytes in the file.
        let Some(mut hasher) = self.hasher.try_lock() else { return false };
        if hasher.upto == offset {
            for chunk in chunks {
                hasher.update(chunk);
            }
            return false;
        }
        let lag = self.written.lock().contiguous_end(hasher.upto).saturating_sub(hasher.upto);
        lag > HASH_LAG_BYTES && !self.catching_up.swap(true, Ordering::AcqRel)
    }

    /// Whether so much has been received and not been hashed that a thread should be set to it.
    pub fn should_catch_up(&self) -> bool {
        let Some(hasher) = self.hasher.try_lock() else { return false };
        self.written.lock().contiguous_end(hasher.upto).saturating_sub(hasher.upto) > HASH_LAG_BYTES
            && !self.catching_up.swap(true, Ordering::AcqRel)
    }

    /// Hashes from the file what has been received and not been hashed. Blocks.
    pub fn catch_up(&self) -> io::Result<()> {
        let result = self.hash_written(&mut self.hasher.lock());
        self.catching_up.store(false, Ordering::Release);
        result
    }

    fn hash_written(&self, hasher: &mut Hasher) -> io::Result<()> {
        loop {
            let end = self.written.lock().contiguous_end(hasher.upto);
            if end == hasher.upto {
                return Ok(());
            }
            self.hash_to(hasher, end, None)?;
        }
    }

    /// Hashes what lies before `end`, all of which has been written.
    fn hash_to(&self, hasher: &mut Hasher, end: u64, due_at: Option<Instant>) -> io::Result<()> {
        let mut buffer = Vec::new();
        while hasher.upto < end {
            if due_at.is_some_and(|due_at| Instant::now() >= due_at) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let len = usize::try_from(end - hasher.upto).unwrap_or(usize::MAX).min(HASH_READ_BYTES);
            match &self.place {
                Place::File(partial) => {
                    buffer.resize(len, 0);
                    partial.file().read_exact_at(&mut buffer, hasher.upto)?;
                    hasher.update(&buffer);
                }
                Place::Memory(bytes) => {
                    let from = usize::try_from(hasher.upto).expect("inside the inline bound");
                    hasher.update(&bytes.lock()[from..from + len]);
                }
            }
        }
        Ok(())
    }

    /// Whether all bytes hash to the digest. Blocks.
    pub fn verify(&self) -> io::Result<bool> {
        let mut hasher = self.hasher.lock();
        self.hash_written(&mut hasher)?;
        let complete = self.size.get() == Some(&hasher.upto);
        Ok(complete && hasher.context.clone().finish().as_ref() == self.digest.hash())
    }

    /// The hash over the first `upto` bytes, which is the same for all who go on without the flight there; whether the caller is
    /// the first to ask, and has to see to it that it is set.
    pub fn prefix(&self, upto: u64) -> (Arc<Prefix>, bool) {
        let mut last = self.prefix.lock();
        if let Some(known) = last.as_ref().filter(|known| known.upto == upto) {
            return (Arc::clone(known), false);
        }
        let prefix = Arc::new(Prefix { upto, hash: SetOnce::new() });
        *last = Some(Arc::clone(&prefix));
        (prefix, true)
    }

    /// A hash context over the first `upto` bytes, if the running hash is there or has kept it; otherwise how many bytes have to
    /// be read for it, at most. Never waits.
    pub fn kept_hash(&self, upto: u64) -> Result<ring::digest::Context, u64> {
        let Some(hasher) = self.hasher.try_lock() else { return Err(upto) };
        let before = hasher.before(upto);
        if before.upto == upto { Ok(before.context) } else { Err(upto - before.upto) }
    }

    /// The same, for which what is missing is read until `due_at`. A running hash that is behind goes along, so that nobody has to
    /// read that again. Blocks on the disk.
    ///
    /// # Errors
    /// Of the file; `TimedOut` if it is too late; `UnexpectedEof` if not all of the bytes have come.
    pub fn prefix_hash(&self, upto: u64, due_at: Instant) -> io::Result<ring::digest::Context> {
        if !self.has(0..upto) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Whoever catches up may hang in the file.
        let Some(mut hasher) = self.hasher.try_lock_until(due_at) else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        if hasher.upto <= upto {
            self.hash_to(&mut hasher, upto, Some(due_at))?;
            return Ok(hasher.context.clone());
        }
        let mut before = hasher.before(upto);
        drop(hasher);
        self.hash_to(&mut before, upto, Some(due_at))?;
        Ok(before.context)
    }

    // ---- reading ----

    /// Bytes that are ready, for a client. From a file this is a slice of its mapping, which the connection sends
    /// with `sendfile` and nobody touches.
    pub fn bytes(&self, range: std::ops::Range<u64>) -> io::Result<Bytes> {
        match &self.place {
            Place::File(_) => Ok(self.mapped()?.bytes(range)),
            Place::Memory(buffer) => {
                let at = |offset: u64| usize::try_from(offset).expect("inside the inline bound");
                let range = at(range.start)..at(range.end);
                Ok(match self.sealed.get() {
                    Some(all) => all.slice(range),
                    // A short range of a blob that is still arriving.
                    None => Bytes::copy_from_slice(&buffer.lock()[range]),
                })
            }
        }
    }

    /// The same for whoever touches them. Blocks on the disk.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.place {
            Place::File(partial) => read_at(partial.file(), range),
            Place::Memory(_) => self.bytes(range),
        }
    }

    fn mapped(&self) -> io::Result<&Arc<MappedFile>> {
        if let Some(mapped) = self.mapped.get() {
            return Ok(mapped);
        }
        let Place::File(partial) = &self.place else { unreachable!("only files are mapped") };
        let size = *self.size.get().ok_or(io::ErrorKind::InvalidData)?;
        let mapped = MappedFile::new(Arc::clone(partial.file()), size)?;
        // Two readers may map at the same time; one mapping wins and the other is dropped.
        Ok(self.mapped.get_or_init(|| mapped))
    }

    /// The bytes of a verified blob in memory, to be stored inline; `None` for one in a file.
    pub fn seal(&self) -> Option<Bytes> {
        let Place::Memory(buffer) = &self.place else { return None };
        Some(self.sealed.get_or_init(|| Bytes::from(buffer.lock().clone())).clone())
    }
}

impl Hasher {
    fn new(function: &'static ring::digest::Algorithm) -> Self {
        Hasher { context: ring::digest::Context::new(function), upto: 0, passed: VecDeque::new() }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.upto += bytes.len() as u64;
        let last = self.passed.back().map_or(0, |(upto, _)| *upto);
        if self.upto >= last + PASSED_EVERY_BYTES {
            if self.passed.len() == PASSED_MAX {
                self.passed.pop_front();
            }
            self.passed.push_back((self.upto, self.context.clone()));
        }
    }

    /// The longest one over no more than the first `upto` bytes that it is or has kept; one over nothing, if there is none.
    fn before(&self, upto: u64) -> Hasher {
        let passed = self.passed.iter().rev().map(|(at, context)| (*at, context));
        let mut known = iter::once((self.upto, &self.context)).chain(passed);
        match known.find(|(at, _)| *at <= upto) {
            Some((at, context)) => Hasher { context: context.clone(), upto: at, passed: VecDeque::new() },
            None => Hasher::new(self.context.algorithm()),
        }
    }
}

impl Offers {
    /// What a member has sent of a piece, which is judged now.
    fn take(&mut self, piece: u32, from: PeerId) -> Option<Sent> {
        match self.sent.get(&(piece, from))? {
            Sent::Coming => return None,
            Sent::Laid => self.clear(piece, &from),
            Sent::Kept(chunks) => self.kept_bytes -= total(chunks),
        }
        self.sent.remove(&(piece, from))
    }

    /// The place of a piece is free for others if this one's lies there.
    fn clear(&mut self, piece: u32, from: &PeerId) {
        if self.laid.get(&piece) == Some(from) {
            self.laid.remove(&piece);
        }
    }

    fn is_written_to(&self, range: &Range<u64>) -> bool {
        self.writing.iter().any(|other| other.start < range.end && range.start < other.end)
    }
}

fn total(chunks: &[Bytes]) -> usize {
    chunks.iter().map(Bytes::len).sum()
}

/// A part of the blob that is being written, until this is dropped.
struct Claim<'a> {
    flight: &'a FlightIo,
    range: Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.flight.offers.lock().writing.retain(|range| *range != self.range);
        self.flight.written_down.notify_all();
    }
}

/// The hash function of a digest. `ring` picks the fastest code this CPU has (SHA-NI where it is there).
pub(crate) fn function(digest: Digest) -> &'static ring::digest::Algorithm {
    match digest.algorithm() {
        Algorithm::Sha256 => &ring::digest::SHA256,
        Algorithm::Sha512 => &ring::digest::SHA512,
    }
}

#[cfg(test)]
mod tests;
