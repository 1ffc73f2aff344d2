//! Data connections to other members: made when they are needed, kept for a while, trusted only as the key that was asked
//! for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderName, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::ServerName;
use shoal_engine::peer::{Member, PeerId};
use shoal_net::{Identity, client_tls, probe_when_idle};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::failover::Reached;
use super::lateness::within;
use super::round_trips::RoundTrips;
use super::wire::{PROOF_HEADER, TRACE_HEADER};
use crate::trace;

/// Longest time until an address answers. The kernel answers, however busy the member is, and members are near each other:
/// a pull that waits for more would be quicker without them.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(600);
/// Time after which one more attempt to connect is begun beside those under way: a packet that a full link has dropped is sent
/// again by the kernel only after a second.
const CONNECT_AGAIN: Duration = Duration::from_millis(200);
/// Members that are silent at the same time for so long, with nobody who was connected to lately: it is not their links that are full.
const SILENT_ENOUGH: usize = 3;
/// Farther than this a member may still answer after [`CONNECT_AGAIN`].
const NEAR: Duration = Duration::from_millis(50);
/// Longest time for TLS, for which the member itself has to do something.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that is younger shows that pieces can pass between nodes.
const CONNECTED_LATELY: Duration = Duration::from_secs(30);
/// Pause between two attempts to reach one of the members that could not be connected to. Nobody waits for them.
const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Longest time from a request to the head of its answer, where little has to be done for it.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections that are kept to one member: as many as a blob has classes.
const IDLE_PER_PEER_MAX: usize = 16;
/// Idle connections in all.
const IDLE_MAX: usize = 512;
/// How long an idle connection is kept. Shorter than the other side keeps it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// Bytes that are read at once: what has been read is hashed and written while it is in the CPU's cache.
const READ_BYTES_MAX: usize = 256 << 10;

/// How streams share a link, the preferred way first. A node sends and receives a dozen at a time over one link; where the
/// system has BBR, as many estimates of one bottleneck lose a fifth of it to packets that are sent again
/// (`docs/decisions/0017-many-streams-on-one-link.md`).
const CONGESTION_CONTROLS: [&[u8]; 2] = [b"cubic", b"reno"];

