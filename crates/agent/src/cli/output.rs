//! Standard output: lines, tables whose columns stand under each other, and JSON.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write as _};

use bytesize::ByteSize;
use serde::Serialize;

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
        write!(self.to, "{table}").and_then(|()| self.to.flush()).map_err(Failure::Output)
    }
}

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
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: &str| text.chars().count();
        let cell_width = |column: usize| self.rows.iter().map(|row| width(&row[column])).max().unwrap_or(0);
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (heading, _))| width(heading).max(cell_width(i)))
            .collect();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let cell = match align {
                    Align::Left => format!("{cell:<width$}  "),
                    Align::Right => format!("{cell:>width$}  "),
                };
                line.push_str(&cell);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
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

/// A member's name for people: the digits that the log shows, enough to tell members apart.
pub(crate) fn member_name(peer: &str) -> String {
    const DIGITS: usize = 12;
    peer.chars().take(DIGITS).collect()
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
    use super::{Align, Table, percent, seconds};

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["a".into(), "1000".into(), "pinned".into()]);
        table.row(["longer name".into(), "7".into(), String::new()]);
        let expected = "NAME         SIZE  NOTE\na            1000  pinned\nlonger name     7\n";
        assert_eq!(table.to_string(), expected);
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
