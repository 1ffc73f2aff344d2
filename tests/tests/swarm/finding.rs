//! How agents that know nobody find each other: by multicast, by IPv6 addresses, by names and services of a real DNS server. Each
//! agent has a network namespace of its own, and whatever the test is not about is at its default. Only how long many of them take, and
//! what they ask for together then, is looked at on loopback addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::agent::{REGISTRY, Setup, shoal};
use shoal_tests::cluster::{Cluster, PORT};
use shoal_tests::dns::DnsServer;
use shoal_tests::docker_registry::{self, DockerRegistry};
use shoal_tests::homes::homes;
use shoal_tests::image::{Blob, Image};
use shoal_tests::inside::Node;
use shoal_tests::netns::{self, Network};
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::prewarm::json;
use super::tags::{asked, resolve};
use super::{HOMES, REPOSITORY, exact};

/// Bits per second of each node's link.
const LINK_RATE: u64 = 200_000_000;
/// Bytes of a layer: enough for several classes of pieces, so that several streams are opened at once.
const LAYER_BYTES: usize = 3_200_000;
/// The node of the registry, and its port.
const REGISTRY_NODE: usize = 0;
const REGISTRY_PORT: u16 = 5000;
/// The node of the DNS server.
const DNS_NODE: usize = 0;
/// An origin where nothing is to be pulled.
const NOWHERE: &str = "http://127.0.0.1:1";
/// How soon agents have found each other: some rounds of discovery, which are two seconds apart while an agent is alone.
const MEET_MAX: Duration = Duration::from_secs(25);
/// Layers of which one has to go round: while one of two members stands still for a moment, the other one takes itself for alone and
/// asks upstream. From a member that cannot be reached none comes.
const TRIES: u64 = 3;

/// Waits until all of these know each other, and nobody else.
async fn until_met(nodes: &[Node<'_>]) {
    until_agreed(&nodes.iter().map(Node::admin).collect::<Vec<_>>()).await;
}

async fn until_agreed(agents: &[AdminClient]) {
    wait::until(format!("{} members to agree who they are", agents.len()), MEET_MAX, || async {
        let mut rosters = Vec::new();
        for agent in agents {
            let members = agent.peers().await.map_or_else(|_| Vec::new(), |peers| peers.members);
            rosters.push(members.into_iter().map(|member| member.peer).collect::<BTreeSet<String>>());
        }
        rosters.iter().all(|roster| roster.len() == agents.len() && *roster == rosters[0])
    })
    .await;
}

async fn until_alone(node: &Node<'_>) {
    node.until_members(1, wait::START_MAX).await;
}

/// A pull of a blob by a client beside the agent, which compares every byte. How many of them came from upstream.
async fn pull(node: &Node<'_>, blob: &Blob) -> u64 {
    let before = node.upstream_bytes().await;
    node.begin(REGISTRY, REPOSITORY, blob).await.expect("the client gets every byte");
    node.upstream_bytes().await - before
}

fn secret(folder: &Path) -> PathBuf {
    let path = folder.join("secret");
    std::fs::write(&path, "a secret of this test alone").expect("the folder is ours");
    path
}

/// A member that is told of nobody, and listens wherever it does by default.
fn member(secret: &Path, origin: &str) -> Setup {
    Setup::new(origin).set("swarm.secret_file", secret.display().to_string())
}

/// The registry's URL at one of its node's addresses.
fn registry_at(address: impl Into<IpAddr>) -> String {
    format!("http://{}", SocketAddr::new(address.into(), REGISTRY_PORT))
}

/// A registry that is reached over IPv4 and over IPv6.
fn start_registry(network: &Network, folder: &Path) -> DockerRegistry {
    network.add_v6(REGISTRY_NODE).expect("the kernel has IPv6");
    let program = place::program("docker-registry", "docker-registry");
    let command = network.command(REGISTRY_NODE, &program);
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, REGISTRY_PORT));
    let registry = DockerRegistry::start_by(command, folder, everywhere).expect("the registry starts");
    let at = SocketAddr::from((netns::address(REGISTRY_NODE), REGISTRY_PORT));
    network
        .block_on(REGISTRY_NODE, move || async move {
            wait::until("the registry to listen", wait::START_MAX, || async {
                TcpStream::connect(at).await.is_ok()
            })
            .await;
        })
        .expect("the registry listens");
    registry
}

