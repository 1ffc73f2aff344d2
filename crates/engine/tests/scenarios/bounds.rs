//! Bounds: who waits, who goes past, who makes room.

use std::time::Duration;

use shoal_engine::TicketId;
use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::Outcome;
use shoal_engine::limits::{FLIGHTS_MAX, PREFETCH_FETCHES_MAX, TICKETS_MAX};
use shoal_engine::pieces::BLOB_BYTES_MAX;

use crate::world::plan::{Plan, Tells};
use crate::world::{Pace, World};
use crate::{MIB, all, coarse};

#[test]
fn prefetches_leave_room_for_clients() {
    for fetches_max in [1, 2, 6, 8, 32] {
        let mut world = World::with(coarse(), Settings { fetches_max, ..Settings::default() }, 1);
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
    let mut world = World::with(coarse(), Settings { fetches_max: 4, ..Settings::default() }, 1);
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
fn a_client_that_comes_while_a_place_is_given_up_is_served() {
    let pace = Pace { lag: Duration::from_millis(50), ..coarse() };
    let mut world = World::with(pace, Settings { fetches_max: 2, ..Settings::default() }, 1);
    let (left, busy) = (world.add(Plan::cold(512 * MIB)), world.add(Plan::cold(64 * MIB)));
    world.prefetch(left);
    let first = world.open(busy, Part::Whole);
    // The end of one transfer is on its way to the engine when somebody asks for a place, and leaves.
    world.run_until(|w| w.blobs[1].fetched == 64 * MIB);
    world.run_for(Duration::from_millis(30));
    let other = world.add(Plan::cold(MIB));
    world.describe(other, MIB);
    let second = world.open(other, Part::Bounded(0, 9));
    world.run_until(|w| w.running(0) == 0);
    world.close(second);
    // A place is free again before the other transfer has answered that it has ended.
    world.run_until(|w| w.outcome(first).is_some());
    let back = world.open(left, Part::From(400 * MIB));
    world.run();
    all(&world, &[first, back], Outcome::Delivered);
    let blob = &world.blobs[left];
    assert_eq!((blob.commits, blob.fetched, blob.requests.len()), (1, 512 * MIB, 3));
}

#[test]
fn clients_wait_for_a_place_in_the_order_they_came() {
    let mut world = World::with(Pace::default(), Settings { fetches_max: 2, ..Settings::default() }, 1);
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

    let mut engine = shoal_engine::Engine::new(Settings::default());
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
