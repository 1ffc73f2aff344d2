//! When an agent that feeds others dies in the middle of a rollout behind real links: a registry whose link is what is slow, real
//! runtimes on some of the nodes, light clients on the others. Each node has a network namespace with a shaped link.

use std::cell::Cell;
use std::time::Duration;

use shoal_tests::containerd::{self, Containerd};
use shoal_tests::image::Image;
use shoal_tests::netns::Network;
use shoal_tests::{place, wait};

use super::REPOSITORY;
use super::links::{self, FAR, LINK_RATE, NEAR, Node, REGISTRY};

/// Bits per second of the registry's link: the image takes some seconds.
const ORIGIN_RATE: u64 = 24_000_000;
/// The nodes with containerd, by their places among the agents: one in each zone.
const RUNTIMES: [usize; 2] = [0, FAR.start - NEAR.start];
/// Bytes that an agent has sent to others when it counts as one that feeds them.
const FED_MIN: u64 = 500_000;
/// How long it may take until the rollout is in the middle.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// How long a client may take whose runtime has no other bound, once the runtimes have it.
const PULL_MAX: Duration = Duration::from_secs(60);
/// How long the registry may take to write down what it has sent.
const LOG_MAX: Duration = Duration::from_secs(10);

/// Kills the agent that feeds others most, of those that have no runtime, when a third of the image has come. Tells its place.
async fn kill_a_feeder(nodes: &mut [(usize, Node)], image_bytes: u64) -> usize {
    let (all, found) = (&*nodes, Cell::new(None));
    wait::until("a third of the image to have come, and somebody to feed others", BEGIN_MAX, || async {
        let mut upstream: u64 = 0;
        let mut most: Option<(u64, usize)> = None;
        for (at, (_, node)) in all.iter().enumerate() {
            let status = node.admin().status().await.expect("the agent runs");
            upstream += status.upstream_bytes.values().sum::<u64>();
            if !RUNTIMES.contains(&at) && status.peer_sent_bytes >= FED_MIN {
                most = most.max(Some((status.peer_sent_bytes, at)));
            }
        }
        let middle = most.filter(|_| upstream >= image_bytes / 3);
        found.set(middle.map(|(sent, at)| (at, sent, upstream)));
        found.get().is_some()
    })
    .await;
    let (at, sent, upstream) = found.get().expect("it was waited for");
    assert!(upstream < image_bytes, "the rollout was over before the fault");
    nodes[at].1.process.kill();
    println!("killed: node {}, which had sent {sent} bytes to others; {upstream} had come", nodes[at].0);
    at
}

/// `kill -9` of one that feeds others: all the others' clients get every byte, containerd on two nodes has the image, and the
/// registry has sent little more than one copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_feeds_others_dies_while_runtimes_pull() {
    place::needs_root();
    let versions = containerd::at_hand();
    let mut rates = vec![LINK_RATE; FAR.end];
    rates[REGISTRY] = ORIGIN_RATE;
    let network = Network::new(&rates).expect("namespaces can be made");
    let folder = place::scratch();
    let image = Image::new(897, &[9_000_000, 3_000_000, 30_000]);
    let (registry, mut nodes) = links::start(&network, folder.path(), &image).await;
    let mut runtimes = Vec::new();
    for (at, version) in RUNTIMES.into_iter().zip(versions.into_iter().cycle()) {
        let (number, node) = &nodes[at];
        let runtime = Containerd::start_in(version, &network, *number).await;
        // What it gets it has from its agent, or it has nothing.
        runtime.mirror(&format!("http://{}", node.setup.registry_address()), "http://127.0.0.1:1");
        runtimes.push(runtime);
    }

    let mut light = Vec::new();
    for at in (0..nodes.len()).filter(|at| !RUNTIMES.contains(at)) {
        let (number, node) = &nodes[at];
        light.extend(image.blobs().map(|blob| (at, node.begin(&network, *number, blob))));
    }
    let name = format!("{REPOSITORY}:v1");
    let (first, second, killed) = tokio::join!(
        runtimes[0].pull(&name),
        runtimes[1].pull(&name),
        kill_a_feeder(&mut nodes, image.blob_bytes())
    );
    for pulled in [first, second] {
        let took = pulled.expect_ok("a pull by containerd").took;
        println!("containerd has it after {took:.1?}");
    }
    for runtime in &runtimes {
        runtime.expect_image(&image).await;
    }
    for (at, pull) in light {
        let pulled = tokio::time::timeout(PULL_MAX, pull).await.expect("in time");
        assert!(at == killed || pulled.is_ok(), "node {}: {pulled:?}", nodes[at].0);
    }

    let sent = || image.blobs().map(|blob| registry.blob_bytes(&blob.digest)).sum::<u64>();
    wait::until_true("the registry to have told of one copy", LOG_MAX, || sent() >= image.blob_bytes()).await;
    let copies = sent() as f64 / image.blob_bytes() as f64;
    let requests: usize = image.blobs().map(|blob| registry.blob_gets(&blob.digest)).sum();
    println!("{copies:.2} copies left the registry, by {requests} requests");
    assert!(copies < 1.6, "{copies} copies");
    assert!(requests < nodes.len() * image.blobs().count(), "{requests} requests: each node asks for itself");
}
