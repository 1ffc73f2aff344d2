//! Stored blobs that the disk does not give back: with an error, or not at all.

use std::path::PathBuf;
use std::time::Duration;

use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::disk::Injection;
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::Blob;
use shoal_tests::origin::Origin;
use shoal_tests::wait;

use super::REPOSITORY;

/// Longest that the agent may take to do something about it.
const SOON: Duration = Duration::from_secs(20);

/// Has a blob stored; where its file lies.
async fn store(origin: &Origin, agent: &Agent, blob: &Blob) -> PathBuf {
    origin.add_blob(blob);
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    agent.until_idle().await;
    let hex = blob.digest.trim_start_matches("sha256:");
    let mut files = agent.data_files().into_iter();
    let file = files.find(|path| path.ends_with(hex)).expect("content files are named by their digest");
    file.canonicalize().expect("it is there")
}

async fn until_gone(agent: &Agent) {
    wait::until("the blob to leave the store", SOON, || async {
        agent.metric("store_blobs", &[]).await == 0.0
    })
    .await;
}

async fn degraded(agent: &Agent) -> f64 {
    agent.metric("store_degraded", &["disk-error"]).await
}

/// F13, with the node itself as what answers and then fails: EIO from the file costs one answer, and whoever goes on from where that ended
/// has the rest from upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_a_stored_blob_that_cannot_be_read() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let blob = Blob::noise(280, 40_000_000);
    let file = store(&origin, &agent, &blob).await;
    let url = agent.blob(REPOSITORY, &blob.digest);
    let mut response = Client::new().open(&url).await;
    let first = read_some(&mut response, 1000).await;
    let injection = Injection::into_file(agent.pid(), &file, &["sendfile,pread64:error=EIO"]).await;
    let rest = finish(response).await;
    let got = first.len() + rest.body.len();
    assert!(rest.cut.is_some() && got < blob.bytes.len(), "{got} bytes came");
    assert!(rest.body == blob.bytes[first.len()..got], "what came of it is wrong");
    until_gone(&agent).await;
    assert!(!file.exists());
    let place = file.display().to_string();
    let words = ["a stored blob cannot be read", blob.digest.as_str(), place.as_str(), "Input/output error"];
    agent
        .until_logged("what cannot be read, and why", |log| {
            log.lines().any(|line| words.iter().all(|word| line.contains(*word)))
        })
        .await;
    drop(injection);

    // As containerd goes on.
    let again = Client::new().range(&url, &format!("bytes={got}-")).await;
    again.expect(206, &blob.bytes[got..]);
    agent.until_idle().await;
    assert_eq!(degraded(&agent).await, 0.0, "it has been stored again");
    origin.refuse().await;
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// A read that never returns costs a client no more than `registry.body_idle_timeout`, and everybody else nothing; when the disk answers
/// again, everything is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_blob_on_a_disk_that_hangs() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).set("registry.body_idle_timeout", "2s").start().await;
    let blob = Blob::noise(281, 8_000_000);
    let file = store(&origin, &agent, &blob).await;
    // Nothing of it is in memory, and the disk says nothing.
    let silent = ["preadv2:error=EAGAIN", "pread64:delay_enter=60s"];
    let injection = Injection::into_file(agent.pid(), &file, &silent).await;
    let answer = agent.get_blob(REPOSITORY, &blob.digest).await;
    assert!(answer.status == 200 && answer.cut.is_some() && answer.body.is_empty(), "{answer:?}");
    assert!(answer.total < SOON, "it was kept waiting for {:?}", answer.total);

    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!((origin.blob_gets(&blob.digest), degraded(&agent).await), (2, 1.0));
    drop(injection);
    wait::until("the disk to answer", SOON, || async { degraded(&agent).await == 0.0 }).await;
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(origin.blob_gets(&blob.digest), 2, "a disk that was slow has cost the blob");
}

/// Who looks for such blobs is told, and rid of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_blob_is_found_by_verifying() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let blob = Blob::noise(282, 3_000_000);
    let file = store(&origin, &agent, &blob).await;
    let injection = Injection::into_file(agent.pid(), &file, &["pread64:error=EIO"]).await;
    let config = agent.setup().folder().join("shoal.toml").display().to_string();
    let verified = shoal(&["blob", "verify", &blob.digest, "--config", &config]).await;
    assert!(!verified.ok && verified.output.contains("removed now"), "{}", verified.output);
    until_gone(&agent).await;
    drop(injection);
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(origin.blob_gets(&blob.digest), 2);
}
