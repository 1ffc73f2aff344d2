//! Hashes of the pieces that upstream sends, for those who get them from this node.

use shoal_engine::pieces::piece_len;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::wire::PieceHash;

use bytes::Bytes;

use super::flight::FlightIo;

/// Hashes piece after piece of one transfer.
pub(super) struct PieceHashes {
    size: u64,
    piece: u32,
    /// Offset in the blob that has been hashed, or that is waited for.
    at: u64,
    hasher: blake3::Hasher,
}

impl PieceHashes {
    /// For a transfer that begins at `start`; `None` while the size of the blob is not known. What lies before `start` in
    /// its piece is read back; where that is not there the hashes begin with the next piece. Blocks.
    pub fn new(flight: &FlightIo, start: u64) -> Option<Self> {
        let size = flight.size()?;
        let len = piece_len(size);
        let piece = u32::try_from(start / len).ok()?;
        let begin = u64::from(piece) * len;
        let mut hashes = PieceHashes { size, piece, at: begin, hasher: blake3::Hasher::new() };
        if begin == start {
            return Some(hashes);
        }
        match flight.has(begin..start).then(|| flight.read(begin..start)) {
            Some(Ok(before)) => {
                hashes.hasher.update(&before);
                hashes.at = start;
            }
            _ => {
                hashes.piece += 1;
                hashes.at = begin + len;
            }
        }
        Some(hashes)
    }

    /// Takes in what was written at `offset`; gives the pieces that are complete.
    pub fn update(&mut self, mut offset: u64, chunks: &[Bytes]) -> Vec<(u32, PieceHash)> {
        let mut complete = Vec::new();
        for chunk in chunks {
            let mut rest = &chunk[..];
            // The part of a piece whose beginning is missing.
            let skipped =
                usize::try_from(self.at.saturating_sub(offset)).unwrap_or(usize::MAX).min(rest.len());
            offset += skipped as u64;
            rest = &rest[skipped..];
            while !rest.is_empty() {
                let end = piece_bytes(self.size, self.piece).end;
                let taken = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(rest.len());
                if taken == 0 {
                    return complete;
                }
                self.hasher.update(&rest[..taken]);
                rest = &rest[taken..];
                self.at += taken as u64;
                offset += taken as u64;
                if self.at == end {
                    complete.push((self.piece, PieceHash(self.hasher.finalize().into())));
                    self.hasher.reset();
                    self.piece += 1;
                }
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use shoal_engine::{Algorithm, Digest};

    use super::*;

    /// Three pieces and a half of the smallest size, in chunks of odd sizes.
    #[test]
    fn each_piece_once_and_whatever_the_chunks() {
        let size = 3 * 262_144 + 1000;
        let all: Vec<u8> = (0..size).map(|n| (n / 7) as u8).collect();
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        let table = [(0, 0..4), (262_144, 1..4), (262_145, 2..4), (3 * 262_144, 3..4)];
        for (start, pieces) in table {
            let flight = FlightIo::in_memory(digest, size as u64);
            let mut hashes = PieceHashes::new(&flight, start as u64).expect("the size is known");
            let mut found = Vec::new();
            let mut at = start;
            for chunk in all[start..].chunks(100_001) {
                found.extend(hashes.update(at as u64, &[Bytes::copy_from_slice(chunk)]));
                at += chunk.len();
            }
            let expected: Vec<_> = pieces
                .map(|piece: u32| {
                    let range = piece_bytes(size as u64, piece);
                    let bytes = &all[range.start as usize..range.end as usize];
                    (piece, PieceHash(blake3::hash(bytes).into()))
                })
                .collect();
            assert_eq!(found, expected, "from {start}");
        }
    }
}
