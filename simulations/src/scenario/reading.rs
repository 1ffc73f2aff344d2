//! A table read into the schema with *all* its problems.
//!
//! The schema's reader stops at the first thing it does not like. So the offending entry is noted and taken out, and
//! the rest is read again. Invariant: every round takes out at least one entry, so this ends; and an entry that was
//! taken out has left a problem behind, so nothing is dropped silently.

use std::ops::Range;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::problem::{Problem, quoted};
use super::schema::File;

/// Most problems that are reported.
const PROBLEMS_MAX: usize = 50;

/// A step from a table or list to one of its entries.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// The values of the schema; what cannot be read is at its default and has left a problem.
pub(super) fn read(table: &toml::Table) -> (File, Vec<Problem>) {
    // Errors name places in a text, so the table, with what overrides it, becomes one.
    let text = table.to_string();
    let mut problems = Vec::new();
    let mut table = match DeTable::parse(&text) {
        Ok(table) => table,
        Err(error) => return (File::default(), vec![Problem::new("", "", error.to_string())]),
    };
    loop {
        let error = match File::deserialize(Deserializer::from(table.clone())) {
            Ok(file) => return (file, problems),
            Err(error) => error,
        };
        let path = error.span().and_then(|span| find(table.get_ref(), &span));
        problems.push(explain(&table, &error, path.as_deref()));
        let taken_out = path.is_some_and(|path| remove(table.get_mut(), &path));
        if !taken_out || problems.len() >= PROBLEMS_MAX {
            return (File::default(), problems);
        }
    }
}

fn explain(table: &Spanned<DeTable<'_>>, error: &Error, path: Option<&[Step]>) -> Problem {
    let key = path.map(display).unwrap_or_default();
    let value = path.and_then(|path| entry(table.get_ref(), path)).and_then(shown);
    let message = error.message();
    let remedy = if message.starts_with("unknown field") {
        unknown_key(&key, message)
    } else if let Some((_, expected)) = message.rsplit_once("expected ") {
        format!("expected {}", in_toml(expected))
    } else if let Some(field) = message.strip_prefix("missing field ") {
        format!("{} is missing", field.trim_matches('`'))
    } else {
        message.to_owned()
    };
    Problem { key, value, remedy }
}

/// `unknown field `x`, expected one of `a`, `b``, in the words of somebody who edits a file.
fn unknown_key(key: &str, message: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
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
        "a string" => "a text in quotes".into(),
        "a boolean" => "true or false".into(),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other => other.replace('`', "\""),
    }
}

/// A value as a report repeats it.
fn shown(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.as_str().to_owned(),
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

/// `origin.outages[0].for`: as the file could write it.
fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(name) if text.is_empty() => text.push_str(name),
            Step::Key(name) => text.push_str(&format!(".{name}")),
        }
    }
    text
}
