//! The `shoal` command: what can be said on the command line, and what comes of it.
//!
//! Invariants: standard output carries the answer and nothing else, so `--json` can be piped; an error is one line that
//! says what and one that says what to do; a reader that goes away is no error. Only this module reads the environment.

mod agent;
mod api;
mod blob;
mod config;
mod doctor;
mod explain;
pub(crate) mod failure;
#[cfg(test)]
mod fixture;
mod import;
mod manual;
mod mirrors;
mod output;
mod peers;
mod prepare;
mod prewarm;
mod process;
mod pull;
mod runtime;
mod status;
mod stock;
#[cfg(test)]
mod tests;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::admin::client::AdminClient;
use crate::config::{Config, ConfigErrors, DEFAULT_PATH, NodeFacts, Whereabouts};
use crate::runtime::{ProofError, authority};

pub use failure::{Failure, explain};

use output::Output;
pub(crate) use output::member_name;

const EXAMPLES: &str = "\
Examples:
  shoal agent --config shoal.toml  run the agent
  shoal config check               what is wrong with the configuration
  shoal mirrors explain redis:7    who is asked for an image, in which order
  shoal status                     what the agent on this node is doing
  shoal doctor                     what is wrong with this node, what to do
  shoal blob ls --sort size        what it has stored
  shoal runtime install            have the runtimes of this node ask it
  shoal prewarm redis:7            bring an image to all nodes ahead of time
  shoal explain redis:7            where its blobs are, what makes them slow
  shoal demo                       see it work, here, in ten seconds

Exit status:
  0  done                    3  the configuration is wrong
  1  failed                  4  no agent answers
  2  wrong command line      5  what was named is not there, or a blob's bytes
                                do not match
`shoal prewarm` and `shoal pull` have lists of their own.";

