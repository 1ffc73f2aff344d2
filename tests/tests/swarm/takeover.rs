//! The agent that was asked to warm dies: others go on.

use std::time::Duration;

use shoal_tests::agent::{Agent, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::{place, wait};

use super::prewarm::{begin, expect, expect_served, json, log_file, name, prewarm, socket};
use super::{REPOSITORY, paused_image};

/// Until the others are sure that a node is gone, and a while more.
const TAKEOVER_MAX: Duration = Duration::from_secs(120);

async fn requests(agent: &Agent) -> serde_json::Value {
    json(&shoal(&["prewarm", "ls", "--json", "--socket", &socket(agent)]).await)
}

fn knows(requests: &serde_json::Value) -> bool {
    requests["standing"].as_array().is_some_and(|orders| !orders.is_empty())
}

async fn has(agent: &Agent, image: &Image) -> bool {
    let blobs = shoal(&["blob", "ls", "--json", "--socket", &socket(agent)]).await.output;
    image.blobs().all(|blob| blobs.contains(&blob.digest))
}

/// `kill -9` in the middle. Nobody has to do anything for the nodes to become warm, the same command on another node goes on where
/// it was, and who joins later becomes warm as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_agent_takes_over() {
    let (origin, image, gate) = paused_image(1100, 8_000_000, 2_000_000).await;
    let layer = &image.layers[0].digest;
    let mut cluster = Cluster::start(&origin.url(), 4).await;
    let folder = place::scratch();
    let mut process = begin(&cluster.agents[3], &[&name("v1"), "--pin", "1h"], &log_file(&folder));
    origin.until_sent(layer, 2_000_000).await;
    wait::until("two others to have a copy of the request", TAKEOVER_MAX, || async {
        let mut copies = 0;
        for agent in &cluster.agents[..3] {
            copies += usize::from(knows(&requests(agent).await));
        }
        copies >= 2
    })
    .await;
    let id = requests(&cluster.agents[3]).await["requests"][0]["id"].clone();
    cluster.agents[3].kill();
    let status = process.exit(TAKEOVER_MAX).await;
    assert_eq!(status.code(), Some(4), "{}", process.log());
    gate.open();
    origin.heal();

    // One of the others takes the request over under its name, and it ends well there.
    let ended = |requests: &serde_json::Value| {
        let request = requests["requests"].as_array()?.iter().find(|request| request["id"] == id)?.clone();
        (request["phase"] == "done").then_some(request)
    };
    wait::until("another agent to have gone on with the request", TAKEOVER_MAX, || async {
        for agent in &cluster.agents[..3] {
            if let Some(request) = ended(&requests(agent).await) {
                assert_eq!((&request["nodes"], &request["ready"]), (&3.into(), &3.into()), "{request}");
                return true;
            }
        }
        false
    })
    .await;
    for agent in &cluster.agents[..3] {
        expect_served(agent, &image, &[]).await;
    }
    expect(&prewarm(&cluster.agents[0], &[&name("v1")]).await, 0, "3 of 3 nodes ready");
    assert!(origin.blob_bytes(layer) < 20_000_000, "{} bytes", origin.blob_bytes(layer));

    let late = cluster.join().await;
    wait::until("the node that joined to be warm", TAKEOVER_MAX, || async {
        has(&cluster.agents[late], &image).await
    })
    .await;

    // Any agent that knows of it can end it.
    let knowing = {
        let mut knowing = None;
        for agent in &cluster.agents[..3] {
            let requests = requests(agent).await;
            let order =
                requests["standing"].as_array().into_iter().flatten().find(|order| order["is_own"] == false);
            if order.is_some_and(|order| order["id"] == id) {
                knowing = Some(agent);
            }
        }
        knowing.expect("somebody has a copy")
    };
    let id = id.as_str().expect("a name");
    shoal(&["prewarm", "cancel", id, "--socket", &socket(knowing)]).await.expect_ok("cancel");
    wait::until("nobody to see to it any more", TAKEOVER_MAX, || async {
        for agent in &cluster.agents[..3] {
            if knows(&requests(agent).await) {
                return false;
            }
        }
        true
    })
    .await;
}
