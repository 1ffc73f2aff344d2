//! A node that has no place for anybody says so at once, and others send what it would have sent.

use std::time::Duration;

use shoal_engine::engine::Settings;
use shoal_engine::io::{Input, Output};
use shoal_engine::limits::{INSPECTIONS_MAX, SUBSCRIPTIONS_MAX};
use shoal_engine::wire::{Complaint, Message, Refusal, Run};
use shoal_engine::{Algorithm, Digest, Engine, PeerId, Time};

use crate::PIECE;
use crate::cluster::{Cluster, mix};
use crate::node::Node;
use crate::outside::Act;

/// As many pieces as a blob of four classes has at most.
const PIECES: u32 = 63;
const SIZE: u64 = PIECES as u64 * PIECE;

fn bytes(number: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (at, part) in (1..).zip(bytes.chunks_mut(8)) {
        part.copy_from_slice(&mix(4 * number as u64 + at).to_be_bytes());
    }
    bytes
}

fn reader(number: usize) -> PeerId {
    PeerId(bytes(number))
}

fn blob(number: usize) -> Digest {
    Digest::new(Algorithm::Sha256, &bytes(number))
}

fn node() -> Engine {
    Engine::new(Settings { peer: Some(Node::new(0, "").peer()), ..Settings::default() })
}

/// What a node does when it is told this.
fn outputs(engine: &mut Engine, input: Input) -> Vec<Output> {
    engine.handle(Time::ZERO, input);
    std::iter::from_fn(|| engine.poll_output()).collect()
}

/// What it does when somebody asks for all pieces of a class.
fn subscribe(engine: &mut Engine, reader: PeerId, digest: Digest) -> Vec<Output> {
    let (all, nothing) = (Run { first: 0, end: PIECES }, Run { first: 0, end: 0 });
    let (classes, class, runs) = (4, 1, vec![all]);
    let message = Message::Subscribe { digest, size: SIZE, classes, class, runs, unlisted: nothing };
    outputs(engine, Input::Heard { from: reader, message })
}

/// Why somebody is refused, and who.
fn refused(outputs: &[Output]) -> Option<(PeerId, Refusal)> {
    outputs.iter().find_map(|output| match output {
        Output::Tell { to, message: Message::Refuse { reason, .. } } => Some((*to, *reason)),
        _ => None,
    })
}

#[test]
fn who_finds_no_place_hears_it_at_once_and_comes_in_when_there_is_one() {
    let (mut engine, digest) = (node(), blob(0));
    assert_eq!(subscribe(&mut engine, reader(0), digest), [Output::Inspect { digest }]);
    let sent = outputs(&mut engine, Input::Inspected { digest, size: Some(SIZE) });
    assert!(sent.iter().any(|output| matches!(output, Output::Upload(_))), "{sent:?}");
    for number in 1..SUBSCRIPTIONS_MAX {
        let told = refused(&subscribe(&mut engine, reader(number), digest));
        assert_eq!(told, None, "{number} are served");
    }
    let (late, later) = (reader(SUBSCRIPTIONS_MAX), reader(SUBSCRIPTIONS_MAX + 1));
    assert_eq!(refused(&subscribe(&mut engine, late, digest)), Some((late, Refusal::Busy)));
    let leaves = Message::Unsubscribe { digest, class: 1 };
    outputs(&mut engine, Input::Heard { from: reader(5), message: leaves });
    assert_eq!(refused(&subscribe(&mut engine, late, digest)), None, "there is a place");
    assert_eq!(refused(&subscribe(&mut engine, later, digest)), Some((later, Refusal::Busy)));
}

/// Nor do more wait for a look into the store than it can be asked for.
#[test]
fn who_would_wait_for_the_store_behind_too_many_hears_it_as_well() {
    let mut engine = node();
    for number in 0..INSPECTIONS_MAX {
        let digest = blob(number);
        assert_eq!(subscribe(&mut engine, reader(number), digest), [Output::Inspect { digest }]);
    }
    let (late, digest) = (reader(INSPECTIONS_MAX), blob(INSPECTIONS_MAX));
    assert_eq!(refused(&subscribe(&mut engine, late, digest)), Some((late, Refusal::Busy)));
    let told = outputs(&mut engine, Input::Inspected { digest: blob(3), size: None });
    assert_eq!(refused(&told), Some((reader(3), Refusal::Unknown)), "it is not there");
    assert_eq!(subscribe(&mut engine, late, digest), [Output::Inspect { digest }], "there is a place");
}

/// One of those who have a blob is busy. Whoever asks it for a class gets that from another one; upstream is not asked.
#[test]
fn what_a_busy_one_does_not_send_another_one_sends() {
    let time = |count: usize, busy: Option<usize>| {
        let mut cluster = Cluster::new(count);
        let blob = cluster.add(SIZE);
        (1..count).for_each(|node| cluster.give(node, blob));
        busy.into_iter().for_each(|node| cluster.act(Act::Refuse(node)));
        let time = cluster.time_of_pull(0, blob);
        assert_eq!(cluster.blobs[blob].fetched, 0, "{count} nodes, busy: {busy:?}");
        let refusals = cluster.ledger.complaints.iter().filter(|(_, why)| *why == Complaint::Refused).count();
        (time, refusals)
    };
    let mut refusals = 0;
    for count in 3..9 {
        let (without, none) = time(count, None);
        assert_eq!(none, 0, "nobody is busy");
        for busy in 1..count {
            let (with, told) = time(count, Some(busy));
            refusals += told;
            assert!(with < without + Duration::from_millis(500), "{count} nodes, busy: {busy}: {with:?}");
        }
    }
    assert!(refusals > 0, "no busy one was ever asked");
}
