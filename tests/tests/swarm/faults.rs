//! When members fail in the middle of a rollout.

use std::cell::Cell;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_agent::driver::{BlobStory, Book};
use shoal_tests::agent::{Agent, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::disk::Disk;
use shoal_tests::homes::{fetchers, homes};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::wait;
use tokio::task::JoinHandle;

use super::{REPOSITORY, exact, one_layer, paused_image};

/// Bytes of the layer: enough that there is a middle.
const LAYER_BYTES: usize = 12_000_000;
/// Bytes that somebody has fetched for all, or received, when it counts as being in the middle.
const BEGUN_BYTES: u64 = 1_000_000;
/// How long it may take until a rollout is in the middle, or until what was done to a node is known there.
const STEP_MAX: Duration = Duration::from_secs(30);
/// How soon a member that was killed is on nobody's list any more.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// The same where others stand still meanwhile: that time does not count for them.
const NOTICED_MAX: Duration = Duration::from_secs(20);
/// Copies that may arrive where one is enough: a member that stands still for a moment loses its lease, and still gets what is on
/// its way to it.
const COPIES_MAX: f64 = 1.5;
/// Less than a piece of a layer: all that comes to those who do not fetch it.
const SMALL_BYTES_MAX: f64 = 200_000.0;
/// Rollouts until one is seen in the middle: whoever looks, or is asked, may stand still until it is over.
const ROLLOUTS_MAX: u64 = 4;

/// Adds an image for whose layer the origin takes two and a half seconds. With more than three, several members would fetch at a
/// time.
fn add_slow_image(origin: &Origin, seed: u64) -> Image {
    let image = Image::new(seed, &[LAYER_BYTES]);
    origin.add_image(REPOSITORY, "v1", &image);
    origin.script(Match::blob(&image.layers[0].digest), Plan::rate(5_000_000));
    image
}

/// An origin with such an image.
async fn slow_origin(seed: u64) -> (Origin, Image) {
    let origin = Origin::start().await;
    let image = add_slow_image(&origin, seed);
    (origin, image)
}

/// Copies of the layer that left the origin.
fn copies(origin: &Origin, image: &Image) -> f64 {
    origin.blob_bytes(&image.layers[0].digest) as f64 / LAYER_BYTES as f64
}

/// What an agent knows of a blob.
pub(super) async fn story(agent: &AdminClient, blob: &Blob) -> BlobStory {
    let digest = blob.digest.parse().expect("a digest");
    agent.explain(&digest).await.expect("the agent runs")
}

/// Waits until every home of a blob knows so many members that have it, by what a member is told.
pub(super) async fn until_held(asked: &AdminClient, blob: &Blob, holders: usize, within: Duration) {
    wait::until(format!("{holders} members to have {} by every book", blob.digest), within, || async {
        let story = story(asked, blob).await;
        let knows = |book: &Book| book.holder_count == holders;
        story.books.len() == story.homes.len() && story.books.iter().all(knows)
    })
    .await;
}

/// What agents are called among members.
pub(super) async fn names(agents: &[AdminClient]) -> Vec<String> {
    let asked = agents.iter().map(|agent| async move {
        let members = agent.peers().await.expect("the agent runs").members;
        members.into_iter().find(|member| member.is_self).expect("it knows itself").peer
    });
    futures_util::future::join_all(asked).await
}

/// Waits until all but those that were killed count themselves alone. Tells how long after the kill the last one did.
async fn until_noticed(cluster: &Cluster, killed: &[usize], since: Instant) -> Duration {
    let left = cluster.agents.len() - killed.len();
    // One after the other: the looks themselves are not to be what makes the agents late.
    for (node, agent) in cluster.agents.iter().enumerate().filter(|(node, _)| !killed.contains(node)) {
        let within = NOTICED_MAX.saturating_sub(since.elapsed());
        wait::until(format!("node {node} to count {left} members"), within, || async {
            agent.metric("members", &[]).await as usize == left
        })
        .await;
    }
    since.elapsed()
}

/// Waits until the rollout of a layer is in the middle: a third of it has left the origin, and somebody fetches it for all, by the
/// book, and has got some of it. Tells who; nobody if almost all of it had left before that was seen.
async fn fetcher_in_the_middle(cluster: &Cluster, origin: &Origin, layer: &Blob) -> Option<usize> {
    let (admins, found) = (cluster.admins(), Cell::new(None));
    let is_over = || origin.blob_bytes(&layer.digest) >= 7 * layer.len() / 8;
    wait::until("somebody to fetch the layer for all", STEP_MAX, || async {
        let fetchers = fetchers(&admins, layer, BEGUN_BYTES).await.expect("the agents run");
        found.set(fetchers.first().copied());
        found.get().is_some() || is_over()
    })
    .await;
    origin.until_sent(&layer.digest, layer.len() / 3).await;
    found.get().filter(|_| !is_over())
}

/// A rollout in the middle.
struct Middle {
    image: Image,
    /// Those of all nodes, in their order.
    pulls: Vec<JoinHandle<()>>,
    /// The homes of the layer, the first one first.
    homes: Vec<usize>,
    /// Who fetches the layer for all.
    fetcher: usize,
}

impl Middle {
    /// Lets all nodes pull an image at once, until one of the rollouts is seen in the middle.
    async fn begin(cluster: &Cluster, origin: &Origin, seed: u64) -> Self {
        for seed in seed..seed + ROLLOUTS_MAX {
            let image = add_slow_image(origin, seed);
            let layer = &image.layers[0];
            let homes = homes(&cluster.admins(), layer).await.expect("the agents run");
            let nodes = 0..cluster.agents.len();
            let pulls: Vec<_> = nodes.map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
            if let Some(fetcher) = fetcher_in_the_middle(cluster, origin, layer).await {
                return Middle { image, pulls, homes, fetcher };
            }
            println!("a rollout was over before it was seen in the middle");
            end_well(pulls, &[]).await;
        }
        panic!("none of {ROLLOUTS_MAX} rollouts was seen in the middle");
    }
}

/// Waits for the pulls of all nodes, which end well but for those of nodes that were killed.
async fn end_well(pulls: Vec<JoinHandle<()>>, killed: &[usize]) {
    for (node, pull) in pulls.into_iter().enumerate() {
        let pulled = pull.await;
        assert!(killed.contains(&node) || pulled.is_ok(), "node {node}: {pulled:?}");
    }
}

/// `kill -9` of whoever is just fetching from upstream: the others go on with what they have, and the rest is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetches_dies() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), 6).await;
    let Middle { image, pulls, fetcher, .. } = Middle::begin(&cluster, &origin, 800).await;
    cluster.agents[fetcher].kill();
    end_well(pulls, &[fetcher]).await;
    println!("{:.2} copies", copies(&origin, &image));
    assert!(copies(&origin, &image) < 1.6, "{} copies", copies(&origin, &image));
}

