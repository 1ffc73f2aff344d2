//! Small blobs, of which a thousand nodes want the same few kilobytes in the same second.

use std::time::Instant;

use shoal_agent::admin::client::AdminClient;
use shoal_agent::driver::BlobStory;
use shoal_tests::cluster::Cluster;
use shoal_tests::homes::homes;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;

use super::faults::story;
use super::{REPOSITORY, are_sent_once, exact};

const NODES: usize = 5;
/// Layers of a few files, and one that is too large for a question.
const LAYERS: [usize; 4] = [900, 8_000, 30_000, 700_000];
/// Largest blob that is asked for by a question.
const SMALL_BYTES: usize = 32 << 10;

/// What each node knows of a blob.
async fn stories(admins: &[AdminClient], blob: &Blob) -> Vec<BlobStory> {
    futures_util::future::join_all(admins.iter().map(|admin| story(admin, blob))).await
}

/// Whether a member has sent all of a blob, and which.
fn sender(story: &BlobStory) -> Option<&str> {
    let [share] = &story.sources[..] else { return None };
    share.is_member.then_some(&share.source)
}

/// The configuration and the small layers come from their first home, which alone has asked the registry for them, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_blobs_come_from_their_home() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), NODES).await;
    let admins = cluster.admins();
    exact(1210, async |seed| {
        let image = Image::new(seed, &LAYERS);
        origin.add_image(REPOSITORY, "v1", &image);
        cluster.pull(0..NODES, REPOSITORY, &image).await;
        let told = |digest: &str| (origin.blob_gets(digest), origin.blob_bytes(digest));
        let mut is_exact = are_sent_once(&image, told);
        for blob in image.blobs().filter(|blob| blob.bytes.len() <= SMALL_BYTES) {
            let stories = stories(&admins, blob).await;
            let from_home = |story: &&BlobStory| sender(story) == story.homes.first().map(String::as_str);
            // The home itself is the other one. Nobody waits for one that stands still.
            if stories.iter().filter(from_home).count() != NODES - 1 {
                println!("{} bytes: {stories:?}", blob.len());
                is_exact = false;
            }
        }
        is_exact.then_some(())
    })
    .await;
}

/// A home that stands still, and one that was killed a moment ago: its small blobs come like any other, and not to each by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_home_a_small_blob_comes_like_any_other() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), NODES).await;
    for (seed, is_killed) in [(1211, false), (1212, true)] {
        let image = Image::new(seed, &[9_000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let home = homes(&cluster.admins(), &image.layers[0]).await.expect("the agents run")[0];
        cluster.until_probed().await;
        match is_killed {
            true => cluster.agents[home].kill(),
            false => cluster.agents[home].stop(),
        }
        let begun = Instant::now();
        cluster.pull((0..NODES).filter(|node| *node != home), REPOSITORY, &image).await;
        println!("killed: {is_killed}, all have it after {:.1?}", begun.elapsed());
        for blob in image.blobs() {
            // Not all notice at the same time that the home says nothing: the next two may both be asked in its place.
            let gets = origin.blob_gets(&blob.digest);
            assert!((1..=2).contains(&gets), "{}: {gets} requests, killed: {is_killed}", blob.digest);
        }
        if !is_killed {
            cluster.agents[home].go_on();
            cluster.until_met(NODES).await;
        }
    }
}
