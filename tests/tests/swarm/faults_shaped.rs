//! When members fail in the middle of a rollout behind real links: a registry whose link is what is slow, real runtimes on two of the
//! nodes, light clients on the others. Each node has a network namespace with a shaped link. What left the registry is what its own
//! access log says.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::containerd::{self, Containerd};
use shoal_tests::disk::Disk;
use shoal_tests::homes::{fetchers, homes};
use shoal_tests::image::Image;
use shoal_tests::inside::{Busy, Node};
use shoal_tests::netns::Network;
use shoal_tests::{place, wait};
use tokio::task::JoinHandle;

use super::faults::story;
use super::links::{self, NEAR};
use super::{REPOSITORY, exact};

/// Bits per second of the registry's link: the image takes some seconds.
const ORIGIN_RATE: u64 = 12_000_000;
/// The agent whose disk may fill up, by its place among them, and the size of that disk: room for twice the image.
const FULL: usize = 5;
const DISK_MIB: u32 = 24;
/// Bytes that an agent has sent to others when it counts as one that feeds them.
const FED_MIN: u64 = 500_000;
/// Bytes of the large layer that somebody has fetched for all, or received, when it counts as being in the middle of it.
const BEGUN_BYTES: u64 = 500_000;
/// How long it may take until the rollout is in the middle, or until a node knows what was done to it.
const STEP_MAX: Duration = Duration::from_secs(30);
/// How long a stop takes: long enough to be taken for dead.
const STOPPED_FOR: Duration = Duration::from_secs(10);
/// How long a client may take whose runtime has no other bound, once the runtimes have it.
const PULL_MAX: Duration = Duration::from_secs(60);

/// What happens when half of the image has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of the one that has sent most to others.
    FeederDies,
    /// `kill -9` of one that fetches the large layer for all.
    FetcherDies,
    /// `kill -9` of the large layer's first home.
    HomeDies,
    /// `kill -9` of a third of the agents, of which one fetches.
    ThirdDies,
    /// One that fetches is stopped for a while.
    FetcherStandsStill,
    /// The disk of one fills up.
    DiskFillsUp,
}

/// A rollout that has begun. Agents go by their places in the list.
struct Rollout<'n> {
    nodes: Vec<Node<'n>>,
    admins: Vec<AdminClient>,
    image: &'n Image,
    /// The large layer's first home.
    home: usize,
    /// Those that have a runtime beside them: one in each zone, neither the home nor the one whose disk may fill up.
    runtimes: [usize; 2],
    /// What the clients beside the others pull.
    pulls: Vec<(usize, JoinHandle<Duration>)>,
    /// That of [`FULL`], if it has one of its own.
    disk: Option<Disk>,
}

impl<'n> Rollout<'n> {
    /// Everybody is there, and nobody has asked for anything yet.
    async fn new(nodes: Vec<Node<'n>>, image: &'n Image, disk: Option<Disk>) -> Self {
        let admins: Vec<_> = nodes.iter().map(Node::admin).collect();
        let home = homes(&admins, &image.layers[0]).await.expect("the agents run")[0];
        let one_of = |mut zone: Range<usize>| {
            zone.find(|at| *at != home && *at != FULL).expect("there are three agents in each zone")
        };
        let runtimes = [0..NEAR.len(), NEAR.len()..nodes.len()].map(one_of);
        Rollout { nodes, admins, image, home, runtimes, pulls: Vec::new(), disk }
    }

    /// Starts the runtimes, which have nobody to ask but the agents beside them.
    async fn start_runtimes(&self, network: &Network) -> Vec<Containerd> {
        let mut runtimes = Vec::new();
        for (at, version) in self.runtimes.into_iter().zip(containerd::at_hand().into_iter().cycle()) {
            let node = &self.nodes[at];
            let runtime = Containerd::start_in(version, network, node.number).await;
            runtime.mirror(&format!("http://{}", node.setup.registry_address()), "http://127.0.0.1:1");
            runtimes.push(runtime);
        }
        runtimes
    }