/// `kill -9` of the home of a layer while the layer goes round: another one keeps the book from what the members tell it, and what
/// they have is not fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_of_a_layer_dies() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), 6).await;
    let Middle { image, pulls, homes, fetcher } = Middle::begin(&cluster, &origin, 802).await;
    let home = homes[0];
    cluster.agents[home].kill();
    end_well(pulls, &[home]).await;
    println!("the home fetched it, too: {}; {:.2} copies", home == fetcher, copies(&origin, &image));
    assert!(copies(&origin, &image) < 1.6, "{} copies", copies(&origin, &image));
}

/// The home of a manifest has just died, or stands still, and the members do not know it yet: the next home asks upstream for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_of_a_manifest_is_gone() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), 7).await;
    for (seed, is_killed) in [(804, false), (805, true)] {
        let image = Image::new(seed, &[1000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let digest = &image.manifest.digest;
        let home = homes(&cluster.admins(), &image.manifest).await.expect("the agents run")[0];
        cluster.until_probed().await;
        match is_killed {
            true => cluster.agents[home].kill(),
            false => cluster.agents[home].stop(),
        }
        let begun = Instant::now();
        let others = cluster.agents.iter().enumerate().filter(|(node, _)| *node != home);
        let asked = others.map(|(_, agent)| {
            let (client, url) = (agent.client(), agent.manifest(REPOSITORY, digest));
            tokio::spawn(async move { client.get(&url).await })
        });
        for answer in asked.collect::<Vec<_>>() {
            answer.await.expect("it ends").expect(200, &image.manifest.bytes);
        }
        println!("killed: {is_killed}, all have it after {:.1?}", begun.elapsed());
        let asked = origin.seen().iter().filter(|seen| seen.path.ends_with(digest)).count();
        // The second home may still wait for the first one when the others have given up on both: then the third one asks, too.
        assert!((1..=2).contains(&asked), "{asked} requests of the manifest; killed: {is_killed}");
        if !is_killed {
            cluster.agents[home].go_on();
            cluster.until_met(7).await;
        }
    }
}

/// `kill -9` of a third of the agents, among them the one that fetches from upstream. Beside their pulls, the others notice within
/// ten seconds who is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_dies() {
    exact(810, async |seed| {
        let origin = Origin::start().await;
        let mut cluster = Cluster::start(&origin.url(), 9).await;
        let admins = cluster.admins();
        let names = names(&admins).await;
        let Middle { image, pulls, fetcher, .. } = Middle::begin(&cluster, &origin, seed).await;
        let third = [0, 3, 6].map(|distance| (fetcher + distance) % 9);
        let killed = Instant::now();
        for node in third {
            cluster.agents[node].kill();
        }
        let noticed = until_noticed(&cluster, &third, killed).await;
        println!("the last one has noticed it {noticed:.1?} after the kill");
        end_well(pulls, &third).await;
        for (node, admin) in admins.iter().enumerate().filter(|(node, _)| !third.contains(node)) {
            let members = admin.peers().await.expect("the agent runs").members;
            let is_dead = |name: &String| third.iter().any(|dead| names[*dead] == *name);
            assert!(!members.iter().any(|member| is_dead(&member.peer)), "node {node}: {members:?}");
        }
        println!("{:.2} copies", copies(&origin, &image));
        assert!(copies(&origin, &image) < 2.5, "{} copies", copies(&origin, &image));
        (noticed <= NOTICED_WITHIN).then_some(())
    })
    .await;
}

