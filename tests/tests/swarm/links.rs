//! When the network breaks, or all that is behind it: a zone in the middle of a rollout, a firewall, everybody at once. Each agent has
//! a network namespace with a shaped link.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_agent::driver::OnItsOwn;
use shoal_tests::agent::Setup;
use shoal_tests::containerd;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::homes::homes;
use shoal_tests::http::Client;
use shoal_tests::image::{Blob, Image};
use shoal_tests::netns::{self, Network};
use shoal_tests::process::Process;
use shoal_tests::{place, wait};

use super::REPOSITORY;

/// Bits per second of the registry's link: the layer takes some seconds.
const ORIGIN_RATE: u64 = 30_000_000;
pub(super) const LINK_RATE: u64 = 200_000_000;
const LAYER_BYTES: usize = 12_000_000;
const SMALL_LAYER_BYTES: usize = 3_000_000;
/// Where agents send pieces from.
const DATA_PORT: u16 = 5002;
/// Nodes of the network: the registry, then the agents of one zone, then those of the other.
pub(super) const REGISTRY: usize = 0;
pub(super) const NEAR: std::ops::Range<usize> = 1..4;
pub(super) const FAR: std::ops::Range<usize> = 4..7;
/// How soon a zone that is cut off is on no list any more, and how soon all are on one again.
const NOTICE_MAX: Duration = Duration::from_secs(30);

/// An agent in its namespace.
pub(super) struct Node {
    pub(super) setup: Setup,
    pub(super) process: Process,
}

impl Node {
    fn start(network: &Network, node: usize, origin: &str, secret: &std::path::Path) -> Self {
        let zone = if NEAR.contains(&node) { "near" } else { "far" };
        let join = [NEAR.start, FAR.start].map(|node| IpAddr::from(netns::address(node)));
        let setup = Setup::new(origin)
            .registry(containerd::REGISTRY, origin)
            .swarm(secret, &join)
            .set("swarm.listen", vec![toml::Value::from(netns::address(node).to_string())])
            .set("swarm.zone", zone);
        let mut command = network.command(node, &place::shoal_bin());
        command.arg("agent").arg("--config").arg(setup.write());
        let process = Process::spawn("shoal agent", &mut command, &setup.folder().join("log"));
        Node { process: process.expect("the agent starts"), setup }
    }

    pub(super) fn admin(&self) -> AdminClient {
        AdminClient::new(&self.setup.socket())
    }

    async fn until_members(&self, members: usize) {
        wait::until(format!("{members} members to be known"), NOTICE_MAX, || async {
            self.admin().peers().await.is_ok_and(|peers| peers.members.len() == members)
        })
        .await;
    }

    /// Why it has fetched a layer by itself.
    async fn reason(&self, layer: &Blob) -> Option<OnItsOwn> {
        let digest = layer.digest.parse().expect("a digest");
        self.admin().explain(&digest).await.expect("the agent runs").on_its_own
    }

    async fn upstream_bytes(&self) -> u64 {
        self.admin().status().await.map_or(0, |status| status.upstream_bytes.values().sum())
    }

