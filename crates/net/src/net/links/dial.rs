//! When a peer is dialed, and what becomes of it when that fails.

use std::io;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Instant;

use libp2p_swarm::behaviour::DialFailure;
use libp2p_swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p_swarm::{DialError, ToSwarm};
use rand::Rng;

use super::behaviour::Denied;
use super::{Action, Dial, Links};
use crate::Key;
use crate::net::transport::Ourselves;
use crate::net::{Loss, NetEvent, address};

/// Addresses of one peer that are tried at the same time.
const ADDRESSES_AT_ONCE: NonZeroU8 = NonZeroU8::new(4).expect("not zero");

impl Links {
    /// Something waits for `key` and no connection takes it.
    pub(super) fn connect(&mut self, key: Key) {
        let now = Instant::now();
        let peer = self.peer(key);
        // What is there, or comes, takes what waits; when it fails this is asked again.
        if peer.link.is_some() || peer.connections > 0 || peer.dial != Dial::No {
            return;
        }
        peer.dial = Dial::Waiting;
        let not_before = peer.not_before;
        if now < not_before {
            self.pauses.insert((not_before, key));
        } else {
            self.ready.push_back(key);
        }
        self.wake();
    }

    /// The next attempt at `key` comes later than the last.
    pub(super) fn pause(&mut self, key: Key) {
        let (first, longest) = (self.limits.backoff_max / 100, self.limits.backoff_max);
        let peer = self.peer(key);
        let pause = first.saturating_mul(1 << peer.failures.min(10)).min(longest);
        peer.failures = peer.failures.saturating_add(1);
        peer.not_before = Instant::now() + pause.mul_f64(rand::rng().random_range(0.5..1.0));
    }

    pub(super) fn next_dial(&mut self) -> Option<Action> {
        while self.dials < self.limits.dials_max {
            // Peers and unknown addresses take turns, so that many dead ones of one kind do not delay the other.
            let contact = if self.dials.is_multiple_of(2) || self.ready.is_empty() {
                self.contacts.pop_front()
            } else {
                None
            };
            if let Some(contact) = contact {
                let options = DialOpts::unknown_peer_id()
                    .address(address::multiaddr(contact))
                    .allocate_new_port()
                    .build();
                self.contacting.insert(options.connection_id(), contact);
                self.dials += 1;
                return Some(ToSwarm::Dial { opts: options });
            }
            let key = self.ready.pop_front()?;
            let post = Arc::clone(&self.post);
            let peer = self.peer(key);
            peer.dial = Dial::No;
            if peer.link.is_some() || peer.connections > 0 || post.is_empty(&key) {
                continue;
            }
            let addresses: Vec<_> = post.addresses(&key).into_iter().map(address::multiaddr).collect();
            if addresses.is_empty() {
                self.lose(key, Loss::Unreachable("no address of it is known".into()));
                continue;
            }
            let options = DialOpts::peer_id(address::peer_id(&key))
                .condition(PeerCondition::Always)
                .addresses(addresses)
                .override_dial_concurrency_factor(ADDRESSES_AT_ONCE)
                .allocate_new_port()
                .build();
            peer.dial = Dial::Pending(options.connection_id());
            self.dials += 1;
            return Some(ToSwarm::Dial { opts: options });
        }
        None
    }

    pub(super) fn dial_failed(&mut self, failure: &DialFailure<'_>) {
        let duplicate = match failure.error {
            // The swarm leaves away the addresses at which it listens itself.
            DialError::NoAddresses | DialError::LocalPeerId { .. } => true,
            DialError::Transport(attempts) => attempts.iter().any(|(_, why)| is_ourselves(why)),
            DialError::Denied { cause } => matches!(cause.downcast_ref::<Denied>(), Some(Denied::Duplicate)),
            _ => false,
        };
        if let Some(address) = self.contacting.remove(&failure.connection_id) {
            self.dials -= 1;
            if !duplicate {
                let why = reason(failure.error);
                self.tell(NetEvent::Missed { address, refused: false, why });
            }
            return;
        }
        let Some(key) = failure.peer_id.as_ref().and_then(address::key) else { return };
        let peer = self.peer(key);
        if peer.dial != Dial::Pending(failure.connection_id) {
            return;
        }
        peer.dial = Dial::No;
        let alone = peer.link.is_none() && peer.connections == 0;
        self.dials -= 1;
        if !duplicate {
            self.pause(key);
        }
        if alone {
            self.lose(key, Loss::Unreachable(reason(failure.error)));
        }
    }
}

/// Whether the other end was this very node.
pub(super) fn is_ourselves(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
    error.is::<Ourselves>() || inner.or(error.source()).is_some_and(is_ourselves)
}

/// Whether a connection was closed or reset, and nothing else was wrong with it.
pub(super) fn has_broken(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    match io.map(|io| (io.get_ref(), io.kind())) {
        Some((Some(inner), _)) if inner.source().is_some() || inner.is::<io::Error>() => has_broken(inner),
        Some((_, kind)) => matches!(
            kind,
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NotConnected
                | io::ErrorKind::UnexpectedEof
        ),
        None => error.source().is_some_and(has_broken),
    }
}

/// All causes of an error in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Why a dial failed, address by address.
fn reason(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => {
            let each: Vec<_> = attempts
                .iter()
                .map(|(at, error)| {
                    let at = address::socket(at).map_or(at.to_string(), |at| at.to_string());
                    format!("{at}: {}", chain(error))
                })
                .collect();
            each.join("; ")
        }
        DialError::WrongPeerId { address: at, .. } => {
            let at = address::socket(at).map_or(at.to_string(), |at| at.to_string());
            format!("{at}: another node answers there")
        }
        DialError::Denied { cause } => chain(cause),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_nobodys_fault() {
        let table = [
            (io::ErrorKind::BrokenPipe.into(), true),
            (io::Error::other(io::Error::from(io::ErrorKind::ConnectionReset)), true),
            (io::Error::new(io::ErrorKind::UnexpectedEof, "the handshake ended early"), true),
            (io::Error::new(io::ErrorKind::InvalidData, "that is no handshake"), false),
            (
                io::Error::other(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError)),
                false,
            ),
            (io::ErrorKind::TimedOut.into(), false),
        ];
        for (error, broken) in table {
            assert_eq!(has_broken(&error), broken, "{error:?}");
        }
    }
}
