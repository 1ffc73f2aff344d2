//! Leases that the home grants to this node.
//!
//! Question: on how many does a node work at a time? Answer: on as many as it may tell the next home of. A home has a member work on one at
//! a time; a few more are there when what the home said was lost, or another one has taken over. Prevents: a home that makes a node
//! go through ever more of them each time that it names one more.

use super::{Exchange, Work};
use crate::limits::LEASES_GRANTED_MAX;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{LeaseEnd, LeaseId, Message, Run};

impl Exchange {
    /// See [`Message::Lease`]. False if this node works on it already, or does not take it.
    pub fn handle_lease(&mut self, now: Time, lease: LeaseId, run: Run, mail: &mut Mail) -> bool {
        self.heard = now;
        if self.leases.contains_key(&lease) {
            return false;
        }
        let run = Run { first: run.first, end: run.end.min(self.have.total()) };
        if run.is_empty() || self.leases.len() >= LEASES_GRANTED_MAX as usize {
            let over = Message::Over { digest: self.digest, lease, at: run.first, end: LeaseEnd::GivenUp };
            mail.extend(self.home().map(|home| (home, over)));
            return false;
        }
        let at = self.have.first_missing(run.first).unwrap_or(run.end).min(run.end);
        self.leases.insert(lease, Work { run, at });
        self.end_leases(mail);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Algorithm, Digest};
    use crate::peer::PeerId;
    use crate::pieces::PIECE_BYTES_MAX;
    use crate::swarm::pieces::PieceSet;

    #[test]
    fn a_node_takes_no_more_leases_than_it_may_tell_of() {
        const PIECES: u32 = 2000;
        let (home, me, mut mail) = (PeerId([1; 32]), PeerId([9; 32]), Mail::new());
        let blob = (Digest::new(Algorithm::Sha256, &[5; 32]), u64::from(PIECES) * PIECE_BYTES_MAX);
        let have = PieceSet::new(PIECES);
        let mut exchange = Exchange::new(Time::ZERO, me, blob, have, (vec![home], false), &mut mail);
        let mut grant = |number, first| {
            mail.clear();
            let (lease, run) = (LeaseId { epoch: 1, number }, Run { first, end: first + 1 });
            let is_taken = exchange.handle_lease(Time::ZERO, lease, run, &mut mail);
            let is_refused = |(to, message): &(PeerId, Message)| {
                let over = matches!(message, Message::Over { end: LeaseEnd::GivenUp, .. });
                over && *to == home
            };
            (is_taken, mail.iter().any(is_refused))
        };
        assert_eq!(grant(PIECES, PIECES), (false, true), "there is no such piece");
        let granted: Vec<_> = (0..1000).map(|number| grant(number, 2 * number)).collect();
        assert_eq!(grant(0, 0), (false, false), "that one it works on");
        let most = LEASES_GRANTED_MAX as usize;
        assert!(granted[..most].iter().all(|told| *told == (true, false)), "{granted:?}");
        assert!(granted[most..].iter().all(|told| *told == (false, true)), "{granted:?}");
        assert_eq!(exchange.leases.len(), most);
    }
}
