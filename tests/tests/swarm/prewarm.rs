//! Images on nodes before anybody asks for them: by the command line, over real agents.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::homes::homes;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::process::{Finished, Process};
use shoal_tests::{place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};

use super::{HOMES, REPOSITORY, are_sent_once, exact, one_layer, paused_image, until_heard, until_logged};

/// How long a step may take that only waits for others.
pub(super) const STEP_MAX: Duration = Duration::from_secs(60);

pub(super) fn name(reference: &str) -> String {
    format!("{REGISTRY}/{REPOSITORY}:{reference}")
}

pub(super) fn socket(agent: &Agent) -> String {
    agent.setup().socket().display().to_string()
}

/// `shoal prewarm` with these words, asked of an agent.
pub(super) async fn prewarm(agent: &Agent, words: &[&str]) -> Finished {
    let socket = socket(agent);
    shoal(&[&["prewarm", "--socket", &socket], words].concat()).await
}

/// The JSON object that it ends with.
pub(super) fn json(finished: &Finished) -> serde_json::Value {
    let start = finished.output.find('{').unwrap_or_else(|| panic!("no JSON in\n{}", finished.output));
    serde_json::from_str(&finished.output[start..]).unwrap_or_else(|e| panic!("{e} in\n{}", finished.output))
}

#[track_caller]
pub(super) fn expect(finished: &Finished, code: i32, text: &str) {
    assert_eq!(finished.code, Some(code), "{}", finished.output);
    assert!(finished.output.contains(text), "{text:?} is not in\n{}", finished.output);
}

/// What is answered once it is this, to a question that changes nothing: a member that stands still for some seconds is left out.
pub(super) async fn until_told(ask: impl AsyncFn() -> Finished, code: i32, text: &str) -> Finished {
    let told = RefCell::new(None);
    wait::until(format!("exit code {code} and {text:?}"), STEP_MAX, || async {
        let finished = ask().await;
        let is_it = finished.code == Some(code) && finished.output.contains(text);
        if !is_it {
            println!("exit code {:?}:\n{}", finished.code, finished.output);
        }
        *told.borrow_mut() = Some(finished);
        is_it
    })
    .await;
    told.into_inner().expect("it was told")
}

/// Whether everything of an image is served by a node, byte for byte.
pub(super) async fn expect_served(agent: &Agent, image: &Image, manifests: &[&Blob]) {
    for manifest in manifests {
        agent.get_manifest(REPOSITORY, &manifest.digest).await.expect(200, &manifest.bytes);
    }
    agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
}

/// Waits until all that a node has is pinned for a while; it is written down right after a blob has come.
pub(super) async fn until_pinned(agent: &Agent) {
    wait::until("all blobs to be pinned", STEP_MAX, || async {
        let blobs =
            shoal(&["blob", "ls", "--json", "--socket", &socket(agent)]).await.expect_ok("blob ls").output;
        blobs.contains("\"pinned_until\":1") && !blobs.contains("\"pinned\":false")
    })
    .await;
}

/// What an origin tells of a digest, see [`are_sent_once`].
fn told(origin: &Origin) -> impl Fn(&str) -> (usize, u64) {
    move |digest: &str| (origin.blob_gets(digest), origin.blob_bytes(digest))
}

fn requests(origin: &Origin) -> usize {
    origin.seen().iter().filter(|seen| matches!(seen.kind, Kind::Blob | Kind::Manifest)).count()
}

/// Two platforms in an index, the first of which is this machine's.
fn both(seed: u64) -> (Image, Image, Blob) {
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let image = Image::for_platform(seed, &[3_000_000, 400_000, 100], own);
    let other = Image::for_platform(seed + 1, &[50_000], "riscv64");
    let index = Image::index(&[(&image, own), (&other, "riscv64")]);
    (image, other, index)
}

fn add(origin: &Origin, tag: &str, (image, other, index): &(Image, Image, Blob)) {
    origin.add_image(REPOSITORY, "own", image);
    origin.add_image(REPOSITORY, "other", other);
    origin.add_manifest(REPOSITORY, index);
    origin.tag(REPOSITORY, tag, &index.digest);
}

