//! The place where the driver tells a waiting request what it may send.
//!
//! Invariant: it is written by the driver only, and read by one request; the reader is woken for every change.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::{Input, TicketId};

use super::Handle;
use super::flight::FlightIo;
use crate::node::Cause;

/// How a ticket ended, with what the sources said.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The engine's word.
    pub outcome: Outcome,
    /// What the sources said, oldest first.
    pub causes: Vec<Cause>,
    /// For what is stored: whether another member has brought it since it was asked for.
    pub brought: bool,
}

impl Ending {
    /// The driver is no longer there.
    pub(super) fn gone() -> Self {
        Ending { outcome: Outcome::Failed(PullFault::Draining), causes: Vec::new(), brought: false }
    }
}

/// What can be sent: set once, when the first bytes are there.
#[derive(Clone)]
pub(super) struct Serving {
    pub size: u64,
    pub range: Range<u64>,
    pub flight: Arc<FlightIo>,
}

#[derive(Default)]
struct State {
    joined: bool,
    serving: Option<Serving>,
    ready_to: u64,
    ending: Option<Ending>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    waker: AtomicWaker,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        Arc::new(Shared { state: Mutex::default(), waker: AtomicWaker::new() })
    }

    pub fn serve(&self, size: u64, range: Range<u64>, flight: Arc<FlightIo>) {
        {
            let mut state = self.state.lock();
            state.ready_to = range.start;
            state.serving = Some(Serving { size, range, flight });
        }
        self.waker.wake();
    }

    /// The blob was already on its way when this request came.
    pub fn join(&self) {
        self.state.lock().joined = true;
    }

    pub fn ready(&self, to: u64) {
        self.state.lock().ready_to = to;
        self.waker.wake();
    }

    pub fn end(&self, ending: Ending) {
        self.state.lock().ending = Some(ending);
        self.waker.wake();
    }

    /// Bytes ready beyond `at`, or how it ended.
    pub fn poll_ready(&self, cx: &mut Context<'_>, at: u64) -> Poll<Result<u64, Ending>> {
        // Registered before looking, or a change in between would wake nobody.
        self.waker.register(cx.waker());
        let state = self.state.lock();
        if state.ready_to > at {
            return Poll::Ready(Ok(state.ready_to));
        }
        match &state.ending {
            Some(ending) => Poll::Ready(Err(ending.clone())),
            None => Poll::Pending,
        }
    }

    fn poll_served(&self, cx: &mut Context<'_>) -> Poll<Result<Serving, Ending>> {
        self.waker.register(cx.waker());
        let state = self.state.lock();
        match (&state.serving, &state.ending) {
            (Some(serving), _) => Poll::Ready(Ok(serving.clone())),
            (None, Some(ending)) => Poll::Ready(Err(ending.clone())),
            (None, None) => Poll::Pending,
        }
    }
}

/// A request that waits. Dropping it tells the engine that the client has gone.
pub struct Ticket {
    id: TicketId,
    pub(super) shared: Arc<Shared>,
    handle: Handle,
}

impl Ticket {
    pub(super) fn new(id: TicketId, shared: Arc<Shared>, handle: Handle) -> Self {
        Ticket { id, shared, handle }
    }

    /// Waits until there is something to send, or until it is clear that there will not be.
    pub(super) async fn served(&self) -> Result<Serving, Ending> {
        std::future::poll_fn(|cx| self.shared.poll_served(cx)).await
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.shared.state.lock().ending.clone()
    }

    /// Whether another request had already set the blob in motion.
    pub(super) fn joined(&self) -> bool {
        self.shared.state.lock().joined
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.shared.state.lock().ending.is_none() {
            self.handle.input_detached(Input::Close { ticket: self.id });
        }
    }
}
