//! What an agent takes from its node: memory, time to start, time added to a small answer.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use shoal_agent::demo::agent::AgentProcess;
use shoal_agent::demo::image::{MANIFEST, SyntheticImage};
use shoal_engine::Digest;
use shoal_store::Store;
use shoal_tests::nginx::Nginx;
use shoal_tests::usage;

use super::setting::{self, REGISTRY, REPOSITORY, Setting, say};
use super::sink::{Sink, together};
use super::table::{Metric, Table, median, percentile};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub common: super::Common,
    /// Clients at once while memory is measured.
    #[arg(long, default_value_t = 20)]
    clients: usize,
    /// Blobs in the index when an agent is started.
    #[arg(long, default_value_t = 100_000)]
    blobs: u32,
    /// Requests for a stored manifest, one after the other.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
}

/// Time that an agent is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Requests that are made before latency is measured.
const WARM_UP: usize = 200;
/// Threads that fill a store: they wait for syncs most of the time.
const FILLERS: u32 = 16;
/// Of this many blobs, one is a file; the others are small enough to lie in the index.
const FILE_EVERY: u32 = 10;

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let setting = Setting::new(options.common.size.as_u64()).await?;
    let image = SyntheticImage::new(11, 100_000);
    setting.registry.push(REPOSITORY, "v1", &image).await?;

    let folder = setting.subfolder("agent")?;
    let agent = setting::agent(&folder, &setting.registry.url()).await?;
    tokio::time::sleep(SETTLE).await;
    let pid = agent.id().context("the agent runs")?;
    let idle = usage::resident_mib(pid)?;
    let own = usage::own_mib(pid)?;
    say(&format!("idle: {idle:.1} MiB, {own:.1} without the program's file"));
    let busy = peak(pid, agent.address(), &setting, options.clients).await?;
    say(&format!("{} clients on a cold blob: {busy:.1} MiB", options.clients));

    let manifest = format!("/v2/{REPOSITORY}/manifests/{}?ns={REGISTRY}", image.manifest.digest);
    let ours = latency(agent.address(), manifest.clone(), options.requests).await?;
    say(&format!("stored manifest: p50 {:.3} ms, p99 {:.3} ms", ours.0, ours.1));
    agent.end().await?;

    let registry_pid = setting.registry.id().context("the registry runs")?;
    let registry_busy = peak(registry_pid, setting.registry.address(), &setting, options.clients).await?;
    let registry = latency(setting.registry.address(), manifest, options.requests).await?;
    let files = setting.subfolder("files")?;
    std::fs::write(files.join("manifest"), &image.manifest.bytes)?;
    let server = Nginx::files(&files).await;
    let nginx = latency(server.address(), "/manifest".to_owned(), options.requests).await?;
    drop(server);

    say(&format!("filling a store with {} blobs", options.blobs));
    let folder = setting.subfolder("full")?;
    let (data, blobs) = (AgentProcess::data(&folder), options.blobs);
    tokio::task::spawn_blocking(move || fill(&data, blobs)).await??;
    let mut starts = Vec::new();
    for _ in 0..options.common.rounds {
        let start = Instant::now();
        let agent = setting::agent(&folder, &setting.registry.url()).await?;
        starts.push(start.elapsed().as_secs_f64());
        say(&format!("ready after {:.3} s", start.elapsed().as_secs_f64()));
        agent.end().await?;
    }

    let metrics = vec![
        Metric { name: "idle", unit: "MiB" },
        Metric { name: "idle_own", unit: "MiB, without the program's file" },
        Metric { name: "busy", unit: "MiB, peak" },
        Metric { name: "ready", unit: "s from start" },
        Metric { name: "manifest_p50", unit: "ms" },
        Metric { name: "manifest_p99", unit: "ms" },
    ];
    let conditions = format!(
        "resident memory after {} s without a request, and its peak with {} clients on one cold blob of {} bytes \
         (docker-registry: a stored one); start to /readyz with {} indexed blobs, median of {}; {} requests for a stored \
         manifest of {} bytes one after the other on one connection; loopback, {} cores",
        SETTLE.as_secs(),
        options.clients,
        setting.blob.bytes.len(),
        options.blobs,
        options.common.rounds,
        options.requests,
        image.manifest.bytes.len(),
        setting::cores(),
    );
    let figures = vec![Some(idle), Some(own), Some(busy), Some(median(starts)), Some(ours.0), Some(ours.1)];
    let mut table = Table::new("footprint", metrics, figures, conditions);
    table.peer("bound", vec![Some(40.0), None, Some(96.0), Some(1.0), None, Some(1.0)]);
    table.peer("nginx, a file", vec![None, None, None, None, Some(nginx.0), Some(nginx.1)]);
    table.peer(
        "docker-registry",
        vec![None, None, Some(registry_busy), None, Some(registry.0), Some(registry.1)],
    );
    Ok(table)
}

/// Peak memory of a server, in MiB, while clients fetch the blob.
async fn peak(pid: u32, server: SocketAddr, setting: &Setting, clients: usize) -> Result<f64> {
    usage::reset_peak(pid)?;
    together(server, &setting.path(), clients).await?;
    usage::peak_mib(pid)
}

/// Median and 99th percentile, in milliseconds, of requests one after the other on one connection.
async fn latency(server: SocketAddr, path: String, requests: usize) -> Result<(f64, f64)> {
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink::connect(server)?;
        let mut took = Vec::with_capacity(requests);
        for number in 0..WARM_UP + requests {
            let got = sink.get(&path)?;
            if number >= WARM_UP {
                took.push(got.took.as_secs_f64() * 1e3);
            }
        }
        Ok((median(took.clone()), percentile(took, 99)))
    })
    .await?
}

/// Fills a store through its own interface.
fn fill(data: &Path, blobs: u32) -> Result<()> {
    let mut options = shoal_store::Options::new(data);
    options.inline_max = 256;
    let store = Store::open(options)?.store;
    std::thread::scope(|scope| {
        let filling: Vec<_> = (0..FILLERS)
            .map(|first| {
                let store = store.clone();
                scope.spawn(move || (first..blobs).step_by(FILLERS as usize).try_for_each(|n| put(&store, n)))
            })
            .collect();
        filling.into_iter().try_for_each(|filler| filler.join().expect("a filler does not panic"))
    })
}

fn put(store: &Store, number: u32) -> Result<()> {
    let len = if number.is_multiple_of(FILE_EVERY) { 400 } else { 200 };
    let bytes: Bytes = number.to_le_bytes().repeat(len / 4).into();
    let digest: Digest = shoal_agent::demo::image::sha256(&bytes).parse()?;
    Ok(store.put(&digest, Some(MANIFEST), &bytes, SystemTime::now())?)
}
