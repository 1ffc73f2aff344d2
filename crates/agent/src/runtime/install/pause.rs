//! Taking the agent's entries away for now, and putting them back: the record keeps what they were.
//!
//! Invariants: while they are away, every file is what it would be after [`Site::uninstall`]; what is put back is what was
//! written, byte for byte, and only where nobody has written anything meanwhile. The record says that a file is away before it is.

use super::super::record::{Away, RECORD_MODE, Record, Written};
use super::super::{Kind, files};
use super::{Change, Done, FileDone, RuntimeError, Site, is_meant, note};
use crate::watch::now_ms;

impl Site {
    /// Takes away what was written, for these runtimes or for all if none is named, and remembers it for [`Site::resume`].
    /// Tells what it did; nothing, if nothing was there.
    ///
    /// # Errors
    /// The record cannot be used, or the file system refuses. What is left is in the record.
    pub fn pause(&self, kinds: &[Kind], why: &str) -> Result<Vec<Done>, RuntimeError> {
        if !self.root.exists(&self.record) {
            return Ok(Vec::new());
        }
        let _lock = files::lock(&self.root, self.folder())?;
        let mut record = Record::read(&self.root, &self.record)?;
        let meant: Vec<Written> =
            record.files.iter().filter(|written| is_meant(kinds, written)).cloned().collect();
        let away = Away { since_ms: now_ms(), why: why.to_owned() };
        for written in &meant {
            record.put(Written {
                away: written.away.clone().or_else(|| Some(away.clone())),
                ..written.clone()
            });
        }
        files::write(&self.root, &self.record, &record.text(), Some(RECORD_MODE))?;
        let mut done = Vec::new();
        for written in meant {
            let file = self.take_out(&written, false)?;
            if matches!(file.change, Change::Refused { .. }) {
                record.put(Written { away: None, ..written.clone() });
            }
            // What an earlier attempt has done is no news.
            if written.away.is_none() || file.change != Change::NothingLeft {
                note(&mut done, written.runtime, file);
            }
        }
        self.put_away(record)?;
        Ok(done)
    }

    /// Puts back what [`Site::pause`] has taken away, for these runtimes or for all if none is named, as far as it names one of
    /// these addresses and nobody has written to the file since; the rest is for [`Site::install`].
    ///
    /// # Errors
    /// The record cannot be used, or the file system refuses.
    pub fn resume(&self, kinds: &[Kind], mirrors: &[&str]) -> Result<Vec<Done>, RuntimeError> {
        if !self.root.exists(&self.record) {
            return Ok(Vec::new());
        }
        let _lock = files::lock(&self.root, self.folder())?;
        let mut record = Record::read(&self.root, &self.record)?;
        if record.files.iter().all(|written| written.away.is_none()) {
            return Ok(Vec::new());
        }
        let mut back = Vec::new();
        for written in record.files.iter_mut() {
            let is_ours = is_meant(kinds, written) && mirrors.contains(&written.mirror.as_str());
            if written.away.is_none() || !is_ours {
                continue;
            }
            let now = self.root.read(&written.path).ok();
            let is_there = now.as_ref().is_some_and(|now| now.as_ref() == Some(&written.after));
            let is_untouched = now.as_ref().is_some_and(|now| *now == written.before);
            if is_there || is_untouched {
                written.away = None;
            }
            if is_untouched {
                back.push((written.clone(), files::missing_folders(&self.root, &written.path)));
            }
        }
        record.folders.extend(back.iter().flat_map(|(_, folders)| folders.iter().cloned()));
        files::write(&self.root, &self.record, &record.text(), Some(RECORD_MODE))?;
        let mut done = Vec::new();
        for (written, folders) in back {
            files::make_folders(&self.root, &folders)?;
            files::write(&self.root, &written.path, &written.after, None)?;
            let file = FileDone {
                path: written.path,
                change: Change::PutBack,
                mirror: written.mirror,
                added: Vec::new(),
            };
            note(&mut done, written.runtime, file);
        }
        Ok(done)
    }
}
