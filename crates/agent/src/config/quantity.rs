//! Sizes and durations as a person writes them.
//!
//! Invariant: what is written out reads back as the same value; a size is never rounded for display.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes: `"64KiB"`, `"1.5GB"`, or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A duration: `"25s"`, `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Bytes per second: `"100MB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl Period {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Period(Duration::from_secs(seconds))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 7] = [
            ("TiB", bytesize::TIB),
            ("TB", bytesize::TB),
            ("GiB", bytesize::GIB),
            ("GB", bytesize::GB),
            ("MiB", bytesize::MIB),
            ("MB", bytesize::MB),
            ("KiB", bytesize::KIB),
        ];
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: Option<ByteSize> = text.trim().strip_suffix("/s").and_then(|size| size.parse().ok());
        size.map(|size| Rate(size.as_u64()))
            .ok_or_else(|| format!("`{text}` is no rate; write one such as \"100MB/s\" or \"1GiB/s\""))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\", \"100GB\" or a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                let size: Result<ByteSize, _> = text.parse();
                size.map(|size| Size(size.as_u64()))
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"25s\" or \"1m 30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                let duration = humantime::parse_duration(text);
                duration.map(Period).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Period, Rate, Size};
    use std::time::Duration;

    #[test]
    fn sizes() {
        let table = [
            (r#""64KiB""#, Some((64 << 10, "64KiB"))),
            (r#""100 GB""#, Some((100_000_000_000, "100GB"))),
            (r#""1.5GiB""#, Some((3 << 29, "1536MiB"))),
            ("1000", Some((1000, "1000B"))),
            ("0", Some((0, "0B"))),
            (r#""lots""#, None),
            ("-1", None),
            ("true", None),
        ];
        for (text, expected) in table {
            let size: Result<Size, _> = serde_json::from_str(text);
            assert_eq!(
                size.ok().map(|size| (size.0, size.to_string())),
                expected.map(|(n, s)| (n, s.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn periods() {
        let table = [
            (r#""25s""#, Some((25_000, "25s"))),
            (r#""1m 30s""#, Some((90_000, "1m 30s"))),
            (r#""1500ms""#, Some((1500, "1s 500ms"))),
            (r#""0s""#, Some((0, "0s"))),
            (r#""25""#, None),
            ("25", None),
            (r#""soon""#, None),
        ];
        for (text, expected) in table {
            let period: Result<Period, _> = serde_json::from_str(text);
            let found = period.ok().map(|period| (period.0.as_millis(), period.to_string()));
            assert_eq!(found, expected.map(|(n, s)| (n, s.to_owned())), "{text}");
        }
    }

    #[test]
    fn rates() {
        let table = [
            (r#""100MB/s""#, Some((100_000_000, "100MB/s"))),
            (r#""1 GiB/s""#, Some((1 << 30, "1GiB/s"))),
            (r#""100MB""#, None),
            (r#""100Mbit/s""#, None),
            ("100", None),
        ];
        for (text, expected) in table {
            let rate: Result<Rate, _> = serde_json::from_str(text);
            let found = rate.ok().map(|rate| (rate.0, rate.to_string()));
            assert_eq!(found, expected.map(|(n, s)| (n, s.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in 0_u64..1 << 52, millis in 0_u64..1 << 40) {
            let (size, period) = (Size(bytes), Period(Duration::from_millis(millis)));
            let texts = (serde_json::to_string(&size).unwrap(), serde_json::to_string(&period).unwrap());
            prop_assert_eq!(serde_json::from_str::<Size>(&texts.0).unwrap(), size);
            prop_assert_eq!(serde_json::from_str::<Period>(&texts.1).unwrap(), period);
        }
    }
}
