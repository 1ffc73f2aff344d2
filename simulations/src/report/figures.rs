//! The figures of one run.
//!
//! Percentiles are over the nodes that were expected to end and for which no fault was planned, by nearest rank. A node
//! that should have ended and has not counts as infinitely late, so it cannot make a percentile look better.

use serde::Serialize;

use crate::outcome::{NodeOutcome, Outcome};

/// Digits behind the point in JSON: enough to compare, few enough to read.
const JSON_DIGITS: i32 = 6;

/// The figures of one run as `--json` prints them. Times of whole images are multiples of the bound; infinite ones are `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the run.
    pub scenario: String,
    /// Seed of all chance.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Bytes that every node wants.
    pub bytes: u64,
    /// The bound, seconds.
    pub bound_s: f64,
    /// Half of the nodes.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The last one.
    pub max: f64,
    /// Bytes that the origin sent, as copies of the image.
    pub upstream_ratio: f64,
    /// Requests for blobs that the origin saw.
    pub upstream_requests: u64,
    /// Copies of the image that came into the zone that took in most.
    pub cross_zone_ratio: f64,
    /// Bytes of control messages per byte of data received.
    pub control_ratio: f64,
    /// Bytes received in vain per byte of data received.
    pub duplicate_ratio: f64,
    /// Tickets that ended without their bytes.
    pub failed: u64,
    /// Time from asking to the first byte, 99 of 100 nodes, seconds.
    pub first_byte_p99_s: f64,
}

/// All figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// What JSON has.
    pub summary: Summary,
    /// Which system ran.
    pub system: String,
    /// Nodes in the percentiles.
    pub healthy: usize,
    /// Of those, how many never had everything.
    pub unfinished: usize,
    /// Jain's index of bytes sent by the members: 1 if all send alike, 1/n if one sends everything. `None` if nobody
    /// sends.
    pub fairness: Option<f64>,
    /// Share of the time until its last byte in which the origin's link was busy.
    pub origin_busy: f64,
    /// Time from asking to the first byte, half of the nodes, seconds.
    pub first_byte_p50_s: f64,
    /// Members from which the node with the fewest received a part worth the name; 0 if nobody received anything.
    pub sources: u32,
    /// Control bytes that the mean node sent per second, after the time of joining.
    pub control_rate: f64,
    /// Control bytes that the mean node sent in the time of joining, and that time in seconds.
    pub control_joining: Option<(f64, f64)>,
    /// Bytes of one engine at the end.
    pub engine_bytes: u64,
    /// Rules that were broken.
    pub violations: Vec<String>,
}

impl Figures {
    /// Of one run.
    pub fn of(outcome: &Outcome) -> Figures {
        let nodes = &outcome.nodes;
        let healthy: Vec<&NodeOutcome> = healthy(outcome).collect();
        let whole = sorted(healthy.iter().map(|node| multiple(node, outcome.bound_s)));
        let first = sorted(healthy.iter().map(|node| since_asked(node, node.first_byte_s)));
        let sum = |of: fn(&NodeOutcome) -> u64| nodes.iter().map(of).sum::<u64>() as f64;
        let data = sum(|node| node.from_origin + node.from_zone + node.from_afar);
        let control = sum(|node| node.control);
        let joining = sum(|node| node.control_joining);
        let into_zone = outcome.into_zone.iter().copied().max().unwrap_or(0) as f64;
        let image = outcome.bytes as f64;
        let asked = healthy.iter().filter(|node| node.whole_s.is_some());
        let summary = Summary {
            scenario: outcome.scenario.clone(),
            seed: outcome.seed,
            nodes: nodes.len(),
            bytes: outcome.bytes,
            bound_s: rounded(outcome.bound_s),
            p50: rounded(percentile(&whole, 0.5)),
            p90: rounded(percentile(&whole, 0.9)),
            p99: rounded(percentile(&whole, 0.99)),
            p999: rounded(percentile(&whole, 0.999)),
            max: rounded(percentile(&whole, 1.0)),
            upstream_ratio: rounded(over(outcome.upstream_bytes as f64, image)),
            upstream_requests: outcome.upstream_requests,
            cross_zone_ratio: rounded(over(into_zone, image)),
            control_ratio: rounded(over(control, data)),
            duplicate_ratio: rounded(over(sum(|node| node.wasted), data)),
            failed: outcome.failed,
            first_byte_p99_s: rounded(percentile(&first, 0.99)),
        };
        Figures {
            summary,
            system: outcome.system.clone(),
            healthy: healthy.len(),
            unfinished: healthy.iter().filter(|node| node.whole_s.is_none()).count(),
            fairness: fairness(nodes.iter().map(|node| node.sent as f64)),
            origin_busy: outcome.origin_busy,
            first_byte_p50_s: percentile(&first, 0.5),
            sources: asked.map(|node| node.sources).min().unwrap_or(0),
            control_rate: over(
                over(control - joining, nodes.len() as f64),
                outcome.simulated_s - outcome.joining_s,
            ),
            control_joining: (outcome.joining_s > 0.0)
                .then(|| (over(joining, nodes.len() as f64), outcome.joining_s)),
            engine_bytes: outcome.engine_bytes,
            violations: outcome.violations.clone(),
        }
    }
}

/// The nodes that count for percentiles.
pub(super) fn healthy(outcome: &Outcome) -> impl Iterator<Item = &NodeOutcome> {
    outcome.nodes.iter().filter(|node| node.expected && !node.faulty)
}

