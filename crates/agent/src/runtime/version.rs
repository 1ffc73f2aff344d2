//! Which version of containerd this is: what it says itself, or what Debian's package database says of a tree whose programs
//! are not run.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::Root;

/// How long a program may take to say its version.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between two looks at whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What is read of the answer, bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// A version as far as behaviour depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 of 2.1.4.
    pub major: u32,
    /// 1 of 2.1.4.
    pub minor: u32,
}

impl Version {
    /// From which CRI's pulls go by the transfer service, which takes a list of folders of hosts for one path.
    pub const TRANSFER: Version = Version { major: 2, minor: 1 };
    /// From which a list of folders of hosts is the default, and the capability `referrers` is known.
    pub const LIST_BY_DEFAULT: Version = Version { major: 2, minor: 2 };
    /// From which an imported file adds to the sections of plugins instead of replacing them, and a connection's
    /// deadline can be set for a host.
    pub const V2: Version = Version { major: 2, minor: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: write it as 1.7 or 2.1.4")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => Ok(Version { major, minor }),
            _ => Err(VersionError),
        }
    }
}

/// The version of the containerd in the tree, if it can be found out.
pub(super) fn of_containerd(root: &Root) -> Option<Version> {
    const PROGRAMS: [&str; 2] = ["/usr/local/bin/containerd", "/usr/bin/containerd"];
    let said = || PROGRAMS.iter().map(Path::new).filter(|path| root.exists(path)).find_map(said_by);
    if root.is_this_machine() { said() } else { None }.or_else(|| packaged(root))
}

/// `containerd github.com/containerd/containerd/v2 2.1.4 ...`
fn said_by(program: &Path) -> Option<Version> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let begun = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begun.elapsed() > ANSWER_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        sleep(LOOK_INTERVAL);
    }
    let mut said = String::new();
    child.stdout.take()?.take(ANSWER_BYTES_MAX).read_to_string(&mut said).ok()?;
    said.split_whitespace().nth(2)?.parse().ok()
}

/// What dpkg has installed: paragraphs of fields.
fn packaged(root: &Root) -> Option<Version> {
    const PACKAGES: [&str; 2] = ["containerd", "containerd.io"];
    let status = root.read(Path::new("/var/lib/dpkg/status")).ok()??;
    status.split("\n\n").find_map(|paragraph| {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let is_there = PACKAGES.contains(&field("Package:")?) && field("Status:")?.ends_with(" installed");
        is_there.then(|| field("Version:")?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("1.6.20~ds1", Some((1, 6))),
            ("v2.1.4", Some((2, 1))),
            ("2.2", Some((2, 2))),
            ("1.7.24~ds1-6+b2", Some((1, 7))),
            ("2", None),
            ("", None),
            ("new", None),
        ] {
            let found = text.parse::<Version>().ok().map(|version| (version.major, version.minor));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_package_says_the_version() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("var/lib/dpkg")).unwrap();
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\nPackage: containerd\nStatus: install ok installed\nVersion: 1.6.20~ds1-1+b1\n";
        std::fs::write(folder.path().join("var/lib/dpkg/status"), status).unwrap();
        let found = of_containerd(&Root::new(folder.path()));
        assert_eq!(found, Some(Version { major: 1, minor: 6 }));
    }
}
