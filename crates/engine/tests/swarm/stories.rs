//! Stories that once ended badly, found by `properties.rs` and told again each time.

use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::wire::Complaint;

use crate::cluster::{Cluster, Pace};
use crate::node::{Lie, Upstream};
use crate::outside::Act;
use crate::properties::{Story, tell};

fn pace(delay: u64, rate: f64, upstream_rate: f64, hashing: u64) -> Pace {
    Pace {
        delay: Duration::from_millis(delay),
        rate,
        upstream_rate,
        hashing: Duration::from_millis(hashing),
        jitter: true,
        ..Pace::default()
    }
}

fn open(node: usize, blob: usize) -> Act {
    Act::Open(node, blob, Part::Whole)
}

/// It lies about everything from the start.
fn lies_of(node: usize) -> [(u64, Act); 3] {
    [Lie::Bytes, Lie::Relay, Lie::Report].map(|lie| (0, Act::Lie(node, lie)))
}

fn told(seed: u64, nodes: usize, pace: Pace, sizes: &[u64], acts: Vec<(u64, Act)>) -> Cluster {
    let acts = acts.into_iter().map(|(at, act)| (Duration::from_millis(at), act)).collect();
    tell(&Story { seed, nodes, pace, sizes: sizes.to_vec(), acts })
}

#[test]
fn a_lease_for_one_that_left_and_came_back_at_once_is_taken_back() {
    let wrong = Act::Upstream(1, Upstream::Wrong);
    let acts = vec![(0, open(0, 0)), (0, open(1, 0)), (0, open(2, 0)), (0, wrong)];
    told(2692760457106445054, 3, pace(12, 20e6, 20e6, 1), &[262145], acts);
    let lies = lies_of(1);
    let mut acts = vec![(0, open(1, 1)), (84, open(0, 1)), (0, open(2, 1)), (154, open(0, 0))];
    acts.extend(lies.clone());
    told(18177996710075196429, 3, pace(18, 4e6, 20e6, 6), &[262143, 262143], acts);
    let mut acts = vec![(0, open(0, 0)), (0, open(1, 0)), (0, open(2, 0))];
    acts.extend(lies);
    told(4625978278721868209, 3, pace(3, 200e6, 200e6, 7), &[1, 589257], acts);
}

#[test]
fn what_a_killed_agent_was_about_to_be_told_is_not_told() {
    let stalls = Act::Upstream(1, Upstream::Stalls);
    let acts = vec![
        (0, open(2, 0)),
        (0, open(1, 1)),
        (727, open(4, 1)),
        (899, open(1, 0)),
        (0, open(5, 0)),
        (1209, Act::Kill(5)),
        (0, stalls),
    ];
    told(9470922456771030077, 7, pace(1, 20e6, 4e6, 0), &[4776570, 262143], acts);
}

#[test]
fn a_feed_is_not_silent_that_was_given_a_moment_ago_nor_is_a_busy_one_none() {
    let acts = vec![(104, open(1, 1)), (221, open(2, 1)), (0, open(0, 1)), (0, open(3, 0))];
    let pace = Pace { jitter: false, ..pace(19, 20e6, 200e6, 2) };
    let cluster = told(17322636302342003222, 5, pace, &[48115182, 16777216], acts);
    assert_eq!(cluster.blobs[1].fetched, 16777216, "{:?}", cluster.blobs[1].requests);
    let others = cluster.ledger.complaints.iter().filter(|(_, why)| *why != Complaint::Slow).count();
    assert_eq!(others, 0);
}

#[test]
fn two_leases_make_nobody_slow() {
    let acts = vec![(690, open(0, 0)), (68, open(4, 0))];
    let pace = Pace { jitter: false, ..pace(7, 200e6, 4e6, 9) };
    let cluster = told(6098176442324186339, 8, pace, &[51289783], acts);
    assert!(cluster.ledger.complaints.iter().all(|(_, why)| *why != Complaint::Slow));
}

/// Two that fetch and feed each other have both taken hashes of what the home tells them once more.
#[test]
fn hashes_do_not_go_round_in_circles() {
    let slow = Pace { jitter: false, ..pace(9, 4e6, 4e6, 2) };
    let acts = vec![(918, open(4, 0)), (616, open(1, 0)), (0, open(3, 0)), (0, open(2, 0))];
    let cluster = told(71064134149474251, 6, slow, &[34387592], acts);
    assert_eq!(cluster.blobs[0].fetched, cluster.blobs[0].size);
    let acts = [(0, open(0, 0)), (1115, open(1, 0)), (0, open(4, 0)), (978, open(3, 0)), (34, open(5, 0))];
    let faults =
        [(1484, Act::Evict(2, 0)), (1431, Act::Wall(2)), (1379, Act::Start(1)), (704, Act::Start(5))];
    let lies = lies_of(6);
    let acts = acts.into_iter().chain(faults).chain(lies).collect();
    told(12197017688636078268, 7, pace(3, 200e6, 4e6, 7), &[46302834], acts);
}

/// Its client has left and the swarm cannot help it, while another blob of the node is on its way from members.
#[test]
fn what_nobody_waits_for_gets_its_place_beside_what_members_bring() {
    let acts = vec![
        (0, open(0, 0)),
        (91, open(2, 1)),
        (96, open(1, 1)),
        (8, open(1, 0)),
        (388, Act::Close(1)),
        (0, Act::Freeze(4)),
        (0, Act::Upstream(6, Upstream::Stalls)),
        (0, Act::Wall(0)),
        (1272, Act::Kill(3)),
    ];
    let lies = lies_of(1);
    let acts = acts.into_iter().chain(lies).collect();
    told(410119626633541425, 7, pace(14, 200e6, 200e6, 7), &[27286411, 4079545], acts);
}

/// It has come before its hash was known, and comes again once it is.
#[test]
fn a_piece_that_the_same_member_sends_twice_is_kept() {
    let acts = vec![
        (183, open(2, 0)),
        (0, open(0, 0)),
        (0, open(3, 0)),
        (1324, Act::Freeze(4)),
        (170, Act::Freeze(1)),
        (471, Act::Lie(0, Lie::Bytes)),
    ];
    told(13302985941765114929, 8, pace(17, 4e6, 4e6, 6), &[5629086], acts);
}
