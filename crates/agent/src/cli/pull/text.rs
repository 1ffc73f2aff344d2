//! A pull in words: its requests, and what took the time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use shoal_engine::Digest;

use super::{Held, Report, Share, Sourced};
use crate::cli::output::{Align, Table, bytes, digits, member_name, percent, wrapped};
use crate::pull::{Step, What};

/// Sources of one blob that are named.
const SOURCES_MAX: usize = 3;
/// Part of a pull's time from which on something is worth a word.
const MATTERS: f64 = 0.3;

/// So long the tag and the manifests may take without a word, milliseconds.
const NAMING_MS_MIN: f64 = 200.0;

/// What the lines of text go on with where a terminal has no room for them.
const INDENT: usize = 2;

/// All of it, for a terminal of that width if it is for one.
pub(super) fn of(report: &Report, width: Option<usize>) -> String {
    let full = table(report, Digest::short);
    let table = if full.fits(width) { full } else { table(report, digits) };
    let heading = wrapped(&format!("{} through {}", report.image, report.mirror), width, INDENT);
    format!("{heading}\n{}\n{}", table.fitted(width), wrapped(&sum(report), width, INDENT))
}

/// What it comes to.
fn sum(report: &Report) -> String {
    let mut text = String::new();
    let rate = rate(report.bytes, report.seconds * 1e3);
    let _ = writeln!(text, "{} in {}, {rate}", bytes(report.bytes), time(report.seconds * 1e3));
    text.push_str(&by_source(report));
    text.push_str(&where_it_went(report));
    for Held { limit, percent } in &report.limits {
        let _ =
            writeln!(text, "limited by this node's {limit}: something waited for it {percent} % of the time");
    }
    if let Some(note) = &report.note {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(store) = &report.store {
        let _ = writeln!(text, "this node's store is {store}");
    }
    text
}

fn table(report: &Report, digest: fn(&Digest) -> String) -> Table {
    let mut table = Table::new(&[
        ("REQUEST", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("BEGUN", Align::Right),
        ("WAITED", Align::Right),
        ("RECEIVED", Align::Right),
        ("RATE", Align::Right),
        ("FROM", Align::Left),
    ]);
    for Sourced { step, from } in &report.steps {
        let receiving = step.done_ms - step.first_ms;
        table.row([
            name(step.what).to_owned(),
            digest(&step.digest),
            if step.what == What::Tag { "-".into() } else { bytes(step.bytes) },
            time(step.begun_ms),
            time(step.first_ms - step.begun_ms),
            time(receiving),
            if step.what == What::Tag { "-".into() } else { rate(step.bytes, step.done_ms - step.begun_ms) },
            sources(from),
        ]);
    }
    table
}

fn name(what: What) -> &'static str {
    match what {
        What::Tag => "tag",
        What::Index => "index",
        What::Manifest => "manifest",
        What::Config => "config",
        What::Layer => "layer",
    }
}

fn sources(from: &[Share]) -> String {
    let mut from = from.to_vec();
    from.sort_by_key(|source| Reverse(source.bytes));
    let named = from.iter().take(SOURCES_MAX).map(source).collect::<Vec<_>>().join(", ");
    match from.len() {
        0 => "-".into(),
        count if count > SOURCES_MAX => format!("{named} and {} more", count - SOURCES_MAX),
        _ => named,
    }
}

fn source(share: &Share) -> String {
    if share.is_member { member_name(&share.source) } else { share.source.clone() }
}

fn by_source(report: &Report) -> String {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for share in report.steps.iter().flat_map(|sourced| &sourced.from) {
        let whose = if share.is_member { "other members".to_owned() } else { share.source.clone() };
        *sums.entry(whose).or_default() += share.bytes;
    }
    let all = sums.values().sum();
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let parts: Vec<_> = sums
        .iter()
        .map(|(whose, part)| match whose.as_str() {
            "store" => format!("{} were here already ({})", bytes(*part), percent(*part, all)),
            _ => format!("{} from {whose} ({})", bytes(*part), percent(*part, all)),
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!("{}\n", parts.join(", ")) }
}

/// What took most of the time, for a person who wonders.
fn where_it_went(report: &Report) -> String {
    let total = report.seconds * 1e3;
    let is_blob = |step: &Step| matches!(step.what, What::Config | What::Layer);
    let of = |what: &dyn Fn(&Step) -> bool| {
        report.steps.iter().map(|s| &s.step).filter(|s| what(s)).collect::<Vec<_>>()
    };
    let mut text = String::new();
    let naming: f64 = of(&|step| !is_blob(step)).iter().map(|step| step.done_ms - step.begun_ms).sum();
    if naming > MATTERS * total && naming > NAMING_MS_MIN {
        let _ = writeln!(
            text,
            "{} of it were the tag and the manifests: a registry that answers slowly, or far away",
            time(naming)
        );
    }
    let blobs = of(&is_blob);
    let Some(last) = blobs.iter().max_by(|a, b| a.done_ms.total_cmp(&b.done_ms)) else { return text };
    let (waited, received) = (last.first_ms - last.begun_ms, last.done_ms - last.first_ms);
    if waited > MATTERS * total {
        let _ = writeln!(
            text,
            "the last one, {} {}, waited {} for its first byte: shoal explain {} tells for whom",
            name(last.what),
            last.digest.short(),
            time(waited),
            last.digest.short()
        );
    }
    if received > MATTERS * total && blobs.len() > 1 {
        let _ = writeln!(
            text,
            "the last one, {} {} ({} of all bytes), took {} at {}: shoal explain {} tells who sent it",
            name(last.what),
            last.digest.short(),
            percent(last.bytes, report.bytes),
            time(last.done_ms - last.begun_ms),
            rate(last.bytes, last.done_ms - last.begun_ms),
            last.digest.short()
        );
    }
    text
}

fn rate(count: u64, ms: f64) -> String {
    if ms <= 0.0 { "-".into() } else { format!("{}/s", bytes((count as f64 / ms * 1e3) as u64)) }
}

fn time(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.2} s", ms / 1e3) }
}