/// The mission: every node has the whole image, upstream sent each part once, and then the registry may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_warm() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 5).await;
    let manifests = |reference: &str| {
        let seen = origin.seen().into_iter();
        seen.filter(|seen| seen.kind == Kind::Manifest && seen.reference == reference).count()
    };
    let (image, index) = exact(900, async |seed| {
        let (images, tag) = (both(seed), format!("v{seed}"));
        add(&origin, &tag, &images);
        let (image, other, index) = images;
        let finished = prewarm(&cluster.agents[1], &[&name(&tag), "--pin", "24h"]).await;
        expect(&finished, 0, "5 of 5 nodes ready");
        assert_eq!(origin.blob_gets(&index.digest) + origin.blob_gets(&image.manifest.digest), 0);
        assert_eq!(manifests(&other.manifest.digest), 0, "another platform was not asked for");
        let asked = [manifests(&tag), manifests(&index.digest), manifests(&image.manifest.digest)];
        assert!(asked.iter().all(|asked| *asked <= HOMES), "{asked:?}");
        println!("{asked:?} requests of the tag, the index and the manifest");
        (are_sent_once(&image, told(&origin)) && asked == [1, 0, 1]).then_some((image, index))
    })
    .await;

    origin.refuse().await;
    for agent in &cluster.agents {
        expect_served(agent, &image, &[&index]).await;
        until_pinned(agent).await;
    }
}

/// A tag that only one node has ever asked for: every warm node answers for it while the registry is down, long after its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_warm_node_knows_the_tag() {
    let origin = Origin::start().await;
    let image = Image::new(905, &[300_000, 100]);
    origin.add_image(REPOSITORY, "v1", &image);
    let cluster = Cluster::start_with(&origin.url(), 5, |_, setup| setup.set("tags.ttl", "1ms")).await;
    expect(&prewarm(&cluster.agents[1], &[&name("v1")]).await, 0, "5 of 5 nodes ready");
    origin.refuse().await;
    for agent in &cluster.agents {
        // The homes of the tag are told of it beside the rest, which may end before.
        wait::until("the tag to be known", STEP_MAX, || async {
            agent.get_manifest(REPOSITORY, "v1").await.status == 200
        })
        .await;
        agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
        let socket = socket(agent);
        let pinned = shoal(&["pin", &name("v1"), "--for", "1h", "--socket", &socket]).await;
        expect(&pinned, 0, "4 blobs pinned");
    }
}

/// A second start fetches nothing and says the same; a node that came later is made warm from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_start_goes_on_where_the_first_was() {
    let registry = DockerRegistry::start().await;
    let image = Image::new(910, &[2_000_000, 300]);
    registry.push(REPOSITORY, "v1", &image).await;
    let mut cluster = Cluster::start(&registry.url(), 3).await;
    expect(&prewarm(&cluster.agents[0], &[&name("v1")]).await, 0, "3 of 3 nodes ready");
    let before = cluster.upstream_bytes().await;
    expect(&prewarm(&cluster.agents[0], &[&name("v1")]).await, 0, "3 of 3 nodes ready");
    assert_eq!(cluster.upstream_bytes().await, before);
    // Another agent, and one more node.
    let late = cluster.join().await;
    cluster.until_met(4).await;
    for blob in image.blobs() {
        until_heard(&cluster, late, blob).await;
    }
    until_logged(&registry, &image).await;
    let requests: Vec<_> = image.blobs().map(|blob| registry.blob_gets(&blob.digest)).collect();
    let finished = prewarm(&cluster.agents[late], &[&name("v1"), "--json"]).await;
    assert_eq!(json(&finished)["upstream_bytes"], 0, "{}", finished.output);
    expect(&finished, 0, "\"ready\": 4");
    registry.until_calm().await;
    for (blob, requests) in image.blobs().zip(requests) {
        assert_eq!(registry.blob_gets(&blob.digest), requests, "{}", blob.digest);
    }
    expect_served(&cluster.agents[late], &image, &[]).await;
    let listed =
        shoal(&["prewarm", "ls", "--socket", &socket(&cluster.agents[0])]).await.expect_ok("ls").output;
    // Beside them may stand what another agent was asked for and this one would take over.
    let done = |line: &&str| line.contains(" done ") && line.ends_with(&name("v1"));
    assert_eq!(listed.lines().filter(done).count(), 2, "{listed}");
}

