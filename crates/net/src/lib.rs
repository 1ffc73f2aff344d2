//! The network below shoal: names that cannot be forged, admission by a shared secret, TLS between agents, small framed
//! messages, and finding the others.
//!
//! This crate does *not* know what is in a frame, who is a member, or what anybody is told: peers are 32 opaque bytes
//! (their Ed25519 public keys), and every decision but "does this one know the secret" is the caller's. No type of libp2p
//! appears in its interface.
//!
//! # How two agents talk
//! ```text
//! TCP -> TLS 1.3 (raw Ed25519 keys, both sides) -> yamux -> one stream "/shoal/control/1" -> frames both ways
//! ```
//! The first frame of each side is its proof of admission (see [`Admission`]); the side that dialed speaks first, and the
//! other one answers only to a proof that holds. Whoever does not prove itself in time learns nothing but that there
//! is a TLS server with a key. There is one such connection for each pair of agents, whoever dialed it. The parts that
//! move pieces have connections of their own and use [`server_tls`], [`client_tls`] and [`peer_of`] for them.
//!
//! # Format of a frame
//! Length as `u32`, little endian, then so many bytes: 1 to [`FRAME_BYTES_MAX`]. Length 0 says that its sender will send
//! no more on this connection (it has too many): whoever reads it answers likewise, nothing is lost, and the next frame
//! makes a new connection.
//!
//! # Bounds
//! Every queue, table and wait has a limit, named where it applies. A peer that reads too slowly loses the oldest of its
//! [lossy](Class::Lossy) frames, then its connection; never our memory.

mod admission;
pub mod discovery;
mod file;
mod identity;
mod net;
mod tls;

pub use admission::{Admission, SECRET_BYTES_MIN, Secret, SecretError};
pub use file::write_whole;
pub use identity::{Identity, IdentityError, verify};
pub use net::{
    Class, FRAME_BYTES_MAX, Loss, Net, NetConfig, NetError, NetEvent, NetHandle, NetLimits, Refusal,
    SendError, probe_when_idle,
};
pub use tls::{PeerOfError, client_tls, peer_of, server_tls};

/// Name of a peer: its Ed25519 public key.
pub type Key = [u8; 32];

/// The first bytes of a name, for people.
fn short(peer: &Key) -> String {
    hex(&peer[..6])
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A peer's key from its name as people see it: 64 hex digits.
pub fn key_of(name: &str) -> Option<Key> {
    unhex(name)
}

/// 32 bytes of 64 hex digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