/// Who stands still.
#[derive(Clone, Copy, Debug)]
enum Still {
    /// One that only receives the layer.
    Receiver,
    /// The one that fetches it for all.
    Fetcher,
    /// Its first home.
    Home,
}

/// Stops a member for ten seconds in the middle of a rollout. That holds up nobody else, and its own pull ends well afterwards.
/// Tells how many copies of the layer have left the origin.
async fn stand_still(seed: u64, who: Still) -> f64 {
    const NODES: usize = 6;
    /// Long enough to be taken for dead.
    const STOPPED_FOR: Duration = Duration::from_secs(10);
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), NODES).await;
    let Middle { image, mut pulls, homes, fetcher } = Middle::begin(&cluster, &origin, seed).await;
    let receiver = (0..NODES).find(|node| *node != fetcher && !homes.contains(node));
    let still = match who {
        Still::Receiver => receiver.expect("half of them are homes, and one fetches"),
        Still::Fetcher => fetcher,
        Still::Home => homes[0],
    };
    cluster.agents[still].stop();
    let stopped = Instant::now();
    let own = pulls.remove(still);
    for pull in pulls {
        tokio::time::timeout(2 * STEP_MAX, pull).await.expect("in time").expect("it ends well");
    }
    println!("{who:?} stands still: the others have it after {:.1?}", stopped.elapsed());
    assert!(!own.is_finished(), "who stands still serves nobody");
    // The stop has its length whatever the others do: it is the fault itself.
    tokio::time::sleep_until((stopped + STOPPED_FOR).into()).await;
    cluster.agents[still].go_on();
    let back = Instant::now();
    own.await.expect("it ends well, too");
    println!("its own pull ends {:.1?} after it has gone on", back.elapsed());
    println!("{:.2} copies", copies(&origin, &image));
    copies(&origin, &image)
}

/// Upstream is not asked for what the others have by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stands_still_for_a_while() {
    let copies = stand_still(820, Still::Receiver).await;
    assert!(copies < 1.6, "{copies} copies");
}

/// The rest is fetched by somebody else; what was on its way to the one that stands still comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_fetches_stands_still_for_a_while() {
    let copies = stand_still(822, Still::Fetcher).await;
    assert!(copies < 2.0, "{copies} copies");
}

/// The same for the one that keeps the book, which may be the one that fetches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_of_a_layer_stands_still_for_a_while() {
    let copies = stand_still(824, Still::Home).await;
    assert!(copies < 2.0, "{copies} copies");
}

