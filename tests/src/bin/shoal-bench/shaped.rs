//! Agents on shaped links: one network namespace for each, a registry in another, clients beside the agents.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shoal_agent::admin::client::AdminClient;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::http::Client;
use shoal_tests::image::{Blob, Image};
use shoal_tests::netns::{self, Network};
use shoal_tests::process::Process;
use shoal_tests::{place, wait};

use super::setting::{REGISTRY, REPOSITORY, say};

/// The node of the network in which the registry lives.
const REGISTRY_NODE: usize = 0;
/// How long agents may take to find each other.
const MEET_MAX: Duration = Duration::from_secs(60);
/// Where the agent of a node is for its clients.
const AGENT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5000));
/// Bytes that a packet of 1,500 carries, as a part of it: what TCP, IP and Ethernet leave of a link.
pub const PAYLOAD: f64 = 1448.0 / 1514.0;

/// The links of a benchmark in which each agent is behind one of its own.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Links {
    /// Agents.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=400))]
    nodes: u16,
    /// Bits per second of each node's link, each way.
    #[arg(long, default_value_t = 10_000_000)]
    pub link: u64,
    /// Bits per second of the registry's link.
    #[arg(long, default_value_t = 10_000_000)]
    pub origin: u64,
}

impl Links {
    /// Agents.
    pub fn nodes(&self) -> usize {
        usize::from(self.nodes)
    }

    /// A network in which the registry is the first node.
    pub fn network(&self) -> Result<Network> {
        let mut rates = vec![self.origin];
        rates.extend(std::iter::repeat_n(self.link, self.nodes()));
        say(&format!("making {} network namespaces", rates.len() + 1));
        Network::new(&rates)
    }

    /// Seconds that nobody can beat: the blobs over the slower of the two links, once, and the way of a piece down a tree.
    pub fn bound(&self, sizes: &[u64]) -> f64 {
        let slower = self.origin.min(self.link) as f64 / 8.0 * PAYLOAD;
        let size: u64 = sizes.iter().sum();
        let pieces: u64 = sizes.iter().map(|size| shoal_engine::pieces::piece_count(*size)).sum();
        size as f64 / slower * (1.0 + f64::from(self.nodes).log2().floor() / pieces.max(1) as f64)
    }
}

/// A running agent.
pub struct RunningAgent {
    /// Its admin socket.
    pub socket: PathBuf,
    process: Process,
}

impl RunningAgent {
    /// Lets it stand still.
    pub fn stop(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
    }
}

/// Starts the registry, and pushes an image to it.
pub async fn start_registry(network: &Network, folder: &Path, image: &Image) -> Result<DockerRegistry> {
    let registry = DockerRegistry::start_in(network, REGISTRY_NODE, folder)?;
    let (url, image) = (registry.url(), image.clone());
    // From inside its own namespace: the push does not cross the shaped link.
    network.block_on(REGISTRY_NODE, move || async move {
        docker_registry::push_to(&url, None, REPOSITORY, "v1", &image).await;
    })?;
    Ok(registry)
}

/// Starts an agent in each of these nodes. The folder has the configuration of each; `swarm` tells whether they are members
/// of one.
pub fn start_agents(
    network: &Network,
    folder: &Path,
    nodes: impl IntoIterator<Item = usize>,
    swarm: bool,
) -> Result<Vec<RunningAgent>> {
    let secret = folder.join("secret");
    std::fs::write(&secret, "the secret of a benchmark").context("cannot write the secret")?;
    let join: Vec<String> = (1..=3).map(|node| format!("'{}'", netns::address(node))).collect();
    let mut agents = Vec::new();
    for node in nodes {
        let own = folder.join(format!("node-{node}"));
        std::fs::create_dir_all(&own)?;
        let address = netns::address(node);
        let mut config = format!(
            "[[registry.listeners]]\naddress = '127.0.0.1:5000'\n[store]\npath = '{}'\n[admin]\nsocket = '{}'\n\
             [observe]\naddress = '127.0.0.1:5080'\n[upstream.registries.'{REGISTRY}']\nendpoint = 'http://{}:5000'\n",
            own.join("data").display(),
            own.join("sock").display(),
            netns::address(REGISTRY_NODE),
        );
        if swarm {
            config += &format!(
                "[swarm]\nsecret_file = '{}'\nlisten = ['{address}']\njoin = [{}]\n",
                secret.display(),
                join.join(", ")
            );
        }
        let path = own.join("shoal.toml");
        std::fs::write(&path, config)?;
        let mut command = network.command(node, &place::shoal_bin());
        command.arg("agent").arg("--config").arg(&path);
        let process = Process::spawn("shoal agent", &mut command, &own.join("log"))?;
        agents.push(RunningAgent { socket: own.join("sock"), process });
    }
    Ok(agents)
}

/// Bytes on their way from the registry to agents, by three who count them. Where a transfer is cut short they differ.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// What left the registry by its link: what was lost and sent again is among it.
    left: u64,
    /// What the registry has handed to connections, by its log: what never left when one broke is among it.
    logged: u64,
    /// What agents say that they have received: what was on its way when they broke a connection is not among it.
    received: u64,
}

