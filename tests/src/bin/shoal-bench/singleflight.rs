//! Many clients, one cold blob, at once.
//!
//! What counts is the time until the last client is done, against one client that is alone with a cold agent, and how
//! often upstream was asked. The registry is behind a link: that is what a cold blob is usually waited for, and 20
//! copies of it over loopback would measure this machine's memory instead.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use bytesize::ByteSize;
use shoal_agent::demo::proxy::Throttle;
use shoal_agent::demo::registry::RegistryProcess;
use shoal_tests::nginx::Nginx;
use shoal_tests::usage;

use super::setting::{self, Setting, say};
use super::sink::together;
use super::table::{Metric, Table, median};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub common: super::Common,
    /// Clients at once.
    #[arg(long, default_value_t = 20)]
    clients: usize,
    /// Bytes per second of the registry's link.
    #[arg(long, default_value = "100MB")]
    link: ByteSize,
}

/// Measurements of one contestant, over all rounds.
#[derive(Default)]
struct Contestant {
    seconds: Vec<f64>,
    first_bytes: Vec<f64>,
    gets: Vec<f64>,
    cpu: Vec<f64>,
}

impl Contestant {
    fn figures(self) -> super::table::Figures {
        [self.seconds, self.gets, self.first_bytes, self.cpu].map(|figures| Some(median(figures))).into()
    }
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let (size, link) = (options.common.size.as_u64(), options.link.as_u64());
    let setting = Setting::new(size).await?;
    let throttle = Throttle::start(setting.registry.address(), link).await?;
    let bench = Bench { setting, throttle, clients: options.clients };

    let (mut alone, mut ours) = (Contestant::default(), Contestant::default());
    for round in 0..options.common.rounds {
        // Who begins changes: whoever comes second finds warmer caches.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                bench.agent(&mut alone, 1, &format!("alone-{round}")).await?;
            } else {
                bench.agent(&mut ours, options.clients, &format!("ours-{round}")).await?;
            }
        }
    }
    // The peers differ by factors, not by percents: once is enough.
    let mut nginx = Contestant::default();
    let server = Nginx::cache(&bench.throttle.url()).await;
    bench
        .measure(&mut nginx, "nginx, proxy_cache_lock", server.address(), Some(server.id()), options.clients)
        .await?;
    drop(server);

    let mut proxy = Contestant::default();
    let folder = bench.setting.subfolder("proxy")?;
    let server = RegistryProcess::start_proxy(&folder, &bench.throttle.url()).await?;
    bench
        .measure(&mut proxy, "docker-registry, proxy", server.address(), server.id(), options.clients)
        .await?;
    server.end().await?;

    let metrics = vec![
        Metric { name: "seconds", unit: "s until the last client is done" },
        Metric { name: "upstream_gets", unit: "GETs of the blob" },
        Metric { name: "first_byte", unit: "s, slowest client" },
        Metric { name: "cpu_seconds", unit: "CPU s of the server" },
    ];
    let conditions = format!(
        "{} clients at once, one cold blob of {size} bytes, registry (docker-registry) behind a link of {link} bytes/s, \
         loopback, the system's congestion control is {}, {} cores; shoal: median of {} fresh agents, in turns with one \
         client alone with a fresh agent",
        options.clients,
        setting::congestion_control()?,
        setting::cores(),
        options.common.rounds,
    );
    let mut table = Table::new("singleflight", metrics, ours.figures(), conditions);
    table.peer("shoal, one client", alone.figures());
    table.peer("nginx cache lock", nginx.figures());
    table.peer("docker-registry proxy", proxy.figures());
    Ok(table)
}

struct Bench {
    setting: Setting,
    throttle: Throttle,
    clients: usize,
}

impl Bench {
    /// One round with a fresh agent.
    async fn agent(&self, into: &mut Contestant, clients: usize, name: &str) -> Result<()> {
        let folder = self.setting.subfolder(name)?;
        let agent = setting::agent(&folder, &self.throttle.url()).await?;
        self.measure(into, &format!("shoal, {clients} clients"), agent.address(), agent.id(), clients)
            .await?;
        agent.end().await?;
        remove(&folder)
    }

    async fn measure(
        &self,
        into: &mut Contestant,
        name: &str,
        server: SocketAddr,
        pid: Option<u32>,
        clients: usize,
    ) -> Result<()> {
        assert!(clients <= self.clients, "one client, or all of them");
        let pid = pid.expect("the server runs");
        // What the last contestant has left to be written would otherwise be written during this one.
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        let (before, cpu) = (self.setting.registry.asked(), usage::cpu_seconds(pid)?);
        let (got, took) = together(server, &self.setting.path(), clients).await?;
        let size = self.setting.blob.bytes.len() as u64;
        assert!(got.iter().all(|got| got.bytes == size), "every client got the whole blob");
        let cpu = usage::cpu_seconds(pid)? - cpu;
        // A peer that answers its clients from the middle of a transfer may not have ended it: its line is still due.
        let asked = self.setting.registry.asked_since(before, size).await?;
        let first = got.iter().map(|got| got.first_byte.as_secs_f64()).fold(0.0, f64::max);
        say(&format!("{name}: {:.2} s, {} upstream GETs", took.as_secs_f64(), asked.blob_gets));
        into.seconds.push(took.as_secs_f64());
        into.first_bytes.push(first);
        into.gets.push(asked.blob_gets as f64);
        into.cpu.push(cpu);
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<()> {
    Ok(fs::remove_dir_all(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nginx_asks_once_as_a_cache_and_serves_files() -> Result<()> {
        let setting = Setting::new(2_000_000).await?;
        let before = setting.registry.asked();

        let cache = Nginx::cache(&setting.registry.url()).await;
        let (got, _) = together(cache.address(), &setting.path(), 4).await?;
        drop(cache);

        assert!(got.iter().all(|got| got.bytes == 2_000_000));
        assert_eq!(setting.registry.asked_since(before, 2_000_000).await?.blob_gets, 1);

        let root = setting.subfolder("files")?;
        fs::write(root.join("blob"), &setting.blob.bytes)?;
        let files = Nginx::files(&root).await;
        let (got, _) = together(files.address(), "/blob", 1).await?;
        assert_eq!(got[0].bytes, 2_000_000);
        Ok(())
    }
}
