//! Real clients against a real agent in front of a real registry: containerd 1.6, 1.7 and 2, skopeo, podman.
//!
//! A runtime goes on to the origin when its mirror fails, which would hide every fault of the agent. So the origin
//! that the runtime knows is a counting proxy, and a test says how often it may be asked.

mod matrix;
mod others;

use std::time::Duration;

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::containerd::{self, Containerd, REGISTRY, Version};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::origin::{Match, Origin, Plan};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::wait;

const REPOSITORY: &str = "team/app";
const NAME: &str = "team/app:v1";

/// A registry with the image, what the agent sees of it, and what runtimes see of it when they pass the agent by.
struct Scene {
    registry: DockerRegistry,
    upstream: Proxy,
    fallback: Proxy,
    agent: Agent,
    image: Image,
}

impl Scene {
    async fn new(image: Image, upstream: Faults) -> Self {
        let registry = DockerRegistry::start().await;
        registry.push(REPOSITORY, "v1", &image).await;
        let upstream = Proxy::start(registry.address(), upstream).await;
        let fallback = Proxy::start(registry.address(), Faults::default()).await;
        let agent = Setup::new(&upstream.url()).registry(REGISTRY, &upstream.url()).start().await;
        Scene { registry, upstream, fallback, agent, image }
    }

    async fn containerd(&self, version: Version) -> Containerd {
        let containerd = Containerd::start(version, None).await;
        containerd.mirror(&self.agent.url(), &self.fallback.url());
        containerd
    }
}

/// A 3-layer image of 130 MB: cold, then warm, by every version; unpacked, so every byte has been checked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_pulls_cold_and_warm() {
    let scene = Scene::new(Image::large(400), Faults::default()).await;
    for version in containerd::at_hand() {
        let containerd = scene.containerd(version).await;
        let pulled = containerd.pull(NAME).await.expect_ok("the pull");
        eprintln!("containerd {}: 130 MB pulled and unpacked in {:?}", version.line(), pulled.took);
        containerd.expect_image(&scene.image).await;
    }
    scene.registry.until_calm().await;
    for blob in scene.image.blobs() {
        assert_eq!(scene.registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    assert_eq!(scene.fallback.connections(), 0, "a runtime passed the agent by");
    assert!(scene.registry.manifest_requests() <= 8, "{}", scene.registry.manifest_requests());
}

/// L1: the upstream is reset every 20 MB; containerd notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_pulls_while_upstream_is_reset_every_20_mb() {
    let faults = Faults { reset_after_bytes: Some(20_000_000), ..Faults::default() };
    let scene = Scene::new(Image::large(401), faults).await;
    let containerd = scene.containerd(Version::V1_6).await;
    containerd.fetch(NAME).await.expect_ok("the pull");
    containerd.expect_image(&scene.image).await;
    assert_eq!(scene.fallback.connections(), 0, "containerd passed the agent by");
    assert!(scene.upstream.resets() >= 5, "{} resets", scene.upstream.resets());
    // Size, plus what was on its way at each reset.
    let most = scene.image.blob_bytes() + (scene.upstream.resets() + 1) * (6 << 20);
    assert!(
        scene.upstream.down() <= most,
        "{} bytes after {} resets",
        scene.upstream.down(),
        scene.upstream.resets()
    );
}

/// `kill -9` of the agent in the middle: the runtime's pull succeeds by the origin; the agent, started again, goes on
/// from what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_pulls_although_the_agent_is_killed() {
    let mut scene =
        Scene::new(Image::large(402), Faults { rate: Some(40_000_000), ..Faults::default() }).await;
    let containerd = scene.containerd(Version::V1_6).await;
    let pull = containerd.fetch(NAME);
    let upstream = &scene.upstream;
    let agent = &mut scene.agent;
    let kill = async {
        wait::until_true("half of the image to have come", Duration::from_secs(60), || {
            upstream.down() > 60_000_000
        })
        .await;
        agent.kill();
    };
    let (pulled, ()) = tokio::join!(pull, kill);
    pulled.expect_ok("the pull");
    containerd.expect_image(&scene.image).await;
    assert!(scene.fallback.connections() > 0, "the agent was killed too late");
    scene.agent.restart().await;
    containerd.forget(NAME).await;
    let fallback = scene.fallback.connections();
    containerd.fetch(NAME).await.expect_ok("the second pull");
    assert_eq!(scene.fallback.connections(), fallback, "the second pull passed the agent by");
    assert!(
        scene.upstream.down() <= 2 * scene.image.blob_bytes(),
        "{} bytes for an image of {}",
        scene.upstream.down(),
        scene.image.blob_bytes()
    );
}