    /// Those that have a light client beside them.
    fn light(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| !self.runtimes.contains(at)).collect()
    }

    /// The light clients begin, each with all blobs at once.
    fn begin(&mut self) {
        for at in self.light() {
            for blob in self.image.blobs() {
                self.pulls.push((at, links::begin(&self.nodes[at], blob)));
            }
        }
    }

    /// Waits until half of the image has come and there is somebody to be hit, and hits. Tells who was killed; `None` if almost all of
    /// it had come before anybody was hit.
    async fn strike(&mut self, fault: Fault) -> Option<Vec<usize>> {
        let found = Cell::new((0, Vec::new()));
        let this = &*self;
        let all = this.image.blob_bytes();
        let is_late = |upstream: u64| upstream >= 7 * all / 8;
        wait::until("half of the image to have come, and somebody to be hit", STEP_MAX, || async {
            if links::upstream_bytes(&this.nodes).await < all / 2 {
                return false;
            }
            let whom = this.whom(fault).await;
            // More comes while the agents are asked, one of which may stand still.
            let upstream = links::upstream_bytes(&this.nodes).await;
            let is_decided = !whom.is_empty() || is_late(upstream);
            found.set((upstream, whom));
            is_decided
        })
        .await;
        let (upstream, whom) = found.into_inner();
        if is_late(upstream) {
            println!("{fault:?} came too late: {upstream} bytes have come");
            return None;
        }
        println!(
            "{fault:?}, at {whom:?}, when {upstream} bytes have come; with runtimes: {:?}",
            self.runtimes
        );
        match fault {
            Fault::FetcherStandsStill => self.stand_still(whom[0]).await,
            Fault::DiskFillsUp => self.fill_disk().await,
            Fault::FeederDies | Fault::FetcherDies | Fault::HomeDies | Fault::ThirdDies => {
                whom.iter().for_each(|at| self.nodes[*at].kill());
                return Some(whom);
            }
        }
        Some(Vec::new())
    }

    /// Whom a fault hits as things are; nobody while it is too early.
    async fn whom(&self, fault: Fault) -> Vec<usize> {
        match fault {
            Fault::FeederDies => self.feeder().await.into_iter().collect(),
            Fault::FetcherDies | Fault::FetcherStandsStill => self.fetcher().await.into_iter().collect(),
            Fault::HomeDies => vec![self.home],
            Fault::ThirdDies => {
                let Some(fetcher) = self.fetcher().await else { return Vec::new() };
                let others = self.light().into_iter().filter(|at| *at != fetcher);
                std::iter::once(fetcher).chain(others).take(self.nodes.len() / 3).collect()
            }
            Fault::DiskFillsUp => {
                let has_begun =
                    story(&self.admins[FULL], &self.image.layers[0]).await.received >= Some(BEGUN_BYTES);
                has_begun.then_some(FULL).into_iter().collect()
            }
        }
    }

    /// The one with a light client that has sent most to others.
    async fn feeder(&self) -> Option<usize> {
        let mut most: Option<(u64, usize)> = None;
        for at in self.light() {
            let sent = self.admins[at].status().await.expect("the agent runs").peer_sent_bytes;
            most = most.max(Some((sent, at)));
        }
        most.filter(|(sent, _)| *sent >= FED_MIN).map(|(_, at)| at)
    }

    /// One that fetches the large layer for all; one with a light client, if there is any.
    async fn fetcher(&self) -> Option<usize> {
        let layer = &self.image.layers[0];
        let fetchers = fetchers(&self.admins, layer, BEGUN_BYTES).await.expect("the agents run");
        fetchers.into_iter().min_by_key(|at| self.runtimes.contains(at))
    }

    /// Stops an agent for a while, which serves nobody meanwhile.
    async fn stand_still(&self, at: usize) {
        let stopped = Instant::now();
        self.nodes[at].stop();
        // The stop has its length whatever the others do: it is the fault itself.
        tokio::time::sleep_until((stopped + STOPPED_FOR).into()).await;
        let waits = self.pulls.iter().any(|(whose, pull)| *whose == at && !pull.is_finished());
        assert!(waits || self.runtimes.contains(&at), "who stands still serves nobody");
        self.nodes[at].go_on();
    }

    /// Fills the disk of one, and waits until that one says so.
    async fn fill_disk(&self) {
        self.disk.as_ref().expect("it has a disk of its own").fill();
        wait::until("the node to say that its disk is full", STEP_MAX, || async {
            self.admins[FULL].status().await.is_ok_and(|status| status.store.degraded)
        })
        .await;
    }
}

