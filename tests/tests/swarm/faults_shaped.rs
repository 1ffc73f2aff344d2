//! When members, or what they live on, fail in the middle of a rollout behind real links: a registry whose link is what is slow, real
//! runtimes on two of the nodes, light clients on the others. Each node has a network namespace with a shaped link. What left the
//! registry is what its own access log says, or its link where connections do not end as the registry thinks.

mod around;

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::containerd::{self, Containerd};
use shoal_tests::homes::{fetchers, homes};
use shoal_tests::image::Image;
use shoal_tests::inside::{Busy, Node};
use shoal_tests::netns::Network;
use shoal_tests::{place, wait};
use tokio::task::JoinHandle;

use super::links::{self, NEAR, REGISTRY};
use super::{REPOSITORY, exact};
use around::{Around, FULL, JUMPS};

/// Bits per second of the registry's link: the image takes some seconds.
const ORIGIN_RATE: u64 = 12_000_000;
/// Layers of the image of which there is a middle; they come first.
const LARGE_LAYERS: usize = 2;
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
    /// The disks of two fill up.
    DisksFillUp,
    /// The link between the zones is pulled, and comes back once that is noticed.
    ZoneIsCutOff,
    /// The clocks of four are set, forward and back.
    ClocksAreSet,
    /// The registry resets connections again and again, and is away when the members have all of the image between them.
    RegistryBreaks,
    /// One of three that have had everything before sends wrong bytes: its disk has changed them behind its back.
    HolderLies,
}

impl Fault {
    /// Light clients that have everything before the runtimes begin.
    const fn early(self) -> usize {
        if matches!(self, Fault::HolderLies) { 3 } else { 0 }
    }

    /// Light clients that come when the fault has hit.
    const fn late(self) -> usize {
        if matches!(self, Fault::RegistryBreaks) { 2 } else { 0 }
    }
}

/// A rollout that has begun. Agents go by their places in the list.
struct Rollout<'n> {
    network: &'n Network,
    nodes: Vec<Node<'n>>,
    admins: Vec<AdminClient>,
    image: &'n Image,
    /// The large layer's first home.
    home: usize,
    /// Those that have a runtime beside them: one in each zone, neither the home nor one whose disk may fill up.
    runtimes: [usize; 2],
    /// What the clients beside the others pull.
    pulls: Vec<(usize, JoinHandle<Duration>)>,
    /// Those that had everything before the others began, and what each had sent by then.
    holders: Vec<(usize, u64)>,
    /// The one of them that lies, and what it had sent when it began to.
    liar: Option<(usize, u64)>,
    /// Behind the agents, which use it until they are gone.
    around: Around,
}

impl<'n> Rollout<'n> {
    /// Everybody is there, and nobody has asked for anything yet.
    async fn new(network: &'n Network, nodes: Vec<Node<'n>>, image: &'n Image, around: Around) -> Self {
        let admins: Vec<_> = nodes.iter().map(Node::admin).collect();
        let home = homes(&admins, &image.layers[0]).await.expect("the agents run")[0];
        let one_of = |mut zone: Range<usize>| {
            zone.find(|at| *at != home && !FULL.contains(at)).expect("there are three agents in each zone")
        };
        let runtimes = [0..NEAR.len(), NEAR.len()..nodes.len()].map(one_of);
        let (pulls, holders, liar) = (Vec::new(), Vec::new(), None);
        Rollout { network, nodes, admins, image, home, runtimes, pulls, holders, liar, around }
    }

    /// Starts the runtimes, which have nobody to ask but the agents beside them.
    async fn start_runtimes(&self) -> Vec<Containerd> {
        let mut runtimes = Vec::new();
        for (at, version) in self.runtimes.into_iter().zip(containerd::at_hand().into_iter().cycle()) {
            let node = &self.nodes[at];
            let runtime = Containerd::start_in(version, self.network, node.number).await;
            runtime.mirror(&format!("http://{}", node.setup.registry_address()), "http://127.0.0.1:1");
            runtimes.push(runtime);
        }
        runtimes
    }

