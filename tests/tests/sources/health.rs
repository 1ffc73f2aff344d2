//! Sources that are dead, limited, or this agent itself (rows F4, F14, C17, M7, and Docker Hub's limits).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Kind, Match, Origin, Plan};
use shoal_tests::place;

use super::{REPOSITORY, Set, Stand, mirror, with_endpoints, with_sets};

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    SocketAddr::from((place::loopback(), 9))
}

/// Cold pulls of small blobs, each from a repository of its own, so that each is a walk from the first source on.
async fn pulls(agent: &Agent, origin: &Origin, seeds: std::ops::Range<u64>) -> Vec<Duration> {
    let mut took = Vec::new();
    for seed in seeds {
        let blob = Blob::noise(seed, 10_000);
        origin.add_blob(&blob);
        let answer = agent.get_blob(&format!("team/app-{seed}"), &blob.digest).await;
        answer.expect(200, &blob.bytes);
        took.push(answer.total);
    }
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// F14: four mirrors that refuse connections and one that accepts and never answers, before a good registry. The first
/// pull is delayed by a bounded time; from then on they cost nothing that could be seen beside a pull without mirrors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_five_dead_mirrors() {
    const DEAD: usize = 5;
    const PULLS: u64 = 15;
    let (origin, hole) = (Origin::start().await, Origin::start().await);
    hole.black_hole();
    let mut urls: Vec<String> = (1..DEAD).map(|_| format!("http://{}", nobody())).collect();
    urls.insert(2, hole.url());
    let setup = with_endpoints(Setup::new(&origin.url()), urls.iter().map(String::as_str));
    let agent = with_sets(setup, vec![Set::first(DEAD)]).start().await;
    let plain = Agent::start(&origin.url()).await;
    // Connections and everything else that is first in a process are none of this comparison.
    pulls(&plain, &origin, 700..701).await;
    let first = pulls(&agent, &origin, 701..702).await[0];
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // In turns: whatever else the machine does meanwhile, it does to both.
    for n in 0..PULLS {
        with.extend(pulls(&agent, &origin, 1000 + n..1001 + n).await);
        without.extend(pulls(&plain, &origin, 2000 + n..2001 + n).await);
    }
    let (second, with, without) = (with[0], median(with), median(without));
    println!(
        "five dead mirrors: the first pull takes {first:?}, the second {second:?}; later ones {with:?} and without \
         mirrors {without:?} (medians of {PULLS}), so {:?} are added",
        with.saturating_sub(without)
    );
    // `mirrors.walk_budget`, and a second for each that is left when it is used up.
    assert!(first < Duration::from_secs(10 + DEAD as u64), "F14: {first:?}");
    // A dead mirror that is waited for costs a second at least, whatever else a pull takes.
    let most = without * 5 + Duration::from_millis(50);
    assert!(with < most, "F14: {with:?} with dead mirrors, {without:?} without");
    assert!(agent.metric("source_down", &[]).await >= DEAD as f64, "every dead mirror is reported");
}

/// A mirror that comes back is used again, and no client pays for finding out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_back_is_used_again() {
    let stand = Stand::new(1).await;
    stand.mirrors[0].refuse().await;
    let seed = AtomicU64::new(750);
    let pull = async || {
        let seed = seed.fetch_add(1, Ordering::Relaxed);
        let blob = Blob::noise(seed, 1000);
        stand.add_blob(&blob);
        let answer = stand.agent.get_blob(&format!("team/app-{seed}"), &blob.digest).await;
        answer.expect(200, &blob.bytes);
        stand.mirrors[0].blob_gets(&blob.digest)
    };
    assert_eq!(pull().await, 0);
    stand.mirrors[0].recover().await;
    shoal_tests::wait::until("the mirror to be asked again", Duration::from_secs(40), async || {
        pull().await == 1
    })
    .await;
}

/// F4: `Retry-After` of a mirror is kept: it is not asked again for other repositories' blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_wants_to_be_left_alone_is() {
    let stand = Stand::new(1).await;
    stand.mirrors[0].script(Match::any(), Plan::status(429).header("Retry-After", "600"));
    pulls(&stand.agent, &stand.origin, 720..725).await;
    assert_eq!((stand.mirrors[0].seen().len(), stand.origin.count(Kind::Blob, "GET")), (1, 5));
}

