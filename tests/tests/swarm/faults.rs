//! When members fail in the middle of a rollout.

use std::time::Duration;

use shoal_agent::admin::client::AdminClient;
use shoal_tests::cluster::Cluster;
use shoal_tests::homes::homes;
use shoal_tests::image::Image;
use shoal_tests::origin::{Match, Origin, Plan};
use shoal_tests::wait;

use super::REPOSITORY;

/// Bytes of the layer: enough that there is a middle.
const LAYER_BYTES: usize = 12_000_000;

/// An origin that takes two seconds for the layer, and the image.
async fn slow_origin(seed: u64) -> (Origin, Image) {
    let origin = Origin::start().await;
    let image = Image::new(seed, &[LAYER_BYTES]);
    origin.add_image(REPOSITORY, "v1", &image);
    origin.script(Match::blob(&image.layers[0].digest), Plan::rate(6_000_000));
    (origin, image)
}

/// Copies of the layer that left the origin.
fn copies(origin: &Origin, image: &Image) -> f64 {
    origin.blob_bytes(&image.layers[0].digest) as f64 / LAYER_BYTES as f64
}

/// `kill -9` of whoever is just fetching from upstream: the others go on with what they have, and the rest is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetches_dies() {
    let (origin, image) = slow_origin(800).await;
    let mut cluster = Cluster::start(&origin.url(), 6).await;
    let layer = &image.layers[0].digest;
    let pulls: Vec<_> = (0..6).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    origin.until_sent(layer, LAYER_BYTES as u64 / 3).await;
    let mut fetcher = 0;
    for node in 0..6 {
        let bytes = cluster.agents[node].metric("upstream_bytes_total", &[]).await;
        if bytes > 1_000_000.0 {
            fetcher = node;
        }
    }
    cluster.agents[fetcher].kill();
    for (node, pull) in pulls.into_iter().enumerate() {
        let pulled = pull.await;
        assert!(node == fetcher || pulled.is_ok(), "node {node}: {pulled:?}");
    }
    assert!(copies(&origin, &image) < 1.6, "{} copies", copies(&origin, &image));
}

/// The home of a manifest has just died, or stands still, and the members do not know it yet: the next home asks upstream for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_of_a_manifest_is_gone() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), 7).await;
    for (seed, is_killed) in [(804, false), (805, true)] {
        let image = Image::new(seed, &[1000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let digest = &image.manifest.digest;
        let admins: Vec<_> =
            cluster.agents.iter().map(|agent| AdminClient::new(&agent.setup().socket())).collect();
        let home = homes(&admins, &image.manifest).await.expect("the agents run")[0];
        // Who has had an answer to a probe lately notices silence.
        wait::until("everybody to have probed another", Duration::from_secs(30), || async {
            let peers = futures_util::future::join_all(admins.iter().map(AdminClient::peers)).await;
            peers.iter().flatten().filter(|p| p.members.iter().any(|m| m.latency_ms.is_some())).count() == 7
        })
        .await;
        match is_killed {
            true => cluster.agents[home].kill(),
            false => cluster.agents[home].stop(),
        }
        let begun = std::time::Instant::now();
        let others = cluster.agents.iter().enumerate().filter(|(node, _)| *node != home);
        let asked = others.map(|(_, agent)| {
            let (client, url) = (agent.client(), agent.manifest(REPOSITORY, digest));
            tokio::spawn(async move { client.get(&url).await })
        });
        for answer in asked.collect::<Vec<_>>() {
            answer.await.expect("it ends").expect(200, &image.manifest.bytes);
        }
        println!("killed: {is_killed}, all have it after {:.1?}", begun.elapsed());
        let asked = origin.seen().iter().filter(|seen| seen.path.ends_with(digest)).count();
        assert_eq!(asked, 1, "requests of the manifest; killed: {is_killed}");
        if !is_killed {
            cluster.agents[home].go_on();
            cluster.until_met(7).await;
        }
    }
}

/// `kill -9` of a third of the agents, whoever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_dies() {
    let (origin, image) = slow_origin(810).await;
    let mut cluster = Cluster::start(&origin.url(), 9).await;
    let pulls: Vec<_> = (0..9).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    origin.until_sent(&image.layers[0].digest, LAYER_BYTES as u64 / 3).await;
    for node in [1, 4, 7] {
        cluster.agents[node].kill();
    }
    for (node, pull) in pulls.into_iter().enumerate() {
        let pulled = pull.await;
        assert!([1, 4, 7].contains(&node) || pulled.is_ok(), "node {node}: {pulled:?}");
    }
    assert!(copies(&origin, &image) < 2.5, "{} copies", copies(&origin, &image));
}

