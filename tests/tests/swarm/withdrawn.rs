//! Blobs that a member has no more: whoever asks who has them is told so at once, and gets them from the others.

use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_agent::driver::BlobStory;
use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::process::Finished;
use shoal_tests::wait;

use super::faults::{names, story, until_held};
use super::liars::damage;
use super::prewarm::socket;
use super::{REPOSITORY, exact, one_layer};

const LAYER_BYTES: usize = 3_000_000;
/// Nodes that have the layer; the one after them is fresh.
const HOLDERS: usize = 3;
const FRESH: usize = HOLDERS;
/// How soon all homes know that a member does not have a blob any more.
const WITHDRAWN_MAX: Duration = Duration::from_secs(20);
/// How long it may take until all homes know who has it.
const KNOWN_MAX: Duration = Duration::from_secs(30);
/// Less than three layers need: a tenth of it is kept free.
const CAPACITY: &str = "10MB";
/// Seeds of layers that are pulled until the first one has had to go. The second of them takes its place, and a later one where somebody
/// still reads it then.
const OTHERS: Range<u64> = 1720..1750;
/// Less than one piece of the layer.
const PIECE_BYTES_MIN: f64 = 200_000.0;
/// Copies that a fresh member may have had from upstream while who was asked stood still: one, and less than a piece of small blobs.
const COPIES_MAX: f64 = 1.1;
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

/// A layer that all nodes but the fresh one have, by the word of every home.
struct Held {
    origin: Origin,
    image: Image,
    cluster: Cluster,
    admins: Vec<AdminClient>,
    names: Vec<String>,
}

impl Held {
    async fn new(seed: u64, each: impl Fn(usize, Setup) -> Setup) -> Self {
        let (origin, image) = one_layer(seed, LAYER_BYTES).await;
        let layer = &image.layers[0];
        let cluster = Cluster::start_with(&origin.url(), HOLDERS + 1, each).await;
        cluster.pull(0..HOLDERS, REPOSITORY, &image).await;
        let admins = cluster.admins();
        let names = names(&admins).await;
        until_held(&admins[FRESH], layer, HOLDERS, KNOWN_MAX).await;
        let told = story(&admins[FRESH], layer).await;
        assert!(names[..HOLDERS].iter().all(|name| is_named(&told, name)), "{told:?}");
        Held { origin, image, cluster, admins, names }
    }
}

/// One member removes a blob, another one finds that its own is wrong: both are withdrawn, and a fresh member gets every byte from the
/// last one that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_or_wrong_is_withdrawn() {
    exact(1710, removed_or_wrong).await;
}

/// Whether upstream was not asked again.
async fn removed_or_wrong(seed: u64) -> Option<()> {
    let Held { origin: _origin, image, cluster, admins, names } = Held::new(seed, |_, setup| setup).await;
    let (layer, fresh) = (&image.layers[0], &admins[FRESH]);
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
    let more = cluster.upstream_bytes().await - upstream;
    println!("{more} more bytes from upstream");
    assert!(more < COPIES_MAX * LAYER_BYTES as f64, "{more} more bytes from upstream");
    for (node, before) in before.into_iter().enumerate() {
        let sent = cluster.agents[node].sent_bytes().await - before;
        // Small blobs, such as the configuration, come from where they are at home.
        let is_right = match node {
            2 => sent >= LAYER_BYTES as f64 - more,
            _ => sent < PIECE_BYTES_MIN,
        };
        assert!(is_right, "node {node} sent {sent} bytes");
    }
    (more == 0.0).then_some(())
}

/// One member has little room, and pulls other layers until the first one has had to go: that is withdrawn like one that somebody has
/// removed, and a fresh member gets it from those that still have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_evicted_is_withdrawn() {
    exact(1713, evicted).await;
}

/// Whether upstream was not asked again.
async fn evicted(seed: u64) -> Option<()> {
    let Held { origin, image, cluster, admins, names } = Held::new(seed, |node, setup| match node {
        0 => setup.set("store.capacity", CAPACITY),
        _ => setup,
    })
    .await;
    let (layer, fresh, small) = (&image.layers[0], &admins[FRESH], &cluster.agents[0]);
    let has_it = async || story(&admins[0], layer).await.state == "stored";
    for other in OTHERS.map(|seed| Blob::noise(seed, LAYER_BYTES)) {
        if !has_it().await {
            break;
        }
        origin.add_blob(&other);
        small.get_blob(REPOSITORY, &other.digest).await.expect(200, &other.bytes);
    }
    let since = Instant::now();
    assert!(!has_it().await, "the least recently used one is still there");
    assert!(small.metric("evictions_total", &[]).await >= 1.0);
    until_held(fresh, layer, HOLDERS - 1, WITHDRAWN_MAX).await;
    println!("what was evicted is withdrawn after {:.2?}", since.elapsed());
    let told = story(fresh, layer).await;
    assert!(!is_named(&told, &names[0]), "{told:?}");

    let (upstream, before) = (cluster.upstream_bytes().await, small.sent_bytes().await);
    let requests = origin.blob_gets(&layer.digest);
    cluster.pull([FRESH], REPOSITORY, &image).await;
    let sent = small.sent_bytes().await - before;
    assert!(sent < PIECE_BYTES_MIN, "the one that has it no more sent {sent} bytes");
    let more = cluster.upstream_bytes().await - upstream;
    println!("{more} more bytes from upstream");
    assert!(more < COPIES_MAX * LAYER_BYTES as f64, "{more} more bytes from upstream");
    (origin.blob_gets(&layer.digest) == requests).then_some(())
}

/// One that stands still until the others take it for gone is struck off their books. It is back by itself, and so is what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_for_gone_is_known_again_as_a_holder() {
    /// Until the list of members has been calm, and the store has been looked through.
    const KNOWN_AGAIN_MAX: Duration = Duration::from_secs(60);
    let Held { origin: _origin, image, cluster, admins, names } = Held::new(1719, |_, setup| setup).await;
    let (layer, fresh) = (&image.layers[0], &admins[FRESH]);
    cluster.agents[0].stop();
    for agent in &cluster.agents[1..] {
        wait::until("one to be taken for gone", KNOWN_MAX, || async {
            agent.metric("members", &[]).await as usize == HOLDERS
        })
        .await;
    }
    assert!(!is_named(&story(fresh, layer).await, &names[0]));
    cluster.agents[0].go_on();
    cluster.until_met(HOLDERS + 1).await;
    let since = Instant::now();
    until_held(fresh, layer, HOLDERS, KNOWN_AGAIN_MAX).await;
    println!("it is known again after {:.2?}", since.elapsed());
    assert!(is_named(&story(fresh, layer).await, &names[0]));
}
