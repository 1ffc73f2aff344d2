//! Newer containerds than the machine's own, unpacked beside it: 1.7 and 2.x behave differently as clients (parallel
//! ranges, other timeouts), and the end-to-end tests run against each.
//!
//! Debian ships them in other releases. Their packages are found with apt under a private configuration (own sources,
//! lists and cache; the machine's are never touched) that points at the mirror the machine already uses, and only
//! three programs are taken out. Nothing here is needed for a working checkout: a failure is told and is no error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, packages, place, process};

/// What is taken out of a package. Its `runc` is left: it needs a newer glibc than the machine may have.
const PROGRAMS: [&str; 3] = ["containerd", "ctr", "containerd-shim-runc-v2"];

/// Debian's release and the series of containerd it is there for.
const WANTED: [(&str, &str); 2] = [("trixie", "1.7."), ("sid", "2.")];

/// Unpacks what is not there yet into `containerd/<version>/` of the cache folder.
pub fn ensure() {
    for (suite, series) in WANTED {
        match ensure_one(suite, series) {
            Ok(folder) => eprintln!("containerd {series}x: {}", folder.display()),
            Err(why) => eprintln!(
                "containerd {series}x is not to be had, tests that run against it will say so: {why}"
            ),
        }
    }
}

fn ensure_one(suite: &str, series: &str) -> Result<PathBuf> {
    let home = place::cache()?.join("containerd");
    if let Some(folder) = unpacked(&home, series) {
        return Ok(folder);
    }
    let work = home.join(format!(".{suite}-{}", std::process::id()));
    let result = fetch(suite, series, &home, &work);
    let _ = fs::remove_dir_all(&work);
    result
}

/// A folder of this series that has all programs.
fn unpacked(home: &Path, series: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(home).ok()?.flatten();
    folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(series))
        .map(|entry| entry.path())
        .find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()))
}

fn fetch(suite: &str, series: &str, home: &Path, work: &Path) -> Result<PathBuf> {
    let source = packages::debian_source().ok_or("the machine's apt sources name no Debian mirror")?;
    let io = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
    for folder in ["lists/partial", "cache/archives/partial", "deb", "root"] {
        fs::create_dir_all(work.join(folder)).map_err(io("make a folder for the package"))?;
    }
    fs::write(work.join("status"), "").map_err(io("write a file for apt"))?;
    let keyring = source.signed_by.map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
    let line = format!("deb {keyring}{} {suite} main\n", source.uri);
    fs::write(work.join("sources.list"), line).map_err(io("write a file for apt"))?;

    process::output(apt(work, "apt-get").args(["update", "--error-on=any"]))?;
    let policy = process::output(apt(work, "apt-cache").args(["policy", "containerd"]))?;
    let version = candidate(&policy).ok_or("the release has no containerd package")?;
    if !version.starts_with(series) {
        return Err(format!("{suite} has containerd {version}"));
    }
    process::output(apt(work, "apt-get").args(["download", "containerd"]).current_dir(work.join("deb")))?;
    let package = fs::read_dir(work.join("deb"))
        .map_err(io("read the folder of the package"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or("apt-get left no package")?;
    process::output(process::command("dpkg").arg("-x").arg(&package).arg(work.join("root")))?;

    // Collected in a folder of its own and renamed: a folder with the final name is complete.
    let complete = work.join("complete");
    fs::create_dir(&complete).map_err(io("make a folder for the programs"))?;
    for program in PROGRAMS {
        fs::rename(work.join("root/usr/bin").join(program), complete.join(program))
            .map_err(|e| format!("the package has no usr/bin/{program}: {e}"))?;
        if !process::succeeds(process::command(complete.join(program)).arg("--version"))
            && !process::succeeds(process::command(complete.join(program)).arg("-v"))
        {
            return Err(format!("{program} {version} does not run on this machine"));
        }
    }
    let folder = home.join(&version);
    fs::rename(&complete, &folder).map_err(io("move the programs to their place"))?;
    Ok(folder)
}

/// An apt program that sees nothing of the machine's configuration but its keyrings and proxy settings.
fn apt(work: &Path, program: &str) -> Command {
    let mut apt = process::command(program);
    let mut set = |key: &str, value: &Path| {
        apt.arg("-o").arg(format!("{key}={}", value.display()));
    };
    set("Dir::Etc::SourceList", &work.join("sources.list"));
    set("Dir::Etc::SourceParts", Path::new("/dev/null"));
    set("Dir::State", work);
    set("Dir::State::Lists", &work.join("lists"));
    set("Dir::State::status", &work.join("status"));
    set("Dir::Cache", &work.join("cache"));
    // Downloads into a private folder, which apt's own user could not write to.
    set("APT::Sandbox::User", Path::new("root"));
    set("Acquire::Languages", Path::new("none"));
    set("Acquire::Retries", Path::new("2"));
    apt
}

/// The upstream part of the candidate version: `1.7.24` of `1.7.24~ds1-6+deb13u1`.
fn candidate(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    let upstream: String = line.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!upstream.is_empty()).then(|| upstream.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::candidate;

    #[test]
    fn the_upstream_version_is_cut_out_of_the_policy() {
        let policy = "containerd:\n  Installed: (none)\n  Candidate: 1.7.24~ds1-6+deb13u1\n";
        assert_eq!(candidate(policy).as_deref(), Some("1.7.24"));
        assert_eq!(candidate("containerd:\n  Candidate: 2.1.9+ds1-5\n").as_deref(), Some("2.1.9"));
        assert_eq!(candidate("containerd:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
