//! A wall clock that jumps: of one process alone, as if somebody had set the machine's (Debian's libfaketime). Its monotonic
//! clock goes on as it does on a real machine.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::agent::Setup;
use crate::place;

/// A clock for the agents that are set up with it.
pub struct Clock {
    folder: TempDir,
}

impl Clock {
    /// One that is right so far.
    pub fn right() -> Self {
        let clock = Clock { folder: place::scratch() };
        clock.jump(0);
        clock
    }

    /// Sets it so many seconds after the real time, or before it.
    pub fn jump(&self, seconds: i64) {
        // In place of the old one at once: a process that looks in between must not find half a number.
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("the folder is ours");
        std::fs::rename(new, self.file()).expect("the folder is ours");
    }

    /// An agent that has this clock.
    pub fn of(&self, setup: Setup) -> Setup {
        setup
            .env("LD_PRELOAD", &library().display().to_string())
            .env("FAKETIME_TIMESTAMP_FILE", &self.file().display().to_string())
            // The file is looked at each time the clock is.
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

/// The library that shows a process another time; panics with the Debian package that has it.
fn library() -> PathBuf {
    let of_architecture = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketimeMT.so.1");
    let folders = std::fs::read_dir(Path::new("/usr/lib")).expect("every system has libraries");
    let found = folders.flatten().map(of_architecture).find(|library| library.is_file());
    found.unwrap_or_else(|| panic!("libfaketime is missing; install it with `apt-get install libfaketime`"))
}
