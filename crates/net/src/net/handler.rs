//! One connection: proves, reads frames, writes frames. Decides nothing: what it learns it tells
//! [`Links`](super::links), which says when it may begin to send and when to stop.
//!
//! ```text
//! dialer:   opens the stream, sends its proof, waits for the other's
//! acceptor: waits for the dialer's proof; if it holds and Links says Open, sends its own
//! then both: frames, until one says farewell (a frame of no bytes) and the other has answered it
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use libp2p_core::upgrade::ReadyUpgrade;
use libp2p_swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p_swarm::{
    ConnectionHandler, ConnectionHandlerEvent, ConnectionId, Stream, StreamProtocol, SubstreamProtocol,
};
use tokio::time::{Sleep, sleep};

use super::frame::{Read, Reader, Writer};
use super::post::Post;
use super::{FRAME_BYTES_MAX, Loss};
use crate::admission::PROOF_BYTES;
use crate::{Admission, Key};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/control/1");

/// What [`Links`](super::links) tells a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The other side has proved itself and this connection is the one: answer, send.
    Open,
    /// Send what waits, then say farewell.
    Retire,
}

/// What a connection tells [`Links`](super::links).
#[derive(Debug)]
pub(super) enum Report {
    /// The other side belongs here.
    Proved,
    /// It showed a wrong proof.
    Wrong,
    /// It showed none in time.
    Late,
    Frame(Vec<u8>),
    /// It will send no more and waits for our farewell.
    Farewell,
    /// It has answered our farewell.
    Done,
    Broken(Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been proved by the other side.
    Unproven,
    /// It has; [`Links`](super::links) has not answered yet.
    Proven,
    Open,
    /// Sends what waits, then our farewell.
    Retiring,
    /// The last report has been made.
    Over,
}

pub(super) struct Handler {
    id: ConnectionId,
    dialer: bool,
    peer: Key,
    proof: [u8; PROOF_BYTES],
    admission: Arc<Admission>,
    post: Arc<Post>,
    silence_max: Duration,
    stream: Option<Stream>,
    asked: bool,
    phase: Phase,
    farewell_read: bool,
    farewell_written: bool,
    /// Whether our farewell came first.
    leader: bool,
    reader: Reader,
    writer: Writer,
    /// Until the other side has proved itself; later, until it takes something of what is written. Only while it runs:
    /// an idle connection has no timer.
    deadline: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl Handler {
    #[expect(clippy::too_many_arguments, reason = "called in one place; a struct would say the same twice")]
    pub fn new(
        id: ConnectionId,
        dialer: bool,
        peer: Key,
        proof: [u8; PROOF_BYTES],
        admission: Arc<Admission>,
        post: Arc<Post>,
        handshake_timeout: Duration,
        silence_max: Duration,
    ) -> Self {
        Self {
            id,
            dialer,
            peer,
            proof,
            admission,
            post,
            silence_max,
            stream: None,
            asked: false,
            phase: Phase::Unproven,
            farewell_read: false,
            farewell_written: false,
            leader: false,
            reader: Reader::default(),
            writer: Writer::default(),
            deadline: Some(Box::pin(sleep(handshake_timeout))),
            waker: None,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn over(&mut self, report: Report) -> Poll<Report> {
        self.phase = Phase::Over;
        self.stream = None;
        self.deadline = None;
        Poll::Ready(report)
    }

    /// From now on the other side has to do something.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let mut deadline = Box::pin(sleep(self.silence_max));
        // Registers with the timer; it is not over yet.
        let _ = deadline.poll_unpin(cx);
        self.deadline = Some(deadline);
    }

    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        if self.phase == Phase::Over {
            return Poll::Pending;
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.poll_unpin(cx).is_ready()) {
            return match self.phase {
                Phase::Unproven => self.over(Report::Late),
                _ => self.over(Report::Broken(Loss::Stalled)),
            };
        }
        let Some(mut stream) = self.stream.take() else { return Poll::Pending };
        let written = self.poll_write(&mut stream, cx);
        if let Poll::Ready(Err(error)) = written {
            return self.over(Report::Broken(Loss::Broken(error.to_string())));
        }
        if self.farewell_written && self.writer.is_idle() {
            if self.farewell_read && self.leader {
                return self.over(Report::Done);
            }
            if self.deadline.is_none() {
                self.arm(cx);
            }
        }
        let read = self.poll_read(&mut stream, cx);
        if self.phase != Phase::Over {
            self.stream = Some(stream);
        }
        read
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while matches!(self.phase, Phase::Open | Phase::Retiring)
                && !self.farewell_written
                && self.writer.has_room()
            {
                match self.post.poll_take(&self.peer, self.id, cx) {
                    Poll::Ready(frame) => self.writer.add(&frame),
                    Poll::Pending if self.phase == Phase::Retiring => {
                        self.farewell_written = true;
                        self.writer.add(&[]);
                    }
                    Poll::Pending => break,
                }
            }
            if self.writer.is_idle() {
                return Poll::Ready(Ok(()));
            }
            let (moved, written) = self.writer.poll(stream, cx);
            if self.phase != Phase::Unproven {
                if moved || written.is_ready() {
                    self.deadline = None;
                }
                if written.is_pending() && self.deadline.is_none() {
                    self.arm(cx);
                }
            }
            match written {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    fn poll_read(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Report> {
        if self.farewell_read {
            return Poll::Pending;
        }
        let bytes_max = if self.phase == Phase::Unproven { PROOF_BYTES } else { FRAME_BYTES_MAX };
        let frame = match self.reader.poll(stream, bytes_max, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Read::Frame(frame))) => frame,
            Poll::Ready(Ok(Read::End)) => {
                return self.over(Report::Broken(Loss::Broken("it closed it".into())));
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return match self.phase {
                    Phase::Unproven => self.over(Report::Wrong),
                    _ => self.over(Report::Broken(Loss::Malformed(error.to_string()))),
                };
            }
            Poll::Ready(Err(error)) => {
                return self.over(Report::Broken(Loss::Broken(error.to_string())));
            }
        };
        if self.phase == Phase::Unproven {
            if !self.admission.admits_bytes(&self.peer, &frame) {
                return self.over(Report::Wrong);
            }
            self.phase = Phase::Proven;
            self.deadline = None;
            return Poll::Ready(Report::Proved);
        }
        if frame.is_empty() {
            self.farewell_read = true;
            return Poll::Ready(Report::Farewell);
        }
        Poll::Ready(Report::Frame(frame))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    /// Connections end when [`Links`](super::links) says so.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if self.dialer && !self.asked {
            self.asked = true;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.poll_report(cx) {
            Poll::Ready(report) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)),
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match (order, self.phase) {
            (Order::Open, Phase::Proven) => {
                self.phase = Phase::Open;
                if !self.dialer {
                    self.writer.add(&self.proof);
                }
            }
            (Order::Retire, Phase::Open) => {
                self.phase = Phase::Retiring;
                self.leader = !self.farewell_read;
            }
            _ => {}
        }
        self.wake();
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. })
                if self.phase == Phase::Unproven =>
            {
                self.stream = Some(protocol);
                self.writer.add(&self.proof);
            }
            // A dialer is not asked for anything, and nobody needs a second stream: those are dropped.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
                if !self.dialer && !self.asked && self.phase == Phase::Unproven =>
            {
                self.asked = true;
                self.stream = Some(protocol);
            }
            // Somebody else's protocol: the deadline ends it.
            ConnectionEvent::DialUpgradeError(_) | ConnectionEvent::ListenUpgradeError(_) => {}
            _ => {}
        }
        self.wake();
    }
}