/// containerd 2 with `concurrent_layer_fetch_buffer`: many open-ended ranges at once, each dropped after its part, are
/// one upstream transfer (section 2.5; section 8, 1 to 4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_2_fetches_layers_in_parallel() {
    if Version::V2.folder().is_none() {
        containerd::at_hand();
        eprintln!("NOT TESTED: parallel layer fetch needs containerd 2");
        return;
    }
    let origin = Origin::start().await;
    let image = Image::new(403, &[64_000_000, 32_000_000, 16_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    origin.script(Match::kind(shoal_tests::origin::Kind::Blob).method("GET"), Plan::rate(60_000_000));
    let fallback = Proxy::start(origin.address(), Faults::default()).await;
    let agent = Setup::new(&origin.url()).registry(REGISTRY, &origin.url()).start().await;
    let containerd = Containerd::start(Version::V2, Some(4 << 20)).await;
    containerd.mirror(&agent.url(), &fallback.url());
    containerd.pull(NAME).await.expect_ok("the pull");
    containerd.expect_image(&image).await;
    assert_eq!(fallback.connections(), 0, "containerd passed the agent by");
    let ranged = agent.metric("requests_total", &["blob", "206"]).await;
    assert!(ranged >= 10.0, "{ranged} ranges: containerd did not fetch in parallel");
    for blob in image.blobs() {
        let (gets, sent) = (origin.blob_gets(&blob.digest), origin.blob_bytes(&blob.digest));
        assert!(
            gets <= 2,
            "{gets} GETs for a blob of {}: {:?}",
            blob.len(),
            origin.blob_ranges(&blob.digest)
        );
        assert!(sent <= blob.len() + (6 << 20), "{sent} bytes for a blob of {}", blob.len());
    }
}

/// D4: twenty pulls of one image at once, through one containerd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_twenty_pulls_at_once() {
    let scene = Scene::new(Image::small(404), Faults::default()).await;
    let containerd = scene.containerd(Version::V1_6).await;
    let pulls = (0..20).map(|_| containerd.fetch(NAME));
    for pulled in futures_util::future::join_all(pulls).await {
        pulled.expect_ok("one of twenty pulls");
    }
    containerd.expect_image(&scene.image).await;
    scene.registry.until_calm().await;
    for blob in scene.image.blobs() {
        assert_eq!(scene.registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    assert_eq!(scene.fallback.connections(), 0);
}

/// The runtime's own content is used: after one containerd has pulled the image by itself, the agent serves another
/// one without asking upstream for a single blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_of_a_real_containerd_is_used() {
    let scene = Scene::new(Image::small(405), Faults::default()).await;
    let first = Containerd::start(Version::V1_6, None).await;
    first.direct(&scene.fallback.url());
    first.fetch(NAME).await.expect_ok("the direct pull");
    let content = first.content_folder().display().to_string();
    let agent = scene.agent.restart_with(|setup| setup.set("store.runtime_content", content)).await;
    scene.registry.until_calm().await;
    let gets: usize = scene.image.blobs().map(|blob| scene.registry.blob_gets(&blob.digest)).sum();
    let second = Containerd::start(Version::V1_6, None).await;
    second.mirror(&agent.url(), "http://127.0.0.1:1");
    second.fetch(NAME).await.expect_ok("the pull by the agent");
    second.expect_image(&scene.image).await;
    scene.registry.until_calm().await;
    let after: usize = scene.image.blobs().map(|blob| scene.registry.blob_gets(&blob.digest)).sum();
    assert_eq!(after, gets, "blobs that the runtime has were fetched");
}
