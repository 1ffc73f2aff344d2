//! Sums of counters, read back from the exposition that everybody else reads: `shoal status` and a dashboard cannot
//! disagree.

use std::collections::BTreeMap;

/// The samples of a scrape.
pub(crate) struct Counters<'t>(&'t str);

impl<'t> Counters<'t> {
    pub fn new(exposition: &'t str) -> Self {
        Counters(exposition)
    }

    /// Sum over all labels. `name` is without the prefix, counters end in `_total`.
    pub fn sum(&self, name: &str) -> u64 {
        self.samples(name).map(|(_, value)| value).sum()
    }

    /// Sums by the value of one label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.samples(name) {
            *sums.entry(label_value(labels, label).unwrap_or_default().to_owned()).or_default() += value;
        }
        sums
    }

    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'t str, u64)> + 'a {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix("shoal_")?.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            // Gauges can be below zero for a moment, and nothing here is.
            let value: i128 = value.trim().parse().ok()?;
            Some((labels, u64::try_from(value).unwrap_or(0)))
        })
    }
}

/// The labels of this agent have neither quotes nor commas in their values: they are its own words or registry names.
fn label_value<'t>(labels: &'t str, name: &str) -> Option<&'t str> {
    labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::Counters;
    use crate::metrics::{Metrics, Served};

    #[test]
    fn sums_of_a_real_exposition() {
        let metrics = Metrics::new();
        metrics.served(Served::Store, 100);
        metrics.served(Served::Upstream, 20);
        metrics.served(Served::Store, 3);
        metrics.miss();
        metrics.upstream_bytes("registry.test:5000").inc_by(7);
        metrics.store_degraded(Some(crate::store_health::Reason::Capacity));
        let text = metrics.encode();
        let counters = Counters::new(&text);
        assert_eq!(counters.sum("served_bytes_total"), 123);
        let by: Vec<(String, u64)> = counters.by("served_bytes_total", "source").into_iter().collect();
        assert_eq!(by, [("store".to_owned(), 103), ("upstream".to_owned(), 20)]);
        assert_eq!(counters.by("upstream_bytes_total", "registry")["registry.test:5000"], 7);
        assert_eq!(
            (counters.sum("misses_total"), counters.sum("store_degraded"), counters.sum("flights")),
            (1, 1, 0)
        );
    }
}
