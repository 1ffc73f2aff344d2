//! Sizes, rates and durations as a person writes them.
//!
//! Invariant: a rate and a duration always carry their unit; a plain number is refused, because bits and bytes, seconds
//! and milliseconds are a factor apart that no run would show.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Bytes: `"1GiB"`, `"1.5GB"`, or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Bytes per second: `"10Gbit/s"`, `"300MB/s"`, or `"unlimited"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

/// Seconds: `"100us"`, `"5ms"`, `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Period(pub f64);

/// What a zone's uplink carries: a [`Rate`], or `"10:1"`: a tenth of what the links of the zone's nodes carry together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Uplink {
    /// As much as this.
    Rate(Rate),
    /// The sum of the zone's links divided by this.
    Oversubscribed(f64),
}

/// When clients begin: `"together"`, or evenly at random within a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// All at time 0.
    Together,
    /// Each at a random moment before this.
    Within(Period),
}

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse::<ByteSize>().map(|size| Size(size.as_u64())).map_err(|_| ())
    }
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "unlimited" {
            return Ok(Rate(f64::INFINITY));
        }
        let amount = text.trim().strip_suffix("/s").ok_or(())?.trim_end();
        let (amount, bits) = match amount.strip_suffix("bit") {
            Some(amount) => (format!("{amount}B"), 8.0),
            None if amount.ends_with('B') => (amount.to_owned(), 1.0),
            None => return Err(()),
        };
        let size: ByteSize = amount.parse().map_err(|_| ())?;
        Ok(Rate(size.as_u64() as f64 / bits))
    }
}

impl FromStr for Period {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        humantime::parse_duration(text).map(|period| Period(period.as_secs_f64())).map_err(|_| ())
    }
}

impl FromStr for Uplink {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None => text.parse().map(Uplink::Rate),
            Some((many, "1")) => {
                let ratio: f64 = many.parse().map_err(|_| ())?;
                if ratio.is_finite() && ratio > 0.0 { Ok(Uplink::Oversubscribed(ratio)) } else { Err(()) }
            }
            Some(_) => Err(()),
        }
    }
}

impl FromStr for Start {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "together" { Ok(Start::Together) } else { text.parse().map(Start::Within) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [(&str, u64); 3] =
            [("GiB", bytesize::GIB), ("MiB", bytesize::MIB), ("KiB", bytesize::KIB)];
        const DECIMAL: [(&str, u64); 4] =
            [("TB", bytesize::TB), ("GB", bytesize::GB), ("MB", bytesize::MB), ("kB", bytesize::KB)];
        // Whoever meant binary units has written a round number of them.
        let binary = BINARY.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        if let Some((name, unit)) = binary.filter(|(_, unit)| self.0 / unit < 10_000) {
            return write!(f, "{}{name}", self.0 / unit);
        }
        match DECIMAL.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => {
                write!(f, "{}{name}", (self.0 as f64 / *unit as f64 * 100.0).round() / 100.0)
            }
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, f64); 4] = [("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)];
        if self.0.is_infinite() {
            return f.write_str("unlimited");
        }
        let gbits = self.0 * 8.0 / 1e9;
        if gbits >= 1.0 && (gbits * 2.0).fract() == 0.0 {
            return write!(f, "{gbits}Gbit/s");
        }
        let (name, unit) = UNITS.iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", (self.0 / unit * 100.0).round() / 100.0)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = std::time::Duration::from_nanos((self.0 * 1e9).round() as u64);
        fmt::Display::fmt(&humantime::format_duration(nanos), f)
    }
}

/// A quantity that a file gives as a text.
macro_rules! read_from_text {
    ($($type:ty: $expected:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl Visitor<'_> for Reader {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(|()| E::invalid_value(Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Reader)
            }
        }
    )*};
}

read_from_text! {
    Rate: "a rate such as \"10Gbit/s\", \"300MB/s\" or \"unlimited\"";
    Period: "a duration with its unit, such as \"5ms\" or \"1m 30s\"";
    Uplink: "a rate such as \"40Gbit/s\", an oversubscription such as \"10:1\", or \"unlimited\"";
    Start: "\"together\" or a duration such as \"10s\"";
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"1GiB\", \"1.5GB\" or a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(|()| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::{Period, Rate, Size, Start, Uplink};

    #[test]
    fn rates() {
        let table = [
            ("10Gbit/s", Some((1.25e9, "10Gbit/s"))),
            ("2.5Gbit/s", Some((312.5e6, "2.5Gbit/s"))),
            ("100 Mbit/s", Some((12.5e6, "12.5MB/s"))),
            ("300MB/s", Some((300e6, "300MB/s"))),
            ("1GiB/s", Some((1_073_741_824.0, "1.07GB/s"))),
            ("unlimited", Some((f64::INFINITY, "unlimited"))),
            ("10Gbit", None),
            ("10G/s", None),
            ("fast", None),
            ("300", None),
        ];
        for (text, expected) in table {
            let found = text.parse::<Rate>().ok().map(|rate| (rate.0, rate.to_string()));
            assert_eq!(found, expected.map(|(rate, shown)| (rate, shown.to_owned())), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("1GiB", 1 << 30, "1GiB"),
            ("1.5GB", 1_500_000_000, "1.5GB"),
            ("100 MiB", 100 << 20, "100MiB"),
            ("0.5GB", 500_000_000, "500MB"),
            ("1kB", 1000, "1kB"),
            ("1234567", 1_234_567, "1.23MB"),
            ("12", 12, "12B"),
        ];
        for (text, bytes, shown) in table {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
    }

    #[test]
    fn periods_uplinks_and_starts() {
        assert_eq!("0.1ms".parse(), Ok(Period(0.0001)));
        assert_eq!("1m 30s".parse(), Ok(Period(90.0)));
        assert_eq!("5".parse::<Period>(), Err(()));
        assert_eq!(Period(0.0201).to_string(), "20ms 100us");
        assert_eq!("10:1".parse(), Ok(Uplink::Oversubscribed(10.0)));
        assert_eq!("8Gbit/s".parse(), Ok(Uplink::Rate(Rate(1e9))));
        for wrong in ["0:1", "-3:1", "1:10", "x:1", "inf:1"] {
            assert_eq!(wrong.parse::<Uplink>(), Err(()), "{wrong}");
        }
        assert_eq!("together".parse(), Ok(Start::Together));
        assert_eq!("10s".parse(), Ok(Start::Within(Period(10.0))));
    }
}
