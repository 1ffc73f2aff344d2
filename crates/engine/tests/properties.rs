//! Whatever clients, sources and the disk do in whatever order: the invariants hold after each step, and every run
//! comes to an end. The world does the checking; here are the stories it is put through.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::Outcome;
use shoal_engine::{LocalFault, SourceFault};

use world::plan::{Chaos, Disk, Effect, Plan, Tells};
use world::{Act, Pace, World};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Steps that the largest blob of a story takes, about.
const STEPS: u64 = 24;

/// A story: blobs, and what happens to them when.
#[derive(Clone, Debug)]
struct Story {
    seed: u64,
    fetches_max: usize,
    jitter: bool,
    lag: Duration,
    ending: Duration,
    step: Duration,
    plans: Vec<Plan>,
    acts: Vec<(Duration, Act)>,
}

fn tell(story: &Story) -> World {
    let largest = story.plans.iter().map(|p| p.size).max().unwrap_or(0);
    let pace = Pace {
        jitter: story.jitter,
        lag: story.lag,
        ending: story.ending,
        step: story.step,
        step_bytes: (largest / STEPS).max(40 * KIB),
        ..Pace::default()
    };
    let mut world =
        World::with(pace, Settings { fetches_max: story.fetches_max, ..Settings::default() }, story.seed);
    for plan in &story.plans {
        world.add(plan.clone());
    }
    for (after, act) in &story.acts {
        world.plan(*after, act.clone());
    }
    world.run();
    world
}

// ---- strategies ----

/// Around the borders of pieces, and up to sizes at which pieces have grown.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => prop::sample::select(vec![0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 4 * MIB, 4 * MIB + 1]),
        2 => 1..3 * MIB,
        2 => 3 * MIB..80 * MIB,
        1 => 200 * MIB..2048 * MIB,
    ]
}

/// A part of a blob of about this size, often at a border.
fn part(size: u64) -> impl Strategy<Value = Part> {
    let at = move || {
        prop_oneof![
            2 => 0..size.max(1),
            1 => prop::sample::select(vec![0, 1, size / 2, size.saturating_sub(1), size, size + 1]),
            1 => (0..8u64).prop_map(move |eighth| size / 8 * eighth),
        ]
    };
    prop_oneof![
        3 => Just(Part::Whole),
        3 => at().prop_map(Part::From),
        3 => (at(), 0..8 * MIB).prop_map(|(first, len)| Part::Bounded(first, first + len)),
        1 => (at(), at()).prop_map(|(first, last)| Part::Bounded(first, last)),
        2 => (0..5 * MIB).prop_map(Part::Suffix),
        1 => at().prop_map(Part::Suffix),
    ]
}

fn disk(size: u64) -> impl Strategy<Value = Disk> {
    let ranges = prop::collection::vec((0..=size, 0..=size / 3), 0..3);
    let partial = (ranges, prop::bool::weighted(0.1)).prop_map(move |(ranges, bad)| {
        let have = ranges.into_iter().map(|(start, len)| start..size.min(start + len)).collect();
        Disk::Partial { size, have, bad }
    });
    prop_oneof![6 => Just(Disk::Absent), 1 => Just(Disk::Whole), 3 => partial]
}

fn tells(size: u64) -> impl Strategy<Value = Tells> {
    let lies = (0..2 * size.max(1)).prop_map(Tells::Lie);
    prop_oneof![10 => Just(Tells::Truth), 3 => Just(Tells::Nothing), 1 => lies]
}

fn source_fault() -> impl Strategy<Value = SourceFault> {
    prop_oneof![
        4 => Just(SourceFault::Transient),
        1 => Just(SourceFault::Interrupted),
        1 => Just(SourceFault::Missing),
        1 => Just(SourceFault::Denied { status: 403 }),
        1 => Just(SourceFault::Protocol),
        1 => Just(SourceFault::Loop),
        1 => prop::option::of(0u64..20).prop_map(|s| SourceFault::RateLimited {
            retry_after: s.map(Duration::from_secs),
        }),
    ]
}

