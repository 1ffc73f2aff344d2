//! `shoal demo`: what the agent is for, in ten seconds on one machine.
//!
//! A real registry, an agent for each node, and clients that pull as container runtimes do, all at once: each through
//! its own agent while no agent has anything, once more, and straight from the registry for comparison. What it reports
//! is what the registry's own access log and the agents' metrics say. Every child process and file is gone when it ends,
//! however it ends.

pub mod agent;
pub mod child;
pub mod client;
pub mod image;
pub mod proxy;
pub mod registry;
pub mod report;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use self::agent::{AgentProcess, AgentSetup, Counted, SwarmSetup};
use self::client::{Check, LightClient};
use self::image::SyntheticImage;
use self::proxy::Throttle;
use self::registry::RegistryProcess;
use self::report::{Report, Round, megabytes};

const REPOSITORY: &str = "demo/app";
const TAG: &str = "v1";
/// The registry's name as the clients say it to the agent.
const REGISTRY: &str = "registry.demo";

/// Longest time for one round, beyond what its bytes take on the link.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// Agents whose addresses every agent is told; the others it learns from them.
const JOIN_MAX: usize = 3;
/// Longest time until all agents know each other.
const MEET_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Smallest image: three layers and what names them.
const SIZE_MIN: ByteSize = ByteSize(1_000);
/// Largest image: it is held in memory, once.
const SIZE_MAX: ByteSize = ByteSize(8_000_000_000);
/// Slowest link: with less the demo takes minutes.
const LINK_MIN: ByteSize = ByteSize(1_000_000);

/// Columns of what the demo says.
const WIDTH: usize = 80;

/// What a shell expects of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// Options of `shoal demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes of the cluster: each has an agent and a client, and all pull at once.
    #[arg(long, visible_alias = "clients", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub nodes: u16,
    /// Size of the image, e.g. 256MB. Held in memory once, and on disk once for each node.
    #[arg(long, default_value = "128MB", value_parser = size)]
    pub size: ByteSize,
    /// Bytes per second that the registry can send to all together.
    #[arg(long, default_value = "100MB", value_parser = link)]
    pub link: ByteSize,
    /// Print one JSON object at the end instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A size of an image that the demo can make.
fn size(text: &str) -> Result<ByteSize, String> {
    let size = bytes(text)?;
    match (SIZE_MIN..=SIZE_MAX).contains(&size) {
        true => Ok(size),
        false => Err(format!("must be from {} to {}", SIZE_MIN.display().si(), SIZE_MAX.display().si())),
    }
}

/// What a link can carry in a second.
fn link(text: &str) -> Result<ByteSize, String> {
    let link = bytes(text)?;
    if link < LINK_MIN { Err(format!("must be at least {}", LINK_MIN.display().si())) } else { Ok(link) }
}

fn bytes(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "write it as 256MB, 1.5GB or 64MiB".into())
}

