//! `shoal api`: the admin API's own description, for whoever writes a program against it.

use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;
use super::output::Output;
use crate::admin::openapi;

#[derive(Debug, Subcommand)]
pub(super) enum ApiCommand {
    /// Print the OpenAPI document of the admin API. No agent is asked: it is the one of this version.
    #[command(after_help = "Example:\n  shoal api openapi > openapi.json")]
    Openapi,
}

pub(super) fn run(command: &ApiCommand, out: &mut Output) -> Result<ExitCode, Failure> {
    match command {
        ApiCommand::Openapi => out.bytes(openapi::text().as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}
