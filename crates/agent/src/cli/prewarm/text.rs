//! What is said of requests to warm, in words.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_engine::Digest;

use crate::cli::output::{Align, Table, bytes, member_name, node_name, nodes, percent, seconds};
use crate::warm::{ImageState, NodeName, Phase, StandingOrder, WarmPlan, WarmStatus};

/// Nodes that are listed with their reasons; all of them are in the JSON.
const LISTED_MAX: usize = 50;

/// The first line.
pub(super) fn beginning(status: &WarmStatus) -> String {
    let what = match &status.images[..] {
        [image] => image.image.clone(),
        images => format!("{} images", images.len()),
    };
    format!("{}: {what} for {}", status.id, nodes(status.nodes))
}

/// How far it is, in one line.
pub(super) fn line(status: &WarmStatus, rate: u64) -> String {
    let mut text = counts(status);
    if status.bytes_of > 0 {
        let _ = write!(
            text,
            "; {} of {} ({})",
            bytes(status.bytes),
            bytes(status.bytes_of),
            percent(status.bytes, status.bytes_of)
        );
    }
    if rate > 0 {
        let _ = write!(text, ", {}/s", bytes(rate));
    }
    if let Some(upstream) = status.upstream_bytes.filter(|bytes| *bytes > 0) {
        let _ = write!(text, ", {} from upstream", bytes(upstream));
    }
    let left = status.bytes_of.saturating_sub(status.bytes);
    if let Some(left) = left.checked_div(rate).filter(|left| *left > 0) {
        let _ = write!(text, ", {} left", seconds(left));
    }
    text
}

/// What has become of the nodes, and of images that are not known yet.
pub(super) fn counts(status: &WarmStatus) -> String {
    let mut text = format!("{} of {} ready", status.ready, nodes(status.nodes));
    if status.failed > 0 {
        let _ = write!(text, ", {} failed", status.failed);
    }
    if !status.away.is_empty() {
        let _ = write!(text, ", {} away", status.away.len());
    }
    let of = |state| status.images.iter().filter(|image| image.state == state).count();
    let unknown = of(ImageState::Waiting) + of(ImageState::Resolving);
    if unknown > 0 && status.phase == Phase::Warming {
        let _ = write!(text, ", {} to be looked up", images(unknown));
    }
    if of(ImageState::Failed) > 0 {
        let _ = write!(text, ", {} failed", images(of(ImageState::Failed)));
    }
    text
}

/// A line for each zone, or for each node that is still at it when there are few.
pub(super) fn details(status: &WarmStatus, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    if status.zones.len() > 1 {
        let width = status.zones.iter().map(|zone| zone_name(&zone.zone).chars().count()).max().unwrap_or(0);
        let open = status.zones.iter().filter(|zone| zone.ready + zone.failed < zone.nodes);
        lines.extend(open.map(|zone| {
            let failed = if zone.failed > 0 { format!(", {} failed", zone.failed) } else { String::new() };
            format!("{:<width$}  {} of {} ready{failed}", zone_name(&zone.zone), zone.ready, zone.nodes)
        }));
    }
    let undecided = status.nodes - status.ready - status.failed;
    if undecided == status.waiting.len() && undecided < status.nodes {
        lines.extend(status.waiting.iter().map(|node| {
            let away = if status.away.contains(node) { ", which is away" } else { "" };
            format!("waiting for {}{away}", node_name(node))
        }));
    }
    lines.truncate(most);
    lines
}

/// How it ended, or how it stands: images, zones, nodes that are not ready, and the sum in the last line.
pub(super) fn report(status: &WarmStatus) -> String {
    let mut text = String::new();
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("DIGEST", Align::Left),
        ("BLOBS", Align::Right),
        ("SIZE", Align::Right),
        ("READY", Align::Right),
    ]);
    for image in &status.images {
        let digest = digest_cell(image.digest);
        let ready = format!("{}/{}", image.ready, status.nodes);
        table.row([image.image.clone(), digest, image.blobs.to_string(), bytes(image.size), ready]);
    }
    let _ = write!(text, "{table}");
    for image in &status.images {
        let error = image.error.as_deref().filter(|_| image.state == ImageState::Failed);
        remark(&mut text, &image.image, "not warmed", error);
        remark(&mut text, &image.image, "note", image.note.as_deref());
    }
    if !status.unready.is_empty() {
        let _ = write!(text, "\n{}", unready(status));
        if let Some(more) = more(status.failed) {
            let _ = writeln!(text, "{more}");
        }
    }
    let _ = writeln!(text, "\n{}", sum(status));
    if let Some(agent) = &status.agent {
        let _ = writeln!(text, "asked of {}", node_name(agent));
    }
    text
}

