//! Whatever happens to a cluster in whatever order: the invariants hold after each step, and when the faults end
//! everybody who waits is served.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};
use shoal_engine::SourceFault;
use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;

use crate::PIECE;
use crate::cluster::{Cluster, Pace};
use crate::node::{Lie, Upstream};
use crate::outside::Act;

/// A story: nodes, blobs, and what happens to them when.
#[derive(Clone, Debug)]
pub struct Story {
    pub seed: u64,
    pub nodes: usize,
    pub pace: Pace,
    pub sizes: Vec<u64>,
    pub acts: Vec<(Duration, Act)>,
}

pub fn tell(story: &Story) -> Cluster {
    let mut cluster = Cluster::with(story.pace, story.nodes, story.seed);
    for &size in &story.sizes {
        cluster.add(size);
    }
    for (after, act) in &story.acts {
        cluster.plan(*after, act.clone());
    }
    cluster.run_for(Duration::from_secs(6));
    cluster.heal();
    cluster.run();
    cluster
}

// ---- strategies ----

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => prop::sample::select(vec![1, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE, 8 * PIECE, 64 * PIECE]),
        3 => PIECE..40 * PIECE,
        1 => 40 * PIECE..200 * PIECE,
    ]
}

fn pace() -> impl Strategy<Value = Pace> {
    let speeds = (prop::sample::select(vec![4e6, 20e6, 200e6]), prop::sample::select(vec![4e6, 20e6, 200e6]));
    let listing = prop::sample::select(vec![0u64, 0, 300]);
    (speeds, 0u64..20, 0u64..10, listing, any::<bool>()).prop_map(
        |((rate, upstream_rate), delay, hashing, listing, jitter)| Pace {
            delay: Duration::from_millis(delay),
            rate,
            upstream_rate,
            hashing: Duration::from_millis(hashing),
            listing: Duration::from_millis(listing),
            jitter,
            ..Pace::default()
        },
    )
}

fn moment() -> impl Strategy<Value = Duration> {
    prop_oneof![
        2 => Just(Duration::ZERO),
        4 => (0u64..1500).prop_map(Duration::from_millis),
        1 => (0u64..5000).prop_map(Duration::from_millis),
    ]
}

fn open(nodes: usize, blobs: usize) -> impl Strategy<Value = Act> {
    (0..nodes, 0..blobs).prop_map(|(node, blob)| Act::Open(node, blob, Part::Whole))
}

fn fault(nodes: usize, blobs: usize) -> impl Strategy<Value = Act> {
    let upstream = prop::sample::select(vec![
        Upstream::Works,
        Upstream::Stalls,
        Upstream::Fails(SourceFault::Transient),
        Upstream::Fails(SourceFault::Denied { status: 403 }),
        Upstream::Fails(SourceFault::Missing),
    ]);
    let node = 0..nodes;
    prop_oneof![
        3 => (0..12usize).prop_map(Act::Close),
        3 => node.clone().prop_map(Act::Kill),
        3 => node.clone().prop_map(Act::Start),
        1 => node.clone().prop_map(Act::Freeze),
        1 => node.clone().prop_map(Act::Thaw),
        1 => (1..nodes.max(2)).prop_map(Act::Split),
        1 => Just(Act::Join),
        3 => (node.clone(), upstream).prop_map(|(node, upstream)| Act::Upstream(node, upstream)),
        2 => (node.clone(), 0..blobs).prop_map(|(node, blob)| Act::Evict(node, blob)),
        1 => node.clone().prop_map(Act::Wall),
        1 => node.clone().prop_map(Act::Refuse),
        1 => node.prop_map(Act::Drain),
    ]
}

fn story(faults: bool, lies: bool) -> impl Strategy<Value = Story> {
    let base = (any::<u64>(), 2..9usize, pace(), prop::collection::vec(size(), 1..3));
    base.prop_flat_map(move |(seed, nodes, pace, sizes)| {
        let blobs = sizes.len();
        let opens = prop::collection::vec((moment(), open(nodes, blobs)), 1..12);
        let faults = prop::collection::vec((moment(), fault(nodes, blobs)), 0..if faults { 8 } else { 1 });
        let lie = prop::sample::select(vec![vec![Lie::Bytes], vec![]]);
        let liar = (moment(), 0..nodes, lie);
        (opens, faults, liar).prop_map(move |(mut acts, faults, (at, liar, kinds))| {
            acts.extend(faults);
            if lies && kinds.is_empty() {
                acts.push((at, Act::Upstream(liar, Upstream::Wrong)));
            }
            acts.extend(kinds.into_iter().filter(|_| lies).map(|lie| (at, Act::Lie(liar, lie))));
            Story { seed, nodes, pace, sizes: sizes.clone(), acts }
        })
    })
}

