//! When somebody sets the clocks of nodes in the middle of a rollout.

use std::time::Duration;

use shoal_tests::agent::REGISTRY;
use shoal_tests::clock::Clock;
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Auth, Match, Origin, Plan};
use shoal_tests::wait;

use super::REPOSITORY;

const LAYER_BYTES: usize = 12_000_000;
const HOUR: i64 = 60 * 60;
/// How soon a moved tag has to be seen: the time to live that the test sets, and room.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// An hour forward on one half of the nodes and back on the other, then the other way round: pulls under way end well, nobody
/// is taken for gone, tokens are renewed where they have to be, and a tag that moves afterwards is seen to move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_set() {
    const NODES: usize = 6;
    let origin = Origin::start().await;
    let account = Some(("robot".to_owned(), "secret".to_owned()));
    origin.require(Auth::Bearer { account, realm: None, expires_in: 300 });
    let clocks: Vec<Clock> = (0..NODES).map(|_| Clock::right()).collect();
    let cluster = Cluster::start_with(&origin.url(), NODES, |node, setup| {
        let setup = setup.credentials(REGISTRY, "robot", "secret").set("tags.ttl", "2s");
        clocks[node].of(setup)
    })
    .await;
    for (round, seed) in [870, 880].into_iter().enumerate() {
        let images = [seed, seed + 1].map(|seed| Image::new(seed, &[LAYER_BYTES]));
        images.iter().for_each(|image| origin.add_image(REPOSITORY, "latest", image));
        let [later, image] = &images;
        origin.tag(REPOSITORY, "latest", &image.manifest.digest);
        origin.script(Match::blob(&image.layers[0].digest), Plan::rate(6_000_000));
        until_seen(&cluster, image).await;
        let upstream = cluster.upstream_bytes().await;
        let pulls: Vec<_> = (0..NODES).map(|node| cluster.begin(node, REPOSITORY, image)).collect();
        origin.until_sent(&image.layers[0].digest, LAYER_BYTES as u64 / 3).await;
        for (node, clock) in clocks.iter().enumerate() {
            clock.jump(if (node + round) % 2 == 0 { HOUR } else { -HOUR });
        }
        origin.revoke_tokens();
        for pull in pulls {
            pull.await.expect("the pull ends well");
        }
        let copies = (cluster.upstream_bytes().await - upstream) / LAYER_BYTES as f64;
        println!("round {round}: {copies:.2} copies");
        // Whoever stands still for a moment loses its lease, and still gets what is on its way to it.
        assert!(copies < 1.5, "{copies} copies");
        for agent in &cluster.agents {
            assert_eq!(agent.metric("members", &[]).await as usize, NODES);
            assert!(!agent.log().contains("a member is gone"), "{}", agent.log());
        }
        // What was answered an hour ago is old, and what will have been answered in an hour is nothing to rely on.
        origin.tag(REPOSITORY, "latest", &later.manifest.digest);
        until_seen(&cluster, later).await;
    }
}

/// Waits until the tag is this image's on all nodes.
async fn until_seen(cluster: &Cluster, image: &Image) {
    for (node, agent) in cluster.agents.iter().enumerate() {
        wait::until(format!("node {node} to see that the tag has moved"), SEEN_MAX, || async {
            agent.get_manifest(REPOSITORY, "latest").await.body == image.manifest.bytes
        })
        .await;
    }
}
