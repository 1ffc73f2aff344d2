//! Completion curves: the share of the healthy nodes that are whole, over time since they asked.

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{Area, BINS_MAX, Entry, FAINT, PlotError, TEXT, colour, dashed, legend, page, text, tick};
use crate::outcome::Outcome;
use crate::report::figures::{healthy, multiple, sorted};

/// Beyond this ratio between the last and the first node, curves of a linear axis are walls.
const LINEAR_RANGE_MAX: f64 = 20.0;

/// A curve: system, points of (multiple of the bound, per cent of the nodes).
struct Curve {
    system: String,
    points: Vec<(f64, f64)>,
}

/// One curve for each outcome of a scenario, over multiples of the bound.
pub fn completion(outcomes: &[Outcome]) -> Result<String, PlotError> {
    let curves: Vec<Curve> = outcomes.iter().map(curve).collect();
    let times = || curves.iter().flat_map(|curve| curve.points.iter().map(|(x, _)| *x));
    let first = times().fold(1.0, f64::min).max(1e-3);
    let last = times().fold(1.0, f64::max);
    let title = outcomes.first().map_or("", |outcome| outcome.scenario.as_str());
    page(&format!("{title}: nodes that have the whole image"), |chart, right| {
        if last / first > LINEAR_RANGE_MAX {
            draw(chart, (first * 0.7..last * 1.3).log_scale(), (first * 0.7, last * 1.3), &curves, true)?;
        } else {
            // Curves that all end close to the bound are looked at closely.
            let begin = if last < 1.5 { first * 0.9 } else { 0.0 };
            let end = last + (last - begin) * 0.08;
            draw(chart, begin..end, (begin, end), &curves, false)?;
        }
        let entry = |curve: &Curve| Entry {
            colour: colour(&curve.system),
            label: curve.system.clone(),
            is_line: true,
        };
        legend(right, &curves.iter().map(entry).collect::<Vec<_>>())
    })
}

fn curve(outcome: &Outcome) -> Curve {
    let all = healthy(outcome).count().max(1) as f64;
    let times =
        sorted(healthy(outcome).map(|node| multiple(node, outcome.bound_s)).filter(|t| t.is_finite()));
    let share = |count: usize| count as f64 / all * 100.0;
    let mut points = Vec::new();
    let mut reached = 0.0;
    for range in super::ranges(times.len(), BINS_MAX).filter(|range| !range.is_empty()) {
        let at = times[range.end - 1];
        points.push((at, reached));
        reached = share(range.end);
        points.push((at, reached));
    }
    Curve { system: outcome.system.clone(), points }
}

fn draw<X>(
    area: &Area<'_>,
    x_axis: X,
    (begin, end): (f64, f64),
    curves: &[Curve],
    is_log: bool,
) -> Result<(), PlotError>
where
    X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_top(22)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(x_axis, 0.0..100.0)?;
    let scale = if is_log { ", log scale" } else { "" };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .x_labels(10)
        .y_labels(6)
        .x_label_formatter(&tick)
        .y_label_formatter(&|share| format!("{share:.0} %"))
        .x_desc(format!("time since the client asked, multiples of the bound{scale}"))
        .y_desc("nodes")
        .label_style(text(TEXT, &super::INK))
        .axis_desc_style(text(TEXT, &super::INK))
        .draw()?;
    // The first system is the one the page is about: it is drawn last, over the others.
    for curve in curves.iter().rev() {
        let ends_at = curve.points.last().map_or(0.0, |(_, share)| *share);
        let whole = std::iter::once((begin, 0.0)).chain(curve.points.iter().copied());
        let line = whole.chain(std::iter::once((end, ends_at)));
        let width = if curve.system == curves[0].system { 3 } else { 2 };
        chart.draw_series(LineSeries::new(line, colour(&curve.system).stroke_width(width)))?;
    }
    let (x, top) = chart.backend_coord(&(1.0, 100.0));
    let (_, bottom) = chart.backend_coord(&(1.0, 0.0));
    let (left, above) = area.get_base_pixel();
    dashed(area, (x - left, top - above, bottom - above), &super::INK, "the bound")
}
