//! `shoal demo`: what the agent is for, in ten seconds on one machine.
//!
//! A real registry, a real agent, and clients that pull as container runtimes do, all at once: through the agent while
//! it has nothing, once more, and straight from the registry for comparison. What it reports is what the registry's
//! own access log and the agent's metrics say. Every child process and file is gone when it ends, however it ends.

pub mod agent;
pub mod child;
pub mod client;
pub mod http;
pub mod image;
pub mod proxy;
pub mod registry;
pub mod report;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytesize::ByteSize;
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use self::agent::{AgentProcess, AgentSetup};
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

/// Largest image: it is held in memory, once.
const SIZE_MAX: u64 = 8_000_000_000;

/// Options of `shoal demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Clients that pull at once, as the nodes of a cluster do.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub clients: u16,
    /// Size of the image, e.g. 256MB. Held in memory once and on disk twice.
    #[arg(long, default_value = "128MB")]
    pub size: ByteSize,
    /// Bytes per second that the registry can send to all together.
    #[arg(long, default_value = "250MB")]
    pub link: ByteSize,
    /// Print one JSON object at the end instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo. The exit code tells whether every byte was right and the registry sent nothing twice.
pub async fn run(args: Args) -> Result<ExitCode> {
    let (size, link) = (args.size.as_u64(), args.link.as_u64());
    ensure!((1_000..=SIZE_MAX).contains(&size), "--size is {size} bytes; use 1kB to {}", ByteSize(SIZE_MAX));
    ensure!(link >= 1_000_000, "--link is {link} bytes per second; use at least 1MB");
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping the demo in the middle ends its children and removes its files.
    let report = tokio::select! {
        report = Box::pin(show(&args, size, link)) => report?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    eprintln!("\n{}\n{}\n({})", report.table(), report.verdict(), report.conditions());
    if args.json {
        println!("{}", report.json()?);
    }
    Ok(if report.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    step("starting an agent (shoal agent)");
    let agent = AgentProcess::start(AgentSetup {
        program: std::env::current_exe().context("this program has no path")?,
        folder: folder.path(),
        registry: REGISTRY,
        endpoint: &throttle.url(),
    })
    .await?;

    let nodes = args.clients;
    let stage = Stage { image: &image, registry: &registry, nodes, link };
    let mut rounds = Vec::new();
    for what in ["pull through the agent, which has nothing", "pull once more"] {
        let before = agent.served().await?;
        let clients =
            (0..nodes).map(|_| LightClient::new(&agent.url(), Some(REGISTRY))).collect::<Result<_>>()?;
        let mut round = stage.round(&format!("{nodes} clients {what}"), clients, rounds.is_empty()).await?;
        round.sources = difference(&before, agent.served().await?);
        rounds.push(round);
    }
    let clients = (0..nodes).map(|_| LightClient::new(&throttle.url(), None)).collect::<Result<_>>()?;
    let direct =
        stage.round(&format!("{nodes} clients pull straight from the registry"), clients, true).await?;

    agent.end().await?;
    registry.end().await?;
    let [cold, warm] = <[Round; 2]>::try_from(rounds).expect("two rounds were run");
    Ok(Report { nodes, image_bytes: image.size(), link, cold, warm, direct })
}

/// What every round has in common.
struct Stage<'a> {
    image: &'a SyntheticImage,
    registry: &'a RegistryProcess,
    nodes: u16,
    link: u64,
}

impl Stage<'_> {
    /// Lets all clients pull at once. `uses_registry`: the image has to come from the registry at least once.
    async fn round(&self, what: &str, clients: Vec<LightClient>, uses_registry: bool) -> Result<Round> {
        let all = self.image.size() * u64::from(self.nodes);
        let deadline = ROUND_MAX + Duration::from_secs_f64(all as f64 / self.link as f64);
        let before = self.registry.asked();
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
        let asked = self.registry.asked_since(before, least).await?;
        Ok(Round { took, asked, received: sizes.iter().sum(), sources: Vec::new() })
    }
}

/// Shows how far the pulls are, until it is dropped. Where there is no terminal, the round's closing line is enough.
async fn follow(what: &str, all: u64, received: &AtomicU64) {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("  {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
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

/// What was added to each source, largest first.
fn difference(before: &[(String, u64)], after: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let old = |source: &str| before.iter().find(|(name, _)| name == source).map_or(0, |(_, bytes)| *bytes);
    let mut added: Vec<_> = after
        .into_iter()
        .map(|(source, bytes)| {
            let added = bytes.saturating_sub(old(&source));
            (source, added)
        })
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    added.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_is_reported() {
        let pairs =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect::<Vec<_>>();
        let before = pairs(&[("store", 10), ("shared", 5)]);
        let after = pairs(&[("store", 10), ("shared", 8), ("upstream", 9)]);
        assert_eq!(difference(&before, after), pairs(&[("upstream", 9), ("shared", 3)]));
    }

    #[tokio::test]
    async fn what_was_pushed_is_pulled_and_counted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let image = SyntheticImage::new(9, 1_000_000);
        let registry = RegistryProcess::start(folder.path()).await?;
        registry.push(REPOSITORY, TAG, &image).await?;
        let throttle = Throttle::start(registry.address(), 100_000_000).await?;
        let stage = Stage { image: &image, registry: &registry, nodes: 3, link: 100_000_000 };
        let clients = (0..3).map(|_| LightClient::new(&throttle.url(), None)).collect::<Result<_>>()?;

        let round = stage.round("pull", clients, true).await?;

        assert_eq!(round.received, 3 * image.size());
        assert_eq!(round.asked.bytes, 3 * image.size());
        assert_eq!((round.asked.manifests, round.asked.blobs), (6, 12));
        assert!(throttle.received() > 3 * image.size(), "headers come on top");
        registry.end().await
    }
}
