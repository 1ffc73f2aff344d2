//! `cargo xtask sim`: builds the simulator and runs it.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, packages, place, process};

/// Runs the simulator with these arguments, in the caller's folder: paths among them are the caller's.
pub fn run(args: &[String]) -> Result {
    if args.is_empty() {
        return Err("sim needs a scenario, --all or --list, such as: cargo xtask sim layers --seed 7".into());
    }
    packages::ensure(&[packages::RUST])?;
    let mut simulator = Command::new(bin()?);
    simulator.args(args);
    // The document belongs into this checkout, from wherever it is written.
    if args.iter().any(|arg| arg == "--all") && !args.iter().any(|arg| arg.starts_with("--out")) {
        simulator.arg("--out").arg(place::root().join("docs"));
    }
    process::run(&mut simulator)
}

/// Builds the simulator alone, which takes a minute, in a target folder of its own: built beside the rest of the workspace, its
/// dependencies would have other features there, and half of the workspace would be compiled again.
fn bin() -> Result<PathBuf> {
    let target = place::target()?.join("sim");
    let mut build = process::cargo("build")?;
    build.args(["--quiet", "--package", "shoal-simulations", "--bin", "shoal-sim"]);
    process::run(build.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("debug/shoal-sim"))
}
