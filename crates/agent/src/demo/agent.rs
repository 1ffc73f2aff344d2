//! A real agent as a child process: this very program, run as `shoal agent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use reqwest::Client;
use tokio::process::Command;

use super::child::Child;
use super::http;

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
}

impl AgentProcess {
    /// Starts an agent and waits until it is ready.
    pub async fn start(setup: AgentSetup<'_>) -> Result<Self> {
        let (registry, observe) = (free_address()?, free_address()?);
        let AgentSetup { program, folder, registry: name, endpoint } = setup;
        let config = format!(
            "[[registry.listeners]]\naddress = '{registry}'\n[store]\npath = '{}'\n[admin]\nsocket = '{}'\n\
             [observe]\naddress = '{observe}'\n[upstream.registries.'{name}']\nendpoint = '{endpoint}'\n",
            Self::data(folder).display(),
            folder.join("agent.sock").display(),
        );
        let path = folder.join("shoal.toml");
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(program);
        command.arg("agent").arg("--config").arg(&path);
        let child = Child::spawn("agent", &mut command, folder)?;
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

    /// Bytes sent to clients so far, by where they came from.
    pub async fn served(&self) -> Result<Vec<(String, u64)>> {
        let text = http::get(&self.client, &format!("http://{}/metrics", self.observe)).await?;
        Ok(served(&String::from_utf8_lossy(&text)))
    }

    /// Asks it to end and waits for it.
    pub async fn end(self) -> Result<()> {
        let (status, last_words) = self.child.end().await?;
        anyhow::ensure!(status.success(), "the agent ended with {status}:\n{last_words}");
        Ok(())
    }
}

/// An address that was free a moment ago. Somebody else may take it in between; the agent then says so.
fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no loopback port is free")?;
    Ok(listener.local_addr()?)
}

/// The samples of `shoal_served_bytes_total{source="..."}`.
fn served(metrics: &str) -> Vec<(String, u64)> {
    metrics
        .lines()
        .filter_map(|line| {
            let (source, value) =
                line.strip_prefix("shoal_served_bytes_total{source=\"")?.split_once("\"} ")?;
            Some((source.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::served;
    use crate::metrics::{Metrics, Served};

    #[test]
    fn bytes_by_source_are_read_from_the_metrics() {
        let metrics = Metrics::new();
        metrics.served(Served::Store, 1000);
        metrics.served(Served::Shared, 7);
        let mut read = served(&metrics.encode());
        read.sort_unstable();
        assert_eq!(read, [("shared".to_owned(), 7), ("store".to_owned(), 1000)]);
    }
}
