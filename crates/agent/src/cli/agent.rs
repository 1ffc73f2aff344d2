//! `shoal agent`: builds, runs and drains the agent.

use std::process::ExitCode;

use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgs, Failure, NodeArgs, process};
use crate::app::App;
use crate::config::{Config, LogFormat};
use crate::logging;
use crate::trace;

/// Exit code after a second signal: what a shell reports for a process that SIGINT has ended.
const ENDED_AT_ONCE: u8 = 130;

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// What is logged: a level, or a list such as info,shoal::request=warn. Goes before log.level.
    #[arg(long, env = "SHOAL_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look. Goes before log.format.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How long threads that still hold the store may take to let go of it when the agent has drained.
const END_MAX: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) fn run(args: &AgentArgs) -> Result<ExitCode, Failure> {
    let refused = process::prepare_agent();
    let config = args.config.read(&args.node.facts())?;
    let log = log_settings(args, &config)?;
    let runtime = process::runtime(config.transfers_max())?;
    let traces = trace::start(config.traces(), runtime.handle())?;
    // Kept to the end: dropping it writes out the last lines.
    let _flush = logging::init(&log, traces.as_ref().map(trace::Exporter::layer))?;
    for (wish, error) in refused {
        tracing::warn!(%error, "could not {wish}");
    }
    match args.config.path() {
        Some(path) => {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "starting")
        }
        None => tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            "starting with the defaults: there is no configuration file"
        ),
    }
    let code = runtime.block_on(live(config))?;
    // The last spans leave while there is a runtime to carry them.
    if let Some(traces) = traces {
        traces.end();
    }
    // Tasks and threads that are still ending hold the store. Its index must not be in use while the process takes
    // down its C++ library: that ends in an abort. A thread that a sick disk holds must not keep the process either;
    // everything that matters has been written.
    runtime.shutdown_timeout(END_MAX);
    Ok(code)
}

fn log_settings(args: &AgentArgs, config: &Config) -> Result<logging::Settings, Failure> {
    let mut settings = config.log().clone();
    if let Some(text) = args.log.as_deref().filter(|text| !text.is_empty()) {
        settings.filter = logging::filter(text)?;
    }
    if let Some(format) = args.log_format {
        settings.format = match format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
    }
    Ok(settings)
}

async fn live(config: Config) -> Result<ExitCode, Failure> {
    let no_signals = |source| Failure::System { operation: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let app = tokio::select! {
        app = Box::pin(App::build(config)) => app.map_err(Failure::Start)?,
        name = either(&mut terminate, &mut interrupt) => {
            tracing::info!(signal = name, "ended before it had started");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let running = app.spawn();
    tell_manager(NotifyState::Ready);
    let name = either(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = name, "asked to end");
    tell_manager(NotifyState::Stopping);
    tokio::select! {
        () = Box::pin(running.drain()) => Ok(ExitCode::SUCCESS),
        name = either(&mut terminate, &mut interrupt) => {
            tracing::warn!(signal = name, "ended at once, in the middle of draining");
            Ok(ExitCode::from(ENDED_AT_ONCE))
        }
    }
}

/// Tells the service manager how far the agent is, if one has started it and wants to know (sd_notify(3)).
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
