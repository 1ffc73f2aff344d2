//! The task that drives libp2p's swarm, and hands events to the caller as fast as the caller takes them.

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
        Ok(Self { swarm, listen: config.listen, post, commands, events })
    }

    /// Listens at all addresses, and says where that is.
    pub async fn listen(&mut self) -> Result<Vec<SocketAddr>, NetError> {
        let mut waiting = Vec::new();
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
        let mut listening = Vec::new();
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        while let Some((_, address)) = waiting.first().copied() {
            let failed = |source| NetError::Listen { address, source };
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some())
                .await
                .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
            match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.retain(|(listener, _)| *listener != listener_id);
                    listening.extend(address::socket(&address));
                }
                SwarmEvent::ListenerClosed { reason: Err(source), .. } => return Err(failed(source)),
                _ => {}
            }
        }
        Ok(listening)
    }

    /// Runs until the last handle is dropped, nobody takes events any more, or it is told to close.
    pub async fn run(self) {
        let Self { mut swarm, post, mut commands, events, .. } = self;
        let mut waiting: Option<NetEvent> = None;
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
                        waiting = None;
                    }
                },
                () = sleep_until(until), if closing.is_some() => break,
                permit = events.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => break,
                },
                event = swarm.select_next_some(), if waiting.is_none() => match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Links(event)) if closing.is_some() => {
                        let _ = events.try_send(event);
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Links(event)) => waiting = Some(event),
                    SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => discovered(&mut swarm, event),
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