fn push(network: &Network, image: &Image) {
    let (url, image) = (registry_at(netns::address(REGISTRY_NODE)), image.clone());
    network
        .block_on(REGISTRY_NODE, move || async move {
            docker_registry::push_to(&url, None, REPOSITORY, "v1", &image).await;
        })
        .expect("the image is pushed");
}

/// What a test has that pulls: namespaces, a registry in the first of them, and a secret.
struct Place {
    _registry: DockerRegistry,
    secret: PathBuf,
    _folder: TempDir,
    /// Last, for what runs in it goes before it.
    network: Network,
}

impl Place {
    fn new(nodes: usize) -> Self {
        place::needs_root();
        let network = Network::new(&vec![LINK_RATE; nodes]).expect("namespaces can be made");
        let folder = place::scratch();
        let registry = start_registry(&network, folder.path());
        Place { _registry: registry, secret: secret(folder.path()), _folder: folder, network }
    }

    /// An image of one layer that the registry has.
    fn pushed(&self, seed: u64) -> Image {
        let image = Image::new(seed, &[LAYER_BYTES]);
        push(&self.network, &image);
        image
    }
}

/// The first one pulls a layer from upstream. Whether all others have it from those that have it.
async fn is_shared(first: &Node<'_>, others: &[Node<'_>], layer: &Blob) -> bool {
    assert!(pull(first, layer).await >= layer.len(), "nobody else can have it");
    let mut from_upstream = Vec::new();
    for other in others {
        from_upstream.push(pull(other, layer).await);
    }
    println!("bytes from upstream after node {} has all: {from_upstream:?}", first.number);
    from_upstream.iter().all(|bytes| *bytes == 0)
}

/// The first one pulls a layer from upstream, all others have it from those that have it.
async fn expect_shared(place: &Place, nodes: &[Node<'_>], seed: u64) {
    let [first, others @ ..] = nodes else { unreachable!("there are agents") };
    for seed in seed..seed + TRIES {
        let image = place.pushed(seed);
        if is_shared(first, others, &image.layers[0]).await {
            return;
        }
    }
    panic!("of each layer something came from upstream again");
}

/// The next image, by its seed, whose layer's first home is this one of the agents. The registry has it.
async fn pushed_at_home(
    network: &Network,
    agents: &[AdminClient],
    home: usize,
    seeds: &mut Range<u64>,
) -> Image {
    for seed in seeds {
        let image = Image::new(seed, &[LAYER_BYTES]);
        if homes(agents, &image.layers[0]).await.expect("the agents run")[0] == home {
            push(network, &image);
            return image;
        }
    }
    panic!("each agent is the home of its part of all layers");
}

/// Whether all that members are told are addresses at which others can reach them.
async fn expect_far_addresses(nodes: &[Node<'_>]) {
    for node in nodes {
        for (member, addresses) in node.members().await {
            let is_far = |address: &SocketAddr| !address.ip().is_loopback();
            assert!(
                !addresses.is_empty() && addresses.iter().all(is_far),
                "node {} is told that {member} is at {addresses:?}",
                node.number
            );
        }
    }
}

/// Machines on a desk: nobody is told where others are, and each asks the local network. One of them comes when the others do not
/// ask any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_network_is_asked() {
    let place = Place::new(4);
    let (network, secret) = (&place.network, &place.secret);
    let origin = registry_at(netns::address(REGISTRY_NODE));
    let start = |number| Node::start(network, number, member(secret, &origin).set("swarm.mdns", true));

    let mut nodes = vec![start(1), start(2)];
    until_met(&nodes).await;
    nodes.push(start(3));
    until_met(&nodes).await;
    let socket = nodes[2].setup.socket().display().to_string();
    let told = json(&shoal(&["peers", "--json", "--socket", &socket]).await.expect_ok("shoal peers"));
    assert_eq!(told["members"].as_array().map(Vec::len), Some(3), "{told}");

    expect_far_addresses(&nodes).await;
    expect_shared(&place, &nodes, 1400).await;
}

/// Whoever listens everywhere tells others the addresses of its machine, of both kinds, and not those at which only it reaches itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_everywhere_says_where_it_is() {
    let place = Place::new(3);
    let (network, secret) = (&place.network, &place.secret);
    let origin = registry_at(netns::address(REGISTRY_NODE));
    let mut nodes = Vec::new();
    for (number, join) in [(1, Vec::new()), (2, vec![netns::address(1).to_string()])] {
        network.add_v6(number).expect("the kernel has IPv6");
        let setup = member(secret, &origin).set("swarm.listen", vec!["0.0.0.0", "::"]);
        nodes.push(Node::start(network, number, setup.set("swarm.join", join)));
    }
    until_met(&nodes).await;
    expect_far_addresses(&nodes).await;
    let mut known = BTreeSet::new();
    for (_, addresses) in nodes[1].members().await {
        known.extend(addresses.into_iter().map(|address| address.ip()));
    }
    for node in &nodes {
        let own: [IpAddr; 2] = [netns::address(node.number).into(), netns::address_v6(node.number).into()];
        assert!(own.iter().all(|ip| known.contains(ip)), "{own:?} are not all among {known:?}");
    }
    expect_shared(&place, &nodes, 1410).await;
}