/// A node that joins while an image is pinned gets it without being asked for, until the request is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_later_becomes_warm() {
    let (origin, image) = one_layer(915, 300_000).await;
    let mut cluster = Cluster::start(&origin.url(), 2).await;
    let finished = prewarm(&cluster.agents[0], &[&name("v1"), "--pin", "1h"]).await;
    expect(&finished, 0, "2 of 2 nodes ready");
    let requests: Vec<_> = image.blobs().map(|blob| origin.blob_gets(&blob.digest)).collect();
    // Also by an agent that has been started again meanwhile.
    cluster.agents[0].restart().await;
    let late = cluster.join().await;
    cluster.until_met(3).await;
    wait::until("the node that joined to be warm", STEP_MAX, || async {
        let blobs = shoal(&["blob", "ls", "--json", "--socket", &socket(&cluster.agents[late])]).await.output;
        image.blobs().all(|blob| blobs.contains(&blob.digest)) && !blobs.contains("\"pinned\":false")
    })
    .await;
    for (blob, before) in image.blobs().zip(requests) {
        // As a new home it asks the others for a moment only who has it.
        let is_home = homes(&cluster.admins(), blob).await.expect("the agents run")[0] == late;
        let more = origin.blob_gets(&blob.digest) - before;
        assert!(more <= usize::from(is_home), "{}: {more} more requests, home: {is_home}", blob.digest);
    }
}

/// Only those that are meant become warm; which are not there is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_selected() {
    let (origin, image) = one_layer(920, 200_000).await;
    let cluster = Cluster::start_with(&origin.url(), 4, |node, setup| {
        let pool = if node % 2 == 0 { "gpu" } else { "cpu" };
        setup.set("swarm.zone", if node < 2 { "a" } else { "b" }).set("swarm.labels.pool", pool)
    })
    .await;
    let has = async |node: usize| {
        let blobs = shoal(&["blob", "ls", "--json", "--socket", &socket(&cluster.agents[node])]).await;
        blobs.output.contains(&image.layers[0].digest)
    };
    let finished = prewarm(&cluster.agents[1], &[&name("v1"), "--select", "zone=b,pool=gpu"]).await;
    expect(&finished, 0, "1 of 1 node ready");
    assert_eq!([has(0).await, has(1).await, has(2).await, has(3).await], [false, false, true, false]);
    let finished = prewarm(&cluster.agents[1], &[&name("v1"), "--select", "zone=a"]).await;
    expect(&finished, 0, "2 of 2 nodes ready");
    assert!(has(0).await && has(1).await && !has(3).await);
    let finished = prewarm(&cluster.agents[1], &[&name("v1"), "--select", "zone=c"]).await;
    expect(&finished, 2, "no member has zone=c; there is zone=a, b");
    let finished = prewarm(&cluster.agents[1], &[&name("v1"), "--percent", "25", "--json"]).await;
    assert_eq!(json(&finished)["nodes"], 1);
}

/// A node that dies meanwhile is reported with the reason, all others become warm, and the exit status says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_named() {
    let (origin, image, gate) = paused_image(930, 4_000_000, 1_000_000).await;
    let layer = &image.layers[0].digest;
    let mut cluster = Cluster::start(&origin.url(), 4).await;
    let folder = place::scratch();
    let mut process = begin(&cluster.agents[0], &[&name("v1"), "--grace", "2s"], &log_file(&folder));
    origin.until_sent(layer, 1_000_000).await;
    cluster.agents[3].kill();
    gate.open();
    let status = process.exit(STEP_MAX).await;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("3 of 4 nodes ready"), "{log}");
    let address = cluster.agents[3].address().ip().to_string();
    let line = log.lines().find(|line| line.contains(&address)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("it cannot be reached") || line.contains("it does not answer"), "{line}");
    for node in 0..3 {
        expect_served(&cluster.agents[node], &image, &[]).await;
    }
}

/// Cancelled, nothing moves any more; asked for again, it costs one copy at most, whoever of the nodes is the first to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_cancelled() {
    let (origin, image, gate) = paused_image(940, 8_000_000, 4_000_000).await;
    let layer = &image.layers[0].digest;
    let cluster = Cluster::start(&origin.url(), 3).await;
    let begun = prewarm(&cluster.agents[0], &[&name("v1"), "--detach"]).await.expect_ok("prewarm --detach");
    let (id, socket) = (begun.output.trim().to_owned(), socket(&cluster.agents[0]));
    origin.until_sent(layer, 4_000_000).await;
    shoal(&["prewarm", "cancel", &id, "--socket", &socket]).await.expect_ok("cancel");
    for agent in &cluster.agents {
        agent.until_idle().await;
    }
    let listed = shoal(&["prewarm", "ls", "--socket", &socket]).await.expect_ok("ls").output;
    assert!(listed.contains("cancelled"), "{listed}");
    let unknown = shoal(&["prewarm", "cancel", "ffffffff", "--socket", &socket]).await;
    expect(&unknown, 5, "shoal prewarm ls");
    gate.open();
    origin.heal();
    expect(&prewarm(&cluster.agents[1], &[&name("v1")]).await, 0, "3 of 3 nodes ready");
    assert!(origin.blob_bytes(layer) < 12_500_000, "{} bytes", origin.blob_bytes(layer));
    expect_served(&cluster.agents[2], &image, &[]).await;
}

