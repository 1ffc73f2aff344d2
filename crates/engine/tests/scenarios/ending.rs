//! Drain and stop.

use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::pieces::last_piece_start;

use crate::world::plan::{Disk, Plan};
use crate::world::{Pace, World};
use crate::{MIB, all, at_pace};

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
fn a_transfer_that_does_not_end_is_not_waited_for_by_a_stop() {
    // All bytes are there, and the source does not say that it was all.
    let mut world = at_pace(Pace { ending: Duration::from_secs(60), ..Pace::default() });
    let blob = world.add(Plan::cold(4 * MIB));
    let ticket = world.open(blob, Part::Whole);
    world.run_until(|w| w.client(ticket).ready_to == last_piece_start(4 * MIB));
    world.run_for(Duration::from_secs(20));
    world.stop();
    let stopped = world.now;
    world.run_until(|w| w.engine().is_idle());
    assert!(world.now - stopped < Duration::from_millis(100), "{:?}", world.now - stopped);
    let have = std::iter::once(0..4 * MIB).collect();
    assert_eq!(world.blobs[blob].disk, Disk::Partial { size: 4 * MIB, have, bad: false });
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
