//! A configuration file as TOML, read into the schema with *all* its problems.
//!
//! The schema's reader stops at the first thing it does not like. So the offending entry is noted and taken out, and
//! the rest is read again, until nothing is left to object to. Invariant: every round takes out at least one entry, so
//! this ends; and an entry that was taken out has left a problem behind, so nothing is dropped silently.

use std::ops::Range;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::problem::{Problem, quoted};
use super::schema::File;

/// Most problems that are reported; a file with more is another kind of file.
const PROBLEMS_MAX: usize = 50;

/// A step from a table or list to one of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A parsed file.
pub(super) struct Document<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Reads TOML. The problems are those of its syntax.
    pub fn parse(text: &'t str) -> Result<Self, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let document = Document { text, table };
        if errors.is_empty() {
            return Ok(document);
        }
        let problem = |error: &Error| Problem {
            at: error.span().map(|span| document.place(span.start)),
            given_by: None,
            key: String::new(),
            value: None,
            remedy: format!("not TOML: {}", syntax(error, text)),
        };
        Err(errors.iter().take(PROBLEMS_MAX).map(problem).collect())
    }

    /// The values of the schema; what cannot be read is at its default and has left a problem.
    pub fn read(&self) -> (File, Vec<Problem>) {
        let mut table = self.table.clone();
        let mut problems = Vec::new();
        loop {
            let error = match File::deserialize(Deserializer::from(table.clone())) {
                Ok(file) => return (file, problems),
                Err(error) => error,
            };
            let path = error.span().and_then(|span| find(table.get_ref(), &span));
            problems.push(self.explain(&error, path.as_deref()));
            let taken_out = path.is_some_and(|path| remove(table.get_mut(), &path));
            if !taken_out || problems.len() >= PROBLEMS_MAX {
                return (File::default(), problems);
            }
        }
    }

    /// Line and column of a key such as `registry.listeners[0].address`, if the file has it; otherwise of the closest
    /// table around it that the file has.
    pub fn locate(&self, key: &str) -> Option<(usize, usize)> {
        let mut best: Option<(usize, Range<usize>)> = None;
        walk(self.table.get_ref(), &mut Vec::new(), &mut |path, key_span, _| {
            let shown = display(path);
            let is_around =
                key.strip_prefix(&shown).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            if is_around && best.as_ref().is_none_or(|(length, _)| shown.len() > *length) {
                best = Some((shown.len(), key_span));
            }
        });
        best.map(|(_, span)| self.place(span.start))
    }

    /// What the file says under such a key, as it was written; nothing for tables and lists.
    pub fn written(&self, key: &str) -> Option<String> {
        let mut found = None;
        walk(self.table.get_ref(), &mut Vec::new(), &mut |path, _, _| {
            if display(path) == key {
                found = Some(path.to_vec());
            }
        });
        entry(self.table.get_ref(), &found?).and_then(shown)
    }

    fn explain(&self, error: &Error, path: Option<&[Step]>) -> Problem {
        let at = error.span().map(|span| self.place(span.start));
        let key = path.map(display).unwrap_or_default();
        let message = error.message();
        if message.starts_with("unknown field") {
            // What stands behind a key that we do not know may be anything, a password included.
            let remedy = unknown_key(&key, message);
            return Problem { at, given_by: None, key, value: None, remedy };
        }
        let value = path.and_then(|path| entry(self.table.get_ref(), path)).and_then(shown);
        let remedy = match message.rsplit_once("expected ") {
            Some((_, expected)) => format!("expected {}", in_toml(expected)),
            None => message.to_owned(),
        };
        Problem { at, given_by: None, key, value, remedy }
    }

    fn place(&self, byte: usize) -> (usize, usize) {
        line_and_column(self.text, byte)
    }
}

/// Line and column, from 1, of a byte of a text.
pub(crate) fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What the parser says, with the name of a key that is there twice.
fn syntax(error: &Error, text: &str) -> String {
    let key = error.span().and_then(|span| text.get(span)).filter(|key| !key.contains(['=', '\n']));
    match (error.message(), key) {
        ("duplicate key", Some(key)) => format!("duplicate key {}", quoted(key)),
        (message, _) => message.to_owned(),
    }
}

