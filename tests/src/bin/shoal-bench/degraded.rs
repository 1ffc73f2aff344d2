//! A swarm that is of no use: what a pull takes when nobody can be reached, beside the same pull without a swarm.

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use shoal_agent::admin::client::AdminClient;
use shoal_tests::image::Image;
use shoal_tests::netns::Network;

use super::setting::{self, say};
use super::shaped::{self, RunningAgent};
use super::table::{Metric, Table};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Agents.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(5..=50))]
    nodes: u16,
    /// Size of the layer.
    #[arg(long, default_value = "64MiB")]
    size: ByteSize,
    /// Bits per second of each link, the registry's included.
    #[arg(long, default_value_t = 100_000_000)]
    link: u64,
    /// Only this one, and the pull without a swarm.
    #[arg(long)]
    only: Option<Trouble>,
}

/// What is wrong with the swarm. All other members have the blob, so that homes name them.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Trouble {
    /// There is none.
    NoSwarm,
    /// This agent is its only member.
    Alone,
    /// Packets to the port for pieces are dropped everywhere, and control messages pass.
    DataDropped,
    /// The same, and this node has pulled something since.
    DataDroppedBefore,
    /// Connections to the port for pieces are refused everywhere, and control messages pass.
    DataRefused,
    /// Nothing that the homes of the layer send or receive gets through, since a moment ago.
    HomesDropped,
    /// The same of all other members.
    AllDropped,
    /// All others were killed a moment ago.
    Killed,
    /// All others stand still since a moment ago.
    Stopped,
}

const TROUBLES: [(Trouble, &str); 9] = [
    (Trouble::NoSwarm, "no swarm"),
    (Trouble::Alone, "alone in the swarm"),
    (Trouble::DataDropped, "port for pieces firewalled"),
    (Trouble::DataDroppedBefore, "the same, second pull"),
    (Trouble::DataRefused, "port for pieces refuses"),
    (Trouble::HomesDropped, "homes cut off"),
    (Trouble::AllDropped, "others cut off"),
    (Trouble::Killed, "others killed"),
    (Trouble::Stopped, "others stand still"),
];

/// Bytes of what is pulled before.
const SMALL: usize = 100_000;
/// How long an agent that has just been started may look for others, and a bit.
const LOOKING_AROUND: std::time::Duration = std::time::Duration::from_secs(3);

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let nodes = usize::from(options.nodes);
    let size = options.size.as_u64() as usize;
    let network = Network::new(&vec![options.link; nodes + 1])?;
    let folder = setting::folder()?;
    let image = tokio::task::spawn_blocking(move || Image::new(11, &[size, SMALL])).await?;
    let _registry = shaped::start_registry(&network, folder.path(), &image).await?;
    let mut figures = Vec::new();
    let wanted = |trouble| options.only.is_none_or(|only| [only, Trouble::NoSwarm].contains(&trouble));
    for (trouble, name) in TROUBLES.into_iter().filter(|(trouble, _)| wanted(*trouble)) {
        say(name);
        let (seconds, copies) = measure(&network, &image, trouble, nodes).await.context(name)?;
        say(&format!("{seconds:.2} s, {copies:.2} copies from the registry"));
        figures.push((name, seconds, copies));
    }
    let without = figures[0].1;
    let metrics = vec![
        Metric { name: "seconds", unit: "s until the client is done" },
        Metric { name: "ratio", unit: "x without a swarm" },
        Metric { name: "copies", unit: "x the layer left the registry" },
    ];
    let row =
        |(_, seconds, copies): &(&str, f64, f64)| [*seconds, seconds / without, *copies].map(Some).into();
    let conditions = format!(
        "one of {nodes} agents pulls a layer of {size} bytes that all others have, each in a network namespace with a link of {} \
         bit/s, as the registry",
        options.link
    );
    let mut table = Table::new("degraded", metrics, row(&figures[0]), conditions);
    figures[1..].iter().for_each(|figure| table.peer(figure.0, row(figure)));
    Ok(table)
}

async fn measure(network: &Network, image: &Image, trouble: Trouble, nodes: usize) -> Result<(f64, f64)> {
    let layer = &image.layers[0];
    let folder = setting::folder()?;
    let members = if matches!(trouble, Trouble::NoSwarm | Trouble::Alone) { 1 } else { nodes };
    let swarm = trouble != Trouble::NoSwarm;
    let mut agents = shaped::start_agents(network, folder.path(), 1..=members, swarm)?;
    if !swarm {
        shaped::until_answers(&agents[0]).await;
    } else {
        shaped::until_met(&agents, members).await;
    }
    let homes = match trouble {
        Trouble::HomesDropped => shaped::homes(&agents, layer).await?,
        _ => Vec::new(),
    };
    // The registry is node 0, the first agent node 1.
    let asker = 1 + (0..nodes).find(|place| !homes.contains(place)).context("all agents are homes")?;
    let others: Vec<_> = (1..=nodes).filter(|node| *node != asker).collect();
    if members > 1 {
        // All others have it.
        image.layers.iter().try_for_each(|layer| shaped::pull(network, &others, layer).map(drop))?;
    }
    match trouble {
        Trouble::NoSwarm => {}
        // It looks around for a moment when it has just been started.
        Trouble::Alone => tokio::time::sleep(LOOKING_AROUND).await,
        Trouble::DataDropped | Trouble::DataDroppedBefore => {
            (1..=nodes).try_for_each(|node| network.drop_port(node, 5002))?
        }
        Trouble::DataRefused => (1..=nodes).try_for_each(|node| network.refuse_port(node, 5002))?,
        Trouble::HomesDropped => homes.iter().try_for_each(|place| network.unplug(place + 1))?,
        Trouble::AllDropped => others.iter().try_for_each(|node| network.unplug(*node))?,
        Trouble::Killed => drop(agents.drain(1..)),
        Trouble::Stopped => agents[1..].iter().for_each(RunningAgent::stop),
    }
    if trouble == Trouble::DataDroppedBefore {
        shaped::pull(network, &[asker], &image.layers[1])?;
    }
    let times = shaped::pull(network, &[asker], layer);
    match trouble {
        Trouble::DataDropped | Trouble::DataDroppedBefore | Trouble::DataRefused => {
            (1..=nodes).try_for_each(|node| network.heal(node))?
        }
        Trouble::HomesDropped | Trouble::AllDropped => {
            others.iter().try_for_each(|node| network.heal(*node))?
        }
        Trouble::Stopped => agents[1..].iter().for_each(RunningAgent::go_on),
        _ => {}
    }
    let seconds = times?[0].as_secs_f64();
    let status = AdminClient::new(&agents[asker - 1].socket).status().await?;
    let upstream: u64 = status.upstream_bytes.values().sum();
    let small = if trouble == Trouble::DataDroppedBefore { image.layers[1].len() } else { 0 };
    Ok((seconds, upstream.saturating_sub(small) as f64 / layer.len() as f64))
}
