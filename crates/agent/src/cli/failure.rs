//! Why a command failed, in words: what happened, what to do about it, and the exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{getegid, geteuid};
use shoal_engine::Digest;
use shoal_store::{OpenError, StoreError};

use crate::admin::client::{ClientError, RemoteError};
use crate::app::StartError;
use crate::config::ConfigErrors;
use crate::image::ImageError;
use crate::import::ImportError;
use crate::logging;
use crate::pull::PullError;
use crate::runtime::{ProofError, RuntimeError, TaintError};
use crate::stock::StockError;
use crate::trace::TraceError;

/// What to do where no agent answers on its socket.
const NO_AGENT: &str =
    "start it with `shoal agent`, or name its socket with --socket or its configuration with --config";
/// What to do about an agent that says nothing.
const HANGS: &str = "it hangs, or its disk does: shoal doctor tells more, and the agent's log";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// `--log` is wrong, or its variable.
    #[error("--log or SHOAL_LOG: {0}")]
    Filter(#[from] logging::FilterError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// What is not the name of an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A request about images makes no sense.
    #[error(transparent)]
    Stock(#[from] StockError),
    /// Other nodes are meant, and no agent runs that knows them.
    #[error("no agent runs on this node that could ask the others")]
    NoMembers,
    /// What is no platform.
    #[error("{0:?} is no platform")]
    NoPlatform(String),
    /// Nothing says where the agent listens.
    #[error("the configuration names no address for runtimes")]
    NoListener,
    /// A pull failed.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// There is nothing to warm.
    #[error("no image is named")]
    NothingToWarm,
    /// An image is named like a subcommand that is not.
    #[error("{word:?} looks like `shoal prewarm {meant}`")]
    Mistyped {
        /// What was given.
        word: String,
        /// The subcommand.
        meant: &'static str,
    },
    /// Help is wanted for what is no command.
    #[error("there is no command `{name}`")]
    NoCommand {
        /// What was given, with the commands before it.
        name: String,
        /// The command that it was looked for at.
        of: String,
    },
    /// Warming was given an option of the list.
    #[error("--cluster is an option of `shoal prewarm ls`")]
    NotForWarming,
    /// A file with Kubernetes objects is of no use.
    #[error("{place}: {reason}")]
    Manifest {
        /// The file.
        place: String,
        /// Why.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent ended while it was warming.
    #[error("the agent ended before the nodes were ready")]
    WarmLost {
        /// What was seen of that, if it was an error.
        source: Option<ClientError>,
    },
    /// The files to import are wrong.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file would be overwritten.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory cannot be handed to a user.
    #[error("cannot give {path} to {owner}", path = path.display())]
    Prepare {
        /// The directory, or what lies in it.
        path: PathBuf,
        /// The user and group, in numbers.
        owner: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent did not start.
    #[error("the agent cannot start: {0}")]
    Start(#[source] StartError),
    /// The agent did not do what it was asked.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// An agent of another machine cannot be called.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// There is neither an agent nor a store.
    #[error("no agent answers on {socket}, and there is no store at {store}", socket = socket.display(), store = store.display())]
    NoStore {
        /// The socket that was tried.
        socket: PathBuf,
        /// The directory that was tried.
        store: PathBuf,
    },
    /// The store cannot be opened.
    #[error("no agent answers on {socket}, and the store cannot be opened: {source}", socket = socket.display())]
    Open {
        /// The socket that was tried.
        socket: PathBuf,
        /// Why the store cannot be opened.
        #[source]
        source: OpenError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No such blob.
    #[error("{0} is not in the store")]
    Missing(Digest),
    /// What is neither a digest nor the beginning of one.
    #[error("{name:?} is no digest: {reason}")]
    NoDigest {
        /// What was given.
        name: String,
        /// Why.
        reason: String,
    },
    /// The beginning of a digest is that of no blob.
    #[error("no blob that this node knows has a digest that begins with {0}")]
    NoSuchPrefix(String),
    /// An image whose manifest is not on this node.
    #[error("{0}: its manifest is not on this node, so its blobs are not known here")]
    NotHere(String),
    /// The beginning of a digest is that of several blobs.
    #[error("{count} blobs begin with {prefix}: {first}, ...")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many there are.
        count: usize,
        /// One of them.
        first: Digest,
    },
    /// The system does not give what every program needs.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// Logging cannot be set up.
    #[error(transparent)]
    Logging(#[from] logging::InitError),
    /// The answer cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// The port that runtimes would be pointed at is not known to be the agent's.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The configuration of a runtime cannot be written.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// There is nothing to point at the agent.
    #[error("no container runtime is found below {}", .0.display())]
    NoRuntime(PathBuf),
    /// A taint cannot be removed.
    #[error(transparent)]
    Taint(#[from] TaintError),
    /// Files were left as they are; all others are done.
    #[error("files left as they are: {count}, named above with the reason")]
    FilesLeft {
        /// How many.
        count: usize,
    },
    /// The demo failed.
    #[error("the demo failed: {0}")]
    Demo(anyhow::Error),
}

impl Failure {
    /// What to do about it, where the error itself does not say.
    fn remedy(&self) -> Option<String> {
        Some(match self {
            Failure::Config(ConfigErrors::Unreadable { .. }) => {
                "name the file with --config, or print one with every key: shoal config sample".into()
            }
            Failure::Config(ConfigErrors::Wrong { .. }) => {
                "every key and what it may be: shoal config sample".into()
            }
            Failure::Agent(ClientError::NoAgent { at, .. })
            | Failure::Proof(ProofError::Agent(ClientError::NoAgent { at, .. }))
                if at.starts_with("https://") =>
            {
                "it has to run there, with this as its admin.address; name another address with --api".into()
            }
            Failure::Agent(ClientError::NoAgent { .. })
            | Failure::Proof(ProofError::Agent(ClientError::NoAgent { .. }))
            | Failure::NoStore { .. } => NO_AGENT.into(),
            Failure::Agent(ClientError::Denied { .. }) => "run the command as the agent's user, or as root".into(),
            Failure::Agent(ClientError::Late { .. })
            | Failure::Pull(PullError::Late { .. } | PullError::Silent { .. }) => HANGS.into(),
            Failure::Agent(ClientError::Broken { .. }) => "the agent's log may say why".into(),
            Failure::NoSuchPrefix(_) | Failure::Missing(_) => "list what there is: shoal blob ls".into(),
            Failure::NotHere(_) => {
                "name one of its blobs by digest, or give its digest (IMAGE@sha256:...); shoal pull fetches it".into()
            }
            Failure::Ambiguous { .. } => "give more of the digest".into(),
            Failure::NoDigest { .. } => "write it as the commands show it, or its beginning: sha256:4f2a91".into(),
            Failure::NoCommand { of, .. } => format!("those that there are: {of} --help"),
            Failure::NotForWarming => "leave it out: without --nodes, all nodes are meant".into(),
            Failure::Store(_) => "look at the disk that the path lies on".into(),
            Failure::Image(_) | Failure::Stock(_) => "write it as for a runtime: redis:7, quay.io/team/app@sha256:...".into(),
            Failure::NothingToWarm => {
                "name images, or files with --file or --from-manifest: shoal prewarm --help".into()
            }
            Failure::Mistyped { word, meant } if word == meant => {
                format!("options stand behind it; if it is an image, write its name in full: docker.io/library/{word}")
            }
            Failure::Mistyped { word, .. } => {
                format!("if it is an image, write its name in full: docker.io/library/{word}")
            }
            Failure::WarmLost { .. } => {
                "give the same command to the agent of another node, or to this one when it is back: what has come stays, \
                 and it goes on from there"
                    .into()
            }
            Failure::Prepare { .. } => {
                "run it as root (in a container: user 0 with CHOWN, FOWNER and DAC_OVERRIDE), on a directory and no link".into()
            }
            Failure::Proof(ProofError::NoAnswer { .. } | ProofError::Stranger { .. }) => {
                "name the agent's address with --mirror; nothing was written".into()
            }
            Failure::NoRuntime(_) => "name it with --runtime, or the node's file tree with --root".into(),
            Failure::FilesLeft { .. } => "add the agent to them by hand, or put them right and give the command again".into(),
            Failure::NoPlatform(_) => "write it as os/architecture: linux/arm64".into(),
            Failure::NoListener => "name it with --mirror".into(),
            Failure::Pull(PullError::NoAgent { .. }) => {
                "start it with `shoal agent`, or name its address with --mirror".into()
            }
            Failure::Pull(PullError::NoRegistry { .. }) => "name the agent's address with --mirror".into(),
            Failure::Pull(PullError::Broken { .. }) => {
                "the agent's log may say why; if somebody else listens there, name its address with --mirror".into()
            }
            Failure::Pull(PullError::Status { status, .. }) if status.as_u16() == 404 => {
                "look at the name; shoal mirrors explain IMAGE tells who is asked".into()
            }
            Failure::Pull(_) => "shoal status and the agent's log tell more; shoal mirrors explain tells who is asked".into(),
            Failure::NoMembers => "start it with `shoal agent`, or leave out --cluster".into(),
            Failure::Exists(_) => "name another file, or overwrite it with --force".into(),
            Failure::Output(_) => "look at where standard output goes".into(),
            Failure::Start(StartError::Store(error)) => return own_directory(error),
            Failure::Open { source: OpenError::ForeignOwner { .. } | OpenError::Io { .. }, .. } => {
                "run the command as the user who owns the store, or start the agent".into()
            }
            // These say it themselves.
            Failure::Agent(ClientError::Refused { .. })
            | Failure::Remote(_)
            | Failure::Filter(_)
            | Failure::Traces(_)
            | Failure::Proof(_)
            | Failure::Runtime(_)
            | Failure::Taint(_)
            | Failure::Import(_)
            | Failure::Manifest { .. }
            | Failure::Read { .. }
            | Failure::Write { .. }
            | Failure::Start(_)
            | Failure::Open { .. }
            | Failure::System { .. }
            | Failure::Logging(_)
            | Failure::Demo(_) => return None,
        })
    }

    /// The exit codes of the command, as its help lists them.
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Filter(_)
            | Failure::Image(_)
            | Failure::Stock(_)
            | Failure::NoPlatform(_)
            | Failure::NothingToWarm
            | Failure::Mistyped { .. }
            | Failure::NotForWarming
            | Failure::NoCommand { .. }
            | Failure::NoDigest { .. }
            | Failure::Remote(_)
            | Failure::Proof(ProofError::Url(_))
            | Failure::Manifest { .. }
            | Failure::Read { .. } => 2,
            Failure::Agent(ClientError::Refused { status, .. }) if status.as_u16() == 400 => 2,
            Failure::Import(_)
            | Failure::Config(_)
            | Failure::Traces(_)
            | Failure::Start(StartError::Upstream(_) | StartError::Tier(_)) => 3,
            Failure::Agent(ClientError::NoAgent { .. })
            | Failure::Proof(ProofError::Agent(ClientError::NoAgent { .. }))
            | Failure::Pull(PullError::NoAgent { .. })
            | Failure::NoMembers
            | Failure::NoStore { .. }
            | Failure::WarmLost { .. } => 4,
            Failure::Agent(ClientError::Refused { status, .. }) if status.as_u16() == 404 => 5,
            Failure::Missing(_) | Failure::NotHere(_) | Failure::NoSuchPrefix(_) => 5,
            _ => 1,
        }
    }

    /// What the error's own line does not say yet.
    fn causes(&self) -> Vec<String> {
        let said = self.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut add = |text: String| {
            if !said.contains(&text) && causes.last() != Some(&text) {
                causes.push(text);
            }
        };
        if let Failure::Demo(error) = self {
            error.chain().for_each(|cause| add(cause.to_string()));
        } else {
            let mut next = self.source();
            while let Some(cause) = next {
                add(cause.to_string());
                next = cause.source();
            }
        }
        causes
    }
}

/// What to do about the agent's own directory, where the error does not say; it does not know its key.
fn own_directory(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Io { operation, path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            let is_itself = *operation == "make the directory";
            let directory = path.parent().filter(|_| !is_itself).unwrap_or(path).display();
            let owner = format!("{}:{}", geteuid().as_raw(), getegid().as_raw());
            Some(format!(
                "store.path must be a directory of this user: make it one as root, with `shoal prepare {directory} --owner \
                 {owner}` or `chown -R {owner} {directory}`, or name another directory in store.path"
            ))
        }
        OpenError::Io { .. } | OpenError::Index { .. } => {
            Some("look at the disk that it lies on, or name another directory in store.path".into())
        }
        OpenError::ForeignOwner { .. } | OpenError::Locked { .. } | OpenError::NotAStore { .. } => {
            Some("the key that names it is store.path".into())
        }
        OpenError::Format { .. } => None,
    }
}

/// The error as it goes to standard error, and the exit code. Without `verbose` only the innermost cause is told, in the
/// same line: it is what the system said, and more often than not what the operator needs.
pub fn explain(failure: &Failure, verbose: bool) -> (String, ExitCode) {
    let mut text = format!("error: {failure}");
    let causes = failure.causes();
    if verbose {
        for cause in &causes {
            let _ = write!(text, "\n  because: {cause}");
        }
    } else if let Some(cause) = causes.last() {
        let _ = write!(text, ": {cause}");
    }
    if let Some(remedy) = failure.remedy() {
        let _ = write!(text, "\nhelp: {remedy}");
    }
    (text, ExitCode::from(failure.exit_code()))
}
