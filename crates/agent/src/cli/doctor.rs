//! `shoal doctor`: what is wrong with this node, what that means and what to do.

mod text;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::{ConfigArgs, Failure};
use crate::config::NodeFacts;
use crate::doctor::{Group, Level, PROXY_VARIABLES, Patient, examine};

const HELP: &str = "\
Examples:
  shoal doctor                     look at everything; about two seconds on a
                                   node that is well
  shoal doctor --skip runtimes     on a machine whose runtimes are not meant
                                   to ask the agent
  shoal doctor --root /host        in a pod that has the node's file system
                                   mounted at /host
  shoal doctor --json | jq -r '.checks[] | select(.level == \"problem\") | .id'

Exit status:
  0  no problem (there may be warnings and hints)
  1  a problem";

/// Width of the text where there is no terminal, and its bounds where there is one.
const WIDTH: usize = 100;
const WIDTH_MIN: usize = 60;
/// How often the sign of life moves.
const TICK: Duration = Duration::from_millis(120);

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The agent's admin socket. Without it: the one that the configuration names.
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// Where the root of the node's file system is mounted, for the configuration of container runtimes.
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    root: PathBuf,
    /// Leave out parts: configuration, agent, store, registries, swarm, runtimes.
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    skip: Vec<Group>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &DoctorArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let patient = Patient {
        config: args.config.read(&NodeFacts::default()),
        config_path: args.config.path().map(ToOwned::to_owned),
        socket: args.socket.clone(),
        root: args.root.clone(),
        proxies: proxies(),
    };
    let sign = sign_of_life();
    let report = Box::pin(examine(patient)).await.without(&args.skip);
    sign.finish_and_clear();
    if args.json {
        out.json(&report.to_json())?;
    } else {
        out.bytes(text::Text { width: width(), colours: has_colours() }.of(&report).as_bytes())?;
    }
    Ok(if report.count(Level::Problem) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn proxies() -> BTreeMap<String, String> {
    let variable = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    PROXY_VARIABLES.iter().filter_map(variable).filter(|(_, value)| !value.is_empty()).collect()
}

/// Something that moves, on a terminal.
fn sign_of_life() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} looking at this node, for up to 20 s").ok();
    let bar = ProgressBar::new_spinner();
    bar.set_style(style.unwrap_or_else(ProgressStyle::default_spinner));
    bar.enable_steady_tick(TICK);
    bar
}

fn width() -> usize {
    let columns = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    columns.map_or(WIDTH, |columns| columns.clamp(WIDTH_MIN, WIDTH))
}

fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
