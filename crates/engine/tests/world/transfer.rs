//! The transfers of a world: bytes that come in steps, break, stall and are cut.

use std::time::Duration;

use shoal_engine::io::FetchFault;
use shoal_engine::limits::{FETCHES_PER_FLIGHT_MAX, PREFETCH_FETCHES_MAX};
use shoal_engine::{ByteRanges, FetchId, Input, LocalFault, SourceFault};

use super::plan::{Tells, any_local_fault, any_source_fault};
use super::{Blame, BlobNo, Event, World, check};

/// What the agent waits for a byte before it takes a transfer for broken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// One transfer under way, until the engine has been told of its end.
#[derive(Debug)]
pub struct Transfer {
    pub blob: BlobNo,
    scope: usize,
    start: u64,
    end: Option<u64>,
    /// Bytes up to here are on disk.
    at: u64,
    /// Bytes up to here have been told to the engine.
    told: u64,
    breaks_at: Option<u64>,
    pub cancelled: bool,
    pub stalled: bool,
    /// The last byte is there.
    complete: bool,
    /// Its end is on the way to the engine.
    ending: bool,
}

impl World {
    pub(super) fn begin_fetch(
        &mut self,
        fetch: FetchId,
        number: BlobNo,
        scope: usize,
        start: u64,
        end: Option<u64>,
    ) {
        check!(self, self.fetch_ids.insert(fetch), "{fetch:?} is named twice");
        let running: Vec<_> = self.transfers.values().filter(|t| t.blob == number).collect();
        let total = self.transfers.len();
        check!(self, running.len() < FETCHES_PER_FLIGHT_MAX, "a fifth transfer of one flight");
        check!(self, total < self.settings.fetches_max, "more than {total} transfers");
        let wanted = self.clients.values().any(|c| c.blob == number && c.is_open());
        check!(self, wanted || total < PREFETCH_FETCHES_MAX, "transfer {total} is for nobody");
        let blob = &self.blobs[number];
        check!(self, blob.busy.is_none(), "a transfer during {:?}", blob.busy);
        let Some(place) = &blob.place else { self.fail("a transfer to a closed place") };
        check!(self, end.is_some() == place.size.is_some(), "a transfer to {end:?} of {:?}", place.size);
        if let (Some(end), Some(size)) = (end, place.size) {
            check!(self, start < end && end <= size, "a transfer of {start}..{end} of {size}");
            let missing = place.told.first_gap(start, end);
            check!(
                self,
                missing == Some(start..end),
                "{start}..{end} is fetched, and {missing:?} is missing"
            );
            // Of a transfer that was told to end comes what has been written and not been told.
            let until = |t: &Transfer| if t.cancelled { t.at } else { t.end.unwrap_or(u64::MAX) };
            let coming: ByteRanges = running.iter().map(|t| t.told..until(t)).collect();
            let missing = coming.first_gap(start, end);
            check!(
                self,
                missing == Some(start..end),
                "{start}..{end} is fetched twice, {coming:?} is coming"
            );
        } else {
            check!(self, start == 0 && running.is_empty(), "a second transfer of a blob of unknown size");
            // The bytes of an earlier attempt are written over from the first on.
            let place = self.blobs[number].place.as_mut().expect("seen above");
            (place.written, place.told) = Default::default();
        }
        let transfer = Transfer {
            blob: number,
            scope,
            start,
            end,
            at: start,
            told: start,
            breaks_at: None,
            cancelled: false,
            stalled: false,
            complete: false,
            ending: false,
        };
        self.transfers.insert(fetch, transfer);
        self.transfers_peak = self.transfers_peak.max(self.transfers.len());
        self.blobs[number].requests.push((scope, start, end));
        let time = self.vary(self.pace.upstream);
        self.schedule(time, Event::Arrive(fetch));
    }