/// Waits until what has arrived of a transfer that is now held up is in a checkpoint: for some seconds, which is longer than a
/// checkpoint is put off, nothing has been written to the index.
async fn until_saved(agent: &Agent) {
    /// Ten milliseconds apart, or more. The agent has to answer at each, so that no time counts in which it stands still.
    const QUIET_LOOKS_MIN: u32 = 400;
    let seen = Cell::new((agent.index_log_bytes(), 0));
    assert!(seen.get().0 > 0, "no write-ahead log of the index found");
    wait::until("nothing to be written to the index", 2 * STEP_MAX, || async {
        agent.metrics().await;
        let ((before, quiet), now) = (seen.get(), agent.index_log_bytes());
        seen.set((now, if now == before { quiet + 1 } else { 0 }));
        quiet >= QUIET_LOOKS_MIN
    })
    .await;
}

/// The agent that restarts in the middle goes on from the pieces on its disk, and upstream sends hardly more than one copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on() {
    const NODES: usize = 4;
    /// What comes before the restart, and what of it has been passed on to everybody at least.
    const FIRST_BYTES: u64 = 3 * LAYER_BYTES as u64 / 4;
    const SHARED_BYTES: u64 = 2 * LAYER_BYTES as u64 / 3;
    let origin = Origin::start().await;
    let (earlier, image) = (Image::new(831, &[1000]), Image::new(830, &[LAYER_BYTES]));
    origin.add_image(REPOSITORY, "v0", &earlier);
    origin.add_image(REPOSITORY, "v1", &image);
    let (layer, gate) = (&image.layers[0], Gate::closed());
    // Whoever is to go on in place of the first one that fetches waits as well.
    origin.script_times(1, Match::blob(&layer.digest), Plan::pause_after(FIRST_BYTES, &gate));
    origin.script(Match::blob(&layer.digest), Plan::hold(&gate));
    let mut cluster = Cluster::start(&origin.url(), NODES).await;
    // So that the index has a log.
    cluster.pull(0..NODES, REPOSITORY, &earlier).await;
    let admins = cluster.admins();
    let homes = homes(&admins, layer).await.expect("the agents run");
    let restarted = (0..NODES).find(|node| !homes.contains(node)).expect("three of four are homes");
    let mut pulls: Vec<_> = (0..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    let own = pulls.remove(restarted);
    origin.until_sent(&layer.digest, FIRST_BYTES).await;
    wait::until("everybody to have what has come", STEP_MAX, || async {
        let stories = futures_util::future::join_all(admins.iter().map(|admin| story(admin, layer))).await;
        stories.iter().all(|story| story.received >= Some(SHARED_BYTES))
            && story(&admins[restarted], &image.config).await.state == "stored"
    })
    .await;
    until_saved(&cluster.agents[restarted]).await;
    cluster.agents[restarted].restart().await;
    assert!(own.await.is_err(), "its client was cut off in the middle");
    cluster.until_met(NODES).await;
    pulls.push(cluster.begin(restarted, REPOSITORY, &image));
    gate.open();
    end_well(pulls, &[]).await;
    let agent = &cluster.agents[restarted];
    let received = agent.metric("peer_received_bytes_total", &[]).await
        + agent.metric("upstream_bytes_total", &[]).await;
    println!("{received} bytes came after the restart; {:.2} copies", copies(&origin, &image));
    assert!(received >= (layer.len() - FIRST_BYTES) as f64, "{received} bytes: it was not in the middle");
    assert!(received < 0.6 * LAYER_BYTES as f64, "{received} bytes came again after the restart");
    assert!(copies(&origin, &image) < 1.3, "{} copies", copies(&origin, &image));
}

/// A disk that is full on one node: its pull goes straight through, the others are not harmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_harms_nobody_else() {
    shoal_tests::place::needs_root();
    let (origin, image) = slow_origin(840).await;
    let disk = Disk::tmpfs(8);
    let cluster = Cluster::start_with(&origin.url(), 4, |node, setup| match node {
        3 => setup.data(&disk.path()),
        _ => setup,
    })
    .await;
    cluster.pull(0..4, REPOSITORY, &image).await;
    println!("{:.2} copies", copies(&origin, &image));
    // One for all, one for the node that is full, and what was on its way.
    assert!(copies(&origin, &image) < 2.5, "{} copies", copies(&origin, &image));
}

