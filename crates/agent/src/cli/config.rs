//! `shoal config`: looks at a configuration without an agent.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::import::{self, ImportArgs};
use super::output::Output;
use super::{ConfigArgs, Failure, NodeArgs};
use crate::app::StartError;
use crate::config::{ConfigErrors, SAMPLE};
use crate::metrics::Metrics;
use crate::tier::Tier;
use crate::upstream::Upstream;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report everything that is wrong with the configuration.
    ///
    /// Reads the files it names as well: certificates, keys, password files.
    #[command(
        after_help = "Examples:\n  shoal config check --config shoal.toml\n  shoal config check --json | jq '.problems[].key'"
    )]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        node: NodeArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print what is in force: the file's values, and the defaults of all others.
    ///
    /// The output is a configuration file again. No secret is in it.
    #[command(after_help = "Example:\n  shoal config show --json | jq .store")]
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        node: NodeArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration file with every key, explained, at its default.
    ///
    /// It is for reading: a file needs only the keys that differ.
    #[command(after_help = "Example:\n  shoal config sample | less")]
    Sample,
    /// Write down as mirror sets what runtimes and OpenShift have.
    ///
    /// Prints tables for a configuration file, and on standard error what could not be carried over and why.
    Import(ImportArgs),
}

pub(super) fn run(command: &ConfigCommand, out: &mut Output) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Check { config, node, json } => check(config, node, *json, out),
        ConfigCommand::Show { config, node, json: true } => {
            out.json(&config.read(&node.facts())?.to_json()).map(|()| ExitCode::SUCCESS)
        }
        ConfigCommand::Show { config, node, json: false } => {
            out.bytes(config.read(&node.facts())?.to_toml().as_bytes()).map(|()| ExitCode::SUCCESS)
        }
        ConfigCommand::Sample => out.bytes(SAMPLE.as_bytes()).map(|()| ExitCode::SUCCESS),
        ConfigCommand::Import(args) => import::run(args, out),
    }
}

fn check(args: &ConfigArgs, node: &NodeArgs, json: bool, out: &mut Output) -> Result<ExitCode, Failure> {
    let name = args.path().map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
    match (args.read(&node.facts()), json) {
        (Ok(config), json) => {
            // What only the TLS library can tell: whether a key belongs to its certificate.
            Upstream::new(config.upstream_settings(), Metrics::new())
                .map_err(|error| Failure::Start(StartError::Upstream(error)))?;
            if let Some(settings) = config.tier_settings() {
                Tier::new(settings, Metrics::new())
                    .map_err(|error| Failure::Start(StartError::Tier(error)))?;
            }
            if json {
                out.json(&json!({ "ok": true, "file": args.path(), "problems": [] }))?;
            } else {
                out.line(format_args!("{name}: nothing is wrong"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        (Err(ConfigErrors::Wrong { problems, .. }), true) => {
            out.json(&json!({ "ok": false, "file": args.path(), "problems": problems }))?;
            Ok(ExitCode::from(3))
        }
        (Err(errors), _) => Err(errors.into()),
    }
}
