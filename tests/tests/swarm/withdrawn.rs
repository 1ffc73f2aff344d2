//! Blobs that a member has no more: whoever asks who has them is told so at once, and gets them from the others.

use std::time::{Duration, Instant};

use shoal_agent::driver::BlobStory;
use shoal_tests::agent::{Agent, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Blob;
use shoal_tests::process::Finished;

use super::faults::{names, story, until_held};
use super::liars::damage;
use super::prewarm::socket;
use super::{REPOSITORY, one_layer};

const LAYER_BYTES: usize = 3_000_000;
/// Nodes that have the layer; the one after them is fresh.
const HOLDERS: usize = 3;
const FRESH: usize = HOLDERS;
/// How soon all homes know that a member does not have a blob any more.
const WITHDRAWN_MAX: Duration = Duration::from_secs(5);
/// How long it may take until all homes know who has it.
const KNOWN_MAX: Duration = Duration::from_secs(30);
/// Less than one piece of the layer.
const PIECE_BYTES_MIN: f64 = 200_000.0;
/// Exit code for a blob that is wrong.
const WRONG: i32 = 5;

/// `shoal blob rm|verify` of a blob, beside an agent.
async fn blob(agent: &Agent, command: &str, blob: &Blob) -> Finished {
    shoal(&["blob", command, &blob.digest, "--socket", &socket(agent)]).await
}

/// Whether a home says that this member has the blob.
fn is_named(story: &BlobStory, member: &str) -> bool {
    story.books.iter().any(|book| book.holders.iter().any(|holder| holder == member))
}

/// One member removes a blob, another one finds that its own is wrong: both are withdrawn, and a fresh member gets every byte from the
/// last one that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_or_wrong_is_withdrawn() {
    let (origin, image) = one_layer(1710, LAYER_BYTES).await;
    let layer = &image.layers[0];
    let cluster = Cluster::start(&origin.url(), HOLDERS + 1).await;
    cluster.pull(0..HOLDERS, REPOSITORY, &image).await;
    let admins = cluster.admins();
    let (names, fresh) = (names(&admins).await, &admins[FRESH]);
    until_held(fresh, layer, HOLDERS, KNOWN_MAX).await;
    let told = story(fresh, layer).await;
    assert!(names[..HOLDERS].iter().all(|name| is_named(&told, name)), "{told:?}");

    blob(&cluster.agents[0], "rm", layer).await.expect_ok("shoal blob rm");
    let since = Instant::now();
    until_held(fresh, layer, HOLDERS - 1, WITHDRAWN_MAX).await;
    println!("what was removed is withdrawn after {:.2?}", since.elapsed());
    let told = story(fresh, layer).await;
    assert!(!is_named(&told, &names[0]), "{told:?}");

    damage(&cluster.agents[1], layer);
    let verified = blob(&cluster.agents[1], "verify", layer).await;
    assert_eq!(verified.code, Some(WRONG), "{}", verified.output);
    let since = Instant::now();
    until_held(fresh, layer, HOLDERS - 2, WITHDRAWN_MAX).await;
    println!("what is wrong is withdrawn after {:.2?}", since.elapsed());
    let told = story(fresh, layer).await;
    assert!(!is_named(&told, &names[1]) && is_named(&told, &names[2]), "{told:?}");

    let upstream = cluster.upstream_bytes().await;
    let mut before = Vec::new();
    for agent in &cluster.agents[..HOLDERS] {
        before.push(agent.sent_bytes().await);
    }
    cluster.pull([FRESH], REPOSITORY, &image).await;
    assert_eq!(cluster.upstream_bytes().await, upstream, "upstream is not asked for it again");
    for (node, before) in before.into_iter().enumerate() {
        let sent = cluster.agents[node].sent_bytes().await - before;
        // Small blobs, such as the configuration, come from where they are at home.
        let is_right = if node == 2 { sent >= LAYER_BYTES as f64 } else { sent < PIECE_BYTES_MIN };
        assert!(is_right, "node {node} sent {sent} bytes");
    }
}
