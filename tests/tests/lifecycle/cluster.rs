//! The cluster: the registry, the nodes, and what is done on all nodes at once.

use std::fs;
use std::sync::Arc;

use shoal_tests::cri::Cri;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::helm::{self, Rendered};
use shoal_tests::netns::Network;
use shoal_tests::place;
use tempfile::TempDir;
use toml::{Table, Value};

use super::load::Load;
use super::node::{Node, Program, config_path};
use super::release::{REGISTRY, REPOSITORY, Release};

/// Whose requests the registry sees.
pub const AGENTS: &str = "shoal/";
pub const RUNTIMES: &str = "containerd/";
/// The registry's node in the network. The nodes of the cluster come after it.
const REGISTRY_NODE: usize = 0;
/// Nodes of the cluster.
const NODES: usize = 3;
/// Bits per second of each link: not what bounds anything here.
const LINK: u64 = 10_000_000_000;
/// What members know of each other.
const SECRET: &str = "the secret of this cluster alone\n";

/// All of it.
pub struct Cluster {
    pub nodes: Vec<Node>,
    registry: DockerRegistry,
    // What the others stand on ends last.
    _network: Arc<Network>,
    _folder: TempDir,
}

impl Cluster {
    /// The registry with releases, and nodes on which nothing runs. The first release is what the sandboxes of their pods run.
    pub fn new(releases: &[&Release]) -> Self {
        let folder = place::scratch();
        let network = Arc::new(Network::new(&[LINK; NODES + 1]).unwrap_or_else(|e| panic!("{e:#}")));
        let registry = DockerRegistry::start_in(&network, REGISTRY_NODE, folder.path());
        let registry = registry.unwrap_or_else(|e| panic!("{e:#}"));
        for release in releases {
            let (url, image, tag) = (registry.url(), release.image.clone(), release.tag);
            let pushed = network.block_on(REGISTRY_NODE, move || async move {
                docker_registry::push_to(&url, None, REPOSITORY, tag, &image).await;
            });
            pushed.unwrap_or_else(|e| panic!("{e:#}"));
        }
        let url = registry.url();
        let nodes = (1..=NODES)
            .map(|number| Node::new(&network, number, folder.path(), &releases[0].name, &hosts(&url)));
        let nodes = nodes.collect();
        Cluster { nodes, registry, _network: network, _folder: folder }
    }

    /// Starts containerd on every node.
    pub async fn start_runtimes(&mut self) {
        for node in &mut self.nodes {
            node.start_containerd().await;
        }
    }

    /// Starts an agent on every node and waits until all know each other.
    pub async fn install(&mut self, program: &Program) {
        let mut config = self.config();
        let addresses: Vec<String> = self.nodes.iter().map(Node::address).collect();
        let [service] = &config["swarm"]["join"].as_array().expect("the chart sets it")[..] else {
            panic!("the chart joins by one name")
        };
        let service = service.as_str().expect("a name").to_owned();
        for node in &mut self.nodes {
            if program.precedes_chart {
                set(&mut config, "swarm", "advertise", vec![Value::from(node.address())].into());
            }
            node.configure(&config, SECRET, &service, &addresses);
            node.start_agent(program).await;
        }
        self.until_met().await;
    }

    /// The configuration of the chart's manifests. What differs is what no two clusters have in common (the registry), and the room that has to stay free on a disk that is not the cluster's.
    fn config(&self) -> Table {
        let manifests = fs::read_to_string(helm::deploy().join("manifests/shoal.yaml"));
        let rendered = Rendered::parse(manifests.expect("the manifests are in the checkout"));
        let [(_, text)] = &rendered.configurations()[..] else { panic!("one configuration is expected") };
        let mut config: Table = text.parse().expect("the configuration is TOML");
        set(&mut config, "store", "disk_free_min", "1MiB".into());
        let upstream = format!("[registries.'{REGISTRY}']\nendpoint = '{}'", self.registry.url());
        let upstream: Table = upstream.parse().expect("the table is TOML");
        config.insert("upstream".into(), upstream.into());
        config
    }

