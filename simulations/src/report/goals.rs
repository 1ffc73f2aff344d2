//! Goals against figures: reached or not, and by how much.

use super::figures::Figures;
use super::table::{bytes, ratio, seconds};
use crate::scenario::schema::Goals;

/// One goal and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The figure, as tables call it.
    pub figure: &'static str,
    /// What was to be reached: `<= 1.10`.
    pub goal: String,
    /// What was reached.
    pub found: String,
    /// Whether that is enough.
    pub is_reached: bool,
    /// The distance to the goal in per cent of it; positive is on the right side of it. `None` where the goal is 0.
    pub margin_percent: Option<f64>,
}

/// How a figure is written.
#[derive(Clone, Copy)]
enum Unit {
    Ratio,
    Count,
    Share,
    Seconds,
    Bytes,
    BytesPerSecond,
}

/// All goals that are set. No failed ticket, no unfinished node and no broken rule are always goals, but stand in the
/// list only where they are missed.
pub fn judge(goals: &Goals, figures: &Figures) -> Vec<Verdict> {
    let summary = &figures.summary;
    let most = [
        ("p50", goals.p50, summary.p50, Unit::Ratio),
        ("p90", goals.p90, summary.p90, Unit::Ratio),
        ("p99", goals.p99, summary.p99, Unit::Ratio),
        ("p99.9", goals.p999, summary.p999, Unit::Ratio),
        ("last node", goals.max, summary.max, Unit::Ratio),
        ("copies from upstream", goals.upstream_ratio, summary.upstream_ratio, Unit::Ratio),
        ("requests upstream", goals.upstream_requests, summary.upstream_requests as f64, Unit::Count),
        ("copies into a zone", goals.cross_zone_ratio, summary.cross_zone_ratio, Unit::Ratio),
        ("control bytes", goals.control_ratio, summary.control_ratio, Unit::Share),
        ("duplicate bytes", goals.duplicate_ratio, summary.duplicate_ratio, Unit::Share),
        ("first byte, p99", goals.first_byte_p99.map(|p| p.0), summary.first_byte_p99_s, Unit::Seconds),
        ("control per node", goals.control_rate.map(|r| r.0), figures.control_rate, Unit::BytesPerSecond),
        (
            "memory of an engine",
            goals.engine_memory.map(|s| s.0 as f64),
            figures.engine_bytes as f64,
            Unit::Bytes,
        ),
    ];
    let least = [
        ("origin busy", goals.origin_busy, figures.origin_busy, Unit::Share),
        ("fairness", goals.fairness, figures.fairness.unwrap_or(0.0), Unit::Ratio),
        ("sources of a node", goals.sources, f64::from(figures.sources), Unit::Count),
    ];
    let most = most.into_iter().filter_map(|(figure, goal, found, unit)| {
        goal.map(|goal| verdict(figure, ("<=", goal), found, unit, found <= goal))
    });
    let least = least.into_iter().filter_map(|(figure, goal, found, unit)| {
        goal.map(|goal| verdict(figure, (">=", goal), found, unit, found >= goal))
    });
    let always = [
        ("failed tickets", goals.failed as f64, summary.failed as f64),
        ("unfinished nodes", 0.0, figures.unfinished as f64),
        ("broken rules", 0.0, figures.violations.len() as f64),
    ];
    let missed = always.into_iter().filter(|(_, goal, found)| found > goal);
    let missed = missed.map(|(figure, goal, found)| verdict(figure, ("<=", goal), found, Unit::Count, false));
    most.chain(least).chain(missed).collect()
}

fn verdict(
    figure: &'static str,
    (sign, goal): (&str, f64),
    found: f64,
    unit: Unit,
    is_reached: bool,
) -> Verdict {
    let distance = if sign == "<=" { goal - found } else { found - goal };
    Verdict {
        figure,
        goal: format!("{sign} {}", shown(goal, unit)),
        found: shown(found, unit),
        is_reached,
        margin_percent: (goal > 0.0 && found.is_finite()).then(|| distance / goal * 100.0),
    }
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => ratio(value),
        Unit::Count => format!("{value:.0}"),
        Unit::Share => format!("{:.2} %", value * 100.0),
        Unit::Seconds => seconds(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge};
    use crate::outcome::{NodeOutcome, Outcome};
    use crate::report::Figures;
    use crate::scenario::schema::Goals;

    #[test]
    fn goals_are_judged_in_their_direction() {
        let node = NodeOutcome { whole_s: Some(1.05), expected: true, ..NodeOutcome::default() };
        let lost = NodeOutcome { expected: true, faulty: true, ..NodeOutcome::default() };
        let outcome = Outcome {
            bytes: 1000,
            bound_s: 1.0,
            nodes: vec![node, lost],
            upstream_bytes: 1200,
            origin_busy: 0.98,
            failed: 1,
            ..Outcome::default()
        };
        let goals = Goals {
            p99: Some(1.1),
            upstream_ratio: Some(1.0),
            origin_busy: Some(0.97),
            sources: Some(4.0),
            ..Goals::default()
        };
        let verdicts = judge(&goals, &Figures::of(&outcome));
        let shown = |v: &Verdict| {
            let margin = v.margin_percent.map_or("-".to_owned(), |margin| format!("{margin:+.1}"));
            format!("{} {} {} {} {margin}", v.figure, v.goal, v.found, v.is_reached)
        };
        assert_eq!(
            verdicts.iter().map(shown).collect::<Vec<_>>(),
            [
                "p99 <= 1.10 1.05 true +4.5",
                "copies from upstream <= 1.00 1.20 false -20.0",
                "origin busy >= 97.00 % 98.00 % true +1.0",
                "sources of a node >= 4 0 false -100.0",
                "failed tickets <= 0 1 false -",
            ]
        );
    }
}
