//! Which connection to a peer is the one, and when to make it: the decisions behind [`Net`](super::Net).
//!
//! Both sides may dial at the same time. Of two peers the one with the smaller key decides: it proves itself on one
//! connection only and closes the others, and nobody sends a frame before the other side has proved itself. So both use
//! the same connection, and nothing is sent on one that is about to be closed.
//!
//! A proof on another connection while the chosen one seems to be there says that the peer has lost it: the old one is
//! [replaced](Loss::Replaced). Only while the old one is very young it may be the late end of a simultaneous dial.
//!
//! Invariants: for each peer at most one link, one dial and one place in the queue of dials; every connection that
//! was accepted counts as unproven from the first moment until it has proved itself or is gone.

mod strangers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use libp2p_core::Multiaddr;
use libp2p_core::transport::PortUse;
use libp2p_core::{Endpoint, multiaddr};
use libp2p_identity::PeerId;
use libp2p_swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure, ListenFailure};
use libp2p_swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p_swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, ListenError, NetworkBehaviour,
    NotifyHandler, ToSwarm,
};
use rand::Rng;
use tokio::time::Sleep;

use super::handler::{Handler, Order, Report};
use super::post::{Post, Wish};
use super::transport::Ourselves;
use super::{Loss, NetEvent, NetLimits, Refusal, address};
use crate::admission::PROOF_BYTES;
use crate::{Admission, Identity, Key};
use strangers::Strangers;

/// Addresses that wait to be contacted.
const CONTACTS_MAX: usize = 8192;

/// Addresses of one peer that are tried at the same time.
const ADDRESSES_AT_ONCE: NonZeroU8 = NonZeroU8::new(4).expect("not zero");

/// Attempts at a peer that closes connections before it has proved itself, until it counts as lost. The first ones may
/// have met a connection in the other direction.
const REFUSALS_MAX: u32 = 3;

/// Peers that are remembered because they did not answer lately.
const PEERS_MAX: usize = 16_384;

type Action = ToSwarm<NetEvent, Order>;

pub(super) struct Links {
    own: Key,
    /// What we show to others.
    pub(super) proof: [u8; PROOF_BYTES],
    admission: Arc<Admission>,
    post: Arc<Post>,
    limits: NetLimits,
    connections: HashMap<ConnectionId, Connection>,
    peers: HashMap<Key, Peer>,
    unproven: usize,
    unproven_of: HashMap<IpAddr, usize>,
    /// Links that are open, and those of them that are being given up.
    open: usize,
    retiring: usize,
    dials: usize,
    /// Peers to be dialed as soon as fewer than `dials_max` are being dialed.
    ready: VecDeque<Key>,
    contacts: VecDeque<SocketAddr>,
    contacting: HashMap<ConnectionId, SocketAddr>,
    /// Peers to be dialed when their pause is over.
    pauses: BTreeSet<(Instant, Key)>,
    timer: Option<Pin<Box<Sleep>>>,
    strangers: Strangers,
    actions: VecDeque<Action>,
    waker: Option<Waker>,
}

/// A connection from its first moment (if accepted) or from its handshake on (if dialed).
#[derive(Debug)]
struct Connection {
    peer: Option<Key>,
    address: SocketAddr,
    dialed: bool,
    contact: bool,
    unproven: bool,
    /// Its end is wanted and nobody is to be told.
    unwanted: bool,
}

#[derive(Debug)]
struct Peer {
    link: Option<Link>,
    /// A connection on which the peer has proved itself while the link was only reserved.
    spare: Option<ConnectionId>,
    connections: usize,
    dial: Dial,
    failures: u32,
    not_before: Instant,
}

/// The connection that is used.
#[derive(Debug)]
struct Link {
    id: ConnectionId,
    /// Both sides have proved themselves. Before, it is only reserved for our own proof.
    open: bool,
    since: Instant,
    retiring: bool,
    /// The other side will send no more.
    farewell: bool,
    done: bool,
    why: Option<Loss>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    No,
    /// In `ready` or in `pauses`.
    Waiting,
    Pending(ConnectionId),
}