/// Docker Hub says with every answer how much is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_metrics() {
    let stand = Stand::new(1).await;
    let image = Image::new(730, &[1000]);
    stand.add_image(REPOSITORY, "v1", &image);
    let limits = |remaining: &str| {
        Plan::well().header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", remaining)
    };
    stand.origin.script(Match::kind(Kind::Manifest), limits("76;w=21600"));
    stand.mirrors[0].script(Match::kind(Kind::Manifest), limits("12;w=21600"));
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    let remaining = async |registry: &str| {
        let limit = stand.agent.metric("upstream_rate_limit", &[registry]).await;
        (limit, stand.agent.metric("upstream_rate_limit_remaining", &[registry]).await)
    };
    assert_eq!(remaining(REGISTRY).await, (100.0, 76.0));
    let other = Image::new(731, &[1000]);
    stand.add_image(REPOSITORY, "v2", &other);
    stand.agent.get_manifest(REPOSITORY, &other.manifest.digest).await.expect(200, &other.manifest.bytes);
    assert_eq!(remaining(&mirror(0)).await, (100.0, 12.0));
    assert_eq!(remaining(REGISTRY).await, (100.0, 76.0), "each its own");
}

/// Pulls an image by its digest.
async fn pull_by_digest(agent: &Agent, image: &Image) {
    let digest = &image.manifest.digest;
    agent.get_manifest(REPOSITORY, digest).await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
}

/// Pulls an image as containerd does: the tag by HEAD, which registries do not count, and the rest by digest.
async fn pull_by_tag(agent: &Agent, image: &Image) {
    let head = agent.client().head(&agent.manifest(REPOSITORY, "v1")).await;
    assert_eq!((head.status, head.header("Docker-Content-Digest")), (200, image.manifest.digest.as_str()));
    pull_by_digest(agent, image).await;
}

/// M7: a pull-through proxy before a registry that everybody can reach, but not as often as they like. Nodes that pull at once
/// cost it one pull; when it gives no more, whoever comes late still gets all that the proxy has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m7_a_pull_through_proxy_spares_the_registrys_limit() {
    const NODES: usize = 4;
    let origin = Origin::start().await;
    let image = Image::new(760, &[2_000_000, 100_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let proxy = Agent::start(&origin.url()).await;
    let node = || {
        let setup = with_endpoints(Setup::new(&origin.url()), [proxy.url().as_str()]);
        with_sets(setup, vec![Set::first(1)]).start()
    };
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(node().await);
    }
    futures_util::future::join_all(nodes.iter().map(|agent| pull_by_tag(agent, &image))).await;
    assert_eq!(origin.count(Kind::Manifest, "GET"), 1, "M7: what a registry counts as a pull");
    for blob in image.blobs() {
        assert_eq!(origin.blob_gets(&blob.digest), 1, "M7: {}", blob.digest);
    }

    proxy.until_idle().await;
    let asked = origin.seen().len();
    origin.script(Match::any(), Plan::status(429).header("Retry-After", "600"));
    let late = node().await;
    pull_by_digest(&late, &image).await;
    assert_eq!(origin.seen().len(), asked, "M7: the registry was asked again");
}

/// C17: a mirror that is the agent itself is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_a_mirror_that_is_the_agent_itself() {
    let origin = Origin::start().await;
    let image = Image::new(740, &[100_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let setup = Setup::new(&origin.url());
    let own = format!("http://{}", setup.registry_address());
    let agent = with_sets(with_endpoints(setup, [own.as_str()]), vec![Set::first(1)]).start().await;
    agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(origin.blob_gets(&blob.digest), 1);
    }
    let requests = agent.metric("requests_total", &[]).await;
    assert_eq!(requests, 3.0, "requests that the agent has sent to itself");
    agent.until_logged("the mirror to be considered", |log| log.contains("this agent's own")).await;
}

/// C17: two agents, each the other's mirror, both pulled from at once; the registry is asked in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_two_agents_that_mirror_each_other() {
    let origin = Origin::start().await;
    let image = Image::new(741, &[2_000_000, 100_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let setups = [Setup::new(&origin.url()), Setup::new(&origin.url())];
    let [first, second] = setups.each_ref().map(|setup| format!("http://{}", setup.registry_address()));
    let [one, two] = setups;
    let one = with_sets(with_endpoints(one, [second.as_str()]), vec![Set::first(1)]).start().await;
    let two = with_sets(with_endpoints(two, [first.as_str()]), vec![Set::first(1)]).start().await;
    let pull = async |agent: &Agent| {
        let digest = &image.manifest.digest;
        agent.get_manifest(REPOSITORY, digest).await.expect(200, &image.manifest.bytes);
        for blob in image.blobs() {
            let answer = agent.get_blob(REPOSITORY, &blob.digest).await;
            answer.expect(200, &blob.bytes);
            assert!(answer.total < Duration::from_secs(20), "{:?}", answer.total);
        }
    };
    tokio::join!(pull(&one), pull(&two));
    let mut requests = 0.0;
    for agent in [&one, &two] {
        requests += agent.metric("requests_total", &[]).await;
    }
    println!("two agents that mirror each other: {requests} requests for 8 of clients");
    // Each of the eight may go to the other one and back once, and be repeated once by either.
    assert!(requests <= 8.0 * 5.0, "{requests} requests for 8 of clients");
}
