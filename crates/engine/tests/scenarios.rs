//! What the engine does when clients, sources and the disk behave as they do in the field: one story a test, in
//! virtual time. The world checks the invariants after each step; a test says what is special about its story.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::{FetchReason, Outcome, PullFault};
use shoal_engine::limits::{
    FETCHES_PER_FLIGHT_MAX, FLIGHTS_MAX, OPEN_ATTEMPTS_MAX, PREFETCH_FETCHES_MAX, RESUME_ATTEMPTS_MAX,
    SCOPES_PER_FLIGHT_MAX, TICKETS_MAX,
};
use shoal_engine::pieces::{BLOB_BYTES_MAX, last_piece_start, piece_len};
use shoal_engine::{LocalFault, SourceFault, TicketId};

use world::plan::{Disk, Effect, Plan, Tells};
use world::{Pace, World};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A transfer of a GiB in a few hundred steps.
fn coarse() -> Pace {
    Pace { step: Duration::from_millis(40), step_bytes: 4 * MIB, ..Pace::default() }
}

fn settings() -> Settings {
    Settings::default()
}

fn all(world: &World, tickets: &[TicketId], outcome: Outcome) {
    for &ticket in tickets {
        assert_eq!(world.outcome(ticket), Some(outcome), "{ticket:?}");
    }
}

// ---- one transfer for everybody ----

#[test]
fn twenty_waiters_share_one_transfer() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(20 * MIB));
    let tickets: Vec<_> = (0..20).map(|_| world.open(blob, Part::Whole)).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    let blob = &world.blobs[blob];
    assert_eq!(blob.requests, [(0, 0, Some(20 * MIB))], "D3: one request");
    assert_eq!((blob.size_requests.len(), blob.fetched, blob.commits), (1, 20 * MIB, 1));
}

#[test]
fn a_manifest_saves_the_question_for_the_size() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(MIB));
    world.describe(blob, MIB);
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!(world.blobs[blob].size_requests, [0usize; 0]);
    assert_eq!(world.engine().size_hint(&world.blobs[blob].digest), Some(MIB));
}

#[test]
fn a_leader_that_leaves_cancels_nobody() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(40 * MIB));
    let leader = world.open(blob, Part::Whole);
    let follower = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(leader).received() > 10 * MIB);
    world.close(leader);
    world.run();
    assert_eq!(world.outcome(leader), None, "C7: nothing is said to a client that has gone");
    all(&world, &[follower], Outcome::Delivered);
    assert_eq!(world.blobs[blob].requests.len(), 1);
    assert!(world.engine().is_idle(), "D1: nothing is left of the flight");
}

#[test]
fn a_pull_that_everybody_has_left_is_completed_for_the_next() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(40 * MIB));
    let first = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(first).received() > 0);
    world.close(first);
    world.run();
    assert_eq!(world.blobs[blob].commits, 1);
    let second = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[second], Outcome::Stored);
    assert_eq!(world.blobs[blob].fetched, 40 * MIB);
}

#[test]
fn a_client_that_leaves_before_the_size_is_known_costs_no_transfer() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(40 * MIB));
    let ticket = world.open(blob, Part::Whole);
    world.run_until(|w| !w.blobs[0].size_requests.is_empty());
    world.close(ticket);
    world.run();
    assert!(world.blobs[blob].requests.is_empty());
}

#[test]
fn a_runtime_that_drops_its_parallel_ranges_early_costs_one_transfer() {
    // containerd 2.1 asks for `bytes=0-`, `bytes=n-`, `bytes=2n-`, and drops each when it has its n bytes.
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan::cold(256 * MIB));
    let chunk = 32 * MIB;
    let mut tickets = Vec::new();
    for first in 0..3 {
        tickets.push(world.open_briefly(blob, Part::From(first * chunk), chunk));
    }
    for next in 3..8 {
        world.run_until(|w| tickets.iter().filter(|t| w.client(**t).is_open()).count() < 3);
        tickets.push(world.open_briefly(blob, Part::From(next * chunk), chunk));
    }
    world.run();
    for &ticket in &tickets {
        assert_eq!(world.client(ticket).received().max(chunk), world.client(ticket).received());
    }
    let blob = &world.blobs[blob];
    assert_eq!(blob.requests, [(0, 0, Some(256 * MIB))], "one transfer for all of them");
    assert_eq!((blob.fetched, blob.commits), (256 * MIB, 1));
}

