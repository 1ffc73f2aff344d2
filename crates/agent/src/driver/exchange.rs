//! What the engine wants of the swarm and of what came from it.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use shoal_engine::flight::Flight;
use shoal_engine::homes::homes;
use shoal_engine::limits::LISTED_AT_ONCE;
use shoal_engine::peer::PeerId;
use shoal_engine::pieces::{piece_count, piece_len};
use shoal_engine::swarm::classes::class_of;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{Message, PieceHash};
use shoal_engine::{Digest, Input, LocalFault};
use shoal_store::{Content, Store, StoreError};
use tracing::Span;

use super::{BlobStory, ClassStory, Driver, effects};
use crate::swarm::{Destination, name};

/// Blobs that are told to the engine in one step when the agent starts.
const STORED_PER_STEP: usize = 256;

impl Driver {
    pub(super) fn tell(&self, to: PeerId, message: Message) {
        let into = self.destination(&message);
        if let Some(swarm) = &self.swarm {
            // A stream that is opened is a part of the flight.
            let span = into.as_ref().map(|into| self.traces.flight(&into.flight.digest()));
            let _in_flight = span.map(Span::entered);
            swarm.tell(to, message, into, &self.handle);
        }
    }

    /// Where the bytes go that a subscription asks for.
    fn destination(&self, message: &Message) -> Option<Destination> {
        let Message::Subscribe { digest, .. } = message else { return None };
        let flight = Arc::clone(self.flights.get(digest)?);
        let of = self.engine.flight(digest);
        let wanted = of.and_then(Flight::next_wanted);
        let registry = of.and_then(Flight::registry);
        let stranger = registry.filter(|registry| !self.sources.upstream().is_configured(registry)).cloned();
        let gives_way = wanted.is_some_and(|byte| !brings(message, byte));
        Some(Destination { flight, gives_way, stranger })
    }

    pub(super) fn upload(&self, send: Send) {
        let flight = self.flights.get(&send.digest).cloned();
        match &self.swarm {
            Some(swarm) => swarm.upload(send, flight, &self.handle),
            None => self.handle.input_detached(Input::Uploaded { upload: send.upload }),
        }
    }

    pub(super) fn place(&self, digest: Digest, piece: u32, from: PeerId) {
        let Some(flight) = self.flights.get(&digest) else { return };
        let fault = match flight.place(piece, from) {
            Ok(true) => None,
            Ok(false) => {
                tracing::error!(digest = %digest.short(), piece, ?from, "a piece that counts is not there");
                Some(LocalFault::StoreBroken)
            }
            Err(error) => {
                self.handle.store_health().failed(&error);
                Some(error.fault())
            }
        };
        if let Some(fault) = fault {
            return self.handle.input_detached(Input::Unkept { digest, fault });
        }
        if flight.should_catch_up() {
            effects::catch_up(flight);
        }
    }

    pub(super) fn discard(&self, digest: Digest, piece: u32, from: PeerId) {
        if let Some(flight) = self.flights.get(&digest) {
            flight.discard(piece, from);
        }
    }

    pub(super) fn inspect(&self, digest: Digest) {
        let (store, handle) = (self.store.clone(), self.handle.clone());
        tokio::task::spawn_blocking(move || {
            let size = store.get(&digest, SystemTime::now()).ok().flatten().map(|blob| blob.size);
            handle.input_blocking(Input::Inspected { digest, size });
        });
    }

    pub(super) fn list(&self, digest: Digest) {
        let (store, handle) = (self.store.clone(), self.handle.clone());
        tokio::task::spawn_blocking(move || {
            let blob = store.get(&digest, SystemTime::now()).ok().flatten();
            let tell = |first, hashes: &[PieceHash]| {
                handle.input_blocking(Input::Listing { digest, first, hashes: hashes.to_vec() });
            };
            let found = blob.and_then(|blob| match hashes(blob.size, &blob.content, tell) {
                Ok(hashes) => Some((blob.size, hashes)),
                Err(error) => {
                    tracing::error!(digest = %digest.short(), %error, "a stored blob cannot be read");
                    None
                }
            });
            handle.input_blocking(Input::Listed { digest, found });
        });
    }

    /// What is known of a blob here. Whether it is stored is for the store to say.
    pub(super) fn explain(&self, digest: Digest) -> BlobStory {
        let flight = self.engine.flight(&digest);
        let io = self.flights.get(&digest);
        let shares = io.map(|io| io.shares()).or_else(|| self.come.of(&digest).cloned()).unwrap_or_default();
        let roster = self.swarm.as_ref().map(|swarm| swarm.roster());
        let homes = roster.map(|roster| homes(&digest, &roster).iter().map(|peer| name(&peer)).collect());
        let exchange = self.engine.swarm().and_then(|swarm| swarm.exchange(&digest));
        let class = |(class, first_missing, missing, feeds): (u8, Option<u32>, u32, Vec<PeerId>)| {
            ClassStory { class, missing, first_missing, feeds: feeds.iter().map(name).collect() }
        };
        BlobStory {
            digest,
            state: if flight.is_some() { "receiving" } else { "absent" }.to_owned(),
            size: flight.and_then(|flight| flight.size()).or_else(|| self.engine.size_hint(&digest)),
            stored_at: None,
            received: flight.map(|flight| flight.received()),
            sources: shares.told(),
            on_its_own: shares.on_its_own(),
            homes: homes.unwrap_or_default(),
            books: Vec::new(),
            classes: exchange
                .map(|exchange| exchange.explain().into_iter().map(class).collect())
                .unwrap_or_default(),
        }
    }

