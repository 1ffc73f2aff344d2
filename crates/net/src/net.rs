//! Framed messages between agents that know the cluster's secret: the handle, the events, the limits.
//!
//! Invariants: for each peer the events are `Met (Frame)* Lost` again and again, or `Lost` alone when it could not be
//! reached; no frame of a peer comes before it has proved itself; `send` never waits.

mod address;
mod frame;
mod handler;
mod links;
mod post;
mod task;
mod transport;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{Admission, Identity, Key};
use post::Post;
use task::Command;

/// Longest frame. A roster of 5,000 members with labels is a quarter of it.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Commands that wait for the task: a `contact` for each address of a large headless Service.
const COMMANDS_MAX: usize = 8192;

/// Events that wait for the caller. Behind them, what peers send waits in their own buffers.
const EVENTS_MAX: usize = 1024;

/// What [`Net::start`] needs.
#[derive(Debug)]
pub struct NetConfig {
    /// Who we are.
    pub identity: Identity,
    /// Whom we talk to.
    pub admission: Arc<Admission>,
    /// Where others can connect; an unspecified address is that of each interface. Port 0 lets the kernel choose, see [`NetHandle::listening`]. May be empty.
    pub listen: Vec<SocketAddr>,
    /// Tell and ask the local network by multicast DNS, for a few machines on a desk. Everybody there sees our address.
    pub mdns: bool,
    /// How much of everything.
    pub limits: NetLimits,
}

/// Limits of [`Net`]. The defaults are right for nodes of a cluster.
#[derive(Clone, Debug)]
pub struct NetLimits {
    /// Connections that are kept. With more, those unused for longest are closed; nothing is lost by that. 16 MiB of memory.
    pub connections_max: usize,
    /// Connections that were accepted and have not proved themselves, in all.
    pub unproven_max: usize,
    /// The same, of one address: many agents may share one behind NAT, or on one machine.
    pub unproven_per_address_max: usize,
    /// How long a connection may take to be made, and then to prove itself.
    pub handshake_timeout: Duration,
    /// How long a peer may take nothing of what waits for it before it counts as dead.
    pub silence_max: Duration,
    /// Connections that are being made at a time. Others wait for their turn.
    pub dials_max: usize,
    /// Longest pause between two attempts to reach the same peer; the first is a hundredth of it.
    pub backoff_max: Duration,
    /// Frames that wait for one peer, of each class.
    pub queue_frames_max: usize,
    /// Their bytes.
    pub queue_bytes_max: usize,
    /// Bytes that wait for all peers together.
    pub queues_bytes_max: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            unproven_max: 512,
            unproven_per_address_max: 256,
            handshake_timeout: Duration::from_secs(5),
            silence_max: Duration::from_secs(8),
            dials_max: 32,
            backoff_max: Duration::from_secs(10),
            queue_frames_max: 4096,
            queue_bytes_max: 4 << 20,
            queues_bytes_max: 128 << 20,
        }
    }
}

/// What becomes of a frame when the peer reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The oldest make room. They overtake ordered frames. For what is worth nothing when it is late, such as probes.
    Lossy,
    /// Comes in order and without gaps, or [`NetEvent::Lost`] says that it may not have come.
    Ordered,
}

/// What happened.
#[derive(Debug)]
pub enum NetEvent {
    /// A connection to `peer` is there, and it has proved that it belongs here.
    Met {
        /// Who.
        peer: Key,
        /// The other end of the connection. Where the peer listens only if we dialed it.
        address: SocketAddr,
        /// Whether we dialed it.
        dialed: bool,
    },
    /// A frame came.
    Frame {
        /// From whom.
        from: Key,
        /// What.
        bytes: Vec<u8>,
    },
    /// The connection to `peer` broke, or could not be made. Frames that were on their way may be lost, those in its queue
    /// are. Once for each breakage; the next `send` tries again.
    Lost {
        /// Who.
        peer: Key,
        /// Why.
        why: Loss,
    },
    /// The addresses of this machine have changed: where others can connect now.
    Listening(Vec<SocketAddr>),
    /// Somebody who does not belong here connected, or answered at an address that we called. For the log; of many in a
    /// short time only some are reported.
    Stranger {
        /// The other end.
        address: SocketAddr,
        /// What was wrong.
        why: Refusal,
    },
    /// No member was met at an address given to [`NetHandle::contact`].
    Missed {
        /// The address.
        address: SocketAddr,
        /// Whether somebody answered and did not accept us: most likely one with another secret.
        refused: bool,
        /// Why, for the log.
        why: String,
    },
}