#[test]
fn ranges_far_apart_are_fetched_side_by_side_and_nothing_twice() {
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan::cold(GIB));
    let firsts = [0, 256 * MIB, 512 * MIB, 768 * MIB, 900 * MIB];
    let tickets: Vec<_> = firsts.iter().map(|first| world.open(blob, Part::From(*first))).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    assert!(world.transfers_peak <= FETCHES_PER_FLIGHT_MAX, "{}", world.transfers_peak);
    assert_eq!(world.blobs[blob].fetched, GIB);
}

// ---- parts ----

#[test]
fn a_jump_streams_at_once_and_ends_after_the_verdict() {
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan::cold(GIB));
    let first = 600 * MIB + 5;
    let ticket = world.open(blob, Part::From(first));
    world.run_until(|w| w.client(ticket).received() > 0);
    let waited = world.now.since_origin();
    assert!(waited < Duration::from_millis(1300), "the first byte came {waited:?} after the origin");
    assert_eq!(world.blobs[blob].requests[0].1, 600 * MIB, "whole pieces are fetched");
    world.run_until(|w| w.client(ticket).ready_to == last_piece_start(GIB));
    assert!(world.client(ticket).is_open(), "the last piece waits for the gap before it");
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!((world.blobs[blob].fetched, world.blobs[blob].commits), (GIB, 1));
}

#[test]
fn a_footer_costs_its_pieces_and_not_the_blob() {
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan::cold(GIB));
    let footer = world.open(blob, Part::Suffix(50));
    world.run();
    all(&world, &[footer], Outcome::Delivered);
    let piece = piece_len(GIB);
    assert_eq!(world.blobs[blob].fetched, piece);
    let have = std::iter::once(GIB - piece..GIB).collect();
    assert_eq!(world.blobs[blob].disk, Disk::Partial { size: GIB, have, bad: false }, "and it is kept");

    let whole = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[whole], Outcome::Delivered);
    assert_eq!(world.blobs[blob].fetched, GIB, "what the footer brought is not fetched again");
}

#[test]
fn a_short_range_in_the_middle_does_not_wait_for_the_transfer() {
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan::cold(GIB));
    let whole = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(whole).received() > 0);
    let asked = world.now;
    let page = world.open(blob, Part::Bounded(500 * MIB, 500 * MIB + 4095));
    world.run_until(|w| w.outcome(page).is_some());
    assert!(world.now - asked < Duration::from_millis(200), "a page fault waited {:?}", world.now - asked);
    world.run();
    all(&world, &[whole, page], Outcome::Delivered);
    assert_eq!(world.blobs[blob].fetched, GIB);
}

#[test]
fn a_range_of_the_whole_small_blob_waits_for_the_verdict() {
    // The same bytes as without a range, and as wrong if they are wrong.
    for part in [Part::Bounded(0, MIB - 1), Part::Bounded(0, u64::MAX), Part::Suffix(MIB), Part::From(0)] {
        let mut world = World::new();
        let blob = world.add(Plan { wrong_places: 2, ..Plan::cold(MIB) });
        let ticket = world.open(blob, part);
        world.run();
        assert_eq!(world.outcome(ticket), Some(Outcome::Failed(PullFault::WrongContent)), "{part:?}");
        assert!(world.client(ticket).received() <= last_piece_start(MIB), "{part:?}");
    }
}

#[test]
fn a_range_outside_the_blob_is_refused_and_costs_nothing() {
    for part in [Part::From(40 * MIB), Part::Bounded(40 * MIB, 50 * MIB), Part::Suffix(0)] {
        let mut world = World::new();
        let blob = world.add(Plan::cold(40 * MIB));
        let ticket = world.open(blob, part);
        world.run();
        all(&world, &[ticket], Outcome::Unsatisfiable { size: 40 * MIB });
        assert_eq!(world.blobs[blob].fetched, 0, "{part:?}");
    }
}

