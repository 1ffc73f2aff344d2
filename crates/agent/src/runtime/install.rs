//! Writing the agent into the configuration of runtimes, and taking it out again.
//!
//! Invariants: nothing is written twice, and nothing that says already what it shall say; a file that somebody has changed
//! since is never put back as a whole, only what was added is taken out of it; what cannot be done for one file is said and
//! keeps nothing else from being done. See [`super::record`] for how taking away stays exact.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{self, FileError};
use super::merge;
use super::plan::{self, Advice, Target, Wish};
use super::record::{Away, RECORD_MODE, Record, RecordError, Written};
use super::{Kind, Root, Runtime, Survey};

mod pause;
#[cfg(test)]
mod tests;

/// Why not all was done. The record tells what was.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What came of it for one runtime.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// Which.
    pub runtime: Kind,
    /// Its files.
    pub files: Vec<FileDone>,
    /// What only the operator can do.
    pub advice: Vec<Advice>,
    /// What makes the runtime read its files again; none if it does by itself, or nothing has changed.
    pub restart: Option<&'static str>,
}

/// What came of one file.
#[derive(Clone, Debug, Serialize)]
pub struct FileDone {
    /// Where.
    pub path: PathBuf,
    /// What.
    #[serde(flatten)]
    pub change: Change,
    /// The agent's URL in it.
    pub mirror: String,
    /// The lines that are new.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
}

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// It was not there.
    Created,
    /// It says more, or something else, than before.
    Changed,
    /// It says it already.
    Unchanged,
    /// It was taken away for a time, and is again as it was written.
    PutBack,
    /// It is as it was before the agent was added, or gone if it was not there.
    Restored,
    /// Somebody has changed it since; what was added is taken out, and the rest is theirs.
    TakenOut,
    /// Nothing of ours is in it any more.
    NothingLeft,
    /// It is left as it is.
    Refused {
        /// Why.
        why: String,
    },
}

/// Where things are: the node, and what is known of it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node's file tree.
    pub root: Root,
    /// The record, as a path of the node.
    pub record: PathBuf,
}

/// A file that has another text afterwards.
struct Edit {
    written: Written,
    folders: Vec<PathBuf>,
}

impl Site {
    /// What [`Site::install`] would do.
    ///
    /// # Errors
    /// The record cannot be used.
    pub fn preview(&self, survey: &Survey, wish: &Wish) -> Result<Vec<Done>, RuntimeError> {
        let record = Record::read(&self.root, &self.record)?;
        Ok(self.edits(survey, wish, &record).0)
    }

    /// Writes what is wished for, for all runtimes of `survey`.
    ///
    /// # Errors
    /// The record cannot be used, or the file system refuses. What was written until then is in the record.
    pub fn install(&self, survey: &Survey, wish: &Wish) -> Result<Vec<Done>, RuntimeError> {
        let made = files::missing_folders(&self.root, &self.record);
        files::make_folders(&self.root, &made)?;
        let lock = files::lock(&self.root, self.folder())?;
        let mut record = Record::read(&self.root, &self.record)?;
        let (done, edits) = self.edits(survey, wish, &record);
        if edits.is_empty() {
            drop(lock);
            for folder in made.iter().rev() {
                files::remove_empty(&self.root, folder);
            }
            return Ok(done);
        }
        record.folders.extend(made);
        for edit in &edits {
            record.folders.extend(edit.folders.iter().cloned());
            record.put(edit.written.clone());
        }
        files::write(&self.root, &self.record, &record.text(), Some(RECORD_MODE))?;
        for edit in &edits {
            files::make_folders(&self.root, &edit.folders)?;
            files::write(&self.root, &edit.written.path, &edit.written.after, None)?;
        }
        Ok(done)
    }

    /// Takes away what was written, for these runtimes, or for all if none is named.
    ///
    /// # Errors
    /// The record cannot be used, or the file system refuses. What is left is in the record.
    pub fn uninstall(&self, kinds: &[Kind], is_rehearsal: bool) -> Result<Vec<Done>, RuntimeError> {
        if !self.root.exists(&self.record) {
            return Ok(Vec::new());
        }
        let _lock = files::lock(&self.root, self.folder())?;
        let mut record = Record::read(&self.root, &self.record)?;
        let mut done: Vec<Done> = Vec::new();
        let mut kept = Vec::new();
        for written in std::mem::take(&mut record.files) {
            if !is_meant(kinds, &written) {
                kept.push(written);
                continue;
            }
            let file = self.take_out(&written, is_rehearsal)?;
            let is_left = matches!(file.change, Change::Refused { .. });
            note(&mut done, written.runtime, file);
            if is_left {
                kept.push(written);
            }
        }
        record.files = kept;
        if !is_rehearsal {
            self.put_away(record)?;
        }
        Ok(done)
    }

