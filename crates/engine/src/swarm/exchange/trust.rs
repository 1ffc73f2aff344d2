//! Whose word about pieces counts, and what is done when nothing that arrives fits it.
//!
//! Question: pieces come and do not match the list, or come and have no hash; what is wrong, they or the list? Answer: a
//! feed whose piece does not match is complained about, and the home, which hears more, finds out ([`Home`]). If for some
//! time nothing counts of what comes, the home itself is not believed any more: the next one is joined, with nothing of the
//! list but what this node has seen itself. After a few of them everything comes straight from upstream. Prevents: a
//! home that blocks a blob.
//!
//! [`Home`]: crate::swarm::home::Home

use std::sync::Arc;

use super::{Arrival, Exchange};
use crate::limits::{
    HASH_WAIT, HOMES_DOUBTED_MAX, LIST_PATIENCE, PENDING_PIECES_MAX, REFUSED_PIECES_MIN, RUNS_PER_MESSAGE_MAX,
};
use crate::peer::PeerId;
use crate::swarm::classes::class_of;
use crate::swarm::home::Mail;
use crate::swarm::list::{Verdict, Via};
use crate::time::Time;
use crate::wire::{Complaint, Hashes, LeaseEnd, Message, PieceHash, Run};

/// What is known of the list's worth.
pub(super) struct Trust {
    /// When a piece counted last, or a list began.
    pub counted: Time,
    /// Pieces that have come since and did not match.
    pub refused: u32,
    /// Homes that are not believed any more.
    pub homes: Vec<PeerId>,
}

impl Exchange {
    /// Whose word these hashes are, as far as this node knows; `None` if they are void. With a new list of the home the one
    /// before is. Those of a home that was not
    /// joined count only if it `is_home` all the same.
    fn vouched(&mut self, hashes: &Hashes, is_home: impl Fn(&PeerId) -> bool) -> Option<Via> {
        match self.list_of {
            Some((home, list)) if home == hashes.home => {
                if hashes.list > list {
                    self.renew_list(hashes.list);
                }
                (hashes.list >= list).then_some(Via::Home)
            }
            _ => is_home(&hashes.home).then_some(Via::Other(hashes.home)),
        }
    }

    /// See [`Message::Hashes`]. `is_home` tells whether a member may keep the book of this blob. Answers the pieces that
    /// were waiting and are judged now, with their senders and whether they count; and whether it is to be passed on.
    pub fn handle_hashes(
        &mut self,
        now: Time,
        hashes: &Arc<Hashes>,
        is_home: impl Fn(&PeerId) -> bool,
        mail: &mut Mail,
    ) -> (Vec<(u32, PeerId, bool)>, bool) {
        let Some(via) = self.vouched(hashes, is_home) else { return (Vec::new(), false) };
        let (news, worth) = self.list.take(hashes, via);
        let mut judged = Vec::new();
        for entry in &news {
            let Some((sender, hash, _)) = self.pending.remove(&entry.piece) else { continue };
            match self.judge(now, sender, entry.piece, hash, mail) {
                Arrival::Pending => {}
                arrival => judged.push((entry.piece, sender, arrival == Arrival::Accepted)),
            }
        }
        (judged, worth)
    }

    /// The home has begun a new list: what it said before is void.
    fn renew_list(&mut self, list: u64) {
        self.list.forget_others();
        self.list_of = self.list_of.map(|(home, _)| (home, list));
        self.trust.refused = 0;
    }

    // ---- pieces ----

    pub(super) fn judge(
        &mut self,
        now: Time,
        from: PeerId,
        piece: u32,
        hash: PieceHash,
        mail: &mut Mail,
    ) -> Arrival {
        match self.list.judge(piece, hash, &from) {
            Verdict::Right => {
                (self.trust.counted, self.trust.refused) = (now, 0);
                self.insert(piece);
                self.end_leases(mail);
                Arrival::Accepted
            }
            Verdict::Unknown => self.wait_for_hash(now, from, piece, hash),
            // The word of another home may itself be the lie: that of the joined one decides whom to blame.
            Verdict::Wrong if !self.list.is_trusted(piece) => {
                self.ask_proof(now, vec![Run { first: piece, end: piece + 1 }], mail);
                self.wait_for_hash(now, from, piece, hash)
            }
            Verdict::Wrong => {
                self.trust.refused += 1;
                let class = class_of(piece, self.classes.len() as u8);
                self.complain(now, class, from, Complaint::Wrong, mail);
                self.forget_source(class, &from, mail);
                Arrival::Wrong
            }
        }
    }

    fn wait_for_hash(&mut self, now: Time, from: PeerId, piece: u32, hash: PieceHash) -> Arrival {
        let twice = self.pending.get(&piece).is_some_and(|(sender, _, _)| *sender != from);
        if self.pending.len() >= PENDING_PIECES_MAX || twice {
            return Arrival::Duplicate;
        }
        self.pending.insert(piece, (from, hash, now));
        Arrival::Pending
    }

    // ---- proofs ----

    pub(super) fn check_proofs(&mut self, now: Time, mail: &mut Mail) {
        let waiting = |p: &&u32| self.pending[p].2 + HASH_WAIT <= now;
        let mut runs: Vec<Run> = Vec::new();
        for &piece in self.pending.keys().filter(waiting) {
            if let Some(run) = runs.last_mut().filter(|run| run.end == piece) {
                run.end += 1;
            } else if runs.len() < RUNS_PER_MESSAGE_MAX {
                runs.push(Run { first: piece, end: piece + 1 });
            }
        }
        if !runs.is_empty() {
            self.ask_proof(now, runs, mail);
        }
    }

    fn ask_proof(&mut self, now: Time, runs: Vec<Run>, mail: &mut Mail) {
        if self.proof_asked.is_some_and(|at| now < at + HASH_WAIT) {
            return;
        }
        self.proof_asked = Some(now);
        if let Some(home) = self.home() {
            mail.push_back((home, Message::Prove { digest: self.digest, runs }));
        }
    }

    // ---- homes ----

    /// Those that are still believed.
    pub(super) fn trusted(&self, homes: Vec<PeerId>) -> Vec<PeerId> {
        homes.into_iter().filter(|home| !self.trust.homes.contains(home)).collect()
    }

    /// Whether bytes come and none of them have counted for some time.
    pub(super) fn doubts_home(&self, now: Time) -> bool {
        let kept = self.pending.values().any(|(_, _, since)| *since + LIST_PATIENCE <= now);
        let nothing = self.trust.counted + LIST_PATIENCE <= now;
        nothing && (kept || self.trust.refused >= REFUSED_PIECES_MIN)
    }

    /// The home is not believed any more, and the next one is asked.
    pub(super) fn leave_home(&mut self, now: Time, present: Vec<PeerId>, mail: &mut Mail) {
        let Some(home) = self.home() else { return };
        self.drop_feeds(mail);
        self.drop_pending();
        self.end_all_leases(LeaseEnd::GivenUp, mail);
        mail.push_back((home, Message::Leave { digest: self.digest }));
        self.trust.homes.push(home);
        (self.trust.counted, self.trust.refused) = (now, 0);
        self.list.forget_others();
        self.list_of = None;
        self.refresh_homes(present);
        self.homes = self.trusted(self.homes.clone());
        // The next one has no reason to think that it is the first.
        self.left_home = true;
        if self.homes.is_empty() || self.trust.homes.len() > HOMES_DOUBTED_MAX {
            self.handle_alone(LeaseEnd::GivenUp, mail);
        } else {
            self.join(now, 0, mail);
        }
    }
}
