//! A rollout on shaped links: an agent in a network namespace of its own for each node, one registry, one cold layer, all at
//! once. Beside it stands what the simulator says of the same setting.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytesize::ByteSize;
use shoal_agent::admin::client::AdminClient;
use shoal_agent::demo::image::{Content, noise};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::netns::{self, Network};
use shoal_tests::place;
use shoal_tests::process::Process;
use shoal_tests::wait;

use super::setting::{self, REGISTRY, REPOSITORY, say};
use super::table::{Metric, Table};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Agents.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=400))]
    nodes: u16,
    /// Size of the layer.
    #[arg(long, default_value = "64MiB")]
    size: ByteSize,
    /// Bits per second of each node's link, each way.
    #[arg(long, default_value_t = 20_000_000)]
    link: u64,
    /// Bits per second of the registry's link.
    #[arg(long, default_value_t = 20_000_000)]
    origin: u64,
}

/// How long agents may take to find each other.
const MEET_MAX: Duration = Duration::from_secs(60);
/// Bytes that a packet of 1,500 carries, as a part of it: what TCP, IP and Ethernet leave of a link.
const PAYLOAD: f64 = 1448.0 / 1514.0;

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let nodes = usize::from(options.nodes);
    let size = options.size.as_u64();
    // The registry is the first node of the network.
    let mut rates = vec![options.origin];
    rates.extend(std::iter::repeat_n(options.link, nodes));
    say(&format!("making {} network namespaces", rates.len() + 1));
    let network = Network::new(&rates)?;
    let folder = setting::folder()?;
    let layer = tokio::task::spawn_blocking(move || {
        Content::new("application/vnd.oci.image.layer.v1.tar", noise(7, size))
    })
    .await?;
    say("starting a registry and pushing the layer to it");
    let registry = start_registry(&network, folder.path(), &layer).await?;
    say(&format!("starting {nodes} agents"));
    let started = Instant::now();
    let agents = start_agents(&network, folder.path(), nodes)?;
    until_met(&agents, nodes).await;
    say(&format!("all know each other after {:.1} s", started.elapsed().as_secs_f64()));

    let (before, cpu) = (registry.blob_gets(&layer.digest), cpu_seconds()?);
    let times = match pull(&network, nodes, &layer) {
        Ok(times) => times,
        Err(error) => {
            let kept = folder.keep();
            return Err(error).with_context(|| format!("the agents' logs are kept in {}", kept.display()));
        }
    };
    let cpu = cpu_seconds()? - cpu;
    let last = times.last().copied().unwrap_or_default().as_secs_f64();
    let median = times[times.len() / 2].as_secs_f64();
    let gets = registry.blob_gets(&layer.digest) - before;
    let mut upstream = 0;
    for agent in &agents {
        let status = AdminClient::new(&agent.socket).status().await?;
        upstream += status.upstream_bytes.values().sum::<u64>();
    }
    let bound = bound(options, size, nodes);
    let simulated = simulate(options, size, nodes)?;
    let metrics = vec![
        Metric { name: "last_s", unit: "s until the last agent's client is done" },
        Metric { name: "last_bound", unit: "x the bound" },
        Metric { name: "median_bound", unit: "x the bound, half of the clients" },
        Metric { name: "upstream_ratio", unit: "x the layer left the registry" },
        Metric { name: "blob_requests", unit: "GETs of the layer" },
    ];
    let figures = [last, last / bound, median / bound, upstream as f64 / size as f64, gets as f64];
    let conditions = format!(
        "{nodes} agents, each in a network namespace with a link of {} bit/s each way, registry (docker-registry) behind {} \
         bit/s, one layer of {size} bytes, all at once; bound {bound:.1} s; {:.0} % of {} cores were busy",
        options.link,
        options.origin,
        100.0 * cpu / (last * setting::cores() as f64),
        setting::cores(),
    );
    let mut table = Table::new("rollout", metrics, figures.map(Some).into(), conditions);
    let [max, p50, ratio, requests] = simulated;
    table.peer("simulated", [max * bound, max, p50, ratio, requests].map(Some).into());
    let everybody = size as f64 * nodes as f64 / (options.origin as f64 / 8.0 * PAYLOAD);
    table.peer(
        "everybody upstream (bound)",
        [Some(everybody), Some(everybody / bound), None, Some(nodes as f64), Some(nodes as f64)].into(),
    );
    Ok(table)
}

