//! Standard output: lines, tables whose columns stand under each other, and JSON.
//!
//! Invariant: what is read by programs does not depend on a terminal's width; only where there is one are digests shortened and
//! lines broken.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use serde::Serialize;
use shoal_engine::{Algorithm, Digest};

use super::Failure;
use crate::warm::NodeName;

/// Standard output. Everything goes through here, so that a reader who goes away is an error and not a panic.
pub(super) struct Output {
    to: BufWriter<Stdout>,
}

impl Output {
    pub fn stdout() -> Self {
        Output { to: BufWriter::new(io::stdout()) }
    }

    pub fn line(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        writeln!(self.to, "{text}").and_then(|()| self.to.flush()).map_err(Failure::Output)
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).and_then(|()| self.to.flush()).map_err(Failure::Output)
    }

    /// One object, for machines that read and people who look.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.to, value).map_err(|error| Failure::Output(error.into()))?;
        self.line(format_args!(""))
    }

    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.bytes(table.fitted(terminal_width()).as_bytes())
    }
}

/// Columns of the terminal that standard output is; nothing where it is none.
pub(super) fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// A text whose lines fit a terminal; what they go on with is indented. Words are never cut.
pub(super) fn wrapped(text: &str, width: Option<usize>, indent: usize) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let mut rest = line.to_owned();
        while let Some(at) = width.and_then(|width| break_of(&rest, width, indent)) {
            lines.push_str(rest[..at].trim_end());
            lines.push('\n');
            rest = format!("{:indent$}{}", "", rest[at..].trim_start());
        }
        lines.push_str(&rest);
        lines.push('\n');
    }
    lines
}