    /// What has become of what was written.
    ///
    /// # Errors
    /// The record cannot be used.
    pub fn written(&self) -> Result<Vec<FileStatus>, RuntimeError> {
        let record = Record::read(&self.root, &self.record)?;
        let status = |written: Written| {
            let now = self.root.read(&written.path).ok().flatten();
            let state = match now {
                Some(now) if now == written.after => State::AsWritten,
                _ if written.away.is_some() => State::Away,
                Some(_) => State::Changed,
                None => State::Gone,
            };
            let away = written.away.filter(|_| state == State::Away);
            FileStatus { path: written.path, runtime: written.runtime, mirror: written.mirror, state, away }
        };
        Ok(record.files.into_iter().map(status).collect())
    }

    /// Takes the agent out of one file, or tells how it would go.
    fn take_out(&self, written: &Written, is_rehearsal: bool) -> Result<FileDone, FileError> {
        let (change, text) = self.without(written);
        if !is_rehearsal {
            files::sweep(&self.root, &written.path);
        }
        if !is_rehearsal && matches!(change, Change::Restored | Change::TakenOut) {
            match text {
                Some(text) => files::write(&self.root, &written.path, &text, None)?,
                None => files::remove(&self.root, &written.path)?,
            }
        }
        let (path, mirror) = (written.path.clone(), written.mirror.clone());
        Ok(FileDone { path, change, mirror, added: Vec::new() })
    }

    fn folder(&self) -> &Path {
        self.record.parent().unwrap_or(Path::new("/"))
    }

    /// Writes down what is left, and removes the folders that nobody needs any more.
    fn put_away(&self, mut record: Record) -> Result<(), RuntimeError> {
        let is_over = record.files.is_empty();
        if is_over {
            files::remove(&self.root, &self.record)?;
        }
        // The innermost first; those that somebody has put something into stay.
        let folders: Vec<PathBuf> = record.folders.iter().rev().cloned().collect();
        for folder in folders {
            if files::remove_empty(&self.root, &folder) {
                record.folders.remove(&folder);
            }
        }
        if !is_over {
            files::write(&self.root, &self.record, &record.text(), Some(RECORD_MODE))?;
        }
        Ok(())
    }

    fn edits(&self, survey: &Survey, wish: &Wish, record: &Record) -> (Vec<Done>, Vec<Edit>) {
        let (mut all, mut edits) = (Vec::new(), Vec::<Edit>::new());
        let mut seen = BTreeSet::new();
        for runtime in &survey.runtimes {
            let wish = Wish { registries: self.with_earlier(runtime, wish, record), ..wish.clone() };
            let plan = plan::plan(&self.root, runtime, survey.platform, &wish);
            let mut done =
                Done { runtime: runtime.kind, files: Vec::new(), advice: plan.advice, restart: None };
            for target in plan.targets {
                let path = self.root.resolve(&target.path);
                // podman and CRI-O share theirs.
                if !seen.insert(path.clone()) {
                    continue;
                }
                let (file, edit) = self.edit(runtime.kind, path, &target, record);
                if edit.is_some() {
                    done.restart = plan.restart;
                }
                edits.extend(edit);
                done.files.push(file);
            }
            all.push(done);
        }
        (all, edits)
    }

    /// The registries that are wished for, and those that were before in the same file: installing adds.
    fn with_earlier(&self, runtime: &Runtime, wish: &Wish, record: &Record) -> Vec<String> {
        let is_recorded = |file: &Path| record.of(&self.root.resolve(file)).is_some();
        let earlier =
            runtime.mirrors.iter().filter(|mirrored| mirrored.own.is_some() && is_recorded(&mirrored.file));
        let registries: BTreeSet<String> = earlier
            .map(|mirrored| mirrored.registry.clone())
            .chain(wish.registries.iter().cloned())
            .collect();
        registries.into_iter().collect()
    }

