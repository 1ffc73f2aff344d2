//! Small scenarios with fixed seeds, one for each thing that goes wrong. Everybody finishes, no ticket fails, no rule is
//! broken, and upstream is asked for no more than the test says and why.
//!
//! They check that it works at all sizes of trouble, not how fast: that is what `shoal-sim --all` is for. More seeds:
//! `shoal-sim <scenario> --seeds 1..100`.

use std::collections::BTreeSet;

use shoal_simulations::bound::Bound;
use shoal_simulations::oracle;
use shoal_simulations::outcome::{NodeOutcome, Outcome};
use shoal_simulations::scenario::Scenario;
use shoal_simulations::world;

/// Links of 1 Gbit/s make a small layer last long enough for faults to fall into it.
const SLOW: &str = "link = { up = \"1Gbit/s\", down = \"1Gbit/s\" }\norigin = { bandwidth = \"1Gbit/s\" }\n";

fn scenario(text: &str, copies: f64) -> Scenario {
    let text = format!("name = \"test\"\ndeadline = \"5m\"\ngoals = {{ upstream_ratio = {copies} }}\n{text}");
    Scenario::parse("test", &text, &[]).unwrap_or_else(|e| panic!("{e}")).remove(0)
}

/// Runs a scenario in which nothing may break, and upstream sends at most so many copies.
fn holds(text: &str, copies: f64) -> Outcome {
    let scenario = scenario(text, copies);
    let outcome = world::run(&scenario, &|_| {});
    assert_eq!(oracle::broken(&scenario, &outcome), [""; 0], "\n{text}");
    outcome
}

fn slow(text: &str) -> String {
    format!("{SLOW}{text}")
}

#[test]
fn the_same_seed_is_the_same_run_and_another_seed_is_another() {
    let text = "nodes = 40\nimage = [\"16MiB\", \"1MiB\"]\nfaults = { slow = { share = 0.1 }, deaths_per_minute = 0.5, restart_after = \"1s\" }";
    let run = |seed: u64| {
        let outcome = world::run(&Scenario { seed, ..scenario(text, 2.0) }, &|_| {});
        Outcome { real_s: 0.0, ..outcome }
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first.trace, again.trace);
    assert_eq!(first, again);
    assert_ne!(first.trace, other.trace);
}

#[test]
fn watching_changes_nothing() {
    let scenario = scenario("nodes = 30\nimage = \"8MiB\"", 1.0);
    let mut lines = 0;
    let watchers = world::Watchers {
        engine: Some(Box::new(|_| {})),
        log: Some(Box::new(|_| lines += 1)),
        live_bytes: Some(|| 0),
    };
    let watched = world::watch(&scenario, watchers, &|_| {});
    assert_eq!(watched.trace, world::run(&scenario, &|_| {}).trace);
    assert!(lines > 30 * 32, "{lines} lines for the pieces of 30 nodes");
}

#[test]
fn one_layer() {
    // Nobody needs a second copy.
    let outcome = holds("nodes = 120\nimage = \"64MiB\"", 1.0);
    assert!(outcome.upstream_requests <= 4, "{} requests", outcome.upstream_requests);
}

#[test]
fn an_image_of_several_layers() {
    holds("nodes = 60\nimage = [\"1kB\", \"30MB\", \"5MB\", \"120kB\", \"2MB\", \"10kB\"]", 1.0);
}

