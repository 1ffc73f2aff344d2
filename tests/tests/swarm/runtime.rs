//! Real runtimes on some of the nodes, and what bounds the operator has set.

use std::time::Instant;

use shoal_tests::agent::Setup;
use shoal_tests::cluster::Cluster;
use shoal_tests::containerd::{self, Containerd, REGISTRY};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::http::Client;
use shoal_tests::image::Image;
use shoal_tests::origin::Origin;

use super::{REPOSITORY, TRIES_MAX, are_sent_once, exact, until_logged};

/// containerd on two nodes, light clients on the others, all at once: the registry sends each blob once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerds_and_others_pull_at_once() {
    let Some(version) = containerd::at_hand().into_iter().next() else { return };
    let registry = DockerRegistry::start().await;
    let url = registry.url();
    let cluster = Cluster::start_with(&url, 4, |_, setup| setup.registry(REGISTRY, &url)).await;
    let mut runtimes = Vec::new();
    for agent in &cluster.agents[..2] {
        let runtime = Containerd::start(version, None).await;
        runtime.mirror(&agent.url(), "http://127.0.0.1:1");
        runtimes.push(runtime);
    }
    exact(870, async |seed| {
        let (image, tag) = (Image::new(seed, &[6_000_000, 2_000_000, 30_000]), format!("v{seed}"));
        registry.push(REPOSITORY, &tag, &image).await;
        let others: Vec<_> = cluster.agents[2..]
            .iter()
            .map(|agent| {
                let base = format!("{}/v2/{REPOSITORY}", agent.url());
                let image = image.clone();
                tokio::spawn(async move {
                    let client = Client::new();
                    for blob in image.blobs() {
                        let url = format!("{base}/blobs/{}?ns={REGISTRY}", blob.digest);
                        client.get(&url).await.expect(200, &blob.bytes);
                    }
                })
            })
            .collect();
        let name = format!("{REPOSITORY}:{tag}");
        let (first, second) = tokio::join!(runtimes[0].pull(&name), runtimes[1].pull(&name));
        for pulled in [first, second] {
            pulled.expect_ok("a pull by containerd");
        }
        for runtime in &runtimes {
            runtime.expect_image(&image).await;
        }
        for other in others {
            other.await.expect("every blob arrives whole");
        }
        until_logged(&registry, &image).await;
        let told = |digest: &str| (registry.blob_gets(digest), registry.blob_bytes(digest));
        are_sent_once(&image, told).then_some(())
    })
    .await;
}

/// Bytes per second keep to the bound in each direction, and come as fast as it allows. What is asserted from above holds on a machine
/// that is several times too slow, and not of a rate that is ten times too strict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_are_kept() {
    const BYTES: f64 = 3_000_000.0;
    const RATE: &str = "1MB/s";
    const BYTES_PER_SECOND: f64 = 1_000_000.0;
    /// What passes last has not been waited for.
    const FREE_BYTES: f64 = 600_000.0;
    /// Seconds.
    const TOOK_MAX: f64 = 15.0;
    let bounds: [(&str, &dyn Fn(usize, Setup) -> Setup, usize); 3] = [
        ("upstream.rate", &|node, setup| if node == 0 { setup.set("upstream.rate", RATE) } else { setup }, 0),
        (
            "swarm.upload_rate",
            &|node, setup| if node == 0 { setup.set("swarm.upload_rate", RATE) } else { setup },
            1,
        ),
        (
            "swarm.download_rate",
            &|node, setup| if node == 1 { setup.set("swarm.download_rate", RATE) } else { setup },
            1,
        ),
    ];
    for (first, (key, each, slow)) in (880..).step_by(TRIES_MAX as usize).zip(bounds) {
        let origin = Origin::start().await;
        // The third one does nothing: who has one other member hears nobody when that one stands still, and fetches by itself.
        let cluster = Cluster::start_with(&origin.url(), 3, each).await;
        exact(first, async |seed| {
            let image = Image::new(seed, &[BYTES as usize]);
            origin.add_image(REPOSITORY, &format!("v{seed}"), &image);
            let pull = async |node: usize| {
                let begun = Instant::now();
                cluster.pull([node], REPOSITORY, &image).await;
                begun.elapsed().as_secs_f64()
            };
            let upstream = async || cluster.agents[1].metric("upstream_bytes_total", &[]).await;
            let before = upstream().await;
            let took = [pull(0).await, pull(1).await][slow];
            let copies = (upstream().await - before) / BYTES;
            // Those of the second one have not come by the first one.
            let bound = if slow == 0 { BYTES } else { BYTES * (1.0 - copies) };
            let least = (bound - FREE_BYTES) / BYTES_PER_SECOND;
            println!("{key}: {took:.2} s, {copies:.2} copies");
            assert!(took >= least && took < TOOK_MAX, "{key}: {took} s, {least} s at least");
            assert!(copies < 1.1, "{key}: {copies} copies came from upstream once more");
            (copies < 0.1).then_some(())
        })
        .await;
    }
}