#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("there is a connection to this peer already")]
    Duplicate,
    #[error("{0}")]
    Refused(Refusal),
    #[error("too many connections")]
    Full,
}

impl Peer {
    fn new() -> Self {
        Self {
            link: None,
            spare: None,
            connections: 0,
            dial: Dial::No,
            failures: 0,
            not_before: Instant::now(),
        }
    }

    fn is_open(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open)
    }
}

impl Link {
    fn new(id: ConnectionId) -> Self {
        Self {
            id,
            open: false,
            since: Instant::now(),
            retiring: false,
            farewell: false,
            done: false,
            why: None,
        }
    }
}

impl Links {
    pub fn new(identity: &Identity, admission: Arc<Admission>, post: Arc<Post>, limits: NetLimits) -> Self {
        Self {
            own: identity.peer(),
            proof: admission.proof_bytes(&identity.peer()),
            admission,
            post,
            limits,
            connections: HashMap::new(),
            peers: HashMap::new(),
            unproven: 0,
            unproven_of: HashMap::new(),
            open: 0,
            retiring: 0,
            dials: 0,
            ready: VecDeque::new(),
            contacts: VecDeque::new(),
            contacting: HashMap::new(),
            pauses: BTreeSet::new(),
            timer: None,
            strangers: Strangers::default(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Dials whoever is at `address`, unless that is being done or has been done.
    pub fn contact(&mut self, address: SocketAddr) {
        let known = self.contacts.contains(&address)
            || self.contacting.values().any(|other| *other == address)
            || self.connections.values().any(|other| other.dialed && other.address == address);
        if !known && self.contacts.len() < CONTACTS_MAX {
            self.contacts.push_back(address);
            self.wake();
        }
    }

    /// Drops all that is known of `peer` without a word to the caller.
    pub fn forget(&mut self, key: Key) {
        self.post.remove(&key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.link.take_if(|link| link.open).inspect(|link| {
                self.open -= 1;
                self.retiring -= usize::from(link.retiring);
            });
            peer.link = None;
            peer.spare = None;
            for connection in self.connections.values_mut().filter(|connection| connection.peer == Some(key))
            {
                connection.unwanted = true;
            }
            self.act(ToSwarm::CloseConnection {
                peer_id: address::peer_id(&key),
                connection: CloseConnection::All,
            });
        }
    }

    /// Says farewell to everybody.
    pub fn retire_all(&mut self) {
        let open: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.is_open()).map(|(key, _)| *key).collect();
        for key in open {
            self.retire(key);
        }
    }

    /// Whether there is nobody left to say farewell to.
    pub fn is_closed(&self) -> bool {
        self.open == 0
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
        self.wake();
    }

    fn tell(&mut self, event: NetEvent) {
        self.act(ToSwarm::GenerateEvent(event));
    }

    fn close(&mut self, key: &Key, id: ConnectionId) {
        self.act(ToSwarm::CloseConnection {
            peer_id: address::peer_id(key),
            connection: CloseConnection::One(id),
        });
    }

    fn order(&mut self, key: &Key, id: ConnectionId, order: Order) {
        let handler = NotifyHandler::One(id);
        self.act(ToSwarm::NotifyHandler { peer_id: address::peer_id(key), handler, event: order });
    }

    fn refuse(&mut self, address: SocketAddr, why: Refusal) {
        if self.strangers.report(Instant::now()) {
            self.tell(NetEvent::Stranger { address, why });
        }
    }

    fn lose(&mut self, key: Key, why: Loss) {
        self.post.remove(&key);
        self.tell(NetEvent::Lost { peer: key, why });
    }

    fn peer(&mut self, key: Key) -> &mut Peer {
        if self.peers.len() >= PEERS_MAX {
            let now = Instant::now();
            self.peers.retain(|other, peer| {
                *other == key || peer.connections > 0 || peer.dial != Dial::No || peer.not_before > now
            });
        }
        self.peers.entry(key).or_insert_with(Peer::new)
    }

    /// Takes a connection out of the unproven ones.
    fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if std::mem::take(&mut connection.unproven) {
            self.unproven -= 1;
            let ip = connection.address.ip();
            if let Some(count) = self.unproven_of.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    self.unproven_of.remove(&ip);
                }
            }
        }
    }
}

