//! What a tag points to: one member finds it out for all of them, once in its time, and another one where that one has died.

use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::wait;

use super::{HOMES, REPOSITORY, TRIES_MAX, exact};

const NODES: usize = 6;
/// How long an answer about a tag is good: several rounds of questions, also on a busy machine.
const TTL: Duration = Duration::from_secs(8);
/// How long a member waits for a home that does not answer. Nobody has to wait for one that is gone.
const HOME_PATIENCE: Duration = Duration::from_secs(3);

/// Requests upstream for the manifest of a tag or digest.
pub(super) fn asked(origin: &Origin, reference: &str) -> usize {
    let seen = origin.seen();
    seen.iter().filter(|seen| seen.kind == Kind::Manifest && seen.reference == reference).count()
}

/// What these agents say a tag points to, all asked at once, and how long it took half of them: a single one may stand still.
pub(super) async fn resolve<'a>(
    agents: impl Iterator<Item = &'a Agent>,
    tag: &str,
) -> (Vec<String>, Duration) {
    let asked: Vec<_> = agents
        .map(|agent| {
            let (client, url) = (agent.client(), agent.manifest(REPOSITORY, tag));
            tokio::spawn(async move { client.head(&url).await })
        })
        .collect();
    let (mut digests, mut took) = (Vec::new(), Vec::new());
    for answer in asked {
        let answer = answer.await.expect("it ends");
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        assert_eq!(answer.header("Warning"), "", "it is no old answer");
        digests.push(answer.header("Docker-Content-Digest").to_owned());
        took.push(answer.total);
    }
    took.sort();
    (digests, took[took.len() / 2])
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

/// How often each agent has asked upstream so far.
async fn requests(cluster: &Cluster) -> Vec<f64> {
    let mut requests = Vec::new();
    for agent in &cluster.agents {
        requests.push(agent.metric("upstream_requests_total", &["kind=\"manifest-"]).await);
    }
    requests
}

/// Asks all agents at once for a tag that points to this digest and of which nobody knows yet. Whether its home alone has asked
/// upstream for it, once.
async fn is_asked_by_home(cluster: &Cluster, origin: &Origin, home: usize, tag: &str, digest: &str) -> bool {
    let before = requests(cluster).await;
    let (told, _) = resolve(cluster.agents.iter(), tag).await;
    assert_eq!(told, vec![digest.to_owned(); NODES]);
    let (count, after) = (asked(origin, tag), requests(cluster).await);
    assert!((1..=HOMES).contains(&count), "{count} requests");
    let askers: Vec<_> = (0..NODES).filter(|at| after[*at] > before[*at]).collect();
    println!("{count} requests of {tag} by {askers:?}, and its home is {home}");
    count == 1 && askers == [home]
}

/// Everybody asks at once, and upstream is asked once, by the tag's home. The tag moves, which nobody sees before its time is over; then
/// upstream is asked once more, and everybody sees the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_resolved_once_in_its_time() {
    let origin = Origin::start().await;
    let (old, new) = (Image::new(1600, &[1000]), Image::new(1601, &[1000]));
    let short_lived = |_, setup: Setup| setup.set("tags.ttl", format!("{}s", TTL.as_secs()));
    let cluster = Cluster::start_with(&origin.url(), NODES, short_lived).await;
    let everywhere = |image: &Image| vec![image.manifest.digest.clone(); NODES];

    let prefixes = prefixes(&cluster.admins()).await;
    let (tag, begun) = exact(1600, async |seed| {
        let (tag, begun) = (format!("latest-{seed}"), Instant::now());
        origin.add_image(REPOSITORY, &tag, &old);
        let home = home_of(&prefixes, &tag);
        let is_home = is_asked_by_home(&cluster, &origin, home, &tag, &old.manifest.digest).await;
        is_home.then_some((tag, begun))
    })
    .await;

    origin.add_image(REPOSITORY, &tag, &new);
    for _ in 0..3 {
        let (told, _) = resolve(cluster.agents.iter(), &tag).await;
        let count = asked(&origin, &tag);
        // On a machine that stands still for seconds the time may be over; then this round says nothing.
        if begun.elapsed() < TTL {
            assert_eq!((told, count), (everywhere(&old), 1), "its time is not over");
        }
    }

    let (first, digest) = (&cluster.agents[0], &new.manifest.digest);
    wait::until("the tag to move", 4 * TTL, || async {
        resolve([first].into_iter(), &tag).await.0 == [digest.as_str()]
    })
    .await;
    assert!(begun.elapsed() >= TTL, "it has moved after {:?}", begun.elapsed());
    // Each answer lives a little longer than that of the home, by the time that it has taken.
    wait::until("everybody to see it", TTL, || async {
        resolve(cluster.agents.iter(), &tag).await.0 == everywhere(&new)
    })
    .await;
    let gets = cluster.agents.iter().map(|agent| {
        let (client, url) = (agent.client(), agent.manifest(REPOSITORY, &tag));
        tokio::spawn(async move { client.get(&url).await })
    });
    for got in gets.collect::<Vec<_>>() {
        got.await.expect("it ends").expect(200, &new.manifest.bytes);
    }
    // By one home for all; where that one stands still, by those after it.
    let (count, manifests) = (asked(&origin, &tag), asked(&origin, digest));
    assert!((1..=HOMES).contains(&manifests), "what it points to is fetched {manifests} times");
    // The second answer has come when the first one's time was over, and was good for as long.
    if begun.elapsed() < 2 * TTL {
        assert!((2..=1 + HOMES).contains(&count), "{count} requests: upstream is asked once more for all");
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
    let home = exact(0, async |number| {
        let tag = format!("v{number}");
        origin.add_image(REPOSITORY, &tag, &image);
        let home = home_of(&prefixes, &tag);
        let is_home = is_asked_by_home(&cluster, &origin, home, &tag, &image.manifest.digest).await;
        is_home.then_some(home)
    })
    .await;
    let of_home =
        (TRIES_MAX..).map(|number| format!("v{number}")).find(|tag| home_of(&prefixes, tag) == home);
    let tag = of_home.expect("one of six is its own");
    origin.tag(REPOSITORY, &tag, &image.manifest.digest);
    cluster.until_probed().await;

    cluster.agents[home].kill();
    let others = cluster.agents.iter().enumerate().filter(|(at, _)| *at != home).map(|(_, agent)| agent);
    let (told, took) = resolve(others, &tag).await;
    assert_eq!(told, vec![image.manifest.digest.clone(); NODES - 1]);
    let requests = asked(&origin, &tag);
    println!("{requests} requests, half of the answers after {took:.1?}");
    assert!((1..=2).contains(&requests), "{requests} requests");
    assert!(took < HOME_PATIENCE, "half of the answers came after {took:?}");
}
