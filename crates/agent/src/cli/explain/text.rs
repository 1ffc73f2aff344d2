//! The story of one blob in words, and what follows from it.

use std::fmt::Write as _;

use shoal_engine::pieces::piece_len;
use shoal_engine::swarm::pieces::piece_bytes;

use super::Beside;
use crate::cli::output::{Align, Table, bytes, count, member_name, percent, seconds, wrapped};
use crate::driver::{BlobSpan, BlobStory, Book, ClassStory};

/// Members that are named in one line; beyond, a number says enough.
const NAMED_MAX: usize = 6;
/// Column at which the summary's values stand, after their names.
const VALUES_AT: usize = 12;
/// So long nothing has come: it stands still.
const STILL_MS: u64 = 10_000;

/// All of it, for a terminal of that width if it is for one.
pub(super) fn of(story: &BlobStory, beside: &Beside, width: Option<usize>) -> String {
    let mut text = wrapped(&summary(story, beside), width, VALUES_AT);
    for table in [sources(story, beside), parts(story, beside)] {
        if !table.is_empty() {
            let _ = write!(text, "\n{}", table.fitted(width));
        }
    }
    let _ = write!(text, "\n{}", wrapped(&conclusion(story, beside), width, 0));
    text
}

/// What it has come to, in a few words.
pub(super) fn state(story: &BlobStory) -> String {
    match (&*story.state, story.received, story.size) {
        ("receiving", Some(received), Some(size)) => format!("{} here", percent(received, size)),
        ("receiving", ..) => "begun".into(),
        ("stored", ..) => "stored".into(),
        _ => "not here".into(),
    }
}

/// What the members that keep count say; of several, the one that knows most.
pub(super) fn book(story: &BlobStory) -> Option<&Book> {
    story.books.iter().max_by_key(|book| book.holder_count + book.receiver_count)
}

fn summary(story: &BlobStory, beside: &Beside) -> String {
    let size = story.size.map_or_else(|| "of unknown size".to_owned(), bytes);
    let mut text = format!("{}\n", story.digest);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<9} {value}\n"));
    line(
        "state",
        match (&*story.state, story.received, story.size) {
            ("receiving", Some(received), Some(size)) => {
                format!("receiving: {} of {}", percent(received, size), bytes(size))
            }
            ("absent", ..) => "not on this node".into(),
            (state, ..) => format!("{state}, {size}"),
        },
    );
    if !story.homes.is_empty() {
        let homes = story.homes.iter().map(|peer| beside.member(peer)).collect::<Vec<_>>().join(", ");
        line("count", format!("kept by {homes}"));
    }
    if let Some(book) = book(story) {
        line("members", of_book(book, beside));
        if !book.holders.is_empty() {
            line("", format!("it is with {}", names(&book.holders, book.holder_count, beside)));
        }
        for lease in &book.leases {
            let part = format!("{} to {}", bytes(lease.start), bytes(lease.end));
            line("", format!("{} fetches {part} from upstream", beside.member(&lease.holder)));
        }
    } else if !story.homes.is_empty() {
        line("members", "none of those that keep count answers, or knows of it".into());
    }
    if story.sources.is_empty() && story.state == "stored" {
        line("sources", "not known: it came before the agent started, or long ago".into());
    }
    text
}

fn of_book(book: &Book, beside: &Beside) -> String {
    let does = |number: usize, does: &str, do_: &str| match number {
        0 => format!("nobody {does} it"),
        1 => format!("1 {does} it"),
        number => format!("{number} {do_} it"),
    };
    let slow = match book.slow_count {
        0 => String::new(),
        number if number == book.receiver_count => format!(", slowly: {}", names(&book.slow, number, beside)),
        number => format!(", {number} of them slowly: {}", names(&book.slow, number, beside)),
    };
    let (have, receive) =
        (does(book.holder_count, "has", "have"), does(book.receiver_count, "receives", "receive"));
    format!("{have}, {receive}{slow}")
}

fn names(peers: &[String], number: usize, beside: &Beside) -> String {
    let mut text =
        peers.iter().take(NAMED_MAX).map(|peer| beside.member(peer)).collect::<Vec<_>>().join(", ");
    if number > NAMED_MAX {
        let _ = write!(text, " and {} more", number - NAMED_MAX);
    }
    text
}

fn sources(story: &BlobStory, beside: &Beside) -> Table {
    let mut table = Table::new(&[
        ("FROM", Align::Left),
        ("KIND", Align::Left),
        ("BYTES", Align::Right),
        ("OF WHAT CAME", Align::Right),
        ("RATE", Align::Right),
        ("WHERE", Align::Left),
    ]);
    let all: u64 = story.sources.iter().map(|share| share.bytes).sum();
    for share in &story.sources {
        let rate = (share.seconds > 0.0)
            .then(|| format!("{}/s", bytes((share.bytes as f64 / share.seconds) as u64)));
        table.row([
            if share.is_member { beside.member(&share.source) } else { share.source.clone() },
            if share.is_member { "member" } else { "upstream" }.to_owned(),
            bytes(share.bytes),
            percent(share.bytes, all),
            rate.unwrap_or_else(|| "-".to_owned()),
            place(&share.spans),
        ]);
    }
    table
}