/// Twelve layers on links of 10 Mbit/s, of which a piece takes 0.2 s.
const DOZEN: &str = "nodes = 50
link = { up = \"10Mbit/s\", down = \"10Mbit/s\" }
origin = { bandwidth = \"10Mbit/s\" }
image = [\"48MiB\", \"8MiB\", \"7MiB\", \"7MiB\", \"6MiB\", \"5MiB\", \"4MiB\", \"4MiB\", \"3MiB\", \"2MiB\", \"1MiB\", \"700KiB\"]
";

fn dozen(clients: &str) -> Scenario {
    let text = format!("name = \"test\"\ndeadline = \"1h\"\n{DOZEN}{clients}");
    Scenario::parse("test", &text, &[]).unwrap_or_else(|e| panic!("{e}")).remove(0)
}

#[test]
fn a_dozen_layers_on_slow_links_are_no_stampede() {
    // Each stream has so little of a link that homes were asked whether they live more often than they could answer.
    let outcome = world::run(&Scenario { seed: 3, ..dozen("") }, &|_| {});
    assert_eq!((outcome.failed, outcome.violations.len()), (0, 0));
    assert!(outcome.upstream_bytes as f64 <= 1.1 * outcome.bytes as f64, "{}", outcome.upstream_bytes);
}

#[test]
fn a_few_large_layers_leave_upstream_at_a_time() {
    for clients in ["clients = { parallel = 3 }", "clients = { warm = true }"] {
        let mut begun = BTreeSet::new();
        let log = |line: &str| {
            let mut words = line.split(' ');
            let at: f64 = words.next().and_then(|at| at.parse().ok()).unwrap_or(f64::MAX);
            if at < 5.0 && line.contains("requests of the origin") {
                begun.extend(words.nth(5).map(str::to_owned));
            }
        };
        let watchers = world::Watchers { engine: None, log: Some(Box::new(log)), live_bytes: None };
        let scenario = dozen(clients);
        let outcome = world::watch(&scenario, watchers, &|_| {});
        assert_eq!(oracle::broken(&scenario, &outcome), [""; 0], "{clients}");
        assert!(
            outcome.upstream_bytes as f64 <= 1.05 * outcome.bytes as f64,
            "{clients}: {}",
            outcome.upstream_bytes
        );
        // Three large ones, and the two that are not large.
        assert_eq!(begun.len(), 5, "{clients}: {begun:?}");
    }
}

#[test]
fn hashes_reach_those_below_the_home_as_soon_as_others() {
    let text = slow(
        "nodes = 100\nimage = [\"16MiB\", \"16MiB\", \"16MiB\", \"64MiB\", \"16MiB\"]\nclients = { parallel = 2 }",
    );
    for seed in [2, 3, 5] {
        let scenario = Scenario { seed, ..scenario(&text, 1.0) };
        let outcome = world::run(&scenario, &|_| {});
        assert_eq!(oracle::broken(&scenario, &outcome), [""; 0], "seed {seed}");
        let last = outcome.nodes.iter().filter_map(|node| node.whole_s).fold(0.0, f64::max);
        // A home that is fed by a root got no hashes, and all below it waited 200 ms for each: 1.54 to 1.75 x the bound.
        let bound = Bound::of(&scenario).total_s();
        assert!(last <= 1.2 * bound, "seed {seed}: {last} s of {bound}");
    }
}

#[test]
fn zones_behind_narrow_uplinks() {
    let zones = "zones = [{ name = \"a\", uplink = \"10:1\" }, { name = \"b\", uplink = \"10:1\" }, { name = \"c\", uplink = \"10:1\" }]";
    let outcome = holds(&format!("nodes = 90\nimage = \"64MiB\"\n{zones}"), 1.0);
    let most = outcome.into_zone.iter().max().copied().unwrap_or(0);
    assert!(most as f64 <= 1.25 * outcome.bytes as f64, "{:?} bytes into the zones", outcome.into_zone);
}

#[test]
fn slow_nodes() {
    // A slow node may hold a lease when it turns out to be slow; what it has fetched then is fetched once more.
    holds(&slow("nodes = 60\nimage = \"64MiB\"\nfaults = { slow = { share = 0.1, factor = 10 } }"), 1.1);
}

#[test]
fn deaths_and_restarts() {
    // A lease holder that dies loses what nobody has taken from it yet, and pieces of others that only it had.
    holds(
        &slow(
            "nodes = 60\nimage = \"512MiB\"\nfaults = { deaths_per_minute = 1, deaths_until = \"10s\", restart_after = \"2s\" }",
        ),
        1.5,
    );
}

#[test]
fn a_liar() {
    // What the liar fetched itself is right on its own disk and wrong for others: it is fetched again.
    holds(&slow("nodes = 60\nimage = \"64MiB\"\nfaults = { liars = 1 }"), 1.6);
}

#[test]
fn silent_nodes() {
    // The same for what a silent node fetched.
    holds(&slow("nodes = 60\nimage = \"64MiB\"\nfaults = { silent = 3 }"), 1.6);
}

#[test]
fn the_home_dies() {
    // The next home asks what there is before it grants leases anew.
    holds(&slow("nodes = 60\nimage = \"128MiB\"\nfaults = { home_dies_at = \"500ms\" }"), 1.1);
}

#[test]
fn all_homes_die() {
    holds(&slow("nodes = 60\nimage = \"128MiB\"\nfaults = { all_homes_die_at = \"500ms\" }"), 1.2);
}

#[test]
fn a_lease_holder_stalls() {
    // At most what was on the way to it is fetched twice.
    holds(&slow("nodes = 60\nimage = \"128MiB\"\nfaults = { lease_holder_stalls_at = \"500ms\" }"), 1.2);
}

#[test]
fn the_origin_is_down_for_a_while() {
    let origin = "origin = { bandwidth = \"500Mbit/s\", outages = [{ from = \"1s\", for = \"5s\" }] }";
    // A transfer goes on where it broke.
    holds(&format!("nodes = 60\nimage = \"128MiB\"\n{origin}"), 1.05);
}

#[test]
fn an_origin_without_ranges() {
    // A second lease begins at the blob's first byte.
    holds("nodes = 60\nimage = \"64MiB\"\norigin = { ranges = false }", 2.0);
}

#[test]
fn an_origin_with_a_rate_limit() {
    holds(
        "nodes = 60\nimage = [\"32MiB\", \"4MiB\", \"4MiB\", \"1MiB\"]\norigin = { requests_per_s = 2 }",
        1.05,
    );
}

#[test]
fn a_partition_with_the_origin_on_both_sides() {
    let zones = "zones = [{ name = \"a\" }, { name = \"b\" }, { name = \"c\" }]";
    let cut = "faults = { partition = { zones = [\"c\"], from = \"500ms\", for = \"3s\" } }";
    // One copy for each side.
    holds(&slow(&format!("nodes = 60\nimage = \"128MiB\"\n{zones}\n{cut}")), 2.05);
}

#[test]
fn a_zone_that_loses_everything() {
    let zones = "zones = [{ name = \"a\" }, { name = \"b\" }, { name = \"c\" }]";
    let cut = "faults = { partition = { zones = [\"c\"], from = \"500ms\", for = \"3s\", origin = true } }";
    // Pieces whose only owner was cut off are fetched again.
    holds(&slow(&format!("nodes = 60\nimage = \"128MiB\"\n{zones}\n{cut}")), 1.5);
}

#[test]
fn a_rolling_update() {
    let update = "faults = { rolling_update = { from = \"300ms\", gap = \"100ms\", down = \"500ms\" } }";
    // A home that has just come back, and whose only holder goes next, knows of nobody else: half a copy.
    holds(&slow(&format!("nodes = 40\nimage = \"256MiB\"\n{update}")), 1.6);
}

/// A book in which one member, or a few, have everything from the start.
#[test]
fn what_one_node_holds_spreads_to_a_crowd_like_what_comes_from_upstream() {
    let zones = "zones = [{ name = \"a\" }, { name = \"b\" }, { name = \"c\" }]\n";
    for (holders, zones) in [(1, ""), (1, zones), (6, ""), (6, zones)] {
        let late = 120 - holders;
        let text = format!(
            "nodes = 120\nimage = \"64MiB\"\n{zones}clients = {{ holders = {holders}, late = {{ nodes = {late}, at = \"3s\" }} }}"
        );
        let outcome = holds(&slow(&text), 0.0);
        // In a chain the last of a hundred would wait for a hundred others.
        let took = |node: &NodeOutcome| Some(node.whole_s? - node.asked_s);
        let last = outcome.nodes.iter().filter_map(took).fold(0.0, f64::max);
        assert!(last < 1.3 * outcome.bound_s, "{holders} holders, {zones}: the last after {last} s");
    }
}

/// Two agents on one slow processor, or links that are full: an answer takes longer than its patience.
#[test]
fn homes_that_answer_late_are_not_taken_for_gone() {
    for delay in ["20ms", "100ms", "600ms", "1s", "1500ms"] {
        let text =
            format!("nodes = 100\nimage = [\"5kB\", \"300kB\", \"1MB\"]\ndelay = {{ within = \"{delay}\" }}");
        let outcome = holds(&text, 1.0);
        assert_eq!(outcome.upstream_requests, 3, "{delay}");
    }
}

#[test]
fn a_cold_start() {
    // Whoever does not know the others yet waits for them, and so does a home that has just started.
    holds("nodes = 60\nimage = \"32MiB\"\nswim = true\nclients = { start = \"3s\" }", 1.0);
}

#[test]
fn a_late_joiner() {
    let clients = "clients = { holders = 60, late = { nodes = 1, at = \"3s\" } }";
    let outcome = holds(&format!("nodes = 61\nimage = \"64MiB\"\n{clients}"), 0.0);
    assert!(outcome.nodes[60].sources >= 4, "{} sources", outcome.nodes[60].sources);
}
