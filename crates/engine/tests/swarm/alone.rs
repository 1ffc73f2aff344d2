//! A node that is the only member behaves as one that has no swarm at all.

use std::sync::Arc;
use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::{Found, Output};
use shoal_engine::limits::{ALONE_PAUSE_PER_MEMBER, MEMBERS_WAIT};
use shoal_engine::wire::Message;
use shoal_engine::{Digest, Engine, Input, Roster, TicketId, Time};

use crate::PIECE;
use crate::cluster::Cluster;
use crate::node::Node;

/// What an engine asks for when it is told this.
fn outputs(engine: &mut Engine, inputs: &[Input]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (at, input) in (1..).zip(inputs) {
        // By then it does not wait for members any more.
        let now = Time::ZERO + MEMBERS_WAIT + Duration::from_millis(at);
        engine.handle(now, input.clone());
        outputs.extend(std::iter::from_fn(|| engine.poll_output()));
    }
    outputs
}

/// How a node comes to have a blob by itself, with a client that goes and one that stays.
fn story(digest: Digest) -> Vec<Input> {
    let scope = crate::upstream::scope();
    let fetch = shoal_engine::FetchId(1);
    let open = |ticket, part| Input::Open { ticket: TicketId(ticket), digest, scope: scope.clone(), part };
    vec![
        Input::Described { digest, size: 40 * PIECE, prefetch: None },
        open(1, Part::Whole),
        open(2, Part::From(PIECE)),
        Input::Looked { digest, found: Found::Absent },
        Input::Prepared { digest, result: Ok(()) },
        Input::FetchOpened { fetch, total: Some(40 * PIECE) },
        Input::Progress { fetch, to: 10 * PIECE },
        Input::Close { ticket: TicketId(2) },
        Input::Progress { fetch, to: 40 * PIECE },
        Input::FetchEnded { fetch, result: Ok(()) },
        Input::Verified { digest, result: Ok(true) },
        Input::Committed { digest, result: Ok(()) },
    ]
}

/// The only member of its list.
fn alone(node: &Node) -> Engine {
    let mut engine = Engine::new(Settings { peer: Some(node.peer()), ..Settings::default() });
    engine.handle(Time::ZERO, Input::Roster(Arc::new(Roster::new([node.member.clone()]))));
    engine
}

#[test]
fn the_only_member_asks_for_the_same_as_a_node_without_a_swarm() {
    let mut cluster = Cluster::new(1);
    let blob = cluster.add(40 * PIECE);
    let story = story(cluster.blobs[blob].digest);
    let without = outputs(&mut Engine::new(Settings::default()), &story);
    assert_eq!(outputs(&mut alone(&Node::new(0, "")), &story), without, "with a list of one");
}

/// Those who come later are told of it as its homes.
#[test]
fn what_the_only_member_has_pulled_is_not_forgotten() {
    let (node, other) = (Node::new(0, ""), Node::new(1, ""));
    let mut cluster = Cluster::new(1);
    let blob = cluster.add(40 * PIECE);
    let digest = cluster.blobs[blob].digest;
    let mut engine = alone(&node);
    outputs(&mut engine, &story(digest));
    let both = Roster::new([node.member.clone(), other.member.clone()]);
    let met = Time::ZERO + 2 * MEMBERS_WAIT;
    engine.handle(met, Input::Roster(Arc::new(both)));
    let is_told = |output: Output| match output {
        Output::Tell { to, message: Message::Announce { blobs } } => {
            to == other.peer() && blobs.contains(&(digest, 40 * PIECE))
        }
        _ => false,
    };
    let told = (0..60).any(|second| {
        engine.handle(met + Duration::from_secs(second), Input::Wakeup);
        std::iter::from_fn(|| engine.poll_output()).any(is_told)
    });
    assert!(told, "nobody knows that it is there");
}

#[test]
fn a_cluster_of_one_pulls_by_itself() {
    let mut cluster = Cluster::new(1);
    let blob = cluster.add(40 * PIECE);
    // By then it does not wait for members any more.
    cluster.run_for(MEMBERS_WAIT);
    let begun = cluster.now;
    let ticket = cluster.open(0, blob);
    cluster.run();
    assert!(cluster.outcome(ticket).is_some());
    assert_eq!(cluster.blobs[blob].requests, [(0, 0, Some(40 * PIECE))]);
    let waited = cluster.blobs[blob].asked_at[0] - begun;
    assert!(waited < ALONE_PAUSE_PER_MEMBER, "there is nobody whose turn it could be: {waited:?}");
}
