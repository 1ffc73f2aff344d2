//! How requests to warm end, and what is said of that: cancelled by somebody else, failed, or never begun.

use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::process::Finished;
use shoal_tests::{place, wait};

use super::prewarm::{STEP_MAX, begin, expect, json, log_file, name, prewarm, socket, until_told};
use super::{REPOSITORY, paused_image};

/// `shoal prewarm ls|status|cancel`, asked of an agent.
async fn ask(agent: &Agent, words: &[&str]) -> Finished {
    shoal(&[&["prewarm"], words, &["--socket", &socket(agent)]].concat()).await
}

async fn first_in_list(agent: &Agent) -> String {
    let listed = ask(agent, &["ls"]).await.expect_ok("ls").output;
    listed.lines().nth(1).unwrap_or_default().to_owned()
}

/// Whoever waits learns that somebody else has cancelled it, and so does a pipeline; what is over cannot be cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_by_somebody_else() {
    let (origin, image, gate) = paused_image(1320, 4_000_000, 1_000_000).await;
    let cluster = Cluster::start(&origin.url(), 2).await;
    let (folder, asked) = (place::scratch(), &cluster.agents[0]);
    let mut process = begin(asked, &[&name("v1")], &log_file(&folder));
    origin.until_sent(&image.layers[0].digest, 1_000_000).await;
    let id = first_in_list(asked).await.split_whitespace().next().expect("it is listed").to_owned();
    expect(&ask(asked, &["cancel", &id]).await, 0, "is cancelled; what has come stays");
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(6), "{}", process.log());
    assert!(process.log().contains("somebody else has cancelled it"), "{}", process.log());
    let line = first_in_list(asked).await;
    assert!(line.contains(" cancelled "), "{line}");
    expect(&ask(asked, &["cancel", &id]).await, 1, "had ended before");
    gate.open();
    origin.heal();

    let done =
        json(&prewarm(asked, &[&name("v1"), "--json"]).await)["id"].as_str().expect("a name").to_owned();
    expect(&ask(asked, &["cancel", &done]).await, 1, "had ended before");
    let line = first_in_list(asked).await;
    assert!(line.contains(" done "), "{line}");
    // Of a pinned one that is over, only what it does for nodes that join is left to be ended.
    let pinned = json(&prewarm(asked, &[&name("v1"), "--pin", "1h", "--json"]).await);
    let pinned = pinned["id"].as_str().expect("a name");
    expect(&ask(asked, &["cancel", pinned]).await, 0, "nodes that join later are not warmed");
    expect(&ask(asked, &["cancel", pinned]).await, 1, "had ended before");
}

/// Requests are listed, looked at and cancelled from any node, whichever was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_any_node() {
    let (origin, image, gate) = paused_image(1325, 4_000_000, 1_000_000).await;
    let cluster = Cluster::start(&origin.url(), 3).await;
    let (folder, other) = (place::scratch(), &cluster.agents[1]);
    let mut process = begin(&cluster.agents[0], &[&name("v1")], &log_file(&folder));
    origin.until_sent(&image.layers[0].digest, 1_000_000).await;
    let id =
        first_in_list(&cluster.agents[0]).await.split_whitespace().next().expect("it is listed").to_owned();
    let address = cluster.agents[0].address().ip().to_string();
    // An agent that stands still for some seconds is left out.
    wait::until("the request to be listed at another node", STEP_MAX, || async {
        let listed = ask(other, &["ls", "--cluster"]).await.output;
        let is_meant = |line: &str| line.contains(&address) && line.contains(" warming ");
        listed.lines().any(|line| line.starts_with(&id) && is_meant(line))
    })
    .await;
    until_told(async || ask(other, &["status", &id]).await, 0, &format!("at {address}")).await;
    wait::until("the request to be cancelled", STEP_MAX, || async {
        let told = ask(other, &["cancel", &id]).await;
        // Where the first answer comes too late, the next one is that there is nothing left to be cancelled.
        told.output.contains(if told.code == Some(0) { "is cancelled" } else { "had ended before" })
    })
    .await;
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(6), "{}", process.log());
    until_told(async || ask(other, &["cancel", &id]).await, 1, "had ended before").await;
    until_told(async || ask(other, &["status", &id]).await, 0, "cancelled: 0 of 3 nodes ready").await;
    gate.open();
}