    pub(super) fn trim(&mut self, fetch: FetchId, end: u64) {
        let Some(transfer) = self.transfers.get(&fetch) else { self.fail("an unknown transfer is trimmed") };
        let shorter = transfer.end.is_none_or(|before| end < before) && end > transfer.told;
        check!(self, shorter && !transfer.cancelled, "{transfer:?} is trimmed to {end}");
        let transfer = self.transfers.get_mut(&fetch).expect("seen above");
        transfer.end = Some(end);
        let blob = &mut self.blobs[transfer.blob];
        blob.trims += 1;
        if let Some(place) = &mut blob.place {
            place.overrun += transfer.at.saturating_sub(end);
        }
    }

    pub(super) fn cancel(&mut self, fetch: FetchId) {
        let Some(transfer) = self.transfers.get(&fetch) else {
            self.fail("an unknown transfer is cancelled")
        };
        check!(self, !transfer.cancelled, "{fetch:?} is cancelled twice");
        let ending = transfer.ending;
        let transfer = self.transfers.get_mut(&fetch).expect("seen above");
        (transfer.cancelled, transfer.stalled) = (true, false);
        if !ending {
            self.finish(fetch, Err(FetchFault::Cancelled));
        }
    }

    /// The transfer writes no more; the engine hears of it after it has heard of all bytes.
    fn finish(&mut self, fetch: FetchId, result: Result<(), FetchFault>) {
        let transfer = self.transfers.get_mut(&fetch).expect("under way");
        assert!(!transfer.ending, "the world ends {fetch:?} twice");
        transfer.ending = true;
        let blob = &mut self.blobs[transfer.blob];
        match &result {
            Err(FetchFault::Source(fault)) => blob.blames.push(Blame::Source(fault.clone())),
            Err(FetchFault::Local(fault)) => blob.blames.push(Blame::Local(*fault)),
            Ok(()) => {
                // The engine takes a short transfer for a broken one.
                if transfer.end.is_some_and(|end| transfer.at < end) {
                    blob.blames.push(Blame::Source(SourceFault::Interrupted));
                }
            }
            Err(FetchFault::Cancelled) => {}
        }
        self.schedule(self.pace.lag, Event::Tell(Input::FetchEnded { fetch, result }));
    }

    /// The source answers.
    pub(super) fn arrive(&mut self, fetch: FetchId) {
        let Some(transfer) = self.transfers.get(&fetch).filter(|t| !t.ending) else { return };
        let (number, scope, start) = (transfer.blob, transfer.scope, transfer.start);
        let plan = &mut self.blobs[number].plan;
        let size = plan.size;
        let mut fault = plan.scope_faults.get(&scope).cloned().or_else(|| plan.open_faults.pop_front());
        if fault.is_none() && self.rng.chance(plan.chaos.source) {
            fault = Some(any_source_fault(&mut self.rng));
        }
        if start > 0 && start >= size {
            fault = Some(SourceFault::Denied { status: 416 });
        }
        if let Some(fault) = fault {
            return self.finish(fetch, Err(FetchFault::Source(fault)));
        }
        let plan = &self.blobs[number].plan;
        let breaks_at = plan.breaks_every.map(|bytes| start + bytes);
        let total = match plan.total_told {
            Tells::Truth => Some(size),
            Tells::Nothing => None,
            Tells::Lie(size) => Some(size),
        };
        let transfer = self.transfers.get_mut(&fetch).expect("seen above");
        transfer.breaks_at = breaks_at;
        if let Some(total) = total {
            transfer.end.get_or_insert(total);
            let blob = &mut self.blobs[number];
            let before = blob.place.as_mut().map_or(total, |place| *place.size.get_or_insert(total));
            if before != total {
                blob.blames.push(Blame::WrongSize);
            }
        }
        self.schedule(Duration::ZERO, Event::Step(fetch));
        self.input(Input::FetchOpened { fetch, total });
    }

