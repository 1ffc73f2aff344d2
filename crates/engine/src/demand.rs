//! Demand: which bytes should be fetched next.
//!
//! Question: given what is there, what is on its way, and what readers want, where does the next upstream transfer of
//! a flight begin and end? Answer: at the oldest reader's next missing byte, unless a transfer will reach it soon;
//! then at the next reader's; then, when the whole blob is wanted, at the first gap. A transfer that runs towards the
//! new one's start is trimmed there, so no byte is fetched twice. Prevents: N tails of one blob for a client's N
//! open-ended ranges, and a jump of a gigabyte that waits for the gigabyte in between.

use std::ops::Range;

use crate::limits::{FOLLOW_BOUNDED_BYTES_MAX, FOLLOW_BYTES_MAX, TAIL_BYTES_MAX};
use crate::pieces::piece_len;
use crate::ranges::ByteRanges;

/// The part of a blob that a request wants; the blob's size may not be known yet (RFC 9110, section 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Part {
    /// All of it (no `Range`).
    Whole,
    /// `bytes=first-`.
    From(u64),
    /// `bytes=first-last`, both inclusive; `last` may lie beyond the end.
    Bounded(u64, u64),
    /// `bytes=-n`.
    Suffix(u64),
}

impl Part {
    /// The bytes meant, now that the size is known; `None` if the range cannot be satisfied.
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        match self {
            Part::Whole => Some(0..size),
            Part::From(first) => (first < size).then_some(first..size),
            Part::Bounded(first, last) => {
                (first < size && first <= last).then(|| first..size.min(last.saturating_add(1)))
            }
            Part::Suffix(n) => (n > 0 && size > 0).then(|| size.saturating_sub(n)..size),
        }
    }

    /// Whether a reader of this part may end up with the complete blob, so that all of it has to be fetched and
    /// verified before its last byte is handed out. Only short bounded ranges of something larger are exempt: a lazy
    /// reader that wants a footer must not wait for a gigabyte.
    pub fn wants_whole(self, size: u64) -> bool {
        let Some(range) = self.resolve(size) else { return false };
        match self {
            Part::Whole | Part::From(_) => true,
            Part::Bounded(..) | Part::Suffix(_) => {
                range == (0..size) || (range.end == size && range.end - range.start > TAIL_BYTES_MAX)
            }
        }
    }

    /// The bytes worth fetching for this part: whole pieces, and for a bounded range the piece behind it.
    pub fn worth_fetching(self, size: u64) -> Option<Range<u64>> {
        let range = self.resolve(size)?;
        let piece = piece_len(size);
        let read_ahead = match self {
            Part::Whole | Part::From(_) | Part::Suffix(_) => 0,
            Part::Bounded(..) => piece,
        };
        let end = range.end.saturating_add(read_ahead).div_ceil(piece).saturating_mul(piece).min(size);
        Some(range.start / piece * piece..end)
    }

    const fn follow_bytes_max(self) -> u64 {
        match self {
            Part::Whole | Part::From(_) => FOLLOW_BYTES_MAX,
            Part::Bounded(..) | Part::Suffix(_) => FOLLOW_BOUNDED_BYTES_MAX,
        }
    }
}

/// A running transfer: it will bring `frontier..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// First byte that has not arrived.
    pub frontier: u64,
    /// End, exclusive.
    pub end: u64,
}

/// A reader: where it is and what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// First byte that it has not got.
    pub at: u64,
    /// What it asked for.
    pub part: Part,
}

/// Borrowed view of a flight.
pub struct View<'a> {
    /// Size of the blob.
    pub size: u64,
    /// Bytes that are there.
    pub have: &'a ByteRanges,
    /// Transfers under way.
    pub running: &'a [Running],
    /// Readers, oldest first.
    pub readers: &'a [Reader],
    /// Whether all of the blob should come.
    pub whole_wanted: bool,
}

/// The next transfer to open.
pub fn next_fetch(view: &View<'_>) -> Option<Range<u64>> {
    view.readers.iter().find_map(|reader| for_reader(view, reader)).or_else(|| {
        let coming = coming(view);
        view.whole_wanted.then(|| coming.first_gap(0, view.size)).flatten()
    })
}

fn for_reader(view: &View<'_>, reader: &Reader) -> Option<Range<u64>> {
    let worth = reader.part.worth_fetching(view.size)?;
    let missing = view.have.first_gap(reader.at.max(worth.start), worth.end)?;
    // A first request inside a piece fetches the piece from its start: only whole pieces are remembered.
    let start = if missing.start == reader.at && reader.at < worth.start + piece_len(view.size) {
        view.have
            .first_gap(worth.start, missing.end)
            .map_or(missing.start, |gap| if gap.end >= missing.start { gap.start } else { missing.start })
    } else {
        missing.start
    };
    let follows = view.running.iter().any(|run| {
        run.frontier <= start && start < run.end && start - run.frontier <= reader.part.follow_bytes_max()
    });
    if follows {
        // What it waits for is coming; what lies behind that transfer's end may still be missing.
        return coming(view).first_gap(start, worth.end);
    }
    // Where a transfer has begun already the new one ends; a transfer that runs across `start` is trimmed instead.
    let end = view.running.iter().map(|r| r.frontier).filter(|f| *f > start).min().unwrap_or(missing.end);
    Some(start..missing.end.min(end))
}