#[test]
fn an_empty_blob_is_verified_like_any_other() {
    let mut world = World::new();
    let blob = world.add(Plan::cold(0));
    let ticket = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!(world.blobs[blob].verdicts, [true]);
    assert!(world.blobs[blob].requests.is_empty());
}

// ---- sources that fail ----

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
    let mut world = World::with(coarse(), settings(), 1);
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
fn failures_between_successes_are_not_added_up() {
    // A lazy reader fetches a little here and there for hours; now and then a request fails.
    let mut world = World::with(coarse(), settings(), 1);
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
        let mut world = World::with(Pace { step: Duration::from_secs(1), ..Pace::default() }, settings(), 1);
        let blob = world.add(Plan { size_told: Tells::Nothing, total_told, ..Plan::cold(10 * MIB) });
        let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::From(MIB))];
        world.run();
        all(&world, &tickets, Outcome::Delivered);
        assert_eq!((world.blobs[blob].fetched, world.blobs[blob].commits), (10 * MIB, 1), "{total_told:?}");
    }
}

// ---- wrong sizes and wrong bytes ----

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

// ---- the disk ----

#[test]
fn a_part_on_disk_is_gone_on_with() {
    let mut world = World::with(coarse(), settings(), 1);
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
            let mut world =
                World::with(Pace { step: Duration::from_secs(1), ..Pace::default() }, settings(), 1);
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
    let fast = Pace { step: Duration::from_millis(1), ..Pace::default() };
    let slow = Pace { step: Duration::from_secs(1), ..Pace::default() };
    for (pace, size) in [(fast, GIB), (slow, 60 * MIB)] {
        let mut world = World::with(pace, settings(), 1);
        let blob = world.add(Plan::cold(size));
        let ticket = world.open(blob, Part::Whole);
        world.run();
        all(&world, &[ticket], Outcome::Delivered);
        let checkpoints = world.blobs[blob].checkpoints;
        assert!((10..=40).contains(&checkpoints), "{checkpoints} checkpoints");
    }
}

// ---- those who come late ----

#[test]
fn a_client_that_comes_at_any_moment_joins_the_same_transfer() {
    type Moment = fn(&World) -> bool;
    let moments: [(&str, Moment); 7] = [
        ("look", |w| w.trace.last().is_some_and(|l| l.contains("Look "))),
        ("size", |w| !w.blobs[0].size_requests.is_empty()),
        ("prepare", |w| w.blobs[0].place.is_some()),
        ("receive", |w| w.blobs[0].fetched > 0),
        ("verify", |w| w.trace.last().is_some_and(|l| l.contains("< Verify"))),
        ("commit", |w| w.trace.iter().rev().take(9).any(|l| l.contains("< Commit"))),
        ("after", |w| w.blobs[0].commits > 0),
    ];
    for (name, moment) in moments {
        for part in [Part::Whole, Part::From(MIB), Part::Suffix(9), Part::Bounded(7, 8), Part::From(4 * MIB)]
        {
            let mut world = World::new();
            let blob = world.add(Plan::cold(4 * MIB));
            let first = world.open(blob, Part::Whole);
            world.run_until(moment);
            let late = world.open(blob, part);
            world.run();
            all(&world, &[first], Outcome::Delivered);
            let expected = match part {
                _ if name == "after" => Outcome::Stored,
                Part::From(first) if first == 4 * MIB => Outcome::Unsatisfiable { size: 4 * MIB },
                _ => Outcome::Delivered,
            };
            assert_eq!(world.outcome(late), Some(expected), "{part:?} during {name}");
            assert_eq!((world.blobs[blob].fetched, world.blobs[blob].commits), (4 * MIB, 1), "{name}");
        }
    }
}

#[test]
fn a_client_that_comes_while_the_flight_is_put_down_begins_a_new_one() {
    let mut world = World::new();
    let blob = world.add(Plan { open_faults: [SourceFault::Transient].into(), ..Plan::cold(4 * MIB) });
    let first = world.open(blob, Part::Whole);
    world.run_until(|w| w.trace.last().is_some_and(|l| l.contains("< Shut")));
    let late = world.open(blob, Part::Whole);
    world.run();
    all(&world, &[first], Outcome::Failed(PullFault::Exhausted));
    all(&world, &[late], Outcome::Delivered);
    assert_eq!(world.blobs[blob].fetched, 4 * MIB);
}