    /// A few more bytes.
    pub(super) fn step_transfer(&mut self, fetch: FetchId) {
        let Some(transfer) = self.transfers.get(&fetch).filter(|t| !t.ending) else { return };
        let number = transfer.blob;
        let plan = &self.blobs[number].plan;
        let chaos = plan.chaos;
        let stop = transfer.end.unwrap_or(u64::MAX).min(plan.size);
        let until = stop.min(transfer.breaks_at.unwrap_or(u64::MAX)).min(plan.stalls_at.unwrap_or(u64::MAX));
        let from = transfer.at;
        let step = if self.pace.jitter {
            1 + self.rng.below(2 * self.pace.step_bytes)
        } else {
            self.pace.step_bytes
        };
        let to = (from + step).min(until).max(from);
        if plan.full_at.is_some_and(|full| self.written(number) + (to - from) > full) {
            return self.finish(fetch, Err(FetchFault::Local(LocalFault::StoreFull)));
        }
        if self.rng.chance(chaos.local) {
            let fault = any_local_fault(&mut self.rng);
            return self.finish(fetch, Err(FetchFault::Local(fault)));
        }
        self.write(fetch, to);
        self.after_step(fetch, to, stop);
    }

    fn after_step(&mut self, fetch: FetchId, to: u64, stop: u64) {
        let transfer = &self.transfers[&fetch];
        let plan = &self.blobs[transfer.blob].plan;
        let chaos = plan.chaos;
        let short = transfer.end.is_some_and(|end| end > plan.size);
        let stalls = plan.stalls_at.is_some_and(|at| to >= at && to < stop);
        let breaks = transfer.breaks_at == Some(to) && to < stop;
        let interrupted = Err(FetchFault::Source(SourceFault::Interrupted));
        if to >= stop && !transfer.complete && self.pace.ending > Duration::ZERO {
            self.transfers.get_mut(&fetch).expect("under way").complete = true;
            let time = self.vary(self.pace.ending);
            self.schedule(time, Event::Step(fetch));
        } else if to >= stop {
            if transfer.end.is_none()
                && let Some(place) = &mut self.blobs[transfer.blob].place
            {
                place.size = Some(to);
            }
            self.finish(fetch, if short { interrupted } else { Ok(()) });
        } else if stalls {
            self.transfers.get_mut(&fetch).expect("under way").stalled = true;
        } else if breaks || self.rng.chance(chaos.breaks) {
            self.finish(fetch, interrupted);
        } else if self.rng.chance(chaos.stalls) {
            self.transfers.get_mut(&fetch).expect("under way").breaks_at = Some(to);
            self.schedule(IDLE_TIMEOUT, Event::Step(fetch));
        } else {
            let time = self.vary(self.pace.step);
            self.schedule(time, Event::Step(fetch));
        }
    }

    fn write(&mut self, fetch: FetchId, to: u64) {
        let transfer = self.transfers.get_mut(&fetch).expect("under way");
        let from = std::mem::replace(&mut transfer.at, to);
        if to <= from {
            return;
        }
        let blob = &mut self.blobs[transfer.blob];
        blob.fetched += to - from;
        let Some(place) = &mut blob.place else { self.fail("bytes for a closed place") };
        let before = place.written.len();
        place.written.insert(from..to);
        place.rewritten += (to - from) - (place.written.len() - before);
        let (twice, overrun) = (place.rewritten, place.overrun);
        check!(self, twice <= overrun, "L3: {twice} bytes came twice, {overrun} were past a trimmed end");
        self.schedule(self.pace.lag, Event::Tell(Input::Progress { fetch, to }));
    }

    /// The engine hears of something that has happened a moment ago.
    pub(super) fn tell(&mut self, input: Input) {
        match &input {
            Input::Progress { fetch, to } => {
                let transfer = self.transfers.get_mut(fetch).expect("told before its end");
                let from = std::mem::replace(&mut transfer.told, *to);
                if let Some(place) = &mut self.blobs[transfer.blob].place {
                    place.told.insert(from..*to);
                }
            }
            Input::FetchEnded { fetch, .. } => {
                self.transfers.remove(fetch).expect("ends once");
            }
            _ => {}
        }
        self.input(input);
    }

    fn written(&self, number: BlobNo) -> u64 {
        self.blobs[number].place.as_ref().map_or(0, |p| p.written.len())
    }
}
