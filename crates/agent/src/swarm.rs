//! This node among the others: the network's side of what the engine says to members, and of what they say to it.
//!
//! ```text
//! other agents <- control: shoal-net -> members (membership, messages)  -> driver -> engine
//!              <- data: serve/outlets, dial/inlets                      ->
//! ```
//! Invariants: the driver never waits for any of this; nothing comes in from anybody who has not proved to belong to the
//! cluster; without members the agent is what it is without a swarm.

mod ask;
mod beliefs;
mod dial;
mod failover;
mod inlets;
mod lateness;
mod members;
mod news;
mod outlets;
mod patience;
mod round_trips;
mod serve;
mod small;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use shoal_engine::membership::MemberFault;
use shoal_engine::peer::{Member, PeerId, Roster};
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{self as messages, Hashes, Message};
use shoal_engine::{Membership, Time};
use shoal_net::discovery::Target;
use shoal_net::{
    Admission, Class, Identity, IdentityError, Net, NetConfig, NetError, NetEvent, NetHandle, NetLimits,
};
use shoal_store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::{FlightIo, Handle};
use crate::metrics::Metrics;
use crate::rate::Throttle;
use crate::registry::listen::{self, BindError};

pub use ask::{Answer, router};
pub use beliefs::MemberState;
pub use news::{Lately, Rejected, Rejection};
pub(crate) use small::SMALL_BLOB_BYTES_MAX;
pub use wire::TRACE_HEADER;

use beliefs::Question;
use dial::Dialer;
pub(crate) use inlets::Destination;
use inlets::{Inlets, Subscription};
use news::News;
use outlets::Outlets;
use round_trips::RoundTrips;

/// How an agent is a member.
#[derive(Clone, Debug)]
pub struct SwarmSettings {
    /// The file with this agent's key; made when it is not there.
    pub identity: PathBuf,
    /// The cluster's secrets.
    pub admission: Arc<Admission>,
    /// The file that the first of them came from, to be named to the operator.
    pub secret_file: PathBuf,
    /// Addresses to listen at.
    pub listen: Vec<IpAddr>,
    /// Port for control messages.
    pub port: u16,
    /// Port for pieces.
    pub data_port: u16,
    /// Addresses that others are told; empty for those that the agent listens at.
    pub advertise: Vec<IpAddr>,
    /// Where others may be.
    pub join: Vec<Target>,
    /// Whether the local network is asked for others.
    pub mdns: bool,
    /// Failure and cost domain.
    pub zone: String,
    /// For selecting members.
    pub labels: BTreeMap<String, String>,
    /// What is sent to others.
    pub upload: Throttle,
    /// What others send.
    pub download: Throttle,
}

