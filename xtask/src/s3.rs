//! The S3 server of the end-to-end tests: `s3s-fs`, a small program that keeps objects as files and checks signatures.
//!
//! It is built once, into the cache folder, and not with the workspace: it would bring forty packages into everybody's
//! build for one test. A failure is told and is no error; the tests that need it say so.

use std::fs;
use std::path::Path;

use crate::{Result, place, process};

/// The version that is built: the newest one that asks for no newer compiler than the checkout's.
const VERSION: &str = "0.14.1";

/// Builds it if it is not there.
pub fn ensure() {
    match ensure_built() {
        Ok(()) => {}
        Err(why) => {
            eprintln!("the S3 server is not to be had, tests that run against it will say so: {why}");
        }
    }
}

fn ensure_built() -> Result {
    let home = place::cache()?.join("s3s-fs");
    let program = home.join(format!("{VERSION}/bin/s3s-fs"));
    if program.is_file() {
        eprintln!("S3 server: {}", program.display());
        return Ok(());
    }
    let work = home.join(format!(".build-{}", std::process::id()));
    let result = build(&home.join(VERSION), &work);
    let _ = fs::remove_dir_all(&work);
    result
}

fn build(root: &Path, work: &Path) -> Result {
    let install = ["--version", VERSION, "--locked", "--features", "binary", "s3s-fs"];
    // Its code has nothing in common with ours, so the shared target folder would only grow.
    process::run(
        process::cargo("install")?
            .args(["--quiet", "--root"])
            .arg(root)
            .arg("--target-dir")
            .arg(work)
            .args(install),
    )
}
