//! What has gone wrong so far, and what may follow from it; and the leases that homes have granted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::io::PullFault;
use shoal_engine::swarm::exchange::Standing;
use shoal_engine::wire::{Complaint, LeaseId, Message, Run};
use shoal_engine::{SourceFault, Time};

use crate::cluster::{BlobNo, Cluster, NodeNo, check, hash};
use crate::node::Lie;

/// See the module's head.
#[derive(Default)]
pub struct Ledger {
    faults: BTreeMap<BlobNo, Vec<SourceFault>>,
    /// Blobs of which some list of hashes may be wrong.
    suspect: BTreeSet<BlobNo>,
    /// Nodes that have passed on hashes that nobody has signed.
    forgers: BTreeSet<NodeNo>,
    mismatched: BTreeSet<BlobNo>,
    wrong_upstream: BTreeSet<NodeNo>,
    /// Leases that have been taken back, that their holder or home may not know of, or that cover pieces that were
    /// lost: others may have the same pieces.
    excused: BTreeSet<LeaseId>,
    /// Nodes whose leases are excused altogether: somebody could not reach them.
    unreachable: BTreeSet<NodeNo>,
    /// Nodes that the swarm could not help with a blob, and since when.
    alone: BTreeMap<(NodeNo, BlobNo), Time>,
    pub restarts: u32,
    pub complaints: Vec<(NodeNo, Complaint)>,
    pub granted: Vec<(LeaseId, Run)>,
}

impl Ledger {
    pub fn upstream_failed(&mut self, blob: BlobNo, fault: SourceFault) {
        self.faults.entry(blob).or_default().push(fault);
    }

    pub fn wrong_upstream(&mut self, node: NodeNo, blob: BlobNo) {
        self.wrong_upstream.insert(node);
        self.suspect.insert(blob);
    }

    pub fn had_wrong_upstream(&self, node: NodeNo) -> bool {
        self.wrong_upstream.contains(&node)
    }

    pub fn mismatched(&mut self, blob: BlobNo) {
        self.mismatched.insert(blob);
    }

    pub fn is_list_suspect(&self, blob: BlobNo) -> bool {
        self.suspect.contains(&blob)
    }

    pub fn unreachable(&mut self, node: NodeNo) {
        self.unreachable.insert(node);
    }

    pub fn was_alone(&self, node: NodeNo, blob: BlobNo) -> bool {
        self.alone.contains_key(&(node, blob))
    }

    /// Whether a pull may fail like this.
    pub fn explains(&self, blob: BlobNo, fault: PullFault) -> bool {
        let any =
            |wanted: fn(&SourceFault) -> bool| self.faults.get(&blob).is_some_and(|f| f.iter().any(wanted));
        match fault {
            PullFault::Unknown => any(|f| matches!(f, SourceFault::Missing)),
            PullFault::Denied => any(|f| matches!(f, SourceFault::Denied { .. })),
            PullFault::Exhausted => any(|f| !matches!(f, SourceFault::Missing | SourceFault::Denied { .. })),
            PullFault::WrongContent => self.mismatched.contains(&blob),
            PullFault::Loop | PullFault::Draining => false,
        }
    }

    /// A node says something.
    pub fn told(&mut self, from: NodeNo, message: &Message) {
        match message {
            Message::Complain { why, .. } => self.complaints.push((from, *why)),
            Message::Lease { lease, run, .. } => self.granted.push((*lease, *run)),
            Message::Trim { lease, .. } | Message::Over { lease, .. } => {
                self.excused.insert(*lease);
            }
            Message::Restart { .. } => self.restarts += 1,
            _ => {}
        }
    }

    pub fn suspect(&mut self, blob: BlobNo) {
        self.suspect.insert(blob);
    }

    pub fn has_lied_of_hashes(&self, node: NodeNo) -> bool {
        self.forgers.contains(&node)
    }

    pub fn lost_message(&mut self, to: NodeNo, message: &Message) {
        self.unreachable.insert(to);
        if let Message::Report { lease, .. } | Message::Over { lease, .. } | Message::Lease { lease, .. } =
            message
        {
            self.excused.insert(*lease);
        }
    }
}

