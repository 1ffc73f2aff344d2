//! What operators have already: mirror configuration of container runtimes and of OpenShift, read and written down as ours.
//!
//! Invariants: the outcome means what the originals meant, or a note says what it does not mean any more; nothing is
//! carried over that would be sent to another host than before; no value that may be secret (headers, passwords) is
//! repeated. Everything here is read from files that a person names, so every bound is there against accidents.

mod compose;
pub(crate) mod document;
mod endpoint;
pub(crate) mod hosts_dir;
mod hosts_toml;
mod kubernetes;
mod registries_conf;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use shoal_engine::mirrors::SourceScope;
use shoal_engine::{Location, Registry};

/// Largest file: OpenShift's mirror sets of a whole catalogue have some hundred KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most files of one folder; more is another kind of folder.
const FILES_MAX: usize = 4096;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file or folder.
    pub file: PathBuf,
    /// Line and column, from 1; none for the whole of it.
    pub at: Option<(usize, usize)>,
}

impl Place {
    fn whole(file: &Path) -> Self {
        Place { file: file.to_owned(), at: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.at.map_or(Ok(()), |(line, column)| write!(f, ":{line}:{column}"))
    }
}

/// Something to tell about a place: what was not carried over and why, or what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why nothing was imported: the files are wrong, or contradict each other. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("{}", report(.0))]
pub struct ImportError(pub Vec<Note>);

fn report(problems: &[Note]) -> String {
    let count =
        if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
    problems
        .iter()
        .fold(format!("{count}, nothing was imported"), |text, problem| format!("{text}\n  {problem}"))
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Tables for a configuration file.
    pub text: String,
    /// What could not be carried over.
    pub notes: Vec<Note>,
    /// How many mirror sets were written.
    pub sets: usize,
}

/// Collects from one file after the other.
#[derive(Debug, Default)]
pub struct Import {
    files: Vec<PathBuf>,
    sets: Vec<FoundSet>,
    /// Mirrors of every registry that no set speaks of.
    of_every_registry: Vec<FoundMirror>,
    registries: BTreeMap<Registry, FoundRegistry>,
    notes: Vec<Note>,
    problems: Vec<Note>,
}

/// The mirrors of one source in one file.
#[derive(Clone, Debug)]
struct FoundSet {
    name: String,
    source: SourceScope,
    mirrors: Vec<FoundMirror>,
    never_contact_source: bool,
    /// Whether the last mirror is where the source's content really is.
    ends_at_substitute: bool,
    /// From an object of a kind that has a successor.
    is_superseded_kind: bool,
    place: Place,
}

/// A mirror and what it may be asked for.
#[derive(Clone, Debug)]
struct FoundMirror {
    location: Location,
    digests: bool,
    tags: bool,
    place: Place,
}

/// How a host is reached.
#[derive(Clone, Debug, Default)]
struct FoundRegistry {
    /// Scheme, host and path; none as long as nobody has said.
    endpoint: Option<String>,
    ca: Option<PathBuf>,
    client: Option<ClientFiles>,
    /// Where its certificate need not be right, or its connection not be encrypted.
    insecure: Option<Place>,
}

/// A client certificate with its chain, and its key; both may be the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl Import {
    /// Reads a `registries.conf` and the folder of drop-ins beside it.
    pub fn registries_conf(&mut self, path: &Path) {
        registries_conf::read(self, path);
    }

    /// Reads containerd's folder of hosts.
    pub fn hosts_dir(&mut self, folder: &Path) {
        hosts_dir::read(self, folder);
    }

    /// Reads a file of Kubernetes objects.
    pub fn kubernetes(&mut self, path: &Path) {
        if let Some(text) = self.read(path) {
            self.kubernetes_text(path, &text);
        }
    }

    /// Reads the text of a `registries.conf`; `path` is only named.
    pub fn registries_conf_text(&mut self, path: &Path, text: &str) {
        registries_conf::read_texts(self, &[(path.to_owned(), text.to_owned())]);
    }

    /// Reads the text of the `hosts.toml` of one registry; certificates are looked for beside `path`.
    pub fn hosts_toml_text(&mut self, path: &Path, registry: &Registry, text: &str) {
        hosts_toml::read(self, path, registry, text);
    }

    /// Reads the text of a file of Kubernetes objects; `path` is only named.
    pub fn kubernetes_text(&mut self, path: &Path, text: &str) {
        kubernetes::read(self, path, text);
    }

    /// Puts together what was read. `own` are the addresses of the agent that the outcome is for: a mirror there is the
    /// agent itself.
    ///
    /// # Errors
    /// Everything that is wrong with the files, or between them.
    pub fn finish(self, own: &[SocketAddr]) -> Result<Imported, ImportError> {
        compose::finish(self, own)
    }

    fn note(&mut self, place: Place, text: impl Into<String>) {
        self.notes.push(Note { place, text: text.into() });
    }

    fn problem(&mut self, place: Place, text: impl Into<String>) {
        self.problems.push(Note { place, text: text.into() });
    }

    /// The text of a file, if it can be had.
    fn read(&mut self, path: &Path) -> Option<String> {
        self.files.push(path.to_owned());
        match read_bounded(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.problem(Place::whole(path), format!("cannot be read: {error}"));
                None
            }
        }
    }

    /// The entries of a folder, sorted; none, with a problem, if they cannot be had.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let paths: std::io::Result<Vec<PathBuf>> = std::fs::read_dir(folder)
            .and_then(|entries| entries.take(FILES_MAX + 1).map(|entry| Ok(entry?.path())).collect());
        match paths {
            Ok(paths) if paths.len() > FILES_MAX => {
                self.problem(Place::whole(folder), format!("has more than {FILES_MAX} entries"));
                Vec::new()
            }
            Ok(mut paths) => {
                paths.sort();
                paths
            }
            Err(error) => {
                self.problem(Place::whole(folder), format!("cannot be read: {error}"));
                Vec::new()
            }
        }
    }

    /// Remembers how a host is reached; false, with a note, if another file says something else.
    fn reach(&mut self, registry: &Registry, endpoint: &str, place: &Place) -> bool {
        let known = self.registries.entry(registry.clone()).or_default();
        match &known.endpoint {
            Some(other) if other != endpoint => {
                let text = format!(
                    "{registry} is asked at {other} elsewhere and at {endpoint} here; a registry has one endpoint, so this one is left out"
                );
                self.note(place.clone(), text);
                false
            }
            _ => {
                known.endpoint = Some(endpoint.to_owned());
                true
            }
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}
