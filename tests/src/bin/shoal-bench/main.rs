//! The benchmarks behind `docs/BENCHMARKS.md`. Each runs ours and what it is compared with in one go on one machine,
//! alternating where it can, and prints figures of that run only.
//!
//! Run them with `cargo xtask bench NAME`, which installs what they compare with and sets `SHOAL_BIN`.

mod degraded;
mod direct;
mod footprint;
mod hit;
mod idle;
mod late;
mod peer;
mod prewarm;
mod rollout;
mod setting;
mod shaped;
mod simulated;
mod singleflight;
mod sink;
mod small;
mod table;
mod verify;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Parser;

use self::table::Table;

/// Compares the agent with its peers on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is measured. Sizes and rates are the ones of `docs/BENCHMARKS.md` unless an option says otherwise.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Many clients, one cold blob: seconds and upstream GETs.
    Singleflight(singleflight::Options),
    /// A cold pull by containerd through the agent and straight from the registry.
    Direct(direct::Options),
    /// A stored blob to local clients: throughput and CPU.
    Hit(hit::Options),
    /// A blob from one agent to another: throughput and CPU of both.
    Peer(peer::Options),
    /// Many agents on shaped links, one cold layer: seconds, upstream copies, and what the simulator says.
    Rollout(rollout::Options),
    /// An image of many layers onto many agents on shaped links before anybody asks, then a pull of it: seconds, upstream copies.
    Prewarm(prewarm::Options),
    /// A swarm of many agents: meeting, idle cost, and one small image for all.
    Idle(idle::Options),
    /// A member that asks for what others are just receiving: its first byte, and its sources.
    Late(late::Options),
    /// Small images from another member: their manifests and blobs, a round trip each.
    Small(small::Options),
    /// A swarm that is of no use: a pull beside the same without a swarm.
    Degraded(degraded::Options),
    /// Memory, time to start, latency of a small answer.
    Footprint(footprint::Options),
    /// How fast the digest of what arrives is computed.
    Verify(verify::Options),
}

/// Options that every benchmark has.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    /// Size of the blob.
    #[arg(long, default_value = "1GB")]
    size: ByteSize,
    /// How often everything is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let (table, json) = match Args::parse().what {
        What::Singleflight(options) => (singleflight::run(&options).await?, options.common.json),
        What::Direct(options) => (direct::run(&options).await?, options.json),
        What::Hit(options) => (hit::run(&options).await?, options.common.json),
        What::Peer(options) => (peer::run(&options).await?, options.common.json),
        What::Rollout(options) => (rollout::run(&options).await?, options.json),
        What::Prewarm(options) => (prewarm::run(&options).await?, options.json),
        What::Idle(options) => (idle::run(&options).await?, options.json),
        What::Late(options) => (late::run(&options).await?, options.json),
        What::Small(options) => (small::run(&options).await?, options.json),
        What::Degraded(options) => (degraded::run(&options).await?, options.json),
        What::Footprint(options) => (footprint::run(&options).await?, options.common.json),
        What::Verify(options) => (verify::run(&options).await?, options.common.json),
    };
    finish(&table, json);
    Ok(())
}

fn finish(table: &Table, json: bool) {
    eprintln!("\n{}", table.text());
    if json {
        println!("{}", table.json());
    }
}
