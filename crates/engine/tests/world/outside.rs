//! What happens to a world from outside: clients come and go, manifests name blobs, the agent ends.

use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::{Algorithm, Digest, Input, TicketId};

use super::plan::Plan;
use super::{Blob, BlobNo, Client, Event, World, check, scope_no};

/// Something that happens from outside.
#[derive(Clone, Debug)]
pub enum Act {
    Open {
        blob: BlobNo,
        scope: usize,
        part: Part,
        leaves_after: Option<u64>,
    },
    /// The client that came `.0`-th leaves.
    Close(u64),
    Describe {
        blob: BlobNo,
        size: u64,
        prefetch: bool,
    },
    Drain,
    Stop,
}

impl World {
    pub fn add(&mut self, plan: Plan) -> BlobNo {
        let number = self.blobs.len();
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        self.blobs.push(Blob {
            digest: Digest::new(Algorithm::Sha256, &hash),
            disk: plan.disk.clone(),
            plan,
            place: None,
            busy: None,
            checkpointing: None,
            blames: Vec::new(),
            requests: Vec::new(),
            size_requests: Vec::new(),
            fetched: 0,
            trims: 0,
            commits: 0,
            checkpoints: 0,
            verdicts: Vec::new(),
            reasons: Vec::new(),
        });
        number
    }

    pub fn open(&mut self, blob: BlobNo, part: Part) -> TicketId {
        self.open_in(blob, 0, part)
    }

    pub fn open_in(&mut self, blob: BlobNo, scope: usize, part: Part) -> TicketId {
        self.act(Act::Open { blob, scope, part, leaves_after: None });
        TicketId(self.clients.len() as u64)
    }

    /// A client that leaves as soon as it has `bytes`.
    pub fn open_briefly(&mut self, blob: BlobNo, part: Part, bytes: u64) -> TicketId {
        self.act(Act::Open { blob, scope: 0, part, leaves_after: Some(bytes) });
        TicketId(self.clients.len() as u64)
    }

    pub fn close(&mut self, ticket: TicketId) {
        self.act(Act::Close(ticket.0 - 1));
    }

    pub fn describe(&mut self, blob: BlobNo, size: u64) {
        self.act(Act::Describe { blob, size, prefetch: false });
    }

    pub fn prefetch(&mut self, blob: BlobNo) {
        let size = self.blobs[blob].plan.size;
        self.act(Act::Describe { blob, size, prefetch: true });
    }

    pub fn drain(&mut self) {
        self.act(Act::Drain);
    }

    pub fn stop(&mut self) {
        self.act(Act::Stop);
    }

    /// Lets something happen from outside later.
    pub fn plan(&mut self, after: Duration, act: Act) {
        self.schedule(after, Event::Do(act));
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Open { blob, scope, part, leaves_after } => {
                let ticket = TicketId(self.clients.len() as u64 + 1);
                self.clients.insert(ticket, Client::new(blob, part, leaves_after));
                let digest = self.blobs[blob].digest;
                self.input(Input::Open { ticket, digest, scope: scope_no(scope), part });
            }
            Act::Close(number) => {
                let ticket = TicketId(number + 1);
                let Some(client) = self.clients.get_mut(&ticket) else { return };
                if client.outcome.is_none() && !client.closed {
                    client.closed = true;
                    self.input(Input::Close { ticket });
                }
            }
            Act::Describe { blob, size, prefetch } => {
                let digest = self.blobs[blob].digest;
                self.input(Input::Described { digest, size, prefetch: prefetch.then(|| scope_no(0)) });
            }
            Act::Drain => {
                self.draining = true;
                self.input(Input::Drain);
            }
            Act::Stop => {
                self.draining = true;
                self.input(Input::Stop);
                let open = self.clients.values().filter(|c| c.is_open()).count();
                check!(self, open == 0, "{open} tickets outlive the stop");
            }
        }
    }
}