impl Cluster {
    /// A message on its way out of a node that deceives.
    pub fn distort(&mut self, node: NodeNo, mut message: Message) -> Message {
        let lies = self.nodes[node].lies.clone();
        match &mut message {
            Message::Hashes(hashes) if lies.contains(&Lie::Relay) => {
                let blob = self.number(hashes.digest);
                self.ledger.forgers.insert(node);
                let me = self.nodes[node].peer();
                let hashes = Arc::make_mut(hashes);
                hashes.entries.iter_mut().for_each(|e| e.hash = hash(blob, e.piece, true));
                // It can sign with its own key and no other: half of what it relays it tells in its own name.
                if hashes.home != me && self.below(2) == 0 {
                    hashes.home = me;
                }
                // The list is the home's: a home that deceives is a list that deceives.
                if hashes.home == me && self.keeps_book(node, blob) {
                    self.ledger.suspect.insert(blob);
                }
            }
            Message::Report { digest, entries, .. } if lies.contains(&Lie::Report) => {
                let blob = self.number(*digest);
                self.ledger.suspect.insert(blob);
                entries.iter_mut().for_each(|e| e.hash = hash(blob, e.piece, true));
            }
            _ => {}
        }
        message
    }

    fn keeps_book(&self, node: NodeNo, blob: BlobNo) -> bool {
        let home = self.nodes[node].engine.as_ref().and_then(|e| e.swarm()).map(|s| s.home());
        // It may have been handed over a moment ago, so the first rank counts as well.
        home.is_some_and(|home| home.keeps(&self.blobs[blob].digest))
            || self.homes(blob).first() == Some(&node)
    }

    /// Leases of one home on one blob do not overlap, unless a fault explains it.
    pub fn check_leases(&mut self, number: NodeNo) {
        let Some(swarm) = self.nodes[number].engine.as_ref().and_then(|e| e.swarm()) else { return };
        let mut alone = Vec::new();
        for (blob, b) in self.blobs.iter().enumerate() {
            let Some(exchange) = swarm.exchange(&b.digest) else { continue };
            if matches!(exchange.standing(), Standing::Alone(_)) {
                alone.push((number, blob));
            }
            for (lease, work) in exchange.leases().filter(|(l, _)| !self.ledger.excused.contains(l)) {
                self.check_lease(number, blob, *lease, Run { first: work.at, end: work.run.end });
            }
        }
        for key in alone {
            self.ledger.alone.entry(key).or_insert(self.now);
        }
    }

    /// How long each node that the swarm could not help waited before it asked upstream, the shortest time first.
    pub fn waits_alone(&self, blob: BlobNo) -> Vec<Duration> {
        let of_blob = self.ledger.alone.iter().filter(|((_, of), _)| *of == blob);
        let waited = |node: NodeNo, since: Time| {
            let mut requests = self.blobs[blob].requests.iter().zip(&self.blobs[blob].asked_at);
            let next = requests.find(|((by, _, _), at)| *by == node && **at >= since);
            next.map(|(_, at)| *at - since)
        };
        let mut waits: Vec<_> = of_blob.filter_map(|((node, _), since)| waited(*node, *since)).collect();
        waits.sort_unstable();
        waits
    }

    fn check_lease(&self, number: NodeNo, blob: BlobNo, lease: LeaseId, run: Run) {
        if self.ledger.unreachable.contains(&number) {
            return;
        }
        let others = (0..self.nodes.len()).filter(|n| *n != number && !self.ledger.unreachable.contains(n));
        for other in others {
            let swarm = self.nodes[other].engine.as_ref().and_then(|e| e.swarm());
            let Some(exchange) = swarm.and_then(|s| s.exchange(&self.blobs[blob].digest)) else { continue };
            for (theirs, work) in exchange.leases() {
                let overlap = run.first.max(work.at) < run.end.min(work.run.end);
                let excused = theirs.epoch != lease.epoch || self.ledger.excused.contains(theirs);
                check!(
                    self,
                    !overlap || excused,
                    "{number} and {other} both fetch {run:?}: {lease:?}, {theirs:?}"
                );
            }
        }
    }
}