#[test]
fn a_late_footer_does_not_inherit_the_wish_for_the_whole() {
    let mut world = World::with(coarse(), settings(), 1);
    let blob = world.add(Plan { open_faults: [SourceFault::Transient].into(), ..Plan::cold(GIB) });
    let first = world.open(blob, Part::Whole);
    world.run_until(|w| w.trace.last().is_some_and(|l| l.contains("< Shut")));
    let late = world.open(blob, Part::Suffix(100));
    world.run();
    all(&world, &[first], Outcome::Failed(PullFault::Exhausted));
    all(&world, &[late], Outcome::Delivered);
    assert_eq!(world.blobs[blob].fetched, piece_len(GIB));
}

#[test]
fn a_manifest_that_comes_while_the_flight_is_put_down_is_not_forgotten() {
    let mut world = World::new();
    let blob = world.add(Plan { open_faults: [SourceFault::Transient].into(), ..Plan::cold(4 * MIB) });
    world.open(blob, Part::Whole);
    world.run_until(|w| w.trace.last().is_some_and(|l| l.contains("< Shut")));
    world.prefetch(blob);
    world.run();
    assert_eq!(world.blobs[blob].commits, 1);
}

// ---- the end of the agent ----

#[test]
fn a_drain_lets_clients_finish_and_puts_down_the_rest() {
    let mut world = World::new();
    let (wanted, unwanted) = (world.add(Plan::cold(40 * MIB)), world.add(Plan::cold(40 * MIB)));
    let ticket = world.open(wanted, Part::Whole);
    world.prefetch(unwanted);
    world.run_until(|w| w.client(ticket).received() > 10 * MIB && w.blobs[1].fetched > 0);
    world.drain();
    let late = world.open(wanted, Part::Whole);
    all(&world, &[late], Outcome::Failed(PullFault::Draining));
    world.run();
    all(&world, &[ticket], Outcome::Delivered);
    assert_eq!(world.blobs[wanted].commits, 1);
    let blob = &world.blobs[unwanted];
    assert_eq!(blob.commits, 0, "nobody waits for it");
    assert!(matches!(blob.disk, Disk::Partial { .. }), "what has come is kept");
}

#[test]
fn a_stop_ends_everything_at_once_and_keeps_what_has_come() {
    for stalls_at in [None, Some(20 * MIB)] {
        let mut world = World::new();
        let blob = world.add(Plan { stalls_at, ..Plan::cold(40 * MIB) });
        let tickets = [world.open(blob, Part::Whole), world.open(blob, Part::Whole)];
        world.run_until(|w| w.client(tickets[0]).received() >= 20 * MIB - 9);
        world.drain();
        world.run_for(Duration::from_millis(30));
        world.stop();
        let stopped = world.now;
        all(&world, &tickets, Outcome::Failed(PullFault::Draining));
        world.run();
        assert!(world.now - stopped < Duration::from_millis(100), "{:?}", world.now - stopped);
        let Disk::Partial { have, .. } = &world.blobs[blob].disk else { panic!("nothing is kept") };
        assert!(have.contains(0..20 * MIB - 9));
    }
}

#[test]
fn a_stop_is_survived_in_every_phase() {
    for steps in 0..60 {
        let mut world = World::new();
        let blob = world.add(Plan { wrong_places: 1, ..Plan::cold(MIB) });
        world.open(blob, Part::Whole);
        world.run_for(Duration::from_micros(u64::from(steps as u32) * 2_500));
        world.stop();
        world.run();
        assert!(world.engine().is_idle());
    }
}

// ---- bounds ----

#[test]
fn prefetches_leave_room_for_clients() {
    for fetches_max in [1, 2, 6, 8, 32] {
        let mut world = World::with(coarse(), Settings { fetches_max }, 1);
        for _ in 0..40 {
            let blob = world.add(Plan::cold(64 * MIB));
            world.prefetch(blob);
        }
        world.run_for(Duration::from_millis(200));
        let busy: usize = (0..40).map(|blob| world.running(blob)).sum();
        assert!((1..=PREFETCH_FETCHES_MAX.min(fetches_max)).contains(&busy), "{busy} of {fetches_max}");
        let blob = world.add(Plan::cold(64 * MIB));
        let (asked, ticket) = (world.now, world.open(blob, Part::Whole));
        world.run_until(|w| w.client(ticket).received() > 0);
        let waited = world.now - asked;
        assert!(waited < Duration::from_millis(250), "a client waited {waited:?} with {fetches_max} places");
        world.run();
        assert!(world.blobs.iter().all(|b| b.commits == 1 && b.fetched == 64 * MIB));
    }
}

