//! Pieces: how a blob is cut.
//!
//! Question: how large is a piece of a blob of a given size? Small pieces travel through a swarm with less latency,
//! large ones cost fewer messages and smaller maps. Answer: the piece grows with the blob, so that no blob has more
//! than [`PIECES_PER_BLOB_AIM`] pieces until the largest piece is reached. The cut is a pure function of the size, so
//! every node cuts alike and nobody has to be told.

use crate::limits::LARGE_PIECES_MIN;

/// Smallest piece, bytes. Also the granularity at which a half-received blob is remembered over a restart.
pub const PIECE_BYTES_MIN: u64 = 256 * 1024;
/// Largest piece, bytes.
pub const PIECE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A blob has at most this many pieces as long as pieces can still grow.
pub const PIECES_PER_BLOB_AIM: u64 = 1024;
/// Largest blob that is accepted, bytes: its piece map takes 32 KiB.
pub const BLOB_BYTES_MAX: u64 = 1 << 40;

/// Length of every piece but the last of a blob of `size` bytes: a power of two between [`PIECE_BYTES_MIN`] and
/// [`PIECE_BYTES_MAX`].
pub fn piece_len(size: u64) -> u64 {
    let mut len = PIECE_BYTES_MIN;
    while len < PIECE_BYTES_MAX && size.div_ceil(len) > PIECES_PER_BLOB_AIM {
        len *= 2;
    }
    len
}

/// Number of pieces of a blob of `size` bytes. An empty blob has none.
pub fn piece_count(size: u64) -> u64 {
    size.div_ceil(piece_len(size))
}

/// Whether a blob is one of those of which a few leave upstream at a time.
pub fn is_large(size: u64) -> bool {
    piece_count(size) >= LARGE_PIECES_MIN
}

/// First byte of the last piece: what may be handed out before the whole digest is known ends here.
pub fn last_piece_start(size: u64) -> u64 {
    piece_count(size).saturating_sub(1) * piece_len(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_grow_with_the_blob() {
        let table = [
            (0, MIB / 4, 0),
            (1, MIB / 4, 1),
            (256 * MIB, MIB / 4, 1024),
            (256 * MIB + 1, MIB / 2, 513),
            (1024 * MIB, MIB, 1024),
            (4096 * MIB, 4 * MIB, 1024),
            (10_240 * MIB, 4 * MIB, 2560),
        ];
        for (size, len, count) in table {
            assert_eq!((piece_len(size), piece_count(size)), (len, count), "{size}");
        }
    }

    #[test]
    fn the_last_piece_is_never_empty() {
        for size in [1, MIB / 4, MIB / 4 + 1, 10 * MIB, 1024 * MIB, 1024 * MIB + 1] {
            let start = last_piece_start(size);
            assert!(start < size && size - start <= piece_len(size), "{size}");
        }
        assert_eq!(last_piece_start(0), 0);
    }
}
