//! A member that sends wrong bytes: its disk has changed them behind its back.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_tests::agent::Agent;
use shoal_tests::cluster::Cluster;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::wait;
use tokio::task::JoinHandle;

use super::REPOSITORY;
use super::faults::{story, until_held};

const LAYER_BYTES: usize = 12_000_000;
/// Bytes of the smallest piece: with a wrong byte in each stretch of this length, no piece is right.
const STRETCH: usize = 256 << 10;
/// Nodes that have the layer; the first of them has it wrong.
const HOLDERS: usize = 3;
const NODES: usize = 6;
/// Bytes of the layer that whoever receives it has when it is in the middle.
const BEGUN_BYTES: u64 = 1_000_000;
/// How long it may take until a rollout is in the middle, or until all homes know who has the layer.
const STEP_MAX: Duration = Duration::from_secs(30);
/// Layers of which one has to be sent wrong: while the one that lies, or the test, stands still for a second or two, the others may
/// get all of a layer without it.
const TRIES: u64 = 3;

/// Adds an image of one layer to what the registry has.
fn add_image(origin: &Origin, seed: u64) -> Image {
    let image = Image::new(seed, &[LAYER_BYTES]);
    origin.add_image(REPOSITORY, "v1", &image);
    image
}

/// Flips a bit in every piece of a blob that an agent has stored.
pub(super) fn damage(agent: &Agent, blob: &Blob) {
    damage_below(agent.setup().data_dir(), blob);
}

/// The same by the folder of an agent's data.
pub(super) fn damage_below(data: &Path, blob: &Blob) {
    let path = content(data, blob).expect("content files are named by their digest");
    let file = std::fs::File::options().write(true).open(path).expect("ours");
    for at in (0..blob.bytes.len()).step_by(STRETCH) {
        file.write_all_at(&[blob.bytes[at] ^ 1], at as u64).expect("ours");
    }
}

/// The file with a blob, somewhere below a folder.
fn content(folder: &Path, blob: &Blob) -> Option<PathBuf> {
    let hex = blob.digest.trim_start_matches("sha256:");
    let mut ahead = vec![folder.to_owned()];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(hex)) {
            return Some(path);
        }
    }
    None
}

/// Waits for the pulls of nodes, of which the first one has this number: each client has got every byte as it is.
async fn expect_pulled(cluster: &Cluster, first: usize, pulls: Vec<JoinHandle<()>>) {
    for (pull, agent) in pulls.into_iter().zip(&cluster.agents[first..]) {
        assert!(pull.await.is_ok(), "the client of {}:\n{}", agent.url(), agent.log());
    }
}

/// Nobody keeps a wrong byte: with upstream away and the liar gone, what the others have is all there is.
async fn expect_right(cluster: &Cluster, origin: &Origin, liar: usize, layer: &Blob) {
    origin.refuse().await;
    for (_, agent) in cluster.agents.iter().enumerate().filter(|(node, _)| *node != liar) {
        agent.until_idle().await;
        agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    }
}

/// Whoever receives a wrong piece notices it and passes it on to nobody: every byte that a client gets is right, with upstream
/// there and away; and the one that sends them is not asked for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_flips_bits() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), NODES).await;
    let admins = cluster.admins();
    for seed in 890..890 + TRIES {
        let image = add_image(&origin, seed);
        let layer = &image.layers[0];
        cluster.pull(0..HOLDERS, REPOSITORY, &image).await;
        for agent in &cluster.agents {
            agent.until_idle().await;
        }
        until_held(&admins[NODES - 1], layer, HOLDERS, STEP_MAX).await;
        damage(&cluster.agents[0], layer);
        let (liar, upstream) = (&cluster.agents[0], cluster.upstream_bytes().await);
        let lied_before = liar.sent_bytes().await;
        let pulls: Vec<_> = (HOLDERS..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
        expect_pulled(&cluster, HOLDERS, pulls).await;
        let lied = liar.sent_bytes().await - lied_before;
        let copies = (cluster.upstream_bytes().await - upstream) / LAYER_BYTES as f64;
        println!("the liar sent {lied} bytes; {copies:.2} copies came from upstream");
        assert!(
            lied < (NODES - HOLDERS) as f64 * LAYER_BYTES as f64 / 2.0,
            "it was asked again and again: {lied} bytes"
        );
        assert!(copies < 1.5, "{copies} copies");
        let wrong = |agent: &&Agent| agent.log().contains("do not match");
        assert_eq!(cluster.agents.iter().filter(wrong).count(), 0, "a whole blob was wrong");
        if lied > 0.0 {
            expect_right(&cluster, &origin, 0, layer).await;
            return cluster.agents[NODES - 1].until_idle().await;
        }
    }
    panic!("nobody asked the one that lies");
}

