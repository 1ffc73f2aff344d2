//! What of a flight's bytes each ticket may have.
//!
//! Invariant (I2): before the digest is verified no ticket whose reader may end up with the complete blob gets a byte
//! of the last piece.

use std::collections::VecDeque;

use super::{Flight, Phase, Ticket};
use crate::io::{Outcome, Output};
use crate::pieces::last_piece_start;

impl Flight {
    /// Hands out what has become available.
    pub(super) fn deliver(&mut self, out: &mut VecDeque<Output>) {
        let Some(size) = self.size else { return };
        if !matches!(self.phase, Phase::Receiving | Phase::Verifying | Phase::Committing) {
            return;
        }
        let mut ended = Vec::new();
        let (have, verified, whole_wanted) = (&self.have, self.verified, &mut self.whole_wanted);
        // Whether the blob will be verified anyway must be known before anybody is exempt from waiting for it.
        for ticket in self.tickets.values() {
            *whole_wanted |= ticket.part.wants_whole(size);
        }
        let sealed_from = match (verified, *whole_wanted) {
            (true, _) | (false, false) => size,
            (false, true) => last_piece_start(size),
        };
        for (&id, ticket) in &mut self.tickets {
            let Some(range) = resolve(ticket, size) else {
                ended.push((id, Outcome::Unsatisfiable { size }));
                continue;
            };
            let to = have.contiguous_end(ticket.ready_to).min(sealed_from).min(range.end);
            let sealed = range.end == size && *whole_wanted && !verified;
            let complete = to >= range.end && !sealed;
            if to <= ticket.ready_to && !complete {
                continue;
            }
            if !ticket.served {
                ticket.served = true;
                out.push_back(Output::Serve { ticket: id, size, start: range.start, end: range.end });
            }
            if to > ticket.ready_to {
                ticket.ready_to = to;
                out.push_back(Output::Ready { ticket: id, to });
            }
            if complete {
                ended.push((id, Outcome::Delivered));
            }
        }
        for (ticket, outcome) in ended {
            self.end_ticket(ticket, outcome, out);
        }
    }
}

fn resolve(ticket: &mut Ticket, size: u64) -> Option<std::ops::Range<u64>> {
    if ticket.range.is_none() {
        ticket.range = ticket.part.resolve(size);
        ticket.ready_to = ticket.range.as_ref().map_or(0, |r| r.start);
    }
    ticket.range.clone()
}