/// Seconds that nobody can beat: the layer over the slower of the two links, once, and the way down a tree.
fn bound(options: &Options, size: u64, nodes: usize) -> f64 {
    let slower = options.origin.min(options.link) as f64 / 8.0 * PAYLOAD;
    let pieces = shoal_engine::pieces::piece_count(size).max(1) as f64;
    size as f64 / slower * (1.0 + (nodes as f64).log2().floor() / pieces)
}

struct RunningAgent {
    socket: PathBuf,
    _process: Process,
}

async fn start_registry(network: &Network, folder: &Path, layer: &Content) -> Result<DockerRegistry> {
    let at = SocketAddr::from((netns::address(0), 5000));
    let program = place::program("docker-registry", "docker-registry");
    let registry = DockerRegistry::start_by(network.command(0, &program), folder, at)?;
    // From inside its own namespace: the push does not cross the shaped link.
    let (bytes, digest) = (layer.bytes.clone(), layer.digest.clone());
    let pushed = network.inside(0, move || push(at, &bytes, &digest)).join();
    pushed.map_err(|_| anyhow::anyhow!("the push panicked"))???;
    Ok(registry)
}

/// Pushes a blob by plain HTTP/1.1.
fn push(at: SocketAddr, bytes: &[u8], digest: &str) -> Result<()> {
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(at) {
            Ok(stream) => break stream,
            Err(_) if begun.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            Err(error) => return Err(error).context("the registry does not listen"),
        }
    };
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
    write!(stream, "POST {path} HTTP/1.1\r\nhost: registry\r\ncontent-length: 0\r\n\r\n")?;
    let head = read_head(&mut stream)?.0;
    let location =
        head.lines().find_map(|line| line.strip_prefix("Location: ")).context("no upload location")?;
    let path = location.split_once("//").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let path = path.unwrap_or(location).trim();
    let joint = if path.contains('?') { '&' } else { '?' };
    write!(
        stream,
        "PUT {path}{joint}digest={digest} HTTP/1.1\r\nhost: registry\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(bytes)?;
    let head = read_head(&mut stream)?.0;
    ensure!(head.starts_with("HTTP/1.1 201"), "the registry did not take the layer: {head}");
    Ok(())
}

/// The head of an answer, and what came of its body with it.
fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), body));
        }
        match stream.read(&mut buffer)? {
            0 => bail!("the connection ended before the head of the answer"),
            n => read.extend_from_slice(&buffer[..n]),
        }
    }
}

fn start_agents(network: &Network, folder: &Path, nodes: usize) -> Result<Vec<RunningAgent>> {
    let secret = folder.join("secret");
    std::fs::write(&secret, "the secret of a benchmark").context("cannot write the secret")?;
    let join: Vec<String> = (1..=3).map(|node| format!("'{}'", netns::address(node))).collect();
    let mut agents = Vec::new();
    for node in 1..=nodes {
        let own = folder.join(format!("node-{node}"));
        std::fs::create_dir(&own)?;
        let address = netns::address(node);
        let config = format!(
            "[[registry.listeners]]\naddress = '127.0.0.1:5000'\n[store]\npath = '{}'\n[admin]\nsocket = '{}'\n\
             [observe]\naddress = '127.0.0.1:5080'\n[upstream.registries.'{REGISTRY}']\nendpoint = 'http://{}:5000'\n\
             [swarm]\nsecret_file = '{}'\nlisten = ['{address}']\njoin = [{}]\n",
            own.join("data").display(),
            own.join("sock").display(),
            netns::address(0),
            secret.display(),
            join.join(", "),
        );
        let path = own.join("shoal.toml");
        std::fs::write(&path, config)?;
        let mut command = network.command(node, &place::shoal_bin());
        command.arg("agent").arg("--config").arg(&path);
        let process = Process::spawn("shoal agent", &mut command, &own.join("log"))?;
        agents.push(RunningAgent { socket: own.join("sock"), _process: process });
    }
    Ok(agents)
}