/// A machine gets another address while its agent runs: the others learn where it is now, and it feeds them from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_is_found_where_it_is_now() {
    const MOVED: usize = 100;
    let place = Place::new(3);
    let (network, secret) = (&place.network, &place.secret);
    let origin = registry_at(netns::address(REGISTRY_NODE));
    let mut nodes = Vec::new();
    for (number, join) in [(1, Vec::new()), (2, vec![netns::address(1).to_string()])] {
        let setup = member(secret, &origin).set("swarm.join", join);
        nodes.push(Node::start(network, number, setup));
    }
    until_met(&nodes).await;
    network.move_to(2, MOVED).expect("the kernel moves it");
    let (old, new): (IpAddr, IpAddr) = (netns::address(2).into(), netns::address(MOVED).into());
    for node in &nodes {
        wait::until(format!("node {} to know the new address", node.number), MEET_MAX, || async {
            let members = node.members().await;
            let known: BTreeSet<IpAddr> =
                members.iter().flat_map(|(_, addresses)| addresses).map(SocketAddr::ip).collect();
            members.len() == 2 && known.contains(&new) && !known.contains(&old)
        })
        .await;
    }
    nodes.reverse();
    expect_shared(&place, &nodes, 1415).await;
}

/// Places are written in brackets, with a port and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_over_ipv6_alone() {
    let place = Place::new(4);
    let (network, secret) = (&place.network, &place.secret);
    let origin = registry_at(netns::address_v6(REGISTRY_NODE));
    let first = netns::address_v6(1);
    let joins = [Vec::new(), vec![format!("[{first}]:{PORT}")], vec![format!("[{first}]")]];
    let mut nodes = Vec::new();
    for (number, join) in (1..).zip(joins) {
        network.add_v6(number).expect("the kernel has IPv6");
        network.remove_v4(number).expect("it had an address");
        let listen = vec![netns::address_v6(number).to_string()];
        let setup = member(secret, &origin).set("swarm.listen", listen).set("swarm.join", join);
        nodes.push(Node::start(network, number, setup));
    }
    until_met(&nodes).await;
    for (member, addresses) in nodes[2].members().await {
        assert!(addresses.iter().all(SocketAddr::is_ipv6), "{member} is at {addresses:?}");
    }
    expect_shared(&place, &nodes, 1420).await;
}

