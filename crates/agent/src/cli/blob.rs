//! `shoal blob`: the store, blob by blob.
//!
//! The agent is asked first; only when nobody answers on its socket is the store opened here, under the store's own lock,
//! so that two processes never work in it.

pub(super) mod place;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output::{Align, Output, Table, bytes, count, seconds, terminal_width};
use super::{AgentSocket, Failure};
use crate::admin::blobs::{BlobEntry, Verified};
use place::{Named, Place};

/// What the kinds of content are called before what tells them apart.
const MEDIA_TYPE_PREFIX: &str = "application/vnd.";
/// Exit code for blobs that are missing or wrong.
const NOT_AS_NAMED: u8 = 5;

#[derive(Debug, Subcommand)]
pub(super) enum BlobCommand {
    /// List stored blobs.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  shoal blob ls --sort size\n  shoal blob ls --json | jq -r 'select(.hits == 0).digest'"
    )]
    Ls(LsArgs),
    /// Remove blobs, pinned ones too. Whoever reads one now can read it to its end.
    #[command(visible_alias = "remove", after_help = "Example:\n  shoal blob rm sha256:4f2a91")]
    Rm(NamedArgs),
    /// Hash blobs again and compare with their digests. A wrong one is removed, and fetched again when it is asked for.
    #[command(after_help = "Examples:\n  shoal blob verify sha256:4f2a91\n  shoal blob verify --all")]
    Verify(VerifyArgs),
    /// Keep blobs from being evicted and from expiring.
    Pin(NamedArgs),
    /// Let blobs be evicted again.
    Unpin(NamedArgs),
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    agent: AgentSocket,
    /// Order of the list.
    #[arg(long, value_enum, default_value_t = Order::Digest)]
    sort: Order,
    /// Print one JSON object for each blob, one a line.
    #[arg(long)]
    json: bool,
}