#[test]
fn those_who_have_left_leave_room_for_those_who_wait() {
    // I7: pulls that were broken off go on for the next one who asks, but not at the cost of one who does.
    let mut world = World::with(coarse(), Settings { fetches_max: 4 }, 1);
    let left: Vec<_> = (0..4).map(|_| world.add(Plan::cold(512 * MIB))).collect();
    let gone: Vec<_> = left.iter().map(|blob| world.open(*blob, Part::Whole)).collect();
    world.run_until(|w| gone.iter().all(|t| w.client(*t).received() > 0));
    for ticket in gone {
        world.close(ticket);
    }
    let blob = world.add(Plan::cold(64 * MIB));
    let (asked, ticket) = (world.now, world.open(blob, Part::Whole));
    world.run_until(|w| w.client(ticket).received() > 0);
    assert!(world.now - asked < Duration::from_millis(250), "a client waited {:?}", world.now - asked);
    world.run();
    assert!(world.blobs.iter().all(|b| b.commits == 1 && b.fetched == b.plan.size), "and nothing is lost");
}

#[test]
fn clients_wait_for_a_place_in_the_order_they_came() {
    let mut world = World::with(Pace::default(), Settings { fetches_max: 2 }, 1);
    let blobs: Vec<_> = (0..6).map(|_| world.add(Plan::cold(8 * MIB))).collect();
    let tickets: Vec<_> = blobs.iter().map(|blob| world.open(*blob, Part::Whole)).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    assert_eq!(world.transfers_peak, 2);
    let began: Vec<_> = world.trace.iter().filter(|l| l.contains("< Fetch")).cloned().collect();
    for (line, blob) in began.iter().zip(&world.blobs) {
        assert!(line.contains(&blob.digest.to_string()), "{began:#?}");
    }
}

#[test]
fn more_than_the_engine_takes_passes_through() {
    let mut world = World::new();
    let huge = world.add(Plan::cold(BLOB_BYTES_MAX + 1));
    let ticket = world.open(huge, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::PassThrough);

    let mut world = World::new();
    let plan = Plan::cold(BLOB_BYTES_MAX + 1);
    let huge = world.add(Plan { size_told: Tells::Nothing, ..plan });
    let ticket = world.open(huge, Part::Whole);
    world.run();
    all(&world, &[ticket], Outcome::PassThrough);

    let mut engine = shoal_engine::Engine::new(settings());
    let mut open = |ticket: u64, blob: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&blob.to_be_bytes());
        let digest = shoal_engine::Digest::new(shoal_engine::Algorithm::Sha256, &hash);
        let scope: shoal_engine::Scope = shoal_engine::Scope {
            registry: "registry.test".parse().unwrap(),
            repository: "library/image".parse().unwrap(),
        };
        let open = shoal_engine::Input::Open { ticket: TicketId(ticket), digest, scope, part: Part::Whole };
        engine.handle(shoal_engine::Time::ZERO, open);
        std::iter::from_fn(|| engine.poll_output()).last()
    };
    for blob in 0..FLIGHTS_MAX as u64 {
        open(blob, blob);
    }
    let end = |ticket| {
        let outcome = Outcome::PassThrough;
        Some(shoal_engine::Output::End { ticket: TicketId(ticket), outcome })
    };
    assert_eq!(open(FLIGHTS_MAX as u64, FLIGHTS_MAX as u64), end(FLIGHTS_MAX as u64), "one flight too many");
    for ticket in FLIGHTS_MAX as u64 + 1..=TICKETS_MAX as u64 {
        assert_eq!(open(ticket, 0), None, "a flight that is there takes more tickets");
    }
    let last = TICKETS_MAX as u64 + 1;
    assert_eq!(open(last, 0), end(last), "one ticket too many");
}
