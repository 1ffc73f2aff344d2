//! Digests and the small numbers that name things inside one engine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Hash algorithm of a [`Digest`]. The two that the OCI image specification registers ("Digests", image-spec
/// `descriptor.md`); any other is refused where it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Name as it stands before the colon of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a blob: algorithm and hash of all its bytes. Lower-case hexadecimal in text, as the OCI specification
/// demands; compared and ordered by algorithm, then by hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // Bytes past `algorithm.hash_len()` are zero, so that the derived comparisons are right.
    hash: [u8; 64],
}

/// Why a text is not a digest. The request that carried it is at fault; asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `:` between algorithm and hash.
    #[error("a digest is written <algorithm>:<hex>, for example sha256:<64 hex digits>")]
    NoAlgorithm,
    /// The algorithm is not one of the registered ones.
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    UnknownAlgorithm(String),
    /// The hash has the wrong number of digits.
    #[error("a {algorithm} digest has {expected} hex digits, this one has {found}")]
    WrongLength {
        /// Algorithm named before the colon.
        algorithm: Algorithm,
        /// Digits that this algorithm's hash has.
        expected: usize,
        /// Digits that were there.
        found: usize,
    },
    /// A character is not a lower-case hexadecimal digit.
    #[error("a digest has lower-case hex digits only, {0:?} is none")]
    NotHex(char),
}

impl Digest {
    /// A digest from the raw hash.
    ///
    /// # Panics
    /// If `hash` does not have the algorithm's length: that is a mistake of the caller, never of the network.
    pub fn new(algorithm: Algorithm, hash: &[u8]) -> Self {
        assert_eq!(hash.len(), algorithm.hash_len(), "hash length of {algorithm}");
        let mut full = [0; 64];
        full[..hash.len()].copy_from_slice(hash);
        Digest { algorithm, hash: full }
    }

    /// Which hash function names the blob.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash: 32 or 64 bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.hash_len()]
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut text = String::with_capacity(2 * self.algorithm.hash_len());
        for byte in self.hash() {
            write!(text, "{byte:02x}").expect("a String takes all that is written");
        }
        text
    }

    /// `sha256:` and the first twelve digits: enough for a person to tell two blobs apart in a table or a log.
    pub fn short(&self) -> String {
        format!("{}:{}", self.algorithm, &self.hex()[..12])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm)?;
        for byte in self.hash() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::UnknownAlgorithm(other.chars().take(32).collect())),
        };
        let expected = 2 * algorithm.hash_len();
        if hex.len() != expected {
            return Err(DigestError::WrongLength { algorithm, expected, found: hex.len() });
        }
        let mut hash = [0; 64];
        for (at, pair) in hex.as_bytes().chunks_exact(2).enumerate() {
            hash[at] = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest { algorithm, hash })
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        other => Err(DigestError::NotHex(char::from(other))),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One client request that waits for a byte range of a blob. Given out by the driver, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct TicketId(pub u64);

/// One transfer from upstream. Given out by the engine, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct FetchId(pub u64);

/// A set of blobs that members shall have. Given out by whoever asks for it: the same for the same blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct WarmSetId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_written_as_it_was_read() {
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        for text in [EMPTY, sha512.as_str()] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_digest_is_refused_with_its_reason() {
        let algorithm = Algorithm::Sha256;
        let table = [
            ("", DigestError::NoAlgorithm),
            ("sha256", DigestError::NoAlgorithm),
            ("md5:00", DigestError::UnknownAlgorithm("md5".into())),
            ("SHA256:00", DigestError::UnknownAlgorithm("SHA256".into())),
            ("sha256:baddigeststring", DigestError::WrongLength { algorithm, expected: 64, found: 15 }),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), DigestError::NotHex('E')),
            (&format!("sha256:{}", "é".repeat(32)), DigestError::NotHex('Ã')),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Digest>().unwrap_err(), error, "{text}");
        }
    }
}
