//! A node that is the only member behaves as one that has no swarm at all.

use std::sync::Arc;
use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::{Found, Output};
use shoal_engine::limits::{ALONE_PAUSE_PER_MEMBER, MEMBERS_WAIT};
use shoal_engine::{Engine, Input, Roster, TicketId, Time};

use crate::PIECE;
use crate::cluster::Cluster;
use crate::node::Node;

/// What an engine asks for when it is told this.
fn outputs(mut engine: Engine, inputs: &[Input]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (at, input) in (1..).zip(inputs) {
        // By then it does not wait for members any more.
        let now = Time::ZERO + MEMBERS_WAIT + Duration::from_millis(at);
        engine.handle(now, input.clone());
        outputs.extend(std::iter::from_fn(|| engine.poll_output()));
    }
    outputs
}

#[test]
fn the_only_member_asks_for_the_same_as_a_node_without_a_swarm() {
    let node = Node::new(0, "");
    let blob = Cluster::new(1).add(1);
    let mut cluster = Cluster::new(1);
    assert_eq!(cluster.add(40 * PIECE), blob);
    let digest = cluster.blobs[blob].digest;
    let scope = crate::upstream::scope();
    let fetch = shoal_engine::FetchId(1);
    let open = |ticket, part| Input::Open { ticket: TicketId(ticket), digest, scope: scope.clone(), part };
    let story = [
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
    ];
    let without = outputs(Engine::new(Settings::default()), &story);
    let named = || Engine::new(Settings { peer: Some(node.peer()), ..Settings::default() });
    let mut alone = named();
    alone.handle(Time::ZERO, Input::Roster(Arc::new(Roster::new([node.member.clone()]))));
    assert_eq!(outputs(alone, &story), without, "with a list of one");
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
