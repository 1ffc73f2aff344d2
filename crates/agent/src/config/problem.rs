//! What is wrong with a configuration, in the operator's words: where, which key, what it says, what would be right.
//! What a flag or a variable said in the place of a key is told as theirs.
//!
//! Invariant: a value that may be secret is not repeated, and neither is a line of the file.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest part of a value that is repeated, in characters.
const VALUE_CHARS_MAX: usize = 60;

/// Why there is no configuration. The operator has to act; nothing has been started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says things that cannot be.
    #[error("{}", report(path.as_deref(), problems))]
    Wrong {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// Everything that is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Line and column, from 1; `None` for what the file does not have.
    pub at: Option<(usize, usize)>,
    /// The flag and the variable, of which one has said it in the place of the key; `None` for what the file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_by: Option<&'static str>,
    /// The key with its tables: `store.capacity`, `registry.listeners[0].address`. Empty for an error of syntax.
    pub key: String,
    /// What it says, if that may be repeated.
    pub value: Option<String>,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}: ")?;
        }
        let key = match self.given_by {
            Some(giver) => format!("{giver} ({})", self.key),
            None => self.key.clone(),
        };
        match (key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.remedy)
    }
}

fn report(path: Option<&Path>, problems: &[Problem]) -> String {
    let file = path.map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
    // A file that is right must not be looked through.
    let is_elsewhere = problems.iter().all(|problem| problem.given_by.is_some());
    let file = if is_elsewhere { "flags and variables".to_owned() } else { file };
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    problems.iter().fold(format!("{count} in {file}"), |text, problem| format!("{text}\n  {problem}"))
}

/// A text as it stands in a report: quoted, short, and with nothing in it that a terminal would obey.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(VALUE_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}
