//! Nodes that are away while somebody waits for them: for some seconds, or for good.

use shoal_tests::agent::{Agent, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::{place, wait};

use super::paused_image;
use super::prewarm::{STEP_MAX, begin, expect_served, json, log_file, name, socket};

/// The one request that an agent was asked for.
async fn request(agent: &Agent) -> serde_json::Value {
    json(&shoal(&["prewarm", "ls", "--json", "--socket", &socket(agent)]).await)["requests"][0].clone()
}

/// What `top` says of an agent's members.
async fn top(agent: &Agent) -> String {
    shoal(&["top", "--once", "--socket", &socket(agent)]).await.expect_ok("top --once").output
}

/// A process that stands still in the middle is waited for, shown as away, and ready when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_becomes_ready() {
    let (origin, image, gate) = paused_image(1300, 4_000_000, 1_000_000).await;
    let cluster = Cluster::start(&origin.url(), 4).await;
    let folder = place::scratch();
    let mut process = begin(&cluster.agents[0], &[&name("v1"), "--deadline", "10m"], &log_file(&folder));
    origin.until_sent(&image.layers[0].digest, 1_000_000).await;
    cluster.agents[3].stop();
    gate.open();
    origin.heal();
    wait::until("all others to be ready, and one to be away", STEP_MAX, || async {
        let request = request(&cluster.agents[0]).await;
        request["ready"] == 3 && request["away"].as_array().is_some_and(|away| away.len() == 1)
    })
    .await;
    // Longer than anybody is asked a second time, and than it takes to be no member any more.
    wait::until("it to be no member", STEP_MAX, || async {
        let peers = shoal(&["peers", "--socket", &socket(&cluster.agents[0])]).await.output;
        peers.contains("3 members")
    })
    .await;
    let request = request(&cluster.agents[0]).await;
    assert_eq!((&request["phase"], &request["failed"]), (&"warming".into(), &0.into()), "{request}");
    let shown = top(&cluster.agents[0]).await;
    let address = cluster.agents[3].address().ip().to_string();
    assert!(shown.lines().any(|line| line.contains(&address) && line.contains("away")), "{shown}");

    cluster.agents[3].go_on();
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("4 of 4 nodes ready"), "{}", process.log());
    expect_served(&cluster.agents[3], &image, &[]).await;
    let shown = top(&cluster.agents[0]).await;
    assert!(!shown.contains("away") && !shown.contains("not getting ready"), "{shown}");
}

/// One that stays away fails: with a deadline at the deadline, without one after the grace; and it is said what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_away_fails_when_it_is_time() {
    let (origin, image, gate) = paused_image(1310, 4_000_000, 1_000_000).await;
    let cluster = Cluster::start(&origin.url(), 4).await;
    let folders = [place::scratch(), place::scratch()];
    let impatient = &[&*name("v1"), "--grace", "1s"];
    let mut impatient = begin(&cluster.agents[0], impatient, &log_file(&folders[0]));
    let patient = &[&*name("v1"), "--deadline", "30s", "--json"];
    let mut patient = begin(&cluster.agents[1], patient, &log_file(&folders[1]));
    origin.until_sent(&image.layers[0].digest, 1_000_000).await;
    wait::until("both requests to be under way", STEP_MAX, || async {
        request(&cluster.agents[0]).await["images"][0]["state"] == "warming"
            && request(&cluster.agents[1]).await["images"][0]["state"] == "warming"
    })
    .await;
    cluster.agents[3].stop();
    gate.open();
    origin.heal();
    let status = impatient.exit(STEP_MAX).await;
    let log = impatient.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("3 of 4 nodes ready") && log.contains("give the same command"), "{log}");
    assert_eq!(request(&cluster.agents[0]).await["outcome"], "partial");

    let status = patient.exit(STEP_MAX).await;
    let log = patient.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let start = log.find("\n{").expect("it ends with an object");
    let told: serde_json::Value = serde_json::from_str(&log[start..]).expect("it is JSON");
    assert_eq!((&told["ready"], &told["failed"]), (&3.into(), &1.into()), "{told}");
    let elapsed = told["elapsed_ms"].as_u64();
    assert!(elapsed >= Some(30_000), "{elapsed:?} ms: it was waited for until the deadline");
    let why = told["unready"][0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("give the same command") || why.contains("at the deadline"), "{told}");
    // What has ended says nothing of how its members are by now.
    let shown = top(&cluster.agents[0]).await;
    assert!(!shown.contains("not getting ready"), "{shown}");
    cluster.agents[3].go_on();
}