/// Where the bytes of a source lie in the blob.
fn place(spans: &[BlobSpan]) -> String {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return "-".to_owned() };
    let all = format!("{} to {}", bytes(first.start), bytes(last.end));
    if spans.len() == 1 { all } else { format!("{all}, in {} parts", spans.len()) }
}

fn parts(story: &BlobStory, beside: &Beside) -> Table {
    let mut table = Table::new(&[
        ("PART", Align::Left),
        ("MISSING", Align::Right),
        ("NEXT", Align::Right),
        ("ASKED OF", Align::Left),
    ]);
    let Some(size) = story.size else { return table };
    for part in &story.classes {
        table.row([
            format!("{} of {}", u32::from(part.class) + 1, story.classes.len()),
            missing(part, size),
            part.first_missing.map_or_else(
                || "-".to_owned(),
                |piece| format!("at {}", bytes(piece_bytes(size, piece).start)),
            ),
            if part.feeds.is_empty() {
                "nobody".to_owned()
            } else {
                names(&part.feeds, part.feeds.len(), beside)
            },
        ]);
    }
    table
}

fn missing(part: &ClassStory, size: u64) -> String {
    if part.missing == 0 {
        return "nothing".into();
    }
    let pieces = count(u64::from(part.missing), "piece");
    format!("{pieces}, {}", bytes((u64::from(part.missing) * piece_len(size)).min(size)))
}

/// What follows from it, in a sentence or two.
pub(super) fn conclusion(story: &BlobStory, beside: &Beside) -> String {
    let book = book(story);
    let (have, receive) = book.map_or((0, 0), |book| (book.holder_count, book.receiver_count));
    match &*story.state {
        "stored" => stored(story),
        "receiving" => receiving(story, beside),
        _ => {
            let next = match (have, receive) {
                (0, 0) if beside.me.is_empty() => "a pull here fetches it from upstream".to_owned(),
                (0, 0) => "no member has it: a pull here fetches it from upstream".to_owned(),
                (0, _) => "other members are receiving it: a pull here gets it with them".to_owned(),
                (have, _) => format!("{} it: a pull here takes it from there", has(have)),
            };
            let came = if story.sources.is_empty() {
                ""
            } else {
                "What came, named above, went straight to clients, or has been evicted since. "
            };
            let full = beside
                .full
                .as_ref()
                .map_or_else(String::new, |full| format!("\nThis node's store is {full}."));
            format!("{came}It is not here; {next}.{full}")
        }
    }
}

fn has(members: usize) -> String {
    if members == 1 { "1 member has".into() } else { format!("{members} members have") }
}

fn stored(story: &BlobStory) -> String {
    let of = |is_member: bool| -> u64 {
        story.sources.iter().filter(|share| share.is_member == is_member).map(|share| share.bytes).sum()
    };
    match (of(true), of(false)) {
        (0, 0) => "It is here.".into(),
        (0, _) => format!("It is here; all of it came from upstream{}.", own(story)),
        (_, 0) => "It is here; all of it came from other members.".into(),
        (members, upstream) => {
            let all = members + upstream;
            format!(
                "It is here; {} of it came from other members, {} from upstream{}.",
                percent(members, all),
                percent(upstream, all),
                own(story)
            )
        }
    }
}

/// Why this node fetched by itself, as the end of a sentence.
fn own(story: &BlobStory) -> String {
    story.on_its_own.map_or_else(String::new, |why| format!(", by this node alone: {why}"))
}

fn receiving(story: &BlobStory, beside: &Beside) -> String {
    let mut text = match book(story) {
        Some(book) if book.slow_count > 0 => {
            let all = book.receiver_count + book.holder_count;
            let whose = names(&book.slow, book.slow_count, beside);
            let receive = if book.slow_count == 1 { "receives" } else { "receive" };
            format!("{} of {all} members {receive} it slowly: {whose}.", book.slow_count)
        }
        _ => "It is on its way.".to_owned(),
    };
    let last = story.sources.iter().map(|share| share.last_at_ms).max();
    match last.map(|last| beside.now_ms.saturating_sub(last)).filter(|silence| *silence >= STILL_MS) {
        Some(silence) => {
            let _ = write!(text, " Nothing has come for {}.", seconds(silence / 1000));
        }
        None if last.is_none() => text.push_str(" Nothing has come yet."),
        None => {}
    }
    if let Some(main) =
        story.sources.iter().max_by_key(|share| share.bytes).filter(|share| share.seconds > 0.0)
    {
        let from = if main.is_member { member_name(&main.source) } else { main.source.clone() };
        let rate = (main.bytes as f64 / main.seconds) as u64;
        let _ = write!(text, " Most comes from {from}, at {}/s.", bytes(rate));
    }
    if let Some(why) = story.on_its_own {
        let _ = write!(text, " This node fetches it by itself: {why}.");
    }
    for limit in beside.holding_back(story) {
        let _ = write!(text, "\nLimited by this node's {limit}.");
    }
    text
}
