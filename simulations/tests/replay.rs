//! A run that is recorded and replayed is the same run.

use std::cell::RefCell;

use shoal_engine::record::Fingerprint;
use shoal_simulations::replay::replay;
use shoal_simulations::scenario::Scenario;
use shoal_simulations::systems::Tape;
use shoal_simulations::world::{self, Seen, Watchers};

/// The recording of node 0, and the hash over what its engines really said.
fn recorded(text: &str) -> (Vec<u8>, Fingerprint) {
    let scenario = Scenario::parse("test", text, &[]).expect("a scenario").remove(0);
    let (bytes, said) = (RefCell::new(Vec::new()), RefCell::new(Fingerprint::default()));
    let mut tape = Tape::default();
    let engine = |seen: Seen<'_>| {
        bytes.borrow_mut().extend(tape.record(&seen));
        if let Seen::Output(now, output) = seen {
            said.borrow_mut().add(now, output);
        }
    };
    world::watch(&scenario, Watchers { engine: Some(Box::new(engine)), ..Watchers::default() }, &|_| {});
    (bytes.into_inner(), said.into_inner())
}

#[test]
fn a_replay_says_what_the_run_said() {
    let (bytes, said) = recorded("name = \"plain\"\nnodes = 20\nimage = [\"8MiB\", \"1kB\", \"3MiB\"]");
    let replayed = replay(&bytes, &|_| {}).unwrap();
    assert_eq!(replayed.fingerprint, said);
    assert_eq!((replayed.engines, replayed.opened, replayed.flights, replayed.stored), (1, 3, 3, 3));
    assert_eq!((replayed.given_up, replayed.under_way), (0, 0));
    let text = replayed.to_string();
    assert!(text.contains("3 opened") && text.ends_with(&said.to_string()), "{text}");
}

#[test]
fn restarts_and_members_that_find_each_other_are_in_a_recording() {
    let (bytes, said) = recorded(
        "name = \"update\"\nnodes = 20\nimage = \"64MiB\"\nswim = true\nlink = { up = \"200Mbit/s\", down = \"200Mbit/s\" }\n\
         faults = { rolling_update = { from = \"500ms\", gap = \"50ms\", down = \"300ms\" } }",
    );
    let replayed = replay(&bytes, &|_| {}).unwrap();
    assert_eq!(replayed.fingerprint, said);
    assert_eq!(replayed.engines, 2);
    let per_input = bytes.len() as u64 / replayed.inputs;
    assert!(per_input < 200, "{per_input} bytes for an input");
}

#[test]
fn a_recording_that_is_cut_off_is_refused_with_the_place() {
    let (bytes, _) = recorded("name = \"plain\"\nnodes = 20\nimage = \"1MiB\"");
    let error = replay(&bytes[..bytes.len() - 1], &|_| {}).unwrap_err().to_string();
    assert!(error.contains("the recording ends in the middle: 1 bytes are missing"), "{error}");
    assert!(error.starts_with("frame "), "{error}");
}
