//! The blobs of an image, a line each, and those of them that are worth a closer look.

use std::cmp::Reverse;
use std::fmt::Write as _;

use serde::Serialize;
use shoal_engine::Digest;

use super::{Beside, text};
use crate::cli::output::{Align, Table, bytes, count, digits, percent, wrapped};
use crate::driver::BlobStory;
use crate::stock::Part;

/// Blobs that are named at the end.
const NAMED_MAX: usize = 3;

/// A blob of an image, and its story.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    #[serde(flatten)]
    pub part: Part,
    pub story: BlobStory,
}

impl Explained {
    fn is_here(&self) -> bool {
        self.story.state == "stored"
    }

    fn is_slow(&self) -> bool {
        text::book(&self.story).is_some_and(|book| book.slow_count > 0)
    }

    fn left(&self) -> u64 {
        if self.is_here() { 0 } else { self.part.size.saturating_sub(self.story.received.unwrap_or(0)) }
    }
}

/// All of it, for a terminal of that width if it is for one.
pub(super) fn text(image: &str, blobs: &[Explained], beside: &Beside, width: Option<usize>) -> String {
    let full = table(blobs, Digest::short);
    let table = if full.fits(width) { full } else { table(blobs, digits) };
    format!("{image}\n\n{}\n{}", table.fitted(width), wrapped(&sum(blobs, beside), width, 2))
}

/// What it comes to, and what is worth a closer look.
fn sum(blobs: &[Explained], beside: &Beside) -> String {
    let mut text = String::new();
    let here = blobs.iter().filter(|blob| blob.is_here()).count();
    let size: u64 = blobs.iter().map(|blob| blob.part.size).sum();
    let left: u64 = blobs.iter().map(Explained::left).sum();
    let all = count(blobs.len() as u64, "blob");
    if left == 0 {
        let _ = writeln!(text, "All of it is here: {all}, {}.", bytes(size));
        return text;
    }
    let _ = writeln!(text, "{here} of {all} are here; {} of {} is missing.", bytes(left), bytes(size));
    let mut worth: Vec<_> = blobs.iter().filter(|blob| !blob.is_here()).collect();
    worth.sort_by_key(|blob| (!blob.is_slow(), Reverse(blob.left())));
    for blob in worth.iter().take(NAMED_MAX) {
        let _ = writeln!(text, "worth a closer look: shoal explain {}", blob.part.digest.short());
    }
    let mut held: Vec<String> = worth.iter().flat_map(|blob| beside.holding_back(&blob.story)).collect();
    held.sort();
    held.dedup();
    for limit in held {
        let _ = writeln!(text, "Limited by this node's {limit}.");
    }
    if let Some(full) = &beside.full {
        let _ = writeln!(text, "This node's store is {full}.");
    }
    text
}

fn table(blobs: &[Explained], digest: fn(&Digest) -> String) -> Table {
    let mut table = Table::new(&[
        ("BLOB", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
        ("CAME FROM", Align::Left),
        ("HAVE IT", Align::Right),
        ("RECEIVE", Align::Right),
        ("SLOWLY", Align::Right),
    ]);
    for Explained { part, story } in blobs {
        let book = text::book(story);
        let told = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([
            part.what.clone(),
            digest(&part.digest),
            bytes(part.size),
            text::state(story),
            came_from(story),
            told(book.map(|book| book.holder_count)),
            told(book.map(|book| book.receiver_count)),
            told(book.map(|book| book.slow_count)),
        ]);
    }
    table
}

fn came_from(story: &BlobStory) -> String {
    let of = |is_member: bool| -> u64 {
        story.sources.iter().filter(|share| share.is_member == is_member).map(|share| share.bytes).sum()
    };
    match (of(true), of(false)) {
        (0, 0) => "-".into(),
        (0, _) => "upstream".into(),
        (_, 0) => "members".into(),
        (members, upstream) => format!("{} members", percent(members, members + upstream)),
    }
}
