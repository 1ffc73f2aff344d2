//! `shoal runtime`: points the container runtimes of this node at the agent, and away from it.

mod hold;
mod taint;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;
use shoal_engine::Registry;

use super::output::Output;
use super::{AgentSocket, ConfigArgs, Failure, mirror_url};
use crate::config::Config;
use crate::runtime::{
    Change, DEFAULT_RECORD, Done, EVERY_REGISTRY, FileStatus, Kind, Own, Root, Site, Survey, Trap, Version,
    Wish, is_plain, prove, survey, survey_of,
};

/// Registries that stand for every one where a runtime wants names.
const KNOWN: [&str; 7] =
    ["docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"];

#[derive(Debug, Subcommand)]
pub(super) enum RuntimeCommand {
    /// Have the runtimes of this node ask the agent first.
    ///
    /// Adds the agent to what their configuration says, before every other mirror, once the agent has proved that the port is
    /// its own. What was there is recorded, so that `uninstall` can put it back exactly. Where no file can be written, the
    /// lines for it are printed. A second call adds, and changes nothing that is there already.
    #[command(
        after_help = "Examples:\n  shoal runtime install --dry-run\n  shoal runtime install --registry docker.io --registry ghcr.io\n  shoal runtime install --runtime containerd --write-runtime-config\n  shoal runtime install --root /host"
    )]
    Install(Box<InstallArgs>),
    /// Take away what `install` has written.
    ///
    /// Every file is as it was before, byte for byte, and what was not there is gone. Of a file that somebody has changed
    /// since, only the agent's entries are taken out.
    #[command(after_help = "Example:\n  shoal runtime uninstall --runtime docker")]
    Uninstall(UninstallArgs),
    /// Show the runtimes of this node, what they ask the agent for, and what keeps them from it.
    #[command(after_help = "Example:\n  shoal runtime status --json | jq '.runtimes[].findings'")]
    Status(StatusArgs),
}

/// Which node is meant, and which runtimes of it.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Runtimes that are meant. Without it: all that are found.
    #[arg(long, value_name = "RUNTIME", value_enum)]
    runtime: Vec<Kind>,
    /// The node's file tree, as where it is mounted into a container.
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    root: PathBuf,
    /// Where the record of what was written lies, as a path of the node.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_RECORD, value_hint = ValueHint::FilePath)]
    record: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl NodeArgs {
    fn site(&self) -> Site {
        let record = Path::new("/").join(&self.record);
        Site { root: Root::new(&self.root), record }
    }

    fn survey(&self, own: &Own, version: Option<Version>) -> Survey {
        let root = Root::new(&self.root);
        if self.runtime.is_empty() {
            survey(&root, own, version)
        } else {
            survey_of(&root, &self.runtime, own, version)
        }
    }
}

/// What the runtimes reach the agent by, and which containerd it is for.
#[derive(Debug, Args)]
struct ReachArgs {
    /// The agent's address as the runtimes reach it: http://127.0.0.1:5000, or the address alone. Without it: the first listener of
    /// the configuration.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The version of containerd, where it cannot be found out: its programs are run only on this machine itself.
    #[arg(long, value_name = "VERSION")]
    containerd_version: Option<Version>,
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    agent: AgentSocket,
    #[command(flatten)]
    reach: ReachArgs,
    /// A registry whose images are asked of the agent. Can be given several times. Without it: every registry.
    #[arg(long, value_name = "REGISTRY", value_parser = registry)]
    registry: Vec<String>,
    /// Every registry, besides those that are named: those with an entry of their own are not every registry.
    #[arg(long = "default")]
    every: bool,
    /// Also write what makes the runtime look at mirrors at all (containerd's config_path); it has to be restarted then.
    #[arg(long)]
    write_runtime_config: bool,
    /// Do not ask whether the port is the agent's. For building images of nodes, where no agent runs.
    #[arg(long)]
    unchecked: bool,
    /// Show what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    hold: hold::HoldArgs,
}

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// What `install` and `uninstall` have to say.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    changed: bool,
    runtimes: Vec<Done>,
}

impl Report {
    fn new(dry_run: bool, runtimes: Vec<Done>) -> Self {
        let is_change = |change: &Change| {
            !matches!(change, Change::Unchanged | Change::NothingLeft | Change::Refused { .. })
        };
        let changed = runtimes.iter().flat_map(|done| &done.files).any(|file| is_change(&file.change));
        Report { dry_run, changed, runtimes }
    }

    fn refusals(&self) -> usize {
        let files = self.runtimes.iter().flat_map(|done| &done.files);
        files.filter(|file| matches!(file.change, Change::Refused { .. })).count()
    }
}

/// What `status` has to say.
#[derive(Debug, Serialize)]
struct Standing {
    #[serde(flatten)]
    survey: Survey,
    /// The runtimes that ask the agent, as far as their files say.
    using: Vec<Kind>,
    written: Vec<FileStatus>,
}

pub(super) async fn run(command: &RuntimeCommand, out: &mut Output) -> Result<ExitCode, Failure> {
    match command {
        RuntimeCommand::Install(args) if args.hold.hold => hold::hold(args, out).await,
        RuntimeCommand::Install(args) => install(args, out).await,
        RuntimeCommand::Uninstall(args) => {
            let done = args.node.site().uninstall(&args.node.runtime, args.dry_run)?;
            tell(&Report::new(args.dry_run, done), args.node.json, out)
        }
        RuntimeCommand::Status(args) => status(args, out),
    }
}

