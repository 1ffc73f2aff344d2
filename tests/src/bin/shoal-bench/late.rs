//! A member that asks for a blob which others are just receiving: how long until its first byte, and from how many it receives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use shoal_agent::admin::client::AdminClient;
use shoal_agent::demo::image::{Content, noise};
use shoal_agent::demo::proxy::Throttle;
use shoal_agent::demo::registry::RegistryProcess;
use shoal_tests::agent::REGISTRY;
use shoal_tests::cluster::Cluster;
use shoal_tests::wait;

use super::setting::{self, REPOSITORY, say};
use super::sink::{Got, together};
use super::table::{Metric, Table, median, times};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Agents.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(3..=50))]
    nodes: u16,
    /// Blobs, one after another; each gives a sample for every agent but the first.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=500))]
    blobs: u16,
    /// Size of each blob.
    #[arg(long, default_value = "32MB")]
    size: ByteSize,
    /// Bytes per second of the registry's link.
    #[arg(long, default_value = "20MB")]
    link: ByteSize,
    /// Milliseconds from one asking to the next; 0 lets all come at once.
    #[arg(long, default_value_t = 100)]
    gap: u64,
}

/// Part of the blob that the first one has when the others come.
const HEAD_START: u64 = 8;
/// Longest time for that.
const HEAD_START_MAX: Duration = Duration::from_secs(30);

/// What all samples say.
#[derive(Default)]
struct Samples {
    /// Milliseconds until the first byte.
    first: Vec<f64>,
    /// The same once the blob is stored.
    stored: Vec<f64>,
    /// Members that each late one received from.
    sources: Vec<f64>,
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let (nodes, size, link) = (usize::from(options.nodes), options.size.as_u64(), options.link.as_u64());
    let folder = setting::folder()?;
    let registry = RegistryProcess::start(folder.path()).await?;
    let throttle = Throttle::start(registry.address(), link).await?;
    say(&format!("starting {nodes} agents"));
    let cluster = Cluster::start(&throttle.url(), nodes).await;
    let mut samples = Samples::default();
    for blob in 0..options.blobs {
        let content = tokio::task::spawn_blocking(move || {
            Content::new("application/vnd.oci.image.layer.v1.tar", noise(1000 + u64::from(blob), size))
        });
        let content = content.await?;
        registry.push_blob(REPOSITORY, &content).await?;
        round(&cluster, usize::from(blob) % nodes, options.gap, &content, &mut samples).await?;
        say(&format!(
            "blob {} of {}: p50 so far {:.1} ms",
            blob + 1,
            options.blobs,
            median(samples.first.clone())
        ));
    }
    let least = samples.sources.iter().copied().fold(f64::INFINITY, f64::min);
    let metrics = vec![
        Metric { name: "first_byte_p50", unit: "ms" },
        Metric { name: "first_byte_p99", unit: "ms" },
        Metric { name: "sources_p50", unit: "members that one received from" },
        Metric { name: "sources_least", unit: "members" },
    ];
    let sources = [Some(median(samples.sources)), Some(least)];
    let conditions = format!(
        "{nodes} agents on loopback addresses, {} blobs of {size} bytes behind a link of {link} bytes/s; when one agent has an \
         {HEAD_START}th of a blob the others ask for it, one every {} ms, {} samples; {} cores for all",
        options.blobs,
        options.gap,
        samples.first.len(),
        setting::cores(),
    );
    let mut table = Table::new("late", metrics, [times(samples.first), sources.into()].concat(), conditions);
    table.peer("stored already", [times(samples.stored), vec![None, None]].concat());
    table.peer("goal", vec![None, Some(20.0), None, Some(4.0)]);
    Ok(table)
}

/// One blob: `first` begins, the others come while it is received.
async fn round(
    cluster: &Cluster,
    first: usize,
    gap: u64,
    blob: &Content,
    samples: &mut Samples,
) -> Result<()> {
    let path = format!("/v2/{REPOSITORY}/blobs/{}?ns={REGISTRY}", blob.digest);
    let digest = blob.digest.parse().context("the digest of the blob is one")?;
    let size = blob.bytes.len() as u64;
    let leader = &cluster.agents[first];
    let leading = tokio::spawn({
        let (address, path) = (leader.address(), path.clone());
        async move { together(address, &path, 1).await }
    });
    let admin = AdminClient::new(&leader.setup().socket());
    wait::until("the first agent to have a part of the blob".to_owned(), HEAD_START_MAX, || async {
        let story = admin.explain(&digest).await;
        story.is_ok_and(|story| story.received.is_some_and(|bytes| bytes * HEAD_START >= size))
    })
    .await;
    let late: Vec<_> = cluster.agents.iter().enumerate().filter(|(node, _)| *node != first).collect();
    let asking: Vec<_> = (0..)
        .zip(&late)
        .map(|(turn, (_, agent))| {
            let (address, path, wait) = (agent.address(), path.clone(), Duration::from_millis(turn * gap));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                together(address, &path, 1).await
            })
        })
        .collect();
    for asked in asking {
        let (got, _) = asked.await??;
        samples.first.push(whole(&got, size)?);
    }
    leading.await??;
    for (_, agent) in &late {
        agent.until_idle().await;
        let story = AdminClient::new(&agent.setup().socket()).explain(&digest).await?;
        samples.sources.push(story.sources.iter().filter(|share| share.is_member).count() as f64);
        let (got, _) = together(agent.address(), &path, 1).await?;
        samples.stored.push(whole(&got, size)?);
    }
    // The next one lies in the same memory: what a virtual machine has not used for a while comes from its host at a tenth
    // of the speed.
    for agent in &cluster.agents {
        AdminClient::new(&agent.setup().socket()).remove(&digest).await?;
    }
    Ok(())
}

/// Milliseconds until the first byte of one who got all of them.
fn whole(got: &[Got], size: u64) -> Result<f64> {
    ensure!(got[0].bytes == size, "a client got {} of {size} bytes", got[0].bytes);
    Ok(got[0].first_byte.as_secs_f64() * 1e3)
}
