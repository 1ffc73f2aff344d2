//! When all is well.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_agent::driver::BlobStory;
use shoal_tests::agent::shoal;
use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::wait;

use super::faults::{names, story};
use super::prewarm::{json, socket};
use super::{HOMES, REPOSITORY, are_sent_once, exact, one_layer, paused_image, until_heard, until_logged};

/// Bytes that may come in one go, in which no time passes: a batch from upstream, or a piece.
const ONE_GO_BYTES: u64 = 1 << 20;
/// How long it may take until what has happened is told.
const TOLD_MAX: Duration = Duration::from_secs(30);

/// The mission (C6): everybody at once, cold, and a real registry sends each blob once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_image_is_fetched_once() {
    let registry = DockerRegistry::start().await;
    let cluster = Cluster::start(&registry.url(), 6).await;
    let image = exact(700, async |seed| {
        let image = Image::new(seed, &[9_000_000, 3_000_000, 40_000, 100]);
        registry.push(REPOSITORY, "v1", &image).await;
        let before = registry.manifest_requests();
        cluster.pull(0..6, REPOSITORY, &image).await;
        until_logged(&registry, &image).await;
        // The manifest, by its digest.
        let manifests = registry.manifest_requests() - before;
        assert!(manifests <= HOMES, "{manifests} requests of the manifest");
        let told = |digest: &str| (registry.blob_gets(digest), registry.blob_bytes(digest));
        (are_sent_once(&image, told) && manifests == 1).then_some(image)
    })
    .await;
    // Whoever is warm asks nobody.
    let before = cluster.upstream_bytes().await;
    cluster.pull(0..6, REPOSITORY, &image).await;
    assert_eq!(cluster.upstream_bytes().await, before);
}

/// A tag that everybody resolves at once is resolved once, and moves for all at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_resolved_once() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 6).await;
    let requests = || origin.seen().iter().filter(|seen| seen.kind == Kind::Manifest).count();
    exact(710, async |seed| {
        let (image, tag, before) = (Image::new(seed, &[1000]), format!("v{seed}"), requests());
        origin.add_image(REPOSITORY, &tag, &image);
        let heads: Vec<_> = cluster
            .agents
            .iter()
            .map(|agent| {
                let url = agent.manifest(REPOSITORY, &tag);
                tokio::spawn(async move { shoal_tests::http::Client::new().head(&url).await })
            })
            .collect();
        for head in heads {
            let answer = head.await.expect("it ends");
            let told = (answer.status, answer.header("Docker-Content-Digest"));
            assert_eq!(told, (200, &*image.manifest.digest));
        }
        let asked = requests() - before;
        assert!(asked <= HOMES, "{asked} requests");
        (asked == 1).then_some(())
    })
    .await;
}

/// One that joins when the others have it gets it from several of them, and upstream is not asked: what that has saved is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_joiner_draws_from_many() {
    let (origin, image) = one_layer(720, 24_000_000).await;
    let layer = &image.layers[0];
    let mut cluster = Cluster::start(&origin.url(), 6).await;
    cluster.pull(0..6, REPOSITORY, &image).await;
    let mut before = Vec::new();
    for agent in &cluster.agents {
        agent.until_idle().await;
        before.push(agent.sent_bytes().await);
    }
    let requests = origin.blob_gets(&layer.digest);
    let late = cluster.join().await;
    cluster.until_met(7).await;
    until_heard(&cluster, late, layer).await;
    cluster.pull([late], REPOSITORY, &image).await;
    assert_eq!(origin.blob_gets(&layer.digest), requests, "upstream is not asked for it again");
    let mut senders = 0;
    for (agent, before) in cluster.agents.iter().zip(before) {
        senders += usize::from(agent.sent_bytes().await > before);
    }
    assert!(senders >= 4, "only {senders} sent something");
    let socket = cluster.agents[late].setup().socket().display().to_string();
    // What a client got is counted when its request has ended, which it may see first.
    wait::until("what was saved to be told", TOLD_MAX, || async {
        let told = shoal(&["status", "--json", "--socket", &socket]).await.expect_ok("shoal status").output;
        let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
        let at_least_the_layer = |key: &str| told[key].as_u64() >= Some(layer.len());
        at_least_the_layer("saved_bytes") && at_least_the_layer("peer_received_bytes")
    })
    .await;
}

