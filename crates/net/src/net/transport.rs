//! TCP, TLS and yamux as one libp2p transport.
//!
//! libp2p's own TLS is not used: it brings another cryptographic library and certificates that nobody here needs
//! (docs/decisions/0013-net.md).

use std::io;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncRead, AsyncWrite};
use libp2p_core::muxing::StreamMuxerBox;
use libp2p_core::transport::{Boxed, Transport};
use libp2p_core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p_identity::PeerId;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use super::{NetLimits, address};
use crate::{Identity, Key, tls};

/// One stream is used. A second one may be there while the first is refused.
const STREAMS_MAX: usize = 2;

pub(super) fn build(identity: &Identity, limits: &NetLimits) -> Boxed<(PeerId, StreamMuxerBox)> {
    let mut yamux = libp2p_yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    libp2p_tcp::tokio::Transport::new(libp2p_tcp::Config::default().nodelay(true))
        .map(|stream, _| {
            if let Err(error) = probe_when_idle(&stream.0).and_then(|()| insist(&stream.0)) {
                tracing::debug!(%error, "a connection is not set as it should be");
            }
            stream
        })
        .upgrade(Version::V1Lazy)
        .authenticate(Tls {
            server: Arc::new(tls::server(identity, tls::ALPN_CONTROL)),
            client: Arc::new(tls::client(identity, None, tls::ALPN_CONTROL)),
            own: identity.peer(),
        })
        .multiplex(yamux)
        .timeout(limits.handshake_timeout)
        .boxed()
}

/// Least time after which a connection on which nothing moves is looked at. Whether a member lives is the membership's
/// question; this only finds connections that nobody will ever write to again, so it costs next to nothing.
const IDLE_PROBE_MIN: Duration = Duration::from_secs(120);

/// Added to it by chance. Connections that were made in the same second would be probed in the same millisecond for ever:
/// 200 agents on one machine have 40,000 ends, whose probes overran the kernel's queue and killed what they looked at.
const IDLE_PROBE_SPREAD: Duration = Duration::from_secs(180);

/// Pause between two probes.
const IDLE_PROBE_PAUSE: Duration = Duration::from_secs(20);

/// Probes without an answer after which a connection ends.
const IDLE_PROBES_MAX: u32 = 3;

/// A machine that died without a word is noticed in some minutes, even if nothing is sent to it. `TCP_USER_TIMEOUT` would notice it
/// sooner where something is; but Linux ends connections by it on which everything was acknowledged a moment ago, when the own link's
/// queue drops a packet of theirs for the second time and the first time was that long ago (`docs/decisions/0013-net.md`).
pub fn probe_when_idle(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let idle = IDLE_PROBE_MIN + IDLE_PROBE_SPREAD.mul_f64(rand::random());
    let probes =
        TcpKeepalive::new().with_time(idle).with_interval(IDLE_PROBE_PAUSE).with_retries(IDLE_PROBES_MAX);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Small messages share links that pieces fill, where one packet in some is lost. What a thin stream has lost is sent again after
/// the same time each time, and not after twice as long: three losses in a row would look like the death of the other end. Hosts
/// whose queues know priorities let these messages pass what is bulk.
fn insist(stream: &tokio::net::TcpStream) -> io::Result<()> {
    /// `TC_PRIO_INTERACTIVE` of Linux.
    const INTERACTIVE: u32 = 6;
    let socket = SockRef::from(stream);
    socket.set_tcp_thin_linear_timeouts(true)?;
    socket.set_priority(INTERACTIVE)
}

/// TLS by raw keys. Which key is right is checked by the swarm, for it knows whom it dialed.
#[derive(Clone)]
struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    own: Key,
}

/// The other end is this node. Nobody's mistake: whoever looks for others finds itself, too.
#[derive(Debug, thiserror::Error)]
#[error("it is this node itself")]
pub(super) struct Ourselves;

type Secured<C> = Compat<TlsStream<Compat<C>>>;
type Handshake<C> = Pin<Box<dyn Future<Output = io::Result<(PeerId, Secured<C>)>> + Send>>;

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/shoal/tls/1")
    }
}

impl<C> InboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = Handshake<C>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let stream = TlsAcceptor::from(self.server).accept(socket.compat()).await?;
            let peer = peer_of(stream.get_ref().1.peer_certificates(), &self.own)?;
            Ok((peer, TlsStream::Server(stream).compat()))
        })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = Handshake<C>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            // Plays no role and is not sent: the key is what counts.
            let name = ServerName::try_from("shoal").expect("a valid name");
            let stream = TlsConnector::from(self.client).connect(name, socket.compat()).await?;
            let peer = peer_of(stream.get_ref().1.peer_certificates(), &self.own)?;
            Ok((peer, TlsStream::Client(stream).compat()))
        })
    }
}

fn peer_of(shown: Option<&[CertificateDer<'_>]>, own: &Key) -> io::Result<PeerId> {
    let key = tls::peer_of(shown.unwrap_or_default())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if key == *own { Err(io::Error::other(Ourselves)) } else { Ok(address::peer_id(&key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_probed_when_it_is_idle_and_has_no_deadline() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        probe_when_idle(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert!(socket.tcp_keepalive_time().unwrap() >= IDLE_PROBE_MIN);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None, "a full queue would end it");
    }
}
