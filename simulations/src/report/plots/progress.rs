//! The heat map: all nodes over time, coloured by how much of the image they have.
//!
//! Progress hardly ever goes back, so each shade is one polygon: all that has come that far. What does go back (a node that
//! lost its disk) is painted over it, cell by cell.

use plotters::prelude::*;

use super::{Area, BINS_MAX, FAINT, INK, PlotError, TEXT, dashed, page, ranges, text, tick};
use crate::outcome::Outcome;

/// Shades above "nothing". More are not told apart.
const SHADES: usize = 10;

/// A picture of one outcome: a row for each bin of nodes, a column for each moment.
struct Picture {
    /// Shade of each cell, 0 to [`SHADES`], by row.
    rows: Vec<Vec<usize>>,
    /// Node at which each row begins, and the end of the last.
    row_edges: Vec<f64>,
    /// Moment at which each column begins, and the end of the last; seconds.
    column_edges: Vec<f64>,
    /// Node at which each zone begins.
    zone_edges: Vec<f64>,
}

/// Progress of the nodes of one outcome, sorted by zone and by when they were whole.
pub fn progress(outcome: &Outcome) -> Result<String, PlotError> {
    let picture = picture(outcome);
    let is_together = outcome.nodes.iter().all(|node| node.asked_s == 0.0 || !node.expected);
    let bound = Some(outcome.bound_s).filter(|bound_s| is_together && *bound_s > 0.0);
    page(&format!("{}, {}: progress of the nodes", outcome.scenario, outcome.system), |area, right| {
        draw(area, &picture, bound)?;
        scale(right)
    })
}

fn picture(outcome: &Outcome) -> Picture {
    let mut order: Vec<usize> = (0..outcome.nodes.len()).collect();
    let whole_s = |node: usize| outcome.nodes[node].whole_s.unwrap_or(f64::INFINITY);
    let zone = |node: usize| outcome.nodes[node].zone;
    order.sort_by(|a, b| zone(*a).cmp(&zone(*b)).then(whole_s(*a).total_cmp(&whole_s(*b))));

    let samples: Vec<&crate::outcome::Sample> =
        ranges(outcome.samples.len(), BINS_MAX).filter_map(|range| outcome.samples[range].first()).collect();
    // The last moment gets some width too: it is the one in which everybody has everything.
    let end = outcome.samples.last().map_or(1.0, |sample| sample.at_s * 1.03).max(1e-6);
    let mut column_edges: Vec<f64> = samples.iter().map(|sample| sample.at_s).collect();
    column_edges.push(end);

    let mut picture =
        Picture { rows: Vec::new(), row_edges: vec![0.0], column_edges, zone_edges: Vec::new() };
    let mut begin = 0;
    for of_zone in order.chunk_by(|a, b| zone(*a) == zone(*b)) {
        picture.zone_edges.push(begin as f64);
        let bins = (BINS_MAX * of_zone.len()).div_ceil(order.len());
        for range in ranges(of_zone.len(), bins) {
            let nodes = &of_zone[range.clone()];
            picture.rows.push(samples.iter().map(|sample| shade(nodes, &sample.progress)).collect());
            picture.row_edges.push((begin + range.end) as f64);
        }
        begin += of_zone.len();
    }
    picture
}

/// The mean of some nodes. The last shade is theirs only when all of them have everything.
fn shade(nodes: &[usize], progress: &[u8]) -> usize {
    let of = |node: &usize| usize::from(progress.get(*node).copied().unwrap_or(0));
    let sum: usize = nodes.iter().map(of).sum();
    sum * SHADES / (255 * nodes.len()).max(1)
}

fn draw(area: &Area<'_>, picture: &Picture, bound: Option<f64>) -> Result<(), PlotError> {
    let end = *picture.column_edges.last().unwrap_or(&1.0);
    let nodes = picture.row_edges.last().copied().unwrap_or(1.0).max(1.0);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_top(22)
        .x_label_area_size(46)
        .y_label_area_size(66)
        .build_cartesian_2d(0.0..end, 0.0..nodes)?;
    for shade in 1..=SHADES {
        chart.draw_series([Polygon::new(outline(picture, shade, end), colour(shade).filled())])?;
    }
    chart.draw_series(fallen_back(picture))?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .x_desc("time since the beginning, seconds")
        .y_desc(if picture.zone_edges.len() > 1 {
            "nodes, by zone and by when they were whole"
        } else {
            "nodes, by when they were whole"
        })
        .label_style(text(TEXT, &INK))
        .axis_desc_style(text(TEXT, &INK))
        .draw()?;
    for edge in picture.zone_edges.iter().skip(1) {
        chart.draw_series([PathElement::new([(0.0, *edge), (end, *edge)], WHITE.stroke_width(2))])?;
    }
    let Some(bound) = bound.filter(|bound| *bound <= end) else { return Ok(()) };
    let (x, top) = chart.backend_coord(&(bound, nodes));
    let (_, bottom) = chart.backend_coord(&(bound, 0.0));
    let (left, above) = area.get_base_pixel();
    dashed(area, (x - left, top - above, bottom - above), &super::ORANGE, "the bound")
}