/// A request of which nothing came is called failed everywhere, with its nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_which_nothing_came() {
    let origin = Origin::start().await;
    origin.add_image(REPOSITORY, "v1", &Image::new(1330, &[100_000]));
    let cluster = Cluster::start(&origin.url(), 2).await;
    let asked = &cluster.agents[0];
    let failed = json(&prewarm(asked, &[&name("v9"), "--json"]).await);
    assert_eq!((&failed["phase"], &failed["outcome"]), (&"done".into(), &"failed".into()), "{failed}");
    assert_eq!((&failed["failed"], &failed["waiting"]), (&2.into(), &serde_json::json!([])), "{failed}");
    let line = first_in_list(asked).await;
    let cells: Vec<_> = line.split_whitespace().skip(1).take(3).collect();
    assert_eq!(cells, ["failed", "0/2", "2"], "{line}");
    expect(&prewarm(asked, &[&name("v1"), &name("v9")]).await, 1, "1 image not warmed");
    let line = first_in_list(asked).await;
    assert!(line.contains(" partial ") && line.ends_with("(1 not warmed)"), "{line}");

    expect(&prewarm(asked, &[&name("v9"), "--dry-run"]).await, 2, "nothing can be warmed");
    expect(&prewarm(asked, &[&name("v1"), &name("v9"), "--dry-run"]).await, 1, "cannot be warmed");
    let plan = async || prewarm(asked, &[&name("v1"), "--dry-run"]).await;
    until_told(plan, 0, "nothing to do: all 2 nodes have everything").await;
}

/// A subcommand with a slip of the pen is not an image that is looked for at a registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subcommand_that_is_mistyped() {
    let origin = Origin::start().await;
    let agent = Setup::new(&origin.url()).start().await;
    for (word, meant) in [("statu", "status"), ("stauts", "status"), ("cancle", "cancel"), ("list", "ls")] {
        let finished = prewarm(&agent, &[word, "0a1b2c3d"]).await;
        expect(&finished, 2, &format!("{word:?} looks like `shoal prewarm {meant}`"));
        expect(&finished, 2, &format!("docker.io/library/{word}"));
    }
    expect(&prewarm(&agent, &["cancel", "0a1b2c3d"]).await, 2, "options stand behind it");
    assert!(origin.seen().is_empty(), "nobody was asked");
}

/// An image in no index that is for something else is warmed and pulled as it is, and it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_for_another_platform() {
    let origin = Origin::start().await;
    origin.add_image(REPOSITORY, "v1", &Image::for_platform(1340, &[100_000], "riscv64"));
    let cluster = Cluster::start(&origin.url(), 2).await;
    let (asked, v1) = (&cluster.agents[0], name("v1"));
    let note = "it is for linux/riscv64 only, and not for linux/s390x";
    let s390x = ["--platform", "linux/s390x"];
    until_told(async || prewarm(asked, &[&v1, s390x[0], s390x[1], "--dry-run"]).await, 0, note).await;
    let told = json(&prewarm(asked, &[&v1, s390x[0], s390x[1], "--json"]).await);
    assert_eq!((&told["images"][0]["note"], &told["ready"]), (&note.into(), &2.into()), "{told}");
    expect(&prewarm(asked, &[&v1]).await, 0, "it is for linux/riscv64 only, and not for linux/");
    let right = json(&prewarm(asked, &[&v1, "--platform", "linux/riscv64", "--json"]).await);
    assert_eq!(right["images"][0]["note"], serde_json::Value::Null, "{right}");
    let url = asked.url();
    let pull = ["pull", &v1, "--mirror", &url, "--socket", &socket(asked)];
    expect(&shoal(&[&pull[..], &s390x].concat()).await, 0, note);
    let told = json(&shoal(&[&pull[..], &s390x, &["--json"]].concat()).await);
    assert_eq!(told["note"], note, "{told}");
}

/// A dry run says whose store is too small for what would come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_room() {
    let origin = Origin::start().await;
    let image = Image::new(1350, &[3_000_000, 3_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let cluster = Cluster::start_with(&origin.url(), 3, |node, setup| {
        if node == 2 { setup.set("store.capacity", "4MB") } else { setup }
    })
    .await;
    let plan = async || prewarm(&cluster.agents[0], &[&name("v1"), "--dry-run"]).await;
    let finished = until_told(plan, 1, "1 node has too little room").await;
    let address = cluster.agents[2].address().ip().to_string();
    let small: Vec<_> = finished.output.lines().filter(|line| line.contains("at most")).collect();
    assert!(small.len() == 1 && small[0].contains(&address), "{}", finished.output);
    assert_eq!(origin.count(Kind::Blob, "GET"), 0, "nothing has moved");
}
