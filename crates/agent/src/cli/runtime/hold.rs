//! `shoal runtime install --hold`: the runtimes ask the agent as long as this runs, and not a moment longer.
//!
//! For a container beside the agent's: it starts before the agent answers and ends with it. So a failure is told and tried
//! again, and what is written goes away at the end. A process that is killed leaves its files, as a node that loses power does: a
//! port where nobody answers costs a pull nothing.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{InstallArgs, Report, install, tell};
use crate::cli::Failure;
use crate::cli::failure::explain;
use crate::cli::output::Output;

/// How long after a failure it is tried again: an agent is ready within seconds.
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn hold(args: &InstallArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let no_signals = |source| Failure::System { operation: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    tokio::select! {
        () = installed(args, out) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let done = args.node.site().uninstall(&args.node.runtime, false)?;
    tell(&Report::new(false, done), args.node.json, out)
}

/// Ends when it is installed. The same failure is told once.
async fn installed(args: &InstallArgs, out: &mut Output) {
    let mut told = String::new();
    loop {
        let failure = match install(args, out).await {
            Ok(_) => return,
            // Some files were left as they are, which was told, and will be the next time.
            Err(Failure::FilesLeft { .. }) => return,
            Err(failure) => failure,
        };
        let (text, _) = explain(&failure, false);
        if text != told {
            eprintln!("{text}\ntrying again every {} s", RETRY.as_secs());
            told = text;
        }
        tokio::time::sleep(RETRY).await;
    }
}
