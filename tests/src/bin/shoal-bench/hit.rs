//! A stored blob to clients on the same node: throughput, and what it costs the server.

use std::net::SocketAddr;

use anyhow::Result;
use shoal_agent::demo::registry::RegistryProcess;
use shoal_tests::nginx::Nginx;
use shoal_tests::usage;

use super::setting::{self, Setting, say};
use super::sink::together;
use super::table::{Figures, Metric, Table, median};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub common: super::Common,
}

/// Numbers of clients that are tried.
const CLIENTS: [usize; 2] = [1, 4];
/// Transfers of every client in one round: one alone is over too soon to be measured well.
const REPEATS: usize = 3;

/// A server with the blob, and what was measured of it: by number of clients, megabytes per second and the server's CPU
/// seconds per gigabyte of every round.
struct Contestant {
    name: &'static str,
    address: SocketAddr,
    pid: u32,
    path: String,
    rate: [Vec<f64>; 2],
    cpu: [Vec<f64>; 2],
    /// The same of server and clients together: the kernel may book a packet's way through the machine on either.
    cpu_both: [Vec<f64>; 2],
}

impl Contestant {
    fn new(name: &'static str, address: SocketAddr, pid: Option<u32>, path: String) -> Self {
        let pid = pid.expect("the server runs");
        Contestant {
            name,
            address,
            pid,
            path,
            rate: Default::default(),
            cpu: Default::default(),
            cpu_both: Default::default(),
        }
    }

    async fn measure(&mut self, which: usize) -> Result<()> {
        let (before, clients) = (usage::cpu_seconds(self.pid)?, usage::own_cpu_seconds()?);
        let (mut bytes, mut seconds) = (0, 0.0);
        for _ in 0..REPEATS {
            let (got, took) = together(self.address, &self.path, CLIENTS[which]).await?;
            bytes += got.iter().map(|got| got.bytes).sum::<u64>();
            seconds += took.as_secs_f64();
        }
        let cpu = usage::cpu_seconds(self.pid)? - before;
        self.rate[which].push(bytes as f64 / 1e6 / seconds);
        let both = cpu + usage::own_cpu_seconds()? - clients;
        self.cpu[which].push(cpu / (bytes as f64 / 1e9));
        self.cpu_both[which].push(both / (bytes as f64 / 1e9));
        Ok(())
    }

    fn figures(self) -> Figures {
        self.rate
            .into_iter()
            .chain(self.cpu)
            .chain(self.cpu_both)
            .map(|figures| Some(median(figures)))
            .collect()
    }
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let size = options.common.size.as_u64();
    let setting = Setting::new(size).await?;
    let folder = setting.subfolder("agent")?;
    let agent = setting::agent(&folder, &setting.registry.url()).await?;
    let files = setting.subfolder("files")?;
    std::fs::write(files.join("blob"), &setting.blob.bytes)?;
    let nginx = Nginx::files(&files).await;

    let registry: &RegistryProcess = &setting.registry;
    let mut contestants = [
        Contestant::new("shoal", agent.address(), agent.id(), setting.path()),
        Contestant::new("nginx", nginx.address(), Some(nginx.id()), "/blob".to_owned()),
        Contestant::new("docker-registry", registry.address(), registry.id(), setting.path()),
    ];
    // Everybody once, so that the agent has the blob and every file is in memory.
    for contestant in &contestants {
        together(contestant.address, &contestant.path, 1).await?;
    }
    for round in 1..=options.common.rounds {
        for (which, clients) in CLIENTS.into_iter().enumerate() {
            // Nobody always goes first.
            let first = round as usize % contestants.len();
            for turn in 0..contestants.len() {
                let index = (first + turn) % contestants.len();
                let contestant = &mut contestants[index];
                contestant.measure(which).await?;
                let (rate, cpu) = (contestant.rate[which].last(), contestant.cpu[which].last());
                if let (Some(rate), Some(cpu)) = (rate, cpu) {
                    let name = contestant.name;
                    say(&format!(
                        "round {round}, {clients} client(s), {name}: {rate:.0} MB/s, {cpu:.2} CPU s per GB"
                    ));
                }
            }
        }
    }
    let [ours, nginx_figures, registry_figures] = contestants.map(Contestant::figures);
    agent.end().await?;
    drop(nginx);

    let metrics = vec![
        Metric { name: "mb_per_s_1", unit: "MB/s, 1 client" },
        Metric { name: "mb_per_s_4", unit: "MB/s, 4 clients" },
        Metric { name: "cpu_s_per_gb_1", unit: "CPU s/GB, 1 client" },
        Metric { name: "cpu_s_per_gb_4", unit: "CPU s/GB, 4 clients" },
        Metric { name: "cpu_both_s_per_gb_1", unit: "with the client" },
        Metric { name: "cpu_both_s_per_gb_4", unit: "with the clients" },
    ];
    let conditions = format!(
        "a stored blob of {size} bytes in the page cache, clients that recv() and discard, loopback, the system's congestion control \
         is {}, {} cores; median of {} alternating rounds of {REPEATS} transfers",
        setting::congestion_control()?,
        setting::cores(),
        options.common.rounds,
    );
    let mut table = Table::new("hit", metrics, ours, conditions);
    table.peer("nginx sendfile", nginx_figures);
    table.peer("docker-registry", registry_figures);
    Ok(table)
}