fn local_faults() -> impl Strategy<Value = BTreeMap<Effect, LocalFault>> {
    let effect = prop::sample::select(vec![
        Effect::Look,
        Effect::Prepare,
        Effect::Checkpoint,
        Effect::Verify,
        Effect::Commit,
    ]);
    let fault = prop::sample::select(vec![LocalFault::StoreFull, LocalFault::StoreBroken]);
    prop_oneof![4 => Just(BTreeMap::new()), 1 => prop::collection::btree_map(effect, fault, 1..2)]
}

fn chaos() -> impl Strategy<Value = Chaos> {
    let some = (0..60u32, 0..300u32, 0..200u32, 0..60u32, 0..300u32);
    let some = some.prop_map(|(local, source, breaks, stalls, wrong)| Chaos {
        local,
        source,
        breaks,
        stalls,
        wrong,
    });
    prop_oneof![2 => Just(Chaos::default()), 3 => some]
}

fn healthy_plan() -> impl Strategy<Value = Plan> {
    let breaks = prop::option::weighted(0.3, 100 * KIB..30 * MIB);
    size().prop_flat_map(move |size| {
        (disk(size), breaks.clone()).prop_map(move |(disk, breaks_every)| {
            let disk = match disk {
                Disk::Partial { size, have, .. } => Disk::Partial { size, have, bad: false },
                other => other,
            };
            let breaks_every = breaks_every.map(|bytes| bytes.max(size / 100));
            Plan { disk, breaks_every, ..Plan::cold(size) }
        })
    })
}

fn sick_plan() -> impl Strategy<Value = Plan> {
    size().prop_flat_map(|size| {
        let faults = || prop::collection::vec_deque(source_fault(), 0..3);
        let scopes = prop::collection::btree_map(0..3usize, source_fault(), 0..2);
        let breaks = prop::option::weighted(0.2, (size / 50).max(1)..=(size / 2).max(1));
        let full = prop::option::weighted(0.1, 0..=size);
        let first = (disk(size), tells(size), tells(size), faults(), faults(), scopes);
        let second = (breaks, 0..3u32, local_faults(), full, chaos());
        (first, second).prop_map(move |(first, second)| {
            let (disk, size_told, total_told, size_faults, open_faults, scope_faults) = first;
            let (breaks_every, wrong_places, local_faults, full_at, chaos) = second;
            Plan {
                disk,
                size_told,
                total_told,
                size_faults,
                open_faults,
                scope_faults,
                breaks_every,
                wrong_places,
                local_faults,
                full_at,
                chaos,
                ..Plan::cold(size)
            }
        })
    })
}

fn moment() -> impl Strategy<Value = Duration> {
    prop_oneof![
        1 => Just(Duration::ZERO),
        3 => (0u64..100_000).prop_map(Duration::from_micros),
        3 => (0u64..3_000).prop_map(Duration::from_millis),
        1 => (0u64..60).prop_map(Duration::from_secs),
    ]
}

fn act(sizes: Vec<u64>) -> impl Strategy<Value = Act> {
    let blobs = sizes.len();
    let open = (0..blobs).prop_flat_map(move |blob| {
        let leaves = prop::option::weighted(0.2, 0..=sizes[blob]);
        (part(sizes[blob]), 0..6usize, leaves).prop_map(move |(part, scope, leaves_after)| Act::Open {
            blob,
            scope,
            part,
            leaves_after,
        })
    });
    let close = any::<Index>().prop_map(|index| Act::Close(index.index(16) as u64));
    prop_oneof![6 => open, 2 => close]
}

