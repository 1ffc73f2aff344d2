//! The `shoal` command. Everything is in the library; here are only its two ends.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shoal_agent::cli::{Cli, explain};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let verbose = cli.wants_causes();
    match cli.run() {
        Ok(code) => code,
        Err(failure) => {
            let (text, code) = explain(&failure, verbose);
            // Standard error may be gone as well; the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{text}");
            code
        }
    }
}
