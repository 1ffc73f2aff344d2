//! The name of an agent: an Ed25519 key in a file of its data directory.
//!
//! Invariants: the file is made once, whole, with mode 0600, and never written again; the private key leaves this module
//! only as signatures and inside rustls' own signer; whoever has the file *is* the agent, so a file that others can read
//! is refused instead of used.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::file::write_whole;
use crate::{Key, tls};

/// A key file is some 120 bytes; whatever is longer is something else.
const FILE_BYTES_MAX: u64 = 4096;

/// What every signed message begins with, so that a signature made here can never be taken for one of a TLS handshake
/// (which begins with spaces) or of another program that was given the same key.
const SIGNED_PREFIX: &[u8] = b"shoal signed message 1\0";

/// The key pair of an agent. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pair: Arc<Ed25519KeyPair>,
    /// The key as rustls wants it; one for the whole process.
    certified: Arc<CertifiedKey>,
    peer: Key,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", crate::short(&self.peer))
    }
}

/// Why there is no identity. All of these are for the operator; nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read, made or synced.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Others may read or change the key.
    #[error(
        "{} has mode {mode:04o}: users other than its owner and group may use this key; \
         run `chmod o-rwx` on it if it never left this machine, delete it to get a new one otherwise",
        path.display()
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key.
    #[error("{} is not an Ed25519 private key ({why}); delete it to get a new one", path.display())]
    Broken {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel gave no randomness.
    #[error("the kernel gives no random bytes to make a key of")]
    NoRandomness,
}

impl Identity {
    /// Reads the key at `path`, or makes one there if there is no such file. The directory must exist and belong to one
    /// process. The file is a PKCS#8 key in PEM, as `openssl genpkey -algorithm ed25519` makes it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        match read(path)? {
            Some(pem) => Self::from_pem(path, &pem),
            None => {
                let pem = new_pem()?;
                let identity = Self::from_pem(path, &pem)?;
                write_whole(path, &pem, 0o600).map_err(|source| IdentityError::Io {
                    action: "making",
                    path: path.into(),
                    source,
                })?;
                Ok(identity)
            }
        }
    }

    /// A key that is in no file, for tests and for whoever does not want to be recognised tomorrow.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Self::from_pem(Path::new("(memory)"), &new_pem()?)
    }

    /// The public key, which is the agent's name.
    pub fn peer(&self) -> Key {
        self.peer
    }

    /// Signs `message`. Check it with [`verify`].
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(&prefixed(message));
        let mut bytes = [0; 64];
        bytes.copy_from_slice(signature.as_ref());
        bytes
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    fn from_pem(path: &Path, pem: &[u8]) -> Result<Self, IdentityError> {
        let broken =
            |why: &dyn fmt::Display| IdentityError::Broken { path: path.into(), why: why.to_string() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|why| broken(&why))?;
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|why| broken(&why))?;
        let signer = rustls::crypto::ring::sign::any_eddsa_type(&der).map_err(|why| broken(&why))?;
        let mut peer = [0; 32];
        peer.copy_from_slice(pair.public_key().as_ref());
        let public = CertificateDer::from(tls::public_key_info(&peer));
        Ok(Self { pair: Arc::new(pair), certified: Arc::new(CertifiedKey::new(vec![public], signer)), peer })
    }
}

/// Whether `signature` was made by [`Identity::sign`] of `peer` over `message`.
pub fn verify(peer: &Key, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, peer).verify(&prefixed(message), signature).is_ok()
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, message].concat()
}

fn new_pem() -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::NoRandomness)?;
    let text = Zeroizing::new(STANDARD.encode(pkcs8.as_ref()));
    let mut pem = Zeroizing::new(Vec::with_capacity(256));
    pem.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// What is in the file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let failed = |source| IdentityError::Io { action: "reading", path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // The group may have it: Kubernetes gives the group of a pod access to all that is on its volumes (`fsGroup`).
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(IdentityError::Exposed { path: path.into(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory for the test")
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let directory = directory();
        let path = directory.path().join("identity.pem");
        let first = Identity::open(&path).expect("made");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let second = Identity::open(&path).expect("read");
        assert_eq!(first.peer(), second.peer());
        assert_ne!(first.peer(), Identity::ephemeral().unwrap().peer());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn what_a_crash_left_is_replaced() {
        let directory = directory();
        fs::write(directory.path().join("identity.new"), "half a k").unwrap();
        let path = directory.path().join("identity.pem");
        let peer = Identity::open(&path).expect("made").peer();
        assert_eq!(Identity::open(&path).expect("read").peer(), peer);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = directory();
        let path = directory.path().join("identity.pem");
        Identity::open(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::open(&path).expect_err("exposed");
        assert!(matches!(error, IdentityError::Exposed { mode: 0o644, .. }), "{error:?}");
        assert!(error.to_string().contains("identity.pem has mode 0644"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        Identity::open(&path).expect("the group may");
    }

    #[test]
    fn a_broken_file_is_named_and_kept() {
        let directory = directory();
        let path = directory.path().join("identity.pem");
        let p256 = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for content in ["", "garbage", p256] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identity::open(&path).expect_err("broken");
            assert!(matches!(error, IdentityError::Broken { .. }), "{error:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn signatures_are_of_one_peer_and_one_message() {
        let (one, other) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
        let signature = one.sign(b"hello");
        assert!(verify(&one.peer(), b"hello", &signature));
        assert!(!verify(&one.peer(), b"hallo", &signature));
        assert!(!verify(&other.peer(), b"hello", &signature));
        assert!(!verify(&one.peer(), b"hello", &signature[..63]));
        assert!(!verify(&[0xff; 32], b"hello", &signature), "not a point of the curve");
    }
}
