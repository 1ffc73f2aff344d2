//! A swarm that is of no use: what a pull takes when nobody can be reached, beside the same pull without a swarm.

use std::path::Path;
use std::slice;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use shoal_tests::cluster::{DATA_PORT, PORT};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::netns::Network;

use super::setting::{self, say};
use super::shaped::{self, RunningAgent, Upstream};
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

/// What is wrong with the swarm. All other members have the blob, so that homes name them, unless nobody could hear of it.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Trouble {
    /// There is none.
    NoSwarm,
    /// This agent is its only member, and has looked around for others.
    Alone,
    /// The same, and it is asked as soon as it is ready.
    AloneAtOnce,
    /// Packets to the port for pieces are dropped everywhere, and control messages pass.
    DataDropped,
    /// The same, and this node has pulled something since.
    DataDroppedBefore,
    /// Connections to the port for pieces are refused everywhere, and control messages pass.
    DataRefused,
    /// Packets to and from the port for control messages are dropped everywhere since a moment ago, and pieces would pass.
    ControlDropped,
    /// The same since before the agents were started: nobody has ever heard of anybody, and this one has looked around.
    ControlNever,
    /// Nothing that the homes of the layer send or receive gets through, since a moment ago.
    HomesDropped,
    /// The same of all other members.
    AllDropped,
    /// All others were killed a moment ago.
    Killed,
    /// All others stand still since a moment ago.
    Stopped,
}

impl Trouble {
    /// Whether there are others.
    fn has_others(self) -> bool {
        !matches!(self, Trouble::NoSwarm | Trouble::Alone | Trouble::AloneAtOnce)
    }

    /// Whether they can have heard of each other.
    fn have_met(self) -> bool {
        self.has_others() && self != Trouble::ControlNever
    }
}

const TROUBLES: [(Trouble, &str); 12] = [
    (Trouble::NoSwarm, "no swarm"),
    (Trouble::Alone, "alone in the swarm"),
    (Trouble::AloneAtOnce, "alone, at once"),
    (Trouble::DataDropped, "port for pieces firewalled"),
    (Trouble::DataDroppedBefore, "the same, second pull"),
    (Trouble::DataRefused, "port for pieces refuses"),
    (Trouble::ControlDropped, "port for messages firewalled"),
    (Trouble::ControlNever, "the same from the start"),
    (Trouble::HomesDropped, "homes cut off"),
    (Trouble::AllDropped, "others cut off"),
    (Trouble::Killed, "others killed"),
    (Trouble::Stopped, "others stand still"),
];

/// Goal: the pull, in multiples of the same without a swarm.
const GOAL: f64 = 1.1;
/// Bytes of what is pulled before.
const SMALL: usize = 100_000;
/// How long an agent that has just been started may look for others, and a bit.
const LOOKING_AROUND: Duration = Duration::from_secs(3);

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let nodes = usize::from(options.nodes);
    let size = options.size.as_u64() as usize;
    let network = Network::new(&vec![options.link; nodes + 1])?;
    let folder = setting::folder()?;
    let image = tokio::task::spawn_blocking(move || Image::new(11, &[size, SMALL])).await?;
    let registry = shaped::start_registry(&network, folder.path(), &image).await?;
    let place = Place { nodes, image, registry, network };
    let mut figures: Vec<(&str, Pulled)> = Vec::new();
    let wanted = |trouble| options.only.is_none_or(|only| [only, Trouble::NoSwarm].contains(&trouble));
    for (trouble, name) in TROUBLES.into_iter().filter(|(trouble, _)| wanted(*trouble)) {
        say(name);
        let pulled = place.measure(trouble).await.context(name)?;
        say(&format!("{:.2} s, {:.2} copies left the registry", pulled.seconds, pulled.copies[0]));
        figures.push((name, pulled));
    }
    let without = figures[0].1.seconds;
    let metrics = vec![
        Metric { name: "seconds", unit: "s until the client is done" },
        Metric { name: "ratio", unit: "x without a swarm" },
        Metric { name: "copies", unit: "x the layer left the registry, at its link" },
        Metric { name: "logged", unit: "x, by the registry's log" },
        Metric { name: "received", unit: "x, as the agent counts" },
    ];
    let row = |pulled: &Pulled| {
        let [left, logged, received] = pulled.copies;
        [pulled.seconds, pulled.seconds / without, left, logged, received].map(Some).into()
    };
    let conditions = format!(
        "one of {nodes} agents pulls a layer of {size} bytes that all others have, where they have met, each in a network namespace with a link of \
         {} bit/s, as the registry",
        options.link
    );
    let mut table = Table::new("degraded", metrics, row(&figures[0].1), conditions);
    figures[1..].iter().for_each(|(name, pulled)| table.peer(name, row(pulled)));
    table.peer("goal", vec![None, Some(GOAL), None, None, None]);
    Ok(table)
}

