//! `cargo xtask fuzz`: builds and runs one of the fuzz targets in `fuzz/` with the compiler that is there.
//!
//! The usual tool for this needs a nightly compiler, for the address sanitizer. What is fuzzed here is safe Rust, where
//! the sanitizer finds nothing; coverage, which the fuzzer steers by, comes from a pass that stable compilers have.

use std::fs;

use crate::{Result, build, packages, place, process};

/// Coverage counters, comparisons and the table of program counters, as libFuzzer reads them.
const RUSTFLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs a fuzz target until it finds something or is stopped; what follows the name goes to libFuzzer.
pub fn run(args: &[String]) -> Result {
    let names = targets();
    let known = names.join(", ");
    let (name, rest) = args.split_first().ok_or_else(|| format!("fuzz needs a target: {known}"))?;
    if !names.contains(name) {
        return Err(format!("there is no fuzz target `{name}`; there are: {known}"));
    }
    packages::ensure(&[packages::BUILD])?;
    // Everything is compiled again with coverage, except RocksDB's C++, which takes longest and is linked from the cache: the
    // ordinary build puts it there.
    build::everything()?;
    let host = host()?;
    let target = place::target()?.join("fuzz");
    process::run(
        process::cargo("build")?
            .args(["--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host, "--bin", name])
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", RUSTFLAGS),
    )?;

    let corpus = place::root().join("fuzz/corpus").join(name);
    let artifacts = place::root().join("fuzz/artifacts").join(name);
    let generated = corpus.join("generated");
    for folder in [&generated, &artifacts] {
        fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    }
    process::run(
        process::command(target.join(&host).join("release").join(name))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(rest)
            .args([generated, corpus]),
    )
}

fn targets() -> Vec<String> {
    let files = fs::read_dir(place::root().join("fuzz/fuzz_targets")).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort_unstable();
    names
}

/// The compiler's own target triple.
fn host() -> Result<String> {
    let version = process::output(process::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "`rustc -vV` names no host".to_owned())
}
