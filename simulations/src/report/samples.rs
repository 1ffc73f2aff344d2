//! Made-up outcomes of the shape that runs have, for tests.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::outcome::{NodeOutcome, Outcome, Sample};

const GIB: u64 = 1 << 30;
const BOUND_S: f64 = 0.887;

/// Shoal and all baselines on so many nodes.
pub(crate) fn outcomes(nodes: usize) -> Vec<Outcome> {
    // System, when the first and the last node are whole in multiples of the bound, exponent of the way between.
    let systems: [(&str, f64, f64, f64); 5] = [
        ("shoal", 1.01, 1.07, 3.0),
        ("upstream", nodes as f64 * 0.93, nodes as f64 * 0.97, 1.0),
        ("spegel", 2.0, nodes as f64 / 12.0, 2.0),
        ("dragonfly", 1.6, 4.2, 1.5),
        ("kraken", 2.1, 2.6, 2.0),
    ];
    systems.into_iter().map(|system| outcome(nodes, system)).collect()
}

fn outcome(count: usize, (system, first, last, exponent): (&str, f64, f64, f64)) -> Outcome {
    let mut rng = StdRng::seed_from_u64(5);
    let is_upstream = system == "upstream";
    let nodes: Vec<NodeOutcome> = (0..count)
        .map(|index| {
            let at = rng.random::<f64>().powf(exponent);
            let from_origin = match index {
                _ if is_upstream => GIB,
                index if index % 60 == 7 => GIB * 60 / count as u64,
                _ => 0,
            };
            let from_afar = if is_upstream { 0 } else { GIB / 200 * rng.random_range(0..4) };
            NodeOutcome {
                zone: index * 3 / count,
                first_byte_s: Some(0.03 + 0.02 * rng.random::<f64>()),
                whole_s: Some((first + (last - first) * at) * BOUND_S),
                expected: true,
                from_origin,
                from_afar,
                from_zone: GIB.saturating_sub(from_origin + from_afar),
                sent: if is_upstream { 0 } else { (GIB as f64 * rng.random_range(0.6..1.4)) as u64 },
                control: 3_000_000,
                wasted: GIB / 500,
                sources: 20,
                ..NodeOutcome::default()
            }
        })
        .collect();
    let end = last * BOUND_S;
    let samples = (0..200).map(|step| {
        let at_s = end * f64::from(step) / 199.0;
        let share = |node: &NodeOutcome| {
            let whole = node.whole_s.unwrap_or(end);
            let begun = if is_upstream { 0.05 } else { 0.03 };
            ((at_s - begun) / (whole - begun)).clamp(0.0, 1.0)
        };
        Sample { at_s, progress: nodes.iter().map(|node| (share(node) * 255.0) as u8).collect() }
    });
    Outcome {
        scenario: "sample".into(),
        system: system.into(),
        seed: 5,
        bytes: GIB,
        bound_s: BOUND_S,
        samples: samples.collect(),
        upstream_bytes: nodes.iter().map(|node| node.from_origin).sum(),
        upstream_requests: if is_upstream { count as u64 } else { 16 },
        origin_busy: 0.97,
        into_zone: vec![GIB, GIB + GIB / 50, GIB],
        simulated_s: end,
        nodes,
        ..Outcome::default()
    }
}