fn unready(status: &WarmStatus) -> Table {
    let columns = ["NOT READY", "ADDRESS", "ZONE", "IMAGE", "WHY"];
    let mut table = Table::new(&columns.map(|column| (column, Align::Left)));
    for unready in status.unready.iter().take(LISTED_MAX) {
        let [peer, address, zone] = node_cells(&unready.node);
        table.row([peer, address, zone, unready.image.clone(), unready.why.clone()]);
    }
    table
}

fn sum(status: &WarmStatus) -> String {
    let took = Duration::from_millis(status.elapsed_ms).as_secs_f64();
    let mut text = match status.phase {
        Phase::Warming => format!("{} of {} ready after {took:.1} s", status.ready, nodes(status.nodes)),
        Phase::Done => format!("{} of {} ready in {took:.1} s", status.ready, nodes(status.nodes)),
        Phase::Cancelled => format!(
            "cancelled: {} of {} ready after {took:.1} s; what has come stays, and the same command goes on from there",
            status.ready,
            nodes(status.nodes)
        ),
    };
    if status.images_failed() > 0 {
        let _ = write!(text, ", {} not warmed", images(status.images_failed()));
        if status.phase == Phase::Done && status.ready == 0 {
            text.push_str(", so no node is ready");
        }
    }
    if let Some(upstream) = status.upstream_bytes {
        let _ = write!(text, "; {} from upstream for {} on the nodes", bytes(upstream), bytes(status.bytes));
    }
    if let Some(until) = status.pinned_until {
        let _ = write!(text, "; kept until {}", moment(until));
    }
    text
}

/// What would be done.
pub(super) fn plan(plan: &WarmPlan) -> String {
    let mut text = String::new();
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("DIGEST", Align::Left),
        ("BLOBS", Align::Right),
        ("SIZE", Align::Right),
        ("FROM UPSTREAM", Align::Right),
        ("NODES READY", Align::Right),
    ]);
    for image in plan.images.iter().filter(|image| image.error.is_none()) {
        table.row([
            image.image.clone(),
            digest_cell(image.digest),
            image.blobs.to_string(),
            bytes(image.size),
            bytes(image.upstream_bytes),
            format!("{}/{}", image.nodes_ready, plan.nodes.len()),
        ]);
    }
    if !table.is_empty() {
        let _ = writeln!(text, "{table}");
    }
    for image in &plan.images {
        remark(&mut text, &image.image, "cannot be warmed", image.error.as_deref());
        remark(&mut text, &image.image, "note", image.note.as_deref());
    }
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("ZONE", Align::Left),
        ("HAS", Align::Right),
        ("WOULD RECEIVE", Align::Right),
        ("NO ROOM", Align::Left),
    ]);
    for node in plan.nodes.iter().filter(|node| node.missing_bytes > 0).take(LISTED_MAX) {
        let [peer, address, zone] = node_cells(&node.node);
        table.row([
            peer,
            address,
            zone,
            if node.answers { bytes(node.here_bytes) } else { "does not answer".to_owned() },
            bytes(node.missing_bytes),
            node.room_bytes.filter(|_| node.lacks_room()).map_or_else(String::new, no_room),
        ]);
    }
    let small = plan.nodes.iter().filter(|node| node.lacks_room()).count();
    if small == 0 {
        table.without("NO ROOM");
    }
    if !table.is_empty() {
        let _ = writeln!(text, "{table}");
    }
    let cold = plan.nodes.iter().filter(|node| node.missing_bytes > 0).count();
    if let Some(more) = more(cold) {
        let _ = writeln!(text, "{more}\n");
    }
    if small > 0 {
        let _ = writeln!(
            text,
            "{} too little room in the store: raise store.capacity there, or unpin what need not stay (shoal status there \
             tells)\n",
            if small == 1 { "1 node has".to_owned() } else { format!("{} have", nodes(small)) }
        );
    }
    let _ = writeln!(text, "{}", plan_sum(plan, cold));
    text
}

