//! When all is well.

use std::time::Duration;

use shoal_tests::agent::shoal;
use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::wait;

use super::{REPOSITORY, paused_image};

/// The mission: everybody at once, and a real registry sends each blob once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_image_is_fetched_once() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(700, &[9_000_000, 3_000_000, 40_000, 100]);
    registry.push(REPOSITORY, "v1", &image).await;
    let cluster = Cluster::start(&registry.url(), 6).await;
    cluster.pull(0..6, REPOSITORY, &image).await;
    for blob in image.blobs() {
        assert_eq!(registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    assert_eq!(registry.manifest_requests(), 1, "the manifest, by its digest");
    // Whoever is warm asks nobody.
    let before = cluster.upstream_bytes().await;
    cluster.pull(0..6, REPOSITORY, &image).await;
    assert_eq!(cluster.upstream_bytes().await, before);
}

/// A tag that everybody resolves at once is resolved once, and moves for all at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_resolved_once() {
    let origin = Origin::start().await;
    let image = Image::new(710, &[1000]);
    origin.add_image(REPOSITORY, "latest", &image);
    let cluster = Cluster::start(&origin.url(), 6).await;
    let heads: Vec<_> = cluster
        .agents
        .iter()
        .map(|agent| {
            let url = agent.manifest(REPOSITORY, "latest");
            tokio::spawn(async move { shoal_tests::http::Client::new().head(&url).await })
        })
        .collect();
    for head in heads {
        let answer = head.await.expect("it ends");
        assert_eq!((answer.status, answer.header("Docker-Content-Digest")), (200, &*image.manifest.digest));
    }
    assert_eq!(origin.seen().iter().filter(|seen| seen.kind == Kind::Manifest).count(), 1);
}

/// One that joins when the others have it gets it from several of them, and upstream is not asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_joiner_draws_from_many() {
    let origin = Origin::start().await;
    let image = Image::new(720, &[24_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let mut cluster = Cluster::start(&origin.url(), 6).await;
    cluster.pull(0..6, REPOSITORY, &image).await;
    let mut before = Vec::new();
    for agent in &cluster.agents {
        agent.until_idle().await;
        before.push(agent.metric("peer_sent_bytes_total", &[]).await);
    }
    let late = cluster.join().await;
    cluster.until_met(7).await;
    cluster.pull([late], REPOSITORY, &image).await;
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1, "upstream is not asked for it again");
    let mut senders = 0;
    for (agent, before) in cluster.agents.iter().zip(before) {
        senders += usize::from(agent.metric("peer_sent_bytes_total", &[]).await > before);
    }
    assert!(senders >= 4, "only {senders} sent something");
}

/// What a member has stored before a restart is found there by the others afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_announced_after_a_restart() {
    let origin = Origin::start().await;
    let image = Image::new(730, &[3_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let mut cluster = Cluster::start(&origin.url(), 3).await;
    cluster.pull([0], REPOSITORY, &image).await;
    cluster.agents[0].until_idle().await;
    for node in 0..3 {
        cluster.agents[node].restart().await;
    }
    cluster.until_met(3).await;
    origin.refuse().await;
    let (agent, layer) = (&cluster.agents[1], &image.layers[0].digest);
    agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    // Announcements are gathered for a while, and a pull that finds nobody fails, as the origin is away.
    wait::until("the others to find it", Duration::from_secs(90), || async {
        let answer = agent.client().request("GET", &agent.blob(REPOSITORY, layer)).send();
        matches!(tokio::time::timeout(Duration::from_secs(10), answer).await, Ok(Ok(answer)) if answer.status() == 200)
    })
    .await;
}

/// Clients get bytes while they are still on their way from upstream to another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_passed_on_while_they_arrive() {
    let (origin, image, gate) = paused_image(740, 6_000_000, 3_000_000).await;
    let layer = image.layers[0].clone();
    let cluster = Cluster::start(&origin.url(), 4).await;
    let mut waiting = Vec::new();
    for agent in &cluster.agents {
        let mut response = agent.client().open(&agent.blob(REPOSITORY, &layer.digest)).await;
        let first = shoal_tests::http::read_some(&mut response, 1_000_000).await;
        assert_eq!(first, layer.bytes[..first.len()]);
        waiting.push((response, first.len()));
    }
    gate.open();
    for (response, read) in waiting {
        let rest = shoal_tests::http::finish(response).await;
        assert_eq!(rest.body, layer.bytes[read..]);
    }
    assert_eq!(origin.blob_bytes(&layer.digest), layer.len());
}

/// `shoal explain` tells of a blob on its way who fetches it and who receives it, and afterwards who has it and where it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_explained() {
    let (origin, image, gate) = paused_image(750, 6_000_000, 3_000_000).await;
    let layer = image.layers[0].clone();
    let cluster = Cluster::start(&origin.url(), 3).await;
    let pulls: Vec<_> = (0..3).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    origin.until_sent(&layer.digest, 3_000_000).await;
    let socket = cluster.agents[2].setup().socket().display().to_string();
    let explained = async |flags: &[&str]| {
        let arguments = [&["explain", layer.digest.as_str(), "--socket", socket.as_str()], flags].concat();
        shoal(&arguments).await.expect_ok("shoal explain").output
    };
    wait::until("all to be in the book", Duration::from_secs(30), || async {
        explained(&[]).await.contains("nobody has it, 3 receive it")
    })
    .await;
    let shown = explained(&[]).await;
    assert!(shown.contains("fetches 0 B to 6.0 MB from upstream"), "{shown}");
    gate.open();
    for pull in pulls {
        pull.await.expect("the pull ends well");
    }
    wait::until("all to be known to have it", Duration::from_secs(30), || async {
        let told: serde_json::Value =
            serde_json::from_str(&explained(&["--json"]).await).expect("it is JSON");
        told["state"] == "stored" && told["books"][0]["holder_count"] == 3
    })
    .await;
}

/// `shoal peers` shows every member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_can_be_looked_at() {
    let origin = Origin::start().await;
    let cluster =
        Cluster::start_with(&origin.url(), 3, |node, setup| setup.set("swarm.zone", format!("zone-{node}")))
            .await;
    let socket = cluster.agents[1].setup().socket().display().to_string();
    let shown = shoal(&["peers", "--socket", &socket]).await.expect_ok("shoal peers").output;
    for zone in ["zone-0", "zone-1", "zone-2"] {
        assert!(shown.contains(zone), "{shown}");
    }
    let json = shoal(&["peers", "--json", "--socket", &socket]).await.expect_ok("shoal peers").output;
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["members"][0]["is_self"], true);
}
