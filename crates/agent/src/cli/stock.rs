//! `shoal evict`, `pin`, `unpin` and `gc`: the store, image by image, on this node or on all.
//!
//! As with `shoal blob`, the store is opened here only when nobody answers on the agent's socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::blob::place::{Named, Place};
use super::output::{Output, bytes, count, moment, node_name, nodes};
use super::{AgentSocket, Failure};
use crate::admin::stock::{GcReport, GcRequest, Removed};
use crate::stock::{Deed, NodeStock, StockAnswer, StockReport, StockRequest};

/// Exit code for images that are not there.
const NOT_THERE: u8 = 5;
/// Nodes that are listed one by one.
const LISTED_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal evict quay.io/team/app:v2            from this node, the tag too: the
                                             next pull asks the registry
  shoal evict quay.io/team/app:v2 --cluster  from every node
  shoal evict sha256:4f2a91                  a manifest with what it names, or
                                             one blob

Pinned blobs go too. Layers that another stored image has stay. Whoever reads
a blob now can read it to its end.

Exit status: 0 done, also where nothing was there; 1 some nodes did not
answer; 2 that is no image and no digest; 5 no blob here has a digest that
begins so.")]
pub(super) struct EvictArgs {
    #[command(flatten)]
    what: WhatArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal pin registry.example.com/app:v2 --for 7days
  shoal pin registry.example.com/app:v2 --cluster

What is not in the store is not fetched: shoal prewarm --pin does that.

Exit status: 0 all of it is pinned; 1 some nodes did not answer; 2 that is no
image and no digest; 5 parts of it are not there.")]
pub(super) struct PinArgs {
    /// For so long from now (24h, 7days). Without it: until it is unpinned. What is pinned longer already stays so.
    #[arg(long = "for", value_name = "DURATION", value_parser = super::some_time)]
    time: Option<Duration>,
    #[command(flatten)]
    what: WhatArgs,
}

#[derive(Debug, Args)]
pub(super) struct UnpinArgs {
    #[command(flatten)]
    what: WhatArgs,
}

#[derive(Debug, Args)]
struct WhatArgs {
    /// Images as for a runtime (redis:7), or digests.
    #[arg(required = true, value_name = "IMAGE|DIGEST")]
    names: Vec<String>,
    /// On every node, and not only on this one.
    #[arg(long)]
    cluster: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentSocket,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal gc                       what the agent does by itself once a minute
  shoal gc --unused-for 14days   what nobody has used for two weeks goes, too")]
pub(super) struct GcArgs {
    /// Remove also what nobody has used for so long; pinned blobs stay.
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    unused_for: Option<Duration>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentSocket,
}

pub(super) async fn evict(args: &EvictArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    run(&args.what, Deed::Evict, None, out).await
}

pub(super) async fn pin(args: &PinArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    // Beyond the calendar is for ever.
    let end = args.time.map(|time| SystemTime::now().checked_add(time));
    let until =
        end.flatten().and_then(|end| end.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    run(&args.what, Deed::Pin, until, out).await
}

pub(super) async fn unpin(args: &UnpinArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    run(&args.what, Deed::Unpin, None, out).await
}

async fn run(args: &WhatArgs, deed: Deed, until: Option<u64>, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut request =
        StockRequest { deed, names: args.names.clone(), also: Vec::new(), until, cluster: args.cluster };
    let digests: Vec<Option<Named>> = args.names.iter().map(|name| named(name)).collect::<Result<_, _>>()?;
    let place = Place::find(&args.agent).await?;
    for (name, digest) in request.names.iter_mut().zip(&digests) {
        if let Some(digest) = digest {
            *name = place.resolve(digest).await?.to_string();
        }
    }
    let longer = pinned_longer(&place, &request).await?;
    let answer = place.stock(&request).await?;
    let ends = Ends { until, longer };
    if args.json {
        out.json(&Told { pinned_until: ends.until, answer: &answer })?;
    } else {
        out.bytes(text(deed, &answer, &ends).as_bytes())?;
    }
    Ok(exit_code(deed, &answer))
}

/// A digest or its beginning, which means a blob of this node; nothing where it is an image.
fn named(name: &str) -> Result<Option<Named>, Failure> {
    let is_digest = name.starts_with("sha256:") || name.starts_with("sha512:");
    is_digest.then(|| Named::parse(name)).transpose()
}

/// What became of it, for programs.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    answer: &'a StockAnswer,
    /// The end of the pin that was asked for, if it has one, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_until: Option<u64>,
}

/// When pins end, in Unix seconds.
#[derive(Debug, Default)]
struct Ends {
    /// The one that was asked for; none has no end.
    until: Option<u64>,
    /// Those that are there already and outlive it, by the places of their names; none has no end.
    longer: BTreeMap<usize, Option<u64>>,
}

/// Which names mean something on this node that is pinned for longer than the request says, by what each stands for itself.
async fn pinned_longer(
    place: &Place,
    request: &StockRequest,
) -> Result<BTreeMap<usize, Option<u64>>, Failure> {
    let mut longer = BTreeMap::new();
    let (Deed::Pin, Some(until), false) = (request.deed, request.until, request.cluster) else {
        return Ok(longer);
    };
    let look = StockRequest { deed: Deed::Look, until: None, ..request.clone() };
    let here = place.stock(&look).await?.nodes.into_iter().flat_map(|node| node.reports);
    for (at, report) in here.enumerate() {
        let Some(digest) = report.digest else { continue };
        let blob = place.blob(&digest).await?.filter(|blob| blob.pinned);
        if let Some(blob) = blob.filter(|blob| blob.pinned_until.is_none_or(|end| end > until)) {
            longer.insert(at, blob.pinned_until);
        }
    }
    Ok(longer)
}

fn exit_code(deed: Deed, answer: &StockAnswer) -> ExitCode {
    let reports = || answer.nodes.iter().flat_map(|node| &node.reports);
    if answer.nodes.iter().any(|node| node.error.is_some()) {
        ExitCode::FAILURE
    } else if deed == Deed::Pin && reports().any(|report| report.digest.is_none() || report.missing > 0) {
        ExitCode::from(NOT_THERE)
    } else {
        ExitCode::SUCCESS
    }
}

/// A paragraph for each name: what was done in all, then the nodes that are worth a line.
fn text(deed: Deed, answer: &StockAnswer, ends: &Ends) -> String {
    let mut text = String::new();
    let names = answer.nodes.iter().find(|node| node.error.is_none()).map_or(0, |node| node.reports.len());
    for at in 0..names {
        let reports: Vec<_> =
            answer.nodes.iter().filter_map(|node| Some((node, node.reports.get(at)?))).collect();
        text.push_str(&of_name(deed, ends.until, &reports));
        if let Some(end) = ends.longer.get(&at) {
            let end = end.map_or_else(|| "without an end".to_owned(), |end| format!("until {}", moment(end)));
            let _ = writeln!(text, "  it was pinned {end} already, which stays: shoal unpin ends it");
        }
    }
    let silent: Vec<_> = answer.nodes.iter().filter(|node| node.error.is_some()).collect();
    for node in silent.iter().take(LISTED_MAX) {
        let why = node.error.as_deref().unwrap_or_default();
        let _ = writeln!(text, "not done: {}: {why}", node_name(&node.node));
    }
    if silent.len() > LISTED_MAX {
        let _ = writeln!(text, "not done: {} more; --json lists them", nodes(silent.len() - LISTED_MAX));
    }
    text
}

fn of_name(deed: Deed, until: Option<u64>, reports: &[(&NodeStock, &StockReport)]) -> String {
    let Some((_, first)) = reports.first() else { return String::new() };
    let done = match (deed, until) {
        (Deed::Look, _) => "here".to_owned(),
        (Deed::Evict, _) => "removed".to_owned(),
        (Deed::Pin, None) => "pinned".to_owned(),
        (Deed::Pin, Some(until)) => format!("pinned until {}", moment(until)),
        (Deed::Unpin, _) => "unpinned".to_owned(),
    };
    let there: Vec<_> = reports.iter().filter(|(_, report)| report.blobs > 0).collect();
    let sum = |of: fn(&StockReport) -> u64| reports.iter().map(|(_, report)| of(report)).sum::<u64>();
    let everywhere = reports.len() > 1;
    let mut text = match (there.len(), everywhere) {
        (0, false) => format!("{}: not in the store", first.name),
        (0, true) => format!("{}: on none of {}", first.name, nodes(reports.len())),
        (_, false) => format!("{}: {} {done}, {}", first.name, blobs(first.blobs), bytes(first.bytes)),
        (count, true) => {
            let (all, size) = (blobs(sum(|report| report.blobs)), bytes(sum(|report| report.bytes)));
            let none = match reports.len() - count {
                0 => String::new(),
                none => format!(" ({none} had none)"),
            };
            format!("{}: {all} {done} on {count} of {}{none}, {size}", first.name, nodes(reports.len()))
        }
    };
    for (count, what) in [
        (sum(|report| report.pinned), "of it had been pinned"),
        (sum(|report| report.shared), "stayed: another image has them"),
        (sum(|report| report.runtime), "left alone: they are the container runtime's"),
    ] {
        if count > 0 {
            let _ = write!(text, "; {} {what}", blobs(count));
        }
    }
    text.push('\n');
    if deed == Deed::Pin {
        for (node, report) in reports.iter().filter(|(_, report)| report.missing > 0).take(LISTED_MAX) {
            let of = if everywhere { format!(" on {}", node_name(&node.node)) } else { String::new() };
            let _ = writeln!(
                text,
                "  {} of it missing{of}: shoal prewarm --pin fetches them",
                blobs(report.missing)
            );
        }
    }
    text
}

fn blobs(number: u64) -> String {
    count(number, "blob")
}

pub(super) async fn gc(args: &GcArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let request = GcRequest { unused_for_seconds: args.unused_for.map(|time| time.as_secs()) };
    let report = Place::find(&args.agent).await?.gc(&request).await?;
    if args.json {
        out.json(&report)?;
    } else {
        out.bytes(of_gc(&report).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of_gc(report: &GcReport) -> String {
    let GcReport { expired, partials, evicted } = report;
    let mut text = String::new();
    for (Removed { count, bytes: size }, what) in [
        (expired, "not used for long"),
        (partials, "received in part and given up"),
        (evicted, "evicted to make room"),
    ] {
        if *count > 0 {
            let _ = writeln!(text, "{} {what}: {} freed", blobs(*count), bytes(*size));
        }
    }
    if text.is_empty() {
        "nothing to remove: what is left is in use, pinned, or not due\n".into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
