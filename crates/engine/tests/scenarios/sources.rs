//! Sources that fail, break off, lie about sizes and send wrong bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_engine::SourceFault;
use shoal_engine::demand::Part;
use shoal_engine::io::{FetchReason, Outcome, PullFault};
use shoal_engine::limits::{OPEN_ATTEMPTS_MAX, RESUME_ATTEMPTS_MAX, SCOPES_PER_FLIGHT_MAX};
use shoal_engine::pieces::{BLOB_BYTES_MAX, last_piece_start};

use crate::world::plan::{Disk, Plan, Tells};
use crate::world::{Pace, World};
use crate::{GIB, KIB, MIB, all, at_pace, coarse};

#[test]
fn the_leaders_failure_is_not_handed_to_the_waiters() {
    let mut world = World::new();
    let blob = world.add(Plan { open_faults: [SourceFault::Transient].into(), ..Plan::cold(10 * MIB) });
    let tickets: Vec<_> = (0..20).map(|_| world.open(blob, Part::Whole)).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    let blob = &world.blobs[blob];
    assert_eq!(blob.reasons, [FetchReason::First, FetchReason::Retry], "D5");
}

#[test]
fn one_client_costs_a_sick_source_one_request() {
    for tickets in [1, 2, 20] {
        let mut world = World::new();
        let blob =
            world.add(Plan { open_faults: vec![SourceFault::Transient; 100].into(), ..Plan::cold(MIB) });
        world.describe(blob, MIB);
        let tickets: Vec<_> = (0..tickets).map(|_| world.open(blob, Part::Whole)).collect();
        world.run();
        all(&world, &tickets, Outcome::Failed(PullFault::Exhausted));
        let attempts = tickets.len().min(OPEN_ATTEMPTS_MAX as usize);
        assert_eq!(world.blobs[blob].requests.len(), attempts, "F10");
    }
}

#[test]
fn the_question_for_the_size_fails_like_a_transfer() {
    let mut world = World::new();
    let blob = world.add(Plan { size_faults: vec![SourceFault::Transient; 100].into(), ..Plan::cold(MIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Failed(PullFault::Exhausted));
    assert_eq!(world.blobs[blob].size_requests.len(), 1, "F10");
}

#[test]
fn a_rate_limit_is_not_waited_for() {
    let mut world = World::new();
    let limited = SourceFault::RateLimited { retry_after: Some(Duration::from_secs(60)) };
    let blob = world.add(Plan { open_faults: [limited].into(), ..Plan::cold(MIB) });
    let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::Whole)];
    world.run();
    all(&world, &tickets, Outcome::Failed(PullFault::Exhausted));
    assert!(world.now.since_origin() < Duration::from_secs(2), "F4");
    assert_eq!(world.blobs[blob].requests.len(), 1);
}

#[test]
fn what_one_repository_denies_another_may_give() {
    let denied = SourceFault::Denied { status: 403 };
    let mut world = World::new();
    let scope_faults = BTreeMap::from([(0, denied.clone()), (1, SourceFault::Missing)]);
    let blob = world.add(Plan { scope_faults, ..Plan::cold(MIB) });
    world.describe(blob, MIB);
    let tickets: Vec<_> = (0..3).map(|scope| world.open_in(blob, scope, Part::Whole)).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    let asked: Vec<_> = world.blobs[blob].requests.iter().map(|r| r.0).collect();
    assert_eq!(asked, [0, 1, 2]);

    let mut world = World::new();
    let scope_faults = (0..100).map(|scope| (scope, denied.clone())).collect();
    let blob = world.add(Plan { scope_faults, ..Plan::cold(MIB) });
    let tickets: Vec<_> = (0..100).map(|scope| world.open_in(blob, scope, Part::Whole)).collect();
    world.run();
    all(&world, &tickets, Outcome::Failed(PullFault::Denied));
    assert_eq!(
        world.blobs[blob].size_requests.len(),
        SCOPES_PER_FLIGHT_MAX,
        "not one request per repository"
    );
}

