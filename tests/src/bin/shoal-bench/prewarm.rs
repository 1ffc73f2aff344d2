//! A prewarm on shaped links: an agent in a network namespace of its own for each node, one registry, an image of many layers
//! that nobody has. Then a client beside a warm agent pulls the image, and one beside an agent that has had it all along.
//!
//! An agent that has had the image all along is the warm one after it was started again: its files are the same, and nothing of
//! the warming is left in its memory.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use shoal_agent::admin::client::AdminClient;
use shoal_agent::warm::select::Selection;
use shoal_agent::warm::{Phase, WarmRequest, WarmStatus};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::netns::Network;
use shoal_tests::usage;

use super::setting::{self, REGISTRY, REPOSITORY, say};
use super::shaped::{self, RunningAgent, Upstream};
use super::simulated::{Simulated, simulate};
use super::table::{Metric, Table, median};

/// Layers: what the goal speaks of.
const LAYERS: u64 = 12;
/// Pulls of a warm image, of which the median counts.
const PULLS: usize = 5;
/// Goal: the last node, in multiples of the bound.
const GOAL: f64 = 1.3;

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    links: shaped::Links,
    /// Size of the image, in twelve layers: the first is half of it, each further one smaller.
    #[arg(long, default_value = "96MiB")]
    size: ByteSize,
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let (links, nodes) = (&options.links, options.links.nodes());
    let network = links.network()?;
    let folder = setting::folder()?;
    let sizes = layers(options.size.as_u64());
    let image = tokio::task::spawn_blocking(move || Image::new(12, &sizes)).await?;
    say("starting a registry and pushing the image to it");
    let registry = shaped::start_registry(&network, folder.path(), &image).await?;
    say(&format!("starting {nodes} agents"));
    let agents = shaped::start_agents(&network, folder.path(), 1..=nodes, true)?;
    shaped::until_met(&agents, nodes).await;

    say(&format!("warming {} bytes in {LAYERS} layers on {nodes} nodes", image.blob_bytes()));
    let before = Upstream::so_far(&network, &registry, &image, &agents).await?;
    let cpu = usage::machine_cpu_seconds()?;
    let begun = Instant::now();
    let warmed = warm(&agents[0]).await;
    let last = begun.elapsed().as_secs_f64();
    let cpu = usage::machine_cpu_seconds()? - cpu;
    let ready = warmed.and_then(|status| {
        let unready: Vec<_> =
            status.unready.iter().map(|node| format!("{}: {}", node.node.peer, node.why)).collect();
        ensure!(status.ready == nodes, "{} of {nodes} nodes are ready\n{}", status.ready, unready.join("\n"));
        Ok(())
    });
    if let Err(error) = ready {
        let kept = folder.keep();
        return Err(error).with_context(|| format!("the agents' logs are kept in {}", kept.display()));
    }
    let upstream = Upstream::so_far(&network, &registry, &image, &agents).await?;
    let [left, logged, received] = upstream.copies_since(before, image.blob_bytes());
    let requests = blob_requests(&registry, &image);
    let (warm, stored) = pulls(&network, folder.path(), agents, &image).await?;

    let sizes: Vec<u64> = image.blobs().map(|blob| blob.len()).collect();
    let bound = links.bound(&sizes);
    let size = image.blob_bytes();
    let metrics = vec![
        Metric { name: "last_s", unit: "s until the last node is ready" },
        Metric { name: "last_bound", unit: "x the bound" },
        Metric { name: "upstream_ratio", unit: "x the image left the registry, at its link" },
        Metric { name: "logged_ratio", unit: "x, by the registry's log" },
        Metric { name: "received_ratio", unit: "x, as the agents count" },
        Metric { name: "blob_requests", unit: "GETs of its blobs" },
        Metric { name: "warm_pull_s", unit: "s for a client to pull it on a warm node" },
    ];
    let figures = [last, last / bound, left, logged, received, requests as f64, warm];
    let conditions = format!(
        "{nodes} agents, each in a network namespace with a link of {} bit/s each way, registry (docker-registry) behind {} \
         bit/s, an image of {size} bytes in {LAYERS} layers, `shoal prewarm` for all; bound {bound:.1} s; {:.0} % of {} \
         cores were busy; pulls: median of {PULLS}",
        links.link,
        links.origin,
        100.0 * cpu / (last * setting::cores() as f64),
        setting::cores(),
    );
    let Simulated { max, upstream_ratio, upstream_requests, .. } = simulate("prewarm", links, &sizes, &[])?;
    let mut table = Table::new("prewarm", metrics, figures.map(Some).into(), conditions);
    let figures =
        [Some(max * bound), Some(max), Some(upstream_ratio), None, None, Some(upstream_requests), None];
    table.peer("simulated", figures.into());
    table.peer("stored long ago", vec![None, None, None, None, None, None, Some(stored)]);
    let everybody = bound * nodes as f64;
    let (copies, requests) = (Some(nodes as f64), (nodes * sizes.len()) as f64);
    table.peer(
        "everybody upstream (bound)",
        vec![Some(everybody), copies, copies, None, None, Some(requests), None],
    );
    table.peer("goal", vec![None, Some(GOAL), Some(1.0), None, None, None, Some(stored)]);
    Ok(table)
}

