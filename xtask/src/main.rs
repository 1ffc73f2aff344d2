//! `cargo xtask`: everything one does with a checkout, each in one command.
//!
//! Uses the standard library only and does not build, and so cannot break, with the product. Every command first gets
//! what it needs: as root it installs the Debian packages itself, otherwise it says exactly which are missing.

mod bench;
mod build;
mod containerd;
mod deploy;
mod fuzz;
mod packages;
mod place;
mod process;
mod rocksdb;
mod s3;
mod sbom;
mod schemathesis;
mod sim;
mod test;
mod tidy;

use std::process::ExitCode;

/// Why a command failed, in words for the person who ran it.
type Result<T = ()> = std::result::Result<T, String>;

const HELP: &str = "\
cargo xtask <command>

  demo [ARGS]          a real registry, a real agent, clients that pull at once, and what came from where
                       (ARGS: --nodes N, --size 256MB, --link 100MB, --json)
  test [ARGS]          everything a change has to pass: format, tidiness, build, all tests
                       (ARGS go to `cargo test`, e.g. `-p shoal-engine` or `--test containerd`)
  bench NAME [--json]  one benchmark against its peers: singleflight, direct, hit, rollout, prewarm, peer, late,
                       small, idle, degraded, footprint, verify
  sim SCENARIO [ARGS]  the engine on thousands of simulated nodes (ARGS: --seed N, --nodes N, --set KEY=VALUE,
                       --baselines, --json, --plots DIR; SCENARIO may be a file; --list shows what there is)
  sim --all            every scenario, and docs/SIMULATION.md with its plots from what comes out
  tidy                 only the checks of the sources that no compiler makes
  lint                 clippy with warnings as errors, and the tidiness checks
  fuzz NAME [ARGS]     a fuzz target, until it finds something (ARGS go to libFuzzer, e.g. -max_total_time=60)
  sbom [TARGET]        what the program is made of, as CycloneDX, on standard output
  setup                only installs what the other commands need
  help                 this text

Compiled code goes to $CARGO_TARGET_DIR or, if that is not set, to shoal/target in the user's cache folder.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let done = match command {
        "demo" => demo(rest),
        "test" => test::run(rest),
        "bench" => bench::run(rest),
        "sim" => sim::run(rest),
        "lint" => test::lint(),
        "tidy" => tidy::check(),
        "fuzz" => fuzz::run(rest),
        "sbom" => sbom::run(rest),
        "setup" => setup(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("there is no command `{other}`\n\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[String]) -> Result {
    packages::ensure(&[packages::BUILD, packages::DEMO])?;
    let bin = build::bin("shoal")?;
    process::run(process::command(&bin).arg("demo").args(args))
}

fn setup() -> Result {
    packages::ensure(&packages::ALL)?;
    containerd::ensure();
    s3::ensure();
    schemathesis::ensure();
    deploy::ensure();
    Ok(())
}
