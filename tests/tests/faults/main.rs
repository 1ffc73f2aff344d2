//! The store on disks that are full, sick, silent, cut off, cleaned up behind its back, or simply small. Whatever happens to
//! it, pulls go on and no wrong byte is served (rows L3, L5, C14; invariants I2, I3).

mod capacity;
mod damage;
mod hang;
mod unreadable;

use std::time::Duration;

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::disk::{Disk, Injection};
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::wait;

const REPOSITORY: &str = "team/app";

/// Pulls a whole image over HTTP, blobs in parallel like a runtime.
async fn pull(agent: &Agent, image: &Image) {
    agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    let blobs: Vec<_> = image
        .blobs()
        .map(|blob| {
            let (url, blob) = (agent.blob(REPOSITORY, &blob.digest), blob.clone());
            tokio::spawn(async move { Client::new().get(&url).await.expect(200, &blob.bytes) })
        })
        .collect();
    for blob in blobs {
        blob.await.expect("every blob arrives");
    }
}

/// ENOSPC: a data directory of 20 MB, layers of 60: every pull succeeds straight through, and what fits is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_of_20_mb() {
    let disk = Disk::tmpfs(20);
    let origin = Origin::start().await;
    let image = Image::new(200, &[60_000_000, 30_000_000, 1_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let agent = Setup::new(&origin.url()).data(&disk.path()).start().await;
    for _ in 0..2 {
        pull(&agent, &image).await;
    }
    agent.until_idle().await;
    let small = Blob::noise(201, 500_000);
    origin.add_blob(&small);
    for _ in 0..2 {
        agent.get_blob(REPOSITORY, &small.digest).await.expect(200, &small.bytes);
        agent.until_idle().await;
    }
    assert_eq!(origin.blob_gets(&small.digest), 1, "what fits is kept although the disk was full before");
    assert!(agent.metric("served_bytes_total", &["pass-through"]).await > 0.0);
}

/// EIO from writes and syncs while blobs arrive: the pulls succeed; after a restart on a healthy disk the store works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_output_errors() {
    let origin = Origin::start().await;
    let mut agent = Agent::start(&origin.url()).await;
    let calls = [
        "pwrite64,pwritev,pwritev2:error=EIO",
        "fsync,fdatasync:error=EIO",
        "rename,renameat,renameat2:error=EIO",
    ];
    for (inject, seed) in calls.into_iter().zip(210..) {
        let image = Image::new(seed, &[12_000_000, 3_000_000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let injection = Injection::into(agent.pid(), inject).await;
        pull(&agent, &image).await;
        pull(&agent, &image).await;
        drop(injection);
        agent.restart().await;
        pull(&agent, &image).await;
        agent.until_idle().await;
        origin.refuse().await;
        pull(&agent, &image).await;
        origin.recover().await;
    }
}

/// ENOSPC in the middle of a transfer, from the call itself and not from a count of free bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_space_in_the_middle() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let blob = Blob::noise(220, 24_000_000);
    origin.add_blob(&blob);
    let gate = Gate::closed();
    origin.script_times(1, Match::blob(&blob.digest), Plan::pause_after(12_000_000, &gate));
    let mut response = Client::new().open(&agent.blob(REPOSITORY, &blob.digest)).await;
    let first = read_some(&mut response, 8_000_000).await;
    assert_eq!(first, blob.bytes[..first.len()]);
    let injection = Injection::into(agent.pid(), "pwrite64,pwritev,pwritev2,fallocate:error=ENOSPC").await;
    gate.open();
    finish(response).await.expect(200, &blob.bytes[first.len()..]);
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    drop(injection);
}

/// The same for many clients at a time, from a disk that does not give back either what it has: nobody reads it to verify the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_no_space_in_the_middle_for_many() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let blob = Blob::noise(221, 24_000_000);
    origin.add_blob(&blob);
    let gate = Gate::closed();
    origin.script_times(1, Match::blob(&blob.digest), Plan::pause_after(12_000_000, &gate));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut response = Client::new().open(&agent.blob(REPOSITORY, &blob.digest)).await;
        let first = read_some(&mut response, 8_000_000).await;
        assert_eq!(first, blob.bytes[..first.len()]);
        clients.push((first.len(), response));
    }
    let hex = blob.digest.trim_start_matches("sha256:");
    let mut files = agent.data_files().into_iter();
    let file =
        files.find(|path| path.to_string_lossy().ends_with(hex)).expect("files are named by their digest");
    let file = file.canonicalize().expect("it is there");
    let faults = ["pwrite64,pwritev,pwritev2,fallocate:error=ENOSPC", "pread64:error=EIO"];
    let injection = Injection::into_file(agent.pid(), &file, &faults).await;
    gate.open();
    let rest = clients.into_iter().map(|(at, response)| async move { (at, finish(response).await) });
    for (at, answer) in futures_util::future::join_all(rest).await {
        answer.expect(200, &blob.bytes[at..]);
    }
    drop(injection);
}