/// What is there and what is on its way.
fn coming(view: &View<'_>) -> ByteRanges {
    let mut coming = view.have.clone();
    for run in view.running {
        coming.insert(run.frontier..run.end);
    }
    coming
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a table of sets of ranges; some have one")]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn parts_resolve_as_rfc_9110_says() {
        let table = [
            (Part::Whole, 100, Some(0..100)),
            (Part::Whole, 0, Some(0..0)),
            (Part::From(99), 100, Some(99..100)),
            (Part::From(100), 100, None),
            (Part::Bounded(10, 19), 100, Some(10..20)),
            (Part::Bounded(90, u64::MAX), 100, Some(90..100)),
            (Part::Bounded(20, 10), 100, None),
            (Part::Suffix(10), 100, Some(90..100)),
            (Part::Suffix(1000), 100, Some(0..100)),
            (Part::Suffix(0), 100, None),
            (Part::Suffix(1), 0, None),
        ];
        for (part, size, range) in table {
            assert_eq!(part.resolve(size), range, "{part:?} of {size}");
        }
    }

    #[test]
    fn who_may_end_up_with_the_complete_blob() {
        let table = [
            (Part::Whole, 0, true),
            (Part::Whole, GIB, true),
            (Part::From(GIB - 1), GIB, true),
            (Part::From(GIB), GIB, false),
            (Part::Suffix(50), GIB, false),
            (Part::Suffix(5 * MIB), GIB, true),
            (Part::Bounded(GIB - 50, GIB - 1), GIB, false),
            (Part::Bounded(0, GIB - 1), GIB, true),
            (Part::Bounded(0, GIB - 2), GIB, false),
            (Part::Bounded(0, MIB - 1), MIB, true),
            (Part::Bounded(1, MIB - 1), MIB, false),
            (Part::Suffix(MIB), MIB, true),
            (Part::Suffix(u64::MAX), 1, true),
            (Part::Bounded(MIB, MIB), MIB, false),
        ];
        for (part, size, whole) in table {
            assert_eq!(part.wants_whole(size), whole, "{part:?} of {size}");
        }
    }

    struct Case {
        name: &'static str,
        have: &'static [Range<u64>],
        running: &'static [(u64, u64)],
        readers: &'static [(u64, Part)],
        whole: bool,
        want: Option<Range<u64>>,
    }

    #[test]
    fn where_the_next_transfer_goes() {
        // A blob of 1 GiB has pieces of 1 MiB.
        const COLD: Case = Case { name: "", have: &[], running: &[], readers: &[], whole: false, want: None };
        let table = [
            Case { name: "nobody wants anything", ..COLD },
            Case {
                name: "a plain pull",
                readers: &[(0, Part::Whole)],
                whole: true,
                want: Some(0..GIB),
                ..COLD
            },
            Case { name: "a prefetch", whole: true, want: Some(0..GIB), ..COLD },
            Case {
                name: "the transfer under way is enough",
                running: &[(5 * MIB, GIB)],
                have: &[0..5 * MIB],
                readers: &[(5 * MIB, Part::Whole)],
                whole: true,
                ..COLD
            },
            Case {
                name: "containerd's parallel tails follow one transfer",
                running: &[(MIB, GIB)],
                have: &[0..MIB],
                readers: &[
                    (MIB, Part::From(0)),
                    (8 * MIB, Part::From(8 * MIB)),
                    (24 * MIB, Part::From(24 * MIB)),
                ],
                whole: true,
                ..COLD
            },
            Case {
                name: "a jump far ahead gets its own",
                running: &[(MIB, GIB)],
                have: &[0..MIB],
                readers: &[(900 * MIB, Part::From(900 * MIB))],
                whole: true,
                want: Some(900 * MIB..GIB),
            },
            Case {
                name: "the gap before a jump is filled as well",
                running: &[(901 * MIB, GIB)],
                have: &[900 * MIB..901 * MIB],
                readers: &[(901 * MIB, Part::From(900 * MIB))],
                whole: true,
                want: Some(0..900 * MIB),
            },
            Case {
                name: "a bounded range takes whole pieces and one more",
                readers: &[(10 * MIB + 5, Part::Bounded(10 * MIB + 5, 10 * MIB + 9))],
                want: Some(10 * MIB..12 * MIB),
                ..COLD
            },
            Case {
                name: "a footer takes its pieces only",
                readers: &[(GIB - 50, Part::Suffix(50))],
                want: Some(GIB - MIB..GIB),
                ..COLD
            },
            Case {
                name: "a bounded range does not wait for a far transfer",
                running: &[(0, GIB)],
                readers: &[(100 * MIB, Part::Bounded(100 * MIB, 100 * MIB))],
                whole: true,
                want: Some(100 * MIB..102 * MIB),
                ..COLD
            },
            Case {
                name: "what is on disk is not fetched again",
                have: &[0..700 * MIB],
                readers: &[(700 * MIB, Part::From(3 * MIB))],
                whole: true,
                want: Some(700 * MIB..GIB),
                ..COLD
            },
            Case {
                name: "after a break it goes on at the byte reached",
                have: &[0..10 * MIB + 77],
                readers: &[(10 * MIB + 77, Part::Whole)],
                whole: true,
                want: Some(10 * MIB + 77..GIB),
                ..COLD
            },
        ];
        for case in table {
            let have = case.have.iter().cloned().collect();
            let running: Vec<_> =
                case.running.iter().map(|&(frontier, end)| Running { frontier, end }).collect();
            let readers: Vec<_> = case.readers.iter().map(|&(at, part)| Reader { at, part }).collect();
            let view = View {
                size: GIB,
                have: &have,
                running: &running,
                readers: &readers,
                whole_wanted: case.whole,
            };
            assert_eq!(next_fetch(&view), case.want, "{}", case.name);
        }
    }
}
