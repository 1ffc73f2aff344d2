//! The image, made of the program that is tested here: it has what the program needs and nothing that a shell would, and is the same
//! each time.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::helm;
use shoal_tests::place;
use shoal_tests::process::{Finished, run};
use tempfile::TempDir;

const IMAGE: &str = "localhost/shoal-test";

/// buildah with a storage of its own.
struct Buildah(TempDir);

impl Buildah {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.0.path();
        command.env("BUILDAH_ISOLATION", "chroot").env("TMPDIR", folder);
        command.env("STORAGE_DRIVER", "vfs").env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
        command
    }

    fn new() -> Self {
        let folder = place::scratch();
        let at = folder.path().display();
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n");
        std::fs::write(folder.path().join("storage.conf"), storage).expect("the folder is ours");
        place::program("buildah", "buildah");
        Buildah(folder)
    }

    async fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.command("buildah");
        command.args(args);
        run(&mut command, Duration::from_secs(120)).await
    }

    /// The image's id.
    async fn image(&self) -> String {
        let mut command = self.command("sh");
        command.arg(helm::deploy().join("image/from-binary.sh")).arg(place::shoal_bin()).arg(IMAGE);
        command.env("VERSION", "1.2.3").env("REVISION", "0123abc").env("SOURCE_DATE_EPOCH", "1700000000");
        let built = run(&mut command, Duration::from_secs(120)).await.expect_ok("from-binary.sh");
        built.output.lines().last().expect("an id").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_runs_and_is_the_same_each_time() {
    place::needs_root();
    let buildah = Buildah::new();
    let (one, other) = (buildah.image().await, buildah.image().await);
    assert_eq!(one, other, "two images of one program differ");

    let container = buildah.run(&["from", &one]).await.expect_ok("buildah from").output;
    let container = container.trim();
    let agent = |args: &[&'static str]| [&["run", container, "--", "/usr/bin/shoal"], args].concat();
    let version = buildah.run(&agent(&["version"])).await.expect_ok("shoal version");
    assert!(version.output.starts_with("shoal "), "{}", version.output);
    // The certificates are there, and the image's user is nobody special.
    buildah.run(&agent(&["config", "check"])).await.expect_ok("shoal config check");

    let inspected = buildah.run(&["inspect", container]).await.expect_ok("buildah inspect");
    let inspected: Value = serde_json::from_str(&inspected.output).expect("JSON");
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"][0], "/usr/bin/shoal");
    for (label, value) in [
        ("version", "1.2.3"),
        ("revision", "0123abc"),
        ("created", "2023-11-14T22:13:20Z"),
        ("licenses", "Apache-2.0"),
    ] {
        assert_eq!(config["Labels"][format!("org.opencontainers.image.{label}")], value, "{label}");
    }

    let root = buildah.run(&["mount", container]).await.expect_ok("buildah mount").output;
    let root = std::path::Path::new(root.trim());
    for file in ["usr/bin/shoal", "etc/ssl/certs/ca-certificates.crt", "etc/nsswitch.conf"] {
        assert!(root.join(file).is_file(), "{file}");
    }
    for own in ["var/lib/shoal", "run/shoal"] {
        let owner = std::fs::metadata(root.join(own)).expect("it is there");
        assert_eq!((owner.uid(), owner.gid()), (65532, 65532), "{own}");
    }
    for shell in ["bin/sh", "usr/bin/sh", "bin/bash"] {
        assert!(!root.join(shell).exists(), "{shell}");
    }
    let size = std::fs::metadata(root.join("usr/bin/shoal")).expect("it is there").len();
    let built = std::fs::metadata(place::shoal_bin()).expect("it is there").len();
    assert!(size < built / 2, "debug information is still there: {size} of {built}");
}