    /// Those that have a light client beside them.
    fn light(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| !self.runtimes.contains(at)).collect()
    }

    /// The same by when their clients come: before the runtimes, with them, and when the fault has hit.
    fn shifts(&self, fault: Fault) -> [Vec<usize>; 3] {
        let mut early = self.light();
        let mut with_runtimes = early.split_off(fault.early());
        let late = with_runtimes.split_off(with_runtimes.len() - fault.late());
        [early, with_runtimes, late]
    }

    /// The light clients beside these begin, each with all blobs at once.
    fn begin(&mut self, places: &[usize]) {
        for at in places {
            for blob in self.image.blobs() {
                self.pulls.push((*at, links::begin(&self.nodes[*at], blob)));
            }
        }
    }

    /// Waits until half of the image has come and there is somebody to be hit, and hits. Tells who was killed; `None` if almost all of
    /// it had come before anybody was hit, or it made no difference.
    async fn strike(&mut self, fault: Fault) -> Option<Vec<usize>> {
        let found = Cell::new((0, Vec::new()));
        let this = &*self;
        let all = this.image.blob_bytes();
        // Those who lie have everything from the start.
        let is_late = |upstream: u64| fault != Fault::HolderLies && upstream >= 7 * all / 8;
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
        let has_hit = match fault {
            Fault::FeederDies | Fault::FetcherDies | Fault::HomeDies | Fault::ThirdDies => {
                whom.iter().for_each(|at| self.nodes[*at].kill());
                return Some(whom);
            }
            Fault::FetcherStandsStill => {
                self.stand_still(whom[0]).await;
                true
            }
            Fault::DisksFillUp => self.fill_disks().await,
            Fault::ZoneIsCutOff => self.cut_off().await,
            Fault::ClocksAreSet => self.set_clocks().await,
            Fault::RegistryBreaks => {
                let [_, _, late] = self.shifts(fault);
                self.break_registry(&late).await
            }
            Fault::HolderLies => {
                self.begin_to_lie(whom[0]).await;
                true
            }
        };
        if !has_hit {
            println!("{fault:?} made no difference");
        }
        has_hit.then(Vec::new)
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
            Fault::DisksFillUp => self.if_receiving(FULL.to_vec()).await,
            Fault::ZoneIsCutOff => self.if_begun((NEAR.len()..self.nodes.len()).collect()).await,
            Fault::ClocksAreSet => JUMPS.map(|(at, _)| at).to_vec(),
            Fault::RegistryBreaks => {
                let [_, with_runtimes, _] = self.shifts(fault);
                self.if_begun([&self.runtimes[..], &with_runtimes[..]].concat()).await
            }
            Fault::HolderLies => self.feeding_holder().await.into_iter().collect(),
        }
    }

    /// Bytes that an agent has sent to others.
    async fn sent_bytes(&self, at: usize) -> u64 {
        self.admins[at].status().await.expect("the agent runs").peer_sent_bytes
    }

    /// The one with a light client that has sent most to others.
    async fn feeder(&self) -> Option<usize> {
        let mut most: Option<(u64, usize)> = None;
        for at in self.light() {
            most = most.max(Some((self.sent_bytes(at).await, at)));
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

    /// What has to be so when all clients have everything. Whether it shows that the fault has hit.
    async fn expect_after(&self, fault: Fault) -> bool {
        match fault {
            Fault::ZoneIsCutOff => links::until_members(&self.nodes, self.nodes.len()).await,
            Fault::ClocksAreSet => {
                self.expect_clocks_set().await;
                links::until_members(&self.nodes, self.nodes.len()).await;
            }
            Fault::HolderLies => return self.expect_right().await,
            Fault::FeederDies
            | Fault::FetcherDies
            | Fault::HomeDies
            | Fault::ThirdDies
            | Fault::FetcherStandsStill
            | Fault::DisksFillUp
            | Fault::RegistryBreaks => {}
        }
        true
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
    let around = Around::new(fault, &network).await;
    let set_up = |at, setup| around.set_up(at, setup);
    let (registry, nodes) = links::start_with(&network, folder.path(), &image, set_up).await;
    let mut rollout = Rollout::new(&network, nodes, &image, around).await;
    let sent_before = network.sent_bytes(REGISTRY).expect("the kernel counts");
    let [early, with_runtimes, _] = rollout.shifts(fault);
    if !early.is_empty() {
        rollout.hold(&early).await;
    }
    let runtimes = rollout.start_runtimes().await;

    let busy = Busy::from_now(&rollout.nodes);
    rollout.begin(&with_runtimes);
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
    if hit.is_none() || !rollout.expect_after(fault).await {
        return false;
    }

    let logged = links::copies(&registry, &image.layers, 1).await;
    let sent = network.sent_bytes(REGISTRY).expect("the kernel counts") - sent_before;
    let sent = sent as f64 / image.blob_bytes() as f64;
    let requests: usize = image.layers.iter().map(|layer| registry.blob_gets(&layer.digest)).sum();
    println!(
        "{fault:?}: {logged:.2} copies by the registry's log, {sent:.2} over its link, by {requests} requests"
    );
    // What the kernel has taken for a connection is in the log, also where it is reset behind a proxy; one that is cut off is there late.
    let copies = if matches!(fault, Fault::RegistryBreaks | Fault::ZoneIsCutOff) { sent } else { logged };
    assert!(copies < copies_max, "{copies} copies");
    let (all, resets) = (rollout.nodes.len() * image.blobs().count(), rollout.around.resets());
    // Two zones that cannot reach each other ask for themselves, and what was cut off is asked for once more.
    let requests_max = if fault == Fault::ZoneIsCutOff { 2 * all } else { all + resets };
    assert!(requests < requests_max, "{requests} requests");
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

/// Their clients get the rest straight from the registry: one copy for all, one more at most for each of the two, and what was on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_disks_fill_up_while_runtimes_pull() {
    rollout(914, Fault::DisksFillUp, 3.5).await;
}

/// One copy for each side, for neither has what the other one gets meanwhile, and what was on its way. In the end all know each other again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_cut_off_while_runtimes_pull() {
    rollout(917, Fault::ZoneIsCutOff, 2.6).await;
}

/// Nobody goes by what time it is: nothing comes again but what was on its way to one that stood still for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_set_while_runtimes_pull() {
    rollout(920, Fault::ClocksAreSet, 1.6).await;
}

/// What is fetched goes on where it was cut, by whoever has the lease by then; what has not made a piece whole comes again. Whoever
/// comes when the registry is away has everything from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_breaks_and_goes_away_while_runtimes_pull() {
    rollout(923, Fault::RegistryBreaks, 2.0).await;
}

/// One copy for those that have it first, with what was on its way. The others get it from them and notice what is wrong; what they cannot
/// have soon from those who do not lie they may fetch, which is less than one copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_lies_while_runtimes_pull() {
    rollout(926, Fault::HolderLies, 2.5).await;
}
