//! Oracles: what has to hold after every run, whatever the seed.
//!
//! They say nothing of how long anything took; that is what goals are for. One bound is taken from the goals: copies from
//! upstream, because a stampede is a fault even when everybody is served.

use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// What a run broke: empty if it is sound.
pub fn broken(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut broken = outcome.violations.clone();
    if outcome.failed > scenario.goals.failed {
        broken.push(format!("{} tickets failed", outcome.failed));
    }
    let expected = outcome.nodes.iter().enumerate().filter(|(_, node)| node.expected);
    let late: Vec<usize> = expected.filter(|(_, node)| node.whole_s.is_none()).map(|(n, _)| n).collect();
    if let (Some(first), false) = (late.first(), scenario.layers.is_empty()) {
        broken.push(format!("{} nodes did not finish, the first is {first}", late.len()));
    }
    let copies = outcome.upstream_bytes as f64 / outcome.bytes.max(1) as f64;
    if scenario.goals.upstream_ratio.is_some_and(|most| copies > most) {
        broken.push(format!("{copies:.3} copies came from upstream"));
    }
    broken
}
