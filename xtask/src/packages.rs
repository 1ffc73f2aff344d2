//! Debian packages: which command needs which, and how they get onto the machine.
//!
//! What is installed is never installed again, and no service of a package is started.

use std::fs;
use std::path::Path;

use crate::{Result, process};

/// To compile: the C and C++ compilers for RocksDB and ring, and libclang, with which RocksDB's headers are read.
pub const BUILD: &[&str] = &["gcc", "g++", "libc6-dev", "libclang-dev"];
/// To compile what is Rust only: the linker and the C library's headers.
pub const RUST: &[&str] = &["gcc", "libc6-dev"];
/// The registry that the demo pulls from.
pub const DEMO: &[&str] = &["docker-registry"];
/// Container runtimes, clients and tools of the end-to-end tests.
pub const TEST: &[&str] = &[
    "docker-registry",
    "containerd",
    "runc",
    "skopeo",
    "podman",
    "buildah",
    "strace",
    "e2fsprogs",
    "mount",
    "util-linux",
    "nginx",
    "prometheus",
    "python3-venv",
    "systemd",
    "dpkg",
    "chromium",
    "fonts-dejavu-core",
    "iproute2",
    "iptables",
    "busybox-static",
    "libfaketime",
    "jq",
    "curl",
    "dnsmasq-base",
];
/// What the benchmarks compare with.
pub const BENCH: &[&str] =
    &["docker-registry", "containerd", "runc", "nginx", "curl", "openssl", "iproute2", "iptables"];
/// All of them.
pub const ALL: [&[&str]; 4] = [BUILD, DEMO, TEST, BENCH];

/// Makes sure that every package is there: installs what is missing when run by root, and otherwise says what to run.
pub fn ensure(groups: &[&[&str]]) -> Result {
    let mut missing: Vec<&str> = groups.iter().flat_map(|group| group.iter().copied()).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.retain(|package| !installed(package));
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !process::succeeds(process::command("apt-get").arg("--version")) {
        return Err(format!("this machine has no apt-get; install what these Debian packages hold: {names}"));
    }
    if !is_root() {
        return Err(format!(
            "these Debian packages are missing: {names}\nrun as root: apt-get update && apt-get install -y \
             --no-install-recommends {names}"
        ));
    }
    eprintln!("installing {names}");
    let _no_services = NoServices::start();
    // The package lists may be absent (a fresh image) or old (a package version that is no longer there).
    install(&missing).or_else(|_| {
        process::run(process::command("apt-get").args(["-q", "update"]))?;
        install(&missing)
    })
}

fn install(packages: &[&str]) -> Result {
    process::run(
        process::command("apt-get")
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn installed(package: &str) -> bool {
    let query = process::output(process::command("dpkg-query").args(["-W", "-f", "${Status}", package]));
    query.is_ok_and(|status| status.trim() == "install ok installed")
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    process::output(process::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// While this lives, packages that are installed do not start their services: a registry on port 5000 or a web server
/// on port 80 is not what running some tests should leave on a machine.
struct NoServices(bool);

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        // A policy that is already there is the machine's own business, and so is a machine without services.
        if Path::new(POLICY).exists() || !Path::new("/run/systemd/system").exists() {
            return NoServices(false);
        }
        let written = fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)));
        NoServices(written.is_ok())
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Where the machine gets its Debian packages from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Base address of the mirror.
    pub uri: String,
    /// Keyring that the entry names.
    pub signed_by: Option<String>,
}

/// The entry of the machine's apt sources for its own release.
pub fn debian_source() -> Option<Source> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?.trim_matches('"');
    let parts =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once("/etc/apt/sources.list".into()).chain(parts).find_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        match path.extension()?.to_str()? {
            "sources" => from_stanzas(&text, codename),
            "list" => from_lines(&text, codename),
            _ => None,
        }
    })
}

/// Finds the release in the stanza format of apt's `.sources` files.
fn from_stanzas(text: &str, codename: &str) -> Option<Source> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let mut lines = stanza.lines().filter(|line| !line.starts_with('#'));
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let has =
            |name: &str, word: &str| field(name).is_some_and(|v| v.split_whitespace().any(|w| w == word));
        if !has("Types", "deb") || !has("Suites", codename) || !has("Components", "main") {
            return None;
        }
        let uri = field("URIs")?.split_whitespace().next()?.to_owned();
        let signed_by = field("Signed-By").filter(|path| path.starts_with('/')).map(str::to_owned);
        Some(Source { uri, signed_by })
    })
}

/// Finds the release in apt's one-line format: `deb [options] uri suite components`.
fn from_lines(text: &str, codename: &str) -> Option<Source> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        if suite != codename || !words.any(|component| component == "main") {
            return None;
        }
        let signed_by =
            options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
        Some(Source { uri: uri.to_owned(), signed_by })
    })
}

#[cfg(test)]
mod tests {
    use super::{Source, from_lines, from_stanzas};

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let stanzas = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                       Components: main\nSigned-By: /keys/debian.gpg\n";
        let expected =
            Source { uri: "http://mirror.test/debian".into(), signed_by: Some("/keys/debian.gpg".into()) };
        assert_eq!(from_stanzas(stanzas, "bookworm"), Some(expected));
        assert_eq!(from_stanzas(stanzas, "trixie"), None);

        let lines = "# deb http://old.test/debian bookworm main\ndeb-src http://mirror.test/debian bookworm main\n\
                     deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.test/debian bookworm main\n";
        let expected =
            Source { uri: "http://mirror.test/debian".into(), signed_by: Some("/keys/debian.gpg".into()) };
        assert_eq!(from_lines(lines, "bookworm"), Some(expected));
        assert_eq!(from_lines("deb http://mirror.test/debian bookworm contrib", "bookworm"), None);
    }
}
