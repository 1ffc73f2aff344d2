//! Members whose ports for pieces cannot be reached, while their messages come.
//!
//! Question: a firewall lets messages through and no pieces; who brings the blob? Answer: the home hears of it and names others, and
//! where it has none it has this node fetch what is missing. A node that has had no piece from anybody, and could not connect to
//! several, or not to the same one twice, is on its own: nothing that a home could name would help it. Prevents: that a node asks
//! for feeds which it cannot reach, as fast as messages go, while its client waits.

use super::Exchange;
use crate::limits::PORTS_CLOSED_MAX;
use crate::peer::PeerId;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{Complaint, LeaseEnd};

impl Exchange {
    /// No stream can be opened at a member.
    pub fn handle_port_closed(&mut self, now: Time, peer: &PeerId, mail: &mut Mail) {
        let fed = self.fed_by(peer);
        if fed.is_empty() {
            return;
        }
        let is_news = self.closed.insert(*peer);
        let nothing_came = self.pace.gaps == 0 && self.leases.is_empty();
        if nothing_came && (!is_news || self.closed.len() >= PORTS_CLOSED_MAX) {
            self.take_leave(mail);
            return self.handle_alone(LeaseEnd::Denied, mail);
        }
        for class in fed {
            if is_news {
                self.complain(now, class, *peer, Complaint::Lost, mail);
                self.forget_source(class, peer, mail);
            } else {
                // Its home knows. When it is missed it is complained about again, and no sooner.
                self.fail_source(class, peer);
            }
        }
    }
}