async fn until_met(agents: &[RunningAgent], nodes: usize) {
    for agent in agents {
        let client = AdminClient::new(&agent.socket);
        wait::until(format!("{nodes} members to be known"), MEET_MAX, || async {
            client.peers().await.is_ok_and(|peers| peers.members.len() == nodes)
        })
        .await;
    }
}
/// Lets a client beside each agent pull the layer, all at once; how long each took, ascending.
fn pull(network: &Network, nodes: usize, layer: &Content) -> Result<Vec<Duration>> {
    say(&format!("{nodes} clients pull at once"));
    let barrier = Arc::new(Barrier::new(nodes + 1));
    let clients: Vec<_> = (1..=nodes)
        .map(|node| {
            let (barrier, layer) = (Arc::clone(&barrier), layer.clone());
            network.inside(node, move || {
                barrier.wait();
                let begun = Instant::now();
                get(&layer).map(|()| begun.elapsed())
            })
        })
        .collect();
    barrier.wait();
    let mut times = Vec::new();
    for client in clients {
        times.push(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))???);
    }
    times.sort();
    Ok(times)
}

/// Gets the layer from the agent beside it and compares every byte.
fn get(layer: &Content) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 5000)).context("the agent does not listen")?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let path = format!("/v2/{REPOSITORY}/blobs/{}?ns={REGISTRY}", layer.digest);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\n\r\n")?;
    let (head, mut got) = read_head(&mut stream)?;
    let is_right = head.starts_with("HTTP/1.1 200");
    ensure!(is_right, "the agent answered {head}{}", String::from_utf8_lossy(&got));
    let mut at = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        ensure!(layer.bytes.get(at..at + got.len()) == Some(&got[..]), "wrong bytes behind {at}");
        at += got.len();
        if at == layer.bytes.len() {
            return Ok(());
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the agent closed the connection at {at}");
        got.clear();
        got.extend_from_slice(&buffer[..read]);
    }
}

/// Times of last and median client as multiples of the bound, copies and requests, as the simulator has them.
fn simulate(options: &Options, size: u64, nodes: usize) -> Result<[f64; 4]> {
    say("asking the simulator about the same setting");
    let program = place::shoal_bin().with_file_name("shoal-sim");
    // What a link carries of a blob's bytes is less than its bits.
    let rate = |bits: u64| format!("{}B/s", (bits as f64 / 8.0 * PAYLOAD) as u64);
    let set = [
        format!("link.up={}", rate(options.link)),
        format!("link.down={}", rate(options.link)),
        format!("origin.bandwidth={}", rate(options.origin)),
        format!("image={size}"),
    ];
    let mut command = Command::new(&program);
    command.args(["layers", "--json", "--nodes", &nodes.to_string()]);
    set.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "the simulator failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value =
        serde_json::from_str(text.trim()).context("the simulator's answer is no JSON")?;
    let json = if json.is_array() { json[0].clone() } else { json };
    let figure = |key: &str| json[key].as_f64().with_context(|| format!("the simulator does not tell {key}"));
    // In multiples of our own bound, whatever the simulator's has in it.
    let scale = figure("bound_s")? / bound(options, size, nodes);
    Ok([
        figure("max")? * scale,
        figure("p50")? * scale,
        figure("upstream_ratio")?,
        figure("upstream_requests")?,
    ])
}

/// CPU seconds that all processes of this machine have used.
fn cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; then idle and iowait, which are none; then interrupts.
    Ok((ticks.iter().take(3).sum::<f64>() + ticks.iter().skip(5).take(2).sum::<f64>()) / 100.0)
}
