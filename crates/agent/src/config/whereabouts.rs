//! Where an agent is, for somebody who only wants to talk to it.
//!
//! Invariant: no file that the configuration names is opened, so a user who may not read its secrets is not told that it is
//! wrong. What stands in the file is checked as far as this needs it: a misspelt key is told, not passed over.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::Document;
use super::{
    Config, ConfigErrors, Listener, NamedFile, Problem, files, regular, resolve, schema, store_options,
};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    file: schema::File,
    listeners: Vec<Listener>,
}

impl Whereabouts {
    /// Those that a file tells; without one, those of the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong in what it says of the agent's places.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let Some(path) = path else { return Ok(Self::defaults()) };
        let unreadable = |source| ConfigErrors::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let wrong = |problems| ConfigErrors::Wrong { path: Some(path.to_owned()), problems };
        let document = Document::parse(&text).map_err(wrong)?;
        let (file, problems) = document.read();
        let (listeners, problems) = resolve::places(&file, &document, problems);
        if problems.is_empty() { Ok(Whereabouts { file, listeners }) } else { Err(wrong(problems)) }
    }

    fn defaults() -> Self {
        let Config { file, checked } = Config::default();
        Whereabouts { file, listeners: checked.listeners }
    }

    /// The unix socket of the command line.
    pub fn admin_socket(&self) -> &Path {
        &self.file.admin.socket
    }

    /// Where clients connect; at least one.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The agent's own deadlines: from a request to the head of its answer, and from one piece of a body to the next.
    pub fn deadlines(&self) -> (Duration, Duration) {
        (self.file.registry.answer_timeout.0, self.file.registry.body_idle_timeout.0)
    }

    /// How the store is opened.
    pub fn store_options(&self) -> shoal_store::Options {
        store_options(&self.file.store)
    }

    /// Of these problems of the same file, those that are none but for this user, who may not read a file that it names.
    pub fn denied(&self, problems: &[Problem]) -> Vec<NamedFile> {
        let is_denied = |path: &PathBuf| {
            regular::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let named = files::named(&self.file).into_iter();
        named
            .filter(|named| problems.iter().any(|of| of.key == named.key) && is_denied(&named.path))
            .collect()
    }
}