/// A node's time from asking to whole in multiples of the bound; infinite if it never was whole.
pub(super) fn multiple(node: &NodeOutcome, bound_s: f64) -> f64 {
    let taken = since_asked(node, node.whole_s);
    if bound_s > 0.0 { taken / bound_s } else { taken }
}

fn since_asked(node: &NodeOutcome, at_s: Option<f64>) -> f64 {
    at_s.map_or(f64::INFINITY, |at_s| at_s - node.asked_s)
}

/// In ascending order.
pub(super) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Nearest rank: the smallest value that a share `p` of all does not exceed. 0 of nothing.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    // 0.999 x 1000 is 999.0000000000001 for no fault of the caller.
    let rank = (p * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).wrapping_sub(1)).copied().unwrap_or(0.0)
}

/// Jain, Chiu and Hawe, 1984: (sum of x)^2 / (n * sum of x^2).
fn fairness(sent: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum, squares) =
        sent.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
    (squares > 0.0).then(|| sum * sum / (n * squares))
}

fn over(value: f64, of: f64) -> f64 {
    if of > 0.0 { value / of } else { 0.0 }
}

fn rounded(value: f64) -> f64 {
    let scale = 10_f64.powi(JSON_DIGITS);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::{Figures, fairness, percentile};
    use crate::outcome::{NodeOutcome, Outcome};

    fn node(asked_s: f64, whole_s: Option<f64>) -> NodeOutcome {
        let first_byte_s = whole_s.map(|_| asked_s + 0.5);
        NodeOutcome { asked_s, whole_s, first_byte_s, expected: true, sources: 3, ..NodeOutcome::default() }
    }

    fn outcome(nodes: Vec<NodeOutcome>) -> Outcome {
        Outcome { scenario: "test".into(), seed: 7, bytes: 100, bound_s: 2.0, nodes, ..Outcome::default() }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let thousand: Vec<f64> = (1..=1000).map(f64::from).collect();
        for (p, expected) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            assert_eq!(percentile(&thousand, p), expected, "{p}");
        }
        assert_eq!(
            (percentile(&[7.0], 0.5), percentile(&[7.0], 0.999), percentile(&[], 0.5)),
            (7.0, 7.0, 0.0)
        );
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), 2.0);
    }

    #[test]
    fn only_the_healthy_and_expected_count_and_the_unfinished_count_as_infinite() {
        let slow = NodeOutcome { faulty: true, ..node(0.0, Some(100.0)) };
        let killed = NodeOutcome { expected: false, ..node(0.0, None) };
        let figures = Figures::of(&outcome(vec![node(1.0, Some(3.0)), node(0.0, Some(3.0)), slow, killed]));
        assert_eq!((figures.summary.p50, figures.summary.max), (1.0, 1.5));
        assert_eq!((figures.healthy, figures.unfinished, figures.summary.nodes), (2, 0, 4));
        assert_eq!((figures.summary.first_byte_p99_s, figures.sources), (0.5, 3));

        let figures = Figures::of(&outcome(vec![node(0.0, Some(2.0)), node(0.0, None)]));
        assert_eq!((figures.summary.p50, figures.summary.max, figures.unfinished), (1.0, f64::INFINITY, 1));
    }

    #[test]
    fn ratios() {
        let mut a = node(0.0, Some(2.0));
        (a.from_origin, a.sent, a.control) = (100, 100, 3);
        let mut b = node(0.0, Some(2.0));
        (b.from_zone, b.from_afar, b.control, b.wasted) = (40, 60, 1, 10);
        let outcome = Outcome {
            upstream_bytes: 105,
            upstream_requests: 4,
            into_zone: vec![60, 100],
            simulated_s: 2.0,
            ..outcome(vec![a, b])
        };
        let figures = Figures::of(&outcome);
        let summary = &figures.summary;
        assert_eq!((summary.upstream_ratio, summary.cross_zone_ratio), (1.05, 1.0));
        assert_eq!((summary.control_ratio, summary.duplicate_ratio), (0.02, 0.05));
        assert_eq!((figures.fairness, figures.control_rate), (Some(0.5), 1.0));
    }

    #[test]
    fn json_has_exactly_these_keys_in_this_order() {
        let figures = Figures::of(&outcome(vec![node(0.0, Some(2.5)), node(0.0, None)]));
        assert_eq!(
            serde_json::to_string(&figures.summary).unwrap(),
            "{\"scenario\":\"test\",\"seed\":7,\"nodes\":2,\"bytes\":100,\"bound_s\":2.0,\"p50\":1.25,\"p90\":null,\
             \"p99\":null,\"p999\":null,\"max\":null,\"upstream_ratio\":0.0,\"upstream_requests\":0,\
             \"cross_zone_ratio\":0.0,\"control_ratio\":0.0,\"duplicate_ratio\":0.0,\"failed\":0,\
             \"first_byte_p99_s\":null}"
        );
    }

    #[test]
    fn nothing_at_all_is_no_division_by_zero() {
        let figures = Figures::of(&Outcome::default());
        assert_eq!((figures.summary.p50, figures.summary.upstream_ratio, figures.fairness), (0.0, 0.0, None));
        assert_eq!(fairness([5.0, 5.0, 5.0].into_iter()), Some(1.0));
    }
}
