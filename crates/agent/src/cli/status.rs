//! `shoal status`: the agent at a glance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::output::{Align, Output, Table, bytes, count, percent, seconds};
use super::{AgentSocket, Failure};
use crate::admin::status::{LimitStatus, OTHER, Status, StoreStatus};
use crate::store_health::{Reason, StoreTrouble};
use crate::upstream::{SourceState, SourceStatus};

/// Registries that stand in one line. Clients can name any number of them.
const NAMES_MAX: usize = 5;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  shoal status --json | jq .served_bytes")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &StatusArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let status = args.agent.client()?.status().await?;
    if args.json {
        out.json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    out.bytes(summary(&status).as_bytes())?;
    let flights = flights(&status);
    if !flights.is_empty() {
        out.line(format_args!(""))?;
        out.table(&flights)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each thing that there is to know.
pub(super) fn summary(status: &Status) -> String {
    let mut text =
        format!("shoal {}, process {}, up {}\n", status.version, status.pid, seconds(status.uptime_seconds));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<10} {value}\n"));
    line(
        "listening",
        format!("{} ({})", status.listeners.join(", "), count(status.connections, "connection")),
    );
    line("store", store(status));
    line("served", shares(&status.served_bytes));
    line("requests", requests(status));
    line("upstream", upstream(status));
    if status.members > 0 {
        line("swarm", swarm(status));
    }
    if !status.limits.is_empty() {
        line("limits", status.limits.iter().map(limit).collect::<Vec<_>>().join(", "));
    }
    if !status.other_secrets.is_empty() {
        let at = status.other_secrets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        line("refused", format!("another secret than this agent's: {at} (in the last ten minutes)"));
    }
    // What several are called by is said once.
    let unwell: BTreeSet<String> = status.sources.iter().filter_map(unwell).collect();
    if !unwell.is_empty() {
        line("unwell", listed(&Vec::from_iter(unwell)));
    }
    if status.verify_failures > 0 {
        line(
            "wrong",
            format!("blobs that did not match their digest, named in the log: {}", status.verify_failures),
        );
    }
    text
}

fn store(status: &Status) -> String {
    let store = &status.store;
    let cap = store
        .capacity
        .map_or_else(String::new, |cap| format!(" of {} ({})", bytes(cap), percent(store.bytes, cap)));
    let mut text = format!(
        "{}, {}{cap}, {} free on the disk",
        count(store.blobs, "blob"),
        bytes(store.bytes),
        bytes(store.disk_free)
    );
    if store.partials > 0 {
        let _ = write!(text, ", {} half-received ({})", store.partials, bytes(store.partial_bytes));
    }
    if store.evicted + store.expired > 0 {
        let _ = write!(text, ", {} evicted, {} expired", store.evicted, store.expired);
    }
    if store.pinned > 0 {
        let _ = write!(text, ", {} pinned", bytes(store.pinned_bytes));
    }
    match &store.trouble {
        Some(trouble) => {
            let _ = write!(text, "\n{:13}{}", "", in_trouble(store, trouble));
        }
        None if store.degraded => {
            text.push_str("; CANNOT BE USED: pulls go straight upstream, the log says why")
        }
        None => {}
    }
    text
}

/// Why blobs go past the store, and what would help.
pub(in crate::cli) fn in_trouble(store: &StoreStatus, trouble: &StoreTrouble) -> String {
    let needed =
        trouble.needed.map_or_else(String::new, |needed| format!(", a blob needs {}", bytes(needed)));
    let past = "what finds no room goes straight upstream";
    if let Some((blob, capacity)) = store.larger_than_all() {
        let (blob, capacity) = (bytes(blob), bytes(capacity));
        return format!(
            "TOO SMALL: a blob of {blob} is larger than store.capacity ({capacity}): {past} (raise store.capacity)"
        );
    }
    match (trouble.reason, store.capacity) {
        (Reason::Capacity, Some(capacity)) => {
            let full =
                format!("FULL: {} of {} used", bytes(store.bytes + store.partial_bytes), bytes(capacity));
            let of_it = match store.pinned_bytes {
                0 => String::new(),
                all if all >= store.bytes => ", all of it pinned".to_owned(),
                part => format!(", {} of it pinned", bytes(part)),
            };
            format!("{full}{of_it}{needed}: {past} (raise store.capacity{})", or_unpin(store))
        }
        (Reason::Capacity | Reason::DiskFull, _) => {
            format!(
                "FULL: the disk has {} free{needed}: {past} (free space, or lower store.disk_free_min)",
                bytes(store.disk_free)
            )
        }
        (Reason::DiskError, _) => format!("CANNOT BE USED: {}; pulls go straight upstream", trouble.error),
    }
}

fn or_unpin(store: &StoreStatus) -> &'static str {
    if store.pinned > 0 { ", or unpin" } else { "" }
}