/// All cells from the first one of each row that has come as far as a shade.
fn outline(picture: &Picture, shade: usize, end: f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = vec![(end, 0.0)];
    for (row, edges) in picture.rows.iter().zip(picture.row_edges.windows(2)) {
        let begin =
            row.iter().position(|cell| *cell >= shade).map_or(end, |column| picture.column_edges[column]);
        match points.last_mut() {
            Some(last) if points_on(last.0, begin) && last.1 == edges[0] => last.1 = edges[1],
            _ => points.extend([(begin, edges[0]), (begin, edges[1])]),
        }
    }
    let top = picture.row_edges.last().copied().unwrap_or(0.0);
    points.push((end, top));
    points
}

fn points_on(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12
}

/// Cells that have less than an earlier cell of their row, joined where they are alike.
fn fallen_back(picture: &Picture) -> Vec<Rectangle<(f64, f64)>> {
    let mut cells = Vec::new();
    for (row, edges) in picture.rows.iter().zip(picture.row_edges.windows(2)) {
        let (mut column, mut highest) = (0, 0);
        while column < row.len() {
            let run = row[column..].iter().take_while(|cell| **cell == row[column]).count();
            highest = highest.max(row[column]);
            if row[column] < highest {
                let from = (picture.column_edges[column], edges[0]);
                let to = (picture.column_edges[column + run], edges[1]);
                cells.push(Rectangle::new([from, to], colour(row[column]).filled()));
            }
            column += run;
        }
    }
    cells
}

/// From nearly white over blue to nearly black; everything is green, so that the end is seen.
fn colour(shade: usize) -> RGBColor {
    const LIGHT: (f64, f64, f64) = (222.0, 235.0, 247.0);
    const DARK: (f64, f64, f64) = (8.0, 48.0, 107.0);
    match shade {
        0 => WHITE,
        SHADES => super::GREEN,
        shade => {
            let way = (shade - 1) as f64 / (SHADES - 2) as f64;
            let mix = |from: f64, to: f64| (from + (to - from) * way).round() as u8;
            RGBColor(mix(LIGHT.0, DARK.0), mix(LIGHT.1, DARK.1), mix(LIGHT.2, DARK.2))
        }
    }
}

fn scale(area: &Area<'_>) -> Result<(), PlotError> {
    let (left, top, width, height) = (10, 40, 18, 22);
    area.draw(&Text::new("share received", (left, 14), text(TEXT, &INK)))?;
    for shade in 0..=SHADES {
        let y = top + height * (SHADES - shade) as i32;
        area.draw(&Rectangle::new([(left, y), (left + width, y + height)], colour(shade).filled()))?;
        area.draw(&Rectangle::new([(left, y), (left + width, y + height)], FAINT.stroke_width(1)))?;
        let label = match shade {
            0 => "less than 10 %".to_owned(),
            SHADES => "everything".to_owned(),
            shade => format!("{} %", shade * 100 / SHADES),
        };
        area.draw(&Text::new(label, (left + width + 8, y + 5), text(TEXT, &INK)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Picture, fallen_back, outline, shade};

    #[test]
    fn a_shade_is_one_outline_and_what_falls_back_is_painted_over() {
        let picture = Picture {
            rows: vec![vec![0, 3, 3, 3], vec![0, 5, 1, 1], vec![0, 0, 0, 4]],
            row_edges: vec![0.0, 1.0, 2.0, 3.0],
            column_edges: vec![0.0, 1.0, 2.0, 3.0, 4.0],
            zone_edges: vec![0.0],
        };
        // Two rows begin at the same moment and share an edge.
        let expected = [(4.0, 0.0), (1.0, 0.0), (1.0, 2.0), (3.0, 2.0), (3.0, 3.0), (4.0, 3.0)];
        assert_eq!(outline(&picture, 3, 4.0), expected);
        assert_eq!(fallen_back(&picture).len(), 1);
    }

    #[test]
    fn everything_is_only_when_all_have_everything() {
        assert_eq!(shade(&[0, 1], &[255, 255]), 10);
        assert_eq!(shade(&[0, 1], &[255, 254]), 9);
        assert_eq!(shade(&[0, 1], &[0, 25]), 0);
    }
}