/// A rollout in the middle of which this happens. Where the machine stood still until one was over, another one is begun.
async fn rollout(seed: u64, fault: Fault, copies_max: f64) {
    place::needs_root();
    exact(seed, async |seed| hit_in_the_middle(seed, fault, copies_max).await.then_some(())).await;
}

/// A rollout on a network of its own, and whether it was hit in the middle. All clients get every byte but those beside an agent that
/// was killed; containerd on two nodes has the image; and fewer copies than this have left the registry.
async fn hit_in_the_middle(seed: u64, fault: Fault, copies_max: f64) -> bool {
    let network = links::slow_registry(ORIGIN_RATE);
    let folder = place::scratch();
    let image = Image::new(seed, &[9_000_000, 3_000_000, 30_000]);
    let disk = (fault == Fault::DiskFillsUp).then(|| Disk::tmpfs(DISK_MIB));
    let (registry, nodes) = links::start_with(&network, folder.path(), &image, |at, setup| match &disk {
        Some(disk) if at == FULL => setup.data(&disk.path().join("shoal")),
        _ => setup,
    })
    .await;
    let mut rollout = Rollout::new(nodes, &image, disk).await;
    let runtimes = rollout.start_runtimes(&network).await;

    let busy = Busy::from_now(&rollout.nodes);
    rollout.begin();
    let name = format!("{REPOSITORY}:v1");
    let (first, second, hit) =
        tokio::join!(runtimes[0].pull(&name), runtimes[1].pull(&name), rollout.strike(fault));
    let killed = hit.as_deref().unwrap_or_default();
    for ((at, runtime), pulled) in rollout.runtimes.into_iter().zip(&runtimes).zip([first, second]) {
        if killed.contains(&at) {
            continue;
        }
        let took = pulled.expect_ok("a pull by containerd").took;
        println!("containerd has it after {took:.1?}");
        runtime.expect_image(&image).await;
    }
    for (at, pull) in std::mem::take(&mut rollout.pulls) {
        let pulled = tokio::time::timeout(PULL_MAX, pull).await.expect("in time");
        assert!(killed.contains(&at) || pulled.is_ok(), "the client at {at}: {pulled:?}");
    }
    println!("{}", busy.until_now(&rollout.nodes));
    if hit.is_none() {
        return false;
    }

    let copies = links::copies(&registry, &image.layers, 1).await;
    let requests: usize = image.layers.iter().map(|layer| registry.blob_gets(&layer.digest)).sum();
    println!("{fault:?}: {copies:.2} copies left the registry, by {requests} requests");
    assert!(copies < copies_max, "{copies} copies");
    assert!(requests < rollout.nodes.len() * image.blobs().count(), "{requests} requests");
    true
}

/// What it has sent is with others; what only it had comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_feeds_others_dies_while_runtimes_pull() {
    rollout(897, Fault::FeederDies, 1.6).await;
}

/// The lease goes to another one, which fetches what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetches_dies_while_runtimes_pull() {
    rollout(910, Fault::FetcherDies, 1.6).await;
}

/// Another one keeps the book, and what the members have is not fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_of_a_layer_dies_while_runtimes_pull() {
    rollout(911, Fault::HomeDies, 1.6).await;
}

/// What only those had that are gone comes again, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_dies_while_runtimes_pull() {
    rollout(912, Fault::ThirdDies, 2.0).await;
}

/// The others do not wait for it, and its own pull ends well, too; what was on its way to it comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetches_stands_still_while_runtimes_pull() {
    rollout(913, Fault::FetcherStandsStill, 2.0).await;
}

/// Its client gets the rest straight from the registry: one copy more, at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_fills_up_while_runtimes_pull() {
    rollout(914, Fault::DiskFillsUp, 2.5).await;
}
