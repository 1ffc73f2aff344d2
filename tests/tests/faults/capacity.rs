//! The size cap and the expiry do what they say, visibly (row L5), and never to a reader's harm (C14).

use std::time::Duration;

use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::Blob;
use shoal_tests::origin::Origin;
use shoal_tests::wait;

use super::REPOSITORY;

fn layers(seeds: std::ops::Range<u64>, len: usize) -> Vec<Blob> {
    seeds.map(|seed| Blob::noise(seed, len)).collect()
}

async fn get(agent: &Agent, blob: &Blob) {
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// L5: ten times the capacity goes through; the store stays below it, the least recently used blobs go first, the
/// metric and the disk agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_the_capacity_holds() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).set("store.capacity", "20MB").start().await;
    let blobs = layers(300..340, 2_000_000);
    let favourite = &blobs[0];
    for blob in &blobs {
        origin.add_blob(blob);
        get(&agent, blob).await;
        // A hit keeps it young.
        get(&agent, favourite).await;
        agent.until_idle().await;
    }
    wait::until("the store to be below its capacity", Duration::from_secs(20), || async {
        agent.metric("store_bytes", &[]).await <= 20e6
    })
    .await;
    assert!(agent.disk_usage() <= 28_000_000, "{} bytes on disk", agent.disk_usage());
    assert!(agent.metric("evictions_total", &[]).await >= 25.0);
    assert_eq!(origin.blob_gets(&favourite.digest), 1, "what was hit all the time was evicted");
    get(&agent, &blobs[1]).await;
    assert_eq!(origin.blob_gets(&blobs[1].digest), 2, "the oldest is still there");
}

/// A pinned blob stays, however old it gets and however much comes in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_blobs_stay() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).set("store.capacity", "20MB").start().await;
    let blobs = layers(341..350, 4_000_000);
    for blob in &blobs {
        origin.add_blob(blob);
    }
    let pinned = &blobs[0];
    get(&agent, pinned).await;
    agent.until_idle().await;
    let config = agent.setup().folder().join("shoal.toml").display().to_string();
    shoal(&["blob", "pin", &pinned.digest, "--config", &config]).await.expect_ok("shoal blob pin");
    for blob in &blobs[1..] {
        get(&agent, blob).await;
        agent.until_idle().await;
    }
    assert!(agent.metric("evictions_total", &[]).await >= 4.0);
    get(&agent, pinned).await;
    assert_eq!(origin.blob_gets(&pinned.digest), 1);
}

/// C14: a blob that is being read is not taken away under its reader, whatever else comes in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_readers_keep_their_blob() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).set("store.capacity", "60MB").start().await;
    let read = Blob::noise(350, 40_000_000);
    origin.add_blob(&read);
    get(&agent, &read).await;
    agent.until_idle().await;
    let mut slow = Client::new().open(&agent.blob(REPOSITORY, &read.digest)).await;
    let first = read_some(&mut slow, 1000).await;
    for blob in layers(351..371, 4_000_000) {
        origin.add_blob(&blob);
        get(&agent, &blob).await;
    }
    finish(slow).await.expect(200, &read.bytes[first.len()..]);
}

/// L5: what nobody has used for the configured time is gone: from the answers, the metric and the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_expiry_takes_effect() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url())
        // Longer than a busy machine may need to look at what it has stored.
        .set("store.max_age", "6s")
        .set("store.sweep_interval", "200ms")
        .start()
        .await;
    let blob = Blob::noise(380, 5_000_000);
    origin.add_blob(&blob);
    get(&agent, &blob).await;
    agent.until_idle().await;
    let full = agent.disk_usage();
    assert!(agent.metric("store_bytes", &[]).await >= 5e6);
    wait::until("the blob to expire", Duration::from_secs(20), || async {
        agent.metric("store_blobs", &[]).await == 0.0
    })
    .await;
    assert!(agent.disk_usage() + 4_000_000 < full, "the file is still there");
    assert!(agent.metric("evictions_total", &[]).await >= 1.0);
    get(&agent, &blob).await;
    assert_eq!(origin.blob_gets(&blob.digest), 2);
}

/// A blob that is larger than the whole capacity passes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_larger_than_the_capacity() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).set("store.capacity", "10MB").start().await;
    let (large, small) = (Blob::noise(381, 30_000_000), Blob::noise(382, 1_000_000));
    origin.add_blob(&large);
    origin.add_blob(&small);
    get(&agent, &small).await;
    for _ in 0..2 {
        get(&agent, &large).await;
    }
    let part = agent.client().range(&agent.blob(REPOSITORY, &large.digest), "bytes=29000000-").await;
    part.expect(206, &large.bytes[29_000_000..]);
    agent.until_idle().await;
    get(&agent, &small).await;
    assert_eq!(origin.blob_gets(&small.digest), 1, "room was made for what cannot fit");
}
