//! The containers/image clients: skopeo, podman and buildah.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::place;
use crate::process::{Finished, run};

/// Longest that a copy or pull of a test may take.
const PULL_MAX: Duration = Duration::from_secs(120);

/// `skopeo copy` of an image, by path addressing, into a folder.
pub async fn skopeo_copy(agent: SocketAddr, image: &str, into: &Path) -> Finished {
    let mut command = Command::new(place::program("skopeo", "skopeo"));
    command.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    command.arg(format!("docker://{agent}/{image}")).arg(format!("dir:{}", into.display()));
    run(&mut command, PULL_MAX).await
}

/// Whose storage commands are meant: both keep images in the same way.
#[derive(Clone, Copy, Debug)]
pub enum Puller {
    /// podman.
    Podman,
    /// buildah.
    Buildah,
}

impl Puller {
    fn command(self, folder: &Path) -> Command {
        let name = match self {
            Puller::Podman => "podman",
            Puller::Buildah => "buildah",
        };
        let mut command = Command::new(place::program(name, name));
        command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
        command.args(["--storage-driver", "vfs"]);
        if matches!(self, Puller::Podman) {
            command.arg("--tmpdir").arg(folder.join("tmp"));
            command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        }
        command
    }

    /// Pulls `image`, whose registry is mirrored by the agent in a private registries.conf.
    pub async fn pull(self, agent: SocketAddr, registry: &str, image: &str, folder: &Path) -> Finished {
        let conf = folder.join("registries.conf");
        let text = format!(
            "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n[[registry.mirror]]\nlocation = \"{agent}/{registry}\"\ninsecure = true\n"
        );
        std::fs::write(&conf, text).expect("the folder is ours");
        let policy = folder.join("policy.json");
        std::fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)
            .expect("the folder is ours");
        let mut command = self.command(folder);
        command.env("CONTAINERS_REGISTRIES_CONF", &conf);
        command
            .arg("pull")
            .arg("--quiet")
            .arg("--signature-policy")
            .arg(&policy)
            .arg(format!("{registry}/{image}"));
        run(&mut command, PULL_MAX).await
    }

    /// Digests of the images in that folder's storage.
    pub async fn images(self, folder: &Path) -> String {
        let mut command = self.command(folder);
        command.args(["images", "--format", "{{.Digest}}", "--noheading"]);
        run(&mut command, Duration::from_secs(30)).await.expect_ok("images").output
    }
}
