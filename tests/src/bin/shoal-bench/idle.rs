//! A swarm of many agents on this machine: how fast they find each other, what each costs while nothing happens, and a small
//! image that all of them want at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::http::Client;
use shoal_tests::image::Image;
use shoal_tests::usage;

use super::setting::{self, REPOSITORY, say};
use super::table::{Metric, Table};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Agents.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..=400))]
    nodes: u16,
    /// Seconds that are looked at.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Seconds before that in which the last news of who is there may go around.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=600))]
    settle: u64,
}

/// The layers of the image, bytes: twelve, together small enough for as many stores on one disk.
const LAYERS: [usize; 12] =
    [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 800_000, 1_200_000];
/// How long agents that know so many others may take to agree who these are.
const AGREE_MAX: Duration = Duration::from_secs(30);

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let nodes = usize::from(options.nodes);
    let registry = DockerRegistry::start().await;
    let image = Image::new(900, &LAYERS);
    registry.push(REPOSITORY, "v1", &image).await;

    say(&format!("starting {nodes} agents together"));
    let begun = Instant::now();
    let (cluster, meeting) = Cluster::start_together(&registry.url(), nodes).await;
    let started = begun.elapsed() - meeting;
    let meeting = meeting + until_agreed(&cluster).await?;
    say(&format!(
        "all answer after {:.1} s, all know each other {:.1} s later",
        started.as_secs_f64(),
        meeting.as_secs_f64()
    ));
    tokio::time::sleep(Duration::from_secs(options.settle)).await;

    say(&format!("looking at {} s in which nothing happens", options.seconds));
    let (cpu, sent, begun) = (cpu_seconds(&cluster)?, loopback_bytes()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let per_agent = begun.elapsed().as_secs_f64() * nodes as f64;
    let cpu = (cpu_seconds(&cluster)? - cpu) / per_agent;
    let sent = (loopback_bytes()? - sent) / per_agent;
    let memory = memory_max(&cluster, usage::resident_mib)?;
    let own = memory_max(&cluster, usage::own_mib)?;

    say("all pull an image of 12 layers at once, by its tag");
    for agent in &cluster.agents {
        usage::reset_peak(agent.pid().unsigned_abs())?;
    }
    let resolves = registry.manifest_requests();
    let begun = Instant::now();
    let heads: Vec<_> = cluster
        .agents
        .iter()
        .map(|agent| {
            let url = agent.manifest(REPOSITORY, "v1");
            tokio::spawn(async move { Client::new().head(&url).await.status })
        })
        .collect();
    for head in heads {
        ensure!(head.await? == 200, "a tag was not resolved");
    }
    cluster.pull(0..nodes, REPOSITORY, &image).await;
    let pulled = begun.elapsed().as_secs_f64();
    let peak = memory_max(&cluster, usage::peak_mib)?;
    registry.until_calm().await;
    let resolves = registry.manifest_requests() - resolves;
    let gets: usize = image.blobs().map(|blob| registry.blob_gets(&blob.digest)).max().unwrap_or_default();
    let size = image.blob_bytes() as f64;
    // Nobody has asked for it before.
    let upstream = registry.image_bytes(&image) as f64 / size;
    let received = cluster.upstream_bytes().await / size;

    let metrics = vec![
        Metric { name: "meet_s", unit: "s from the last start until all know all" },
        Metric { name: "cpu", unit: "% of a core each, idle" },
        Metric { name: "bytes_per_s", unit: "bytes/s each on the wire, idle" },
        Metric { name: "memory_mib", unit: "MiB, the largest, idle" },
        Metric { name: "own_mib", unit: "MiB of it, the largest, without the program's file" },
        Metric { name: "peak_mib", unit: "MiB, the largest, while pulling" },
        Metric { name: "pull_s", unit: "s until the last has the image" },
        Metric { name: "upstream_ratio", unit: "x the image left the registry, by its log" },
        Metric { name: "received_ratio", unit: "x, as the agents count" },
        Metric { name: "requests", unit: "GETs of a blob, the most of any" },
        Metric { name: "resolves", unit: "requests of manifests" },
    ];
    let figures = [
        meeting.as_secs_f64(),
        cpu * 100.0,
        sent,
        memory,
        own,
        peak,
        pulled,
        upstream,
        received,
        gets as f64,
        resolves as f64,
    ];
    let conditions = format!(
        "{nodes} agents on loopback addresses, {} cores for all of them; idle for {} s; then an image of {} bytes in {} layers from \
         docker-registry, by its tag, all at once; CPU and bytes include what the measuring costs",
        setting::cores(),
        options.seconds,
        image.blob_bytes(),
        LAYERS.len(),
    );
    let mut table = Table::new("idle", metrics, figures.map(Some).into(), conditions);
    // A tag costs a HEAD and a GET.
    let (gets, resolves) = (Some(1.0), Some(2.0));
    table.peer(
        "goal",
        vec![Some(5.0), None, None, Some(48.0), None, Some(128.0), None, Some(1.0), None, gets, resolves],
    );
    Ok(table)
}

/// Waits until all agents name the same members; how long until the look began that found them so. A look asks each agent for the whole
/// list, and is not counted itself: with many agents it takes longer than what it looks for.
async fn until_agreed(cluster: &Cluster) -> Result<Duration> {
    let (agents, begun) = (cluster.admins(), Instant::now());
    loop {
        let waited = begun.elapsed();
        let mut rosters = BTreeSet::new();
        for agent in &agents {
            let members = agent.peers().await.map_or_else(|_| Vec::new(), |peers| peers.members);
            rosters.insert(members.into_iter().map(|member| member.peer).collect::<BTreeSet<String>>());
        }
        if rosters.len() == 1 && rosters.iter().all(|roster| roster.len() == agents.len()) {
            return Ok(waited);
        }
        ensure!(waited < AGREE_MAX, "{} agents have {} lists of members", agents.len(), rosters.len());
    }
}

fn cpu_seconds(cluster: &Cluster) -> Result<f64> {
    cluster.agents.iter().map(|agent| usage::cpu_seconds(agent.pid().unsigned_abs())).sum()
}

fn memory_max(cluster: &Cluster, of: fn(u32) -> Result<f64>) -> Result<f64> {
    let used = cluster.agents.iter().map(|agent| of(agent.pid().unsigned_abs()));
    used.collect::<Result<Vec<f64>>>().map(|used| used.into_iter().fold(0.0, f64::max))
}

/// Bytes that have gone over loopback so far, headers included.
fn loopback_bytes() -> Result<f64> {
    let path = "/sys/class/net/lo/statistics/tx_bytes";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} is odd"))
}
