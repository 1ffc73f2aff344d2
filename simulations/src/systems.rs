//! The systems that a scenario can be run with: shoal's own engine, and models of what others do on the same links.

use std::fmt;
use std::path::Path;

use crate::baselines;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

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

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The simulator does not have it.
    #[error("{0} is not built yet")]
    NotBuilt(String),
    /// A recording cannot be read or written.
    #[error("cannot use the recording {file}")]
    Recording {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
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
pub fn run(scenario: &Scenario, system: System, progress: &dyn Fn(f64)) -> Result<Outcome, RunError> {
    match system {
        System::Shoal => Ok(crate::world::run(scenario, progress)),
        System::Upstream | System::Spegel | System::Dragonfly | System::Kraken => {
            Ok(baselines::run(scenario, system, progress))
        }
    }
}

/// Runs shoal and writes the inputs of one engine to a file.
pub fn record(scenario: &Scenario, file: &Path, progress: &dyn Fn(f64)) -> Result<Outcome, RunError> {
    let _ = (scenario, progress);
    Err(RunError::NotBuilt(format!("recording to {}", file.display())))
}

/// Feeds the recorded inputs of one engine, a simulated or a real one, to an engine, and says what came of it.
pub fn replay(file: &Path, progress: &dyn Fn(f64)) -> Result<String, RunError> {
    let _ = progress;
    Err(RunError::NotBuilt(format!("replaying {}", file.display())))
}