/// Runs the demo. The exit code tells whether every byte was right and the registry sent nothing twice. How far it is goes to
/// standard error, and what has come of it to standard output: as a table, or as JSON, and then the table is beside it.
pub async fn run(args: Args) -> Result<ExitCode> {
    let (size, link) = (args.size.as_u64(), args.link.as_u64());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping the demo in the middle ends its children and removes its files.
    let report = tokio::select! {
        report = Box::pin(show(&args, size, link)) => report?,
        _ = interrupt.recv() => return Ok(interrupted()),
        _ = terminate.recv() => return Ok(interrupted()),
    };
    eprintln!();
    if args.json {
        eprintln!("{}", told(&report));
        print(&report.json()?)?;
    } else {
        print(&told(&report))?;
    }
    Ok(if report.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// To standard output; a reader that goes away is no error.
fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn interrupted() -> ExitCode {
    eprintln!("interrupted: what the demo had started has ended, and its files are gone");
    ExitCode::from(INTERRUPTED)
}

/// The tables, and what they come to.
fn told(report: &Report) -> String {
    let verdict = report.verdict();
    // Whether every byte was right stands by itself.
    let (figures, bytes) = verdict.rsplit_once(". ").unwrap_or(("", &verdict));
    let figures = wrapped(&format!("{figures}."), WIDTH);
    let conditions = wrapped(&format!("({})", report.conditions()), WIDTH);
    format!("{}\n{}\n{figures}\n{bytes}\n{conditions}", report.table(), report.who_sent_what())
}

/// Lines of so many columns.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push('\n');
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

async fn show(args: &Args, size: u64, link: u64) -> Result<Report> {
    let folder =
        tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no folder for the demo")?;
    let step = |text: &str| eprintln!("- {text}");

    step(&format!("making an image of {} in three layers", megabytes(size)));
    let image = tokio::task::spawn_blocking(move || SyntheticImage::new(1, size)).await?;
    step("starting a registry (docker-registry) and pushing the image to it");
    let registry = RegistryProcess::start(folder.path()).await?;
    registry.push(REPOSITORY, TAG, &image).await?;
    let throttle = Throttle::start(registry.address(), link).await?;
    let nodes = args.nodes;
    step(&format!("starting {nodes} agents (shoal agent), which find each other"));
    let agents = start_agents(folder.path(), nodes, &throttle.url()).await?;

    let stage = Stage { image: &image, registry: &registry, throttle: &throttle, nodes, link };
    let mut rounds = Vec::new();
    for what in ["pull, each through its agent, which has nothing", "pull once more"] {
        let before = counted(&agents).await?;
        let clients = agents.iter().map(|agent| LightClient::new(&agent.url(), Some(REGISTRY)));
        let clients = clients.collect::<Result<_>>()?;
        let mut round = stage.round(&format!("{nodes} clients {what}"), clients, rounds.is_empty()).await?;
        let after = counted(&agents).await?;
        round.agents = before.iter().zip(after).map(|(before, after)| difference(before, after)).collect();
        rounds.push(round);
    }
    let clients = (0..nodes).map(|_| LightClient::new(&throttle.url(), None)).collect::<Result<_>>()?;
    let direct =
        stage.round(&format!("{nodes} clients pull straight from the registry"), clients, true).await?;

    try_join_all(agents.into_iter().map(AgentProcess::end)).await?;
    registry.end().await?;
    let [cold, warm] = <[Round; 2]>::try_from(rounds).expect("two rounds were run");
    Ok(Report { nodes, image_bytes: image.size(), link, cold, warm, direct })
}

/// An agent for each node, each with a folder of its own. Returns when every one knows all others.
async fn start_agents(folder: &Path, nodes: u16, endpoint: &str) -> Result<Vec<AgentProcess>> {
    let secret_file = folder.join("secret");
    let secret: String = (0..32).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    std::fs::write(&secret_file, secret).context("cannot write the cluster's secret")?;
    let program = std::env::current_exe().context("this program has no path")?;
    let addresses = (0..nodes).map(|_| agent::free_address()).collect::<Result<Vec<_>>>()?;
    let join: Vec<_> = addresses.iter().copied().take(JOIN_MAX).collect();
    let mut agents = Vec::new();
    for (node, address) in addresses.into_iter().enumerate() {
        let folder = folder.join(format!("node-{node}"));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let swarm = Some(SwarmSetup { secret_file: &secret_file, address, join: &join });
        let setup =
            AgentSetup { program: program.clone(), folder: &folder, registry: REGISTRY, endpoint, swarm };
        agents.push(AgentProcess::start(setup).await?);
    }
    let all_met = async {
        for agent in &agents {
            while agent.counted().await?.members < u64::from(nodes) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(MEET_MAX, all_met)
        .await
        .with_context(|| format!("the agents have not all met after {MEET_MAX:?}"))??;
    Ok(agents)
}

async fn counted(agents: &[AgentProcess]) -> Result<Vec<Counted>> {
    try_join_all(agents.iter().map(AgentProcess::counted)).await
}

/// What every round has in common.
struct Stage<'a> {
    image: &'a SyntheticImage,
    registry: &'a RegistryProcess,
    /// The way to it, which counts what passes: the registry's log also has what it gave to the kernel for a client that left.
    throttle: &'a Throttle,
    nodes: u16,
    link: u64,
}

impl Stage<'_> {
    /// Lets all clients pull at once. `uses_registry`: the image has to come from the registry at least once.
    async fn round(&self, what: &str, clients: Vec<LightClient>, uses_registry: bool) -> Result<Round> {
        let all = self.image.size() * u64::from(self.nodes);
        let deadline = ROUND_MAX + Duration::from_secs_f64(all as f64 / self.link as f64);
        let (before, passed) = (self.registry.asked(), self.throttle.received());
        let received = AtomicU64::new(0);
        let start = Instant::now();
        let pulls = try_join_all(
            clients.iter().map(|client| client.pull(REPOSITORY, TAG, Check::Against(self.image), &received)),
        );
        let pulled = tokio::select! {
            pulled = tokio::time::timeout(deadline, pulls) => pulled,
            () = follow(what, all, &received) => unreachable!("progress is shown until the pulls have ended"),
        };
        let took = start.elapsed();
        let sizes = pulled.with_context(|| format!("{what}: not done after {deadline:?}"))??;
        eprintln!("- {what}: {:.2} s", took.as_secs_f64());
        let least = if uses_registry { self.image.size() } else { 0 };
        let mut asked = self.registry.asked_since(before, least).await?;
        asked.bytes = self.throttle.received() - passed;
        Ok(Round { took, asked, received: sizes.iter().sum(), agents: Vec::new() })
    }
}

/// Shows how far the pulls are, until it is dropped. Where there is no terminal, the round's closing line is enough.
async fn follow(what: &str, all: u64, received: &AtomicU64) {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
    // In powers of ten, as everything else that the demo says.
    let style = ProgressStyle::with_template(
        "  {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
    );
    bar.set_style(style.expect("the template is right"));
    let bar = Cleared(bar);
    bar.0.println(format!("- {what} ..."));
    loop {
        bar.0.set_position(received.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A progress bar that leaves nothing behind.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What an agent has counted between two looks.
fn difference(before: &Counted, after: Counted) -> Counted {
    let old = |source: &str| before.served.iter().find(|(name, _)| name == source).map_or(0, |(_, n)| *n);
    let added = after.served.into_iter().map(|(source, bytes)| {
        let added = bytes.saturating_sub(old(&source));
        (source, added)
    });
    Counted {
        served: added.filter(|(_, bytes)| *bytes > 0).collect(),
        upstream: after.upstream.saturating_sub(before.upstream),
        from_peers: after.from_peers.saturating_sub(before.from_peers),
        to_peers: after.to_peers.saturating_sub(before.to_peers),
        members: after.members,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_links() {
        assert_eq!(size("128MB"), Ok(ByteSize(128_000_000)));
        assert_eq!(size("banana"), Err("write it as 256MB, 1.5GB or 64MiB".into()));
        assert_eq!(size("9GB"), Err("must be from 1.0 kB to 8.0 GB".into()));
        assert_eq!(size("1B"), Err("must be from 1.0 kB to 8.0 GB".into()));
        assert_eq!(link("1MB"), Ok(LINK_MIN));
        assert_eq!(link("1kB"), Err("must be at least 1.0 MB".into()));
    }

    #[test]
    fn what_it_comes_to_fits_a_terminal() {
        assert_eq!(wrapped("a bb ccc dddddd e", 6), "a bb\nccc\ndddddd\ne");
        assert_eq!(wrapped("", 6), "");
    }

    #[test]
    fn only_what_was_added_is_reported() {
        let served = |pairs: &[(&str, u64)]| pairs.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
        let before =
            Counted { served: served(&[("store", 10), ("shared", 5)]), upstream: 3, ..Counted::default() };
        let after = Counted {
            served: served(&[("store", 10), ("shared", 8), ("upstream", 9)]),
            upstream: 7,
            to_peers: 2,
            ..Counted::default()
        };
        let added = difference(&before, after);
        assert_eq!(added.served, served(&[("shared", 3), ("upstream", 9)]) as Vec<_>);
        assert_eq!((added.upstream, added.from_peers, added.to_peers), (4, 0, 2));
    }

    #[tokio::test]
    async fn what_was_pushed_is_pulled_and_counted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let image = SyntheticImage::new(9, 1_000_000);
        let registry = RegistryProcess::start(folder.path()).await?;
        registry.push(REPOSITORY, TAG, &image).await?;
        let throttle = Throttle::start(registry.address(), 100_000_000).await?;
        let stage =
            Stage { image: &image, registry: &registry, throttle: &throttle, nodes: 3, link: 100_000_000 };
        let clients = (0..3).map(|_| LightClient::new(&throttle.url(), None)).collect::<Result<_>>()?;

        let round = stage.round("pull", clients, true).await?;

        assert_eq!(round.received, 3 * image.size());
        assert!(round.asked.bytes > 3 * image.size(), "heads come on top");
        assert!(round.asked.bytes < 3 * image.size() + 20_000, "and nothing else");
        assert_eq!((round.asked.manifests, round.asked.blobs), (6, 12));
        registry.end().await
    }
}
