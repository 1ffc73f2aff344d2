//! A real agent as a child process: this very program, run as `shoal agent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use reqwest::Client;
use tokio::process::Command;

use super::child::Child;
use crate::doctor::PROXY_VARIABLES;
use crate::loopback as http;

/// A running agent with a data directory of its own.
pub struct AgentProcess {
    child: Child,
    registry: SocketAddr,
    observe: SocketAddr,
    client: Client,
}

/// What an agent is started with.
pub struct AgentSetup<'a> {
    /// The `shoal` program.
    pub program: PathBuf,
    /// For its configuration, data and log.
    pub folder: &'a Path,
    /// Name of the registry it mirrors, as clients say it.
    pub registry: &'a str,
    /// Where that registry is: `http://host:port`.
    pub endpoint: &'a str,
    /// The other agents, if it is not alone.
    pub swarm: Option<SwarmSetup<'a>>,
}

/// How an agent finds its swarm.
pub struct SwarmSetup<'a> {
    /// The file with the secret.
    pub secret_file: &'a Path,
    /// Where this agent listens for the others.
    pub address: SocketAddr,
    /// Where others do.
    pub join: &'a [SocketAddr],
}

impl SwarmSetup<'_> {
    fn config(&self) -> String {
        let join: Vec<String> = self.join.iter().map(|address| format!("'{address}'")).collect();
        format!(
            "[swarm]\nsecret_file = '{}'\nlisten = ['{}']\nport = {}\ndata_port = 0\njoin = [{}]\n",
            self.secret_file.display(),
            self.address.ip(),
            self.address.port(),
            join.join(", ")
        )
    }
}

/// What an agent has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes sent to clients, by where they came from.
    pub served: Vec<(String, u64)>,
    /// Bytes received from registries.
    pub upstream: u64,
    /// Bytes received from other agents.
    pub from_peers: u64,
    /// Bytes sent to other agents.
    pub to_peers: u64,
    /// Members that it knows, itself included.
    pub members: u64,
}

impl AgentProcess {
    /// Starts an agent and waits until it is ready.
    pub async fn start(setup: AgentSetup<'_>) -> Result<Self> {
        let (registry, observe) = (free_address()?, free_address()?);
        let AgentSetup { program, folder, registry: name, endpoint, swarm } = setup;
        let config = format!(
            "[[registry.listeners]]\naddress = '{registry}'\n[store]\npath = '{}'\n[admin]\nsocket = '{}'\n\
             [observe]\naddress = '{observe}'\n[upstream.registries.'{name}']\nendpoint = '{endpoint}'\n{}",
            Self::data(folder).display(),
            folder.join("agent.sock").display(),
            swarm.as_ref().map(SwarmSetup::config).unwrap_or_default(),
        );
        let path = folder.join("shoal.toml");
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let child = Child::spawn("agent", &mut command(program, &path), folder)?;
        let mut agent =
            AgentProcess { child, registry, observe, client: http::client("shoal-demo-observer")? };
        let (client, url) = (agent.client.clone(), format!("http://{observe}/readyz"));
        agent.child.until("it was ready", async |_| http::get(&client, &url).await.ok()).await?;
        Ok(agent)
    }

    /// Where an agent with this folder keeps its data.
    pub fn data(folder: &Path) -> PathBuf {
        folder.join("agent-data")
    }

    /// `http://host:port` of its registry front.
    pub fn url(&self) -> String {
        format!("http://{}", self.registry)
    }

    /// `host:port` of its registry front.
    pub fn address(&self) -> SocketAddr {
        self.registry
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has counted so far.
    pub async fn counted(&self) -> Result<Counted> {
        let text = http::get(&self.client, &format!("http://{}/metrics", self.observe)).await?;
        Ok(counted(&String::from_utf8_lossy(&text)))
    }

    /// Bytes sent to clients so far, by where they came from.
    pub async fn served(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.counted().await?.served)
    }

    /// Asks it to end and waits for it.
    pub async fn end(self) -> Result<()> {
        let (status, last_words) = self.child.end().await?;
        anyhow::ensure!(status.success(), "the agent ended with {status}:\n{last_words}");
        Ok(())
    }
}

/// The registry is on this machine, and no proxy of the surroundings leads there.
fn command(program: PathBuf, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("agent").arg("--config").arg(config);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// An address that was free a moment ago. Somebody else may take it in between; the agent then says so.
pub fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no loopback port is free")?;
    Ok(listener.local_addr()?)
}

/// What the samples of a scrape come to.
fn counted(metrics: &str) -> Counted {
    let mut counted = Counted::default();
    for line in metrics.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.trim().parse::<u64>() else { continue };
        match name {
            "shoal_peer_received_bytes_total" => counted.from_peers = value,
            "shoal_peer_sent_bytes_total" => counted.to_peers = value,
            "shoal_members" => counted.members = value,
            _ if name.starts_with("shoal_upstream_bytes_total{") => counted.upstream += value,
            _ => {
                let source = name.strip_prefix("shoal_served_bytes_total{source=\"");
                if let Some(source) = source.and_then(|rest| rest.strip_suffix("\"}")) {
                    counted.served.push((source.to_owned(), value));
                }
            }
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{command, counted};
    use crate::metrics::{Metrics, Served};

    #[test]
    fn an_agent_asks_its_registry_without_a_proxy() {
        let command = command("shoal".into(), Path::new("shoal.toml"));
        let removed: Vec<_> =
            command.as_std().get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            assert!(removed.iter().any(|name| *name == variable), "{variable}");
        }
    }

    #[test]
    fn bytes_by_source_are_read_from_the_metrics() {
        let metrics = Metrics::new();
        metrics.served(Served::Store, 1000);
        metrics.served(Served::Shared, 7);
        metrics.peer_sent_bytes.inc_by(5);
        metrics.members.set(3);
        let mut read = counted(&metrics.encode());
        read.served.sort_unstable();
        assert_eq!((read.to_peers, read.from_peers, read.members), (5, 0, 3));
        assert_eq!(read.served, [("shared".to_owned(), 7), ("store".to_owned(), 1000)]);
    }
}
