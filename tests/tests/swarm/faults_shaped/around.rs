//! Faults of what agents live on: disks, the link between zones, clocks, the registry. Whatever they are done with is there before the
//! agents are.

use std::net::SocketAddr;
use std::time::SystemTime;

use shoal_tests::agent::Setup;
use shoal_tests::clock::Clock;
use shoal_tests::containerd;
use shoal_tests::disk::Disk;
use shoal_tests::http::Client;
use shoal_tests::netns::{self, Network, Zone};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::wait;

use super::{BEGUN_BYTES, Fault, LARGE_LAYERS, Rollout, STEP_MAX};
use crate::REPOSITORY;
use crate::faults::{is_whole_somewhere, story, until_held};
use crate::liars::damage_below;
use crate::links::{self, FAR, NEAR, REGISTRY};

/// The agents whose disks may fill up, one in each zone, and the size of such a disk: room for twice the image.
pub(super) const FULL: [usize; 2] = [2, 5];
const DISK_MIB: u32 = 24;
const HOUR: i64 = 60 * 60;
/// Whose clocks may be set, and by how many seconds.
pub(super) const JUMPS: [(usize, i64); 4] = [(0, HOUR), (1, -HOUR), (3, -HOUR), (4, HOUR)];
/// What is in front of the registry, at its address.
const PROXY_PORT: u16 = 8080;
/// Bytes after which a connection to the registry is reset: several times until the second half of the image has come.
const RESET_EVERY: u64 = 1_500_000;
const RESETS_MIN: u64 = 3;
/// What each agent sends, where some have everything before the others begin: that takes seconds.
const HOLDERS_RATE: &str = "2MB/s";

/// What a fault is done with; nothing for those that hit an agent itself.
#[derive(Default)]
pub(super) struct Around {
    /// Those of [`FULL`].
    disks: Vec<Disk>,
    /// The zone without the registry.
    zone: Option<Zone>,
    /// Those of [`JUMPS`].
    clocks: Vec<Clock>,
    proxy: Option<Proxy>,
    upload_rate: Option<&'static str>,
}

impl Around {
    /// For a fault that is to come.
    pub(super) async fn new(fault: Fault, network: &Network) -> Self {
        let mut around = Around::default();
        match fault {
            Fault::DisksFillUp => around.disks = FULL.iter().map(|_| Disk::tmpfs(DISK_MIB)).collect(),
            Fault::ZoneIsCutOff => around.zone = Some(network.zone(FAR).expect("a bridge can be made")),
            Fault::ClocksAreSet => around.clocks = JUMPS.iter().map(|_| Clock::right()).collect(),
            Fault::RegistryBreaks => {
                let registry = SocketAddr::from((netns::address(REGISTRY), 5000));
                let proxy = Proxy::start_in(network, REGISTRY, PROXY_PORT, registry, Faults::default());
                around.proxy = Some(proxy.await);
            }
            Fault::HolderLies => around.upload_rate = Some(HOLDERS_RATE),
            Fault::FeederDies
            | Fault::FetcherDies
            | Fault::HomeDies
            | Fault::ThirdDies
            | Fault::FetcherStandsStill => {}
        }
        around
    }

    /// How the agent at this place is set up with it.
    pub(super) fn set_up(&self, at: usize, mut setup: Setup) -> Setup {
        for (_, disk) in FULL.iter().zip(&self.disks).filter(|(full, _)| **full == at) {
            setup = setup.data(&disk.path().join("shoal"));
        }
        for (_, clock) in JUMPS.iter().zip(&self.clocks).filter(|((whose, _), _)| *whose == at) {
            setup = clock.of(setup);
        }
        if let Some(proxy) = &self.proxy {
            setup = setup.registry(containerd::REGISTRY, &proxy.url());
        }
        if let Some(rate) = self.upload_rate {
            setup = setup.set("swarm.upload_rate", rate);
        }
        setup
    }

