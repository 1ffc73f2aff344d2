//! The transfers of a flight: opened where demand says, resumed where they broke, checkpointed as they go.

use std::collections::VecDeque;

use super::{Context, Flight, Phase};
use crate::demand::{self, Reader, Running};
use crate::fault::SourceFault;
use crate::ids::FetchId;
use crate::io::{FetchFault, FetchReason, Output};
use crate::limits::{CHECKPOINT_AGE, CHECKPOINT_BYTES, FETCHES_PER_FLIGHT_MAX, PROGRESS_BYTES_MIN};
use crate::pieces::BLOB_BYTES_MAX;
use crate::retry::Verdict;
use crate::time::Time;

impl Flight {
    // ---- handlers ----

    pub(crate) fn handle_sized(
        &mut self,
        result: Result<Option<u64>, SourceFault>,
        out: &mut VecDeque<Output>,
    ) {
        debug_assert_eq!(self.phase, Phase::Sizing);
        match result {
            Ok(size) => {
                self.size = size;
                self.prepare(out);
            }
            Err(fault) => {
                self.failures += 1;
                match self.judge(&fault, false) {
                    Verdict::GiveUp(fault) => {
                        self.fail(fault, out);
                        self.phase = Phase::Over;
                    }
                    Verdict::NextScope => {
                        self.next_scope();
                        self.phase = Phase::Sizeless;
                    }
                    // No byte has come, so there is no pause: the next waiter leads.
                    Verdict::Again(_) => self.phase = Phase::Sizeless,
                }
            }
        }
    }

    pub(crate) fn handle_fetch_opened(
        &mut self,
        id: FetchId,
        total: Option<u64>,
        out: &mut VecDeque<Output>,
    ) {
        let (Some(total), Some(fetch)) = (total, self.fetches.get_mut(&id)) else { return };
        match self.size {
            None if total > BLOB_BYTES_MAX && self.phase == Phase::Receiving => {
                self.pass_through(out);
                self.end(false);
            }
            None => {
                self.size = Some(total);
                fetch.end.get_or_insert(total);
            }
            Some(size) if size == total => {}
            // A manifest, or an earlier transfer, told another size than the source does now. Nothing that was
            // received under the wrong size can be trusted to lie in its place.
            Some(_) if self.phase == Phase::Receiving => self.start_over(out),
            Some(_) => {}
        }
    }

    pub(crate) fn handle_progress(&mut self, id: FetchId, to: u64, now: Time) {
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        let from = fetch.frontier;
        if to <= from {
            return;
        }
        fetch.frontier = to;
        self.have.insert(from..to);
        self.under_way = true;
        self.unsaved += to - from;
        self.unsaved_since.get_or_insert(now);
    }

    pub(crate) fn handle_fetch_ended(
        &mut self,
        id: FetchId,
        result: Result<(), FetchFault>,
        now: Time,
        out: &mut VecDeque<Output>,
    ) {
        let Some(fetch) = self.fetches.remove(&id) else { return };
        if self.phase != Phase::Receiving {
            return;
        }
        let fault = match result {
            Ok(()) => match fetch.end {
                Some(end) if fetch.frontier < end => SourceFault::Interrupted,
                _ => {
                    self.failures = 0;
                    // Without an end it is only known now how large the blob is.
                    self.size = self.size.or(Some(fetch.frontier));
                    return;
                }
            },
            Err(FetchFault::Cancelled) => return,
            Err(FetchFault::Local(fault)) => return self.handle_local_fault(fault, out),
            Err(FetchFault::Source(fault)) => fault,
        };
        // Without a size there is no place to go on from: the next transfer begins at the first byte.
        let from_the_start = fetch.end.is_none();
        let progressed = !from_the_start && fetch.frontier - fetch.start >= PROGRESS_BYTES_MIN;
        self.failures = if progressed { 0 } else { self.failures + 1 };
        self.failed_before = true;
        match self.judge(&fault, progressed) {
            Verdict::Again(pause) => self.retry_at = Some(now + pause),
            Verdict::NextScope => {
                self.next_scope();
            }
            // Another member may have more luck.
            Verdict::GiveUp(fault) if self.is_shared() => self.give_leases_back(fault),
            Verdict::GiveUp(fault) => self.give_up(fault, out),
        }
        if from_the_start && self.phase == Phase::Receiving {
            self.have = Default::default();
        }
    }

    // ---- what follows from the state ----

