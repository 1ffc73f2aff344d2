//! One connection to a member's port for pieces, as this node would make it: is it open, is the member behind it, and what
//! time is it there?
//!
//! Nothing is proved to the member and nothing is asked of it: it says no, and with that what time it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use shoal_net::{Identity, client_tls, key_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::swarm::MemberStatus;

/// Most bytes of the answer that are read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Whether one of its addresses takes connections.
    pub is_open: bool,
    /// How far its clock is ahead of ours, seconds; none if it did not say.
    pub clock_ahead: Option<i64>,
}

/// Tries a member's addresses, best first.
pub(super) async fn reach(member: &MemberStatus, connect_max: Duration) -> Reached {
    if member.data_port == 0 {
        // An agent that does not tell its port: nothing is known.
        return Reached { is_open: true, clock_ahead: None };
    }
    for address in &member.addresses {
        let address = SocketAddr::new(address.ip(), member.data_port);
        let connected = tokio::time::timeout(connect_max, TcpStream::connect(address)).await;
        if let Ok(Ok(stream)) = connected {
            let asked = tokio::time::timeout(connect_max, date(stream, address, &member.peer)).await;
            return Reached { is_open: true, clock_ahead: asked.ok().flatten() };
        }
    }
    Reached { is_open: false, clock_ahead: None }
}

async fn date(stream: TcpStream, address: SocketAddr, peer: &str) -> Option<i64> {
    let identity = Identity::ephemeral().ok()?;
    let connector = TlsConnector::from(Arc::new(client_tls(&identity, key_of(peer)?)));
    let mut stream = connector.connect(ServerName::from(address.ip()), stream).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shoal\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    // Whoever closes without a farewell has said what was asked.
    if read.is_err() && text.is_empty() {
        return None;
    }
    ahead(&text, SystemTime::now())
}

fn ahead(head: &str, now: SystemTime) -> Option<i64> {
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then_some(value.trim())
    })?;
    crate::upstream::clock_ahead(date, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let head = "HTTP/1.1 403 Forbidden\r\nDate: Sun, 06 Nov 1994 08:49:47 GMT\r\n\r\n";
        assert_eq!(ahead(head, now), Some(10));
        assert_eq!(ahead("HTTP/1.1 403 Forbidden\r\n\r\n", now), None);
    }
}