/// `unknown field `x`, expected one of `a`, `b``, in the words of somebody who edits a file.
fn unknown_key(key: &str, message: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    if name.contains("password") {
        return "a password cannot stand here; write it to a file and name that in password_file".into();
    }
    // Every second piece is between backticks; the first of them is the unknown field itself.
    let known: Vec<&str> = message.split('`').skip(1).step_by(2).skip(1).collect();
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    let closest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match closest.filter(|closest| likeness(closest) >= 0.6) {
        Some(closest) => format!("there is no such key; did you mean {closest}?"),
        None => format!("there is no such key; there are {}", known.join(", ")),
    }
}

/// What the reader expects, in the file's words instead of the program's.
fn in_toml(expected: &str) -> String {
    match expected {
        "a string" | "path string" => "a text in quotes".into(),
        "a boolean" => "true or false".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "struct Listener" => "a table such as { address = \"127.0.0.1:5000\" }".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other => other.replace('`', "\""),
    }
}

/// A value that may be repeated in a report.
fn shown(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(when) => when.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// The entry that an error speaks of: the innermost one whose key or value lies there.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    let mut best: Option<(usize, Vec<Step>)> = None;
    walk(table, &mut Vec::new(), &mut |path, key, value| {
        for place in [key, value] {
            let covers = place.start <= span.start && span.end <= place.end;
            if covers && best.as_ref().is_none_or(|(length, _)| place.len() <= *length) {
                best = Some((place.len(), path.to_vec()));
            }
        }
    });
    best.map(|(_, path)| path)
}

type Visit<'v> = dyn FnMut(&[Step], Range<usize>, Range<usize>) + 'v;

/// Visits every entry with its path and the places of its key and its value.
fn walk(table: &DeTable<'_>, path: &mut Vec<Step>, visit: &mut Visit<'_>) {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().to_string()));
        visit(path, key.span(), value.span());
        descend(value.get_ref(), path, visit);
        path.pop();
    }
}

fn descend(value: &DeValue<'_>, path: &mut Vec<Step>, visit: &mut Visit<'_>) {
    match value {
        DeValue::Table(table) => walk(table, path, visit),
        DeValue::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                path.push(Step::Index(index));
                visit(path, element.span(), element.span());
                descend(element.get_ref(), path, visit);
                path.pop();
            }
        }
        _ => {}
    }
}

fn entry<'a, 't>(table: &'a DeTable<'t>, path: &[Step]) -> Option<&'a DeValue<'t>> {
    let (Step::Key(first), rest) = path.split_first()? else { return None };
    rest.iter().try_fold(table.get(first.as_str())?.get_ref(), |value, step| match (step, value) {
        (Step::Key(name), DeValue::Table(table)) => table.get(name.as_str()).map(Spanned::get_ref),
        (Step::Index(index), DeValue::Array(list)) => list.get(*index).map(Spanned::get_ref),
        _ => None,
    })
}

/// Takes an entry out; an element takes its whole list with it, because the others would change their places.
fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    match path {
        [Step::Key(name)] | [Step::Key(name), Step::Index(_)] => table.remove(name.as_str()).is_some(),
        [Step::Key(name), rest @ ..] => {
            let Some(mut value) = table.get_mut(name.as_str()).map(Spanned::get_mut) else { return false };
            let mut rest = rest;
            while let [Step::Index(index), after @ ..] = rest {
                let DeValue::Array(list) = value else { return false };
                let Some(element) = list.get_mut(*index) else { return false };
                (value, rest) = (element.get_mut(), after);
            }
            let DeValue::Table(inner) = value else { return false };
            remove(inner, rest)
        }
        _ => false,
    }
}

/// `upstream.registries."docker.io".ca`: as the file could write it.
fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&key(name));
            }
        }
    }
    text
}

/// A key as TOML writes it: bare where that is possible.
pub(super) fn key(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_bare { name.to_owned() } else { quoted(name) }
}
