//! A rollout on shaped links: an agent in a network namespace of its own for each node, one registry, one cold layer, all at
//! once; with `--canary`, a layer that one of the nodes has pulled before. Beside it stands what the simulator says of the same
//! setting, whose links lose nothing, and what one client takes that is alone with the registry, over the same link.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use shoal_tests::image::Image;
use shoal_tests::usage;

use super::setting::{self, say};
use super::shaped::{self, PAYLOAD, Upstream};
use super::simulated::{Simulated, simulate};
use super::table::{Metric, Table};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    links: shaped::Links,
    /// Size of the layer.
    #[arg(long, default_value = "64MiB")]
    size: ByteSize,
    /// One node has pulled the layer before; all others ask for it at once.
    #[arg(long)]
    canary: bool,
}

/// Goal: the last one, in multiples of the bound.
const GOAL: f64 = 1.3;
/// Time in which the homes of a layer have heard who has it.
const ANNOUNCED: Duration = Duration::from_secs(3);

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let (links, nodes) = (&options.links, options.links.nodes());
    let size = options.size.as_u64();
    let network = links.network()?;
    let folder = setting::folder()?;
    let image = tokio::task::spawn_blocking(move || Image::new(7, &[size as usize])).await?;
    let layer = &image.layers[0];
    say("starting a registry and pushing the layer to it");
    let registry = shaped::start_registry(&network, folder.path(), &image).await?;
    say("one client pulls straight from the registry");
    let alone = shaped::pull_straight(&network, 1, layer)?.as_secs_f64();
    say(&format!("starting {nodes} agents"));
    let started = Instant::now();
    let agents = shaped::start_agents(&network, folder.path(), 1..=nodes, true)?;
    shaped::until_met(&agents, nodes).await;
    say(&format!("all know each other after {:.1} s", started.elapsed().as_secs_f64()));

    let first = if options.canary { 2 } else { 1 };
    if options.canary {
        say("the canary pulls");
        shaped::pull(&network, &[1], layer)?;
        tokio::time::sleep(ANNOUNCED).await;
    }
    let upstream_before = Upstream::so_far(&network, &registry, &image, &agents).await?;
    let (before, cpu) = (registry.blob_gets(&layer.digest), usage::machine_cpu_seconds()?);
    let times = match shaped::pull(&network, &(first..=nodes).collect::<Vec<_>>(), layer) {
        Ok(times) => times,
        Err(error) => {
            let kept = folder.keep();
            return Err(error).with_context(|| format!("the agents' logs are kept in {}", kept.display()));
        }
    };
    let cpu = usage::machine_cpu_seconds()? - cpu;
    let last = times.last().copied().unwrap_or_default().as_secs_f64();
    let median = times[times.len() / 2].as_secs_f64();
    let upstream = Upstream::so_far(&network, &registry, &image, &agents).await?;
    let [left, logged, received] = upstream.copies_since(upstream_before, size);
    let gets = registry.blob_gets(&layer.digest) - before;
    let bound = links.bound(&[size]);
    let late = || format!("clients={{ holders = 1, late = {{ nodes = {}, at = \"3s\" }} }}", nodes - 1);
    let canary = options.canary.then(late);
    let Simulated { max, p50, upstream_ratio, upstream_requests } =
        simulate("layers", &options.links, &[size], canary.as_slice())?;
    let metrics = vec![
        Metric { name: "last_s", unit: "s until the last agent's client is done" },
        Metric { name: "last_bound", unit: "x the bound" },
        Metric { name: "median_bound", unit: "x the bound, half of the clients" },
        Metric { name: "upstream_ratio", unit: "x the layer left the registry, at its link" },
        Metric { name: "logged_ratio", unit: "x, by the registry's log" },
        Metric { name: "received_ratio", unit: "x, as the agents count" },
        Metric { name: "blob_requests", unit: "GETs of the layer" },
    ];
    let figures = [last, last / bound, median / bound, left, logged, received, gets as f64];
    let who = if options.canary { "all but one, which has it already, at once" } else { "all at once" };
    let conditions = format!(
        "{nodes} agents, each in a network namespace with a link of {} bit/s each way, registry (docker-registry) behind {} \
         bit/s, one layer of {size} bytes, {who}; bound {bound:.1} s; {:.0} % of {} cores were busy",
        links.link,
        links.origin,
        100.0 * cpu / (last * setting::cores() as f64),
        setting::cores(),
    );
    let mut table = Table::new("rollout", metrics, figures.map(Some).into(), conditions);
    let figures =
        [Some(max * bound), Some(max), Some(p50), Some(upstream_ratio), None, None, Some(upstream_requests)];
    table.peer("simulated", figures.into());
    let single = [Some(alone), Some(alone / bound), None, Some(1.0), None, None, Some(1.0)];
    table.peer("one client alone, straight", single.into());
    let everybody = size as f64 * nodes as f64 / (links.origin as f64 / 8.0 * PAYLOAD);
    let copies = Some(nodes as f64);
    table.peer(
        "everybody upstream (bound)",
        [Some(everybody), Some(everybody / bound), None, copies, None, None, copies].into(),
    );
    if !options.canary {
        table.peer("goal", vec![None, Some(GOAL), None, Some(1.0), None, None, None]);
    }
    Ok(table)
}