/// Disks of two nodes fill up while the layer is on its way: those who wait there get the rest straight from upstream, the nodes say
/// that they are full, and the others have stored it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_disks_fill_up_in_the_middle() {
    const NODES: usize = 6;
    const FULL: [usize; 2] = [1, 4];
    shoal_tests::place::needs_root();
    let (origin, image, gate) = paused_image(842, LAYER_BYTES, LAYER_BYTES as u64 / 4).await;
    let layer = &image.layers[0];
    // Room for twice the layer.
    let disks = FULL.map(|_| Disk::tmpfs(24));
    let cluster = Cluster::start_with(&origin.url(), NODES, |node, setup| {
        match FULL.iter().position(|full| *full == node) {
            Some(at) => setup.data(&disks[at].path().join("shoal")),
            None => setup,
        }
    })
    .await;
    let admins = cluster.admins();
    let pulls: Vec<_> = (0..NODES).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    for node in FULL {
        wait::until(format!("node {node} to have a part of the layer"), STEP_MAX, || async {
            story(&admins[node], layer).await.received >= Some(BEGUN_BYTES)
        })
        .await;
    }
    disks.iter().for_each(Disk::fill);
    gate.open();
    origin.heal();
    end_well(pulls, &[]).await;
    let first = cluster.upstream_bytes().await / LAYER_BYTES as f64;
    println!("{first:.2} copies");
    // One for all, one at most for each that is full, and what was on its way.
    assert!(first < 3.5, "{first} copies");
    for node in FULL {
        let agent = &cluster.agents[node];
        wait::until(format!("node {node} to say what is wrong"), STEP_MAX, || async {
            agent.metric("store_degraded", &["disk-full"]).await == 1.0
        })
        .await;
    }

    // Nothing of it is kept there, so it is passed through once more.
    cluster.pull(FULL, REPOSITORY, &image).await;
    let second = cluster.upstream_bytes().await / LAYER_BYTES as f64 - first;
    println!("{second:.2} copies for those that are full, once more");
    assert!(second < 2.1, "{second} copies");
    for node in FULL {
        let agent = &cluster.agents[node];
        assert!(agent.metric("served_bytes_total", &["pass-through"]).await > 0.0, "node {node}");
        assert_eq!(agent.metric("store_degraded", &["disk-full"]).await, 1.0, "node {node}");
        let socket = agent.setup().socket().display().to_string();
        let status = shoal(&["status", "--socket", &socket]).await.expect_ok("shoal status").output;
        assert!(status.contains("FULL: the disk has"), "{status}");
    }
    origin.refuse().await;
    cluster.pull((0..NODES).filter(|node| !FULL.contains(node)), REPOSITORY, &image).await;
}

/// Upstream is away after it has sent one copy: whoever comes later gets it from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_is_away_after_one_copy() {
    let (origin, image) = slow_origin(850).await;
    let cluster = Cluster::start(&origin.url(), 5).await;
    cluster.pull([0], REPOSITORY, &image).await;
    origin.refuse().await;
    cluster.pull(1..5, REPOSITORY, &image).await;
    let late = upstream_bytes(&cluster.agents[1..]).await;
    println!("{:.2} copies; {late} bytes came to the others from upstream", copies(&origin, &image));
    assert!(copies(&origin, &image) < COPIES_MAX, "{} copies", copies(&origin, &image));
    // Homes ask for the manifest and for small blobs, whoever pulls.
    assert!(late < SMALL_BYTES_MAX, "{late} bytes");
}

/// Bytes that these agents have received from upstream.
async fn upstream_bytes(agents: &[Agent]) -> f64 {
    let mut sum = 0.0;
    for agent in agents {
        sum += agent.metric("upstream_bytes_total", &[]).await;
    }
    sum
}

/// Requests of a blob that the origin has sent so many bytes for, after which it resets the connection.
fn resets(origin: &Origin, blob: &Blob, after: u64) -> usize {
    let seen = origin.seen();
    let of_blob = seen.iter().filter(|seen| seen.method == "GET" && seen.reference == blob.digest);
    of_blob.filter(|seen| seen.sent() == after).count()
}