/// `cold` nodes would receive something.
fn plan_sum(plan: &WarmPlan, cold: usize) -> String {
    let warm = plan.nodes.len() - cold;
    match () {
        () if !plan.is_any() => "nothing can be warmed: no image is known by its name".to_owned(),
        () if cold == 0 && warm == 1 => "nothing to do: the node has everything".to_owned(),
        () if cold == 0 => format!("nothing to do: all {} have everything", nodes(warm)),
        () => format!(
            "{} would receive {} in all, of which {} would come from upstream; {warm} {} everything",
            nodes(cold),
            bytes(plan.missing_bytes),
            bytes(plan.upstream_bytes),
            if warm == 1 { "has" } else { "have" }
        ),
    }
}

/// What stands beside a node that is too small.
fn no_room(room: u64) -> String {
    format!("{} at most", bytes(room))
}

/// Requests, one a line; of the whole cluster, each with the agent that was asked.
pub(super) fn list<S: AsRef<WarmStatus>>(requests: &[S], cluster: bool) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("ASKED", Align::Left),
        ("STATE", Align::Left),
        ("READY", Align::Right),
        ("FAILED", Align::Right),
        ("BEGUN", Align::Left),
        ("PINNED UNTIL", Align::Left),
        ("IMAGES", Align::Left),
    ]);
    for status in requests.iter().map(AsRef::as_ref) {
        let images: Vec<_> = status.images.iter().map(|image| image.image.clone()).collect();
        table.row([
            status.id.clone(),
            status.agent.as_ref().map_or_else(|| "this node".to_owned(), node_name),
            status.outcome().word().to_owned(),
            format!("{}/{}", status.ready, status.nodes),
            status.failed.to_string(),
            moment(status.started_at),
            status.pinned_until.map_or_else(|| "-".to_owned(), moment),
            match status.images_failed() {
                0 => named(&images),
                failed => format!("{} ({failed} not warmed)", named(&images)),
            },
        ]);
    }
    if !cluster {
        table.without("ASKED");
    }
    table
}

/// Requests that others go on with if the agent that was asked is gone.
pub(super) fn standing(orders: &[StandingOrder]) -> Table {
    let mut table = Table::new(&[
        ("STANDS", Align::Left),
        ("SEEN TO BY", Align::Left),
        ("UNTIL", Align::Left),
        ("FOR", Align::Left),
        ("IMAGES", Align::Left),
    ]);
    for order in orders {
        let owner = if order.is_own { "this node".to_owned() } else { member_name(&order.owner) };
        let whom = if order.for_newcomers { "nodes that join, too" } else { "certain nodes" };
        table.row([order.id.clone(), owner, moment(order.until), whom.to_owned(), named(&order.images)]);
    }
    table
}

fn named(images: &[String]) -> String {
    match images {
        [] => String::new(),
        [image] => image.clone(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

/// A line about an image, if there is something to be said.
fn remark(text: &mut String, image: &str, kind: &str, what: Option<&str>) {
    if let Some(what) = what {
        let _ = writeln!(text, "{kind}: {image}: {what}");
    }
}

/// Says that a list has been cut.
fn more(count: usize) -> Option<String> {
    (count > LISTED_MAX).then(|| format!("... and {} more: --json lists them", count - LISTED_MAX))
}

fn digest_cell(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "-".to_owned(), |digest| digest.short())
}

fn node_cells(node: &NodeName) -> [String; 3] {
    [
        if node.peer.is_empty() { "this node".to_owned() } else { member_name(&node.peer) },
        node.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        zone_name(&node.zone).to_owned(),
    ]
}

fn images(count: usize) -> String {
    format!("{count} {}", if count == 1 { "image" } else { "images" })
}

fn zone_name(zone: &str) -> &str {
    if zone.is_empty() { "-" } else { zone }
}

fn moment(unix: u64) -> String {
    // What an agent says that no calendar has is shown as the end of the calendar.
    let latest = 253_402_300_799;
    let at: SystemTime = UNIX_EPOCH + Duration::from_secs(unix.min(latest));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests;
