//! What a check can come to, and the list of everything that can be found.
//!
//! Invariant: the identifier of a kind of finding never changes its meaning; scripts and runbooks go by it. The operator's
//! manual lists all of them in these words, and a test compares.

use serde::Serialize;

/// Parts of a node, in the order in which a person would look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The configuration and the files it names.
    Configuration,
    /// The process, its ports and its socket.
    Agent,
    /// The data directory and its disk.
    Store,
    /// Registries and mirrors.
    Registries,
    /// The other agents.
    Swarm,
    /// The container runtimes of this node.
    Runtimes,
}

impl Group {
    /// All of them, in order.
    pub const ALL: [Group; 6] =
        [Group::Configuration, Group::Agent, Group::Store, Group::Registries, Group::Swarm, Group::Runtimes];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Configuration => "Configuration",
            Group::Agent => "Agent",
            Group::Store => "Store",
            Group::Registries => "Registries and mirrors",
            Group::Swarm => "Swarm",
            Group::Runtimes => "Container runtimes",
        }
    }
}

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something does not work, or pulls go around the agent.
    Problem,
    /// It works, and will stop, is slower than it could be, or is open to others.
    Warning,
    /// Good to know.
    Hint,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Problem => "problem",
            Level::Warning => "warning",
            Level::Hint => "hint",
        }
    }
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its identifier.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// How bad it is.
    pub level: Level,
    /// What it means for this node.
    pub means: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Declares the kinds of one check, and the list of them.
macro_rules! kinds {
    ($($name:ident: $id:literal, $group:ident, $level:ident, $means:literal, $remedy:literal;)*) => {
        $(
            pub(super) static $name: $crate::doctor::Kind = $crate::doctor::Kind {
                id: $id,
                group: $crate::doctor::Group::$group,
                level: $crate::doctor::Level::$level,
                means: $means,
                remedy: $remedy,
            };
        )*
        /// Everything that this check can find.
        pub(super) static KINDS: &[&$crate::doctor::Kind] = &[$(&$name),*];
    };
}
pub(super) use kinds;

/// What a check has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well with something.
    Well {
        /// Where it belongs.
        group: Group,
        /// What is well, in a few words.
        what: String,
    },
    /// Something was found.
    Found(Finding),
}

impl Outcome {
    /// All is well with something.
    pub fn well(group: Group, what: impl Into<String>) -> Self {
        Outcome::Well { group, what: what.into() }
    }

    /// Where it belongs.
    pub fn group(&self) -> Group {
        match self {
            Outcome::Well { group, .. } => *group,
            Outcome::Found(finding) => finding.kind.group,
        }
    }

    /// How bad it is, if it is.
    pub fn level(&self) -> Option<Level> {
        match self {
            Outcome::Well { .. } => None,
            Outcome::Found(finding) => Some(finding.level),
        }
    }
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: &'static Kind,
    /// How bad it is here: the kind's level, or a milder one.
    pub level: Level,
    /// What was seen, in one line that names the thing.
    pub what: String,
    /// What to do here, where that is more than the kind says.
    pub remedy: Option<String>,
}

impl Kind {
    /// A finding of this kind.
    pub fn found(&'static self, what: impl Into<String>) -> Finding {
        Finding { kind: self, level: self.level, what: what.into(), remedy: None }
    }
}

impl Finding {
    /// With a remedy for this very case.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// No worse than this.
    #[must_use]
    pub fn at_most(mut self, level: Level) -> Self {
        self.level = self.level.max(level);
        self
    }

    /// What to do.
    pub fn what_to_do(&self) -> &str {
        self.remedy.as_deref().unwrap_or(self.kind.remedy)
    }
}

impl From<Finding> for Outcome {
    fn from(finding: Finding) -> Self {
        Outcome::Found(finding)
    }
}
