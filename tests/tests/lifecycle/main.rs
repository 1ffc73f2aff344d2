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
    let [v1, v2] = &[candidates(["v1", "v1b", "v1c"], 890), candidates(["v2", "v2b", "v2c"], 893)];

    let mut cluster = Cluster::new(&v1.iter().chain(v2).collect::<Vec<_>>());
    let before = configurations(&cluster);
    cluster.start_runtimes().await;
    let first = old.as_ref().unwrap_or(&new);
    cluster.install(first).await;
    cluster.point_runtimes(&new, first).await;
    assert!(configurations(&cluster).iter().zip(&before).all(|(now, before)| now != before));
    tell.that("every containerd asks its agent");

    let v1 = pull_once(&cluster, v1).await;
    assert_eq!(cluster.blob_gets("", v1), cluster.blob_gets(AGENTS, v1), "a containerd passed its agent by");
    cluster.run_pods(v1).await;
    tell.that(&format!("{} is on all nodes, each blob from one GET, and runs in pods", v1.tag));

    let load = Load::start(cluster.runtimes(), &v1.name);
    cluster.replace_agent(0, &new, &load).await;
    let v2 = pull_once(&cluster, v2).await;
    tell.that(&format!(
        "the first agent is upgraded, and {} is on all nodes, each blob from one GET",
        v2.tag
    ));
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

/// Releases of which every node pulls one: see [`pull_once`].
fn candidates(tags: [&'static str; 3], seed: u64) -> [Release; 3] {
    let mut seeds = seed..;
    tags.map(|tag| Release::new(tag, seeds.next().expect("there are more numbers")))
}

/// Has every node pull one release after the other, until the agents have asked the registry for each blob of one of them once. An agent
/// that stands still for seconds rightly costs a second request, but not each time.
async fn pull_once<'r>(cluster: &Cluster, releases: &'r [Release]) -> &'r Release {
    for release in releases {
        cluster.pull(release).await;
        cluster.until_calm().await;
        let gets = cluster.blob_gets(AGENTS, release);
        let line = format!("{}: GETs of its blobs: {gets:?}", release.name);
        assert!(gets.iter().all(|gets| (1..=2).contains(gets)), "{line}");
        if gets.iter().all(|gets| *gets == 1) {
            return release;
        }
        println!("{line}");
    }
    panic!("no release came with one GET of each of its blobs")
}

/// The registry is asked for nothing when all is pulled once more.
async fn expect_kept(cluster: &Cluster, releases: [&Release; 2]) {
    let gets = || releases.map(|release| cluster.blob_gets("", release));
    cluster.until_calm().await;
    let before = gets();
    for release in releases {
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
