//! What a benchmark found, as a table and as one JSON object.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A figure that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Key in the JSON object and name of the row.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

/// Figures of one contestant, in the order of the metrics; `None` where it has no such figure.
pub type Figures = Vec<Option<f64>>;

/// One benchmark's result.
pub struct Table {
    name: &'static str,
    metrics: Vec<Metric>,
    ours: Figures,
    peers: Vec<(String, Figures)>,
    conditions: String,
}

impl Table {
    /// A result without peers yet.
    pub fn new(name: &'static str, metrics: Vec<Metric>, ours: Figures, conditions: String) -> Self {
        assert_eq!(metrics.len(), ours.len(), "every metric has a figure");
        Table { name, metrics, ours, peers: Vec::new(), conditions }
    }

    /// Adds what ours is compared with: another program, or a bound.
    pub fn peer(&mut self, name: &str, figures: Figures) {
        assert_eq!(figures.len(), self.metrics.len(), "every metric has a figure");
        self.peers.push((name.to_owned(), figures));
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n\n  {:<34}{:>14}", self.name, self.conditions, "", "shoal");
        for (name, _) in &self.peers {
            let _ = write!(text, "{:>width$}", name, width = column(name));
        }
        for (row, metric) in self.metrics.iter().enumerate() {
            let _ = write!(
                text,
                "\n  {:<34}{:>14}",
                format!("{} ({})", metric.name, metric.unit),
                cell(self.ours[row])
            );
            for (name, figures) in &self.peers {
                let figure = figures[row].map_or_else(String::new, |figure| {
                    let ratio = self.ours[row].and_then(|ours| ratio(ours, figure));
                    let ratio = ratio.map(|ratio| format!(" ({ratio:.2}x)"));
                    cell(Some(figure)) + &ratio.unwrap_or_default()
                });
                let _ = write!(text, "{figure:>width$}", width = column(name));
            }
        }
        text.push_str("\n\n  in brackets: shoal's figure divided by this one");
        text
    }

    /// `{"name", "ours", "peers", "ratio", "unit", "conditions"}`; figures are keyed by metric, ratios are ours divided
    /// by the peer's.
    pub fn json(&self) -> Value {
        let keyed = |figures: &Figures| -> Map<String, Value> {
            let pairs = self.metrics.iter().zip(figures);
            pairs
                .filter_map(|(metric, figure)| Some((metric.name.to_owned(), json!(rounded((*figure)?)))))
                .collect()
        };
        let ratio = |figures: &Figures| -> Figures {
            self.ours.iter().zip(figures).map(|(ours, peer)| self::ratio((*ours)?, (*peer)?)).collect()
        };
        let peers: Map<String, Value> =
            self.peers.iter().map(|(name, figures)| (name.clone(), keyed(figures).into())).collect();
        let ratios: Map<String, Value> =
            self.peers.iter().map(|(name, figures)| (name.clone(), keyed(&ratio(figures)).into())).collect();
        let units: Map<String, Value> =
            self.metrics.iter().map(|metric| (metric.name.to_owned(), metric.unit.into())).collect();
        json!({
            "name": self.name,
            "ours": keyed(&self.ours),
            "peers": peers,
            "ratio": ratios,
            "unit": units,
            "conditions": self.conditions,
        })
    }
}

fn column(name: &str) -> usize {
    name.len().max(16) + 4
}

fn cell(figure: Option<f64>) -> String {
    match figure {
        None => String::new(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure.fract() == 0.0 => format!("{figure}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.3}"),
    }
}

/// Ours as a multiple of a peer's; nothing is a multiple of nothing.
fn ratio(ours: f64, peer: f64) -> Option<f64> {
    (peer != 0.0).then(|| ours / peer)
}

/// Four significant digits or so: more would be noise.
fn rounded(figure: f64) -> f64 {
    let scale = if figure.abs() >= 100.0 { 10.0 } else { 1000.0 };
    (figure * scale).round() / scale
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    assert!(!figures.is_empty(), "something was measured");
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) }
}

/// The one that so many percent are no greater than.
pub fn percentile(mut figures: Vec<f64>, percent: usize) -> f64 {
    assert!(!figures.is_empty(), "something was measured");
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// The middle one, and the one that one in a hundred is above.
pub fn times(samples: Vec<f64>) -> Figures {
    vec![Some(median(samples.clone())), Some(percentile(samples, 99))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_ratios_of_what_both_have() {
        let metrics = vec![Metric { name: "seconds", unit: "s" }, Metric { name: "gets", unit: "requests" }];
        let mut table = Table::new("t", metrics, vec![Some(2.0), Some(1.0)], "here".to_owned());
        table.peer("nginx", vec![Some(4.0), None]);
        let expected = json!({
            "name": "t", "ours": {"seconds": 2.0, "gets": 1.0}, "peers": {"nginx": {"seconds": 4.0}},
            "ratio": {"nginx": {"seconds": 0.5}}, "unit": {"seconds": "s", "gets": "requests"}, "conditions": "here",
        });
        assert_eq!(table.json(), expected);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn percentiles() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(times(hundred)[1], Some(99.0));
        assert_eq!(times(vec![7.0]), [Some(7.0), Some(7.0)]);
    }
}
