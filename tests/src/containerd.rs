//! A private containerd: its own root, state and socket, and a hosts directory that points a `.test` registry at a
//! mirror, with the origin behind it.
//!
//! Names under `.test` never resolve, so a pull that works has gone through the hosts directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::netns::Network;
use crate::place;
use crate::process::{Finished, Process, run};
use crate::wait;

/// The registry that every test's image comes from.
pub const REGISTRY: &str = "registry.test";
/// Longest that a pull of a test may take.
const PULL_MAX: Duration = Duration::from_secs(180);

/// A line of containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.6, Debian 12.
    V1_6,
    /// 1.7.
    V1_7,
    /// 2.1 or later: Debian's unstable moves.
    V2,
}

impl Version {
    /// All that the tests know.
    pub const ALL: [Version; 3] = [Version::V1_6, Version::V1_7, Version::V2];

    /// `1.6` and so on.
    pub const fn line(self) -> &'static str {
        match self {
            Version::V1_6 => "1.6",
            Version::V1_7 => "1.7",
            Version::V2 => "2",
        }
    }

    /// The folder with its `containerd` and `ctr`, or `None` when this machine does not have it: the installed one, or
    /// one unpacked under the cache folder, `containerd/<version>/`.
    pub fn folder(self) -> Option<PathBuf> {
        let unpacked = place::cache().join("containerd");
        let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
        for entry in std::fs::read_dir(unpacked).into_iter().flatten().flatten() {
            folders.push(entry.path());
            folders.push(entry.path().join("bin"));
            folders.push(entry.path().join("usr/bin"));
        }
        folders.into_iter().find(|folder| self.is_in(folder))
    }

    fn is_in(self, folder: &Path) -> bool {
        if !folder.join("ctr").is_file() {
            return false;
        }
        // "containerd github.com/containerd/containerd 1.6.20~ds1 ...", "... /v2 2.1.4 ..."
        let Ok(output) = Command::new(folder.join("containerd")).arg("--version").output() else {
            return false;
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.split_whitespace().any(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            word.strip_prefix(self.line()).is_some_and(|rest| rest.starts_with(['.', '~', '-']))
        })
    }
}

/// The versions that this machine has; says plainly which it has not.
pub fn at_hand() -> Vec<Version> {
    let (have, missing): (Vec<_>, Vec<_>) =
        Version::ALL.into_iter().partition(|version| version.folder().is_some());
    for version in missing {
        eprintln!(
            "containerd {} is not on this machine (neither installed nor under {}): its part of this test is left out",
            version.line(),
            place::cache().join("containerd").display()
        );
    }
    assert!(!have.is_empty(), "no containerd at all; install one with `apt-get install containerd`");
    have
}

/// A running containerd.
pub struct Containerd {
    version: Version,
    bin: PathBuf,
    folder: TempDir,
    /// The network namespace that it is in, unless that is this process's.
    space: Option<PathBuf>,
    _process: Process,
}

impl Containerd {
    /// Starts one with nothing in it. `parallel` is its `concurrent_layer_fetch_buffer` in bytes, which only 2.1 and later have.
    pub async fn start(version: Version, parallel: Option<u64>) -> Self {
        Self::start_by(version, parallel, None).await
    }

    /// Starts one with nothing in it in a node's network namespace.
    pub async fn start_in(version: Version, network: &Network, node: usize) -> Self {
        Self::start_by(version, None, Some(network.path(node))).await
    }

