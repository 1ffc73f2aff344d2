//! A member that sends wrong bytes: its disk has changed them behind its back.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use shoal_tests::agent::Agent;
use shoal_tests::cluster::Cluster;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::wait;

use super::REPOSITORY;

const LAYER_BYTES: usize = 12_000_000;
/// Bytes of the smallest piece: with a wrong byte in each stretch of this length, no piece is right.
const STRETCH: usize = 256 << 10;
/// Nodes that have the layer; the first of them has it wrong.
const HOLDERS: usize = 3;
const NODES: usize = 6;

/// Flips a bit in every piece of a stored blob.
fn damage(agent: &Agent, blob: &Blob) {
    let hex = blob.digest.trim_start_matches("sha256:");
    let is_content =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(hex));
    let path =
        agent.data_files().into_iter().find(is_content).expect("content files are named by their digest");
    let file = std::fs::File::options().write(true).open(path).expect("ours");
    for at in (0..blob.bytes.len()).step_by(STRETCH) {
        file.write_all_at(&[blob.bytes[at] ^ 1], at as u64).expect("ours");
    }
}

/// Whoever receives a wrong piece notices it and passes it on to nobody: every byte that a client gets is right, with upstream
/// there and away; and the one that sends them is not asked for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_flips_bits() {
    let origin = Origin::start().await;
    let image = Image::new(890, &[LAYER_BYTES]);
    origin.add_image(REPOSITORY, "v1", &image);
    let layer = &image.layers[0];
    let cluster = Cluster::start(&origin.url(), NODES).await;
    cluster.pull(0..HOLDERS, REPOSITORY, &image).await;
    for agent in &cluster.agents {
        agent.until_idle().await;
    }
    damage(&cluster.agents[0], layer);
    let (liar, upstream) = (&cluster.agents[0], cluster.upstream_bytes().await);
    let lied_before = liar.metric("peer_sent_bytes_total", &[]).await;
    let pulls: Vec<_> = (HOLDERS..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    for (node, pull) in pulls.into_iter().enumerate() {
        assert!(pull.await.is_ok(), "node {}:\n{}", HOLDERS + node, cluster.agents[HOLDERS + node].log());
    }
    let lied = liar.metric("peer_sent_bytes_total", &[]).await - lied_before;
    let copies = (cluster.upstream_bytes().await - upstream) / LAYER_BYTES as f64;
    println!("the liar sent {lied} bytes; {copies:.2} copies came from upstream");
    assert!(lied > 0.0, "nobody asked the one that lies");
    assert!(
        lied < (NODES - HOLDERS) as f64 * LAYER_BYTES as f64 / 2.0,
        "it was asked again and again: {lied} bytes"
    );
    assert!(copies < 1.5, "{copies} copies");
    let wrong = |agent: &&Agent| agent.log().contains("do not match");
    assert_eq!(cluster.agents.iter().filter(wrong).count(), 0, "a whole blob was wrong");

    // Nobody keeps a wrong byte: with upstream away and the liar gone, what the others have is all there is.
    origin.refuse().await;
    for agent in &cluster.agents[1..] {
        agent.until_idle().await;
        agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    }
    wait::until("everybody to have it", Duration::from_secs(10), || async {
        cluster.agents[NODES - 1].metric("flights", &[]).await == 0.0
    })
    .await;
}