/// A limit, and whether it was met.
fn limit(limit: &LimitStatus) -> String {
    let LimitStatus { key, bytes_per_second, waited_percent, .. } = limit;
    let rate = format!("{key} {}/s", bytes(*bytes_per_second));
    match waited_percent {
        0 => format!("{rate} (not reached in the last minute)"),
        percent => format!("{rate} (held transfers back for {percent} % of the last minute)"),
    }
}

/// The first few of some things in one line, and how many more there are.
pub(in crate::cli) fn listed(things: &[String]) -> String {
    let shown = things[..things.len().min(NAMES_MAX)].join(", ");
    match things.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn unwell(source: &SourceStatus) -> Option<String> {
    let name = if source.name == OTHER { &source.endpoint } else { &source.name };
    match source.state {
        SourceState::Well => None,
        SourceState::LeftAlone { seconds } => {
            Some(format!("{name} does not answer and is left alone for {seconds} s"))
        }
        SourceState::Limited { seconds } => Some(format!("{name} limits this node for another {seconds} s")),
    }
}

fn requests(status: &Status) -> String {
    let hits: u64 = status.hits.values().sum();
    let all = hits + status.misses;
    if all == 0 {
        return "none yet".into();
    }
    format!(
        "{hits} answered from this node, {} had to be fetched ({} hits)",
        status.misses,
        percent(hits, all)
    )
}

fn upstream(status: &Status) -> String {
    let received: u64 = status.upstream_bytes.values().sum();
    let served: u64 = status.served_bytes.values().sum();
    let mut text = format!("{} received for {} served", bytes(received), bytes(served));
    if status.saved_bytes > 0 {
        let _ =
            write!(text, ", {} saved ({})", bytes(status.saved_bytes), percent(status.saved_bytes, served));
    }
    let mut registries: Vec<(&String, u64)> =
        status.upstream_bytes.iter().map(|(name, n)| (name, *n)).filter(|(_, n)| *n > 0).collect();
    if !registries.is_empty() {
        registries.sort_by_key(|(_, n)| Reverse(*n));
        let words = |name: &str| if name == OTHER { "all others".to_owned() } else { name.to_owned() };
        let registries: Vec<String> =
            registries.into_iter().map(|(name, n)| format!("{} {}", words(name), bytes(n))).collect();
        let _ = write!(text, ": {}", listed(&registries));
    }
    if status.upstream_resumes > 0 {
        let _ = write!(text, "; transfers that broke and went on: {}", status.upstream_resumes);
    }
    text
}

fn swarm(status: &Status) -> String {
    let others = status.members.saturating_sub(1);
    let (received, sent) = (bytes(status.peer_received_bytes), bytes(status.peer_sent_bytes));
    let others = if others == 1 { "1 other member".into() } else { format!("{others} other members") };
    format!("{others}; {received} received from them instead of from upstream, {sent} sent to them")
}

/// A sum and what it is made of, the largest first.
fn shares(parts: &BTreeMap<String, u64>) -> String {
    let sum: u64 = parts.values().sum();
    let mut parts: Vec<(&String, u64)> =
        parts.iter().map(|(name, n)| (name, *n)).filter(|(_, n)| *n > 0).collect();
    parts.sort_by_key(|(_, n)| Reverse(*n));
    // What was not here yet may have come from upstream or from other members.
    let words = |name: &str| if name == "upstream" { "as it arrived".to_owned() } else { name.to_owned() };
    let shares: Vec<String> =
        parts.iter().map(|(name, n)| format!("{} {}", percent(*n, sum), words(name))).collect();
    if shares.is_empty() { bytes(sum) } else { format!("{}: {}", bytes(sum), shares.join(", ")) }
}

pub(super) fn flights(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("RECEIVING", Align::Left),
        ("SIZE", Align::Right),
        ("DONE", Align::Right),
        ("CLIENTS", Align::Right),
        ("TRANSFERS", Align::Right),
        ("PHASE", Align::Left),
    ]);
    for flight in &status.flights {
        table.row([
            flight.digest.to_string(),
            flight.size.map_or_else(|| "?".to_owned(), bytes),
            flight.size.map_or_else(|| bytes(flight.received), |size| percent(flight.received, size)),
            flight.clients.to_string(),
            flight.transfers.to_string(),
            flight.phase.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(more: serde_json::Value) -> Status {
        let mut value = json!({
            "version": "0.1.0", "instance": "00", "pid": 42, "uptime_seconds": 60, "listeners": [], "connections": 0,
            "store": {
                "degraded": false, "blobs": 1, "bytes": 8_000_000, "partials": 0, "partial_bytes": 0, "capacity": 20_000_000,
                "disk_free": 34_000_000_000_u64, "evicted": 0, "expired": 0
            },
            "flights": [], "served_bytes": {}, "hits": {}, "misses": 0, "upstream_bytes": {}, "upstream_resumes": 0,
            "verify_failures": 0
        });
        for (key, changed) in more.as_object().unwrap() {
            value[key] = changed.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn line(status: &Status, name: &str) -> String {
        let text = summary(status);
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
        line.trim_start().to_owned()
    }

    /// Whatever clients make up, a line is one that can be read.
    #[test]
    fn names_that_clients_make_up_are_counted_and_not_told() {
        let made_up = (0..40).map(|n| (format!("n{n}.invalid"), 0));
        let real = (0..7).map(|n| (format!("r{n}.test"), 1000 * (n + 1)));
        let received: BTreeMap<String, u64> = made_up.chain(real).chain([(OTHER.to_owned(), 6500)]).collect();
        let status = status(json!({
            "upstream_bytes": received,
            "sources": (0..9)
                .map(|n| json!({
                    "name": OTHER, "endpoint": format!("https://n{}.invalid/", n / 2), "state": "left-alone", "seconds": 5
                }))
                .collect::<Vec<_>>(),
        }));
        let said = line(&status, "upstream");
        let of_each =
            "r6.test 7.0 kB, all others 6.5 kB, r5.test 6.0 kB, r4.test 5.0 kB, r3.test 4.0 kB and 3 more";
        assert!(said.ends_with(of_each), "{said}");
        let said = line(&status, "unwell");
        assert_eq!(said.matches("https://n1.invalid/ does not answer").count(), 1, "{said}");
        assert_eq!(said.split(", ").count(), 5, "{said}");
    }

    #[test]
    fn a_blob_that_no_room_would_do_for() {
        let trouble = |needed: u64| {
            let mut status = status(json!({}));
            status.store.trouble = Some(StoreTrouble {
                reason: Reason::Capacity,
                error: "no room".into(),
                needed: Some(needed),
                seconds_ago: 1,
            });
            in_trouble(&status.store, status.store.trouble.as_ref().unwrap())
        };
        let said = trouble(150_000_000);
        assert!(said.contains("150.0 MB is larger than store.capacity (20.0 MB)"), "{said}");
        let said = trouble(15_000_000);
        assert!(said.starts_with("FULL: 8.0 MB of 20.0 MB used, a blob needs 15.0 MB"), "{said}");
    }
}
