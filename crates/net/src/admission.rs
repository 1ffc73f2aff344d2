//! Who belongs to the cluster: whoever knows its secret.
//!
//! The secret itself is never sent. An agent shows `HMAC-SHA256(secret, label || its public key)`, which is worth
//! nothing to anybody else: it is only accepted on a connection whose other end has proved, by TLS, to have that key.
//!
//! A secret is replaced in three steps, each finished on all agents before the next: `[old, new]`, `[new, old]`, `[new]`.
//! The first is shown, each is accepted.

use std::fmt;

use ring::hmac;
use zeroize::Zeroizing;

use crate::Key;

/// Separates these proofs from whatever else is made with the same secret.
const LABEL: &[u8] = b"shoal admission proof 1\0";

/// A shorter secret could be guessed from one proof that was overheard. 16 random bytes cannot.
pub const SECRET_BYTES_MIN: usize = 16;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// One secret of a cluster. Wiped when it is dropped; has no text form.
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why some bytes are no secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is nothing in it.
    #[error("the secret is empty; make one with `openssl rand -hex 32`")]
    Empty,
    /// It could be guessed.
    #[error(
        "the secret has {bytes} bytes, fewer than {SECRET_BYTES_MIN}: it could be guessed; \
         make one with `openssl rand -hex 32`"
    )]
    TooShort {
        /// How many it has, without a line end.
        bytes: usize,
    },
}

/// The secrets of a cluster: shows one, accepts one or two.
pub struct Admission {
    first: Secret,
    other: Option<Secret>,
}

impl Secret {
    /// The secret in the content of a file. One line end after it is not part of it.
    pub fn new(content: &[u8]) -> Result<Self, SecretError> {
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        match content.len() {
            0 => Err(SecretError::Empty),
            bytes if bytes < SECRET_BYTES_MIN => Err(SecretError::TooShort { bytes }),
            _ => Ok(Self(Zeroizing::new(content.to_vec()))),
        }
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.other.is_some() { "Admission(two secrets)" } else { "Admission(one secret)" })
    }
}

impl Admission {
    /// Shows `first`, accepts both.
    pub fn new(first: Secret, other: Option<Secret>) -> Self {
        Self { first, other }
    }

    /// What `peer` shows to prove that it belongs here, as 64 hex digits (for an HTTP header).
    pub fn proof(&self, peer: &Key) -> String {
        crate::hex(&self.proof_bytes(peer))
    }

    /// Whether `proof` (64 hex digits) shows that `peer` belongs here. `peer` must be the key that the other end of the
    /// connection has shown by TLS ([`peer_of`](crate::peer_of)), never one that it merely names.
    pub fn admits(&self, peer: &Key, proof: &str) -> bool {
        crate::unhex(proof).is_some_and(|bytes| self.admits_bytes(peer, &bytes))
    }

    pub(crate) fn proof_bytes(&self, peer: &Key) -> [u8; PROOF_BYTES] {
        let mut bytes = [0; PROOF_BYTES];
        bytes.copy_from_slice(hmac::sign(&self.first.key(), &labelled(peer)).as_ref());
        bytes
    }

    /// Compares in constant time.
    pub(crate) fn admits_bytes(&self, peer: &Key, proof: &[u8]) -> bool {
        let message = labelled(peer);
        let by = |secret: &Secret| hmac::verify(&secret.key(), &message, proof).is_ok();
        by(&self.first) | self.other.as_ref().is_some_and(by)
    }
}

fn labelled(peer: &Key) -> Vec<u8> {
    [LABEL, peer].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = b"the old secret of the cluster\n";
    const NEW: &[u8] = b"the new secret of the cluster\r\n";

    fn admission(first: &[u8], other: Option<&[u8]>) -> Admission {
        Admission::new(Secret::new(first).unwrap(), other.map(|other| Secret::new(other).unwrap()))
    }

    #[test]
    fn a_proof_is_of_one_peer_and_one_secret() {
        let (old, new) = (admission(OLD, None), admission(NEW, None));
        let proof = old.proof(&[1; 32]);
        assert!(old.admits(&[1; 32], &proof));
        assert!(!old.admits(&[2; 32], &proof), "of another peer");
        assert!(!new.admits(&[1; 32], &proof), "of another cluster");
        for wrong in ["", "00", &proof[..62], &format!("{proof}00"), &"0".repeat(64), &"é".repeat(32)] {
            assert!(!old.admits(&[1; 32], wrong), "{wrong}");
        }
    }

    #[test]
    fn the_proof_is_what_it_was() {
        let proof = admission(b"0123456789abcdef", None).proof(&[7; 32]);
        assert_eq!(proof, GOLDEN);
    }

    /// Of all agents of a cluster, whatever their version.
    const GOLDEN: &str = "5e258dc2204f80e342163e4f5ca8ade71f3678cb8c53517d2ed78ea37746aa58";

    #[test]
    fn each_step_of_a_rotation_understands_its_neighbours() {
        let steps = [
            admission(OLD, None),
            admission(OLD, Some(NEW)),
            admission(NEW, Some(OLD)),
            admission(NEW, None),
        ];
        for pair in steps.windows(2) {
            assert!(pair[0].admits(&[1; 32], &pair[1].proof(&[1; 32])));
            assert!(pair[1].admits(&[1; 32], &pair[0].proof(&[1; 32])));
        }
        assert!(
            !steps[3].admits(&[1; 32], &steps[0].proof(&[1; 32])),
            "the old one is worth nothing at the end"
        );
    }

    #[test]
    fn a_secret_is_long_enough_and_shown_nowhere() {
        assert_eq!(Secret::new(b"\n").unwrap_err(), SecretError::Empty);
        assert_eq!(Secret::new(b"fifteen bytes..\n").unwrap_err(), SecretError::TooShort { bytes: 15 });
        let secret = Secret::new(b"sixteen bytes...\n").expect("long enough");
        assert!(!format!("{secret:?}").contains("sixteen"));
        let admission = Admission::new(secret, None);
        assert_eq!(format!("{admission:?}"), "Admission(one secret)");
    }
}