    /// Connections to the registry that were reset so far.
    pub(super) fn resets(&self) -> usize {
        self.proxy.as_ref().map_or(0, |proxy| proxy.resets() as usize)
    }
}

impl Rollout<'_> {
    /// These, if each of them has something of each blob of the image; otherwise nobody. What has begun goes on when upstream is away for
    /// a while; what has not is asked for once, and rightly fails.
    pub(super) async fn if_begun(&self, places: Vec<usize>) -> Vec<usize> {
        for at in &places {
            for blob in self.image.blobs() {
                let story = story(&self.admins[*at], blob).await;
                if story.state != "stored" && story.received.unwrap_or_default() == 0 {
                    return Vec::new();
                }
            }
        }
        places
    }

    // ---- disks ----

    /// These, if each of them is in the middle of the large layer; otherwise nobody.
    pub(super) async fn if_receiving(&self, places: Vec<usize>) -> Vec<usize> {
        for at in &places {
            let story = story(&self.admins[*at], &self.image.layers[0]).await;
            if story.state == "stored" || story.received < Some(BEGUN_BYTES) {
                return Vec::new();
            }
        }
        places
    }

    /// Fills the disks, and waits until each node says so. Whether none of them had everything before.
    pub(super) async fn fill_disks(&self) -> bool {
        self.around.disks.iter().for_each(Disk::fill);
        let mut are_hit = true;
        for at in FULL {
            wait::until(format!("the node at {at} to say that its disk is full"), STEP_MAX, || async {
                let status = self.admins[at].status().await;
                status.is_ok_and(|status| status.store.degraded) || self.has_stored_all(at).await
            })
            .await;
            are_hit &= !self.has_stored_all(at).await;
        }
        are_hit
    }

    /// Whether a node has all of the image.
    async fn has_stored_all(&self, at: usize) -> bool {
        for blob in self.image.blobs() {
            if story(&self.admins[at], blob).await.state != "stored" {
                return false;
            }
        }
        true
    }

    // ---- the link between the zones ----

    /// Pulls the link, and puts it back when an agent on the registry's side has noticed it. Whether somebody on the other side still
    /// waited by then.
    pub(super) async fn cut_off(&self) -> bool {
        let zone = self.around.zone.as_ref().expect("there are two zones");
        zone.set_link(false).expect("the link goes down");
        links::until_members(&self.nodes[..1], NEAR.len()).await;
        let waiting = |is_near: bool| {
            let side = self.pulls.iter().filter(|(at, _)| (*at < NEAR.len()) == is_near);
            side.filter(|(_, pull)| !pull.is_finished()).count()
        };
        let (near, far) = (waiting(true), waiting(false));
        println!("it is noticed: {near} blobs are waited for on the registry's side, {far} on the other one");
        zone.set_link(true).expect("the link comes back");
        far > 0
    }

    // ---- clocks ----

    /// Sets the clocks. Whether something was still to come to everybody afterwards.
    pub(super) async fn set_clocks(&self) -> bool {
        for ((_, seconds), clock) in JUMPS.iter().zip(&self.around.clocks) {
            clock.jump(*seconds);
        }
        links::upstream_bytes(&self.nodes).await < self.image.blob_bytes()
    }

    /// Whoever's clock was set has stored something by it: what came last.
    pub(super) async fn expect_clocks_set(&self) {
        for (at, seconds) in JUMPS {
            let is_by_it = |stored_at: u64| (stored_at as i64 - unix_seconds() - seconds).abs() < HOUR / 2;
            wait::until(format!("something to be stored at {at} by its clock"), STEP_MAX, || async {
                for blob in self.image.blobs() {
                    if story(&self.admins[at], blob).await.stored_at.is_some_and(is_by_it) {
                        return true;
                    }
                }
                false
            })
            .await;
        }
    }

    // ---- the registry ----

    /// Has connections to the registry reset again and again. As soon as the members have all of the image between them it is away, and
    /// clients beside those that have nothing yet begin: what is left for them is with the others. Whether that was often enough.
    pub(super) async fn break_registry(&mut self, late: &[usize]) -> bool {
        let this = &*self;
        let proxy = this.around.proxy.as_ref().expect("it is behind a proxy");
        let before = proxy.resets();
        proxy.reset_every(RESET_EVERY);
        wait::until("the members to have all of the image between them", STEP_MAX, || async {
            for blob in this.image.blobs() {
                if !is_whole_somewhere(&this.admins, blob).await {
                    return false;
                }
            }
            true
        })
        .await;
        let resets = proxy.resets() - before;
        println!("{resets} connections were reset before the registry is away");
        self.around.proxy.as_mut().expect("it is there").go_away().await;
        late.iter().for_each(|at| self.pull_manifest(*at));
        self.begin(late);
        resets >= RESETS_MIN
    }

    /// A client beside an agent gets the manifest, with which a pull begins.
    fn pull_manifest(&self, at: usize) {
        let (node, manifest) = (&self.nodes[at], self.image.manifest.clone());
        let (agent, registry) = (node.setup.registry_address(), containerd::REGISTRY);
        let url = format!("http://{agent}/v2/{REPOSITORY}/manifests/{}?ns={registry}", manifest.digest);
        let pull = move || async move { Client::patient().get(&url).await.expect(200, &manifest.bytes) };
        self.network.block_on(node.number, pull).expect("the client gets every byte");
    }

    // ---- members that have everything before the others ----

    /// Lets clients beside these have everything, and waits until all know that their agents have it.
    pub(super) async fn hold(&mut self, places: &[usize]) {
        self.begin(places);
        for (at, pull) in std::mem::take(&mut self.pulls) {
            let pulled = pull.await;
            assert!(pulled.is_ok(), "the client at {at}: {pulled:?}");
        }
        for layer in &self.image.layers[..LARGE_LAYERS] {
            until_held(&self.admins[0], layer, places.len(), STEP_MAX).await;
        }
        for at in places {
            let sent = self.sent_bytes(*at).await;
            self.holders.push((*at, sent));
        }
    }

    /// The one of them that has sent most to the others since, once all others have a part of the large layer.
    pub(super) async fn feeding_holder(&self) -> Option<usize> {
        let is_holder = |at: &usize| self.holders.iter().any(|(holder, _)| holder == at);
        for at in (0..self.nodes.len()).filter(|at| !is_holder(at)) {
            let story = story(&self.admins[at], &self.image.layers[0]).await;
            if story.state != "stored" && story.received < Some(BEGUN_BYTES) {
                return None;
            }
        }
        let mut most: Option<(u64, usize)> = None;
        for (at, before) in &self.holders {
            most = most.max(Some((self.sent_bytes(*at).await - before, *at)));
        }
        most.map(|(_, at)| at)
    }

    /// Changes what an agent has stored behind its back.
    pub(super) async fn begin_to_lie(&mut self, at: usize) {
        for layer in &self.image.layers[..LARGE_LAYERS] {
            damage_below(self.nodes[at].setup.data_dir(), layer);
        }
        let sent = self.sent_bytes(at).await;
        self.liar = Some((at, sent));
    }

    /// Nobody else has kept a wrong byte of what the one that lies has sent. Whether it has sent anything.
    pub(super) async fn expect_right(&self) -> bool {
        let (liar, before) = self.liar.expect("one has begun to lie");
        let lied = self.sent_bytes(liar).await - before;
        println!("the one at {liar} sent {lied} bytes when all it had was wrong");
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| *at != liar) {
            for layer in &self.image.layers[..LARGE_LAYERS] {
                wait::until(
                    format!("the node at {at} to have stored {}", layer.digest),
                    STEP_MAX,
                    || async { story(&self.admins[at], layer).await.state == "stored" },
                )
                .await;
                links::begin(node, layer).await.expect("every byte is as it was");
            }
        }
        lied > 0
    }
}

/// The time of this process, whose clock is right.
fn unix_seconds() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("this machine's clock is set");
    since.as_secs() as i64
}