    /// Begins a pull of the layer by a client beside the agent, which compares every byte.
    pub(super) fn begin(
        &self,
        network: &Network,
        node: usize,
        layer: &Blob,
    ) -> tokio::task::JoinHandle<Duration> {
        let registry = self.setup.registry_address();
        let url =
            format!("http://{registry}/v2/{REPOSITORY}/blobs/{}?ns={}", layer.digest, containerd::REGISTRY);
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

/// A registry with an image, and the agents of both zones, which know each other.
pub(super) async fn start(
    network: &Network,
    folder: &std::path::Path,
    image: &Image,
) -> (DockerRegistry, Vec<(usize, Node)>) {
    let registry = DockerRegistry::start_in(network, REGISTRY, folder).expect("the registry starts");
    let (url, pushed) = (registry.url(), image.clone());
    network
        .block_on(REGISTRY, move || async move {
            docker_registry::push_to(&url, None, REPOSITORY, "v1", &pushed).await;
        })
        .expect("the image is pushed");
    let secret = folder.join("secret");
    std::fs::write(&secret, "a secret of this test alone").expect("the folder is ours");
    let start = |node| (node, Node::start(network, node, &registry.url(), &secret));
    let nodes: Vec<_> = (NEAR.start..FAR.end).map(start).collect();
    for (_, node) in &nodes {
        node.until_members(nodes.len()).await;
    }
    (registry, nodes)
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
    let (_registry, nodes) = start(&network, folder.path(), &image).await;

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

/// All others have a layer and are of no use: their ports for pieces are firewalled, those who know who has it are cut off, all are,
/// or they stand still. Then they are of use again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_of_no_use_is_done_without() {
    place::needs_root();
    let network = Network::new(&[LINK_RATE; FAR.end]).expect("namespaces can be made");
    let folder = place::scratch();
    let image = Image::new(896, &[SMALL_LAYER_BYTES; 5]);
    let (_registry, mut nodes) = start(&network, folder.path(), &image).await;
    let admins: Vec<_> = nodes.iter().map(|(_, node)| node.admin()).collect();
    let homes = homes(&admins, &image.layers[4]).await.expect("the agents run");
    let homes: Vec<usize> = homes.into_iter().map(|place| nodes[place].0).collect();
    // The first one is none of the homes of the last layer.
    let other =
        nodes.iter().position(|(number, _)| !homes.contains(number)).expect("there are more than three");
    nodes.swap(0, other);
    let [(asker, asking), others @ ..] = &nodes[..] else { unreachable!("there are agents") };
    for (number, node) in others {
        for layer in &image.layers {
            // One after the other: those that come later have it from the first.
            node.begin(&network, *number, layer).await.expect("it ends well");
        }
    }
    let [firewalled, cut_off, still, healed, homeless] = &image.layers[..] else {
        unreachable!("there are five")
    };
    let network = &network;
    let pull = |layer| async move {
        let before = asking.upstream_bytes().await;
        let took = asking.begin(network, *asker, layer).await.expect("it ends well");
        (took, asking.upstream_bytes().await - before)
    };
    // Members whose port for pieces cannot be reached have no round-trip time.
    let all_again = || async {
        for (_, node) in &nodes {
            node.until_members(nodes.len()).await;
        }
        wait::until("everybody to be reached", NOTICE_MAX, || async {
            let peers = asking.admin().peers().await.expect("the agent runs");
            peers.members.iter().all(|member| member.is_self || member.latency_ms.is_some())
        })
        .await;
    };

    nodes
        .iter()
        .try_for_each(|(number, _)| network.drop_port(*number, DATA_PORT))
        .expect("iptables is there");
    let pulled = pull(firewalled).await;
    println!("the ports for pieces are firewalled: {pulled:.1?}");
    assert_eq!(asking.reason(firewalled).await, Some(OnItsOwn::NoHelp));
    assert_eq!(pulled.1, firewalled.len(), "one copy");
    nodes.iter().try_for_each(|(number, _)| network.heal(*number)).expect("the network is healed");
    all_again().await;

    for home in &homes {
        network.unplug(*home).expect("its link goes down");
    }
    let pulled = pull(homeless).await;
    println!("its homes are cut off: {pulled:.1?}");
    assert_eq!(asking.reason(homeless).await, None);
    assert_eq!(pulled.1, 0, "it comes from the others");
    others.iter().try_for_each(|(number, _)| network.heal(*number)).expect("links come back");
    all_again().await;

    others.iter().try_for_each(|(number, _)| network.unplug(*number)).expect("links go down");
    let pulled = pull(cut_off).await;
    println!("the others are cut off: {pulled:.1?}");
    assert_eq!(pulled.1, cut_off.len(), "one copy");
    others.iter().try_for_each(|(number, _)| network.heal(*number)).expect("links come back");
    all_again().await;

    others.iter().for_each(|(_, node)| node.process.signal(libc::SIGSTOP));
    let pulled = pull(still).await;
    others.iter().for_each(|(_, node)| node.process.signal(libc::SIGCONT));
    println!("the others stand still: {pulled:.1?}");
    assert_eq!(pulled.1, still.len(), "one copy");
    all_again().await;

    let pulled = pull(healed).await;
    println!("they are of use again: {pulled:.1?}");
    assert_eq!(asking.reason(healed).await, None);
    assert_eq!(pulled.1, 0, "it comes from the others");
}