/// When to dial.
impl Links {
    /// Something waits for `key` and no connection takes it.
    fn connect(&mut self, key: Key) {
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
    fn pause(&mut self, key: Key) {
        let (first, longest) = (self.limits.backoff_max / 100, self.limits.backoff_max);
        let peer = self.peer(key);
        let pause = first.saturating_mul(1 << peer.failures.min(10)).min(longest);
        peer.failures = peer.failures.saturating_add(1);
        peer.not_before = Instant::now() + pause.mul_f64(rand::rng().random_range(0.5..1.0));
    }

    fn next_dial(&mut self) -> Option<Action> {
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

    fn dial_failed(&mut self, failure: &DialFailure<'_>) {
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
                self.tell(NetEvent::Missed { address, why: reason(failure.error) });
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

/// Which connection is used.
impl Links {
    /// Whether we decide which of several connections to `key` is used.
    fn decides(&self, key: &Key) -> bool {
        self.own < *key
    }

    /// Whether a proof on another connection says that `link` is dead.
    fn is_replaceable(&self, link: &Link) -> bool {
        link.open && link.since.elapsed() > 2 * self.limits.handshake_timeout
    }

    fn handler(&self, key: Key, dialer: bool) -> Handler {
        Handler::new(
            dialer,
            key,
            self.proof,
            Arc::clone(&self.admission),
            Arc::clone(&self.post),
            self.limits.handshake_timeout,
            self.limits.silence_max,
        )
    }

    /// The other side of `id` has proved itself.
    fn proved(&mut self, key: Key, id: ConnectionId) {
        self.settle(id);
        let decides = self.decides(&key);
        let spare = self.peer(key).spare;
        match self.peers.get(&key).and_then(|peer| peer.link.as_ref()) {
            // It dialed while we did, and waits in case that ours fails.
            Some(link) if link.id != id && decides && !link.open && spare.is_none() => {
                self.peer(key).spare = Some(id);
                return;
            }
            Some(link) if link.id != id && decides && !self.is_replaceable(link) => {
                return self.close(&key, id);
            }
            Some(link) if link.id != id && link.open => {
                let old = link.id;
                self.close(&key, old);
                self.unlink(key, Loss::Replaced);
            }
            _ => {}
        }
        let Some(connection) = self.connections.get(&id) else { return };
        let (address, dialed) = (connection.address, connection.dialed);
        let peer = self.peer(key);
        peer.failures = 0;
        peer.link = Some(Link { open: true, ..Link::new(id) });
        if let Some(spare) = peer.spare.take_if(|spare| *spare != id) {
            self.close(&key, spare);
        }
        self.open += 1;
        self.post.link(key);
        self.order(&key, id, Order::Open);
        self.tell(NetEvent::Met { peer: key, address, dialed });
        if self.open - self.retiring > self.limits.connections_max {
            self.retire_oldest(&key);
        }
    }

    /// The open link of `key` is no more.
    fn unlink(&mut self, key: Key, why: Loss) {
        let Some(link) = self.peers.get_mut(&key).and_then(|peer| peer.link.take()) else { return };
        if !link.open {
            return;
        }
        self.open -= 1;
        self.retiring -= usize::from(link.retiring);
        if link.done || (link.farewell && link.retiring) {
            self.post.unlink(&key);
        } else {
            self.lose(key, link.why.unwrap_or(why));
        }
    }

    fn retire_oldest(&mut self, except: &Key) {
        let oldest = self
            .peers
            .iter()
            .filter(|(key, peer)| {
                *key != except
                    && peer.link.as_ref().is_some_and(|link| link.open && !link.retiring)
                    && self.post.is_empty(key)
            })
            .min_by_key(|(key, _)| self.post.used(key))
            .map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.retire(key);
        }
    }

    fn retire(&mut self, key: Key) {
        let Some(link) = self.peers.get_mut(&key).and_then(|peer| peer.link.as_mut()) else { return };
        if !std::mem::replace(&mut link.retiring, true) {
            let id = link.id;
            self.retiring += 1;
            self.order(&key, id, Order::Retire);
        }
    }

    fn report(&mut self, key: Key, id: ConnectionId, report: Report) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.unwanted {
            return;
        }
        let address = connection.address;
        match report {
            Report::Proved => return self.proved(key, id),
            Report::Wrong => {
                self.refuse(address, Refusal::WrongProof);
                return self.close(&key, id);
            }
            Report::Late => {
                self.refuse(address, Refusal::NoProof);
                return self.close(&key, id);
            }
            _ => {}
        }
        let link = self.peers.get_mut(&key).and_then(|peer| peer.link.as_mut());
        let Some(link) = link.filter(|link| link.id == id && link.open) else {
            // Not the one: nothing that comes on it counts.
            return if !matches!(report, Report::Frame(_)) {
                self.close(&key, id)
            };
        };
        match report {
            Report::Frame(bytes) => {
                self.post.touch(&key);
                self.tell(NetEvent::Frame { from: key, bytes });
            }
            Report::Farewell => {
                link.farewell = true;
                if link.retiring {
                    return;
                }
                self.retire(key);
            }
            Report::Done => {
                link.done = true;
                self.close(&key, id);
            }
            Report::Broken(why) => {
                link.why = Some(why);
                self.close(&key, id);
            }
            Report::Proved | Report::Wrong | Report::Late => {}
        }
    }

    fn overflow(&mut self, key: Key) {
        match self.peers.get_mut(&key).and_then(|peer| peer.link.as_mut()) {
            Some(link) if link.open => {
                let id = link.id;
                self.close(&key, id);
                self.unlink(key, Loss::Overflow);
            }
            _ => self.lose(key, Loss::Overflow),
        }
    }

    fn closed(&mut self, closed: &ConnectionClosed<'_>) {
        let id = closed.connection_id;
        self.settle(id);
        let Some(connection) = self.connections.remove(&id) else { return };
        let Some(key) = connection.peer else { return };
        let why = closed.cause.map_or("it closed it".into(), |cause| chain(cause));
        let peer = self.peer(key);
        peer.connections -= 1;
        let linked = peer.link.as_ref().filter(|link| link.id == id);
        if linked.is_some_and(|link| link.open) {
            return self.unlink(key, Loss::Broken(why));
        }
        if linked.is_some() {
            peer.link = None;
            if let Some(spare) = peer.spare.take() {
                return self.proved(key, spare);
            }
        }
        peer.spare.take_if(|spare| *spare == id);
        let alone = peer.link.is_none() && peer.connections == 0 && peer.dial == Dial::No;
        if connection.dialed && peer.link.is_none() && !connection.unwanted {
            self.pause(key);
            if connection.contact {
                let why = Loss::NotAccepted.to_string();
                self.tell(NetEvent::Missed { address: connection.address, why });
            }
        }
        if alone && !self.post.is_empty(&key) {
            if connection.dialed && self.peer(key).failures >= REFUSALS_MAX {
                self.lose(key, Loss::NotAccepted);
            } else {
                self.connect(key);
            }
        }
    }
}

/// Whether the other end was this very node.
fn is_ourselves(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
    error.is::<Ourselves>() || inner.or(error.source()).is_some_and(is_ourselves)
}

/// All causes of an error in one line.
fn chain(error: &dyn std::error::Error) -> String {
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

impl NetworkBehaviour for Links {
    type ConnectionHandler = Handler;
    type ToSwarm = NetEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let address = address::socket(remote)
            .ok_or_else(|| ConnectionDenied::new(multiaddr::Error::InvalidMultiaddr))?;
        let of_this = self.unproven_of.get(&address.ip()).copied().unwrap_or(0);
        if self.unproven >= self.limits.unproven_max || of_this >= self.limits.unproven_per_address_max {
            self.refuse(address, Refusal::TooMany);
            return Err(ConnectionDenied::new(Denied::Refused(Refusal::TooMany)));
        }
        if self.connections.len() >= self.limits.connections_max + self.limits.unproven_max {
            return Err(ConnectionDenied::new(Denied::Full));
        }
        self.unproven += 1;
        *self.unproven_of.entry(address.ip()).or_default() += 1;
        self.connections.insert(
            id,
            Connection {
                peer: None,
                address,
                dialed: false,
                contact: false,
                unproven: true,
                unwanted: false,
            },
        );
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let key = address::key(&peer).ok_or_else(|| ConnectionDenied::new(Denied::Full))?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.peer = Some(key);
        }
        self.peer(key).connections += 1;
        Ok(self.handler(key, false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        let key = address::key(&peer).ok_or_else(|| ConnectionDenied::new(Denied::Full))?;
        let address = address::socket(remote)
            .ok_or_else(|| ConnectionDenied::new(multiaddr::Error::InvalidMultiaddr))?;
        let decides = self.decides(&key);
        let contact = self.contacting.contains_key(&id);
        let peer = self.peer(key);
        if peer.is_open() || (decides && peer.link.is_some()) {
            return Err(ConnectionDenied::new(Denied::Duplicate));
        }
        if decides {
            peer.link = Some(Link::new(id));
        }
        peer.connections += 1;
        self.connections.insert(
            id,
            Connection { peer: Some(key), address, dialed: true, contact, unproven: false, unwanted: false },
        );
        Ok(self.handler(key, true))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, peer_id, .. }) => {
                if self.contacting.remove(&connection_id).is_some() {
                    self.dials -= 1;
                } else if let Some(key) = address::key(&peer_id) {
                    let peer = self.peer(key);
                    if peer.dial == Dial::Pending(connection_id) {
                        peer.dial = Dial::No;
                        self.dials -= 1;
                    }
                }
            }
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed),
            FromSwarm::DialFailure(failure) => self.dial_failed(&failure),
            FromSwarm::ListenFailure(ListenFailure { connection_id, error, .. }) => {
                self.settle(connection_id);
                let connection = self.connections.remove(&connection_id);
                if let (Some(connection), ListenError::Transport(why)) = (connection, error)
                    && !is_ourselves(why)
                {
                    self.refuse(connection.address, Refusal::Handshake(chain(why)));
                }
            }
            _ => return,
        }
        self.wake();
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, report: Report) {
        if let Some(key) = address::key(&peer) {
            self.report(key, id, report);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.post.poll_wish(cx) {
                Poll::Ready(Wish::Connect(key)) => {
                    self.connect(key);
                    continue;
                }
                Poll::Ready(Wish::Overflow(key)) => {
                    self.overflow(key);
                    continue;
                }
                Poll::Pending => {}
            }
            let now = Instant::now();
            while let Some((_, key)) = self.pauses.first().copied().filter(|(until, _)| *until <= now) {
                self.pauses.pop_first();
                self.ready.push_back(key);
            }
            if let Some(dial) = self.next_dial() {
                return Poll::Ready(dial);
            }
            if !self.actions.is_empty() {
                continue;
            }
            self.waker = Some(cx.waker().clone());
            let Some((until, _)) = self.pauses.first() else {
                self.timer = None;
                return Poll::Pending;
            };
            let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
            let timer = self.timer.insert(Box::pin(tokio::time::sleep(wait)));
            if timer.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
