//! `docs/SIMULATION.md`: the written part, and in it the tables and plots of all scenarios.
//!
//! Invariant: a function of the chapters; what is in the document and not written by hand comes from an outcome. The written part is in
//! `document/*.md`; its links are written relative to that folder, so that they can be checked there, and are
//! made relative to `docs/`.

use std::fmt::Write as _;

use crate::bound::Bound;
use crate::outcome::Outcome;
use crate::report::plots::{self, PlotError};
use crate::report::{Figures, bytes, count, judge, rows, seconds};
use crate::scenario::Scenario;
use crate::scenario::schema::Plot;

/// The frame. `<!-- name -->` on a line of its own is where a part goes.
const TEMPLATE: &str = include_str!("document/template.md");
/// Parts that are written by hand, by the name of their place in the template.
const WRITTEN: [(&str, &str); 6] = [
    ("model", include_str!("document/model.md")),
    ("bound", include_str!("document/bound.md")),
    ("baselines", include_str!("document/baselines.md")),
    ("real", include_str!("document/real.md")),
    ("decisions", include_str!("document/decisions.md")),
    ("tried", include_str!("document/tried.md")),
];
/// What leads from the written parts to the root of the checkout.
const TO_ROOT: &str = "../../../";
/// Folder of the plots, beside the document.
pub const PLOTS: &str = "simulation";

/// A scenario and what came of it: shoal first, then the baselines.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// What was run.
    pub scenario: Scenario,
    /// Not empty.
    pub outcomes: Vec<Outcome>,
}

/// The document and its plots.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `SIMULATION.md`.
    pub markdown: String,
    /// Names and contents of the files in [`PLOTS`].
    pub plots: Vec<(String, String)>,
}

/// Writes the document.
pub fn render(chapters: &[Chapter]) -> Result<Document, PlotError> {
    let mut plots = Vec::new();
    let mut scenarios = String::new();
    for chapter in chapters {
        scenarios.push_str(&chapter_text(chapter, &mut plots)?);
    }
    let mut parts: Vec<(&str, String)> =
        WRITTEN.iter().map(|(name, text)| (*name, linked_from_docs(text))).collect();
    parts.push(("figures", figures(chapters)));
    parts.push(("scenarios", scenarios));
    let mut markdown = linked_from_docs(TEMPLATE);
    for (name, text) in parts {
        markdown = markdown.replace(&format!("<!-- {name} -->"), text.trim());
    }
    Ok(Document { markdown, plots })
}

fn linked_from_docs(text: &str) -> String {
    text.replace(&format!("]({TO_ROOT}docs/"), "](").replace(&format!("]({TO_ROOT}"), "](../")
}

/// The table of goals: one line for each goal of each run of shoal.
fn figures(chapters: &[Chapter]) -> String {
    let mut text =
        "| run | figure | goal | reached | | distance |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for chapter in chapters {
        let Some(outcome) = chapter.outcomes.first() else { continue };
        let (name, run) = (&chapter.scenario.name, Figures::of(outcome));
        if chapter.scenario.bytes() == 0 {
            let control = format!("{}/s", bytes(run.control_rate));
            let joining = run.control_joining.map(|(sent, within_s)| {
                ("control per node while joining", format!("{} in {}", bytes(sent), seconds(within_s)))
            });
            let memory = ("memory of an engine", bytes(run.engine_bytes as f64));
            for (figure, found) in [("control per node", control), memory].into_iter().chain(joining) {
                let _ = writeln!(text, "| {name} | {figure} | stated | {found} | | |");
            }
        }
        for verdict in judge(&chapter.scenario.goals, &run) {
            let margin = match verdict.margin_percent {
                Some(margin) if margin >= 0.0 => format!("{margin:.1} % better"),
                Some(margin) => format!("{:.1} % short", -margin),
                None => String::new(),
            };
            let mark = if verdict.is_reached { "yes" } else { "**no**" };
            let line = [name, verdict.figure, &verdict.goal, &verdict.found, mark, &margin];
            let _ = writeln!(text, "| {} |", line.join(" | "));
        }
    }
    text
}

fn chapter_text(chapter: &Chapter, plots: &mut Vec<(String, String)>) -> Result<String, PlotError> {
    let Chapter { scenario, outcomes } = chapter;
    let mut text = format!("### {}\n\n{}\n\n", scenario.name, scenario.description);
    let _ = writeln!(text, "{}\n", setting(scenario));
    let runs: Vec<Figures> = outcomes.iter().map(Figures::of).collect();
    let _ = writeln!(
        text,
        "| | {} |",
        runs.iter().map(|run| run.system.as_str()).collect::<Vec<_>>().join(" | ")
    );
    let _ = writeln!(text, "| ---{} |", " | ---:".repeat(runs.len()));
    for row in rows(&runs) {
        let _ = writeln!(text, "| {} | {} |", row.label, row.cells.join(" | "));
    }
    for run in &runs {
        for violation in &run.violations {
            let _ = writeln!(text, "\nBroken by {}: {violation}.", run.system);
        }
    }
    for plot in &scenario.plots {
        let drawn = match (plot, outcomes.first()) {
            (Plot::Completion, _) => [("completion", plots::completion(outcomes)?)],
            (Plot::Traffic, Some(outcome)) => [("traffic", plots::traffic(outcome)?)],
            (Plot::Progress, Some(outcome)) => [("progress", plots::progress(outcome)?)],
            (_, None) => continue,
        };
        for (kind, svg) in drawn {
            let file = format!("{}-{kind}.svg", scenario.name);
            let _ = writeln!(text, "\n![{kind} of {}]({PLOTS}/{file})", scenario.name);
            plots.push((file, svg));
        }
    }
    text.push('\n');
    Ok(text)
}

/// The scenario in one line, and its bound.
fn setting(scenario: &Scenario) -> String {
    let bound = Bound::of(scenario);
    let mut text = format!("{} nodes", count(scenario.nodes as u64));
    if scenario.bytes() > 0 {
        let layers = match scenario.layers.len() {
            1 => "one layer".to_owned(),
            n => format!("{n} layers"),
        };
        let _ = write!(
            text,
            ", {layers}, {}; the bound is {} ({}, and {} of delays)",
            bytes(scenario.bytes() as f64),
            seconds(bound.total_s()),
            bound.limit(),
            seconds(bound.delays_s)
        );
    }
    let _ = write!(text, "; seed {}.", scenario.seed);
    text
}

#[cfg(test)]
mod tests {
    use super::{Chapter, render};
    use crate::report::samples;
    use crate::scenario::Scenario;

    #[test]
    fn every_part_is_in_the_document_and_every_link_has_its_plot() {
        let mut scenarios = Scenario::load("layers", &[]).unwrap();
        scenarios.truncate(2);
        let chapters: Vec<Chapter> = scenarios
            .into_iter()
            .map(|scenario| Chapter { scenario, outcomes: samples::outcomes(50) })
            .collect();
        let document = render(&chapters).unwrap();
        assert_eq!(document, render(&chapters).unwrap());
        let text = &document.markdown;
        assert!(!text.contains("<!--"), "a place is empty");
        assert!(!text.contains("](../../"), "a link is still that of the template");
        assert_eq!(document.plots.len(), 6);
        for (file, _) in &document.plots {
            assert!(text.contains(&format!("](simulation/{file})")), "{file}");
        }
        assert!(text.contains("| layers-100MiB | p99.9 | <= 1.10 | "), "{text}");
        assert!(text.contains("| | shoal | upstream | spegel | dragonfly | kraken |"), "{text}");
    }
}