/// The command line as a process that can be sent signals.
pub(super) fn begin(agent: &Agent, words: &[&str], log: &Path) -> Process {
    let mut command = Command::new(place::shoal_bin());
    command.args(["prewarm", "--socket", &socket(agent)]).args(words);
    Process::spawn("shoal prewarm", &mut command, log).expect("it starts")
}

pub(super) fn log_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("log")
}

/// Ctrl-C cancels and says so; an agent that dies is told of with what to do, and another one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_and_left_alone() {
    let (origin, image, gate) = paused_image(945, 8_000_000, 2_000_000).await;
    let layer = &image.layers[0].digest;
    let mut cluster = Cluster::start(&origin.url(), 3).await;
    let folder = place::scratch();
    let mut process = begin(&cluster.agents[0], &[&name("v1")], &log_file(&folder));
    origin.until_sent(layer, 2_000_000).await;
    process.signal(libc::SIGINT);
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(130), "{}", process.log());
    assert!(process.log().contains("the same command goes on from there"), "{}", process.log());
    for agent in &cluster.agents {
        agent.until_idle().await;
    }

    let folder = place::scratch();
    let mut process = begin(&cluster.agents[0], &[&name("v1")], &log_file(&folder));
    wait::until("it to be under way again", STEP_MAX, || async {
        cluster.agents[1].metric("flights", &[]).await > 0.0
    })
    .await;
    cluster.agents[0].kill();
    let status = process.exit(STEP_MAX).await;
    assert_eq!(status.code(), Some(4), "{}", process.log());
    assert!(process.log().contains("the agent of another node"), "{}", process.log());
    gate.open();
    // The dead one may not be known to be dead yet.
    let words = [&*name("v1"), "--grace", "2s", "--json"];
    let finished = prewarm(&cluster.agents[1], &words).await;
    assert!(json(&finished)["ready"].as_u64() >= Some(2), "{}", finished.output);
    expect_served(&cluster.agents[2], &image, &[]).await;
}

/// An agent that dies before it has said under which name it warms is as one that dies later: what to do is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_ends_before_it_answers() {
    let (origin, _) = one_layer(946, 1000).await;
    let cluster = Cluster::start(&origin.url(), 1).await;
    let folder = place::scratch();
    let path = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&path).expect("the folder is ours");
    let agent = cluster.agents[0].setup().socket();
    let dying = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("it listens");
            let mut start = [0; 8];
            client.read_exact(&mut start).await.expect("a request");
            if start.starts_with(b"POST") {
                return;
            }
            let mut agent = UnixStream::connect(&agent).await.expect("the agent is there");
            agent.write_all(&start).await.expect("it reads");
            // However the client leaves, it has its answer.
            let _ = copy_bidirectional(&mut client, &mut agent).await;
        }
    });
    let finished = shoal(&["prewarm", "--socket", &path.display().to_string(), &name("v1")]).await;
    expect(&finished, 4, "the agent ended before the nodes were ready");
    expect(&finished, 4, "the agent of another node");
    dying.await.expect("it was asked to warm");
}

/// What would be done is told, and not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_and_does_nothing() {
    let origin = Origin::start().await;
    let image = Image::new(950, &[700_000, 70_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let cluster = Cluster::start(&origin.url(), 3).await;
    let all = image.blob_bytes() + image.manifest.len();
    let plan = json(&prewarm(&cluster.agents[0], &[&name("v1"), "--dry-run", "--json"]).await);
    // Its manifest was read, and is there.
    assert_eq!(plan["upstream_bytes"], image.blob_bytes(), "{plan}");
    assert_eq!(plan["images"][0]["size"], all);
    assert_eq!(origin.count(Kind::Blob, "GET"), 0, "nothing has moved");
    cluster.pull([2], REPOSITORY, &image).await;
    cluster.agents[2].until_idle().await;
    wait::until("the plan to tell what one has", STEP_MAX, || async {
        let plan = json(&prewarm(&cluster.agents[0], &[&name("v1"), "--dry-run", "--json"]).await);
        plan["upstream_bytes"] == 0 && plan["images"][0]["nodes_ready"] == 1
    })
    .await;
    let plan = async || prewarm(&cluster.agents[0], &[&name("v1"), "--dry-run"]).await;
    let text = until_told(plan, 0, "2 nodes would receive").await.output;
    assert!(text.contains("1 has everything"), "{text}");
}

/// Two agents are asked for the same in the same second: one set, each part once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_askers_share() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 4).await;
    let (first, last) = (&cluster.agents[0], &cluster.agents[3]);
    exact(960, async |seed| {
        let (images, tag) = (both(seed), format!("v{seed}"));
        add(&origin, &tag, &images);
        let image = name(&tag);
        let words = [&*image];
        let (one, two) = tokio::join!(prewarm(first, &words), prewarm(last, &words));
        expect(&one, 0, "4 of 4 nodes ready");
        expect(&two, 0, "4 of 4 nodes ready");
        are_sent_once(&images.0, told(&origin)).then_some(())
    })
    .await;
}