/// Why a member could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It has no address.
    #[error("the member has no address")]
    NoAddress,
    /// None of its addresses answers.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The last one that was tried.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// It could not be connected to a moment ago. It is tried again meanwhile.
    #[error("the member's port for pieces could not be reached a moment ago")]
    Unreachable,
    /// One of its addresses answers, and TLS takes too long there, or shows somebody else.
    #[error("cannot secure the connection to {address}: {source}")]
    Secure {
        /// The last such address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It took longer than it may.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

impl DialError {
    /// Whether nobody answers at its port for pieces at all, as behind a firewall: not even the kernel of a machine that is busy.
    pub fn is_closed_port(&self) -> bool {
        match self {
            DialError::NoAddress | DialError::Connect { .. } | DialError::Unreachable => true,
            DialError::Http(_) | DialError::Secure { .. } | DialError::Silent(_) => false,
        }
    }
}

/// What a member is sent.
pub struct Post {
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: Bytes,
    /// How long it has until the head of its answer.
    pub head_timeout: Duration,
}

type Sender = SendRequest<Full<Bytes>>;

/// Makes and keeps connections.
pub struct Dialer {
    identity: Identity,
    /// What this agent shows to prove that it belongs to the cluster.
    proof: String,
    idle: Mutex<Idle>,
    configs: Mutex<HashMap<PeerId, Arc<rustls::ClientConfig>>>,
    /// Time from a member's SYN to its answer, the last one seen.
    latencies: Mutex<HashMap<PeerId, Duration>>,
    unreachable: Mutex<Unreachable>,
    /// When somebody was connected to last.
    connected: Mutex<Option<Instant>>,
    /// Attempts that have had no answer for [`CONNECT_AGAIN`] so far.
    silent: AtomicUsize,
    round_trips: Arc<RoundTrips>,
}

#[derive(Default)]
struct Idle {
    by_peer: HashMap<PeerId, Vec<(Sender, Instant)>>,
    count: usize,
}

/// Members that could not be connected to, and when that was last tried: a firewall between the ports for pieces must not
/// cost each pull the time that it takes to notice.
#[derive(Default)]
struct Unreachable {
    by_peer: HashMap<PeerId, (Arc<Member>, Instant)>,
    /// Whether a task tries them again: when the firewall is gone, the next pull shall not be the one to find out.
    is_tried: bool,
    /// How many there are.
    count: Gauge,
}

impl Unreachable {
    fn insert(&mut self, member: &Arc<Member>) {
        self.by_peer.insert(member.peer, (Arc::clone(member), Instant::now()));
        self.count.set(self.by_peer.len() as i64);
    }

    fn remove(&mut self, peer: &PeerId) {
        self.by_peer.remove(peer);
        self.count.set(self.by_peer.len() as i64);
    }

    fn clear(&mut self) {
        self.by_peer.clear();
        self.count.set(0);
    }

    /// The one that was tried the longest ago. If there is none, nobody tries them any more.
    fn next(&mut self) -> Option<Arc<Member>> {
        let next =
            self.by_peer.values().min_by_key(|(_, tried)| *tried).map(|(member, _)| Arc::clone(member));
        self.is_tried = next.is_some();
        next
    }
}

impl Dialer {
    /// `unreachable` counts the members that cannot be connected to.
    pub fn new(identity: Identity, proof: String, round_trips: Arc<RoundTrips>, unreachable: Gauge) -> Self {
        Dialer {
            identity,
            proof,
            idle: Mutex::default(),
            configs: Mutex::default(),
            latencies: Mutex::default(),
            unreachable: Mutex::new(Unreachable { count: unreachable, ..Unreachable::default() }),
            connected: Mutex::default(),
            silent: AtomicUsize::default(),
            round_trips,
        }
    }

    /// Sends a request with the proof and waits for the head of its answer. The connection comes back with it, to be given to
    /// [`keep`](Self::keep) once the body has been read to its end.
    ///
    /// # Errors
    /// Nobody is there, or the one who is there does not have the member's key, or takes too long.
    pub async fn post(
        self: &Arc<Self>,
        member: &Arc<Member>,
        post: Post,
        reached: &Reached,
    ) -> Result<(Response<Incoming>, Connection), DialError> {
        let Post { path, content_type, body, head_timeout } = post;
        let trace = trace::carried();
        let request = || {
            let mut request = Request::post(path)
                .header(header::HOST, "shoal")
                .header(header::CONTENT_TYPE, content_type)
                .header(PROOF_HEADER, &self.proof)
                .body(Full::new(body.clone()))
                .expect("the parts of the request are valid");
            request.headers_mut().extend(trace.clone().map(|of| (HeaderName::from_static(TRACE_HEADER), of)));
            request
        };
        if let Some(mut sender) = self.take(&member.peer) {
            reached.set();
            match tokio::time::timeout(head_timeout, sender.send_request(request())).await {
                Ok(Ok(response)) => return Ok((response, Connection { peer: member.peer, sender })),
                // The other side may have closed it just now; that is no fault of anybody's.
                Ok(Err(error)) => tracing::debug!(peer = ?member.peer, %error, "a kept connection is gone"),
                Err(_) => {
                    // It may have been taken: sent once more, it would be done twice. What else is kept may be as silent.
                    self.forget(&member.peer);
                    return Err(DialError::Silent(head_timeout));
                }
            }
        }
        if self.has_failed(&member.peer) {
            return Err(DialError::Unreachable);
        }
        let mut sender = self.connect(member, reached).await?;
        let answer = tokio::time::timeout(head_timeout, sender.send_request(request())).await;
        let response = answer.map_err(|_| DialError::Silent(head_timeout))??;
        Ok((response, Connection { peer: member.peer, sender }))
    }

    /// Keeps a connection for the next request.
    pub fn keep(&self, connection: Connection) {
        let Connection { peer, sender } = connection;
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.count >= IDLE_MAX {
            let now = Instant::now();
            idle.by_peer.retain(|_, kept| {
                kept.retain(|(_, since)| now - *since < IDLE_TIME_MAX);
                !kept.is_empty()
            });
            idle.count = idle.by_peer.values().map(Vec::len).sum();
        }
        let is_full = idle.count >= IDLE_MAX;
        let kept = idle.by_peer.entry(peer).or_default();
        if !is_full && kept.len() < IDLE_PER_PEER_MAX {
            kept.push((sender, Instant::now()));
            idle.count += 1;
        }
    }

    /// Closes what is kept for a member.
    fn forget(&self, peer: &PeerId) {
        let mut idle = self.idle.lock();
        let kept = idle.by_peer.remove(peer);
        idle.count -= kept.map_or(0, |kept| kept.len());
    }

    /// Forgets what is kept for members that are not there any more.
    pub fn retain(&self, is_member: impl Fn(&PeerId) -> bool) {
        let mut idle = self.idle.lock();
        idle.by_peer.retain(|peer, _| is_member(peer));
        idle.count = idle.by_peer.values().map(Vec::len).sum();
        self.configs.lock().retain(|peer, _| is_member(peer));
        self.latencies.lock().retain(|peer, _| is_member(peer));
        // One of them may have come back.
        self.unreachable.lock().clear();
    }

    /// How long the last connection to a member took to open.
    pub fn latency(&self, peer: &PeerId) -> Option<Duration> {
        self.latencies.lock().get(peer).copied()
    }

    /// Whether the last attempt to connect to a member failed.
    pub fn has_failed(&self, peer: &PeerId) -> bool {
        self.unreachable.lock().by_peer.contains_key(peer)
    }

    fn take(&self, peer: &PeerId) -> Option<Sender> {
        let mut idle = self.idle.lock();
        loop {
            let (sender, since) = idle.by_peer.get_mut(peer)?.pop()?;
            idle.count -= 1;
            if !sender.is_closed() && since.elapsed() < IDLE_TIME_MAX {
                return Some(sender);
            }
        }
    }

    /// Connects in a task of its own: whoever does not wait to the end leaves the connection, or what was learned, to others.
    async fn connect(self: &Arc<Self>, member: &Arc<Member>, reached: &Reached) -> Result<Sender, DialError> {
        let (told, connected) = oneshot::channel();
        let (dialer, member, reached) = (Arc::clone(self), Arc::clone(member), reached.clone());
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = told.send(dialer.dial(&member, &reached).await) {
                dialer.keep(Connection { peer: member.peer, sender: unwanted });
            }
            dialer.try_unreachable().await;
        });
        connected.await.unwrap_or(Err(DialError::Unreachable))
    }

    /// Tries those that could not be connected to until there are none, unless somebody does so already.
    async fn try_unreachable(&self) {
        {
            let mut unreachable = self.unreachable.lock();
            if unreachable.by_peer.is_empty() || std::mem::replace(&mut unreachable.is_tried, true) {
                return;
            }
        }
        loop {
            tokio::time::sleep(PROBE_PAUSE).await;
            loop {
                let next = self.unreachable.lock().next();
                let Some(member) = next else { return };
                // Where one can be reached again, so can the others.
                let Ok(sender) = self.dial(&member, &Reached::default()).await else { break };
                self.keep(Connection { peer: member.peer, sender });
            }
        }
    }

    /// Connects to the first of a member's addresses that answers. The next one is tried as well when one has not for a moment: a machine
    /// has addresses that not all others can reach.
    async fn dial(&self, member: &Arc<Member>, reached: &Reached) -> Result<Sender, DialError> {
        let mut rest = member.addresses.iter().map(|at| SocketAddr::new(at.ip(), member.data_port));
        let mut failure = DialError::NoAddress;
        let mut attempts = FuturesUnordered::new();
        loop {
            let ended = if let Some(address) = rest.next() {
                attempts.push(self.dial_at(address, member, reached));
                tokio::time::timeout(CONNECT_AGAIN, attempts.next()).await.ok()
            } else {
                Some(attempts.next().await)
            };
            match ended {
                Some(Some(Ok(sender))) => return Ok(sender),
                // One that answers tells more of the member than those that do not.
                Some(Some(Err(error))) if failure.is_closed_port() || !error.is_closed_port() => {
                    failure = error;
                }
                Some(Some(Err(_))) => {}
                Some(None) => break,
                // It may still answer.
                None => {}
            }
        }
        // Only when none of its addresses answers: others do not try it meanwhile.
        if failure.is_closed_port() && !member.addresses.is_empty() {
            self.unreachable.lock().insert(member);
        }
        Err(failure)
    }

    /// Connects to one address.
    async fn dial_at(
        &self,
        address: SocketAddr,
        member: &Member,
        reached: &Reached,
    ) -> Result<Sender, DialError> {
        let begun = Instant::now();
        let connected = self.connect_to(address, &member.peer).await;
        let tcp = connected.map_err(|source| DialError::Connect { address, source })?;
        reached.set();
        self.latencies.lock().insert(member.peer, begun.elapsed());
        self.unreachable.lock().remove(&member.peer);
        *self.connected.lock() = Some(Instant::now());
        let secured = within(HANDSHAKE_TIMEOUT, self.secure(tcp, address, member.peer)).await;
        secured
            .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| DialError::Secure { address, source })
    }

    /// Connects to an address, in more than one attempt where the first gets no answer. How long it may take is asked before each of
    /// them: others may have failed meanwhile.
    async fn connect_to(&self, address: SocketAddr, peer: &PeerId) -> io::Result<TcpStream> {
        let begun = Instant::now();
        let mut attempts = FuturesUnordered::new();
        let mut silent = None;
        loop {
            attempts.push(TcpStream::connect(address));
            if let Ok(Some(connected)) = tokio::time::timeout(CONNECT_AGAIN, attempts.next()).await {
                return connected;
            }
            silent.get_or_insert_with(|| Silent::begin(&self.silent));
            // Those that were begun with this one are as far.
            tokio::task::yield_now().await;
            if begun.elapsed() >= self.patience(peer) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn patience(&self, peer: &PeerId) -> Duration {
        let lately = self.connected.lock().is_some_and(|at| at.elapsed() < CONNECTED_LATELY);
        let has_failed = !self.unreachable.lock().by_peer.is_empty();
        patience(lately, has_failed, self.silent.load(Ordering::Relaxed), self.round_trips.of(peer))
    }

    async fn secure(&self, tcp: TcpStream, address: SocketAddr, peer: PeerId) -> io::Result<Sender> {
        settle_socket(&tcp);
        let tls = TlsConnector::from(self.config(peer));
        // The key is what counts; the name is only there because TLS wants one.
        let name = ServerName::from(address.ip());
        let stream = tls.connect(name, tcp).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a data connection ended early");
            }
        });
        Ok(sender)
    }

    fn config(&self, peer: PeerId) -> Arc<rustls::ClientConfig> {
        let mut configs = self.configs.lock();
        let make = || Arc::new(client_tls(&self.identity, peer.0));
        Arc::clone(configs.entry(peer).or_insert_with(make))
    }
}

/// How long an address has to answer. Where one has not, or some near ones do not at the same time, and nobody else has lately, the
/// others will not either.
fn patience(lately: bool, has_failed: bool, silent: usize, round_trip: Option<Duration>) -> Duration {
    let is_near = round_trip.is_some_and(|round_trip| round_trip < NEAR);
    match !lately && (has_failed || is_near && silent >= SILENT_ENOUGH) {
        true => CONNECT_AGAIN,
        false => CONNECT_TIMEOUT,
    }
}

/// One more attempt without an answer, until it ends.
struct Silent<'a>(&'a AtomicUsize);

impl<'a> Silent<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Silent(count)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is in use.
pub struct Connection {
    peer: PeerId,
    sender: Sender,
}

/// What all data connections have in common. Failures concern a socket that is gone already, as its first use will say.
pub fn settle_socket(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let socket = SockRef::from(tcp);
    // The first one that this process may choose; without any, what the system has chosen stays.
    let _ = CONGESTION_CONTROLS.iter().any(|name| socket.set_tcp_congestion(name).is_ok());
    let _ = probe_when_idle(tcp);
}

#[cfg(test)]
mod tests;
