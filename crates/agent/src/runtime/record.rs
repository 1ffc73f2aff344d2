//! The record of what has been written on a node, which makes taking it away exact: what each file was before, and which
//! folders were made for it.
//!
//! Invariant: what is about to be written is in the record before it is on the disk, so a process that dies in between
//! leaves nothing that cannot be taken away. The file is for root alone: configuration files hold credentials.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::merge::Format;
use super::{Kind, Root};

/// Of the record's form.
const VERSION: u32 = 1;
/// Where the record lies on the node, if nobody says otherwise.
pub const DEFAULT_RECORD: &str = "/var/lib/shoal/runtime.json";
/// Its name: in the agent's folder it is the one file that stays root's.
pub(crate) const RECORD_NAME: &str = "runtime.json";
/// Only its owner may read it.
pub(super) const RECORD_MODE: u32 = 0o600;

/// What has been written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// The files, in the order in which they were first written.
    pub files: Vec<Written>,
    /// Folders that were made.
    pub folders: BTreeSet<PathBuf>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    /// Where, without links.
    pub path: PathBuf,
    /// For whom.
    pub runtime: Kind,
    /// What it is.
    pub format: Format,
    /// The agent's URL in it.
    pub mirror: String,
    /// Its text before; none if it was not there.
    pub before: Option<String>,
    /// Its text as it was written.
    pub after: String,
    /// Since when and why the agent is out of it, if it shall come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
}

/// Entries that were taken away for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// When, Unix milliseconds.
    pub since_ms: u64,
    /// Why, in one line.
    pub why: String,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.since_ms));
        write!(f, "the agent is taken out since {since}, until it serves again: {}", self.why)
    }
}

/// Why there is no record to go by. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The record.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has put it there. Its folder may belong to the agent's user, and what a record says is written by root.
    #[error("{path} belongs to user {owner}, and not to the one who installs; what it says is not believed. Look at the files it names by hand, and move it away", path = path.display())]
    Foreign {
        /// The record.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is not what was written.
    #[error("{path} is no record of `shoal runtime install`; move it away, and look at the files it names by hand", path = path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A later program has written it.
    #[error("{path} has the form {found}, and this program knows {VERSION}; use the program that wrote it", path = path.display())]
    Newer {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl Record {
    /// The record on the node; an empty one if there is none.
    pub fn read(root: &Root, path: &Path) -> Result<Self, RecordError> {
        let read =
            root.read_owned(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
        let Some((text, owner)) = read else { return Ok(Record { version: VERSION, ..Record::default() }) };
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(RecordError::Foreign { path: path.to_owned(), owner });
        }
        let damaged = |source| RecordError::Damaged { path: path.to_owned(), source };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(VERSION) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                Err(RecordError::Newer { path: path.to_owned(), found })
            }
            _ => serde_json::from_value(value).map_err(damaged),
        }
    }

    /// The record as it is written.
    pub fn text(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("texts, numbers and paths that were texts have a JSON form") + "\n"
    }

    /// What is known of a file.
    pub fn of(&self, path: &Path) -> Option<&Written> {
        self.files.iter().find(|written| written.path == path)
    }

    /// Notes a file, in the place of what was known of it.
    pub fn put(&mut self, written: Written) {
        match self.files.iter_mut().find(|known| known.path == written.path) {
            Some(known) => *known = written,
            None => self.files.push(written),
        }
    }
}
