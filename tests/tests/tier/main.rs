//! The shared object store (row L6): several agents, each with its own data directory, one bucket on a real S3 server,
//! and an origin that counts.

use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Auth, Kind, Origin};
use shoal_tests::s3::S3;
use shoal_tests::wait;

const REPOSITORY: &str = "team/app";

/// How long a background upload may take.
const UPLOAD_MAX: Duration = Duration::from_secs(60);

/// An origin and a bucket that agents share.
struct Stand {
    origin: Origin,
    s3: S3,
}

impl Stand {
    async fn new() -> Self {
        Stand { origin: Origin::start().await, s3: S3::start().await }
    }

    /// An agent with an empty disk.
    async fn agent(&self) -> Agent {
        self.agent_with(|setup| setup).await
    }

    async fn agent_with(&self, change: impl FnOnce(Setup) -> Setup) -> Agent {
        change(self.s3.shared_by(Setup::new(&self.origin.url()))).start().await
    }

    fn blob_gets(&self) -> usize {
        self.origin.count(Kind::Blob, "GET")
    }
}

async fn pull(agent: &Agent, image: &Image) {
    agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
}

/// Waits until an agent has uploaded so many blobs, manifests included.
async fn until_uploaded(agent: &Agent, blobs: usize) {
    wait::until(format!("{blobs} uploads"), UPLOAD_MAX, || async {
        agent.metric("tier_requests_total", &["operation=\"upload\"", "outcome=\"stored\""]).await
            >= blobs as f64
    })
    .await;
}

/// One image, once through an agent and in the bucket.
async fn shared(stand: &Stand, image: &Image) {
    stand.origin.add_image(REPOSITORY, "v1", image);
    let first = stand.agent().await;
    pull(&first, image).await;
    until_uploaded(&first, image.blobs().count() + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_and_one_bucket_make_one_fetch() {
    let stand = Stand::new().await;
    // One layer above the size of a part: it is sent in several.
    let image = Image::new(301, &[20_000_000, 300_000, 1_000]);
    shared(&stand, &image).await;
    let before = stand.blob_gets();
    let second = stand.agent().await;
    pull(&second, &image).await;
    assert_eq!(stand.blob_gets(), before, "the second agent asked the origin for blobs");
    for blob in image.blobs() {
        assert_eq!(stand.origin.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    assert!(second.metric("tier_received_bytes_total", &[]).await >= image.blob_bytes() as f64);
    // By digest, the manifest comes from the bucket too.
    let manifests = stand.origin.count(Kind::Manifest, "GET");
    let third = stand.agent().await;
    let manifest = &image.manifest;
    third.get_manifest(REPOSITORY, &manifest.digest).await.expect(200, &manifest.bytes);
    assert_eq!(stand.origin.count(Kind::Manifest, "GET"), manifests);
    // Whoever had it from the bucket does not write it there again.
    for text in [second.metrics().await, second.log(), third.log()] {
        assert!(!text.contains(stand.s3.secret()), "the bucket's secret is shown");
    }
    assert_eq!(second.metric("tier_sent_bytes_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_vanishes_is_a_miss() {
    let stand = Stand::new().await;
    let image = Image::new(302, &[2_000_000, 1_000]);
    shared(&stand, &image).await;
    for blob in image.blobs() {
        stand.s3.remove(&blob.digest);
    }
    let agent = stand.agent().await;
    pull(&agent, &image).await;
    for blob in image.blobs() {
        assert_eq!(stand.origin.blob_gets(&blob.digest), 2, "{}", blob.digest);
    }
    // And what was fetched again is there again.
    until_uploaded(&agent, image.blobs().count()).await;
    assert!(image.blobs().all(|blob| stand.s3.has(&blob.digest)));
}

/// A bucket that lies costs one client's pull at most, never the store, and is put right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_in_the_bucket() {
    let stand = Stand::new().await;
    let image = Image::new(303, &[2_000_000]);
    shared(&stand, &image).await;
    let layer = &image.layers[0];
    let file = stand.s3.blob_file(&layer.digest);
    let mut bytes = layer.bytes.to_vec();
    bytes[1_000_000] ^= 1;
    std::fs::write(&file, bytes).expect("the bucket is ours");
    let agent = stand.agent().await;
    let first = agent.get_blob(REPOSITORY, &layer.digest).await;
    assert!(first.cut.is_some() || first.body == layer.bytes, "a whole wrong blob");
    agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    wait::until("the object to be replaced", UPLOAD_MAX, || async {
        std::fs::read(&file).is_ok_and(|bytes| bytes == layer.bytes)
    })
    .await;
}

/// A bucket that is gone or mute costs the first pull its timeouts, and the next one nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_go_on_without_the_bucket() {
    let mut stand = Stand::new().await;
    let agent = stand
        .agent_with(|setup| {
            setup.set("object_store.connect_timeout", "1s").set("object_store.header_timeout", "1s")
        })
        .await;
    let blobs: Vec<Blob> = (310..320).map(|seed| Blob::noise(seed, 100_000)).collect();
    blobs.iter().for_each(|blob| stand.origin.add_blob(blob));
    let get = async |blob: &Blob| {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    };
    // What every pull begins with. Uploads, which nobody waits for, go on trying.
    let in_vain =
        async || agent.metric("tier_requests_total", &["operation=\"stat\"", "outcome=\"failed\""]).await;
    stand.s3.stall();
    get(&blobs[0]).await;
    let waited = in_vain().await;
    assert!(waited >= 1.0, "the first pull has not asked the bucket");
    for blob in &blobs[1..5] {
        get(blob).await;
    }
    assert_eq!(in_vain().await, waited, "a later pull has waited for the bucket");
    assert!(agent.metric("tier_requests_total", &["outcome=\"left-alone\""]).await >= 4.0);
    stand.s3.kill();
    for blob in &blobs[5..] {
        get(blob).await;
    }
}

/// What one agent's credentials have pulled is no other repository's, and nobody's without credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_content_stays_private() {
    let stand = Stand::new().await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    let image = Image::new(304, &[100_000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let owner = stand.agent_with(|setup| setup.credentials(REGISTRY, "robot", "secret")).await;
    pull(&owner, &image).await;
    until_uploaded(&owner, image.blobs().count() + 1).await;
    let stranger = stand.agent().await;
    let layer = &image.layers[0];
    for repository in [REPOSITORY, "team/other"] {
        let answer = stranger.get_blob(repository, &layer.digest).await;
        assert!(answer.status >= 400, "{repository}: {}", answer.status);
    }
    // The owner's colleague gets it from the bucket.
    let before = stand.blob_gets();
    let colleague = stand.agent_with(|setup| setup.credentials(REGISTRY, "robot", "secret")).await;
    colleague.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    assert_eq!(stand.blob_gets(), before);
}