    fn edit(&self, kind: Kind, path: PathBuf, target: &Target, record: &Record) -> (FileDone, Option<Edit>) {
        let mut file = FileDone {
            path: path.clone(),
            change: Change::Unchanged,
            mirror: target.mirror.clone(),
            added: Vec::new(),
        };
        let refused = |why: String| Change::Refused { why };
        let now = match self.root.read(&path) {
            Ok(now) => now,
            Err(error) => {
                file.change = refused(error.to_string());
                return (file, None);
            }
        };
        let base = match record.of(&path) {
            None => Ok(now.clone()),
            Some(known) => before_us(known, now.as_deref()),
        };
        let merged = base.and_then(|base| Ok((target.wanted.add(base.as_deref(), &target.mirror)?, base)));
        let (after, before) = match merged {
            Ok(merged) => merged,
            Err(error) => {
                file.change = refused(error.to_string());
                return (file, None);
            }
        };
        // What is there by somebody else's hand stays theirs.
        if now.as_ref() == Some(&after) {
            return (file, None);
        }
        file.change = if now.is_none() { Change::Created } else { Change::Changed };
        file.added = new_lines(now.as_deref().unwrap_or_default(), &after);
        let folders = files::missing_folders(&self.root, &path);
        let (mirror, format) = (target.mirror.clone(), target.wanted.format());
        let written = Written { path, runtime: kind, format, mirror, before, after, away: None };
        (file, Some(Edit { written, folders }))
    }

    /// What a file is without us, and how it gets there.
    fn without(&self, written: &Written) -> (Change, Option<String>) {
        let now = match self.root.read(&written.path) {
            Ok(now) => now,
            Err(error) => return (Change::Refused { why: error.to_string() }, None),
        };
        if now == written.before || now.is_none() {
            return (Change::NothingLeft, now);
        }
        let is_ours = now.as_ref() == Some(&written.after);
        match before_us(written, now.as_deref()) {
            Ok(text) if is_ours => (Change::Restored, text),
            Ok(text) if text == now => (Change::NothingLeft, text),
            Ok(text) => (Change::TakenOut, text),
            Err(error) => (Change::Refused { why: error.to_string() }, None),
        }
    }
}

impl Kind {
    /// Whether the same files are read by both.
    pub fn shares_files(self, other: Kind) -> bool {
        let of_containers = |kind| matches!(kind, Kind::CriO | Kind::Podman);
        self == other || of_containers(self) && of_containers(other)
    }
}

/// What has become of a file that was written.
#[derive(Clone, Debug, Serialize)]
pub struct FileStatus {
    /// Where.
    pub path: PathBuf,
    /// For whom.
    pub runtime: Kind,
    /// The agent's URL in it.
    pub mirror: String,
    /// What has become of it.
    pub state: State,
    /// Since when and why it is away, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
}

/// What has become of a file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody has changed it.
    AsWritten,
    /// Somebody has changed it.
    Changed,
    /// Somebody has removed it.
    Gone,
    /// `shoal runtime install --hold` has taken the agent out of it for now.
    Away,
}

/// Whether a file is one of these runtimes', or any is meant.
fn is_meant(kinds: &[Kind], written: &Written) -> bool {
    kinds.is_empty() || kinds.iter().any(|kind| kind.shares_files(written.runtime))
}

/// What a file would be if we had never been in it; none if it would not be there.
fn before_us(written: &Written, now: Option<&str>) -> Result<Option<String>, merge::MergeError> {
    let Written { format, mirror, before, after, .. } = written;
    let Some(now) = now else { return Ok(None) };
    if now == after || before.as_deref() == Some(now) {
        return Ok(before.clone());
    }
    let without = |text: &str| merge::remove(*format, text, mirror, before.as_deref());
    let left = without(now)?;
    // Nothing but what we had to write around it.
    let is_only_ours = before.is_none() && (left.trim().is_empty() || left == without(after)?);
    Ok((!is_only_ours).then_some(left))
}

/// The lines of a text that an earlier one has not.
fn new_lines(before: &str, after: &str) -> Vec<String> {
    let mut known: Vec<&str> = before.lines().collect();
    let mut added = Vec::new();
    for line in after.lines() {
        match known.iter().position(|other| *other == line) {
            Some(at) => drop(known.remove(at)),
            None => added.push(line.to_owned()),
        }
    }
    added
}

fn note(all: &mut Vec<Done>, runtime: Kind, file: FileDone) {
    let restart = Some(super::detect::Places::of(runtime).restart).filter(|text| !text.is_empty());
    let restart =
        restart.filter(|_| matches!(file.change, Change::Restored | Change::TakenOut | Change::PutBack));
    // hosts.toml is read anew at each pull.
    let restart = restart.filter(|_| !file.path.ends_with(crate::import::hosts_dir::HOSTS_FILE));
    match all.iter_mut().find(|done| done.runtime == runtime) {
        Some(done) => {
            done.restart = done.restart.or(restart);
            done.files.push(file);
        }
        None => all.push(Done { runtime, files: vec![file], advice: Vec::new(), restart }),
    }
}
