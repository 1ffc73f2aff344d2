//! Readers that want a part of a blob.

use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::pieces::{last_piece_start, piece_len};

use crate::world::World;
use crate::world::plan::{Disk, Plan};
use crate::{GIB, MIB, all, at_pace, coarse};

#[test]
fn a_jump_streams_at_once_and_ends_after_the_verdict() {
    let mut world = at_pace(coarse());
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
    let mut world = at_pace(coarse());
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
    let mut world = at_pace(coarse());
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