    async fn start_by(version: Version, parallel: Option<u64>, space: Option<PathBuf>) -> Self {
        place::needs_root();
        let bin = version
            .folder()
            .unwrap_or_else(|| panic!("containerd {} is not on this machine", version.line()));
        let folder = place::scratch();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, Self::config(folder.path(), version, parallel)).expect("the folder is ours");
        let mut command = inside(space.as_deref(), &bin.join("containerd"));
        command.arg("--config").arg(&config);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", bin.display()));
        let log = folder.path().join("log");
        let process = Process::spawn("containerd", &mut command, &log).unwrap_or_else(|e| panic!("{e}"));
        let containerd = Containerd { version, bin, folder, space, _process: process };
        wait::until(format!("containerd {} to answer", version.line()), wait::START_MAX, || async {
            run(containerd.ctr().arg("version"), Duration::from_secs(10)).await.ok
        })
        .await;
        containerd
    }

    fn config(folder: &Path, version: Version, parallel: Option<u64>) -> String {
        let path = |name: &str| folder.join(name).display().to_string();
        let mut text = format!(
            "version = {}\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.podsandbox.controller.v1.podsandbox', 'io.containerd.nri.v1.nri']\n[grpc]\naddress = '{}'\n[plugins.'io.containerd.internal.v1.opt']\npath = '{}'\n",
            if version == Version::V2 { 3 } else { 2 },
            path("root"),
            path("state"),
            path("socket"),
            path("opt"),
        );
        if let Some(bytes) = parallel {
            text.push_str(&format!(
                "[plugins.'io.containerd.transfer.v1.local']\nconcurrent_layer_fetch_buffer = {bytes}\nmax_concurrent_downloads = 3\n"
            ));
        }
        text
    }

    fn ctr(&self) -> Command {
        // It is `ctr` that fetches, in some versions.
        let mut command = inside(self.space.as_deref(), &self.bin.join("ctr"));
        command.arg("--address").arg(self.folder.path().join("socket")).args(["--namespace", "test"]);
        command
    }

    /// Writes the hosts directory: the mirror first, then the origin.
    pub fn mirror(&self, mirror: &str, origin: &str) {
        self.hosts(&format!(
            "server = \"{origin}\"\n[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        ));
    }

    /// Writes the hosts directory: the origin alone.
    pub fn direct(&self, origin: &str) {
        // containerd 1.6 ignores a file without a `host` table.
        self.mirror(origin, origin);
    }

    fn hosts(&self, text: &str) {
        let folder = self.folder.path().join("hosts").join(REGISTRY);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join("hosts.toml"), text).expect("the folder is ours");
    }

    /// Fetches and unpacks `registry.test/<name>`.
    pub async fn pull(&self, name: &str) -> Finished {
        let mut command = self.ctr();
        command.args(["images", "pull"]).arg("--hosts-dir").arg(self.folder.path().join("hosts"));
        command.arg(format!("{REGISTRY}/{name}"));
        run(&mut command, PULL_MAX).await
    }

    /// The same for a user, `name:password`.
    pub async fn pull_as(&self, user: &str, name: &str) -> Finished {
        let mut command = self.ctr();
        command.args(["images", "pull"]).arg("--hosts-dir").arg(self.folder.path().join("hosts"));
        command.args(["--user", user]).arg(format!("{REGISTRY}/{name}"));
        run(&mut command, PULL_MAX).await
    }

    /// Fetches `registry.test/<name>` without unpacking it.
    pub async fn fetch(&self, name: &str) -> Finished {
        let mut command = self.ctr();
        command.args(["content", "fetch"]).arg("--hosts-dir").arg(self.folder.path().join("hosts"));
        command.arg(format!("{REGISTRY}/{name}"));
        run(&mut command, PULL_MAX).await
    }

    /// Digests of everything in the content store.
    pub async fn content(&self) -> Vec<String> {
        let listed = run(self.ctr().args(["content", "ls", "-q"]), Duration::from_secs(20)).await;
        listed.expect_ok("ctr content ls").output.lines().map(str::to_owned).collect()
    }

    /// Panics unless every blob of the image is in the content store; containerd has checked its bytes.
    pub async fn expect_image(&self, image: &crate::image::Image) {
        let content = self.content().await;
        for blob in image.blobs().chain([&image.manifest]) {
            assert!(
                content.contains(&blob.digest),
                "{} is missing in containerd {}",
                blob.digest,
                self.version.line()
            );
        }
    }

    /// Removes an image and its content.
    pub async fn forget(&self, name: &str) {
        let removed = run(
            self.ctr().args(["images", "rm", "--sync"]).arg(format!("{REGISTRY}/{name}")),
            Duration::from_secs(30),
        )
        .await;
        removed.expect_ok("ctr images rm");
        assert!(self.content().await.is_empty(), "content is left after the only image is gone");
    }

    /// The folder with everything of its own; its folder of hosts is `hosts` there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `io.containerd.content.v1.content`, where blobs lie.
    pub fn content_folder(&self) -> PathBuf {
        self.folder.path().join("root/io.containerd.content.v1.content")
    }
}

/// A program in a network namespace, or in this process's.
fn inside(space: Option<&Path>, program: &Path) -> Command {
    let Some(space) = space else { return Command::new(program) };
    let mut command = Command::new(place::program("nsenter", "util-linux"));
    command.arg(format!("--net={}", space.display())).arg(program);
    command
}
