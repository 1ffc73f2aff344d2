//! Where things are: addresses that nobody else uses, programs, and what a test needs of the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address of 127.0.0.0/8 that no other test uses, so that every server can listen on its usual port and no port
/// has to be guessed and raced for. Built from this process's id (14 bits) and a counter (9 bits).
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let own = ((std::process::id() & 0x3fff) << 9) | (NEXT.fetch_add(1, Ordering::Relaxed) & 0x1ff);
    let [_, high, middle, low] = own.to_be_bytes();
    Ipv4Addr::new(127, 128 + high, middle, low)
}

/// A fresh directory under the system's temporary directory, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shoal-test-").tempdir().expect("a temporary directory can be made")
}

/// The agent's binary: `SHOAL_BIN`, or `shoal` in the target folder of this test run.
pub fn shoal_bin() -> PathBuf {
    if let Some(path) = std::env::var_os("SHOAL_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a running program has a path");
    // target/<profile>/deps/<test>-<hash>
    let profile = test.parent().and_then(Path::parent).expect("tests run in target/<profile>/deps");
    let bin = profile.join("shoal");
    assert!(
        bin.exists(),
        "{} is missing; build it with `cargo build -p shoal-agent`, or set SHOAL_BIN to a shoal binary",
        bin.display()
    );
    bin
}

/// The path of an installed program, or `None`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|candidate| candidate.is_file())
}

/// The path of an installed program; panics with the Debian package that has it.
pub fn program(name: &str, package: &str) -> PathBuf {
    find_program(name)
        .unwrap_or_else(|| panic!("{name} is missing; install it with `apt-get install {package}`"))
}

/// Whether this is run by root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Stops a test that mounts, traces or runs a container runtime when it is not run by root.
pub fn needs_root() {
    assert!(is_root(), "this test mounts file systems or runs a container runtime and has to be run as root");
}

/// Folder for components that are fetched once and kept: `${XDG_CACHE_HOME:-$HOME/.cache}/shoal`.
pub fn cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
            PathBuf::from,
        )
        .join("shoal")
}
