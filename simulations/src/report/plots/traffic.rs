//! Who received from whom, and who sent how much.

use plotters::prelude::*;

use super::{
    Area, BINS_MAX, BLUE, Entry, FAINT, GREEN, INK, ORANGE, PINK, PlotError, TEXT, legend, page, ranges,
    text, tick,
};
use crate::outcome::{NodeOutcome, Outcome};

/// Bytes of a node.
type Bytes = fn(&NodeOutcome) -> u64;

/// Bytes that a node received, from where; what is stacked first comes first.
const SOURCES: [(&str, RGBColor, Bytes); 3] = [
    ("from the origin", ORANGE, |node| node.from_origin),
    ("from other zones", PINK, |node| node.from_afar),
    ("from its own zone", GREEN, |node| node.from_zone),
];

/// Two pictures side by side: what the nodes received, stacked by source, those first that received most from the
/// origin; and what they sent, those first that sent most. Both in copies of the image.
pub fn traffic(outcome: &Outcome) -> Result<String, PlotError> {
    let image = outcome.bytes.max(1) as f64;
    let mut receivers: Vec<&NodeOutcome> = outcome.nodes.iter().collect();
    let all = |node: &NodeOutcome| node.from_origin + node.from_afar + node.from_zone;
    receivers.sort_by_key(|node| std::cmp::Reverse((node.from_origin, node.from_afar, all(node))));
    let received = |node: &NodeOutcome, sources: usize| {
        SOURCES[..sources].iter().map(|(_, _, of)| of(node)).sum::<u64>() as f64 / image
    };
    let edge = |sources: usize| binned(&receivers, |node| received(node, sources));
    let edges: Vec<Vec<f64>> = (0..=SOURCES.len()).map(edge).collect();
    let mut senders: Vec<&NodeOutcome> = outcome.nodes.iter().collect();
    senders.sort_by_key(|node| std::cmp::Reverse(node.sent));
    let sent = binned(&senders, |node| node.sent as f64 / image);

    let title = format!("{}, {}: who received from whom, and who sent", outcome.scenario, outcome.system);
    page(&title, |area, right| {
        let half = (area.dim_in_pixel().0 / 2) as i32;
        let (left, middle) = area.split_horizontally(half);
        let bands: Vec<Band<'_>> = (0..SOURCES.len())
            .map(|source| Band {
                lower: &edges[source],
                upper: &edges[source + 1],
                colour: SOURCES[source].1,
            })
            .collect();
        let nodes = outcome.nodes.len();
        panel(&left, nodes, ["nodes, most from the origin first", "received, copies of the image"], &bands)?;
        let nothing = vec![0.0; sent.len()];
        let band = Band { lower: &nothing, upper: &sent, colour: BLUE };
        panel(&middle, nodes, ["nodes, most sent first", "sent, copies of the image"], &[band])?;
        let entries =
            SOURCES.iter().map(|(label, colour, _)| (*label, *colour)).chain([("sent to members", BLUE)]);
        let entry = |(label, colour): (&str, RGBColor)| Entry { colour, label: label.into(), is_line: false };
        legend(right, &entries.map(entry).collect::<Vec<_>>())?;
        totals(right, outcome, image)
    })
}

/// What lies between two edges, one value for each bin of nodes.
struct Band<'e> {
    lower: &'e [f64],
    upper: &'e [f64],
    colour: RGBColor,
}

/// The mean of each bin.
fn binned(nodes: &[&NodeOutcome], of: impl Fn(&NodeOutcome) -> f64) -> Vec<f64> {
    let mean = |range: std::ops::Range<usize>| {
        let count = range.len().max(1) as f64;
        nodes[range].iter().map(|node| of(node)).sum::<f64>() / count
    };
    ranges(nodes.len(), BINS_MAX).map(mean).collect()
}

fn panel(area: &Area<'_>, nodes: usize, [x, y]: [&str; 2], bands: &[Band<'_>]) -> Result<(), PlotError> {
    let highest = bands.iter().flat_map(|band| band.upper).copied().fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.08 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_top(22)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..nodes.max(1) as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .x_labels(5)
        .y_labels(7)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .x_desc(x)
        .y_desc(y)
        .label_style(text(TEXT, &INK))
        .axis_desc_style(text(TEXT, &INK))
        .draw()?;
    for band in bands.iter().filter(|band| band.upper != band.lower) {
        let width = nodes as f64 / band.upper.len() as f64;
        let steps = |edge: &[f64]| -> Vec<(f64, f64)> {
            let step = |(bin, value): (usize, &f64)| {
                [(bin as f64 * width, *value), ((bin + 1) as f64 * width, *value)]
            };
            edge.iter().enumerate().flat_map(step).collect()
        };
        let outline: Vec<(f64, f64)> =
            steps(band.upper).into_iter().chain(steps(band.lower).into_iter().rev()).collect();
        chart.draw_series([Polygon::new(outline, band.colour.filled())])?;
    }
    Ok(())
}

/// Copies of the image in all, below the legend.
fn totals(area: &Area<'_>, outcome: &Outcome, image: f64) -> Result<(), PlotError> {
    let sum = |of: Bytes| outcome.nodes.iter().map(of).sum::<u64>() as f64 / image;
    let lines = [
        "copies in all".to_owned(),
        format!("origin {}", super::super::ratio(sum(SOURCES[0].2))),
        format!("other zones {}", super::super::ratio(sum(SOURCES[1].2))),
        format!("own zone {}", super::super::ratio(sum(SOURCES[2].2))),
    ];
    for (index, line) in lines.into_iter().enumerate() {
        area.draw(&Text::new(line, (8, 140 + 20 * index as i32), text(TEXT, &INK)))?;
    }
    Ok(())
}