// ---- properties ----

/// Stories of a fixed seed, so that each run of the tests is told the same ones. `STORIES=7,3000` tells 3,000 others.
fn fixed(cases: u32) -> ProptestConfig {
    #[expect(clippy::disallowed_methods, reason = "who searches says from outside where")]
    let asked = std::env::var("STORIES").ok();
    let asked = asked.as_deref().and_then(|a| a.split_once(',')).map(|(seed, cases)| {
        (seed.parse().expect("STORIES is a seed and a number"), cases.parse().expect("a number of stories"))
    });
    let (seed, cases) = asked.unwrap_or((4, cases));
    ProptestConfig {
        cases,
        max_shrink_iters: 60,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    }
}

/// What happens to the upstream bytes and the clients of a story with faults.
fn check_faults(story: &Story) -> Result<Cluster, TestCaseError> {
    let cluster = tell(story);
    let faults = story.acts.iter().filter(|(_, act)| !matches!(act, Act::Open(..))).count() as u64;
    for blob in &cluster.blobs {
        // At most a copy for each node and fault, whatever happens; far less as a rule.
        let bound = (1 + faults) * story.nodes as u64 * blob.size;
        prop_assert!(blob.fetched <= bound, "{} of {}", blob.fetched, blob.size);
    }
    Ok(cluster)
}

proptest! {
    #![proptest_config(fixed(150))]

    /// Nothing fails: every client gets its blob.
    #[test]
    fn without_faults_everybody_is_served(mut story in story(false, false)) {
        story.acts.retain(|(_, act)| matches!(act, Act::Open(..)));
        let cluster = tell(&story);
        for client in cluster.clients.values() {
            prop_assert!(matches!(client.outcome, Some(Outcome::Delivered | Outcome::Stored)), "{:?}", client);
        }
    }

    /// And upstream sends it once, but for the piece in which a lease is cut that somebody else goes on with.
    #[test]
    fn without_faults_each_blob_is_fetched_once(mut story in story(false, false)) {
        story.acts.retain(|(_, act)| matches!(act, Act::Open(..)));
        let cluster = tell(&story);
        for client in cluster.clients.values() {
            prop_assert!(matches!(client.outcome, Some(Outcome::Delivered | Outcome::Stored)), "{:?}", client);
        }
        for blob in &cluster.blobs {
            let cut = blob.requests.len().saturating_sub(1) as u64 * PIECE;
            if blob.fetched > blob.size + cut {
                cluster.fail(&format!("{} of {}: {:?}", blob.fetched, blob.size, blob.requests));
            }
        }
    }

    /// Members, links and registries fail: the invariants hold, upstream is not asked without end, and when all is
    /// well again everybody who is left is served.
    #[test]
    fn with_faults_the_invariants_hold(story in story(true, false)) {
        check_faults(&story)?;
    }

    /// One member deceives as well: nothing wrong is kept that a right list could have kept out, and nothing wrong is
    /// ever stored.
    #[test]
    fn with_a_liar_the_invariants_hold(story in story(true, true)) {
        tell(&story);
    }

    /// It also sends wrong hashes, as a relay, as a home and as one that has fetched: the others are served all the same,
    /// with a bounded number of leases.
    #[test]
    fn with_a_liar_about_hashes_the_invariants_hold(mut story in story(true, false), liar in any::<prop::sample::Index>()) {
        let liar = liar.index(story.nodes);
        story.acts.extend([Lie::Bytes, Lie::Relay, Lie::Report].map(|lie| (Duration::ZERO, Act::Lie(liar, lie))));
        let cluster = check_faults(&story)?;
        prop_assert!(cluster.ledger.granted.len() <= 400, "{} leases", cluster.ledger.granted.len());
    }
}

proptest! {
    #![proptest_config(fixed(20))]

    /// I1: the same inputs give the same outputs.
    #[test]
    fn the_same_story_is_told_the_same_way(story in story(true, false)) {
        let (a, b) = (tell(&story), tell(&story));
        prop_assert_eq!(a.now, b.now);
        prop_assert_eq!(a.trace, b.trace);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// The same as above, with new stories each time.
    #[test]
    #[ignore = "tells new stories each time, to search with; of the last 16,000 none failed"]
    fn with_any_faults_the_invariants_hold(story in story(true, false)) {
        check_faults(&story)?;
    }
}