/// A member that has IPv4 alone and one that has IPv6 alone cannot talk to each other. One that has both meets them, all know each
/// other through it, and both get from it all that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_both_kinds_meets_one_of_each() {
    const FOUR: usize = 1;
    const SIX: usize = 2;
    const BOTH: usize = 3;
    let place = Place::new(4);
    let (network, secret) = (&place.network, &place.secret);
    network.add_v6(SIX).expect("the kernel has IPv6");
    network.remove_v4(SIX).expect("it had an address");
    network.add_v6(BOTH).expect("the kernel has IPv6");
    let (of_four, of_six) = (netns::address(FOUR), netns::address_v6(SIX));
    let over_four = registry_at(netns::address(REGISTRY_NODE));
    let over_six = registry_at(netns::address_v6(REGISTRY_NODE));
    let start = |number, origin: &str, listen: Vec<String>, join: Vec<String>| {
        let setup = member(secret, origin).set("swarm.listen", listen).set("swarm.join", join);
        Node::start(network, number, setup)
    };
    let four = start(FOUR, &over_four, vec![of_four.to_string()], Vec::new());
    let six = start(SIX, &over_six, vec![of_six.to_string()], Vec::new());
    // One that is not there yet would be called again only after a minute, for by then the other one is known.
    until_alone(&four).await;
    until_alone(&six).await;
    let listen = vec![netns::address(BOTH).to_string(), netns::address_v6(BOTH).to_string()];
    let join = vec![format!("[{of_six}]:{PORT}"), format!("{of_four}:{PORT}")];
    let both = start(BOTH, &over_four, listen, join);
    let nodes = [four, six, both];
    until_met(&nodes).await;

    // Layers whose book is kept by the one that both of the others can ask.
    let admins: Vec<AdminClient> = nodes.iter().map(Node::admin).collect();
    let mut seeds = 1430..1490;
    let [four, six, both] = &nodes;
    for node in [four, six] {
        let mut is_fed = false;
        for _ in 0..TRIES {
            let image = pushed_at_home(network, &admins, 2, &mut seeds).await;
            is_fed = is_shared(both, slice::from_ref(node), &image.layers[0]).await;
            if is_fed {
                break;
            }
        }
        assert!(is_fed, "node {} has nothing whole from the one with both kinds", node.number);
    }
}

/// A headless Service: its name has an address for each agent that is ready. The first one is alone behind it, then the DNS server
/// names a second one, which looks for nobody itself; a third one finds both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up_until_somebody_is_behind_it() {
    const NAME: &str = "shoal.example.test";
    place::needs_root();
    let network = Network::new(&[LINK_RATE; 4]).expect("namespaces can be made");
    let folder = place::scratch();
    let [first, second] = [1, 2].map(|node| IpAddr::from(netns::address(node)));
    let server = DnsServer::start_in(&network, DNS_NODE, folder.path(), &[(NAME, first)], &[])
        .expect("the DNS server starts");
    let secret = secret(folder.path());
    let start = |number, join: Vec<&str>| {
        network.set_resolver(number, server.address()).expect("the namespace gets a resolver");
        let listen = vec![netns::address(number).to_string()];
        let setup = member(&secret, NOWHERE).set("swarm.listen", listen).set("swarm.join", join);
        Node::start(&network, number, setup)
    };

    let mut nodes = vec![start(1, vec![NAME]), start(2, Vec::new())];
    wait::until_true("the name to be looked up again", MEET_MAX, || server.asked("A", NAME, first) >= 2)
        .await;
    for node in &nodes {
        until_alone(node).await;
    }
    server.set(&[(NAME, first), (NAME, second)]).expect("the folder is ours");
    until_met(&nodes).await;

    nodes.push(start(3, vec![NAME]));
    until_met(&nodes).await;
}

