//! A cold pull by a real containerd, through the agent and straight from the registry, in turns.
//!
//! Everything is cold each time: the agent has a new data directory, containerd has forgotten the image, its content and
//! its snapshots. The agent computes every digest once more than a straight pull does; the question is whether anybody
//! waits for that.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use shoal_agent::demo::image::SyntheticImage;
use shoal_agent::demo::proxy::Throttle;
use shoal_agent::demo::registry::RegistryProcess;
use shoal_tests::containerd::{self, Containerd};

use super::setting::{self, say};
use super::table::{Figures, Metric, Table, median};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Size of the image, in three layers.
    #[arg(long, default_value = "130MB")]
    size: ByteSize,
    /// Pulls each way; the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes per second of the registry's link in the first half.
    #[arg(long, default_value = "125MB")]
    link: ByteSize,
}

/// Faster than anything here: the proxy stays in the way, the link does not.
const UNLIMITED: u64 = 100_000_000_000;
const IMAGE: &str = "bench/image:v1";

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    ensure!(shoal_tests::place::is_root(), "containerd has to be run as root");
    let size = options.size.as_u64();
    let image = tokio::task::spawn_blocking(move || SyntheticImage::new(8, size)).await?;
    let folder = setting::folder()?;
    let registry = RegistryProcess::start(folder.path()).await?;
    registry.push("bench/image", "v1", &image).await?;
    let version = containerd::at_hand()[0];
    let runtime = Containerd::start(version, None).await;

    let (mut ours, mut straight) = (Figures::new(), Figures::new());
    for link in [options.link.as_u64(), UNLIMITED] {
        let throttle = Throttle::start(registry.address(), link).await?;
        let (mut through, mut past) = (Vec::new(), Vec::new());
        // Once for nothing: programs and files are in memory from then on.
        pull_through(&runtime, folder.path(), &throttle.url()).await?;
        runtime.direct(&throttle.url());
        pull(&runtime).await;
        for round in 0..options.rounds {
            // Who begins changes as well: whoever comes second finds warmer caches.
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    through.push(pull_through(&runtime, folder.path(), &throttle.url()).await?);
                } else {
                    runtime.direct(&throttle.url());
                    past.push(pull(&runtime).await);
                }
            }
            let shown = (through.last().context("pulled")?, past.last().context("pulled")?);
            say(&format!("through the agent {:.2} s, straight {:.2} s", shown.0, shown.1));
        }
        ours.push(Some(median(through)));
        straight.push(Some(median(past)));
    }
    registry.end().await?;

    let metrics = vec![
        Metric { name: "seconds_link", unit: "s, registry behind the link" },
        Metric { name: "seconds_loopback", unit: "s, no limit" },
    ];
    let conditions = format!(
        "containerd {} (`ctr images pull`, fetched and unpacked, all cold), image of {} bytes in three layers, link of {} \
         bytes/s, loopback, {} cores; median of {} alternating pulls each",
        version.line(),
        image.size(),
        options.link.as_u64(),
        setting::cores(),
        options.rounds,
    );
    let mut table = Table::new("direct", metrics, ours, conditions);
    table.peer("straight", straight);
    Ok(table)
}

/// Seconds for a pull through an agent that has just been started and has nothing.
async fn pull_through(runtime: &Containerd, folder: &std::path::Path, registry: &str) -> Result<f64> {
    let folder = folder.join("agent");
    fs::create_dir(&folder)?;
    let agent = setting::agent(&folder, registry).await?;
    // No origin behind the mirror: a pull that works has gone through the agent.
    runtime.mirror(&agent.url(), "http://127.0.0.1:9");
    let seconds = pull(runtime).await;
    agent.end().await?;
    fs::remove_dir_all(&folder)?;
    Ok(seconds)
}

async fn pull(runtime: &Containerd) -> f64 {
    // What the last pull has left to be written would otherwise be written during this one.
    rustix::fs::sync();
    let pulled = runtime.pull(IMAGE).await.expect_ok("ctr images pull");
    runtime.forget(IMAGE).await;
    pulled.took.as_secs_f64()
}
