//! What is wrong with a scenario: which key, what it says, what would be right.

use std::fmt;

use super::library::LIBRARY;

/// Longest part of a value that is repeated, in characters.
const VALUE_CHARS_MAX: usize = 60;

/// Why there is no scenario. Whoever wrote it has to act; nothing has been run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioErrors {
    /// There is neither a built-in scenario of that name nor a file that can be read.
    #[error("there is no scenario `{name}`: {known}, and it is no file that can be read")]
    Unreadable {
        /// What was asked for.
        name: String,
        /// What there is instead.
        known: String,
        /// What the system said about the file.
        source: std::io::Error,
    },
    /// The file, or what overrides it, says things that cannot be.
    #[error("{}", report(file, problems))]
    Wrong {
        /// The scenario's name or file.
        file: String,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
}

impl ScenarioErrors {
    pub(super) fn unreadable(name: &str, source: std::io::Error) -> Self {
        let likeness = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
        let closest =
            LIBRARY.iter().map(|(other, _)| *other).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let known = match closest.filter(|closest| likeness(closest) >= 0.5) {
            Some(closest) => format!("did you mean `{closest}`?"),
            None => "--list shows the built-in ones".to_owned(),
        };
        ScenarioErrors::Unreadable { name: name.to_owned(), known, source }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with its tables: `link.up`, `origin.outages[0].for`. Empty for an error of syntax.
    pub key: String,
    /// What it says.
    pub value: Option<String>,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    pub(super) fn new(key: &str, value: impl fmt::Display, remedy: impl Into<String>) -> Self {
        let value = value.to_string();
        Problem { key: key.into(), value: (!value.is_empty()).then_some(value), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.remedy)
    }
}

fn report(file: &str, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    problems.iter().fold(format!("{count} in {file}"), |text, problem| format!("{text}\n  {problem}"))
}

/// A text as it stands in a report: quoted and short.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(VALUE_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}
