//! When the network between zones breaks in the middle of a rollout. Each agent has a network namespace with a shaped link.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::agent::Setup;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::http::Client;
use shoal_tests::image::{Blob, Image};
use shoal_tests::netns::{self, Network};
use shoal_tests::process::Process;
use shoal_tests::{place, wait};

use super::REPOSITORY;

/// Bits per second of the registry's link: the layer takes some seconds.
const ORIGIN_RATE: u64 = 30_000_000;
const LINK_RATE: u64 = 200_000_000;
const LAYER_BYTES: usize = 12_000_000;
/// Nodes of the network: the registry, then the agents of one zone, then those of the other.
const REGISTRY: usize = 0;
const NEAR: std::ops::Range<usize> = 1..4;
const FAR: std::ops::Range<usize> = 4..7;
/// How soon a zone that is cut off is on no list any more, and how soon all are on one again.
const NOTICE_MAX: Duration = Duration::from_secs(30);

/// An agent in its namespace.
struct Node {
    setup: Setup,
    _process: Process,
}

impl Node {
    fn start(network: &Network, node: usize, origin: &str, secret: &std::path::Path) -> Self {
        let zone = if NEAR.contains(&node) { "near" } else { "far" };
        let join = [NEAR.start, FAR.start].map(|node| IpAddr::from(netns::address(node)));
        let setup = Setup::new(origin)
            .swarm(secret, &join)
            .set("swarm.listen", vec![toml::Value::from(netns::address(node).to_string())])
            .set("swarm.zone", zone);
        let mut command = network.command(node, &place::shoal_bin());
        command.arg("agent").arg("--config").arg(setup.write());
        let process = Process::spawn("shoal agent", &mut command, &setup.folder().join("log"));
        Node { _process: process.expect("the agent starts"), setup }
    }

    fn admin(&self) -> AdminClient {
        AdminClient::new(&self.setup.socket())
    }

    async fn until_members(&self, members: usize) {
        wait::until(format!("{members} members to be known"), NOTICE_MAX, || async {
            self.admin().peers().await.is_ok_and(|peers| peers.members.len() == members)
        })
        .await;
    }

    async fn upstream_bytes(&self) -> u64 {
        self.admin().status().await.map_or(0, |status| status.upstream_bytes.values().sum())
    }

    /// Begins a pull of the layer by a client beside the agent, which compares every byte.
    fn begin(&self, network: &Network, node: usize, layer: &Blob) -> tokio::task::JoinHandle<Duration> {
        let registry = self.setup.registry_address();
        let url = format!(
            "http://{registry}/v2/{REPOSITORY}/blobs/{}?ns={}",
            layer.digest,
            shoal_tests::agent::REGISTRY
        );
        let bytes = layer.bytes.clone();
        let client = network.inside(node, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let begun = Instant::now();
            runtime.block_on(async { Client::patient().get(&url).await.expect(200, &bytes) });
            std::io::Result::Ok(begun.elapsed())
        });
        tokio::task::spawn_blocking(move || {
            client
                .join()
                .expect("the client gets every byte")
                .expect("its namespace is there")
                .expect("it runs")
        })
    }
}

/// A zone's link is pulled and comes back. Those on the registry's side end meanwhile, the others after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_of_a_zone_is_pulled() {
    place::needs_root();
    let mut rates = vec![LINK_RATE; FAR.end];
    rates[REGISTRY] = ORIGIN_RATE;
    let network = Network::new(&rates).expect("namespaces can be made");
    let zone = network.zone(FAR).expect("a bridge can be made");
    let folder = place::scratch();
    let image = Image::new(895, &[LAYER_BYTES]);
    let layer = &image.layers[0];
    let registry = DockerRegistry::start_in(&network, REGISTRY, folder.path()).expect("the registry starts");
    let (url, pushed) = (registry.url(), image.clone());
    network
        .block_on(REGISTRY, move || async move {
            docker_registry::push_to(&url, None, REPOSITORY, "v1", &pushed).await;
        })
        .expect("the image is pushed");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret of this test alone").expect("the folder is ours");
    let nodes: Vec<_> = (NEAR.start..FAR.end)
        .map(|node| (node, Node::start(&network, node, &registry.url(), &secret)))
        .collect();
    for (_, node) in &nodes {
        node.until_members(nodes.len()).await;
    }

    let mut pulls: Vec<_> = nodes.iter().map(|(number, node)| node.begin(&network, *number, layer)).collect();
    let upstream = || async {
        let mut sum = 0;
        for (_, node) in &nodes {
            sum += node.upstream_bytes().await;
        }
        sum as usize
    };
    wait::until("a third of the layer", NOTICE_MAX, || async { upstream().await > LAYER_BYTES / 3 }).await;
    zone.set_link(false).expect("the link goes down");
    let far = pulls.split_off(NEAR.len());
    for near in pulls {
        println!("on the registry's side: {:.1?}", near.await.expect("it ends well without the others"));
    }
    nodes[0].1.until_members(NEAR.len()).await;
    assert!(far.iter().all(|pull| !pull.is_finished()), "nothing comes to the zone that is cut off");
    zone.set_link(true).expect("the link comes back");
    let back = Instant::now();
    for pull in far {
        println!("cut off for a while: {:.1?}", pull.await.expect("it ends well afterwards"));
    }
    let copies = upstream().await as f64 / LAYER_BYTES as f64;
    println!(
        "{:.1?} after the link came back; {copies:.2} copies of the layer left the registry",
        back.elapsed()
    );
    // One for each side, for neither has what the other one got meanwhile; and what was on its way is lost.
    assert!(copies < 2.6, "{copies} copies");
    for (_, node) in &nodes {
        node.until_members(nodes.len()).await;
    }
}
