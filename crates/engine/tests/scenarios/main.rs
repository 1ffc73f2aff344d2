//! What the engine does when clients, sources and the disk behave as they do in the field: one story a test, in
//! virtual time. The world checks the invariants after each step; a test says what is special about its story.

mod bounds;
mod disk;
mod ending;
mod parts;
mod sharing;
mod sources;
#[path = "../world/mod.rs"]
mod world;

use std::time::Duration;

use shoal_engine::TicketId;
use shoal_engine::engine::Settings;
use shoal_engine::io::Outcome;

use world::{Pace, World};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A transfer of a GiB in a few hundred steps.
fn coarse() -> Pace {
    Pace { step: Duration::from_millis(40), step_bytes: 4 * MIB, ..Pace::default() }
}

/// A world at a pace, with the bounds of a node that was not configured.
fn at_pace(pace: Pace) -> World {
    World::with(pace, Settings::default(), 1)
}

/// Asserts how all these tickets ended.
fn all(world: &World, tickets: &[TicketId], outcome: Outcome) {
    for &ticket in tickets {
        assert_eq!(world.outcome(ticket), Some(outcome), "{ticket:?}");
    }
}
