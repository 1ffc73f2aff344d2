//! Building, in one way for every command, so that nothing is ever compiled twice.

use std::path::PathBuf;

use crate::{Result, place, process};

/// Builds the workspace's programs and returns the path of one.
///
/// Always the whole workspace: cargo picks the features of dependencies by what is built together, and another
/// selection would compile half of them again. For the same reason one small test is among the targets: without any,
/// tokio and all above it lack a feature that tests need, and [`everything`] would compile them again.
pub fn bin(name: &str) -> Result<PathBuf> {
    process::run(process::cargo("build")?.args(["--workspace", "--bins", "--test", "tls"]))?;
    path(name)
}

/// Where a program of the workspace lies once it has been built.
pub fn path(name: &str) -> Result<PathBuf> {
    Ok(place::target()?.join("debug").join(name))
}

/// Builds programs and tests.
pub fn everything() -> Result {
    process::run(process::cargo("build")?.args(["--workspace", "--all-targets"]))
}
