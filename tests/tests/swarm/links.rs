//! When the network breaks, or all that is behind it: a zone in the middle of a rollout, a firewall, everybody at once. Each agent has
//! a network namespace with a shaped link.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_agent::driver::OnItsOwn;
use shoal_tests::agent::Setup;
use shoal_tests::cluster::{DATA_PORT, PORT};
use shoal_tests::containerd;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::homes::homes;
use shoal_tests::image::{Blob, Image};
use shoal_tests::inside::{Busy, Node};
use shoal_tests::netns::{self, Network};
use shoal_tests::{place, wait};
use tokio::task::JoinHandle;

use super::{REPOSITORY, TRIES_MAX, exact};

/// Bits per second of the registry's link: the layer takes some seconds.
const ORIGIN_RATE: u64 = 30_000_000;
/// The same where something happens in the middle, which is not to be over when it does.
const LONG_ORIGIN_RATE: u64 = ORIGIN_RATE / 2;
pub(super) const LINK_RATE: u64 = 200_000_000;
const LAYER_BYTES: usize = 12_000_000;
/// It comes in less than three seconds, in which it is not worth while that a second member fetches a part.
const ZONED_LAYER_BYTES: usize = 9_000_000;
const SMALL_LAYER_BYTES: usize = 3_000_000;
/// Nodes of the network: the registry, then the agents of one zone, then those of the other.
pub(super) const REGISTRY: usize = 0;
pub(super) const NEAR: std::ops::Range<usize> = 1..4;
pub(super) const FAR: std::ops::Range<usize> = 4..7;
/// How soon a zone that is cut off is on no list any more, and how soon all are on one again.
const NOTICE_MAX: Duration = Duration::from_secs(30);
/// How long the registry may take to write down what it has sent.
const LOG_MAX: Duration = Duration::from_secs(10);

/// A registry with an image, and the agents of both zones, which know each other.
async fn start<'n>(network: &'n Network, folder: &Path, image: &Image) -> (DockerRegistry, Vec<Node<'n>>) {
    start_with(network, folder, image, |_, setup| setup).await
}

/// The same, with a say in how each agent is set up, by its place among them.
pub(super) async fn start_with<'n>(
    network: &'n Network,
    folder: &Path,
    image: &Image,
    each: impl Fn(usize, Setup) -> Setup,
) -> (DockerRegistry, Vec<Node<'n>>) {
    let registry = DockerRegistry::start_in(network, REGISTRY, folder).expect("the registry starts");
    let (url, pushed) = (registry.url(), image.clone());
    network
        .block_on(REGISTRY, move || async move {
            docker_registry::push_to(&url, None, REPOSITORY, "v1", &pushed).await;
        })
        .expect("the image is pushed");
    let secret = folder.join("secret");
    std::fs::write(&secret, "a secret of this test alone").expect("the folder is ours");
    let join = [NEAR.start, FAR.start].map(|node| IpAddr::from(netns::address(node)));
    let origin = registry.url();
    let start = |node: usize| {
        let setup = Setup::new(&origin)
            .registry(containerd::REGISTRY, &origin)
            .swarm(&secret, &join)
            .set("swarm.listen", vec![toml::Value::from(netns::address(node).to_string())])
            .set("swarm.zone", if NEAR.contains(&node) { "near" } else { "far" });
        Node::start(network, node, each(node - NEAR.start, setup))
    };
    let nodes: Vec<_> = (NEAR.start..FAR.end).map(start).collect();
    until_members(&nodes, nodes.len()).await;
    (registry, nodes)
}

