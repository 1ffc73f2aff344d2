//! A member that sends slowly: nobody waits for it.

use std::time::{Duration, Instant};

use shoal_tests::cluster::Cluster;

use super::faults::until_held;
use super::{REPOSITORY, one_layer};

const LAYER_BYTES: usize = 24_000_000;
/// Nodes that have the layer. The last of them is the slow one, and the node after it comes late.
const HOLDERS: usize = 4;
const SLOW: usize = HOLDERS - 1;
const LATE: usize = HOLDERS;
/// Bytes per second of the slow one: the least that can be configured.
const SLOW_RATE: f64 = 131_072.0;
/// Less than it sends if it is asked for one piece.
const ASKED_BYTES_MIN: f64 = 200_000.0;
/// How long the late one may take: a second or two on idle cores, and a quarter of what the slow one's part of it takes there.
const LATE_MAX: Duration = Duration::from_secs(12);
/// How long it may take until all homes know who has the layer.
const KNOWN_MAX: Duration = Duration::from_secs(30);

/// Whoever comes late asks all that have a layer, each for a part of it. What the slow one does not bring comes from the others, and
/// not from upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_holder_is_replaced() {
    let (origin, image) = one_layer(1700, LAYER_BYTES).await;
    let layer = &image.layers[0];
    let cluster = Cluster::start_with(&origin.url(), HOLDERS + 1, |node, setup| match node {
        SLOW => setup.set("swarm.upload_rate", "128KiB/s"),
        _ => setup,
    })
    .await;
    // The slow one gets it when the others have it, so that none of them has it to do with.
    cluster.pull(0..SLOW, REPOSITORY, &image).await;
    cluster.pull([SLOW], REPOSITORY, &image).await;
    until_held(&cluster.admins()[LATE], layer, HOLDERS, KNOWN_MAX).await;

    let slow = &cluster.agents[SLOW];
    let (before, upstream) = (slow.sent_bytes().await, cluster.upstream_bytes().await);
    let begun = Instant::now();
    cluster.pull([LATE], REPOSITORY, &image).await;
    let took = begun.elapsed();
    let sent = slow.sent_bytes().await - before;
    let alone = LAYER_BYTES as f64 / HOLDERS as f64 / SLOW_RATE;
    println!("it took {took:.1?}; the slow one sent {sent} bytes, and needs {alone:.0} s for its part");
    assert!(sent >= ASKED_BYTES_MIN, "the slow one was not asked: it sent {sent} bytes");
    assert_eq!(cluster.upstream_bytes().await, upstream, "upstream is not asked for it again");
    assert!(took < LATE_MAX, "it took {took:?}");
}