#[cfg(test)]
impl LsArgs {
    pub fn socket(&self) -> Result<std::path::PathBuf, Failure> {
        self.agent.path()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// By name.
    Digest,
    /// Largest first.
    Size,
    /// Last used first.
    Used,
    /// Most used first.
    Hits,
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    agent: AgentSocket,
    /// Digests, or their beginnings if those are unique (at least 6 digits: sha256:4f2a91).
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
    /// Print one JSON object for each blob, one a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["digests", "all"]))]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    agent: AgentSocket,
    /// Digests, or their beginnings if those are unique (at least 6 digits: sha256:4f2a91).
    #[arg(value_name = "DIGEST")]
    digests: Vec<String>,
    /// Every blob of the store, one after the other.
    #[arg(long)]
    all: bool,
    /// Print one JSON object for each blob, one a line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: &BlobCommand, out: &mut Output) -> Result<ExitCode, Failure> {
    match command {
        BlobCommand::Ls(args) => list(args, out).await,
        BlobCommand::Rm(args) => remove(args, out).await,
        BlobCommand::Verify(args) => verify(args, out).await,
        BlobCommand::Pin(args) => pin(args, true, out).await,
        BlobCommand::Unpin(args) => pin(args, false, out).await,
    }
}

async fn list(args: &LsArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let place = Place::find(&args.agent).await?;
    let mut blobs = place.all().await?;
    match args.sort {
        Order::Digest => {}
        Order::Size => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size)),
        Order::Used => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.used_at)),
        Order::Hits => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.hits)),
    }
    if args.json {
        for blob in &blobs {
            json_line(out, blob)?;
        }
    } else if blobs.is_empty() {
        out.line(format_args!("no blob is stored"))?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let full = table(&blobs, now, false);
        let table = if full.fits(terminal_width()) { full } else { table(&blobs, now, true) };
        out.table(&table)?;
        if std::io::stdout().is_terminal() {
            let sum: u64 = blobs.iter().map(|blob| blob.size).sum();
            out.line(format_args!("{} blobs, {}", blobs.len(), bytes(sum)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `short` is for a terminal that has no room for all of it.
fn table(blobs: &[BlobEntry], now: u64, short: bool) -> Table {
    let mut table = Table::new(&[
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("HITS", Align::Right),
        ("USED", Align::Right),
        ("PIN", Align::Left),
        ("TYPE", Align::Left),
    ]);
    for blob in blobs {
        table.row([
            if short { blob.digest.short() } else { blob.digest.to_string() },
            bytes(blob.size),
            blob.hits.to_string(),
            format!("{} ago", seconds(now.saturating_sub(blob.used_at))),
            if blob.pinned { "pin".into() } else { String::new() },
            match blob.media_type.as_deref().unwrap_or_default() {
                kind if short => kind.strip_prefix(MEDIA_TYPE_PREFIX).unwrap_or(kind).to_owned(),
                kind => kind.to_owned(),
            },
        ]);
    }
    table
}

async fn remove(args: &NamedArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let names = Named::all(&args.digests)?;
    let place = Place::find(&args.agent).await?;
    for name in &names {
        let digest = place.resolve(name).await?;
        let removed = place.remove(&digest).await?;
        if args.json {
            json_line(out, &json!({ "digest": digest, "removed": removed }))?;
        } else if removed {
            out.line(format_args!("{digest} removed"))?;
        } else {
            // What was wanted is so: a script that cleans up may run twice.
            out.line(format_args!("{digest} was not in the store"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(args: &VerifyArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let names = Named::all(&args.digests)?;
    let place = Place::find(&args.agent).await?;
    let mut digests = Vec::new();
    if args.all {
        digests.extend(place.all().await?.into_iter().map(|blob| blob.digest));
    }
    for name in &names {
        digests.push(place.resolve(name).await?);
    }
    let (mut good, mut good_bytes, mut wrong) = (0_u64, 0_u64, 0_u64);
    let mut all_good = true;
    for digest in digests {
        let verified = place.verify(&digest).await?;
        // A blob of the list may have been evicted meanwhile; only one that was named has to be there.
        all_good &= matches!(verified, Verified::Good { .. }) || (args.all && verified == Verified::Missing);
        match &verified {
            Verified::Good { size } => (good, good_bytes) = (good + 1, good_bytes + *size),
            Verified::Wrong { .. } => wrong += 1,
            Verified::Missing => {}
        }
        if args.json {
            json_line(out, &json!({ "digest": digest, "result": verified }))?;
            continue;
        }
        match verified {
            Verified::Good { size } => out.line(format_args!("{digest} good, {}", bytes(size)))?,
            Verified::Wrong { found, removed: true } => {
                out.line(format_args!("{digest} WRONG: its bytes are {found}; removed, the next pull fetches it again"))?;
            }
            Verified::Wrong { found, removed: false } => out.line(format_args!(
                "{digest} WRONG: its bytes are {found}; it belongs to the container runtime and was left alone"
            ))?,
            Verified::Missing => out.line(format_args!("{digest} is not in the store"))?,
        }
    }
    if args.all && !args.json {
        let verified = count(good + wrong, "blob");
        out.line(format_args!("{verified} verified: {good} good ({}), {wrong} wrong", bytes(good_bytes)))?;
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::from(NOT_AS_NAMED) })
}

async fn pin(args: &NamedArgs, pinned: bool, out: &mut Output) -> Result<ExitCode, Failure> {
    let names = Named::all(&args.digests)?;
    let place = Place::find(&args.agent).await?;
    for name in &names {
        let digest = place.resolve(name).await?;
        place.pin(&digest, pinned).await?;
        if args.json {
            json_line(out, &json!({ "digest": digest, "pinned": pinned }))?;
        } else {
            out.line(format_args!("{digest} {}", if pinned { "pinned" } else { "unpinned" }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json_line(out: &mut Output, value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
    out.line(format_args!("{line}"))
}