#[test]
fn a_transfer_that_is_reset_goes_on_at_the_byte_reached() {
    let mut world = at_pace(coarse());
    let blob = world.add(Plan { breaks_every: Some(20 * MIB + 77), ..Plan::cold(GIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    let blob = &world.blobs[blob];
    assert_eq!(blob.fetched, GIB, "L1, L3: no byte twice");
    assert_eq!(blob.requests.len() as u64, GIB.div_ceil(20 * MIB + 77));
    assert!(blob.reasons[1..].iter().all(|r| *r == FetchReason::Resume));
}

#[test]
fn a_source_that_brings_a_few_bytes_each_time_is_given_up() {
    let mut world = World::new();
    let blob = world.add(Plan { breaks_every: Some(KIB), ..Plan::cold(GIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Failed(PullFault::Exhausted));
    assert_eq!(world.blobs[blob].requests.len(), RESUME_ATTEMPTS_MAX as usize);
    // A quarter of a second, doubled each time.
    let paused = world.now.since_origin();
    assert!(paused >= Duration::from_millis(7750), "the source had {paused:?} to recover");
}

#[test]
fn a_blob_of_unknown_size_that_always_breaks_is_given_up() {
    // Without a size each attempt begins at the first byte: however much it brings, it is no progress.
    let mut world = World::new();
    let plan = Plan::cold(10 * MIB);
    let plan = Plan { size_told: Tells::Nothing, total_told: Tells::Nothing, ..plan };
    let blob = world.add(Plan { breaks_every: Some(5 * MIB), ..plan });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Failed(PullFault::Exhausted));
    assert!(world.blobs[blob].requests.len() <= RESUME_ATTEMPTS_MAX as usize);
}

#[test]
fn a_size_that_is_told_at_the_second_attempt_says_nothing_of_the_first() {
    let mut world = World::new();
    let plan = Plan { size_told: Tells::Nothing, total_told: Tells::Nothing, ..Plan::cold(10 * MIB) };
    let blob = world.add(Plan { breaks_every: Some(5 * MIB), ..plan });
    let ticket = world.open(blob, Part::Whole);
    world.run_until(|w| w.blobs[0].requests.len() == 2);
    world.blobs[blob].plan.total_told = Tells::Truth;
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!(world.blobs[blob].fetched, 15 * MIB, "the first attempt is lost, and only that");
}

#[test]
fn failures_between_successes_are_not_added_up() {
    // A lazy reader fetches a little here and there for hours; now and then a request fails.
    let mut world = at_pace(coarse());
    let blob = world.add(Plan::cold(GIB));
    let keeper = world.open(blob, Part::Bounded(0, 4095));
    world.run_until(|w| w.client(keeper).received() > 0);
    // Somebody waits for bytes that never come, so that the flight lives on.
    world.blobs[blob].plan.stalls_at = Some(900 * MIB + 7);
    let stalled = world.open(blob, Part::Bounded(900 * MIB, 901 * MIB));
    world.run_until(|w| w.client(stalled).received() > 0);
    for page in 1..30 {
        world.blobs[blob].plan.open_faults = [SourceFault::Transient].into();
        let at = page * 16 * MIB;
        let ticket = world.open(blob, Part::Bounded(at, at + 4095));
        world.run_until(|w| w.outcome(ticket).is_some());
        all(&world, &[ticket], Outcome::Delivered);
        // The read-ahead comes in before the next page is asked for.
        world.run_for(Duration::from_secs(1));
    }
    world.stop();
    world.run();
}

#[test]
fn a_blob_of_unknown_size_is_served_when_it_is_there() {
    for total_told in [Tells::Nothing, Tells::Truth] {
        let mut world = at_pace(Pace { step: Duration::from_secs(1), ..Pace::default() });
        let blob = world.add(Plan { size_told: Tells::Nothing, total_told, ..Plan::cold(10 * MIB) });
        let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::From(MIB))];
        world.run();
        all(&world, &tickets, Outcome::Delivered);
        assert_eq!((world.blobs[blob].fetched, world.blobs[blob].commits), (10 * MIB, 1), "{total_told:?}");
    }
}

#[test]
fn a_hint_that_lies_is_corrected_by_the_source() {
    for hint in [0, 1, 4 * MIB, 15 * MIB, 2 * BLOB_BYTES_MAX] {
        for total_told in [Tells::Truth, Tells::Nothing] {
            // A source that does not tell the size refuses what lies behind the end: that pull cannot be saved.
            if hint > 10 * MIB && hint <= BLOB_BYTES_MAX && total_told == Tells::Nothing {
                continue;
            }
            let mut world = World::new();
            let blob = world.add(Plan { total_told, ..Plan::cold(10 * MIB) });
            world.describe(blob, hint);
            let ticket = world.open(blob, Part::Whole);
            world.run();
            let blob = &world.blobs[blob];
            let name = format!("a hint of {hint}, {total_told:?}");
            // Bytes that a client has got under a wrong size cannot be taken back: it is cut short.
            if hint == 4 * MIB && total_told == Tells::Nothing {
                assert_eq!(world.outcome(ticket), Some(Outcome::Failed(PullFault::WrongContent)), "{name}");
                assert_eq!(blob.disk, Disk::Absent, "{name}");
            } else {
                assert_eq!(world.outcome(ticket), Some(Outcome::Delivered), "{name}");
                assert_eq!((blob.commits, blob.size_requests.len()), (1, 1), "{name}");
            }
        }
    }
}

#[test]
fn a_source_that_contradicts_itself_is_given_up() {
    let mut world = World::new();
    let blob = world.add(Plan { total_told: Tells::Lie(11 * MIB), ..Plan::cold(10 * MIB) });
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Failed(PullFault::WrongContent));
    assert_eq!(world.blobs[blob].commits, 0);
}

#[test]
fn wrong_bytes_cut_those_who_have_some_and_spare_those_who_have_none() {
    let mut world = World::new();
    let blob = world.add(Plan { wrong_places: 1, ..Plan::cold(10 * MIB) });
    let served = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(served).ready_to == last_piece_start(10 * MIB));
    // Its first byte lies in the piece that is withheld.
    let unserved = world.open(blob, Part::From(10 * MIB - 5));
    world.run();
    all(&world, &[served], Outcome::Failed(PullFault::WrongContent));
    assert_eq!(world.client(served).ready_to, last_piece_start(10 * MIB), "short of the last piece");
    all(&world, &[unserved], Outcome::Delivered);
    let blob = &world.blobs[blob];
    assert_eq!((blob.verdicts.as_slice(), blob.fetched), ([false, true].as_slice(), 20 * MIB));
}

#[test]
fn bytes_that_are_wrong_twice_are_given_up() {
    let mut world = World::new();
    let blob = world.add(Plan { wrong_places: 9, ..Plan::cold(200 * KIB) });
    let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::From(7))];
    world.run();
    all(&world, &tickets, Outcome::Failed(PullFault::WrongContent));
    assert_eq!(world.blobs[blob].verdicts, [false, false]);
    assert_eq!(world.blobs[blob].disk, Disk::Absent, "wrong bytes are not kept");
}
