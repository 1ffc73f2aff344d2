//! Warm sets that come slowly on purpose: the rate is kept by all members together, nobody is blamed for it, and whoever
//! waits for a blob gets it as if nobody held back.

use std::time::Duration;

use shoal_engine::Input;
use shoal_engine::demand::Part;
use shoal_engine::ids::WarmSetId;
use shoal_engine::io::Outcome;
use shoal_engine::limits::LEASE_STALL;
use shoal_engine::wire::Pace;

use crate::PIECE;
use crate::cluster::{BlobNo, Cluster};
use crate::upstream::scope;

const NODES: usize = 7;
const SET: WarmSetId = WarmSetId(7);
/// So slow that a piece of the smaller blob takes longer than a lease lives without a sign of life.
const RATE: u64 = 300_000;

fn warm(cluster: &mut Cluster, asker: usize, blobs: &[BlobNo], pace: Pace) {
    let blobs = blobs.iter().map(|blob| (cluster.blobs[*blob].digest, cluster.blobs[*blob].size)).collect();
    let targets = cluster.nodes.iter().map(|node| node.peer()).collect();
    let deadline = Duration::from_secs(600);
    let order = Input::Warm { set: SET, blobs, scope: scope(), targets, deadline, keep_until: 0, pace };
    cluster.input(asker, order);
}

fn upstream(rate: u64) -> Pace {
    Pace { upstream: rate, per_node: 0 }
}

fn all_have(cluster: &Cluster, blobs: &[BlobNo]) -> bool {
    (0..cluster.nodes.len()).all(|node| blobs.iter().all(|blob| cluster.has_stored(node, *blob)))
}

fn fetched(cluster: &Cluster) -> u64 {
    cluster.blobs.iter().map(|blob| blob.fetched).sum()
}

#[test]
fn all_members_together_keep_the_rate_and_fetch_each_byte_once() {
    let mut cluster = Cluster::new(NODES);
    let blobs = [cluster.add(20 * PIECE), cluster.add(10 * PIECE), cluster.add(700)];
    assert!(PIECE as f64 / (RATE as f64 / 3.0) > LEASE_STALL.as_secs_f64());
    let size: u64 = cluster.blobs.iter().map(|blob| blob.size).sum();
    warm(&mut cluster, 2, &blobs, upstream(RATE));
    let mut seconds = 0;
    while !all_have(&cluster, &blobs) {
        cluster.run_for(Duration::from_secs(1));
        seconds += 1;
        let may = RATE * seconds + 4 * PIECE;
        assert!(fetched(&cluster) <= may, "{} of {may} bytes after {seconds} s", fetched(&cluster));
        assert!(seconds < 60, "it does not end");
    }
    let least = size as f64 / RATE as f64;
    assert!((0.95 * least..1.2 * least + 1.0).contains(&(seconds as f64)), "{seconds} s, {least} s at least");
    for blob in &cluster.blobs {
        assert_eq!((blob.fetched, blob.requests.len()), (blob.size, 1), "{:?}", blob.requests);
    }
    assert!(cluster.ledger.complaints.is_empty(), "nobody is blamed: {:?}", cluster.ledger.complaints);
}

#[test]
fn what_is_there_already_leaves_its_share_to_the_others() {
    let mut cluster = Cluster::new(NODES);
    let (there, missing) = (cluster.add(40 * PIECE), cluster.add(10 * PIECE));
    let pulled = cluster.open(3, there);
    cluster.run();
    assert_eq!(cluster.outcome(pulled), Some(Outcome::Delivered));
    warm(&mut cluster, 0, &[there, missing], upstream(RATE));
    // A fifth of the rate would take five times as long.
    cluster.run_for(Duration::from_secs(14));
    assert!(all_have(&cluster, &[there, missing]), "{} bytes", cluster.blobs[missing].fetched);
    assert_eq!(fetched(&cluster), cluster.blobs[there].size + cluster.blobs[missing].size);
}

