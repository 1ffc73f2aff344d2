//! Our names and addresses in libp2p's words, and back.

use std::net::{IpAddr, SocketAddr};

use libp2p_core::Multiaddr;
use libp2p_core::multiaddr::Protocol;
use libp2p_identity::PeerId;

use crate::Key;

/// An Ed25519 key as libp2p's name: an identity multihash (0, 36 bytes) of a protobuf (type 1, 32 bytes).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

pub(super) fn peer_id(key: &Key) -> PeerId {
    PeerId::from_bytes(&[&PEER_ID_PREFIX[..], key].concat())
        .expect("an identity multihash of 36 bytes is a name")
}

/// `None` if it is the name of another kind of key.
pub(super) fn key(peer: &PeerId) -> Option<Key> {
    peer.to_bytes().strip_prefix(&PEER_ID_PREFIX)?.try_into().ok()
}

pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// `None` if it is not an IP address and a TCP port. An IPv4 address that was mapped into IPv6 comes as IPv4.
pub(super) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.to_canonical(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_survive_the_way_there_and_back() {
        assert_eq!(key(&peer_id(&[7; 32])), Some([7; 32]));
        for text in ["10.0.0.1:5002", "[fd00::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket(&multiaddr(address)), Some(address));
        }
        assert_eq!(socket(&multiaddr("[::ffff:10.0.0.1]:9".parse().unwrap())), "10.0.0.1:9".parse().ok());
        assert_eq!(socket(&"/memory/1".parse().unwrap()), None);
    }
}