/// Why a peer was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// No address of it answered.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The connection was closed or reset by the other side or on the way.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It closed the connection before it had proved itself, several times.
    #[error("it does not accept us; is its secret another one?")]
    NotAccepted,
    /// It does not read what we send.
    #[error("it does not read what it is sent")]
    Stalled,
    /// More ordered frames wait for it than may.
    #[error("too much waits for it")]
    Overflow,
    /// It made a new connection while the last one seemed to be there: it, or its network, was gone.
    #[error("it connected anew")]
    Replaced,
    /// It sent something that is no frame.
    #[error("it sent something that is no frame: {0}")]
    Malformed(String),
}

/// Why somebody was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The proof is wrong: it does not know our secret.
    #[error("it does not know the cluster's secret")]
    WrongProof,
    /// No proof came.
    #[error("it did not prove itself in time")]
    NoProof,
    /// The encrypted connection could not be made: another protocol, or no key.
    #[error("no secure connection: {0}")]
    Handshake(String),
    /// Too many unproven connections.
    #[error("too many connections that have not proved themselves")]
    TooMany,
}

/// Why a frame was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The caller's fault.
    #[error("a frame of {0} bytes; 1 to {FRAME_BYTES_MAX} are possible")]
    Size(usize),
    /// The caller's fault: the name is our own.
    #[error("a frame to ourselves")]
    Ourselves,
    /// Too much waits for too many peers. A lossy frame is lost; take an ordered one for lost, too.
    #[error("too much waits for other peers")]
    Full,
    /// The network is closed.
    #[error("the network is closed")]
    Closed,
}

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Multicast does not work here.
    #[error("multicast DNS cannot be used")]
    Mdns(#[source] io::Error),
}

pub use transport::probe_when_idle;

/// Starts the network.
#[derive(Debug)]
pub struct Net;

/// Sends. Cheap to clone; the network ends when the last one is dropped.
#[derive(Clone)]
pub struct NetHandle {
    post: Arc<Post>,
    commands: mpsc::Sender<Command>,
    listening: Arc<[SocketAddr]>,
    own: Key,
}

impl Net {
    /// Listens, and runs a task on the current tokio runtime that does everything else. The receiver must be read: while
    /// it is full, nothing is read from peers.
    pub async fn start(config: NetConfig) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), NetError> {
        let own = config.identity.peer();
        let post = Arc::new(Post::new(&config.limits));
        let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let mut task = task::Task::new(config, Arc::clone(&post), command_receiver, event_sender)?;
        let listening = task.listen().await?;
        tokio::spawn(task.run());
        Ok((NetHandle { post, commands, listening: listening.into(), own }, events))
    }
}

impl NetHandle {
    /// Gives `frame` to the network, which makes a connection to `peer` at one of `addresses` if there is none. Never
    /// waits. What becomes of it if the peer cannot be reached or reads too slowly is said by `class`.
    pub fn send(
        &self,
        peer: Key,
        addresses: &[SocketAddr],
        class: Class,
        frame: Vec<u8>,
    ) -> Result<(), SendError> {
        if frame.is_empty() || frame.len() > FRAME_BYTES_MAX {
            return Err(SendError::Size(frame.len()));
        }
        if peer == self.own {
            return Err(SendError::Ourselves);
        }
        self.post.put(peer, addresses, class, frame)
    }

    /// Connects to whoever is at `address`, for finding the cluster. Answered by `Met`, `Missed` or `Stranger`, or by
    /// nothing if it is ourselves, a peer that we are connected to, or an address that is being tried. If thousands wait
    /// already, forgotten.
    pub fn contact(&self, address: SocketAddr) {
        let _ = self.commands.try_send(Command::Contact(address));
    }

    /// Drops the queue of `peer` and closes its connection. No `Lost` follows.
    pub async fn forget(&self, peer: Key) {
        let _ = self.commands.send(Command::Forget(peer)).await;
    }

    /// Where this node listens, with the ports that the kernel chose. An unspecified address is one entry for each
    /// address of this machine.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Sends what waits for peers that are connected, for at most `deadline`, then closes everything.
    pub async fn close(&self, deadline: Duration) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { deadline, done }).await.is_ok() {
            let _ = closed.await;
        }
    }
}

impl fmt::Debug for NetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetHandle").field("listening", &self.listening).finish_non_exhaustive()
    }
}
