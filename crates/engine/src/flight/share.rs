//! A flight whose bytes come from other members: what it may still fetch upstream itself, and what it is told.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::{Flight, Phase, Sharing};
use crate::fault::LocalFault;
use crate::io::{Output, PullFault};
use crate::time::Time;

impl Flight {
    /// Whether the flight is ready to be shared and is not yet: all of a blob of known size is wanted.
    pub(crate) fn can_share(&self) -> bool {
        let ready = self.phase == Phase::Receiving && self.whole_wanted && !self.draining;
        ready && self.sharing == Sharing::Off && self.fetches.is_empty() && !self.is_whole()
    }

    /// Whether other members bring the blob.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.sharing, Sharing::On(_))
    }

    /// Whether it has ended with its blob in the store.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored
    }

    /// Bytes that are there.
    pub(crate) fn have(&self) -> &crate::ranges::ByteRanges {
        &self.have
    }

    /// Only these bytes may be fetched upstream from now on. Transfers that are outside end.
    pub(crate) fn share(&mut self, fetchable: Vec<Range<u64>>, out: &mut VecDeque<Output>) {
        if self.phase != Phase::Receiving || self.sharing == Sharing::Alone {
            return;
        }
        for (&fetch, running) in &mut self.fetches {
            let lease = fetchable.iter().find(|r| r.contains(&running.frontier));
            match (lease, running.cancelled) {
                (_, true) => {}
                // It has brought everything, and has only to say so.
                (None, false) if running.end.is_some_and(|end| running.frontier >= end) => {}
                (None, false) => {
                    running.cancelled = true;
                    out.push_back(Output::Cancel { fetch });
                }
                (Some(lease), false) if running.end.is_none_or(|end| end > lease.end) => {
                    running.end = Some(lease.end);
                    out.push_back(Output::Trim { fetch, end: lease.end });
                }
                (Some(_), false) => {}
            }
        }
        self.sharing = Sharing::On(fetchable);
    }

    /// The swarm cannot help: from `pause` on, everything comes from upstream. With a fault, upstream has been tried by
    /// others and cannot help either.
    pub(crate) fn go_alone(
        &mut self,
        now: Time,
        pause: Duration,
        fault: Option<PullFault>,
        out: &mut VecDeque<Output>,
    ) {
        if self.phase != Phase::Receiving || !self.is_shared() {
            return;
        }
        self.sharing = Sharing::Alone;
        match fault {
            Some(fault) => self.give_up(fault, out),
            None => self.retry_at = Some(now + pause),
        }
    }

    /// Bytes of a piece that came from a member count from now on.
    pub(crate) fn handle_piece(&mut self, bytes: Range<u64>, now: Time) {
        if self.phase != Phase::Receiving {
            return;
        }
        self.unsaved += bytes.end - bytes.start;
        self.unsaved_since.get_or_insert(now);
        self.under_way = true;
        self.have.insert(bytes);
    }

    /// A piece that came from a member could not be kept.
    pub(crate) fn handle_unkept(&mut self, fault: LocalFault, out: &mut VecDeque<Output>) {
        if self.phase == Phase::Receiving {
            self.handle_local_fault(fault, out);
        }
    }

    /// Everything that was checked against the list is suspect.
    pub(crate) fn handle_restarted(&mut self, out: &mut VecDeque<Output>) {
        if self.phase == Phase::Receiving {
            self.start_over(out);
        }
    }

    /// Upstream has failed for all that this node was to fetch: it is not asked again before there is a new lease.
    pub(super) fn give_leases_back(&mut self, fault: PullFault) {
        self.lease_fault = Some(fault);
        self.sharing = Sharing::On(Vec::new());
    }

    /// Why upstream has failed for what this node was to fetch, once.
    pub(crate) fn take_lease_fault(&mut self) -> Option<PullFault> {
        self.lease_fault.take()
    }

    /// Whether the blob turned out not to be what its digest says, once.
    pub(crate) fn take_mismatch(&mut self) -> bool {
        std::mem::take(&mut self.mismatched)
    }

    /// The first part of the leases that is neither there nor on its way.
    pub(super) fn lease_demand(&self, fetchable: &[Range<u64>]) -> Option<Range<u64>> {
        let mut coming = self.have.clone();
        for running in self.fetches.values() {
            coming.insert(running.frontier..running.end.unwrap_or(u64::MAX));
        }
        fetchable.iter().find_map(|lease| coming.first_gap(lease.start, lease.end))
    }
}