/// One of those who have the layer begins to lie while it feeds others, whom all that have it send less than they could take. What
/// came until then counts, the rest comes from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_begins_to_lie_in_the_middle() {
    let origin = Origin::start().await;
    // Three copies from three nodes: it takes some six seconds.
    let cluster = Cluster::start_with(&origin.url(), NODES, |node, setup| match node < HOLDERS {
        true => setup.set("swarm.upload_rate", "2MB/s"),
        false => setup,
    })
    .await;
    let admins = cluster.admins();
    for seed in 891..891 + TRIES {
        let image = add_image(&origin, seed);
        let layer = &image.layers[0];
        cluster.pull(0..HOLDERS, REPOSITORY, &image).await;
        until_held(&admins[NODES - 1], layer, HOLDERS, STEP_MAX).await;
        let upstream = cluster.upstream_bytes().await;
        let pulls: Vec<_> = (HOLDERS..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
        wait::until("all others to have a part of the layer", STEP_MAX, || async {
            let asked = admins[HOLDERS..].iter().map(|admin| story(admin, layer));
            let stories = futures_util::future::join_all(asked).await;
            stories.iter().all(|story| story.state == "stored" || story.received >= Some(BEGUN_BYTES))
        })
        .await;
        let liar = &cluster.agents[0];
        damage(liar, layer);
        let lied_before = liar.sent_bytes().await;
        expect_pulled(&cluster, HOLDERS, pulls).await;
        let lied = liar.sent_bytes().await - lied_before;
        let copies = (cluster.upstream_bytes().await - upstream) / LAYER_BYTES as f64;
        println!("the liar sent {lied} bytes; {copies:.2} copies came from upstream");
        assert!(copies < 1.5, "{copies} copies");
        if lied > 0.0 {
            return expect_right(&cluster, &origin, 0, layer).await;
        }
    }
    panic!("nobody had anything from the one that lies: it was not in the middle");
}

/// The one that has fetched the layer for all begins to lie when it has all of it and the others have a part, so that nobody else can
/// send what is missing: it is fetched once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetched_begins_to_lie_in_the_middle() {
    let origin = Origin::start().await;
    // The registry sends more than a node passes on.
    let cluster =
        Cluster::start_with(&origin.url(), NODES, |_, setup| setup.set("swarm.upload_rate", "2MB/s")).await;
    let admins = cluster.admins();
    for seed in 892..892 + TRIES {
        let image = add_image(&origin, seed);
        let layer = &image.layers[0];
        let pulls: Vec<_> = (0..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
        wait::until_true("somebody's client to have all of it", STEP_MAX, || {
            pulls.iter().any(|pull| pull.is_finished())
        })
        .await;
        let first = pulls.iter().position(|pull| pull.is_finished()).expect("it was waited for");
        wait::until("its node to have stored it", STEP_MAX, || async {
            story(&admins[first], layer).await.state == "stored"
        })
        .await;
        let liar = &cluster.agents[first];
        damage(liar, layer);
        let lied_before = liar.sent_bytes().await;
        expect_pulled(&cluster, 0, pulls).await;
        let lied = liar.sent_bytes().await - lied_before;
        let copies = origin.blob_bytes(&layer.digest) as f64 / LAYER_BYTES as f64;
        println!("the liar sent {lied} bytes; {copies:.2} copies left the registry");
        assert!(copies < NODES as f64 / 2.0, "{copies} copies: they do not share any more");
        if lied > 0.0 {
            return expect_right(&cluster, &origin, first, layer).await;
        }
    }
    panic!("nobody had anything from the one that lies: it was not in the middle");
}