/// Where a line that is too long is broken: the byte of a space.
fn break_of(line: &str, width: usize, indent: usize) -> Option<usize> {
    if chars(line) <= width {
        return None;
    }
    let mut last = None;
    let spaces = line.char_indices().enumerate().filter(|(_, (_, letter))| *letter == ' ');
    for (column, (byte, _)) in spaces.filter(|(column, _)| *column > indent) {
        if column > width {
            return last.or(Some(byte));
        }
        last = Some(byte);
    }
    last
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// Columns between two columns of a table.
const GAP: usize = 2;
/// Narrowest column of words that is broken into several lines.
const WORDS_MIN: usize = 12;

/// Rows under headings.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    /// Leaves a column out.
    pub fn without(&mut self, heading: &str) {
        if let Some(at) = self.columns.iter().position(|(column, _)| *column == heading) {
            self.columns.remove(at);
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether each row takes one line of a terminal.
    pub fn fits(&self, width: Option<usize>) -> bool {
        width.is_none_or(|width| across(&self.widths(), GAP) <= width)
    }

    /// The table as a terminal takes it: its columns stand closer, and the last one, if it has words in it, is broken into
    /// lines. One that is too wide all the same is left to the terminal.
    pub fn fitted(&self, width: Option<usize>) -> String {
        let mut widths = self.widths();
        let Some(width) = width.filter(|width| across(&widths, GAP) > *width) else {
            return self.to_string();
        };
        let excess = across(&widths, 1).saturating_sub(width);
        let is_words = self.columns.last().is_some_and(|(_, align)| *align == Align::Left);
        match widths.last_mut() {
            _ if excess == 0 => {}
            Some(last) if is_words && *last >= excess + WORDS_MIN => *last -= excess,
            _ => return self.to_string(),
        }
        self.laid_out(&widths, 1)
    }

    fn widths(&self) -> Vec<usize> {
        let of = |column: usize| self.rows.iter().map(|row| chars(&row[column])).max().unwrap_or(0);
        self.columns.iter().enumerate().map(|(at, (heading, _))| chars(heading).max(of(at))).collect()
    }

    fn laid_out(&self, widths: &[usize], gap: usize) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let (Some((last, others)), Some(room)) = (row.split_last(), widths.last()) else { continue };
            for (number, part) in broken(last, *room).iter().enumerate() {
                let mut line = String::new();
                let cells = others.iter().map(|cell| if number == 0 { cell.as_str() } else { "" });
                for ((cell, width), (_, align)) in cells.chain([part.as_str()]).zip(widths).zip(&self.columns)
                {
                    line.push_str(&match align {
                        Align::Left => format!("{cell:<width$}{:gap$}", ""),
                        Align::Right => format!("{cell:>width$}{:gap$}", ""),
                    });
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

/// Columns that a row takes.
fn across(widths: &[usize], gap: usize) -> usize {
    widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
}

/// A cell in lines of so many columns, at least one; a word that is longer is cut.
fn broken(cell: &str, width: usize) -> Vec<String> {
    if chars(cell) <= width {
        return vec![cell.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in cell.split_whitespace() {
        match lines.last_mut().filter(|line| chars(line) + 1 + chars(word) <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => {
                let letters: Vec<char> = word.chars().collect();
                lines.extend(letters.chunks(width).map(|part| part.iter().collect::<String>()));
            }
        }
    }
    lines
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.laid_out(&self.widths(), GAP))
    }
}

/// Bytes for people: powers of ten, as disks and links are sold.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// Seconds for people: the two largest units.
pub(super) fn seconds(seconds: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let Some(first) = UNITS.iter().position(|(_, unit)| seconds >= *unit) else { return "0s".into() };
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, unit) in UNITS.iter().skip(first).take(2) {
        if left >= *unit {
            parts.push(format!("{}{name}", left / unit));
        }
        left %= unit;
    }
    parts.join(" ")
}

/// A moment for people and for machines; one that no calendar has is the end of the calendar.
pub(super) fn moment(unix_seconds: u64) -> String {
    let latest = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(latest));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A member's name for people: the digits that the log shows, enough to tell members apart.
pub(crate) fn member_name(peer: &str) -> String {
    const DIGITS: usize = 12;
    peer.chars().take(DIGITS).collect()
}

/// A blob for people with a narrow terminal: digits that the commands take for its digest.
pub(super) fn digits(digest: &Digest) -> String {
    match digest.algorithm() {
        Algorithm::Sha256 => member_name(&digest.hex()),
        // Digits alone mean the other algorithm.
        Algorithm::Sha512 => digest.short(),
    }
}

/// A node for people: its name, and where to find it.
pub(super) fn node_name(node: &NodeName) -> String {
    if node.peer.is_empty() {
        return "this node".into();
    }
    let address = node.address.map_or_else(String::new, |address| format!(" at {address}"));
    let zone = if node.zone.is_empty() { String::new() } else { format!(" in {}", node.zone) };
    format!("{}{address}{zone}", member_name(&node.peer))
}

/// A number of nodes.
pub(super) fn nodes(number: usize) -> String {
    count(number as u64, "node")
}

/// A number of things.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A part of a whole in percent; nothing of nothing is nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let percent = u128::from(part) * 100 / u128::from(whole);
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use super::{Align, Table, percent, seconds, wrapped};

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["a".into(), "1000".into(), "pinned".into()]);
        table.row(["longer name".into(), "7".into(), String::new()]);
        let expected = "NAME         SIZE  NOTE\na            1000  pinned\nlonger name     7\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_table_on_a_narrow_terminal() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("FROM", Align::Left)]);
        table.row(["a".into(), "1000".into(), "somebody".into()]);
        table.row(["bb".into(), "7".into(), "abababababab, cdcdcdcdcdcd, docker.io".into()]);
        assert!(table.fits(None) && table.fits(Some(49)) && !table.fits(Some(48)));
        assert_eq!(table.fitted(None), table.to_string());
        let closer = "\
NAME SIZE FROM
a    1000 somebody
bb      7 abababababab, cdcdcdcdcdcd, docker.io
";
        assert_eq!(table.fitted(Some(47)), closer);
        let broken = "\
NAME SIZE FROM
a    1000 somebody
bb      7 abababababab,
          cdcdcdcdcdcd,
          docker.io
";
        assert_eq!(table.fitted(Some(24)), broken);
        assert_eq!(table.fitted(Some(20)), table.to_string(), "there is no room for words");
    }

    #[test]
    fn lines_fit_a_terminal() {
        let text = "  count     kept by a and b\nshort\n";
        assert_eq!(wrapped(text, None, 12), text);
        assert_eq!(wrapped(text, Some(20), 12), "  count     kept by\n            a and b\nshort\n");
        assert_eq!(wrapped("/a/very/long/path c", Some(6), 2), "/a/very/long/path\n  c\n");
    }

    #[test]
    fn spans_and_parts() {
        for (given, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3661, "1h 1m"), (86_400, "1d"), (90_000, "1d 1h")]
        {
            assert_eq!(seconds(given), expected);
        }
        assert_eq!([percent(1, 3), percent(0, 0), percent(u64::MAX, u64::MAX)], ["33 %", "-", "100 %"]);
    }
}