/// Power loss, by the file system's own switch: what was answered and stored is there again, what was half received
/// goes on from its last checkpoint, and no byte is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss() {
    let disk = Disk::ext4(512);
    let origin = Origin::start().await;
    let mut agent = Setup::new(&origin.url()).data(&disk.path().join("shoal")).start().await;
    let (whole, half) = (Image::new(230, &[12_000_000]), Blob::noise(231, 130_000_000));
    origin.add_image(REPOSITORY, "v1", &whole);
    origin.add_blob(&half);
    pull(&agent, &whole).await;
    agent.until_idle().await;
    let gate = Gate::closed();
    origin.script_times(1, Match::blob(&half.digest), Plan::pause_after(100_000_000, &gate));
    let mut response = Client::new().open(&agent.blob(REPOSITORY, &half.digest)).await;
    read_some(&mut response, 98_000_000).await;
    agent.until_checkpoint().await;
    disk.cut_power();
    agent.kill();
    drop(response);
    disk.power_on().await;
    agent.restart().await;
    let asked = origin.seen().len();
    pull(&agent, &whole).await;
    assert_eq!(origin.seen().len(), asked, "what was stored before the power went is fetched again");
    let before = origin.blob_bytes(&half.digest);
    agent.get_blob(REPOSITORY, &half.digest).await.expect(200, &half.bytes);
    let again = origin.blob_bytes(&half.digest) - before;
    assert!(again <= half.len() - 60_000_000, "{again} bytes fetched again: the checkpoint is lost");
}

/// A power cut at any moment of a commit leaves either the blob or nothing: twenty small blobs, cut in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_among_commits() {
    let disk = Disk::ext4(256);
    let origin = Origin::start().await;
    let mut agent = Setup::new(&origin.url()).data(&disk.path().join("shoal")).start().await;
    let blobs: Vec<Blob> =
        (0..20).map(|i| Blob::noise(240 + i, 300_000 + usize::try_from(i).expect("fits") * 7)).collect();
    for blob in &blobs {
        origin.add_blob(blob);
    }
    for blob in &blobs[..14] {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    disk.cut_power();
    // The disk is dead under a running agent: pulls go on.
    for blob in &blobs[14..] {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    agent.kill();
    disk.power_on().await;
    agent.restart().await;
    for blob in &blobs {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    agent.until_idle().await;
    origin.refuse().await;
    for blob in &blobs {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
}

/// L3: killed at every stage of a transfer in turn; each start goes on, and the bytes are right in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again() {
    let origin = Origin::start().await;
    let mut agent = Agent::start(&origin.url()).await;
    let image = Image::small(250);
    origin.add_image(REPOSITORY, "v1", &image);
    origin.script(Match::kind(shoal_tests::origin::Kind::Blob), Plan::rate(8_000_000));
    for stop_at in [100_000, 1_500_000, 4_000_000] {
        let url = agent.blob(REPOSITORY, &image.layers[0].digest);
        let mut response = Client::new().open(&url).await;
        read_some(&mut response, stop_at).await;
        agent.kill();
        agent.restart().await;
    }
    pull(&agent, &image).await;
    wait::until("everything to be stored", Duration::from_secs(20), || async {
        agent.metric("flights", &[]).await == 0.0
    })
    .await;
    origin.refuse().await;
    pull(&agent, &image).await;
}