/// Sizes of the layers: as in most images, one is large and the others are ever smaller.
fn layers(size: u64) -> Vec<usize> {
    let rest = size / 2;
    // 1 + 2 + ... + 11 parts.
    let parts = LAYERS * (LAYERS - 1) / 2;
    let others = (1..LAYERS).rev().map(|part| rest * part / parts);
    std::iter::once(size - rest).chain(others).map(|size| size as usize).collect()
}

async fn warm(agent: &RunningAgent) -> Result<WarmStatus> {
    let client = AdminClient::new(&agent.socket);
    let request = WarmRequest {
        images: vec![format!("{REGISTRY}/{REPOSITORY}:v1")],
        platforms: vec!["all".into()],
        nodes: Selection::default(),
        pin_seconds: None,
        deadline_seconds: None,
        grace_seconds: None,
        max_upstream_bytes_per_second: None,
        max_per_node_bytes_per_second: None,
        dry_run: false,
    };
    let begun = client.warm(&request).await?;
    let mut events = client.warm_events(&begun.id).await?;
    while let Some(status) = events.next().await? {
        if status.phase != Phase::Warming {
            return Ok(status);
        }
    }
    anyhow::bail!("the agent ended before the request did")
}

fn blob_requests(registry: &DockerRegistry, image: &Image) -> usize {
    image.blobs().map(|blob| registry.blob_gets(&blob.digest)).sum()
}

/// Seconds of a client beside a warm agent, and beside the same after it has been started again.
async fn pulls(
    network: &Network,
    folder: &std::path::Path,
    mut agents: Vec<RunningAgent>,
    image: &Image,
) -> Result<(f64, f64)> {
    // Nobody else shall be in the way, and who is alone cannot ask anybody.
    let node = agents.len();
    let warm = agents.pop().context("there are agents")?;
    drop(agents);
    let warm_s = pull(network, node, image)?;
    drop(warm);
    let own = folder.join(format!("node-{node}"));
    let _ = fs::remove_file(own.join("sock"));
    let stored = shaped::start_agents(network, folder, [node], true)?;
    shaped::until_answers(&stored[0]).await;
    let stored_s = pull(network, node, image)?;
    Ok((warm_s, stored_s))
}

/// Median of some pulls of all blobs at once, as a runtime asks for them.
fn pull(network: &Network, node: usize, image: &Image) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..PULLS {
        seconds.push(shaped::pull_image(network, node, image)?.as_secs_f64());
    }
    Ok(median(seconds))
}
