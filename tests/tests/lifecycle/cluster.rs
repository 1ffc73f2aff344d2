//! The cluster: the registry, the nodes, and what is done on all nodes at once.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use shoal_tests::cri::Cri;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::helm::{self, Rendered};
use shoal_tests::image::{self, Blob, Image};
use shoal_tests::netns::Network;
use shoal_tests::place;
use tempfile::TempDir;
use toml::{Table, Value};

use super::node::{Node, config_path};

/// The registry of the images, as their names have it.
const REGISTRY: &str = "registry.test";
const REPOSITORY: &str = "team/app";
/// Whose requests the registry sees.
pub const AGENTS: &str = "shoal/";
pub const RUNTIMES: &str = "containerd/";
/// The registry's node in the network. The nodes of the cluster come after it.
const REGISTRY_NODE: usize = 0;
/// Nodes of the cluster.
const NODES: usize = 3;
/// Bits per second of each link: not what bounds anything here.
const LINK: u64 = 10_000_000_000;
/// The only program in the image.
const PROGRAM: &str = "bin/busybox";
/// How long a process of a pod's sandbox stays: longer than the test.
const FOREVER: &str = "86400";

/// A version of the application: its image, and where its own file lies in it.
pub struct Release {
    /// `v1` and so on.
    tag: &'static str,
    /// As a pod names it.
    pub name: String,
    pub image: Image,
    file: String,
    sha256: String,
}

impl Release {
    /// One with this tag. The program is the same in all of them, and so is the layer that has it.
    pub fn new(tag: &'static str, seed: u64) -> Self {
        let program = place::program("busybox", "busybox-static");
        let program = fs::read(program).expect("an installed program can be read");
        let file = format!("data/{tag}");
        let data = image::noise(seed, 6_000_000);
        let sha256 = image::sha256(&data).replace("sha256:", "");
        let layers = vec![Blob::layer_of(PROGRAM, 0o755, &program), Blob::layer_of(&file, 0o644, &data)];
        let image = Image::of(layers, "amd64", &["/bin/busybox", "sleep", FOREVER]);
        Release { tag, name: format!("{REGISTRY}/{REPOSITORY}:{tag}"), image, file, sha256 }
    }

    /// Which of its blobs no other release has; the order is that of [`Cluster::blob_gets`].
    pub const OWN_LAYER: usize = 1;
}

/// All of it.
pub struct Cluster {
    pub nodes: Vec<Node>,
    registry: DockerRegistry,
    secret: String,
    // What the others stand on ends last.
    _network: Arc<Network>,
    _folder: TempDir,
}

impl Cluster {
    /// The registry with releases, and nodes on which nothing runs.
    pub fn new(releases: [&Release; 2]) -> Self {
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
        let secret = image::sha256(format!("{:?}", folder.path()).as_bytes());
        Cluster { nodes, registry, secret, _network: network, _folder: folder }
    }

    /// Starts containerd on every node.
    pub async fn start_runtimes(&mut self) {
        for node in &mut self.nodes {
            node.start_containerd().await;
        }
    }

    /// Starts an agent on every node, all at once, and waits until all know each other.
    pub async fn install(&mut self, program: &Path) {
        let config = self.config();
        for node in &mut self.nodes {
            node.configure(&config, &self.secret);
            node.start_agent(program);
        }
        self.until_met().await;
    }

    /// The configuration of the chart's manifests. What differs is what no two clusters have in common (the names of the members,
    /// the registry), and the room that has to stay free on a disk that is not the cluster's.
    fn config(&self) -> String {
        let manifests = fs::read_to_string(helm::deploy().join("manifests/shoal.yaml"));
        let rendered = Rendered::parse(manifests.expect("the manifests are in the checkout"));
        let [(_, text)] = &rendered.configurations()[..] else { panic!("one configuration is expected") };
        let mut config: Table = text.parse().expect("the configuration is TOML");
        let members: Vec<Value> = self.nodes.iter().map(|node| node.address().into()).collect();
        set(&mut config, "swarm", "join", members.into());
        set(&mut config, "store", "disk_free_min", "1MiB".into());
        let upstream = format!("[registries.'{REGISTRY}']\nendpoint = '{}'", self.registry.url());
        let upstream: Table = upstream.parse().expect("the table is TOML");
        config.insert("upstream".into(), upstream.into());
        toml::to_string(&config).expect("a table is TOML")
    }

    /// Waits until every agent is ready and knows all others.
    pub async fn until_met(&self) {
        for node in &self.nodes {
            node.until_member_of(NODES).await;
        }
    }

    /// Has every containerd ask its agent first.
    pub async fn point_runtimes(&self, program: &Path, more: &[&str]) {
        let config = config_path();
        let install = ["install", "--config", &config, "--registry", REGISTRY, "--default"];
        for node in &self.nodes {
            let version = ["--containerd-version", node.containerd_version()];
            let arguments = [&install[..], &version, more].concat();
            node.runtime(program, &arguments).await.expect_ok("shoal runtime install");
        }
    }

    /// Replaces the agent of a node, as a rolling update of the DaemonSet does.
    pub async fn replace_agent(&mut self, node: usize, program: &Path) {
        self.nodes[node].stop_agent().await;
        self.nodes[node].start_agent(program);
        self.until_met().await;
    }

    /// Takes the agents away: first from the runtimes, then altogether.
    pub async fn uninstall(&mut self, program: &Path) {
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

    /// Runs a pod from a release on every node. The container ends well if the file in its image is what was built.
    pub async fn run_pods(&self, release: &Release) {
        let script = format!("echo '{}  /{}' | /{PROGRAM} sha256sum -c", release.sha256, release.file);
        let command = ["/bin/busybox", "sh", "-c", &script];
        for node in &self.nodes {
            let runtime = node.cri();
            let pod = runtime.run_pod("app").await.unwrap_or_else(|e| panic!("{e:#}"));
            let code = runtime.run_container(&pod, &release.name, &command).await;
            assert_eq!(code.unwrap_or_else(|e| panic!("{e:#}")), 0, "the image's file is another one");
            runtime.remove_pod(pod).await.unwrap_or_else(|e| panic!("{e:#}"));
        }
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
    table.insert(key.to_owned(), value).expect("the chart sets it");
}