/// Waits until each of these knows so many members.
pub(super) async fn until_members(nodes: &[Node<'_>], members: usize) {
    for node in nodes {
        node.until_members(members, NOTICE_MAX).await;
    }
}

/// Begins a pull of a blob by a client beside an agent, which compares every byte.
pub(super) fn begin(node: &Node<'_>, blob: &Blob) -> JoinHandle<Duration> {
    node.begin(containerd::REGISTRY, REPOSITORY, blob)
}

/// Lets a client beside each of these pull a blob, all at once. All of them get every byte; how long the last one took.
async fn pull_at_once(nodes: &[Node<'_>], blob: &Blob) -> Duration {
    let mut last = Duration::ZERO;
    for pull in nodes.iter().map(|node| begin(node, blob)).collect::<Vec<_>>() {
        last = last.max(pull.await.expect("it ends well"));
    }
    last
}

/// Why an agent has fetched a layer by itself.
async fn reason(node: &Node<'_>, layer: &Blob) -> Option<OnItsOwn> {
    let digest = layer.digest.parse().expect("a digest");
    node.admin().explain(&digest).await.expect("the agent runs").on_its_own
}

/// Bytes that all of these have received from upstream.
pub(super) async fn upstream_bytes(nodes: &[Node<'_>]) -> u64 {
    let mut sum = 0;
    for node in nodes {
        sum += node.upstream_bytes().await;
    }
    sum
}

/// Copies of some blobs that have left the registry, by its access log. It tells of a request when that is over, so those copies are
/// waited for that it must have sent.
pub(super) async fn copies(registry: &DockerRegistry, blobs: &[Blob], least: usize) -> f64 {
    let size: u64 = blobs.iter().map(Blob::len).sum();
    let sent = || blobs.iter().map(|blob| registry.blob_bytes(&blob.digest)).sum::<u64>();
    let what = format!("the registry to have told of {least} copies");
    wait::until_true(what, LOG_MAX, || sent() >= least as u64 * size).await;
    sent() as f64 / size as f64
}

/// All agents' links are fast; the registry's has this rate.
pub(super) fn slow_registry(rate: u64) -> Network {
    let mut rates = vec![LINK_RATE; FAR.end];
    rates[REGISTRY] = rate;
    Network::new(&rates).expect("namespaces can be made")
}

/// A zone's link is pulled and comes back. Those on the registry's side end meanwhile, the others after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_of_a_zone_is_pulled() {
    place::needs_root();
    // Where the machine stood still until the layer was there, another one is begun.
    exact(895, async |seed| cut_off_in_the_middle(seed).await.then_some(())).await;
}

/// A rollout on a network of its own, and whether the zone was cut off in the middle of it.
async fn cut_off_in_the_middle(seed: u64) -> bool {
    let network = slow_registry(LONG_ORIGIN_RATE);
    let zone = network.zone(FAR).expect("a bridge can be made");
    let folder = place::scratch();
    let image = Image::new(seed, &[LAYER_BYTES]);
    let layer = &image.layers[0];
    let (registry, nodes) = start(&network, folder.path(), &image).await;

    let busy = Busy::from_now(&nodes);
    let mut pulls: Vec<_> = nodes.iter().map(|node| begin(node, layer)).collect();
    wait::until("a third of the layer", NOTICE_MAX, || async {
        upstream_bytes(&nodes).await > layer.len() / 3
    })
    .await;
    zone.set_link(false).expect("the link goes down");
    let upstream = upstream_bytes(&nodes).await;
    if upstream >= layer.len() {
        println!("the link was pulled too late: {upstream} bytes have come");
        zone.set_link(true).expect("the link comes back");
        for pull in pulls {
            pull.await.expect("it ends well");
        }
        return false;
    }
    let far = pulls.split_off(NEAR.len());
    for near in pulls {
        println!("on the registry's side: {:.1?}", near.await.expect("it ends well without the others"));
    }
    until_members(&nodes[..1], NEAR.len()).await;
    assert!(far.iter().all(|pull| !pull.is_finished()), "nothing comes to the zone that is cut off");
    zone.set_link(true).expect("the link comes back");
    let back = Instant::now();
    for pull in far {
        println!("cut off for a while: {:.1?}", pull.await.expect("it ends well afterwards"));
    }
    println!("{:.1?} after the link came back", back.elapsed());
    println!("{}", busy.until_now(&nodes));
    let copies = copies(&registry, &image.layers, 1).await;
    println!("{copies:.2} copies of the layer left the registry");
    // One for each side, for neither has what the other one got meanwhile; and what was on its way is lost.
    assert!(copies < 2.6, "{copies} copies");
    until_members(&nodes, nodes.len()).await;
    true
}

/// Nothing fails. A zone takes in about one copy, from the registry or from the other zone, and passes it on within.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_enters_a_zone_about_once() {
    place::needs_root();
    let network = slow_registry(ORIGIN_RATE);
    let zone = network.zone(FAR).expect("a bridge can be made");
    let folder = place::scratch();
    let image = Image::new(898, &[ZONED_LAYER_BYTES]);
    let layer = &image.layers[0];
    let (registry, nodes) = start(&network, folder.path(), &image).await;

    let busy = Busy::from_now(&nodes);
    let before = zone.entered_bytes().expect("the link counts");
    let last = pull_at_once(&nodes, layer).await;
    let entered = zone.entered_bytes().expect("the link counts") - before;
    println!("the last one has it after {last:.1?}");
    println!("{}", busy.until_now(&nodes));
    let (entered, copies) = (entered as f64 / layer.len() as f64, copies(&registry, &image.layers, 1).await);
    println!(
        "{entered:.2} copies entered the zone, with all headers and messages; {copies:.2} left the registry"
    );
    assert!(entered > 1.0, "{entered} copies: they came by another way");
    assert!(entered < 1.5, "{entered} copies entered the zone");
    assert!(copies < 1.5, "{copies} copies left the registry");
}

/// Members can send each other no pieces, then nothing at all, and everybody asks at once: each gets every byte from the registry, and
/// nobody asks there again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ask_at_once_behind_closed_ports() {
    place::needs_root();
    let network = Network::new(&[LINK_RATE; FAR.end]).expect("namespaces can be made");
    let folder = place::scratch();
    let image = Image::new(899, &[SMALL_LAYER_BYTES; 2 * TRIES_MAX as usize]);
    let (registry, nodes) = start(&network, folder.path(), &image).await;
    // Whoever is on its own after it has fetched a part for all asks once more.
    let cases = [("pieces", DATA_PORT, 2 * nodes.len()), ("messages, too", PORT, nodes.len())];
    for ((what, port, requests_max), first) in cases.into_iter().zip((0..).step_by(TRIES_MAX as usize)) {
        let close = |node: &Node<'_>| {
            network.drop_port(node.number, port)?;
            network.drop_from_port(node.number, port)
        };
        nodes.iter().try_for_each(close).expect("iptables is there");
        exact(first, async |number| {
            let layer = &image.layers[number as usize];
            let busy = Busy::from_now(&nodes);
            let last = pull_at_once(&nodes, layer).await;
            println!("no ports for {what}: the last one has it after {last:.1?}");
            println!("{}", busy.until_now(&nodes));
            let copies = copies(&registry, std::slice::from_ref(layer), nodes.len()).await;
            let by_node =
                |node: &Node<'_>| registry.blob_gets_from(netns::address(node.number).into(), &layer.digest);
            wait::until_true("all to have asked the registry", LOG_MAX, || {
                nodes.iter().all(|node| by_node(node) > 0)
            })
            .await;
            let requests: Vec<usize> = nodes.iter().map(by_node).collect();
            println!(
                "{copies:.2} copies of the layer left the registry; requests of each node: {requests:?}"
            );
            let sum = requests.iter().sum::<usize>();
            assert!(sum <= 2 * requests_max, "{requests:?}, {requests_max} at most");
            assert!(copies < nodes.len() as f64 + 1.0, "{copies} copies");
            // Two that fetch for all share the work in several parts if the registry is slow at the start.
            (sum <= requests_max).then_some(())
        })
        .await;
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
    let admins: Vec<_> = nodes.iter().map(Node::admin).collect();
    let homes = homes(&admins, &image.layers[4]).await.expect("the agents run");
    let homes: Vec<usize> = homes.into_iter().map(|place| nodes[place].number).collect();
    // The first one is none of the homes of the last layer.
    let other =
        nodes.iter().position(|node| !homes.contains(&node.number)).expect("there are more than three");
    nodes.swap(0, other);
    let [asking, others @ ..] = &nodes[..] else { unreachable!("there are agents") };
    for node in others {
        for layer in &image.layers {
            // One after the other: those that come later have it from the first.
            begin(node, layer).await.expect("it ends well");
        }
    }
    let [firewalled, cut_off, still, healed, homeless] = &image.layers[..] else {
        unreachable!("there are five")
    };
    let pull = |layer| async move {
        let before = asking.upstream_bytes().await;
        let took = begin(asking, layer).await.expect("it ends well");
        (took, asking.upstream_bytes().await - before)
    };
    // Members whose port for pieces cannot be reached have no round-trip time.
    let all_again = || async {
        until_members(&nodes, nodes.len()).await;
        wait::until("everybody to be reached", NOTICE_MAX, || async {
            let peers = asking.admin().peers().await.expect("the agent runs");
            peers.members.iter().all(|member| member.is_self || member.latency_ms.is_some())
        })
        .await;
    };

    nodes.iter().try_for_each(|node| network.drop_port(node.number, DATA_PORT)).expect("iptables is there");
    let pulled = pull(firewalled).await;
    println!("the ports for pieces are firewalled: {pulled:.1?}");
    assert_eq!(reason(asking, firewalled).await, Some(OnItsOwn::NoHelp));
    assert_eq!(pulled.1, firewalled.len(), "one copy");
    nodes.iter().try_for_each(|node| network.heal(node.number)).expect("the network is healed");
    all_again().await;

    for home in &homes {
        network.unplug(*home).expect("its link goes down");
    }
    let pulled = pull(homeless).await;
    println!("its homes are cut off: {pulled:.1?}");
    assert_eq!(reason(asking, homeless).await, None);
    assert_eq!(pulled.1, 0, "it comes from the others");
    others.iter().try_for_each(|node| network.heal(node.number)).expect("links come back");
    all_again().await;

    others.iter().try_for_each(|node| network.unplug(node.number)).expect("links go down");
    let pulled = pull(cut_off).await;
    println!("the others are cut off: {pulled:.1?}");
    assert_eq!(pulled.1, cut_off.len(), "one copy");
    others.iter().try_for_each(|node| network.heal(node.number)).expect("links come back");
    all_again().await;

    others.iter().for_each(Node::stop);
    let pulled = pull(still).await;
    others.iter().for_each(Node::go_on);
    println!("the others stand still: {pulled:.1?}");
    assert_eq!(pulled.1, still.len(), "one copy");
    all_again().await;

    let pulled = pull(healed).await;
    println!("they are of use again: {pulled:.1?}");
    assert_eq!(reason(asking, healed).await, None);
    assert_eq!(pulled.1, 0, "it comes from the others");
}
