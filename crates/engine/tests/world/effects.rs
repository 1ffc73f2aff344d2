//! The disk of a world, and its answers to what it is asked.

use shoal_engine::io::Found;
use shoal_engine::{ByteRanges, Digest, Input, LocalFault};

use super::plan::{Disk, Effect, Tells, any_local_fault, any_source_fault};
use super::{Blame, BlobNo, Event, Place, World, check};

impl World {
    /// An effect is asked for: is it the right moment?
    pub(super) fn begin(&mut self, digest: Digest, effect: Effect) {
        let number = self.number(digest);
        let blob = &self.blobs[number];
        let busy = blob.busy;
        check!(self, busy.is_none(), "I4: {effect:?} while {busy:?} is unanswered");
        let open = blob.place.is_some();
        let needs_open = matches!(effect, Effect::Verify | Effect::Commit | Effect::Shut);
        check!(self, open == needs_open, "{effect:?} with the place open: {open}");
        let transfers = self.transfers.values().filter(|t| t.blob == number).count();
        check!(self, transfers == 0, "{effect:?} while {transfers} transfers write");
        check!(self, blob.checkpointing.is_none(), "{effect:?} during a checkpoint");
        if let Some(place) = &blob.place {
            let whole = place.size.is_some_and(|size| place.told.contains(0..size));
            check!(self, effect != Effect::Verify || whole, "the verdict over a part is asked for");
            check!(self, effect != Effect::Commit || place.verified, "I2: a commit of what is not verified");
        }
        self.blobs[number].busy = Some(effect);
        let time = if effect == Effect::Size { self.pace.upstream } else { self.pace.disk };
        let time = self.vary(time);
        self.schedule(time, Event::Answer(number, effect));
    }

    pub(super) fn begin_checkpoint(&mut self, digest: Digest, have: ByteRanges) {
        let number = self.number(digest);
        let blob = &self.blobs[number];
        check!(self, blob.busy.is_none() && blob.checkpointing.is_none(), "I4: a checkpoint too many");
        let Some(place) = &blob.place else { self.fail("a checkpoint of nothing") };
        check!(self, place.size.is_some(), "a checkpoint of a blob of unknown size");
        check!(self, have.iter().all(|r| place.written.contains(r)), "a checkpoint vouches for {have:?}");
        self.blobs[number].checkpoints += 1;
        self.blobs[number].checkpointing = Some(have);
        let time = self.vary(self.pace.disk);
        self.schedule(time, Event::Answer(number, Effect::Checkpoint));
    }

    /// The place is closed: at once for the world, so that nobody is given bytes out of it any more.
    pub(super) fn put_down(&mut self, digest: Digest, keep: Option<ByteRanges>) {
        let number = self.number(digest);
        let place = self.blobs[number].place.take().expect("checked to be open");
        if let Some(have) = &keep {
            check!(self, have.iter().all(|r| place.written.contains(r)), "kept is more than was written");
            check!(self, place.size.is_some(), "kept is a blob of unknown size");
        }
        self.blobs[number].disk = match keep {
            Some(have) => Disk::Partial { size: place.size.expect("checked above"), have, bad: place.bad },
            None => Disk::Absent,
        };
    }

    pub(super) fn answer(&mut self, number: BlobNo, effect: Effect) {
        let fault = self.local_fault(number, effect);
        if effect != Effect::Checkpoint {
            self.blobs[number].busy = None;
        }
        let digest = self.blobs[number].digest;
        let input = match effect {
            Effect::Look => Input::Looked { digest, found: self.found(number, fault) },
            Effect::Size => self.sized(number),
            Effect::Prepare => {
                let result = self.prepared(number, fault);
                Input::Prepared { digest, result }
            }
            Effect::Checkpoint => {
                let result = self.checkpointed(number, fault);
                Input::Checkpointed { digest, result }
            }
            Effect::Verify => {
                Input::Verified { digest, result: fault.map_or_else(|| Ok(self.verdict(number)), Err) }
            }
            Effect::Commit => {
                if fault.is_none() {
                    let blob = &mut self.blobs[number];
                    blob.commits += 1;
                    blob.disk = Disk::Whole;
                    blob.place = None;
                }
                Input::Committed { digest, result: fault.map_or(Ok(()), Err) }
            }
            Effect::Shut => Input::Shut { digest },
        };
        self.input(input);
    }

