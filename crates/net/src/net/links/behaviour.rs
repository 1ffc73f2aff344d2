//! What the swarm asks and tells.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use libp2p_core::transport::PortUse;
use libp2p_core::{Endpoint, Multiaddr, multiaddr};
use libp2p_identity::PeerId;
use libp2p_swarm::behaviour::{ConnectionEstablished, ListenFailure};
use libp2p_swarm::{ConnectionDenied, ConnectionId, FromSwarm, ListenError, NetworkBehaviour};

use super::dial::{chain, has_broken, is_ourselves};
use super::{Action, Connection, Dial, Link, Links};
use crate::net::handler::{Handler, Report};
use crate::net::post::Wish;
use crate::net::{NetEvent, Refusal, address};

/// Why a connection is not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("there is a connection to this peer already")]
    Duplicate,
    #[error("{0}")]
    Refused(Refusal),
    #[error("too many connections")]
    Full,
}

impl Links {
    /// An accepted connection ended before the other end had shown its key.
    fn not_secured(&mut self, address: SocketAddr, why: &(dyn std::error::Error + 'static)) {
        if has_broken(why) {
            // Nothing is known of who that was. Of two members that dial at the same time one closes its connection, and
            // load balancers look at ports in this way.
            tracing::debug!(%address, why = chain(why), "a connection ended before it was secure");
        } else {
            self.refuse(address, Refusal::Handshake(chain(why)));
        }
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
        Ok(self.handler(key, id, false))
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
        Ok(self.handler(key, id, true))
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
                    self.not_secured(connection.address, why);
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
