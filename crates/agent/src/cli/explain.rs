//! `shoal explain`: where a blob came from, and who has to do with it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use shoal_engine::Digest;

use super::output::{Align, Output, Table, bytes, member_name, percent};
use super::{AgentSocket, Failure};
use crate::driver::{BlobStory, Book};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  shoal explain sha256:4abc...")]
pub(super) struct ExplainArgs {
    /// The blob.
    digest: Digest,
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &ExplainArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let story = args.agent.client()?.explain(&args.digest).await?;
    if args.json {
        out.json(&story)?;
        return Ok(ExitCode::SUCCESS);
    }
    out.bytes(summary(&story).as_bytes())?;
    for table in [sources(&story), classes(&story)] {
        if !table.is_empty() {
            out.line(format_args!(""))?;
            out.table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(story: &BlobStory) -> String {
    let size = story.size.map_or_else(|| "of unknown size".to_owned(), bytes);
    let mut text = format!("{}\n", story.digest);
    let _ = match (&*story.state, story.received, story.size) {
        ("receiving", Some(received), Some(size)) => {
            writeln!(text, "  state      receiving: {} of {}", percent(received, size), bytes(size))
        }
        ("absent", _, _) => writeln!(text, "  state      not on this node"),
        (state, _, _) => writeln!(text, "  state      {state}, {size}"),
    };
    if !story.homes.is_empty() {
        let _ = writeln!(
            text,
            "  homes      {}",
            story.homes.iter().map(|peer| member_name(peer)).collect::<Vec<_>>().join(", ")
        );
    }
    for book in &story.books {
        text.push_str(&of_book(book));
    }
    if story.sources.is_empty() && story.state != "absent" {
        text.push_str("  sources    not known: it came before the agent started, or long ago\n");
    }
    text
}

/// What a home says, in a line or two.
fn of_book(book: &Book) -> String {
    let members = |count: usize, does: &str, do_: &str| match count {
        0 => format!("nobody {does} it"),
        1 => format!("1 member {does} it"),
        count => format!("{count} members {do_} it"),
    };
    let slow = if book.slow_count > 0 { format!(" ({} slowly)", book.slow_count) } else { String::new() };
    let mut text = format!(
        "  book       {}: {}, {}{slow}\n",
        member_name(&book.home),
        members(book.holder_count, "has", "have"),
        members(book.receiver_count, "receives", "receive"),
    );
    for lease in &book.leases {
        let _ = writeln!(
            text,
            "             {} fetches {} from upstream, from byte {}",
            member_name(&lease.holder),
            bytes(lease.end - lease.start),
            lease.start
        );
    }
    text
}

fn sources(story: &BlobStory) -> Table {
    let mut table = Table::new(&[
        ("FROM", Align::Left),
        ("KIND", Align::Left),
        ("BYTES", Align::Right),
        ("SHARE", Align::Right),
        ("RATE", Align::Right),
    ]);
    let all: u64 = story.sources.iter().map(|share| share.bytes).sum();
    for share in &story.sources {
        let rate = (share.seconds > 0.0)
            .then(|| format!("{}/s", bytes((share.bytes as f64 / share.seconds) as u64)));
        table.row([
            if share.is_member { member_name(&share.source) } else { share.source.clone() },
            if share.is_member { "member" } else { "upstream" }.to_owned(),
            bytes(share.bytes),
            percent(share.bytes, all),
            rate.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn classes(story: &BlobStory) -> Table {
    let mut table = Table::new(&[
        ("CLASS", Align::Right),
        ("MISSING", Align::Right),
        ("FIRST", Align::Right),
        ("FED BY", Align::Left),
    ]);
    for class in &story.classes {
        table.row([
            class.class.to_string(),
            class.missing.to_string(),
            class.first_missing.map_or_else(|| "-".to_owned(), |piece| piece.to_string()),
            match class.feeds.is_empty() {
                true => "nobody".to_owned(),
                false => class.feeds.iter().map(|peer| member_name(peer)).collect::<Vec<_>>().join(", "),
            },
        ]);
    }
    table
}
