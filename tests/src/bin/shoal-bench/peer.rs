//! A blob from one agent to another: throughput and what it costs each side, beside curl from nginx over TLS.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use shoal_agent::admin::client::AdminClient;
use shoal_tests::cluster::Cluster;
use shoal_tests::nginx::Nginx;
use shoal_tests::tls::Authority;
use shoal_tests::{place, usage};

use super::setting::{self, REPOSITORY, Setting, say};
use super::sink::together;
use super::table::{Figures, Metric, Table, median};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub common: super::Common,
}

const DISCARDING: &str = "nginx to curl > /dev/null";
const WRITING: &str = "nginx to curl > file";
const CHECKING: &str = "nginx to curl > file, digest";

/// How curl is called each time.
const QUIET: [&str; 4] = ["--silent", "--show-error", "--fail", "--insecure"];

/// What was measured: megabytes per second, and CPU seconds per gigabyte of the one who sends and the one who receives.
#[derive(Default)]
struct Measured {
    rate: Vec<f64>,
    sender: Vec<f64>,
    receiver: Vec<f64>,
}

impl Measured {
    fn add(&mut self, name: &str, bytes: u64, seconds: f64, sender: f64, receiver: f64) {
        let gigabytes = bytes as f64 / 1e9;
        self.rate.push(gigabytes * 1e3 / seconds);
        self.sender.push(sender / gigabytes);
        self.receiver.push(receiver / gigabytes);
        say(&format!(
            "{name}: {:.0} MB/s, CPU s per GB: {:.2} to send, {:.2} to receive",
            gigabytes * 1e3 / seconds,
            sender / gigabytes,
            receiver / gigabytes
        ));
    }

    fn figures(self) -> Figures {
        [self.rate, self.sender, self.receiver].map(|figures| Some(median(figures))).into()
    }
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let curl = place::program("curl", "curl");
    let size = options.common.size.as_u64();
    let setting = Setting::new(size).await?;
    let files = setting.subfolder("files")?;
    std::fs::write(files.join("blob"), &setting.blob.bytes)?;
    let authority = Authority::new();
    let nginx = Nginx::files_over_tls(&files, &authority).await;
    let received = setting.subfolder("received")?.join("blob");

    say("starting two agents, of which one fetches the blob");
    let cluster = Cluster::start(&setting.registry.url(), 2).await;
    let [holder, asker] = [&cluster.agents[0], &cluster.agents[1]];
    let path = format!("/v2/{REPOSITORY}/blobs/{}?ns={}", setting.blob.digest, shoal_tests::agent::REGISTRY);
    together(holder.address(), &path, 1).await?;
    let admin = AdminClient::new(&asker.setup().socket());
    let digest = setting.blob.digest.parse().context("the digest of the blob is one")?;

    let [mut shoal, mut discarding, mut writing, mut checking] = [(); 4].map(|()| Measured::default());
    for round in 1..=options.common.rounds {
        say(&format!("round {round}"));
        setting.fill_memory()?;
        let cpu = |agent: &shoal_tests::agent::Agent| usage::cpu_seconds(agent.pid().unsigned_abs());
        let (sender, receiver) = (cpu(holder)?, cpu(asker)?);
        let (_, took) = together(asker.address(), &path, 1).await?;
        let (sender, receiver) = (cpu(holder)? - sender, cpu(asker)? - receiver);
        shoal.add("shoal, peer to peer, verified and stored", size, took.as_secs_f64(), sender, receiver);
        let from_peer = asker.metric("peer_received_bytes_total", &[]).await;
        ensure!(
            from_peer >= (u64::from(round) * size) as f64,
            "only {from_peer} bytes came from the peer, the rest from the registry"
        );
        // The client may have the last byte before the store has the blob.
        asker.until_idle().await;
        admin.remove(&digest).await?;

        let url = format!("https://{}/blob", nginx.address());
        let others = [
            (DISCARDING, into(&curl, &url, Path::new("/dev/null")), &mut discarding),
            (WRITING, into(&curl, &url, &received), &mut writing),
            (CHECKING, checked(&curl, &url, &received), &mut checking),
        ];
        for (name, mut command, measured) in others {
            setting.fill_memory()?;
            let (sender, receiver, begun) =
                (usage::cpu_seconds(nginx.id())?, usage::children_cpu_seconds()?, Instant::now());
            let status =
                command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("cannot run curl")?;
            ensure!(status.success(), "{name} failed: {status}");
            let seconds = begun.elapsed().as_secs_f64();
            let (sender, receiver) =
                (usage::cpu_seconds(nginx.id())? - sender, usage::children_cpu_seconds()? - receiver);
            measured.add(name, size, seconds, sender, receiver);
        }
    }
    drop((cluster, nginx));

    let metrics = vec![
        Metric { name: "mb_per_s", unit: "MB/s" },
        Metric { name: "sender_cpu_s_per_gb", unit: "CPU s/GB, sender" },
        Metric { name: "receiver_cpu_s_per_gb", unit: "CPU s/GB, receiver" },
    ];
    let conditions = format!(
        "a blob of {size} bytes over loopback with TLS; the agent verifies and stores it and hands it to its client, whose CPU is \
         not counted; curl from nginx discards it, writes it, or writes it while openssl computes its digest; {} cores; median of \
         {} alternating rounds",
        setting::cores(),
        options.common.rounds,
    );
    let mut table = Table::new("peer", metrics, shoal.figures(), conditions);
    table.peer(DISCARDING, discarding.figures());
    table.peer(WRITING, writing.figures());
    table.peer(CHECKING, checking.figures());
    Ok(table)
}

/// Fetches a URL into a file.
fn into(curl: &Path, url: &str, file: &Path) -> Command {
    let mut command = Command::new(curl);
    command.args(QUIET).arg("--output").arg(file).arg(url);
    command
}

/// The same, and computes its digest meanwhile: the least that a store of content by its digest has to do.
fn checked(curl: &Path, url: &str, file: &Path) -> Command {
    // Of a pipe in the shell of POSIX only the last one's failure counts.
    let mut command = Command::new("bash");
    let script =
        "curl=$1 url=$2 file=$3; shift 3; \"$curl\" \"$@\" \"$url\" | tee \"$file\" | openssl dgst -sha256";
    command.args(["-o", "pipefail", "-c", script, "bash"]).arg(curl).arg(url).arg(file).args(QUIET);
    command
}