    pub(super) fn advance_sizeless(&mut self, cx: &mut Context<'_>) {
        if self.tickets.is_empty() && (!self.whole_wanted || self.draining) {
            self.phase = Phase::Over;
            return;
        }
        // A hint that is out of all bounds says more of the manifest than of the blob.
        match cx.size_hint.filter(|size| self.trusts_hint && *size <= BLOB_BYTES_MAX) {
            Some(size) => {
                self.size = Some(size);
                self.prepare(cx.out);
            }
            None => {
                self.phase = Phase::Sizing;
                cx.out.push_back(Output::Size { digest: self.digest, scope: self.scope() });
            }
        }
    }

    fn prepare(&mut self, out: &mut VecDeque<Output>) {
        self.failures = 0;
        if self.size.is_some_and(|size| size > BLOB_BYTES_MAX) {
            self.pass_through(out);
            self.phase = Phase::Over;
            return;
        }
        self.phase = Phase::Preparing;
        out.push_back(Output::Prepare { digest: self.digest, size: self.size });
    }

    pub(super) fn advance_receiving(&mut self, cx: &mut Context<'_>) {
        if self.is_whole() {
            // A transfer that has brought its last byte still has to say so.
            if self.fetches.is_empty() && !self.checkpointing {
                self.phase = Phase::Verifying;
                cx.out.push_back(Output::Verify { digest: self.digest });
            }
            return;
        }
        if self.draining && self.tickets.is_empty() {
            self.end(true);
            return self.advance(cx);
        }
        if self.retry_at.is_some_and(|at| at <= cx.now) {
            self.retry_at = None;
        }
        let asks_first = cx.shares && self.can_share();
        if self.retry_at.is_none() && !asks_first {
            while self.open_fetch(cx) {}
        }
        self.checkpoint(cx);
        let idle = self.fetches.is_empty() && !self.checkpointing && self.tickets.is_empty();
        if idle && !self.whole_wanted {
            self.end(true);
            self.advance(cx);
        }
    }

    /// Opens one transfer, if demand and the bounds allow.
    fn open_fetch(&mut self, cx: &mut Context<'_>) -> bool {
        let free = if self.tickets.is_empty() { &mut *cx.prefetches_free } else { &mut *cx.fetches_free };
        if *free == 0 || self.fetches.len() >= FETCHES_PER_FLIGHT_MAX {
            return false;
        }
        let (start, end) = match self.size {
            None if self.fetches.is_empty() && (self.whole_wanted || !self.tickets.is_empty()) => (0, None),
            None => return false,
            Some(size) => match self.demand(size) {
                Some(range) => (range.start, Some(range.end)),
                None => return false,
            },
        };
        *free -= 1;
        for (&fetch, running) in &mut self.fetches {
            if running.frontier < start && running.end.is_none_or(|end| end > start) {
                running.end = Some(start);
                if !running.cancelled {
                    cx.out.push_back(Output::Trim { fetch, end: start });
                }
            }
        }
        *cx.next_fetch += 1;
        let fetch = FetchId(*cx.next_fetch);
        self.fetches.insert(fetch, super::Fetch { start, end, frontier: start, cancelled: false });
        let reason = match (std::mem::take(&mut self.failed_before), self.under_way) {
            (false, _) => FetchReason::First,
            (true, false) => FetchReason::Retry,
            (true, true) => FetchReason::Resume,
        };
        cx.out.push_back(Output::Fetch {
            fetch,
            digest: self.digest,
            scope: self.scope(),
            start,
            end,
            reason,
        });
        true
    }

    fn demand(&self, size: u64) -> Option<std::ops::Range<u64>> {
        if let super::Sharing::On(fetchable) = &self.sharing {
            return self.lease_demand(fetchable);
        }
        let running: Vec<_> = self
            .fetches
            .values()
            .map(|f| Running { frontier: f.frontier, end: f.end.unwrap_or(size) })
            .collect();
        let readers: Vec<_> =
            self.tickets.values().map(|t| Reader { at: t.ready_to, part: t.part }).collect();
        demand::next_fetch(&demand::View {
            size,
            have: &self.have,
            running: &running,
            readers: &readers,
            whole_wanted: self.whole_wanted,
        })
    }

    fn checkpoint(&mut self, cx: &mut Context<'_>) {
        let due = self.unsaved >= CHECKPOINT_BYTES || self.checkpoint_due_at().is_some_and(|at| at <= cx.now);
        if due && !self.checkpointing && self.size.is_some() {
            self.checkpointing = true;
            self.unsaved = 0;
            self.unsaved_since = None;
            cx.out.push_back(Output::Checkpoint { digest: self.digest, have: self.have.clone() });
        }
    }

    pub(super) fn checkpoint_due_at(&self) -> Option<Time> {
        // Bytes of a blob of unknown size cannot be gone on with, so there is nothing to save.
        let since = self.unsaved_since.filter(|_| !self.checkpointing && self.size.is_some())?;
        Some(since + CHECKPOINT_AGE)
    }
}
