//! The bytes of one flight: where they are written, how they are hashed, how clients read them.
//!
//! Invariants: bytes are readable before anybody is told that they are; the running hash covers a prefix of what has
//! been written, never more; nobody waits for a hash except the one who asks for the verdict; what a member has sent is
//! not read by anybody, and never replaces what may be read or what the engine is to judge, before the engine has said that
//! it is right.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
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

struct Hasher {
    context: ring::digest::Context,
    upto: u64,
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
            hasher: Mutex::new(Hasher { context: ring::digest::Context::new(function(digest)), upto: 0 }),
            catching_up: AtomicBool::new(false),
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
                hasher.context.update(chunk);
                hasher.upto += chunk.len() as u64;
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
        let mut buffer = Vec::new();
        loop {
            let end = self.written.lock().contiguous_end(hasher.upto);
            let len = usize::try_from(end - hasher.upto).unwrap_or(usize::MAX).min(HASH_READ_BYTES);
            if len == 0 {
                return Ok(());
            }
            match &self.place {
                Place::File(partial) => {
                    buffer.resize(len, 0);
                    partial.file().read_exact_at(&mut buffer, hasher.upto)?;
                    hasher.context.update(&buffer);
                }
                Place::Memory(bytes) => {
                    let from = usize::try_from(hasher.upto).expect("inside the inline bound");
                    hasher.context.update(&bytes.lock()[from..from + len]);
                }
            }
            hasher.upto += len as u64;
        }
    }

    /// Whether all bytes hash to the digest. Blocks.
    pub fn verify(&self) -> io::Result<bool> {
        let mut hasher = self.hasher.lock();
        self.hash_written(&mut hasher)?;
        let complete = self.size.get() == Some(&hasher.upto);
        Ok(complete && hasher.context.clone().finish().as_ref() == self.digest.hash())
    }

    /// A hash context over the first `upto` bytes, if all of them are here. Blocks.
    pub fn prefix_hash(&self, upto: u64) -> io::Result<Option<ring::digest::Context>> {
        if !self.written.lock().contains(0..upto) {
            return Ok(None);
        }
        let mut hasher = Hasher { context: ring::digest::Context::new(function(self.digest)), upto: 0 };
        let mut buffer = Vec::new();
        while hasher.upto < upto {
            let len = usize::try_from(upto - hasher.upto).unwrap_or(usize::MAX).min(HASH_READ_BYTES);
            buffer.resize(len, 0);
            match &self.place {
                Place::File(partial) => partial.file().read_exact_at(&mut buffer, hasher.upto)?,
                Place::Memory(bytes) => {
                    let from = usize::try_from(hasher.upto).expect("inside the inline bound");
                    buffer.copy_from_slice(&bytes.lock()[from..from + len]);
                }
            }
            hasher.context.update(&buffer);
            hasher.upto += len as u64;
        }
        Ok(Some(hasher.context))
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
mod tests {
    use shoal_engine::pieces::PIECE_BYTES_MIN;
    use shoal_store::{Options, Store};

    use super::*;

    const PIECE: u64 = PIECE_BYTES_MIN;
    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    /// Of three pieces, in a file.
    fn flight() -> (tempfile::TempDir, FlightIo) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        let partial = store.partial(&digest, 3 * PIECE).unwrap();
        (folder, FlightIo::in_file(digest, Arc::new(partial)))
    }

    fn piece(byte: u8) -> Vec<Bytes> {
        vec![Bytes::from(vec![byte; PIECE as usize])]
    }

    /// The byte that a piece begins with in the file; `None` if it may not be read.
    fn readable(flight: &FlightIo, piece: u64) -> Option<u8> {
        let mut read = [0];
        flight.partial().unwrap().file().read_exact_at(&mut read, piece * PIECE).unwrap();
        flight.has(piece * PIECE..(piece + 1) * PIECE).then_some(read[0])
    }

    /// One that sends a piece as it is, and again with other bytes before the first has been judged, must not have those believed.
    #[test]
    fn of_what_one_member_sends_twice_the_first_counts_until_it_is_judged() {
        let (_folder, flight) = flight();
        // The first lies where it belongs, the second comes from somebody else and is kept.
        let right = flight.offer(0, A, piece(1)).unwrap();
        assert!(right.is_some());
        assert!(flight.offer(0, B, piece(2)).unwrap().is_some());
        for again in [A, B] {
            assert_eq!(flight.offer(0, again, piece(3)).unwrap(), None);
        }
        assert_eq!(readable(&flight, 0), None, "nobody has judged it");
        assert!(flight.place(0, A).unwrap());
        flight.discard(0, B);
        assert_eq!(readable(&flight, 0), Some(1));

        assert!(flight.offer(1, A, piece(4)).unwrap().is_some());
        assert!(flight.offer(1, B, piece(5)).unwrap().is_some());
        assert_eq!(flight.offer(1, B, piece(6)).unwrap(), None);
        assert!(flight.place(1, B).unwrap(), "the one that was kept");
        flight.discard(1, A);
        assert_eq!(readable(&flight, 1), Some(5));

        // What has been judged may come again.
        let wrong = flight.offer(2, A, piece(7)).unwrap();
        flight.discard(2, A);
        assert_ne!(flight.offer(2, A, piece(8)).unwrap(), wrong);
        assert!(flight.place(2, A).unwrap());
        assert_eq!(readable(&flight, 2), Some(8));
        let offers = flight.offers.lock();
        assert!(offers.sent.is_empty() && offers.laid.is_empty() && offers.kept_bytes == 0);
    }

    #[test]
    fn what_is_being_written_or_never_came_is_not_believed() {
        let (_folder, flight) = flight();
        assert!(!flight.place(0, A).unwrap(), "it never came");
        flight.offers.lock().sent.insert((0, A), Sent::Coming);
        flight.offers.lock().laid.insert(0, A);
        flight.discard(0, A);
        assert!(!flight.place(0, A).unwrap(), "it is being written");
        assert_eq!(readable(&flight, 0), None);
        assert!(!flight.place(3, A).unwrap(), "there is no such piece");
    }
}
