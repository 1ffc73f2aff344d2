//! What is on disk is used, and a disk that fails stops no pull.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use shoal_engine::LocalFault;
use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;
use shoal_engine::limits::{CHECKPOINT_AGE, CHECKPOINT_BYTES};

use crate::world::plan::{Disk, Effect, Plan};
use crate::world::{Pace, World};
use crate::{GIB, KIB, MIB, all, at_pace, coarse};

#[test]
fn a_part_on_disk_is_gone_on_with() {
    let mut world = at_pace(coarse());
    let have = [0..700 * MIB, 900 * MIB..910 * MIB].into_iter().collect();
    let blob = world.add(Plan { disk: Disk::Partial { size: GIB, have, bad: false }, ..Plan::cold(GIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(ticket).received() >= 700 * MIB);
    assert!(world.now.since_origin() < Duration::from_millis(1100), "what is on disk is served at once");
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    let blob = &world.blobs[blob];
    assert_eq!(blob.requests, [(0, 700 * MIB, Some(900 * MIB)), (0, 910 * MIB, Some(GIB))]);
    assert!(blob.size_requests.is_empty());
}

#[test]
fn a_whole_part_on_disk_costs_no_request() {
    let mut world = World::new();
    let have = std::iter::once(0..MIB).collect();
    let blob = world.add(Plan { disk: Disk::Partial { size: MIB, have, bad: false }, ..Plan::cold(MIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert!(world.blobs[blob].requests.is_empty() && world.blobs[blob].commits == 1);
}

#[test]
fn a_rotten_part_on_disk_is_thrown_away() {
    let mut world = World::new();
    let have = std::iter::once(0..150 * KIB).collect();
    let disk = Disk::Partial { size: 200 * KIB, have, bad: true };
    let blob = world.add(Plan { disk, ..Plan::cold(200 * KIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!(world.blobs[blob].verdicts, [false, true]);
}

#[test]
fn a_disk_that_is_full_in_the_middle_lets_everybody_pass() {
    let mut world = World::new();
    let blob = world.add(Plan { full_at: Some(10 * MIB), ..Plan::cold(40 * MIB) });
    let tickets = [Part::Whole, Part::Whole, Part::From(35 * MIB), Part::Bounded(20 * MIB, 38 * MIB)];
    let tickets = tickets.map(|part| world.open(blob, part));
    world.run();
    all(&world, &tickets, Outcome::PassThrough);
    assert!(world.client(tickets[0]).received() > 0, "they go on from the last byte they had");
    assert_eq!(world.blobs[blob].disk, Disk::Absent, "a part would only stand in the way");
}

#[test]
fn each_effect_of_the_disk_may_fail() {
    for effect in [Effect::Look, Effect::Prepare, Effect::Checkpoint, Effect::Verify, Effect::Commit] {
        for fault in [LocalFault::StoreFull, LocalFault::StoreBroken] {
            // Slow enough for a checkpoint.
            let mut world = at_pace(Pace { step: Duration::from_secs(1), ..Pace::default() });
            let local_faults = BTreeMap::from([(effect, fault)]);
            let blob = world.add(Plan { local_faults, ..Plan::cold(10 * MIB) });
            let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::From(5 * MIB))];
            world.run();
            // Whoever waits when the verdict is there is served whether the store takes the blob or not.
            let outcome = if effect == Effect::Commit { Outcome::Delivered } else { Outcome::PassThrough };
            all(&world, &tickets, outcome);
            let kept = matches!(world.blobs[blob].disk, Disk::Partial { .. });
            let worth =
                matches!(effect, Effect::Checkpoint | Effect::Verify) && fault == LocalFault::StoreBroken;
            assert_eq!(kept, worth, "{effect:?} {fault:?}");
        }
    }
}

#[test]
fn what_a_power_cut_may_cost_is_bounded() {
    let seconds = CHECKPOINT_AGE.as_secs();
    // A MiB a step: by the bytes at a GiB/s, by their age at a MiB/s.
    let fast = (Duration::from_millis(1), GIB, CHECKPOINT_BYTES, GIB / CHECKPOINT_BYTES);
    let slow = (Duration::from_secs(1), 60 * MIB, seconds * MIB, 60 / seconds);
    for (step, size, bytes_max, checkpoints_max) in [fast, slow] {
        let mut world = at_pace(Pace { step, ..Pace::default() });
        let blob = world.add(Plan::cold(size));
        let ticket = world.open(blob, Part::Whole);
        let peak = Cell::new(0);
        world.run_until(|w| {
            peak.set(w.at_risk(blob).max(peak.get()));
            w.outcome(ticket).is_some()
        });
        all(&world, &[ticket], Outcome::Delivered);
        // What arrives while a checkpoint is being written comes on top.
        assert!(peak.get() <= bytes_max + 5 * MIB, "{} bytes were at risk, not {bytes_max}", peak.get());
        let checkpoints = u64::from(world.blobs[blob].checkpoints);
        assert!(
            (2..=checkpoints_max).contains(&checkpoints),
            "{checkpoints} of {checkpoints_max} checkpoints"
        );
    }
}
