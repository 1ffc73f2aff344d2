//! One flight for everybody who waits, at whatever moment they come and go.

use shoal_engine::SourceFault;
use shoal_engine::demand::Part;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::limits::FETCHES_PER_FLIGHT_MAX;
use shoal_engine::pieces::piece_len;

use crate::world::World;
use crate::world::plan::Plan;
use crate::{GIB, MIB, all, at_pace, coarse};

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
    let mut world = at_pace(coarse());
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
    let mut world = at_pace(coarse());
    let blob = world.add(Plan::cold(GIB));
    let firsts = [0, 256 * MIB, 512 * MIB, 768 * MIB, 900 * MIB];
    let tickets: Vec<_> = firsts.iter().map(|first| world.open(blob, Part::From(*first))).collect();
    world.run();
    all(&world, &tickets, Outcome::Delivered);
    assert!(world.transfers_peak <= FETCHES_PER_FLIGHT_MAX, "{}", world.transfers_peak);
    assert_eq!(world.blobs[blob].fetched, GIB);
}

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
    let mut world = at_pace(coarse());
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