/// What a member has stored before a restart is found there by the others afterwards, who know it by the name that it had. Nobody has the
/// list of its hashes any more: it is taken anew, and told in several parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_announced_after_a_restart() {
    let (origin, image) = one_layer(730, 40_000_000).await;
    let mut cluster = Cluster::start(&origin.url(), 3).await;
    cluster.pull([0], REPOSITORY, &image).await;
    cluster.agents[0].until_idle().await;
    let admins = cluster.admins();
    let before = names(&admins).await;
    for node in 0..3 {
        cluster.agents[node].restart().await;
    }
    cluster.until_met(3).await;
    assert_eq!(names(&admins).await, before, "a restart changes no name");
    let members = admins[1].peers().await.expect("the agent runs").members;
    let known: BTreeSet<String> = members.into_iter().map(|member| member.peer).collect();
    let before: BTreeSet<String> = before.into_iter().collect();
    assert_eq!(known, before, "the others know it by the same name");
    origin.refuse().await;
    let (agent, layer) = (&cluster.agents[1], &image.layers[0].digest);
    agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    // Announcements are gathered for a while, and a pull that finds nobody fails, as the origin is away.
    wait::until("the others to find it", Duration::from_secs(90), || async {
        let answer = agent.client().request("GET", &agent.blob(REPOSITORY, layer)).send();
        matches!(tokio::time::timeout(Duration::from_secs(10), answer).await, Ok(Ok(answer)) if answer.status() == 200)
    })
    .await;
    agent.get_blob(REPOSITORY, layer).await.expect(200, &image.layers[0].bytes);
}

/// Clients get bytes while they are still on their way from upstream to another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_passed_on_while_they_arrive() {
    let (origin, image, gate) = paused_image(740, 6_000_000, 3_000_000).await;
    let layer = image.layers[0].clone();
    let cluster = Cluster::start(&origin.url(), 4).await;
    let waiting = cluster.agents.iter().map(|agent| {
        let (client, url) = (agent.client(), agent.blob(REPOSITORY, &layer.digest));
        async move {
            let mut response = client.open(&url).await;
            let first = shoal_tests::http::read_some(&mut response, 1_000_000).await;
            (response, first)
        }
    });
    let waiting = futures_util::future::join_all(waiting).await;
    gate.open();
    for (response, first) in waiting {
        assert_eq!(first, layer.bytes[..first.len()]);
        let rest = shoal_tests::http::finish(response).await;
        assert_eq!(rest.body, layer.bytes[first.len()..]);
    }
    // What is on its way to one that stands still comes twice: the half behind the gate at most.
    let copies = origin.blob_bytes(&layer.digest) as f64 / layer.len() as f64;
    assert!(copies < 1.6, "{copies} copies");
}

/// The spans of all sources together are the whole blob, and what a source brought has taken some time.
fn expect_explained(story: &BlobStory, blob: &Blob) {
    assert_eq!((story.state.as_str(), story.size), ("stored", Some(blob.len())), "{story:?}");
    let mut spans: Vec<_> = story.sources.iter().flat_map(|share| &share.spans).collect();
    spans.sort_by_key(|span| span.start);
    let mut end = 0_u64;
    for span in spans {
        assert!(
            span.start <= end,
            "nobody has brought what lies between {end} and {}: {story:?}",
            span.start
        );
        end = end.max(span.end);
    }
    assert_eq!(end, blob.len(), "nobody has brought the end: {story:?}");
    for share in &story.sources {
        assert!(share.bytes > 0 && (share.seconds > 0.0 || share.bytes <= ONE_GO_BYTES), "{share:?}");
    }
    assert!(story.sources.iter().any(|share| share.bytes > ONE_GO_BYTES), "{story:?}");
}

