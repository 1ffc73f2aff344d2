//! Which part of a representation a `Range` header asks for.
//!
//! The size of a blob is often not known when the header arrives, so a header is first read without it
//! ([`Wanted`]) and resolved later ([`Part::resolve`]). Read by `http-range-header`: the typed header of the `headers` crate gives
//! ranges away only against a known size, and drops the wrong ones in silence.
//!
//! What is no range is ignored, as RFC 9110 section 14.2 asks for; a range that can never hold a byte (`500-0`,
//! `-0`) is unsatisfiable whatever the size.

use std::ops::Range;

use http::{HeaderMap, header};
use http_range_header::{EndPosition, RangeUnsatisfiableError, StartPosition, parse_range_header};

use crate::node::Part;

/// Most parts of one `multipart/byteranges` answer; more are answered with the whole representation. The largest
/// request known is that of a partial pull by containers/storage, which asks for up to 1024 chunks at once.
pub const PARTS_MAX: usize = 1024;
/// Longest `Range` header that is read, bytes: [`PARTS_MAX`] ranges of two twenty-digit numbers.
pub const RANGE_BYTES_MAX: usize = PARTS_MAX * 44;

/// What a request wants of a representation whose size may not be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, as a 200.
    Whole,
    /// One range.
    One(Part),
    /// Several ranges, at least two, in the order they were asked in.
    Several(Vec<Part>),
    /// Nothing that any representation has.
    Nothing,
}

/// Reads the `Range` header of a GET. Several header lines are no range, as the field is not a list.
pub fn wanted(headers: &HeaderMap) -> Wanted {
    let mut lines = headers.get_all(header::RANGE).iter();
    match (lines.next().map(|line| line.to_str()), lines.next()) {
        (Some(Ok(text)), None) => parse(text),
        _ => Wanted::Whole,
    }
}

/// Reads the value of a `Range` header.
pub fn parse(text: &str) -> Wanted {
    if text.len() > RANGE_BYTES_MAX {
        return Wanted::Whole;
    }
    let parsed = match parse_range_header(text) {
        Ok(parsed) => parsed,
        Err(RangeUnsatisfiableError::ZeroSuffix) => return Wanted::Nothing,
        Err(_) => return Wanted::Whole,
    };
    let part = |range: &http_range_header::SyntacticallyCorrectRange| match (range.start, range.end) {
        (StartPosition::FromLast(n), _) => Some(Part::Suffix(n)),
        (StartPosition::Index(first), EndPosition::LastByte) => Some(Part::From(first)),
        (StartPosition::Index(first), EndPosition::Index(last)) => {
            (first <= last).then_some(Part::Bounded(first, last))
        }
    };
    match parsed.ranges.iter().map(part).collect::<Option<Vec<_>>>() {
        None => Wanted::Nothing,
        Some(parts) if parts.len() > PARTS_MAX => Wanted::Whole,
        Some(parts) => match parts.as_slice() {
            [part] => Wanted::One(*part),
            _ => Wanted::Several(parts),
        },
    }
}

/// What several ranges come to, once the size is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// They overlap so much that the whole is less to send.
    Whole,
    /// All but one lie outside.
    One(Range<u64>),
    /// These.
    Several(Vec<Range<u64>>),
    /// All lie outside.
    Nothing,
}

/// Resolves several ranges. Those that lie outside are left out (RFC 9110 section 14.2); the rest keep their order
/// and are not merged, because containers/image wants as many parts back as it asked for.
pub fn resolve_several(parts: &[Part], size: u64) -> Resolved {
    let mut ranges: Vec<_> = parts.iter().filter_map(|part| part.resolve(size)).collect();
    let total = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.end - range.start));
    match ranges.len() {
        0 => Resolved::Nothing,
        1 => Resolved::One(ranges.remove(0)),
        _ if total > size => Resolved::Whole,
        _ => Resolved::Several(ranges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_wants() {
        use Wanted::{Nothing, One, Several, Whole};
        let table = [
            ("bytes=0-", One(Part::From(0))),
            ("bytes=500-1499", One(Part::Bounded(500, 1499))),
            ("bytes=0-0", One(Part::Bounded(0, 0))),
            ("bytes=-500", One(Part::Suffix(500))),
            ("bytes=0-1,5-9", Several(vec![Part::Bounded(0, 1), Part::Bounded(5, 9)])),
            ("bytes=5-9, 0-1, -3", Several(vec![Part::Bounded(5, 9), Part::Bounded(0, 1), Part::Suffix(3)])),
            ("bytes=0-18446744073709551615", One(Part::Bounded(0, u64::MAX))),
            ("bytes=500-0", Nothing),
            ("bytes=0-1,500-0", Nothing),
            ("bytes=-0", Nothing),
            ("", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=1", Whole),
            ("bytes=1-2-3", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=0-1,x", Whole),
            ("bytes=99999999999999999999-", Whole),
            ("items=0-1", Whole),
            ("bytes 0-1/5", Whole),
        ];
        for (text, want) in table {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn too_many_parts_are_the_whole() {
        let header = |n: usize| format!("bytes={}", vec!["0-0"; n].join(","));
        assert!(matches!(parse(&header(PARTS_MAX)), Wanted::Several(parts) if parts.len() == PARTS_MAX));
        assert_eq!(parse(&header(PARTS_MAX + 1)), Wanted::Whole);
        assert_eq!(parse(&format!("bytes=0-{}", "1".repeat(RANGE_BYTES_MAX))), Wanted::Whole);
    }

    #[test]
    fn two_range_lines_are_no_range() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(wanted(&headers), Wanted::One(Part::Bounded(0, 1)));
        headers.append(header::RANGE, "bytes=2-3".parse().unwrap());
        assert_eq!(wanted(&headers), Wanted::Whole);
    }

    #[test]
    fn several_parts_keep_their_order_unless_they_are_more_than_the_whole() {
        let table = [
            (vec![Part::Bounded(5, 9), Part::Bounded(0, 1)], Resolved::Several(vec![5..10, 0..2])),
            (vec![Part::Bounded(0, 1), Part::Bounded(1, 2)], Resolved::Several(vec![0..2, 1..3])),
            (vec![Part::Bounded(0, 1), Part::From(50)], Resolved::One(0..2)),
            (vec![Part::From(10), Part::From(50)], Resolved::Nothing),
            (vec![Part::From(0), Part::From(1)], Resolved::Whole),
        ];
        for (parts, want) in table {
            assert_eq!(resolve_several(&parts, 10), want, "{parts:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(text in "(bytes=)?[0-9,\\- ]{0,40}", size in 0u64..1000) {
            match parse(&text) {
                Wanted::One(part) => {
                    if let Some(range) = part.resolve(size) {
                        proptest::prop_assert!(range.start < range.end && range.end <= size);
                    }
                }
                Wanted::Several(parts) => if let Resolved::Several(ranges) = resolve_several(&parts, size) {
                    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                    proptest::prop_assert!(ranges.len() >= 2 && total <= size);
                },
                Wanted::Whole | Wanted::Nothing => {}
            }
        }

        #[test]
        fn a_range_reads_back_as_it_was_written(first in 0u64..1 << 40, len in 1u64..1 << 30) {
            let last = first + len - 1;
            proptest::prop_assert_eq!(parse(&format!("bytes={first}-{last}")), Wanted::One(Part::Bounded(first, last)));
            proptest::prop_assert_eq!(parse(&format!("bytes={first}-")), Wanted::One(Part::From(first)));
            proptest::prop_assert_eq!(Part::Bounded(first, last).resolve(u64::MAX), Some(first..first + len));
        }
    }
}
