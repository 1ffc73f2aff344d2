//! A cluster on one machine, from its first agent to its last: nodes with a network and files of their own, each with a real
//! containerd that is told what to do as kubelet tells it, agents as the chart configures them, and one registry.
//!
//! `SHOAL_OLD_BIN` names the program of an older version: the cluster begins with it, is upgraded under load, and goes back to
//! it. Without it, this version is replaced by itself.

mod cluster;
mod load;
mod node;
mod release;

use std::path::PathBuf;
use std::time::Instant;

use cluster::{AGENTS, Cluster, RUNTIMES};
use load::Load;
use node::Program;
use release::Release;
use shoal_tests::place;
use shoal_tests::tree::{Snapshot, snapshot};

/// What a node's runtimes read.
const CONFIGURATION: [&str; 1] = ["etc"];
/// What says which of it is the agent's.
const RECORD: &str = "var/lib/shoal/runtime.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_first_agent_to_the_last() {
    place::needs_root();
    let new = Program::at(place::shoal_bin()).await;
    let old = match std::env::var_os("SHOAL_OLD_BIN") {
        Some(path) => Some(Program::at(PathBuf::from(path)).await),
        None => None,
    };
    let tell = Narrator::new();
    let [v1, v2] = &[Release::new("v1", 890), Release::new("v2", 891)];

    let mut cluster = Cluster::new([v1, v2]);
    let before = configurations(&cluster);
    cluster.start_runtimes().await;
    let first = old.as_ref().unwrap_or(&new);
    cluster.install(first).await;
    cluster.point_runtimes(&new, first).await;
    assert!(configurations(&cluster).iter().zip(&before).all(|(now, before)| now != before));
    tell.that("every containerd asks its agent");

    cluster.pull(v1).await;
    expect_once(&cluster, v1).await;
    assert_eq!(cluster.blob_gets("", v1), cluster.blob_gets(AGENTS, v1), "a containerd passed its agent by");
    cluster.run_pods(v1).await;
    tell.that("v1 is on all nodes, each blob from one GET, and runs in pods");

    let load = Load::start(cluster.runtimes(), &v1.name);
    cluster.replace_agent(0, &new, &load).await;
    cluster.pull(v2).await;
    expect_once(&cluster, v2).await;
    tell.that("the first agent is upgraded, and v2 is on all nodes, each blob from one GET");
    for node in 1..cluster.nodes.len() {
        cluster.replace_agent(node, &new, &load).await;
    }
    tell.that("all agents are upgraded");
    if let Some(old) = &old {
        for node in 0..cluster.nodes.len() {
            cluster.replace_agent(node, old, &load).await;
        }
        tell.that("all agents are the old ones again");
    }
    let pulls = load.end().await;
    let direct: usize = cluster.blob_gets(RUNTIMES, v1).iter().sum();
    tell.that(&format!("{pulls} pulls meanwhile, {direct} blobs past an agent that was away; none failed"));
    expect_kept(&cluster, [v1, v2]).await;
    tell.that("all that was stored is still served");

    cluster.uninstall(&new).await;
    expect_gone(&cluster, &before, v1).await;
    tell.that("no trace is left, and pulls come straight from the registry");
}

/// Says where the story is, and since when: what somebody who runs this by hand looks at.
struct Narrator(Instant);

impl Narrator {
    fn new() -> Self {
        Narrator(Instant::now())
    }

    fn that(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

fn configurations(cluster: &Cluster) -> Vec<Snapshot> {
    cluster.nodes.iter().map(|node| snapshot(node.tree(), &CONFIGURATION)).collect()
}

/// The agents have asked the registry for each blob of the release once.
async fn expect_once(cluster: &Cluster, release: &Release) {
    cluster.until_calm().await;
    let gets = cluster.blob_gets(AGENTS, release);
    assert!(gets.iter().all(|gets| *gets == 1), "{}: GETs of its blobs: {gets:?}", release.name);
}

/// The agents have never asked the registry twice, and it is asked for nothing when all is pulled once more.
async fn expect_kept(cluster: &Cluster, releases: [&Release; 2]) {
    let gets = || releases.map(|release| cluster.blob_gets("", release));
    cluster.until_calm().await;
    let before = gets();
    for release in releases {
        expect_once(cluster, release).await;
        cluster.pull(release).await;
    }
    cluster.until_calm().await;
    assert_eq!(gets(), before, "something that was stored was fetched again");
}

/// The nodes are what they were, and need no agent.
async fn expect_gone(cluster: &Cluster, before: &[Snapshot], release: &Release) {
    for (node, before) in cluster.nodes.iter().zip(before) {
        assert_eq!(&snapshot(node.tree(), &CONFIGURATION), before);
        assert!(!node.tree().join(RECORD).exists(), "the record of what was written is left");
    }
    cluster.until_calm().await;
    let by_agents = cluster.blob_gets(AGENTS, release);
    let by_runtimes = cluster.blob_gets(RUNTIMES, release);
    cluster.pull(release).await;
    cluster.until_calm().await;
    assert_eq!(cluster.blob_gets(AGENTS, release), by_agents, "an agent is left");
    let once_more = by_runtimes.iter().map(|gets| gets + cluster.nodes.len()).collect::<Vec<_>>();
    assert_eq!(cluster.blob_gets(RUNTIMES, release), once_more);
}
