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

mod behaviour;
mod dial;
mod strangers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use libp2p_swarm::behaviour::ConnectionClosed;
use libp2p_swarm::{CloseConnection, ConnectionId, NotifyHandler, ToSwarm};
use tokio::time::Sleep;

use super::handler::{Handler, Order, Report};
use super::post::Post;
use super::{Loss, NetEvent, NetLimits, Refusal, address};
use crate::admission::PROOF_BYTES;
use crate::{Admission, Identity, Key};
use dial::chain;
use strangers::Strangers;

/// Addresses that wait to be contacted.
const CONTACTS_MAX: usize = 8192;

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

    /// Closes a connection whose end says nothing about the peer.
    fn discard(&mut self, key: &Key, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.unwanted = true;
        }
        self.close(key, id);
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

    fn handler(&self, key: Key, id: ConnectionId, dialer: bool) -> Handler {
        Handler::new(
            id,
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
                self.discard(&key, old);
                self.unlink(key, Loss::Replaced);
            }
            _ => {}
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.contact = false;
        let (address, dialed) = (connection.address, connection.dialed);
        let peer = self.peer(key);
        peer.failures = 0;
        peer.link = Some(Link { open: true, ..Link::new(id) });
        if let Some(spare) = peer.spare.take_if(|spare| *spare != id) {
            self.close(&key, spare);
        }
        self.open += 1;
        self.post.link(key, id);
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
                self.discard(&key, id);
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
                self.tell(NetEvent::Missed { address: connection.address, refused: true, why });
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