/// A registry mirror on every node: each blob comes from upstream once, whoever asks for it.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, after_help = EXAMPLES, disable_help_subcommand = true, propagate_version = false)]
pub struct Cli {
    /// Tell the causes of an error, too.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node.
    ///
    /// Listens where the configuration says, answers container runtimes, and logs one line for each request to standard
    /// error. SIGTERM and SIGINT drain: the ports close, requests under way end within shutdown.drain_deadline, and
    /// half-received blobs are kept. A second signal ends at once.
    #[command(after_help = "Example:\n  SHOAL_LOG=info,shoal::request=warn shoal agent --config shoal.toml")]
    Agent(agent::AgentArgs),
    /// Check the configuration, or show it.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show which mirrors are asked.
    #[command(subcommand)]
    Mirrors(mirrors::MirrorsCommand),
    /// List, check and remove stored blobs.
    ///
    /// Asks the agent of this node. When none runs, the store is opened directly, as the user who owns it.
    #[command(subcommand)]
    Blob(blob::BlobCommand),
    /// Show what the agent of this node is doing.
    Status(status::StatusArgs),
    /// Watch the agent and its cluster, live.
    Top(top::TopArgs),
    /// Show who has a blob or an image, who sends it, and what makes it slow.
    Explain(explain::ExplainArgs),
    /// Show the other agents that this one knows.
    Peers(peers::PeersArgs),
    /// Look at this node as an experienced person would: what is wrong, what it means, what to do.
    ///
    /// Looks at the configuration, the agent, its disk, registries and mirrors, other members and the container runtimes,
    /// all at once; takes 20 s at most and changes nothing. Works when the agent is down, too.
    Doctor(doctor::DoctorArgs),
    /// Point the container runtimes of this node at the agent.
    #[command(subcommand)]
    Runtime(runtime::RuntimeCommand),
    /// Bring images to nodes before anybody asks for them, and wait until they are there.
    Prewarm(Box<prewarm::PrewarmArgs>),
    /// Give directories to the user that the agent will run as.
    ///
    /// For an agent that runs without rights of its own: run as root before it, for example in an init container. Directories
    /// that are missing are made; what lies in those of somebody else changes hands with them.
    #[command(after_help = "Example:\n  shoal prepare /var/lib/shoal /run/shoal --owner 65532:65532")]
    Prepare(prepare::PrepareArgs),
    /// Pull an image through the agent, and tell where the time went.
    Pull(pull::PullArgs),
    /// Remove images, from this node or from all.
    Evict(stock::EvictArgs),
    /// Keep images from being evicted, on this node or on all.
    Pin(stock::PinArgs),
    /// Let images be evicted again, on this node or on all.
    #[command(after_help = "Example:\n  shoal unpin registry.example.com/app:v2 --cluster")]
    Unpin(stock::UnpinArgs),
    /// Clean up the store now.
    Gc(stock::GcArgs),
    /// Describe the API that the commands use.
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// See it work: a real registry, an agent and a client for each node, all at once, on this machine.
    Demo(crate::demo::Args),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  shoal completion bash > /etc/bash_completion.d/shoal")]
    Completion {
        /// Which shell.
        shell: Shell,
    },
    /// Write the manual pages, one for each command.
    #[command(after_help = "Example:\n  shoal man pages && man ./pages/shoal-prewarm.1")]
    Man {
        /// Directory that they are written to. It is made if it is not there.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Show the help of a command, as --help does.
    #[command(after_help = "Example:\n  shoal help prewarm status")]
    Help {
        /// The command, with its subcommand.
        command: Vec<String>,
    },
    /// Print the version.
    Version {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Which configuration is meant.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file. Without one: /etc/shoal/shoal.toml if it is there, otherwise the defaults.
    #[arg(short, long, env = "SHOAL_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that is meant; none means the defaults.
    fn path(&self) -> Option<&Path> {
        let default = Path::new(DEFAULT_PATH);
        self.config.as_deref().or_else(|| default.exists().then_some(default))
    }

    fn load(&self) -> Result<Config, Failure> {
        Ok(self.read(&NodeFacts::default())?)
    }

    /// Where the agent is, by a user who may not be allowed to read what else the configuration names.
    fn whereabouts(&self) -> Result<Whereabouts, Failure> {
        Ok(Whereabouts::load(self.path())?)
    }

    fn read(&self, facts: &NodeFacts) -> Result<Config, ConfigErrors> {
        match self.path() {
            Some(path) => Config::load(path, facts),
            None => Config::without_file(facts),
        }
    }
}

/// What this node says of itself, beside a configuration that all nodes share. Empty values say nothing.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Failure and cost domain of this node. Goes before swarm.zone.
    #[arg(long, env = "SHOAL_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// Labels of this node: KEY=VALUE[,KEY=VALUE...]. Go before the same keys in swarm.labels.
    #[arg(long, env = "SHOAL_LABELS", value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<Option<(String, String)>>,
    /// IP addresses that other agents are told: A[,B...], best first. Go before swarm.advertise.
    #[arg(long, env = "SHOAL_ADVERTISE", value_name = "ADDRESSES", value_delimiter = ',')]
    advertise: Vec<String>,
    /// The collector that takes traces of pulls, over OTLP as HTTP with protobuf. Goes before traces.endpoint.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    traces: Option<String>,
}

impl NodeArgs {
    fn facts(&self) -> NodeFacts {
        NodeFacts {
            zone: self.zone.clone(),
            labels: self.labels.iter().flatten().cloned().collect(),
            advertise: self.advertise.clone(),
            traces: self.traces.clone(),
        }
    }
}

/// A time span as people write it.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write it as 24h, 90m, 30s or 7days".into())
}

/// As [`duration`], and more than nothing: what lasts for no time is no wish that anybody has.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) { Err("must be at least 1s".into()) } else { Ok(time) }
}

/// The agent's port for runtimes, as it is written on the command line: http://127.0.0.1:5000, or the address alone.
fn mirror_url(given: &str) -> Result<String, ProofError> {
    let bare = given.trim_end_matches('/');
    let url = if given.contains("://") { bare.to_owned() } else { format!("http://{bare}") };
    match authority(&url) {
        Ok(_) => Ok(url),
        // In the words of whoever wrote it.
        Err(_) => Err(ProofError::Url(given.to_owned())),
    }
}

/// `KEY=VALUE`; nothing at all is no label, because a variable may be set and empty.
fn label(text: &str) -> Result<Option<(String, String)>, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Some((key.to_owned(), value.to_owned()))),
        None if text.is_empty() => Ok(None),
        _ => Err("a label is written KEY=VALUE".into()),
    }
}