impl Upstream {
    /// So far, of an image and of these agents. Waits until the registry has written down what it has answered.
    pub async fn so_far(
        network: &Network,
        registry: &DockerRegistry,
        image: &Image,
        agents: &[RunningAgent],
    ) -> Result<Self> {
        registry.until_calm().await;
        let (left, logged) = (network.sent_bytes(REGISTRY_NODE)?, registry.image_bytes(image));
        Ok(Upstream { left, logged, received: received_bytes(agents).await? })
    }

    /// What has come since then, in multiples of a size: left the registry, handed to connections, received.
    pub fn copies_since(self, before: Self, size: u64) -> [f64; 3] {
        let pairs =
            [(self.left, before.left), (self.logged, before.logged), (self.received, before.received)];
        pairs.map(|(now, then)| now.saturating_sub(then) as f64 / size as f64)
    }
}

/// Bytes that all of them have received from the registry.
async fn received_bytes(agents: &[RunningAgent]) -> Result<u64> {
    let mut sum = 0;
    for agent in agents {
        let status = AdminClient::new(&agent.socket).status().await?;
        sum += status.upstream_bytes.values().sum::<u64>();
    }
    Ok(sum)
}

/// Waits until an agent answers its admin socket.
pub async fn until_answers(agent: &RunningAgent) {
    let client = AdminClient::new(&agent.socket);
    wait::until("the agent to answer", wait::START_MAX, || async { client.status().await.is_ok() }).await;
}

/// Waits until all know each other.
pub async fn until_met(agents: &[RunningAgent], members: usize) {
    for agent in agents {
        let client = AdminClient::new(&agent.socket);
        wait::until(format!("{members} members to be known"), MEET_MAX, || async {
            client.peers().await.is_ok_and(|peers| peers.members.len() == members)
        })
        .await;
    }
}

/// The agents that are homes of a layer, by their places in the list.
pub async fn homes(agents: &[RunningAgent], layer: &Blob) -> Result<Vec<usize>> {
    let agents: Vec<_> = agents.iter().map(|agent| AdminClient::new(&agent.socket)).collect();
    shoal_tests::homes::homes(&agents, layer).await
}

/// Lets a client beside each of these agents pull a layer, all at once; how long each took, ascending.
pub fn pull(network: &Network, nodes: &[usize], layer: &Blob) -> Result<Vec<Duration>> {
    say(&format!("{} client(s) pull at once", nodes.len()));
    let barrier = Arc::new(Barrier::new(nodes.len()));
    let clients: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (barrier, layer) = (Arc::clone(&barrier), layer.clone());
            network.inside(*node, move || {
                let runtime = inside_runtime()?;
                barrier.wait();
                let begun = Instant::now();
                runtime.block_on(get(AGENT, &layer)).map(|()| begun.elapsed())
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.push(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))???);
    }
    times.sort();
    Ok(times)
}

/// Lets a client beside an agent pull all blobs of an image at once, as a runtime does; how long it took.
pub fn pull_image(network: &Network, node: usize, image: &Image) -> Result<Duration> {
    let image = image.clone();
    timed(network, node, move || async move {
        futures_util::future::try_join_all(image.blobs().map(|blob| get(AGENT, blob))).await.map(drop)
    })
}

/// Lets a client in this node pull a layer straight from the registry; how long it took.
pub fn pull_straight(network: &Network, node: usize, layer: &Blob) -> Result<Duration> {
    let (registry, layer) = (SocketAddr::from((netns::address(REGISTRY_NODE), 5000)), layer.clone());
    timed(network, node, move || async move { get(registry, &layer).await })
}

/// How long a client in this node takes for something.
fn timed<F: Future<Output = Result<()>>>(
    network: &Network,
    node: usize,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<Duration> {
    let client = network.inside(node, move || {
        let (runtime, begun) = (inside_runtime()?, Instant::now());
        runtime.block_on(work()).map(|()| begun.elapsed())
    });
    client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??
}

/// Gets the layer from the agent beside it, or from the registry, and compares every byte.
async fn get(server: SocketAddr, layer: &Blob) -> Result<()> {
    let url = format!("http://{server}/v2/{REPOSITORY}/blobs/{}?ns={REGISTRY}", layer.digest);
    let mut response = Client::patient().open(&url).await;
    ensure!(response.status() == 200, "{server} answered {}", response.status());
    let mut at = 0;
    while let Some(chunk) = response.chunk().await? {
        ensure!(layer.bytes.get(at..at + chunk.len()) == Some(&chunk[..]), "wrong bytes behind {at}");
        at += chunk.len();
    }
    ensure!(at == layer.bytes.len(), "the body ended at {at} of {} bytes", layer.bytes.len());
    Ok(())
}

/// For a thread inside a namespace: it must do everything itself.
fn inside_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("there is no runtime")
}