/// What a registry does not give as a blob comes from where manifests are: nobody has to have announced it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_asked_for_as_a_blob() {
    let origin = Origin::start().await;
    let images = both(970);
    add(&origin, "v1", &images);
    let manifest = &images.0.manifest;
    // Layers that a manifest sets in motion would be requests of their own.
    let agent = Setup::new(&origin.url()).set("prefetch.layers", false).start().await;
    // The index tells how big it is; a warm set tells the same.
    agent.get_manifest(REPOSITORY, "v1").await.expect(200, &images.2.bytes);
    agent.get_blob(REPOSITORY, &manifest.digest).await.expect(200, &manifest.bytes);
    agent.until_idle().await;
    let before = requests(&origin);
    let answer = agent.get_manifest(REPOSITORY, &manifest.digest).await;
    assert_eq!(answer.header("Content-Type"), manifest.media_type);
    answer.expect(200, &manifest.bytes);
    assert_eq!(requests(&origin), before, "it is here, with its type and the repository's right to it");
}

/// Without a swarm an agent warms itself, and keeps what it was told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_alone_warms_itself() {
    let origin = Origin::start().await;
    let images = both(980);
    add(&origin, "v1", &images);
    let agent = Setup::new(&origin.url()).start().await;
    let finished = prewarm(&agent, &[&name("v1"), "--pin", "1h"]).await;
    expect(&finished, 0, "1 of 1 node ready");
    let before = requests(&origin);
    expect(&prewarm(&agent, &[&name("v1")]).await, 0, "1 of 1 node ready");
    assert_eq!(requests(&origin), before);
    origin.refuse().await;
    expect_served(&agent, &images.0, &[&images.2]).await;
    until_pinned(&agent).await;
}

/// What cannot be done is said at once, each thing with its place, and nothing is begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said() {
    let origin = Origin::start().await;
    let images = both(990);
    add(&origin, "v1", &images);
    let agent = Setup::new(&origin.url()).start().await;
    let folder = place::scratch();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let (v1, missing) = (name("v1"), name("v9"));
    let list = write("images.txt", "# ours\nNot An Image\n");
    let empty = write("service.yaml", "kind: Service\nmetadata: {name: web}\n");
    let table: [(&[&str], &str); 11] = [
        (&["Redis:7"], "\"Redis:7\" is no image"),
        (&["-f", &list], "images.txt:2"),
        (&["--from-manifest", &empty], "it names no image"),
        (&["--from-manifest", "/does/not/exist.yaml"], "cannot read /does/not/exist.yaml"),
        (&[], "no image is named"),
        (&[&v1, "--platform", "linux"], "\"linux\" is no platform"),
        (&[&v1, "--platform", "linux/s390x"], "it is not for linux/s390x; it is for linux/"),
        (&[&missing], "no source has it"),
        (&[&v1, "--max-upstream", "200"], "write one such as \"100MB/s\""),
        (&[&v1, "--max-per-node", "999kB/s"], "is less than 1MB/s"),
        (&[&v1, "--max-upstream", "5MB/s"], "set that instead of a bound of the request"),
    ];
    for (words, text) in table {
        expect(&prewarm(&agent, words).await, 2, text);
    }
    let nobody = shoal(&["prewarm", &v1, "--socket", "/does/not/exist.sock"]).await;
    expect(&nobody, 4, "no agent answers");
    assert_eq!(origin.count(Kind::Blob, "GET"), 0);

    // One that can be warmed beside one that cannot.
    expect(&prewarm(&agent, &[&v1, &missing]).await, 1, "1 image not warmed");
    let pod = "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: '";
    let pod = write("pod.yaml", &format!("{pod}{v1}'}}]}}\n"));
    expect(&prewarm(&agent, &["--from-manifest", &pod]).await, 0, "1 of 1 node ready");
    expect(&prewarm(&agent, &[&v1, "--platform", "all"]).await, 0, "1 of 1 node ready");
}