/// Acts of all kinds; the sizes in manifests are true unless `lies`.
fn acts(sizes: Vec<u64>, lies: bool) -> impl Strategy<Value = Vec<(Duration, Act)>> {
    let told = sizes.clone();
    let describe = (0..sizes.len(), any::<bool>(), prop::option::weighted(0.3, 0..100 * MIB));
    let describe = describe.prop_map(move |(blob, prefetch, lie)| {
        let size = lie.filter(|_| lies).unwrap_or(told[blob]);
        Act::Describe { blob, size, prefetch }
    });
    let act = prop_oneof![5 => act(sizes), 1 => describe];
    prop::collection::vec((moment(), act), 1..16)
}

fn story(plan: impl Strategy<Value = Plan>, lies: bool) -> impl Strategy<Value = Story> {
    let plans = prop::collection::vec(plan, 1..4);
    let ending = prop::sample::select(vec![0u64, 0, 20, 7000]);
    let pace = (any::<bool>(), 0u64..30, ending, prop::sample::select(vec![1u64, 10, 300, 3000]));
    (any::<u64>(), 1..8usize, pace, plans).prop_flat_map(move |(seed, fetches_max, pace, plans)| {
        let (jitter, lag, ending, step) = pace;
        let sizes = plans.iter().map(|p| p.size).collect();
        acts(sizes, lies).prop_map(move |acts| Story {
            seed,
            fetches_max,
            jitter,
            lag: Duration::from_millis(lag),
            ending: Duration::from_millis(ending),
            step: Duration::from_millis(step),
            plans: plans.clone(),
            acts,
        })
    })
}

fn end_of_agent() -> impl Strategy<Value = Vec<(Duration, Act)>> {
    let drain = moment().prop_map(|at| (at, Act::Drain));
    let stop = moment().prop_map(|at| (at, Act::Stop));
    (drain, prop::option::of(stop)).prop_map(|(drain, stop)| std::iter::once(drain).chain(stop).collect())
}

// ---- properties ----

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// Sources may break off, but nothing else goes wrong: every client that stays gets what it asked for, no byte
    /// comes twice, and a blob that somebody wanted whole is stored.
    #[test]
    fn with_healthy_sources_every_pull_succeeds(story in story(healthy_plan(), false)) {
        let world = tell(&story);
        for client in world.clients().filter(|c| !c.closed) {
            let size = world.blobs[client.blob].plan.size;
            let expected = match (client.outcome, client.part.resolve(size)) {
                (Some(Outcome::Stored), _) => Outcome::Stored,
                (_, None) => Outcome::Unsatisfiable { size },
                (_, Some(_)) => Outcome::Delivered,
            };
            prop_assert_eq!(client.outcome, Some(expected), "{:?}", client);
            if expected == Outcome::Delivered && client.part.wants_whole(size) {
                prop_assert!(world.blobs[client.blob].commits == 1, "{:?}", world.blobs[client.blob]);
            }
        }
        for blob in &world.blobs {
            prop_assert!(blob.commits <= 1 && !blob.verdicts.contains(&false), "{:?}", blob);
        }
    }

    /// Anything may go wrong: the invariants hold, and the run ends.
    #[test]
    fn with_sick_sources_and_disks_the_invariants_hold(story in story(sick_plan(), true)) {
        tell(&story);
    }

    /// The agent ends in the middle of it.
    #[test]
    fn drains_and_stops_leave_nothing_behind(
        mut story in story(sick_plan(), true), end in end_of_agent(), healthy in any::<bool>(),
    ) {
        if healthy {
            story.plans = story.plans.iter().map(|plan| Plan::cold(plan.size)).collect();
        }
        story.acts.extend(end);
        let world = tell(&story);
        prop_assert!(world.engine().is_idle());
        // Who is still there was told so; nobody is left without a word.
        let silent = world.clients().filter(|c| !c.closed && c.outcome.is_none()).count();
        prop_assert_eq!(silent, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// I1: the same inputs give the same outputs.
    #[test]
    fn the_same_story_is_told_the_same_way(story in story(sick_plan(), true)) {
        prop_assert_eq!(tell(&story).trace, tell(&story).trace);
    }
}
