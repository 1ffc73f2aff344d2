//! The clients of a world: what each was promised and given.

use std::ops::Range;
use std::time::Duration;

use shoal_engine::TicketId;
use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;
use shoal_engine::limits::TAIL_BYTES_MAX;
use shoal_engine::pieces::{BLOB_BYTES_MAX, last_piece_start};

use super::{Act, Blame, BlobNo, Event, World, check};
use crate::world::plan::Disk;

/// One request.
#[derive(Debug)]
pub struct Client {
    pub blob: BlobNo,
    pub part: Part,
    pub served: Option<Range<u64>>,
    pub ready_to: u64,
    pub outcome: Option<Outcome>,
    pub closed: bool,
    /// Leaves when it has this many bytes.
    leaves_after: Option<u64>,
}

impl Client {
    pub(super) fn new(blob: BlobNo, part: Part, leaves_after: Option<u64>) -> Client {
        Client { blob, part, served: None, ready_to: 0, outcome: None, closed: false, leaves_after }
    }

    pub fn is_open(&self) -> bool {
        self.outcome.is_none() && !self.closed
    }

    /// Bytes that it has been given.
    pub fn received(&self) -> u64 {
        self.served.as_ref().map_or(0, |range| self.ready_to - range.start)
    }
}

/// Whether a client that asked for this may hold the complete blob in the end. Said here again, and not asked of the
/// engine, because the engine's own word for it is among the things that are checked.
fn may_complete(part: Part, range: &Range<u64>, size: u64) -> bool {
    match part {
        Part::Whole | Part::From(_) => true,
        Part::Bounded(..) | Part::Suffix(_) => {
            *range == (0..size) || (range.end == size && range.end - range.start > TAIL_BYTES_MAX)
        }
    }
}

impl World {
    pub(super) fn serve(&mut self, ticket: TicketId, size: u64, range: Range<u64>) {
        let client = &self.clients[&ticket];
        check!(self, client.is_open(), "{ticket:?} is served after its end");
        check!(self, client.served.is_none(), "{ticket:?} is served twice");
        let place = self.blobs[client.blob].place.as_ref();
        check!(
            self,
            place.is_some_and(|p| p.size == Some(size)),
            "{ticket:?} is served {size} bytes of nothing"
        );
        let meant = client.part.resolve(size);
        check!(self, meant == Some(range.clone()), "{ticket:?} means {meant:?}, and is served {range:?}");
        let client = self.clients.get_mut(&ticket).expect("seen above");
        client.ready_to = range.start;
        client.served = Some(range);
    }

    pub(super) fn ready(&mut self, ticket: TicketId, to: u64) {
        let client = &self.clients[&ticket];
        check!(self, client.is_open(), "{ticket:?} is given bytes after its end");
        let Some(range) = client.served.clone() else { self.fail("bytes for a client that was not served") };
        let from = client.ready_to;
        check!(self, to > from && to <= range.end, "{ticket:?} of {range:?} goes from {from} to {to}");
        let Some(place) = &self.blobs[client.blob].place else { self.fail("bytes out of a closed place") };
        check!(self, place.written.contains(from..to), "{ticket:?} is given bytes that are not there");
        let size = place.size.expect("checked when it was served");
        let sealed = may_complete(client.part, &range, size) && !place.verified;
        let last = last_piece_start(size);
        check!(
            self,
            !sealed || to <= last,
            "I2: {ticket:?} is given {to} of {size}, the last piece unverified"
        );
        let client = self.clients.get_mut(&ticket).expect("seen above");
        client.ready_to = to;
        if client.leaves_after.is_some_and(|bytes| to - range.start >= bytes) {
            client.leaves_after = None;
            self.schedule(Duration::ZERO, Event::Do(Act::Close(ticket.0 - 1)));
        }
    }

    pub(super) fn end(&mut self, ticket: TicketId, outcome: Outcome) {
        let client = &self.clients[&ticket];
        check!(self, client.is_open(), "{ticket:?} ends a second time");
        let blob = &self.blobs[client.blob];
        match outcome {
            Outcome::Delivered => {
                let Some(range) = &client.served else { self.fail("delivered without an answer") };
                check!(
                    self,
                    client.ready_to == range.end,
                    "{ticket:?} ends at {} of {range:?}",
                    client.ready_to
                );
                let Some(place) = &blob.place else { self.fail("delivered out of a closed place") };
                let size = place.size.expect("checked when it was served");
                let trusted = place.verified || !may_complete(client.part, range, size);
                check!(self, trusted, "I2: {ticket:?} has all of its bytes unverified");
            }
            Outcome::Stored => {
                check!(self, client.served.is_none(), "{ticket:?} is served by two");
                check!(self, blob.disk == Disk::Whole, "{ticket:?} is sent to a store that has nothing");
            }
            Outcome::Unsatisfiable { size } => {
                check!(self, client.served.is_none(), "{ticket:?} is refused after an answer");
                check!(self, client.part.resolve(size).is_none(), "{ticket:?} can be satisfied from {size}");
            }
            Outcome::PassThrough => {
                let local = blob.blames.iter().any(|b| matches!(b, Blame::Local(_)));
                let huge = blob.plan.size > BLOB_BYTES_MAX;
                let crowded = self.engine.flight(&blob.digest).is_none();
                check!(self, local || huge || crowded, "{ticket:?} goes past a healthy store");
            }
            Outcome::Failed(fault) => {
                let drained = self.draining && fault == shoal_engine::io::PullFault::Draining;
                check!(self, drained || blob.explains(fault), "nothing explains {fault:?}");
            }
        }
        let client = self.clients.get_mut(&ticket).expect("seen above");
        client.outcome = Some(outcome);
    }
}