#[test]
fn who_waits_for_a_blob_is_not_held_back_by_anybody() {
    for client in 0..NODES {
        let mut cluster = Cluster::new(NODES);
        let blobs = [cluster.add(100 * PIECE), cluster.add(100 * PIECE)];
        warm(&mut cluster, 2, &blobs, Pace { upstream: RATE, per_node: 5_000_000 });
        cluster.run_for(Duration::from_secs(5));
        let held = |cluster: &Cluster, blob| {
            (0..NODES).filter(|n| cluster.nodes[*n].paces.contains_key(&blob)).count()
        };
        assert_eq!((held(&cluster, blobs[0]), held(&cluster, blobs[1])), (NODES, NODES));
        let ticket = cluster.open(client, blobs[0]);
        // At the pace it would take minutes; free, half a second.
        cluster.run_for(Duration::from_secs(2));
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "at node {client}");
        assert_eq!(cluster.blobs[blobs[0]].fetched, cluster.blobs[blobs[0]].size, "at node {client}");
        let other = cluster.blobs[blobs[1]].fetched;
        assert!(other <= 8 * RATE, "the other blob is still held back: {other}");
        assert_eq!(held(&cluster, blobs[1]), NODES);
    }
}

#[test]
fn a_node_that_is_not_meant_is_not_held_back_either() {
    let mut cluster = Cluster::new(NODES);
    let blob = cluster.add(100 * PIECE);
    let digest = cluster.blobs[blob].digest;
    let targets = (0..NODES - 1).map(|node| cluster.nodes[node].peer()).collect();
    let (blobs, deadline) = (vec![(digest, cluster.blobs[blob].size)], Duration::from_secs(600));
    let pace = upstream(RATE);
    cluster.input(0, Input::Warm { set: SET, blobs, scope: scope(), targets, deadline, keep_until: 0, pace });
    cluster.run_for(Duration::from_secs(5));
    let ticket = cluster.open_part(NODES - 1, blob, Part::Whole);
    cluster.run_for(Duration::from_secs(2));
    assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered));
    assert_eq!(cluster.blobs[blob].fetched, cluster.blobs[blob].size);
}

#[test]
fn the_latest_word_counts_for_everybody() {
    let mut cluster = Cluster::new(NODES);
    let blob = cluster.add(400 * PIECE);
    let rates = |cluster: &Cluster| {
        let rate =
            |node: &crate::node::Node| node.paces.get(&blob).map(|pace| (pace.upstream, pace.per_node));
        cluster.nodes.iter().map(rate).collect::<Vec<_>>()
    };
    // Each by another node than the one before.
    let table = [
        (0, Pace { upstream: 300_000, per_node: 4_000_000 }, Some((300_000, 4_000_000))),
        (3, upstream(200_000), Some((200_000, 0))),
        (0, Pace { upstream: 0, per_node: 2_000_000 }, Some((0, 2_000_000))),
        (5, Pace::FREE, None),
    ];
    for (asker, pace, expected) in table {
        warm(&mut cluster, asker, &[blob], pace);
        cluster.run_for(Duration::from_millis(900));
        assert_eq!(rates(&cluster), [expected; NODES], "{pace:?} by {asker}");
    }
    cluster.run_for(Duration::from_secs(10));
    assert!(all_have(&cluster, &[blob]));
    assert_eq!(cluster.blobs[blob].fetched, cluster.blobs[blob].size);
}

#[test]
fn a_holder_that_dies_is_replaced_at_the_same_pace() {
    let mut cluster = Cluster::new(NODES);
    let blob = cluster.add(20 * PIECE);
    warm(&mut cluster, 0, &[blob], upstream(RATE));
    cluster.run_for(Duration::from_secs(5));
    let holder = cluster.fetching(blob).expect("somebody fetches it");
    cluster.kill(holder);
    cluster.run_for(Duration::from_secs(40));
    let others = (0..NODES).filter(|node| *node != holder);
    assert!(others.into_iter().all(|node| cluster.has_stored(node, blob)));
    let again = cluster.blobs[blob].fetched - cluster.blobs[blob].size;
    assert!(again <= 2 * PIECE, "{again} bytes more than once");
}