/// The origin resets connections in the middle again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_resets_connections() {
    const RESET_AFTER: u64 = 2_500_000;
    let (origin, image) = one_layer(860, LAYER_BYTES).await;
    let layer = &image.layers[0];
    origin.script_times(3, Match::blob(&layer.digest), Plan::reset_after(RESET_AFTER));
    let cluster = Cluster::start(&origin.url(), 5).await;
    cluster.pull(0..5, REPOSITORY, &image).await;
    let resets = resets(&origin, layer, RESET_AFTER);
    println!("{resets} resets");
    assert!(resets >= 1, "no connection was reset");
    // What the origin sent into a connection that it reset counts for nothing: it never arrived.
    let copies = cluster.upstream_bytes().await / LAYER_BYTES as f64;
    assert!(copies < COPIES_MAX, "{copies} copies");
}

/// Whether one of the agents has all of a blob.
pub(super) async fn is_whole_somewhere(agents: &[AdminClient], blob: &Blob) -> bool {
    for agent in agents {
        let story = story(agent, blob).await;
        if story.state == "stored" || story.received == Some(blob.len()) {
            return true;
        }
    }
    false
}

/// The origin resets every connection after an eighth of the layer, and is away as soon as the members have all of it between
/// them: that is enough for those who are on their way, and for those who come later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_resets_connections_and_goes_away() {
    const NODES: usize = 6;
    const EARLY: usize = 4;
    const RESET_AFTER: u64 = LAYER_BYTES as u64 / 8;
    let (origin, image) = one_layer(862, LAYER_BYTES).await;
    let layer = &image.layers[0];
    origin.script(Match::blob(&layer.digest), Plan::reset_after(RESET_AFTER).at_rate(6_000_000));
    let cluster = Cluster::start(&origin.url(), NODES).await;
    let admins = cluster.admins();
    let begin = |node| cluster.begin(node, REPOSITORY, &image);
    let early: Vec<_> = (0..EARLY).map(begin).collect();
    wait::until("the members to have all of the image between them", STEP_MAX, || async {
        is_whole_somewhere(&admins, layer).await && is_whole_somewhere(&admins, &image.config).await
    })
    .await;
    origin.refuse().await;
    let late: Vec<_> = (EARLY..NODES).map(begin).collect();
    end_well(early, &[]).await;
    end_well(late, &[]).await;
    let resets = resets(&origin, layer, RESET_AFTER);
    let (sent, received) = (copies(&origin, &image), cluster.upstream_bytes().await / LAYER_BYTES as f64);
    println!("{resets} resets; {sent:.2} copies were sent, {received:.2} arrived");
    assert!(resets >= 5, "{resets} resets");
    assert!(received < COPIES_MAX, "{received} copies");
    // What was on its way when a connection was reset: less than a half of what went over it, or there would be no progress.
    assert!(sent < received + resets as f64 / 16.0, "{sent} copies were sent, {received} arrived");
}

/// The same in the figures of large layers: 64 MB for one node, over connections that are reset after 20 MB each. The others come when
/// the origin is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset_every_20_mb_until_the_origin_is_away() {
    const NODES: usize = 4;
    const LARGE_LAYER_BYTES: usize = 64_000_000;
    const RESET_AFTER: u64 = 20_000_000;
    let (origin, image) = one_layer(866, LARGE_LAYER_BYTES).await;
    let faults = Faults { reset_after_bytes: Some(RESET_AFTER), ..Faults::default() };
    let mut proxy = Proxy::start(origin.address(), faults).await;
    let cluster = Cluster::start(&proxy.url(), NODES).await;
    cluster.pull([0], REPOSITORY, &image).await;
    let resets = proxy.resets();
    proxy.go_away().await;
    cluster.pull(1..NODES, REPOSITORY, &image).await;
    let late = upstream_bytes(&cluster.agents[1..]).await;
    let received = upstream_bytes(&cluster.agents).await / LARGE_LAYER_BYTES as f64;
    println!("{resets} resets; {received:.2} copies arrived, {late} bytes of them at the others");
    assert!(resets >= 1, "no connection was reset");
    // The one that fetches goes on where it was cut.
    assert!(received < COPIES_MAX, "{received} copies");
    assert!(late < SMALL_BYTES_MAX, "{late} bytes");
}
