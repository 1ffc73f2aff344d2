//! `cargo xtask bench`: gets what a benchmark compares with, builds, and runs it.

use crate::{Result, build, packages, process};

const NAMES: [&str; 12] = [
    "singleflight",
    "direct",
    "hit",
    "rollout",
    "prewarm",
    "peer",
    "late",
    "small",
    "idle",
    "degraded",
    "footprint",
    "verify",
];

/// Runs one benchmark.
pub fn run(args: &[String]) -> Result {
    let names = NAMES.join(", ");
    let name = args.first().ok_or_else(|| format!("bench needs a name: {names}"))?;
    if !NAMES.contains(&name.as_str()) {
        return Err(format!("there is no benchmark `{name}`; there are: {names}"));
    }
    packages::ensure(&[packages::BUILD, packages::BENCH])?;
    let shoal = build::bin("shoal")?;
    let bench = build::path("shoal-bench")?;
    process::run(process::command(&bench).args(args).env("SHOAL_BIN", shoal))
}