/// One that is stopped for a while holds up nobody else, and ends its own pull afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stands_still_for_a_while() {
    let (origin, image) = slow_origin(820).await;
    let cluster = Cluster::start(&origin.url(), 5).await;
    let pulls: Vec<_> = (0..5).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    origin.until_sent(&image.layers[0].digest, LAYER_BYTES as u64 / 3).await;
    cluster.agents[2].stop();
    let mut stopped = None;
    for (node, pull) in pulls.into_iter().enumerate() {
        match node {
            2 => stopped = Some(pull),
            _ => tokio::time::timeout(Duration::from_secs(60), pull).await.expect("in time").expect("well"),
        }
    }
    cluster.agents[2].go_on();
    stopped.expect("node 2 pulls").await.expect("it ends well, too");
}

/// The agent that restarts goes on from the pieces on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on() {
    let (origin, image) = slow_origin(830).await;
    let mut cluster = Cluster::start(&origin.url(), 4).await;
    let layer = &image.layers[0].digest;
    // Slow enough that there have been checkpoints by then, which are a second apart.
    origin.heal();
    origin.script(Match::blob(layer), Plan::rate(3_000_000));
    let others: Vec<_> = (0..3).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    let first = cluster.begin(3, REPOSITORY, &image);
    origin.until_sent(layer, 2 * LAYER_BYTES as u64 / 3).await;
    cluster.agents[3].restart().await;
    let _ = first.await;
    for other in others {
        other.await.expect("the others end well");
    }
    cluster.pull([3], REPOSITORY, &image).await;
    let received = cluster.agents[3].metric("peer_received_bytes_total", &[]).await
        + cluster.agents[3].metric("upstream_bytes_total", &[]).await;
    assert!(received < 0.9 * LAYER_BYTES as f64, "{received} bytes came again after the restart");
}

/// A disk that is full on one node: its pull goes straight through, the others are not harmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_harms_nobody_else() {
    shoal_tests::place::needs_root();
    let (origin, image) = slow_origin(840).await;
    let disk = shoal_tests::disk::Disk::tmpfs(8);
    let cluster = Cluster::start_with(&origin.url(), 4, |node, setup| match node {
        3 => setup.data(&disk.path()),
        _ => setup,
    })
    .await;
    cluster.pull(0..4, REPOSITORY, &image).await;
    assert!(copies(&origin, &image) < 2.5, "{} copies", copies(&origin, &image));
}

/// Upstream is away after it has sent one copy: whoever comes later gets it from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_is_away_after_one_copy() {
    let (origin, image) = slow_origin(850).await;
    let cluster = Cluster::start(&origin.url(), 5).await;
    cluster.pull([0], REPOSITORY, &image).await;
    origin.refuse().await;
    cluster.pull(1..5, REPOSITORY, &image).await;
}

/// The origin resets connections in the middle again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_resets_connections() {
    let origin = Origin::start().await;
    let image = Image::new(860, &[LAYER_BYTES]);
    origin.add_image(REPOSITORY, "v1", &image);
    origin.script_times(3, Match::blob(&image.layers[0].digest), Plan::reset_after(2_500_000));
    let cluster = Cluster::start(&origin.url(), 5).await;
    cluster.pull(0..5, REPOSITORY, &image).await;
    // What the origin sent into a connection that it reset counts for nothing: it never arrived.
    let copies = cluster.upstream_bytes().await / LAYER_BYTES as f64;
    assert!(copies < 1.1, "{copies} copies");
}