/// Why the agent cannot be a member.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// Its key.
    #[error("the agent's key: {0}")]
    Identity(#[from] IdentityError),
    /// The control port.
    #[error("the swarm's control port: {0}")]
    Net(#[from] NetError),
    /// The data port.
    #[error("the swarm's data port: {0}")]
    Bind(#[from] BindError),
    /// What others would be told of this node.
    #[error("what other members are told of this node: {0}")]
    Member(#[from] MemberFault),
}

/// Members that an agent has, for a person who looks.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct MemberStatus {
    /// Its name, in hex.
    pub peer: String,
    /// Where it listens.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
    /// Port for pieces, at the same addresses; 0 for an agent that does not tell.
    #[serde(default)]
    pub data_port: u16,
    /// Its zone.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Version of its software.
    pub version: String,
    /// What this agent believes of it.
    #[serde(default)]
    pub state: MemberState,
    /// Time since it was last there, seconds; only of one that is gone.
    #[serde(default)]
    pub gone_seconds: Option<u64>,
    /// Time that a packet to it and its answer took lately, milliseconds; `None` for one that has not been asked yet, and for
    /// one whose port for pieces cannot be reached.
    pub latency_ms: Option<f64>,
    /// Whether it is this agent.
    pub is_self: bool,
}

/// Ports that are bound and a name: everything that can be refused has been.
pub struct Bound {
    settings: SwarmSettings,
    identity: Identity,
    net: NetHandle,
    events: mpsc::Receiver<NetEvent>,
    data: Vec<TcpListener>,
    membership: Membership,
    questions: (mpsc::Sender<Question>, mpsc::Receiver<Question>),
    origin: Instant,
}

impl Bound {
    /// Reads the key and binds the ports.
    ///
    /// # Errors
    /// What keeps the agent from being a member.
    pub async fn bind(settings: SwarmSettings) -> Result<Self, SwarmError> {
        let identity = Identity::open(&settings.identity)?;
        let at = |port| settings.listen.iter().map(move |ip| SocketAddr::new(*ip, port));
        // Each address by itself, as the control port does: `0.0.0.0` and `::` may both be meant.
        let data = at(settings.data_port).map(listen::bind_own_family).collect::<Result<Vec<_>, _>>()?;
        let (net, events) = Net::start(NetConfig {
            identity: identity.clone(),
            admission: Arc::clone(&settings.admission),
            listen: at(settings.port).collect(),
            mdns: settings.mdns,
            limits: NetLimits::default(),
        })
        .await?;
        let data_port =
            data.first().and_then(|listener| listener.local_addr().ok()).map_or(0, |at| at.port());
        let generation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let me = Member {
            peer: PeerId(identity.peer()),
            generation,
            addresses: members::advertised(&settings.advertise, net.listening()).into(),
            data_port,
            zone: settings.zone.as_str().into(),
            labels: settings.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let membership = Membership::new(Time::ZERO, me, rand::random())?;
        let (questions, origin) = (beliefs::questions(), Instant::now());
        Ok(Bound { settings, identity, net, events, data, membership, questions, origin })
    }
}

/// What the driver talks to. Cheap to clone.
#[derive(Clone)]
pub struct Swarm(Arc<Inner>);

struct Inner {
    me: Arc<Member>,
    identity: Identity,
    net: NetHandle,
    roster: RwLock<Arc<Roster>>,
    dialer: Arc<Dialer>,
    inlets: Inlets,
    outlets: Outlets,
    metrics: Arc<Metrics>,
    news: News,
    questions: mpsc::Sender<Question>,
    round_trips: Arc<RoundTrips>,
    upload: Throttle,
    download: Throttle,
    /// The last hashes that were signed, and the frame: they go to many members in a row.
    signed: Mutex<Option<(Arc<Hashes>, Vec<u8>)>>,
}

impl Swarm {
    /// The part that the driver needs.
    pub fn new(bound: &Bound, store: Store, metrics: Arc<Metrics>) -> Self {
        let me = Arc::clone(bound.membership.me());
        let proof = bound.settings.admission.proof(&me.peer.0);
        let round_trips = Arc::new(RoundTrips::default());
        let unreachable = metrics.members_unreachable.clone();
        let dialer = Dialer::new(bound.identity.clone(), proof, Arc::clone(&round_trips), unreachable);
        let dialer = Arc::new(dialer);
        Swarm(Arc::new(Inner {
            roster: RwLock::new(Arc::new(Roster::new([Arc::clone(&me)]))),
            identity: bound.identity.clone(),
            net: bound.net.clone(),
            inlets: Inlets::new(Arc::clone(&dialer), bound.settings.download.clone(), Arc::clone(&metrics)),
            outlets: Outlets::new(store, bound.settings.upload.clone(), Arc::clone(&metrics)),
            metrics,
            dialer,
            me,
            news: News::default(),
            questions: bound.questions.0.clone(),
            round_trips,
            upload: bound.settings.upload.clone(),
            download: bound.settings.download.clone(),
            signed: Mutex::default(),
        }))
    }

    /// Begins to talk to others; ends when `stop` is cancelled.
    pub fn spawn(
        &self,
        bound: Bound,
        driver: &Handle,
        routes: axum::Router,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Bound { settings, identity, events, data, membership, questions, origin, .. } = bound;
        for listener in data {
            let state = serve::ServeState {
                admission: Arc::clone(&settings.admission),
                outlets: self.0.outlets.clone(),
                driver: driver.clone(),
            };
            tasks.spawn(serve::serve(listener, identity.clone(), state, routes.clone(), stop.clone()));
        }
        let members = members::Members::new(
            self.clone(),
            (settings.join, settings.secret_file, settings.advertise),
            (events, questions.1),
            membership,
            origin,
            driver.clone(),
        );
        tasks.spawn(members.run(stop.clone()));
    }

    /// This agent's name.
    pub fn me(&self) -> PeerId {
        self.0.me.peer
    }

    /// All members, this one included.
    pub fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.0.roster.read())
    }

    /// How long a packet to a member and back takes; of one that has not been probed yet, what it took to connect to it.
    fn round_trip(&self, peer: &PeerId) -> Option<Duration> {
        let Inner { dialer, round_trips, .. } = &*self.0;
        let connected = || round_trips.of(peer).or_else(|| dialer.latency(peer));
        if dialer.has_failed(peer) { None } else { connected() }
    }

    /// What has happened between this node and others lately. Where a member is now, nothing is wrong any more: it may have
    /// called before it was called again.
    pub fn lately(&self) -> Lately {
        let mut lately = self.0.news.lately();
        let roster = self.roster();
        let is_member = |address: &SocketAddr| roster.iter().any(|member| member.addresses.contains(address));
        lately.rejected.retain(|rejection| !is_member(&rejection.address));
        lately
    }

    /// What is sent to others, and what others send.
    pub fn throttles(&self) -> (&Throttle, &Throttle) {
        (&self.0.upload, &self.0.download)
    }

    // ---- what the engine wants done ----

    /// Tells a member something. Opening and closing streams is done here, the rest is said.
    pub(crate) fn tell(&self, to: PeerId, message: Message, into: Option<Destination>, handle: &Handle) {
        match &message {
            Message::Subscribe { .. } => {
                let member = self.roster().get(&to).cloned();
                match (member, into) {
                    (Some(member), Some(into)) => {
                        let subscription = Subscription { member, message, into };
                        self.0.inlets.open(subscription, handle.clone());
                    }
                    _ => handle.input_detached(shoal_engine::Input::PeerLost { peer: to }),
                }
                return;
            }
            Message::Unsubscribe { digest, class } => return self.0.inlets.close(&(to, *digest, *class)),
            Message::Refuse { digest, class, .. } => self.0.outlets.close(&(to, *digest, *class)),
            _ => {}
        }
        self.say(to, self.frame(message), Class::Ordered);
    }

    /// Sends a piece on a stream that a member has opened.
    pub(crate) fn upload(&self, send: Send, flight: Option<Arc<FlightIo>>, handle: &Handle) {
        self.0.outlets.send(send, flight, handle);
    }

    fn frame(&self, mut message: Message) -> Vec<u8> {
        let hashes = match &message {
            Message::Hashes(hashes) if hashes.home == self.me() => Arc::clone(hashes),
            _ => return message.encode(),
        };
        let mut signed = self.0.signed.lock();
        match &*signed {
            Some((of, frame)) if Arc::ptr_eq(of, &hashes) => frame.clone(),
            _ => {
                messages::seal(&mut message, &self.me(), |bytes| self.0.identity.sign(bytes));
                let frame = message.encode();
                *signed = Some((hashes, frame.clone()));
                frame
            }
        }
    }

    fn say(&self, to: PeerId, frame: Vec<u8>, class: Class) {
        let roster = self.roster();
        let addresses = roster.get(&to).map_or(&[][..], |member| &member.addresses);
        if let Err(error) = self.0.net.send(to.0, addresses, class, frame) {
            tracing::debug!(?to, %error, "a message was not sent");
        }
    }

    fn set_roster(&self, roster: Arc<Roster>) {
        self.0.metrics.members.set(roster.len() as i64);
        *self.0.roster.write() = Arc::clone(&roster);
        let is_member = |peer: &PeerId| roster.contains(peer);
        self.0.inlets.retain(is_member);
        self.0.outlets.retain(is_member);
        self.0.dialer.retain(is_member);
        self.0.round_trips.retain(is_member);
    }
}

/// A member's name in full, for people and machines.
pub fn name(peer: &PeerId) -> String {
    peer.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The member that has this [`name`], if one can have it.
pub fn peer_named(name: &str) -> Option<PeerId> {
    let mut peer = PeerId([0; 32]);
    if name.len() != 2 * peer.0.len() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in peer.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(peer)
}
