//! schemathesis, which tries out the admin API by its OpenAPI document: a Python program, installed into a folder of its own.
//!
//! The version is named once, beside the test that runs it.

use std::fs;

use crate::{Result, place, process};

const VERSION: &str = include_str!("../../tests/tests/api/schemathesis.version");

/// Installs it if it is not there. Nothing here is needed for a working checkout: a failure is told and is no error.
pub fn ensure() {
    if let Err(why) = install() {
        eprintln!("schemathesis is not to be had, the test that runs it will say so: {why}");
    }
}

fn install() -> Result {
    let version = VERSION.trim();
    let home = place::cache()?;
    let folder = home.join(format!("schemathesis-{version}"));
    if folder.join("bin/schemathesis").is_file() {
        return Ok(());
    }
    eprintln!("installing schemathesis {version}");
    // A virtual environment cannot be moved, so what a broken installation has left is removed first.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&home).map_err(|error| format!("cannot make {}: {error}", home.display()))?;
    process::run(process::command("python3").args(["-m", "venv"]).arg(&folder))?;
    let wanted = format!("schemathesis=={version}");
    let installed = process::run(
        process::command(folder.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"])
            .arg(&wanted),
    );
    if installed.is_err() {
        let _ = fs::remove_dir_all(&folder);
    }
    installed
}