    /// Waits until every agent is ready and knows all others.
    pub async fn until_met(&self) {
        for node in &self.nodes {
            node.until_member_of(NODES).await;
        }
    }

    /// Has every containerd ask its agent first, which is of this program or of an older one.
    pub async fn point_runtimes(&self, program: &Program, agent: &Program) {
        let config = config_path();
        let more: &[&str] = if agent.precedes_chart { &["--unchecked"] } else { &[] };
        let install = ["install", "--config", &config, "--registry", REGISTRY, "--default"];
        for node in &self.nodes {
            let version = ["--containerd-version", node.containerd_version()];
            let arguments = [&install[..], &version, more].concat();
            node.runtime(program, &arguments).await.expect_ok("shoal runtime install");
        }
    }

    /// Replaces the agent of a node, as a rolling update of the DaemonSet does, while every node pulls what all have stored. The
    /// new agent serves it from what the old one has left.
    pub async fn replace_agent(&mut self, node: usize, program: &Program, load: &Load) {
        self.nodes[node].stop_agent().await;
        self.nodes[node].start_agent(program).await;
        self.until_met().await;
        load.next_pulls().await;
        assert!(self.nodes[node].has_needed_nobody(), "the store of the agent before is lost");
    }

    /// Takes the agents away: first from the runtimes, then altogether.
    pub async fn uninstall(&mut self, program: &Program) {
        for node in &mut self.nodes {
            node.runtime(program, &["uninstall"]).await.expect_ok("shoal runtime uninstall");
            node.stop_agent().await;
        }
    }

    /// Every node's containerd.
    pub fn runtimes(&self) -> impl Iterator<Item = Cri> {
        self.nodes.iter().map(Node::cri)
    }

    /// Has every node pull a release, as if it did not have it, all at once.
    pub async fn pull(&self, release: &Release) {
        let pulls: Vec<_> = self
            .runtimes()
            .map(|runtime| {
                let name = release.name.clone();
                tokio::spawn(async move {
                    runtime.remove(&name).await?;
                    runtime.pull(&name).await
                })
            })
            .collect();
        for pull in pulls {
            let pulled = pull.await.expect("a pull does not panic");
            pulled.unwrap_or_else(|e| panic!("{}: {e:#}", release.name));
        }
    }

    /// Runs a pod from a release on every node, in which its data is checked.
    pub async fn run_pods(&self, release: &Release) {
        let command = release.check.each_ref().map(String::as_str);
        for node in &self.nodes {
            let runtime = node.cri();
            let pod = runtime.run_pod("app").await.unwrap_or_else(|e| panic!("{e:#}"));
            let code = runtime.run_container(&pod, &release.name, &command).await;
            assert_eq!(code.unwrap_or_else(|e| panic!("{e:#}")), 0, "the data in the image is other data");
            runtime.remove_pod(pod).await.unwrap_or_else(|e| panic!("{e:#}"));
        }
    }

    /// Waits until [`Cluster::blob_gets`] knows of all that the registry has answered.
    pub async fn until_calm(&self) {
        self.registry.until_calm().await;
    }

    /// How often these clients have asked the registry for the blobs of a release, each.
    pub fn blob_gets(&self, clients: &str, release: &Release) -> Vec<usize> {
        release.image.blobs().map(|blob| self.registry.blob_gets_by(clients, &blob.digest)).collect()
    }
}

/// Lines that the operator wrote before there was an agent.
fn hosts(registry: &str) -> [(&'static str, String); 2] {
    [
        (
            REGISTRY,
            format!(
                "# The team's registry has no TLS.\nserver = \"{registry}\"\n\n[host.\"{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ),
        ),
        ("docker.io", "server = 'https://registry-1.docker.io' # unchanged\n".to_owned()),
    ]
}

fn set(config: &mut Table, table: &str, key: &str, value: Value) {
    let table = config[table].as_table_mut().expect("the chart sets it");
    table.insert(key.to_owned(), value);
}
