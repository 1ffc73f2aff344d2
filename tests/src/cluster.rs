//! Several agents that form a swarm, each at a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use tempfile::TempDir;
use toml::Value;

use crate::agent::{Agent, Setup};
use crate::http::Client;
use crate::image::Image;
use crate::{place, wait};

/// Port for control messages; each agent has an address of its own.
pub const PORT: u16 = 5001;
/// Port for pieces.
pub const DATA_PORT: u16 = 5002;

/// Agents whose addresses every other one is told.
const JOIN_MAX: usize = 3;

/// How long agents that start together may take to know each other.
const MEET_MAX: Duration = Duration::from_secs(30);

/// Agents with one secret.
pub struct Cluster {
    /// The agents, in the order in which they were started.
    pub agents: Vec<Agent>,
    secret: TempDir,
    origin: String,
}

impl Setup {
    /// Makes it a member: with the secret in a file, at its own address, told where others are.
    #[must_use]
    pub fn swarm(self, secret_file: &Path, join: &[IpAddr]) -> Self {
        let address = self.registry_address().ip().to_string();
        let join: Vec<Value> = join.iter().map(|ip| SocketAddr::new(*ip, PORT).to_string().into()).collect();
        self.set("swarm.secret_file", secret_file.display().to_string())
            .set("swarm.listen", vec![Value::from(address)])
            .set("swarm.port", i64::from(PORT))
            .set("swarm.data_port", i64::from(DATA_PORT))
            .set("swarm.join", join)
    }
}

impl Cluster {
    /// Starts agents for the origin, and waits until all know each other.
    pub async fn start(origin: &str, nodes: usize) -> Self {
        Self::start_with(origin, nodes, |_, setup| setup).await
    }

    /// The same, with a say in how each is set up.
    pub async fn start_with(origin: &str, nodes: usize, each: impl Fn(usize, Setup) -> Setup) -> Self {
        let secret = place::scratch();
        std::fs::write(secret.path().join("secret"), "a secret of this test alone\n")
            .expect("the folder is ours");
        let mut cluster = Cluster { agents: Vec::new(), secret, origin: origin.to_owned() };
        for node in 0..nodes {
            let setup = each(node, cluster.setup());
            cluster.agents.push(setup.start().await);
        }
        cluster.until_met(nodes).await;
        cluster
    }

    /// Starts agents for the origin all at once, but for the first one, and waits until all know each other. Tells how long
    /// they took for that after all had answered.
    pub async fn start_together(origin: &str, nodes: usize) -> (Self, Duration) {
        let mut cluster = Self::start(origin, 1).await;
        let others: Vec<_> = (1..nodes).map(|_| tokio::spawn(cluster.setup().start())).collect();
        for other in others {
            cluster.agents.push(other.await.expect("the agent starts"));
        }
        let begun = Instant::now();
        cluster.until_met(nodes).await;
        (cluster, begun.elapsed())
    }

    /// The admin sockets of all agents.
    pub fn admins(&self) -> Vec<AdminClient> {
        self.agents.iter().map(|agent| AdminClient::new(&agent.setup().socket())).collect()
    }

    /// How another member of this cluster is set up.
    pub fn setup(&self) -> Setup {
        let join: Vec<IpAddr> = self.agents.iter().take(JOIN_MAX).map(|agent| agent.address().ip()).collect();
        Setup::new(&self.origin).swarm(&self.secret_file(), &join)
    }

    /// The file with the secret.
    pub fn secret_file(&self) -> std::path::PathBuf {
        self.secret.path().join("secret")
    }

    /// Starts one more member.
    pub async fn join(&mut self) -> usize {
        let agent = self.setup().start().await;
        self.agents.push(agent);
        self.agents.len() - 1
    }

    /// Waits until every agent knows so many members.
    pub async fn until_met(&self, members: usize) {
        for agent in &self.agents {
            wait::until(format!("{members} members to be known"), MEET_MAX, || async {
                agent.metric("members", &[]).await as usize == members
            })
            .await;
        }
    }

    /// Waits until every agent has had an answer to a probe: then it notices when a member says nothing.
    pub async fn until_probed(&self) {
        for (agent, admin) in self.agents.iter().zip(self.admins()) {
            wait::until(format!("{} to have probed another", agent.url()), MEET_MAX, || async {
                let peers = admin.peers().await;
                peers.is_ok_and(|peers| peers.members.iter().any(|member| member.latency_ms.is_some()))
            })
            .await;
        }
    }

    /// Lets the agents with these numbers pull an image at once, as runtimes do, and checks every byte.
    pub async fn pull(&self, nodes: impl IntoIterator<Item = usize>, repository: &str, image: &Image) {
        let pulls: Vec<_> = nodes.into_iter().map(|node| self.begin(node, repository, image)).collect();
        for pull in pulls {
            pull.await.expect("the pull ends well");
        }
    }

    /// Begins such a pull by one agent.
    pub fn begin(&self, node: usize, repository: &str, image: &Image) -> tokio::task::JoinHandle<()> {
        let agent = &self.agents[node];
        let manifest = (agent.manifest(repository, &image.manifest.digest), image.manifest.bytes.clone());
        let blobs: Vec<_> =
            image.blobs().map(|blob| (agent.blob(repository, &blob.digest), blob.bytes.clone())).collect();
        tokio::spawn(async move {
            Client::new().get(&manifest.0).await.expect(200, &manifest.1);
            let blobs: Vec<_> = blobs
                .into_iter()
                .map(|(url, bytes)| {
                    tokio::spawn(async move { Client::new().get(&url).await.expect(200, &bytes) })
                })
                .collect();
            for blob in blobs {
                blob.await.expect("every blob arrives whole");
            }
        })
    }

    /// Bytes that all agents have received from upstream.
    pub async fn upstream_bytes(&self) -> f64 {
        let mut sum = 0.0;
        for agent in &self.agents {
            sum += agent.metric("upstream_bytes_total", &[]).await;
        }
        sum
    }
}
