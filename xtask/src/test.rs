//! `cargo xtask test` and `cargo xtask lint`: what a change has to pass.

use crate::{Result, build, containerd, deploy, packages, process, s3, schemathesis, tidy};

/// Format, tidiness, one build, every test. What is cheapest comes first.
pub fn run(args: &[String]) -> Result {
    packages::ensure(&[packages::BUILD, packages::TEST])?;
    containerd::ensure();
    s3::ensure();
    schemathesis::ensure();
    deploy::ensure();
    format()?;
    tidy::check()?;
    // The tests of this very tool.
    process::run(process::cargo("test")?.args(["--quiet", "--manifest-path", "xtask/Cargo.toml"]))?;
    // The end-to-end tests start the agent's program, which `cargo test` alone would not build.
    build::everything()?;
    if args.is_empty() {
        process::run(process::cargo("test")?.arg("--workspace"))
    } else {
        process::run(process::cargo("test")?.args(args))
    }
}

/// clippy over all code, with warnings as errors.
pub fn lint() -> Result {
    packages::ensure(&[packages::BUILD])?;
    format()?;
    tidy::check()?;
    if !has_component("clippy") {
        return Err("clippy is missing: `rustup component add clippy`".into());
    }
    process::run(process::cargo("clippy")?.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // Without what can be left out of the program.
    let bare = ["-p", "shoal-agent", "--no-default-features", "--", "-D", "warnings"];
    process::run(process::cargo("clippy")?.args(bare))?;
    let manifest = ["--manifest-path", "xtask/Cargo.toml", "--all-targets", "--", "-D", "warnings"];
    process::run(process::cargo("clippy")?.args(manifest))
}

fn format() -> Result {
    if !has_component("fmt") {
        eprintln!("rustfmt is not installed: formatting is not checked (`rustup component add rustfmt`)");
        return Ok(());
    }
    process::run(process::cargo("fmt")?.args(["--all", "--check"]))?;
    process::run(process::cargo("fmt")?.args(["--manifest-path", "xtask/Cargo.toml", "--check"]))
}

fn has_component(subcommand: &str) -> bool {
    process::cargo(subcommand).is_ok_and(|mut cargo| process::succeeds(cargo.arg("--version")))
}