/// What a pull has taken.
struct Pulled {
    seconds: f64,
    /// Copies of the layer: that left the registry, that its log tells of, that the agent has received.
    copies: [f64; 3],
}

/// Where all pulls are.
struct Place {
    nodes: usize,
    image: Image,
    registry: DockerRegistry,
    /// Last, for what runs in it goes before it.
    network: Network,
}

impl Place {
    async fn measure(&self, trouble: Trouble) -> Result<Pulled> {
        let (network, layer) = (&self.network, &self.image.layers[0]);
        let folder = setting::folder()?;
        // The agents count from their start.
        let mut before = self.upstream(&[]).await?;
        let mut agents = self.start(folder.path(), trouble).await?;
        let homes = match trouble {
            Trouble::HomesDropped => shaped::homes(&agents, layer).await?,
            _ => Vec::new(),
        };
        // The registry is node 0, the first agent node 1.
        let asker =
            1 + (0..self.nodes).find(|place| !homes.contains(place)).context("all agents are homes")?;
        let others: Vec<_> = (1..=self.nodes).filter(|node| *node != asker).collect();
        if trouble.have_met() {
            // All others have it.
            self.image.layers.iter().try_for_each(|layer| shaped::pull(network, &others, layer).map(drop))?;
            before = self.upstream(&[]).await?;
        }
        match trouble {
            Trouble::NoSwarm | Trouble::AloneAtOnce => {}
            // It looks around for a moment when it has just been started.
            Trouble::Alone | Trouble::ControlNever => tokio::time::sleep(LOOKING_AROUND).await,
            Trouble::DataDropped | Trouble::DataDroppedBefore => {
                self.each(|node| network.drop_port(node, DATA_PORT))?
            }
            Trouble::DataRefused => self.each(|node| network.refuse_port(node, DATA_PORT))?,
            Trouble::ControlDropped => self.drop_control()?,
            Trouble::HomesDropped => homes.iter().try_for_each(|place| network.unplug(place + 1))?,
            Trouble::AllDropped => others.iter().try_for_each(|node| network.unplug(*node))?,
            Trouble::Killed => drop(agents.drain(1..)),
            Trouble::Stopped => agents[1..].iter().for_each(RunningAgent::stop),
        }
        let asking = slice::from_ref(&agents[asker - 1]);
        if trouble == Trouble::DataDroppedBefore {
            shaped::pull(network, &[asker], &self.image.layers[1])?;
            before = self.upstream(asking).await?;
        }
        let times = shaped::pull(network, &[asker], layer)?;
        let copies = self.upstream(asking).await?.copies_since(before, layer.len());
        match trouble {
            Trouble::NoSwarm | Trouble::Alone | Trouble::AloneAtOnce | Trouble::Killed => {}
            Trouble::Stopped => agents[1..].iter().for_each(RunningAgent::go_on),
            _ => self.each(|node| network.heal(node))?,
        }
        Ok(Pulled { seconds: times[0].as_secs_f64(), copies })
    }

    /// Starts the agents, and waits until they are ready, and know each other if they can.
    async fn start(&self, folder: &Path, trouble: Trouble) -> Result<Vec<RunningAgent>> {
        if trouble == Trouble::ControlNever {
            self.drop_control()?;
        }
        let members = if trouble.has_others() { self.nodes } else { 1 };
        let swarm = trouble != Trouble::NoSwarm;
        let agents = shaped::start_agents(&self.network, folder, 1..=members, swarm)?;
        if trouble.have_met() {
            shaped::until_met(&agents, members).await;
        }
        for agent in &agents {
            shaped::until_answers(agent).await;
        }
        Ok(agents)
    }

    /// What has left the registry so far, and what these agents have received.
    async fn upstream(&self, agents: &[RunningAgent]) -> Result<Upstream> {
        Upstream::so_far(&self.network, &self.registry, &self.image, agents).await
    }

    /// Lets no control message pass, not even on connections that are open.
    fn drop_control(&self) -> Result<()> {
        self.each(|node| {
            self.network.drop_port(node, PORT)?;
            self.network.drop_from_port(node, PORT)
        })
    }

    /// Does something to the node of each agent.
    fn each(&self, to: impl Fn(usize) -> Result<()>) -> Result<()> {
        (1..=self.nodes).try_for_each(to)
    }
}
