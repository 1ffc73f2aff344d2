//! The task that drives libp2p's swarm, and hands events to the caller as fast as the caller takes them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use libp2p_core::transport::TransportError;
use libp2p_swarm::behaviour::toggle::Toggle;
use libp2p_swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::links::Links;
use super::post::Post;
use super::{NetConfig, NetError, NetEvent, address, transport};
use crate::Key;

/// Until the kernel has told the addresses of this machine.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of all interfaces come one after the other; so long after one there is no more.
const NEXT_ADDRESS_MAX: Duration = Duration::from_millis(50);

/// Reports of one connection that wait for the swarm. Behind them, its frames wait in its own buffers.
const REPORTS_PER_CONNECTION: usize = 4;

pub(super) enum Command {
    Contact(SocketAddr),
    Forget(Key),
    Close { deadline: Duration, done: oneshot::Sender<()> },
}

pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    listen: Vec<SocketAddr>,
    listening: Vec<SocketAddr>,
    /// What happened before [`run`](Self::run).
    early: VecDeque<NetEvent>,
    post: Arc<Post>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p_swarm::derive_prelude")]
struct Behaviour {
    links: Links,
    mdns: Toggle<libp2p_mdns::tokio::Behaviour>,
}

impl Task {
    pub fn new(
        config: NetConfig,
        post: Arc<Post>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        let local = address::peer_id(&config.identity.peer());
        let mdns = config
            .mdns
            .then(|| libp2p_mdns::tokio::Behaviour::new(libp2p_mdns::Config::default(), local))
            .transpose()
            .map_err(NetError::Mdns)?;
        let transport = transport::build(&config.identity, &config.limits);
        let links = Links::new(&config.identity, config.admission, Arc::clone(&post), config.limits);
        let swarm_config = libp2p_swarm::Config::with_tokio_executor()
            .with_per_connection_event_buffer_size(REPORTS_PER_CONNECTION)
            .with_max_negotiating_inbound_streams(1);
        let swarm = Swarm::new(transport, Behaviour { links, mdns: mdns.into() }, local, swarm_config);
        Ok(Self {
            swarm,
            listen: config.listen,
            listening: Vec::new(),
            early: VecDeque::new(),
            post,
            commands,
            events,
        })
    }

    /// Listens at all addresses, and says where that is.
    pub async fn listen(&mut self) -> Result<Vec<SocketAddr>, NetError> {
        let mut waiting = Vec::new();
        let of_interfaces = self.listen.iter().any(|address| address.ip().is_unspecified());
        for address in std::mem::take(&mut self.listen) {
            let listener =
                self.swarm.listen_on(address::multiaddr(address)).map_err(|error| NetError::Listen {
                    address,
                    source: match error {
                        TransportError::Other(source) => source,
                        other => io::Error::other(other.to_string()),
                    },
                })?;
            waiting.push((listener, address));
        }
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        while let Some((_, address)) = waiting.first().copied() {
            let failed = |source| NetError::Listen { address, source };
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some())
                .await
                .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
            match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.retain(|(listener, _)| *listener != listener_id);
                    self.listening.extend(address::socket(&address));
                }
                SwarmEvent::ListenerClosed { reason: Err(source), .. } => return Err(failed(source)),
                event => self.handle_early(event),
            }
        }
        // `0.0.0.0` is the address of each interface, of which loopback is the first.
        while of_interfaces && Instant::now() < deadline {
            let event = tokio::time::timeout(NEXT_ADDRESS_MAX, self.swarm.select_next_some());
            match event.await {
                Ok(SwarmEvent::NewListenAddr { address, .. }) => {
                    self.listening.extend(address::socket(&address));
                }
                Ok(event) => self.handle_early(event),
                Err(_) => break,
            }
        }
        Ok(self.listening.clone())
    }

    /// Others may be there before all addresses are known.
    fn handle_early(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Links(event)) => self.early.push_back(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => discovered(&mut self.swarm, event),
            _ => {}
        }
    }

    /// Runs until the last handle is dropped, nobody takes events any more, or it is told to close.
    pub async fn run(self) {
        let Self { mut swarm, mut listening, early: mut waiting, post, mut commands, events, .. } = self;
        let mut closing: Option<(Instant, oneshot::Sender<()>)> = None;
        loop {
            if closing.is_some() && swarm.behaviour().links.is_closed() {
                break;
            }
            let until = closing.as_ref().map_or_else(Instant::now, |(until, _)| *until);
            tokio::select! {
                command = commands.recv() => match command {
                    None => break,
                    Some(Command::Contact(address)) => swarm.behaviour_mut().links.contact(address),
                    Some(Command::Forget(peer)) => swarm.behaviour_mut().links.forget(peer),
                    Some(Command::Close { deadline, done }) => {
                        post.close();
                        swarm.behaviour_mut().links.retire_all();
                        closing = Some((Instant::now() + deadline, done));
                        // Whoever closes may have stopped taking events.
                        waiting.clear();
                    }
                },
                () = sleep_until(until), if closing.is_some() => break,
                permit = events.reserve(), if !waiting.is_empty() => match (permit, waiting.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => break,
                },
                event = swarm.select_next_some(), if waiting.is_empty() => match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Links(event)) if closing.is_some() => {
                        let _ = events.try_send(event);
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Links(event)) => waiting.push_back(event),
                    SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => discovered(&mut swarm, event),
                    SwarmEvent::NewListenAddr { address, .. } => {
                        listening.extend(address::socket(&address));
                        waiting.push_back(NetEvent::Listening(listening.clone()));
                    }
                    SwarmEvent::ExpiredListenAddr { address, .. } => {
                        let gone = address::socket(&address);
                        listening.retain(|address| Some(*address) != gone);
                        waiting.push_back(NetEvent::Listening(listening.clone()));
                    }
                    SwarmEvent::ListenerError { error, .. } => {
                        tracing::warn!(%error, "cannot accept a connection of another agent");
                    }
                    SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                        tracing::error!(%error, "other agents can no longer connect");
                    }
                    _ => {}
                },
            }
        }
        post.close();
        // Ports are free before anybody learns that it is over.
        drop(swarm);
        if let Some((_, done)) = closing {
            let _ = done.send(());
        }
    }
}

fn discovered(swarm: &mut Swarm<Behaviour>, event: libp2p_mdns::Event) {
    let libp2p_mdns::Event::Discovered(found) = event else { return };
    for address in found.iter().filter_map(|(_, address)| address::socket(address)) {
        swarm.behaviour_mut().links.contact(address);
    }
}

#[cfg(test)]
mod tests;