    /// Tells the engine what is in the store, bit by bit so that clients who come meanwhile do not wait, and what leaves it.
    pub(super) fn tell_stored(&self) {
        let handle = self.handle.clone();
        self.store.on_departure(move |digest| handle.input_detached(Input::Evicted { digest: *digest }));
        let (store, handle) = (self.store.clone(), self.handle.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = each_stored(&store, |digest, size| {
                handle.input_blocking(Input::Stored { digest, size });
            }) {
                tracing::error!(%error, "the store cannot be listed; other members do not learn what is in it");
            }
        });
    }
}

/// Whether a subscription asks for the piece with this byte.
fn brings(subscription: &Message, byte: u64) -> bool {
    let Message::Subscribe { size, classes, class, runs, .. } = subscription else { return false };
    let piece = (byte / piece_len(*size)) as u32;
    class_of(piece, *classes) == *class && runs.iter().any(|run| run.contains(piece))
}

fn each_stored(store: &Store, mut tell: impl FnMut(Digest, u64)) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let blobs = store.list(last.as_ref(), STORED_PER_STEP)?;
        let Some(end) = blobs.last().map(|blob| blob.digest) else { return Ok(()) };
        blobs.iter().for_each(|blob| tell(blob.digest, blob.size));
        last = Some(end);
    }
}

/// Hashes of a stored blob's pieces, from its bytes. Each [`LISTED_AT_ONCE`] of them are told before the next ones are taken.
fn hashes(
    size: u64,
    content: &Content,
    mut tell: impl FnMut(u32, &[PieceHash]),
) -> std::io::Result<Vec<PieceHash>> {
    let mut hashes = Vec::new();
    let mut buffer = Vec::new();
    for piece in 0..piece_count(size) as u32 {
        if piece > 0 && hashes.len().is_multiple_of(LISTED_AT_ONCE) {
            tell(piece - LISTED_AT_ONCE as u32, &hashes[hashes.len() - LISTED_AT_ONCE..]);
        }
        let range = piece_bytes(size, piece);
        let hash = match content {
            Content::Inline(bytes) => blake3::hash(&bytes[range.start as usize..range.end as usize]),
            Content::File(file) => {
                buffer.resize((range.end - range.start) as usize, 0);
                file.read_exact_at(&mut buffer, range.start)?;
                blake3::hash(&buffer)
            }
        };
        hashes.push(PieceHash(hash.into()));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use shoal_engine::Algorithm;
    use shoal_engine::pieces::PIECE_BYTES_MIN;
    use shoal_engine::wire::Run;

    use super::*;

    #[test]
    fn hashes_are_told_as_they_are_taken() {
        let size = (2 * LISTED_AT_ONCE + 1) as u64 * PIECE_BYTES_MIN - 5;
        let content: Vec<u8> = (0..size).map(|at| (at / PIECE_BYTES_MIN) as u8).collect();
        let mut told = Vec::new();
        let all = hashes(size, &Content::Inline(content.clone().into()), |first, part| {
            assert_eq!((first as usize, part.len()), (told.len(), LISTED_AT_ONCE));
            told.extend_from_slice(part);
        })
        .unwrap();
        let expected: Vec<_> = content
            .chunks(PIECE_BYTES_MIN as usize)
            .map(|piece| PieceHash(blake3::hash(piece).into()))
            .collect();
        assert_eq!(all, expected);
        assert_eq!(told, expected[..2 * LISTED_AT_ONCE]);
    }

    #[test]
    fn what_a_subscription_brings() {
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        let (runs, unlisted) =
            (vec![Run { first: 1, end: 6 }, Run { first: 13, end: 14 }], Run { first: 0, end: 0 });
        let size = 16 * PIECE_BYTES_MIN;
        let message = Message::Subscribe { digest, size, classes: 4, class: 1, runs, unlisted };
        let brought: Vec<u64> =
            (0..16).filter(|piece| brings(&message, piece * PIECE_BYTES_MIN + 5)).collect();
        assert_eq!(brought, [1, 5, 13], "pieces of class 1 that lie in the runs");
        assert!(!brings(&Message::Unsubscribe { digest, class: 1 }, PIECE_BYTES_MIN));
    }
}
