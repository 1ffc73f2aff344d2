//! The systems that a scenario can be run with: shoal's own engine, and models of what others do on the same links.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use shoal_engine::record::{RecordError, Recorder};

use crate::baselines;
use crate::outcome::Outcome;
use crate::replay::Replayed;
use crate::scenario::Scenario;
use crate::world::{self, Seen, Watchers};

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum System {
    /// The engine of this repository.
    Shoal,
    /// Every node pulls from the origin.
    Upstream,
    /// Whole layers are shared once they are complete; a miss is a 404, and the client goes to the origin.
    Spegel,
    /// A scheduler, at most three parents, pieces of 4 MiB that are stored before they are passed on.
    Dragonfly,
    /// The origin takes the whole blob in first, then a random graph of degree ten passes on 4 MB pieces, rarest first.
    Kraken,
}

/// What shoal is compared with, in the order of tables.
pub const BASELINES: [System; 4] = [System::Upstream, System::Spegel, System::Dragonfly, System::Kraken];

/// Who watches a run of shoal, beside the outcome. The other systems are not watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch<'a> {
    /// The inputs of the engine of node 0 are written here.
    pub record: Option<&'a Path>,
    /// One line is written here for each message, upload, request, complaint of a client and broken rule.
    pub log: Option<&'a Path>,
    /// Tells the bytes of the heap that are in use: an allocator that counts is the program's to choose.
    pub live_bytes: Option<fn() -> u64>,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read or written.
    #[error("cannot use {file}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A recording cannot be understood.
    #[error("{file} cannot be replayed")]
    Recording {
        /// The file.
        file: String,
        /// What is wrong with it, and where.
        source: RecordError,
    },
}

impl System {
    /// What it is called in tables and in [`Outcome::system`].
    pub fn name(self) -> &'static str {
        match self {
            System::Shoal => "shoal",
            System::Upstream => "upstream",
            System::Spegel => "spegel",
            System::Dragonfly => "dragonfly",
            System::Kraken => "kraken",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs a scenario. `progress` is told the share that is done, 0 to 1.
pub fn run(
    scenario: &Scenario,
    system: System,
    watch: Watch<'_>,
    progress: &dyn Fn(f64),
) -> Result<Outcome, RunError> {
    match system {
        System::Shoal => run_shoal(scenario, watch, progress),
        System::Upstream | System::Spegel | System::Dragonfly | System::Kraken => {
            Ok(baselines::run(scenario, system, progress))
        }
    }
}

fn run_shoal(scenario: &Scenario, watch: Watch<'_>, progress: &dyn Fn(f64)) -> Result<Outcome, RunError> {
    let mut recording = watch.record.map(Lines::create).transpose()?;
    let mut log = watch.log.map(Lines::create).transpose()?;
    let mut tape = Tape::default();
    let watchers = Watchers {
        engine: recording
            .as_mut()
            .map(|file| -> Box<dyn FnMut(Seen<'_>)> { Box::new(|seen| file.append(&tape.record(&seen))) }),
        log: log.as_mut().map(|file| -> Box<dyn FnMut(&str)> {
            Box::new(|line| {
                file.append(line.as_bytes());
                file.append(b"\n");
            })
        }),
        live_bytes: watch.live_bytes,
    };
    let outcome = world::watch(scenario, watchers, progress);
    for file in [recording, log].into_iter().flatten() {
        file.close()?;
    }
    Ok(outcome)
}

/// What a recorder writes of what is seen.
#[derive(Default)]
pub struct Tape(Option<Recorder>);

impl Tape {
    /// The bytes to append.
    pub fn record(&mut self, seen: &Seen<'_>) -> Vec<u8> {
        match (seen, &mut self.0) {
            (Seen::Begun(settings), Some(recorder)) => recorder.restart(*settings),
            (Seen::Begun(settings), none) => {
                let (recorder, bytes) = Recorder::begin(*settings);
                *none = Some(recorder);
                bytes
            }
            (Seen::Input(now, input), Some(recorder)) => recorder.input(*now, input),
            (Seen::Input(..), None) | (Seen::Output(..), _) => Vec::new(),
        }
    }
}

/// A file that is written while nobody can be told that it cannot: the first error is kept.
struct Lines {
    name: String,
    file: BufWriter<File>,
    error: Option<io::Error>,
}

impl Lines {
    fn create(path: &Path) -> Result<Self, RunError> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Lines { name, file: BufWriter::new(file), error: None }),
            Err(source) => Err(RunError::File { file: name, source }),
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.file.write_all(bytes).err();
        }
    }

    fn close(mut self) -> Result<(), RunError> {
        let error = self.error.or_else(|| self.file.flush().err());
        error.map_or(Ok(()), |source| Err(RunError::File { file: self.name, source }))
    }
}

/// Feeds the recorded inputs of one engine, a simulated or a real one, to an engine, and says what came of it.
pub fn replay(path: &Path, progress: &dyn Fn(f64)) -> Result<Replayed, RunError> {
    let file = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(RunError::File { file, source }),
    };
    crate::replay::replay(&bytes, progress).map_err(|source| RunError::Recording { file, source })
}