/// Which agent is meant.
#[derive(Debug, Args)]
struct AgentSocket {
    #[command(flatten)]
    config: ConfigArgs,
    /// The agent's admin socket. Without it: the one that the configuration names.
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// An agent of another machine, by its admin.address, such as https://node-7:5443.
    #[arg(long, value_name = "URL", requires = "token_file", conflicts_with = "socket")]
    api: Option<String>,
    /// File with the token of that agent.
    #[arg(long, value_name = "FILE", requires = "api", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,
    /// PEM file with the CA that signed that agent's certificate. Without it: those that this system trusts.
    #[arg(long, value_name = "FILE", requires = "api", value_hint = ValueHint::FilePath)]
    ca: Option<PathBuf>,
}

impl AgentSocket {
    fn client(&self) -> Result<AdminClient, Failure> {
        match (&self.api, &self.token_file) {
            (Some(url), Some(token)) => Ok(AdminClient::remote(url, token, self.ca.as_deref())?),
            _ => Ok(AdminClient::new(&self.path()?)),
        }
    }

    fn path(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => Ok(self.config.whereabouts()?.admin_socket().to_owned()),
        }
    }
}

impl Cli {
    /// Whether the causes of an error are wanted.
    pub fn wants_causes(&self) -> bool {
        self.verbose || std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0")
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// Why it could not be done; [`explain`] turns it into text and an exit code.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let mut out = Output::stdout();
        let outcome = match self.command {
            Command::Agent(args) => agent::run(&args),
            Command::Config(command) => config::run(&command, &mut out),
            Command::Mirrors(command) => process::light_runtime()?.block_on(mirrors::run(&command, &mut out)),
            Command::Blob(command) => process::light_runtime()?.block_on(blob::run(&command, &mut out)),
            Command::Status(args) => process::light_runtime()?.block_on(status::run(&args, &mut out)),
            Command::Top(args) => process::light_runtime()?.block_on(top::run(&args, &mut out)),
            Command::Explain(args) => process::light_runtime()?.block_on(explain::run(&args, &mut out)),
            Command::Runtime(command) => process::light_runtime()?.block_on(runtime::run(&command, &mut out)),
            Command::Peers(args) => process::light_runtime()?.block_on(peers::run(&args, &mut out)),
            Command::Doctor(args) => {
                let runtime = process::light_runtime()?;
                let outcome = runtime.block_on(doctor::run(&args, &mut out));
                // A disk that hangs keeps its thread; nobody waits for it any more.
                runtime.shutdown_background();
                outcome
            }
            Command::Prewarm(args) => process::light_runtime()?.block_on(prewarm::run(&args, &mut out)),
            Command::Pull(args) => process::runtime(0)?.block_on(pull::run(&args, &mut out)),
            Command::Evict(args) => process::light_runtime()?.block_on(stock::evict(&args, &mut out)),
            Command::Pin(args) => process::light_runtime()?.block_on(stock::pin(&args, &mut out)),
            Command::Unpin(args) => process::light_runtime()?.block_on(stock::unpin(&args, &mut out)),
            Command::Gc(args) => process::light_runtime()?.block_on(stock::gc(&args, &mut out)),
            Command::Api(command) => api::run(&command, &mut out),
            Command::Demo(args) => {
                process::runtime(0)?.block_on(crate::demo::run(args)).map_err(Failure::Demo)
            }
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "shoal", &mut script);
                out.bytes(&script).map(|()| ExitCode::SUCCESS)
            }
            Command::Prepare(args) => prepare::run(&args, &mut out),
            Command::Man { directory } => {
                manual::write(Cli::command(), &directory).map(|()| ExitCode::SUCCESS)
            }
            Command::Help { command } => help(&command, &mut out).map(|()| ExitCode::SUCCESS),
            Command::Version { json } => version(json, &mut out).map(|()| ExitCode::SUCCESS),
        };
        match outcome {
            // `shoal blob ls | head` is no error.
            Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Ok(ExitCode::SUCCESS)
            }
            outcome => outcome,
        }
    }
}

/// The help of a command.
fn help(words: &[String], out: &mut Output) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    for word in words {
        let Some(next) = command.find_subcommand(word).cloned() else {
            let of = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
            return Err(Failure::NoCommand { name: format!("{of} {word}"), of });
        };
        command = next;
    }
    out.bytes(command.render_long_help().to_string().as_bytes())
}

fn version(json: bool, out: &mut Output) -> Result<(), Failure> {
    let (version, target) =
        (env!("CARGO_PKG_VERSION"), format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    if json {
        out.json(&serde_json::json!({ "name": "shoal", "version": version, "target": target }))
    } else {
        out.line(format_args!("shoal {version} ({target})"))
    }
}
