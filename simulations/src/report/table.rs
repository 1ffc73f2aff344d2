//! The table for a terminal: figures down, systems across.

use super::figures::Figures;

/// A table of runs of one scenario, one column for each system, aligned. Ends with a newline.
pub fn table(runs: &[Figures]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let summary = &first.summary;
    let mut text = format!(
        "{}: {} nodes, {} each, bound {}, seed {}\n",
        summary.scenario,
        count(summary.nodes as u64),
        bytes(summary.bytes as f64),
        seconds(summary.bound_s),
        summary.seed
    );
    let rows = rows(runs);
    let label_width = rows.iter().map(|row| row.label.len()).max().unwrap_or(0);
    let head: Vec<String> = runs.iter().map(|run| run.system.clone()).collect();
    let columns = 0..runs.len();
    let width = |column: usize| {
        rows.iter().map(|row| row.cells[column].len()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.map(width).collect();
    let mut line = |label: &str, cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("  {cell:>width$}"));
        let line = format!("  {label:<label_width$}{}", cells.collect::<String>());
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line("", &head);
    for row in &rows {
        line(row.label, &row.cells);
    }
    for run in runs {
        for violation in &run.violations {
            text.push_str(&format!("  broken by {}: {violation}\n", run.system));
        }
    }
    text
}

/// One figure of all runs.
pub(crate) struct Row {
    /// What it is.
    pub label: &'static str,
    /// One for each run.
    pub cells: Vec<String>,
}

/// All rows that say something about one of the runs.
pub(crate) fn rows(runs: &[Figures]) -> Vec<Row> {
    type Cell = fn(&Figures) -> Option<String>;
    let when_asked = |run: &Figures| run.summary.bytes > 0;
    let of_a_pull: [(&'static str, Cell); 15] = [
        ("p50, x bound", |run| Some(ratio(run.summary.p50))),
        ("p90", |run| Some(ratio(run.summary.p90))),
        ("p99", |run| Some(ratio(run.summary.p99))),
        ("p99.9", |run| Some(ratio(run.summary.p999))),
        ("last node", |run| Some(ratio(run.summary.max))),
        ("first byte, p50", |run| Some(seconds(run.first_byte_p50_s))),
        ("first byte, p99", |run| Some(seconds(run.summary.first_byte_p99_s))),
        ("copies from upstream", |run| Some(ratio(run.summary.upstream_ratio))),
        ("requests upstream", |run| Some(count(run.summary.upstream_requests))),
        ("origin's link busy", |run| Some(percent(run.origin_busy))),
        ("copies into a zone", |run| Some(ratio(run.summary.cross_zone_ratio))),
        ("control, of data", |run| Some(percent(run.summary.control_ratio))),
        ("duplicates, of data", |run| Some(percent(run.summary.duplicate_ratio))),
        ("fairness of sending", |run| {
            Some(run.fairness.map_or_else(|| "-".into(), |index| format!("{index:.2}")))
        }),
        ("fewest sources", |run| Some(run.sources.to_string()).filter(|_| run.sources > 0)),
    ];
    let always: [(&'static str, Cell); 5] = [
        ("control per node", |run| {
            Some(format!("{}/s", bytes(run.control_rate))).filter(|_| run.control_rate > 0.0)
        }),
        ("control per node while joining", |run| {
            let (sent, within_s) = run.control_joining?;
            Some(format!("{} in {}", bytes(sent), seconds(within_s)))
        }),
        ("memory of an engine", |run| Some(bytes(run.engine_bytes as f64)).filter(|_| run.engine_bytes > 0)),
        ("failed tickets", |run| Some(count(run.summary.failed))),
        ("unfinished nodes", |run| Some(count(run.unfinished as u64)).filter(|_| run.unfinished > 0)),
    ];
    let of_a_pull = of_a_pull.into_iter().filter(|_| runs.iter().any(when_asked));
    let all = of_a_pull.chain(always).map(|(label, cell)| (label, runs.iter().map(cell).collect::<Vec<_>>()));
    let said = all.filter(|(_, cells)| cells.iter().any(Option::is_some));
    said.map(|(label, cells)| Row {
        label,
        cells: cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into())).collect(),
    })
    .collect()
}

/// `1.07`; from 100 on without, from 10 on with one digit behind the point.
pub fn ratio(value: f64) -> String {
    match value {
        v if v.is_infinite() => "never".into(),
        v if v >= 99.95 => count(v.round() as u64),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 1.0 { format!("{percent:.1} %") } else { format!("{percent:.2} %") }
}

/// `1.23 s`, `45.6 ms`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s.is_infinite() => "never".into(),
        s if s >= 100.0 => format!("{} s", count(s.round() as u64)),
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// `1.07 GB`: decimal units.
pub fn bytes(bytes: f64) -> String {
    let unit =
        [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)].into_iter().find(|(_, unit)| bytes >= *unit);
    match unit {
        None => format!("{bytes:.0} B"),
        Some((name, unit)) if bytes / unit >= 100.0 => format!("{:.0} {name}", bytes / unit),
        Some((name, unit)) if bytes / unit >= 10.0 => format!("{:.1} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.2} {name}", bytes / unit),
    }
}

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, ratio, seconds, table};
    use crate::report::{Figures, samples};

    #[test]
    fn numbers_are_as_long_as_they_need_to_be() {
        assert_eq!([1.0, 9.99, 12.345, 99.96, 1234.5].map(ratio), ["1.00", "9.99", "12.3", "100", "1,235"]);
        assert_eq!([0.0123, 1.5, 1234.0].map(seconds), ["12.3 ms", "1.50 s", "1,234 s"]);
        assert_eq!(
            [12.0, 1500.0, 1.0737e9, 25.6e6, 256e6].map(bytes),
            ["12 B", "1.50 kB", "1.07 GB", "25.6 MB", "256 MB"]
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((ratio(f64::INFINITY), seconds(f64::INFINITY)), ("never".into(), "never".into()));
    }

    #[test]
    fn systems_stand_side_by_side() {
        let mut runs: Vec<Figures> = samples::outcomes(100).iter().take(2).map(Figures::of).collect();
        runs[0].violations.push("node 3 was whole before its digest".into());
        let text = table(&runs);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("sample: 100 nodes, 1.07 GB each, bound "), "{text}");
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["shoal", "upstream"]);
        assert!(lines[2].starts_with("  p50, x bound"), "{text}");
        assert_eq!(lines.last(), Some(&"  broken by shoal: node 3 was whole before its digest"));
        let aligned = lines[1..lines.len() - 1].iter().all(|line| line.len() == lines[1].len());
        assert!(aligned, "{text}");
    }
}