/// A service brings host and port of each node, and a name may have an address of IPv6 alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_names_lead_to_members() {
    const SERVICE: &str = "_shoal._tcp.example.test";
    const FOUR: &str = "four.example.test";
    const SIX: &str = "six.example.test";
    /// Not the default, so that it is known only by who has heard of it.
    const OTHER_PORT: u16 = 6001;
    place::needs_root();
    let network = Network::new(&[LINK_RATE; 5]).expect("namespaces can be made");
    for node in 1..5 {
        network.add_v6(node).expect("the kernel has IPv6");
    }
    let folder = place::scratch();
    let (of_four, of_six) = (IpAddr::from(netns::address(1)), IpAddr::from(netns::address_v6(2)));
    let names = [(FOUR, of_four), (SIX, of_six)];
    let services = [(SERVICE, FOUR, PORT), (SERVICE, SIX, OTHER_PORT)];
    let server = DnsServer::start_in(&network, DNS_NODE, folder.path(), &names, &services)
        .expect("the DNS server starts");
    let secret = secret(folder.path());
    let start = |number, listen: IpAddr, port: u16, join: Vec<String>| {
        network.set_resolver(number, server.address()).expect("the namespace gets a resolver");
        let setup = member(&secret, NOWHERE)
            .set("swarm.listen", vec![listen.to_string()])
            .set("swarm.port", i64::from(port))
            .set("swarm.data_port", i64::from(port + 1))
            .set("swarm.join", join);
        Node::start(&network, number, setup)
    };

    let mut nodes = vec![start(1, of_four, PORT, Vec::new()), start(2, of_six, OTHER_PORT, Vec::new())];
    for node in &nodes {
        until_alone(node).await;
    }
    nodes.push(start(3, netns::address(3).into(), PORT, vec![SERVICE.to_owned()]));
    until_met(&nodes).await;
    nodes.push(start(4, netns::address_v6(4).into(), PORT, vec![format!("{SIX}:{OTHER_PORT}")]));
    until_met(&nodes).await;

    let [by_service, by_name] = [3, 4].map(|node| IpAddr::from(netns::address(node)));
    for (kind, name, by) in [
        ("SRV", SERVICE, by_service),
        ("A", FOUR, by_service),
        ("AAAA", SIX, by_service),
        ("AAAA", SIX, by_name),
    ] {
        assert!(server.asked(kind, name, by) > 0, "{by} has asked for the {kind} of {name}");
    }
}

/// Many agents that start at the same time, and are told of the first one of them alone, soon agree on who they are. When all of them ask
/// for a tag at once then, upstream is asked for it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_start_together_agree_who_they_are() {
    const AGENTS: usize = 24;
    /// Where nothing stands still.
    const AGREE_WITHIN: Duration = Duration::from_secs(5);
    /// On cores that have been starting so many programs, each of which may stand still for a second or two.
    const AGREE_MAX: Duration = Duration::from_secs(20);
    let origin = Origin::start().await;
    let cluster = exact(1500, async |_| {
        let begun = Instant::now();
        let (cluster, met) = Cluster::start_together(&origin.url(), AGENTS).await;
        let counted = Instant::now();
        until_agreed(&cluster.admins()).await;
        let agreed = met + counted.elapsed();
        println!(
            "{AGENTS} agents agree {agreed:.1?} after the last of them answered, {:.1?} after the first was started",
            begun.elapsed()
        );
        assert!(agreed <= AGREE_MAX, "{agreed:?}");
        (agreed <= AGREE_WITHIN).then_some(cluster)
    })
    .await;

    exact(1510, async |seed| {
        let (image, tag) = (Image::new(seed, &[1000]), format!("v{seed}"));
        origin.add_image(REPOSITORY, &tag, &image);
        let (told, took) = resolve(cluster.agents.iter(), &tag).await;
        assert_eq!(told, vec![image.manifest.digest.clone(); AGENTS]);
        let requests = asked(&origin, &tag);
        println!("{requests} requests of {tag}, half of the answers after {took:.1?}");
        assert!((1..=HOMES).contains(&requests), "{requests} requests");
        (requests == 1).then_some(())
    })
    .await;
}