    fn local_fault(&mut self, number: BlobNo, effect: Effect) -> Option<LocalFault> {
        if matches!(effect, Effect::Size | Effect::Shut) {
            return None;
        }
        let plan = &self.blobs[number].plan;
        let mut fault = plan.local_faults.get(&effect).copied();
        if fault.is_none() && self.rng.chance(plan.chaos.local) {
            fault = Some(any_local_fault(&mut self.rng));
        }
        self.blobs[number].blames.extend(fault.map(Blame::Local));
        fault
    }

    fn found(&mut self, number: BlobNo, fault: Option<LocalFault>) -> Found {
        if let Some(fault) = fault {
            return Found::Broken(fault);
        }
        let blob = &mut self.blobs[number];
        match &blob.disk {
            Disk::Absent => Found::Absent,
            Disk::Whole => Found::Whole,
            Disk::Partial { size, have, bad } => {
                let (size, have) = (*size, have.clone());
                let (written, told) = (have.clone(), have.clone());
                blob.place = Some(Place { size: Some(size), written, told, bad: *bad, ..Place::default() });
                Found::Partial { size, have }
            }
        }
    }

    fn sized(&mut self, number: BlobNo) -> Input {
        let blob = &mut self.blobs[number];
        let scope = *blob.size_requests.last().expect("it was asked");
        let fault = blob.plan.scope_faults.get(&scope).cloned().or_else(|| blob.plan.size_faults.pop_front());
        let fault = match fault {
            None if self.rng.chance(blob.plan.chaos.source) => Some(any_source_fault(&mut self.rng)),
            fault => fault,
        };
        let blob = &mut self.blobs[number];
        blob.blames.extend(fault.clone().map(Blame::Source));
        let told = match blob.plan.size_told {
            Tells::Truth => Some(blob.plan.size),
            Tells::Nothing => None,
            Tells::Lie(size) => Some(size),
        };
        Input::Sized { digest: blob.digest, result: fault.map_or(Ok(told), Err) }
    }

    fn prepared(&mut self, number: BlobNo, fault: Option<LocalFault>) -> Result<(), LocalFault> {
        let blob = &mut self.blobs[number];
        if let Some(fault) = fault {
            blob.place = None;
            return Err(fault);
        }
        let bad = blob.plan.wrong_places > 0 || self.rng.chance(blob.plan.chaos.wrong);
        blob.plan.wrong_places = blob.plan.wrong_places.saturating_sub(1);
        blob.place.as_mut().expect("being prepared").bad = bad;
        Ok(())
    }

    fn checkpointed(&mut self, number: BlobNo, fault: Option<LocalFault>) -> Result<(), LocalFault> {
        let blob = &mut self.blobs[number];
        let have = blob.checkpointing.take().expect("under way");
        match fault {
            Some(fault) => Err(fault),
            None => {
                let place = blob.place.as_ref().expect("nothing is put down during a checkpoint");
                let size = place.size.expect("checked when it began");
                blob.disk = Disk::Partial { size, have, bad: place.bad };
                Ok(())
            }
        }
    }

    fn verdict(&mut self, number: BlobNo) -> bool {
        let blob = &mut self.blobs[number];
        let place = blob.place.as_mut().expect("open during the verdict");
        place.verified = !place.bad && place.size == Some(blob.plan.size);
        let good = place.verified;
        blob.verdicts.push(good);
        if !good {
            blob.blames.push(Blame::WrongBytes);
        }
        good
    }
}
