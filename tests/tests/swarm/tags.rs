//! What a tag points to: one member finds it out for all of them, once in its time, and another one where that one has died.

use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::wait;

use super::REPOSITORY;

const NODES: usize = 6;
const TAG: &str = "latest";
/// How long an answer about a tag is good: several rounds of questions, also on a busy machine.
const TTL: Duration = Duration::from_secs(8);
/// How long a member waits for a home that does not answer. Nobody has to wait for one that is gone.
const HOME_PATIENCE: Duration = Duration::from_secs(3);

/// Requests upstream for the manifest of a tag or digest.
fn asked(origin: &Origin, reference: &str) -> usize {
    let seen = origin.seen();
    seen.iter().filter(|seen| seen.kind == Kind::Manifest && seen.reference == reference).count()
}

/// What these agents say a tag points to, all asked at once, and how long the last of them took.
async fn resolve<'a>(agents: impl Iterator<Item = &'a Agent>, tag: &str) -> (Vec<String>, Duration) {
    let asked: Vec<_> = agents
        .map(|agent| {
            let (client, url) = (agent.client(), agent.manifest(REPOSITORY, tag));
            tokio::spawn(async move { client.head(&url).await })
        })
        .collect();
    let (mut digests, mut longest) = (Vec::new(), Duration::ZERO);
    for answer in asked {
        let answer = answer.await.expect("it ends");
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        assert_eq!(answer.header("Warning"), "", "it is no old answer");
        digests.push(answer.header("Docker-Content-Digest").to_owned());
        longest = longest.max(answer.total);
    }
    (digests, longest)
}

/// Mixes the bits of a number (`docs/WIRE.md`, "Homes").
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a of 64 bits.
fn fnv1a(text: &str) -> u64 {
    let begin = 0xcbf2_9ce4_8422_2325;
    text.bytes().fold(begin, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The first eight bytes of each agent's key as a number.
async fn prefixes(admins: &[AdminClient]) -> Vec<u64> {
    let mut prefixes = Vec::new();
    for admin in admins {
        let members = admin.peers().await.expect("the agent runs").members;
        let own = members.into_iter().find(|member| member.is_self).expect("it knows itself");
        prefixes.push(u64::from_str_radix(&own.peer[..16], 16).expect("a key"));
    }
    prefixes
}

/// Who finds out what a tag points to, as `docs/WIRE.md` says, by the place among the agents.
fn home_of(prefixes: &[u64], tag: &str) -> usize {
    let point = fnv1a(&format!("{REGISTRY}/{REPOSITORY}:{tag}"));
    let heaviest = (0..prefixes.len()).max_by_key(|at| mix(point ^ prefixes[*at]));
    heaviest.expect("there are agents")
}

/// Who has asked upstream so far.
async fn askers(cluster: &Cluster) -> Vec<usize> {
    let mut askers = Vec::new();
    for (at, agent) in cluster.agents.iter().enumerate() {
        if agent.metric("upstream_requests_total", &["kind=\"manifest-"]).await > 0.0 {
            askers.push(at);
        }
    }
    askers
}

/// Everybody asks at once, and upstream is asked once, by the tag's home. The tag moves, which nobody sees before its time is over; then
/// upstream is asked once more, and everybody sees the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_resolved_once_in_its_time() {
    let origin = Origin::start().await;
    let (old, new) = (Image::new(1600, &[1000]), Image::new(1601, &[1000]));
    origin.add_image(REPOSITORY, TAG, &old);
    let short_lived = |_, setup: Setup| setup.set("tags.ttl", format!("{}s", TTL.as_secs()));
    let cluster = Cluster::start_with(&origin.url(), NODES, short_lived).await;
    let everywhere = |image: &Image| vec![image.manifest.digest.clone(); NODES];

    let begun = Instant::now();
    let (told, _) = resolve(cluster.agents.iter(), TAG).await;
    assert_eq!(told, everywhere(&old));
    assert_eq!(asked(&origin, TAG), 1, "everybody has asked at once");
    let home = home_of(&prefixes(&cluster.admins()).await, TAG);
    assert_eq!(askers(&cluster).await, [home], "it is the home that asks upstream");

    origin.add_image(REPOSITORY, TAG, &new);
    for _ in 0..3 {
        let (told, _) = resolve(cluster.agents.iter(), TAG).await;
        let count = asked(&origin, TAG);
        // On a machine that stands still for seconds the time may be over; then this round says nothing.
        if begun.elapsed() < TTL {
            assert_eq!((told, count), (everywhere(&old), 1), "its time is not over");
        }
    }

    let (first, digest) = (&cluster.agents[0], &new.manifest.digest);
    wait::until("the tag to move", 4 * TTL, || async {
        resolve([first].into_iter(), TAG).await.0 == [digest.as_str()]
    })
    .await;
    assert!(begun.elapsed() >= TTL, "it has moved after {:?}", begun.elapsed());
    // Each answer lives a little longer than that of the home, by the time that it has taken.
    wait::until("everybody to see it", TTL, || async {
        resolve(cluster.agents.iter(), TAG).await.0 == everywhere(&new)
    })
    .await;
    let gets = cluster.agents.iter().map(|agent| {
        let (client, url) = (agent.client(), agent.manifest(REPOSITORY, TAG));
        tokio::spawn(async move { client.get(&url).await })
    });
    for got in gets.collect::<Vec<_>>() {
        got.await.expect("it ends").expect(200, &new.manifest.bytes);
    }
    let (count, manifests) = (asked(&origin, TAG), asked(&origin, digest));
    assert_eq!(manifests, 1, "what it points to is fetched once");
    // The second answer has come when the first one's time was over, and was good for as long.
    if begun.elapsed() < 2 * TTL {
        assert_eq!(count, 2, "upstream is asked once more for all");
    }
}

/// The home of a tag is killed, and the others do not know yet: the next one asks upstream for them, and nobody waits for the one that is
/// gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_home_resolves_a_tag_for_everybody() {
    let origin = Origin::start().await;
    let image = Image::new(1602, &[1000]);
    let mut cluster = Cluster::start(&origin.url(), NODES).await;
    let prefixes = prefixes(&cluster.admins()).await;
    // Two tags of one home: with the first one everybody has a connection to it.
    let home = home_of(&prefixes, "v0");
    let of_home = (1..).map(|number| format!("v{number}")).find(|tag| home_of(&prefixes, tag) == home);
    let tag = of_home.expect("one of six is its own");
    origin.add_image(REPOSITORY, "v0", &image);
    origin.tag(REPOSITORY, &tag, &image.manifest.digest);
    resolve(cluster.agents.iter(), "v0").await;
    assert_eq!(askers(&cluster).await, [home], "it is the home that asks upstream");
    cluster.until_probed().await;

    cluster.agents[home].kill();
    let others = cluster.agents.iter().enumerate().filter(|(at, _)| *at != home).map(|(_, agent)| agent);
    let (told, longest) = resolve(others, &tag).await;
    assert_eq!(told, vec![image.manifest.digest.clone(); NODES - 1]);
    let requests = asked(&origin, &tag);
    println!("{requests} requests, the last answer after {longest:.1?}");
    assert!((1..=2).contains(&requests), "{requests} requests");
    assert!(longest < HOME_PATIENCE, "the last answer came after {longest:?}");
}
