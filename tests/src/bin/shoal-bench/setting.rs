//! What most benchmarks start with: a registry with one large blob in it, and agents in front of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use shoal_agent::demo::agent::{AgentProcess, AgentSetup};
use shoal_agent::demo::image::{Content, noise};
use shoal_agent::demo::registry::RegistryProcess;
use tempfile::TempDir;

pub use shoal_tests::usage::cores;

/// Name of the registry as clients say it to an agent.
pub const REGISTRY: &str = "registry.test";
/// Repository of the blob.
pub const REPOSITORY: &str = "bench/blob";

/// A registry with one blob.
pub struct Setting {
    /// Removed with all files of the benchmark.
    pub folder: TempDir,
    /// The registry.
    pub registry: RegistryProcess,
    /// The blob.
    pub blob: Content,
}

impl Setting {
    /// Makes a blob of `size` bytes and pushes it.
    pub async fn new(size: u64) -> Result<Self> {
        say("making a blob and pushing it to a registry");
        let folder = folder()?;
        let blob = tokio::task::spawn_blocking(move || {
            Content::new("application/vnd.oci.image.layer.v1.tar", noise(7, size))
        })
        .await?;
        let registry = RegistryProcess::start(folder.path()).await?;
        registry.push_blob(REPOSITORY, &blob).await?;
        Ok(Setting { folder, registry, blob })
    }

    /// Path and query of the blob.
    pub fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}?ns={REGISTRY}", self.blob.digest)
    }

    /// Writes a file of twice the blob's size and removes it. In a virtual machine, memory that has not been used for a while
    /// comes from its host at a tenth of the speed; whoever is measured next shall find as much of its own as everybody.
    pub fn fill_memory(&self) -> Result<()> {
        let path = self.folder.path().join("memory");
        let mut file = std::fs::File::create(&path).context("cannot write into the benchmark's folder")?;
        let chunk = vec![0; 1 << 20];
        for _ in 0..(2 * self.blob.bytes.len()).div_ceil(chunk.len()) {
            file.write_all(&chunk).context("cannot write into the benchmark's folder")?;
        }
        std::fs::remove_file(&path).context("cannot remove what was written")
    }

    /// A fresh folder inside this setting's.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// A folder that is removed when it is dropped.
pub fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("shoal-bench-").tempdir().context("there is no folder for the benchmark")
}

/// Starts an agent in a folder, with `endpoint` (`http://host:port`) for [`REGISTRY`].
pub async fn agent(folder: &Path, endpoint: &str) -> Result<AgentProcess> {
    let program = shoal_tests::place::shoal_bin();
    AgentProcess::start(AgentSetup { program, folder, registry: REGISTRY, endpoint, swarm: None }).await
}

/// Tells how far the benchmark is.
pub fn say(what: &str) {
    eprintln!("- {what}");
}

/// What the system's TCP connections use, and so every peer: one that paces (BBR) slows loopback down.
pub fn congestion_control() -> Result<String> {
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    let name = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(name.trim().to_owned())
}
