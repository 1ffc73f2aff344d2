//! Within bounds: what comes from upstream, what a node receives, that a client waits for neither, and who gets how much of what a
//! node may send.

use std::cell::Cell;
use std::time::{Duration, Instant};

use shoal_tests::agent::Agent;
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};
use tokio::task::JoinHandle;

use super::prewarm::{STEP_MAX, begin, expect, expect_served, json, log_file, name, prewarm};
use super::{REPOSITORY, exact};

/// Bytes that may have passed before the first one had to wait, for each blob: a read from the socket.
const FIRST_BYTES: u64 = 512 << 10;
/// Bytes of which each of two reads one blob. Enough that there are some stretches in which both read, also if one of them stands still
/// for a few seconds.
const READ_BYTES: usize = 30_000_000;

/// Whoever of the nodes fetches what: together they never take more than was allowed, each byte once, and all nodes are ready
/// at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_keeps_to_a_rate_of_upstream() {
    const RATE: u64 = 3_000_000;
    let origin = Origin::start().await;
    let image = Image::new(1000, &[6_000_000, 4_000_000, 2_000_000, 1_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let cluster = Cluster::start(&origin.url(), 4).await;
    let folder = place::scratch();
    let begun = Instant::now();
    let mut process =
        begin(&cluster.agents[0], &[&name("v1"), "--max-upstream", "3MB/s", "--json"], &log_file(&folder));
    let slack = FIRST_BYTES * image.blobs().count() as u64;
    let ended = wait::until("the prewarm to end", STEP_MAX, || async {
        // What the agents have taken: the registry may have sent more, into the buffers of the connections.
        let taken = cluster.upstream_bytes().await;
        let seconds = begun.elapsed().as_secs_f64();
        assert!(taken <= RATE as f64 * seconds + slack as f64, "{taken} bytes after {seconds} s");
        taken >= image.blob_bytes() as f64
    });
    ended.await;
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let least = (image.blob_bytes() - slack) as f64 / RATE as f64;
    assert!(begun.elapsed().as_secs_f64() >= least, "{:?}, {least} s at least", begun.elapsed());
    for blob in image.blobs() {
        // Where one stands still for some seconds, another one goes on.
        let gets = origin.blob_gets(&blob.digest);
        assert!((1..=3).contains(&gets), "{}: {gets} requests", blob.digest);
    }
    let copies = cluster.upstream_bytes().await / image.blob_bytes() as f64;
    assert!(copies < 1.5, "{copies} copies");
    for agent in &cluster.agents {
        expect_served(agent, &image, &[]).await;
    }
}

/// However fast others send, a node takes no more than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_to_a_rate_of_its_own() {
    const RATE: f64 = 4_000_000.0;
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 3).await;
    exact(1010, async |seed| {
        let (image, tag) = (Image::new(seed, &[9_000_000, 3_000_000]), format!("v{seed}"));
        origin.add_image(REPOSITORY, &tag, &image);
        // One has it already, and could send all of it at once.
        cluster.pull([0], REPOSITORY, &image).await;
        cluster.agents[0].until_idle().await;
        let image_name = name(&tag);
        let words = [&*image_name, "--max-per-node", "4MB/s", "--json"];
        let finished = prewarm(&cluster.agents[0], &words).await;
        expect(&finished, 0, "\"ready\": 3");
        let status = json(&finished);
        let took = status["elapsed_ms"].as_f64().expect("a figure") / 1000.0;
        // A piece of each blob does not wait.
        let least = (image.blob_bytes() as f64 - 2.0 * 262_144.0) / RATE;
        assert!(took >= least, "{took} s, {least} s at least");
        expect_served(&cluster.agents[2], &image, &[]).await;
        let upstream = status["upstream_bytes"].as_u64().expect("a figure");
        println!("{upstream} bytes came from upstream once more");
        assert!(upstream <= image.blob_bytes(), "{status}");
        (upstream == 0).then_some(())
    })
    .await;
}

