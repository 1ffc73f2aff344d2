//! Hashes of pieces, signed by the home of their blob.
//!
//! Question: who says what a piece has to be? Answer: the home, whoever brings its word; it signs with the key that is
//! its name. Prevents: a member that relays hashes and vouches for its own wrong bytes through members in between. The
//! engine holds no key: the driver [`seal`]s what its own node tells as a home on the way out, and [`check`]s what comes
//! in before the engine hears of it.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::{Entry, Message};
use crate::ids::{Algorithm, Digest};
use crate::peer::PeerId;

/// Sets these signatures apart from all others that are made with the key of a member.
const DOMAIN: &[u8] = b"shoal piece hashes 1\0";

/// An Ed25519 signature; zeros until [`seal`] has put it in.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

impl Default for Signature {
    fn default() -> Self {
        Signature([0; 64])
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// See [`Message::Hashes`]. Relays pass it on as it is, because a part of it would have no signature.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hashes {
    /// The blob.
    pub digest: Digest,
    /// Who keeps its book, and has signed this.
    pub home: PeerId,
    /// Which of the home's lists of this blob it belongs to: after [`Message::Restart`], what was signed before is void.
    pub list: u64,
    /// The hashes.
    pub entries: Vec<Entry>,
    /// Over [`signed_bytes`](Self::signed_bytes), with the key that `home` is.
    pub signature: Signature,
}

impl Hashes {
    /// What is signed: the domain, the digest's algorithm (0 SHA-256, 1 SHA-512) and hash, the list and the number of
    /// entries as 8 and 4 bytes, then of each entry the piece in 4 bytes and its hash. Little endian, pinned by tests.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DOMAIN.len() + 77 + 36 * self.entries.len());
        bytes.extend_from_slice(DOMAIN);
        bytes.push(match self.digest.algorithm() {
            Algorithm::Sha256 => 0,
            Algorithm::Sha512 => 1,
        });
        bytes.extend_from_slice(self.digest.hash());
        bytes.extend_from_slice(&self.list.to_le_bytes());
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for Entry { piece, hash } in &self.entries {
            bytes.extend_from_slice(&piece.to_le_bytes());
            bytes.extend_from_slice(&hash.0);
        }
        bytes
    }
}

/// The home did not sign this. Whoever sent it is at fault; the message is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hashes that {home:?} has not signed")]
pub struct Forged {
    /// Who is said to have.
    pub home: PeerId,
}

/// Signs a message on its way out of `me`, if it is one that `me` has to sign. The same hashes often go to many members
/// in a row, so a driver does well to remember its last signature.
pub fn seal(message: &mut Message, me: &PeerId, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
    if let Message::Hashes(hashes) = message
        && hashes.home == *me
    {
        let signature = Signature(sign(&hashes.signed_bytes()));
        Arc::make_mut(hashes).signature = signature;
    }
}

/// Whether a message that has come may be heard. `verify` is asked whether a signature of these bytes was made with the
/// key of a member, if there is one to look at.
pub fn check(
    message: &Message,
    verify: impl FnOnce(&PeerId, &[u8], &[u8; 64]) -> bool,
) -> Result<(), Forged> {
    match message {
        Message::Hashes(hashes) if !verify(&hashes.home, &hashes.signed_bytes(), &hashes.signature.0) => {
            Err(Forged { home: hashes.home })
        }
        _ => Ok(()),
    }
}