/// What an installation would do, as things are now.
struct Plan {
    survey: Survey,
    wish: Wish,
    report: Report,
}

fn plan(args: &InstallArgs) -> Result<Plan, Failure> {
    let config = args.agent.config.load()?;
    let wish = wish(args, &config)?;
    let own = own(&config, &wish.mirror);
    let mut survey = args.node.survey(&own, args.reach.containerd_version);
    if args.node.runtime.is_empty() {
        // It is there for docker alone.
        survey
            .runtimes
            .retain(|runtime| !runtime.findings.iter().any(|finding| finding.trap == Trap::CriDisabled));
    }
    if survey.runtimes.is_empty() {
        return Err(Failure::NoRuntime(args.node.root.clone()));
    }
    let report = Report::new(args.dry_run, args.node.site().preview(&survey, &wish)?);
    Ok(Plan { survey, wish, report })
}

async fn install(args: &InstallArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let Plan { survey, wish, report } = plan(args)?;
    if args.dry_run || !report.changed {
        return tell(&report, args.node.json, out);
    }
    if !args.unchecked {
        let client = args.agent.client()?;
        for mirror in mirrors(&report) {
            prove(&client, mirror).await?;
        }
    }
    tell(&Report::new(false, args.node.site().install(&survey, &wish)?), args.node.json, out)
}

fn status(args: &StatusArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let mirror = mirror(args.reach.mirror.as_deref(), &config)?;
    let written = args.node.site().written()?;
    let own = written.iter().fold(own(&config, &mirror), |own, file| own.and(&file.mirror));
    let survey = args.node.survey(&own, args.reach.containerd_version);
    let using =
        survey.runtimes.iter().filter(|runtime| runtime.uses_agent()).map(|runtime| runtime.kind).collect();
    let standing = Standing { survey, using, written };
    if args.node.json {
        out.json(&standing)?
    } else {
        text::standing(&standing, out)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the report. Files that were left as they are make the command fail, after all others are done.
fn tell(report: &Report, json: bool, out: &mut Output) -> Result<ExitCode, Failure> {
    if json {
        out.json(report)?
    } else {
        text::report(report, out)?
    }
    match report.refusals() {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(Failure::FilesLeft { count }),
    }
}

/// The addresses that would be written.
fn mirrors(report: &Report) -> std::collections::BTreeSet<&str> {
    let files = report.runtimes.iter().flat_map(|done| &done.files);
    let written = files.filter(|file| matches!(file.change, Change::Created | Change::Changed));
    written.map(|file| file.mirror.as_str()).collect()
}

fn wish(args: &InstallArgs, config: &Config) -> Result<Wish, Failure> {
    let mirror = mirror(args.reach.mirror.as_deref(), config)?;
    let is_hub = |name: &Registry| name.as_str() == Registry::DOCKER_HUB;
    let hub =
        config.listeners().iter().find(|listener| listener.default_registry.as_ref().is_some_and(is_hub));
    let hub_mirror = match &args.reach.mirror {
        // Whoever speaks of docker alone means the address for docker.
        Some(_) if args.node.runtime == [Kind::Docker] => Some(mirror.clone()),
        _ => hub.map(|listener| Own::url(listener.address)),
    };
    let mut registries = args.registry.clone();
    if args.every || registries.is_empty() {
        registries.push(EVERY_REGISTRY.into());
    }
    let configured = config.upstream_settings().registries;
    let known =
        KNOWN.map(str::to_owned).into_iter().chain(configured.keys().map(ToString::to_string)).collect();
    let is_plain =
        |name: &str, endpoint: Option<&_>| endpoint.is_some_and(|endpoint| is_plain(name, endpoint));
    let plain =
        configured.iter().filter(|(name, settings)| is_plain(name.as_str(), settings.endpoint.as_ref()));
    let plain = plain.map(|(name, _)| name.to_string());
    Ok(Wish {
        mirror,
        hub_mirror,
        registries,
        known,
        plain: plain.collect(),
        with_runtime_config: args.write_runtime_config,
    })
}

/// The agent's address: what is given, or the first listener.
fn mirror(given: Option<&str>, config: &Config) -> Result<String, Failure> {
    let listeners = config.listeners();
    let plain = listeners.iter().find(|listener| listener.default_registry.is_none()).or(listeners.first());
    match (given, plain) {
        (Some(given), _) => Ok(mirror_url(given)?),
        (None, Some(listener)) => Ok(Own::url(listener.address)),
        (None, None) => Err(Failure::NoListener),
    }
}

fn own(config: &Config, mirror: &str) -> Own {
    Own::new(config.listeners().iter().map(|listener| listener.address)).and(mirror)
}

/// A registry, or a part of one for the runtimes that know such a thing.
fn registry(text: &str) -> Result<String, String> {
    let (name, rest) = text.split_once('/').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let name: Registry = name.parse().map_err(|error| format!("{error}"))?;
    match rest {
        None => Ok(name.to_string()),
        Some(rest) => {
            let part: shoal_engine::Repository = rest.parse().map_err(|error| format!("{error}"))?;
            Ok(format!("{name}/{part}"))
        }
    }
}
