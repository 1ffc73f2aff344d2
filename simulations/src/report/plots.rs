//! Plots as SVG: completion curves, who sent what, progress of all nodes.
//!
//! Invariant: they stay readable and small whatever the number of nodes: nodes are binned, curves are thinned.

mod completion;
mod progress;
mod traffic;

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub use completion::completion;
pub use progress::progress;
pub use traffic::traffic;

/// Why a plot could not be drawn: its area is too small for its labels. Nothing to retry.
pub type PlotError = DrawingAreaErrorKind<io::Error>;

type Area<'b> = DrawingArea<SVGBackend<'b>, Shift>;

/// Width of every plot, pixels: what a page on GitHub shows without scaling.
const WIDTH: u32 = 840;
/// Height of every plot, pixels.
const HEIGHT: u32 = 400;
/// Width of the legend on the right, pixels.
const LEGEND_WIDTH: i32 = 150;
/// Most points of a curve, rows and columns of a picture. More than the eye tells apart, and all a small file holds.
const BINS_MAX: usize = 200;
/// Letters of titles and of everything else, pixels.
const TITLE: u32 = 17;
const TEXT: u32 = 13;

const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
/// Colours that colour-blind readers tell apart (Okabe and Ito, 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PINK: RGBColor = RGBColor(204, 121, 167);
const GREY: RGBColor = RGBColor(130, 130, 130);
const RED: RGBColor = RGBColor(213, 94, 0);

/// Draws on a white page with a title, with the place for a legend split off.
fn page(
    title: &str,
    draw: impl FnOnce(&Area<'_>, &Area<'_>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let centred = text(TITLE, &INK).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(title.to_owned(), ((WIDTH as i32) / 2, 12), centred))?;
        let (_, below) = root.split_vertically(36);
        let (chart, legend) = below.split_horizontally(WIDTH as i32 - LEGEND_WIDTH);
        draw(&chart, &legend)?;
        root.present()?;
    }
    Ok(svg)
}

fn text(size: u32, colour: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(colour)
}

/// A line of a legend: its colour and what it stands for.
struct Entry {
    colour: RGBColor,
    label: String,
    is_line: bool,
}

fn legend(area: &Area<'_>, entries: &[Entry]) -> Result<(), PlotError> {
    for (index, entry) in entries.iter().enumerate() {
        let y = 24 + 24 * index as i32;
        if entry.is_line {
            area.draw(&PathElement::new([(4, y), (26, y)], entry.colour.stroke_width(3)))?;
        } else {
            area.draw(&Rectangle::new([(8, y - 7), (22, y + 7)], entry.colour.filled()))?;
        }
        let left = text(TEXT, &INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(entry.label.clone(), (32, y), left))?;
    }
    Ok(())
}

/// A dashed vertical line with its name above it, in pixels of the area.
fn dashed(
    area: &Area<'_>,
    (x, top, bottom): (i32, i32, i32),
    colour: &RGBColor,
    name: &str,
) -> Result<(), PlotError> {
    let mut y = top;
    while y < bottom {
        area.draw(&PathElement::new([(x, y), (x, (y + 6).min(bottom))], colour.stroke_width(2)))?;
        y += 11;
    }
    let above = text(TEXT, &INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    area.draw(&Text::new(name.to_owned(), (x, top - 4), above))
}

/// Colour of a system.
fn colour(system: &str) -> RGBColor {
    match system {
        "shoal" => BLUE,
        "upstream" => GREY,
        "spegel" => ORANGE,
        "dragonfly" => GREEN,
        "kraken" => PINK,
        _ => RED,
    }
}

/// A number on an axis: no more digits than it has.
fn tick(value: &f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded >= 1000.0 { super::count(rounded as u64) } else { format!("{rounded}") }
}

/// The bounds of at most `bins` ranges that cover `0..n`.
fn ranges(n: usize, bins: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let bins = bins.min(n).max(1);
    (0..bins).map(move |bin| bin * n / bins..(bin + 1) * n / bins)
}

#[cfg(test)]
mod tests {
    use super::{PlotError, completion, progress, ranges, traffic};
    use crate::outcome::Outcome;
    use crate::report::samples;

    /// What a page of the document carries without getting slow, bytes.
    const SVG_BYTES_MAX: usize = 60_000;

    fn all(outcomes: &[Outcome]) -> Result<[String; 5], PlotError> {
        let upstream = outcomes.get(1).unwrap_or(&outcomes[0]);
        Ok([
            completion(outcomes)?,
            completion(&outcomes[..1])?,
            traffic(&outcomes[0])?,
            traffic(upstream)?,
            progress(&outcomes[0])?,
        ])
    }

    #[test]
    fn plots_are_small_and_the_same_for_the_same_data() {
        for nodes in [3, 1000, 10_000] {
            let outcomes = samples::outcomes(nodes);
            let (once, again) = (all(&outcomes).unwrap(), all(&outcomes).unwrap());
            assert!(once == again, "{nodes} nodes: two drawings differ");
            for svg in &once {
                assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{nodes} nodes");
                assert!(svg.len() < SVG_BYTES_MAX, "{nodes} nodes: {} bytes", svg.len());
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{nodes} nodes");
            }
        }
    }

    #[test]
    fn there_is_a_plot_of_nothing() {
        let nothing = Outcome { scenario: "none".into(), system: "shoal".into(), ..Outcome::default() };
        all(&[nothing]).unwrap();
        let mut never = samples::outcomes(5);
        for node in never.iter_mut().flat_map(|outcome| &mut outcome.nodes) {
            node.whole_s = None;
        }
        assert!(all(&never).unwrap().iter().all(|svg| !svg.contains("NaN")));
    }

    #[test]
    fn ranges_cover_everything_once() {
        for (n, bins) in [(0, 5), (3, 5), (5, 5), (12, 5), (1000, 200)] {
            let all: Vec<usize> = ranges(n, bins).flatten().collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n} in {bins}");
        }
    }
}