/// `shoal explain` tells of a blob on its way who fetches it and who receives it, and afterwards who has it and where it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_explained() {
    let (origin, image, gate) = paused_image(750, 6_000_000, 3_000_000).await;
    let layer = image.layers[0].clone();
    let cluster = Cluster::start(&origin.url(), 3).await;
    let pulls: Vec<_> = (0..3).map(|node| cluster.begin(node, REPOSITORY, &image)).collect();
    origin.until_sent(&layer.digest, 3_000_000).await;
    let socket = cluster.agents[2].setup().socket().display().to_string();
    let explained = async |flags: &[&str]| {
        let arguments = [&["explain", layer.digest.as_str(), "--socket", socket.as_str()], flags].concat();
        shoal(&arguments).await.expect_ok("shoal explain").output
    };
    // Both in one look, and wherever it begins: somebody else may be told to fetch the rest at any time, as nothing comes.
    wait::until("all to be in the book, and one to fetch it", TOLD_MAX, || async {
        let shown = explained(&[]).await;
        shown.contains("nobody has it, 3 receive it") && shown.contains(" to 6.0 MB from upstream")
    })
    .await;
    gate.open();
    for pull in pulls {
        pull.await.expect("the pull ends well");
    }
    wait::until("all to be known to have it", Duration::from_secs(30), || async {
        let told: serde_json::Value =
            serde_json::from_str(&explained(&["--json"]).await).expect("it is JSON");
        told["state"] == "stored" && told["books"][0]["holder_count"] == 3
    })
    .await;
    for admin in &cluster.admins() {
        expect_explained(&story(admin, &layer).await, &layer);
    }
}

/// `shoal peers` shows every member: its zone, its labels, its version, how it stands and how far away it is. What the environment tells
/// one node alone, as Kubernetes tells a pod, goes before the file that all nodes share; a variable that is empty says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_can_be_looked_at() {
    let origin = Origin::start().await;
    let cluster = Cluster::start_with(&origin.url(), 3, |node, setup| match node {
        0 => setup.set("swarm.zone", "zone-0").env("SHOAL_LABELS", ""),
        1 => setup
            .set("swarm.zone", "zone-1")
            .set("swarm.labels.rack", "1")
            .env("SHOAL_ZONE", "")
            .env("SHOAL_LABELS", "rack="),
        _ => setup
            .set("swarm.zone", "file")
            .set("swarm.labels.rack", "1")
            .set("swarm.labels.disk", "ssd")
            .env("SHOAL_ZONE", "zone-2")
            .env("SHOAL_LABELS", "pool=gpu,rack=7"),
    })
    .await;
    let told_of_themselves = serde_json::json!([
        ["zone-0", {}],
        ["zone-1", {"rack": "1"}],
        ["zone-2", {"disk": "ssd", "pool": "gpu", "rack": "7"}],
    ]);
    let version = cluster.admins()[0].status().await.expect("the agent runs").version;
    let socket = socket(&cluster.agents[0]);
    let is_near = |member: &serde_json::Value| {
        let milliseconds = member["latency_ms"].as_f64();
        member["is_self"] == true || milliseconds.is_some_and(|ms| ms > 0.0 && ms < 5000.0)
    };
    wait::until("all to be alive, and to have been probed", TOLD_MAX, || async {
        let told = json(&shoal(&["peers", "--json", "--socket", &socket]).await.expect_ok("shoal peers"));
        let members = told["members"].as_array().cloned().unwrap_or_default();
        assert_eq!((members.len(), &members[0]["is_self"]), (3, &true.into()), "{told}");
        // This one first, the others by their zones.
        let say: serde_json::Value =
            members.iter().map(|member| serde_json::json!([member["zone"], member["labels"]])).collect();
        assert_eq!(say, told_of_themselves, "{told}");
        assert!(members.iter().all(|member| member["version"] == version.as_str()), "{told}");
        members.iter().all(|member| member["state"] == "alive" && is_near(member))
    })
    .await;
    let shown = shoal(&["peers", "--socket", &socket]).await.expect_ok("shoal peers").output;
    for text in ["LABELS", "STATE", "LATENCY", " ms", "this one", version.as_str()] {
        assert!(shown.contains(text), "{text:?} is not in\n{shown}");
    }
    for (zone, labels) in [("zone-0", "-"), ("zone-1", "rack=1"), ("zone-2", "disk=ssd,pool=gpu,rack=7")] {
        let mut rows = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_row = |row: Vec<&str>| row.get(2..4).is_some_and(|cells| cells == [zone, labels]);
        assert!(rows.any(is_row), "{zone} with {labels} is not in\n{shown}");
    }
}
