//! `cargo xtask fuzz`: runs one of the fuzz targets in `fuzz/`.

use std::fs;

use crate::{Result, packages, place, process};

/// Runs a fuzz target until it finds something or is stopped.
pub fn run(args: &[String]) -> Result {
    let names = targets().join(", ");
    let (name, rest) = args.split_first().ok_or_else(|| format!("fuzz needs a target: {names}"))?;
    if !targets().contains(name) {
        return Err(format!("there is no fuzz target `{name}`; there are: {names}"));
    }
    packages::ensure(&[packages::BUILD])?;
    if !process::succeeds(process::command("cargo").args(["fuzz", "--version"])) {
        return Err(
            "cargo-fuzz is missing: `cargo install cargo-fuzz`, and `rustup toolchain install nightly`"
                .into(),
        );
    }
    process::run(process::command("cargo").args(["+nightly", "fuzz", "run", name]).args(rest))
}

fn targets() -> Vec<String> {
    let files = fs::read_dir(place::root().join("fuzz/fuzz_targets")).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort_unstable();
    names
}