/// A client that wants what is being warmed slowly has it at once, on a node that is meant and on one that is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_not_held_back() {
    for client in [1, 3] {
        let origin = Origin::start().await;
        // A minute at the pace.
        let image = Image::new(1020, &[60_000_000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let layer = &image.layers[0].digest;
        let cluster = Cluster::start_with(&origin.url(), 4, |node, setup| {
            setup.set("swarm.zone", if node == 3 { "b" } else { "a" })
        })
        .await;
        let folder = place::scratch();
        let image_name = name("v1");
        let words =
            [&*image_name, "--select", "zone=a", "--max-upstream", "1MB/s", "--max-per-node", "1MB/s"];
        let mut process = begin(&cluster.agents[0], &words, &log_file(&folder));
        origin.until_sent(layer, 1_000_000).await;
        let before = origin.blob_bytes(layer);
        assert!(before < 30_000_000, "{before} bytes: it is not held back at all");
        let begun = Instant::now();
        cluster.pull([client], REPOSITORY, &image).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(25), "{took:?} for a client at node {client}");
        process.signal(libc::SIGINT);
        process.exit(STEP_MAX).await;
        let (taken, size) = (cluster.upstream_bytes().await, image.blob_bytes());
        assert!(taken < 1.2 * size as f64, "{taken} of {size} bytes, by client {client}");
    }
}

/// Bytes that two agents have received from others, looked at in the same moment.
async fn received(readers: &[Agent]) -> [f64; 2] {
    let [one, other] = [0, 1].map(|reader| readers[reader].metric("peer_received_bytes_total", &[]));
    let (one, other) = tokio::join!(one, other);
    [one, other]
}

/// What part of all that comes the slower one of two readers gets, who had received so much before, until one of them is done: in the
/// stretch in which that is most. Who stands still for a second leaves its part to the other one: one stretch in which both get theirs
/// is enough. Where one of them has to wait for the other there is none.
async fn part_of_the_slower(readers: &[Agent], begun: [f64; 2], reads: &[JoinHandle<()>]) -> f64 {
    /// Bytes of a stretch: enough pieces that it does not matter whose turn it is.
    const SHARED: f64 = 8_000_000.0;
    /// Longest time that a look at both may take: while one of them does not answer, the figure of the other one grows old.
    const LOOK_MAX: Duration = Duration::from_millis(300);
    let (before, most) = (Cell::new(None::<[f64; 2]>), Cell::new(0.0_f64));
    wait::until("one of them to have its blob", STEP_MAX, || async {
        let asked = Instant::now();
        let total = received(readers).await;
        let now = [total[0] - begun[0], total[1] - begun[1]];
        let is_late = asked.elapsed() > LOOK_MAX;
        match before.get().filter(|_| !is_late) {
            None => before.set((!is_late && now.iter().all(|bytes| *bytes > 0.0)).then_some(now)),
            Some(then) => {
                let (one, other) = (now[0] - then[0], now[1] - then[1]);
                let is_over = now.iter().any(|bytes| *bytes >= READ_BYTES as f64);
                if one + other >= SHARED && !is_over {
                    println!("{one} and {other} bytes in the same time");
                    most.set(most.get().max(one.min(other) / (one + other)));
                    before.set(Some(now));
                }
            }
        }
        reads.iter().any(|read| read.is_finished())
    })
    .await;
    most.get()
}

/// Two want different blobs of one that may not send as fast as they could take them: each gets its part of what it sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_what_one_may_send() {
    let origin = Origin::start().await;
    let cluster = Cluster::start_with(&origin.url(), 3, |node, setup| match node {
        0 => setup.set("swarm.upload_rate", "5MB/s"),
        _ => setup,
    })
    .await;
    let readers = &cluster.agents[1..];
    exact(1030, async |seed| {
        let image = Image::new(seed, &[READ_BYTES; 2]);
        origin.add_image(REPOSITORY, &format!("v{seed}"), &image);
        cluster.pull([0], REPOSITORY, &image).await;
        cluster.agents[0].until_idle().await;
        let (upstream, begun) = (cluster.upstream_bytes().await, received(readers).await);
        let reads: Vec<_> = image
            .layers
            .iter()
            .zip(readers)
            .map(|(layer, agent)| {
                let (client, url) = (agent.client(), agent.blob(REPOSITORY, &layer.digest));
                let bytes = layer.bytes.clone();
                tokio::spawn(async move { client.get(&url).await.expect(200, &bytes) })
            })
            .collect();
        let part = part_of_the_slower(readers, begun, &reads).await;
        for read in reads {
            read.await.expect("the blob arrives whole");
        }
        let copies = (cluster.upstream_bytes().await - upstream) / READ_BYTES as f64;
        println!("{copies:.2} copies came from upstream");
        assert!(copies < 2.1, "{copies} copies: each reader wants one of its own");
        if copies >= 0.5 {
            return None;
        }
        assert!(part >= 0.3, "the slower one never got more than {part:.2} of what was sent");
        Some(())
    })
    .await;
}
