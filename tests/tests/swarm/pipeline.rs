//! The pipeline step of `docs/prewarm-ci.md`, run as it stands there, with stand-ins for helm and for the way to a node.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};
use tempfile::TempDir;

use super::REPOSITORY;
use super::prewarm::{STEP_MAX, name, socket};

/// The two scripts: the step, and what a step does for which a few nodes may be missing.
fn scripts() -> [String; 2] {
    let page = include_str!("../../../docs/prewarm-ci.md");
    let (_, section) = page.split_once("## A CI step").expect("the page has that section");
    let script = |part: &str| part.split_once("\n```").expect("the fence ends").0.to_owned();
    let mut scripts = section.split("```sh\n").skip(1).map(script);
    let step = scripts.next().expect("a script");
    let lenient = scripts.next().expect("a second one");
    let beginning: Vec<&str> = step.lines().take(2).collect();
    assert!(beginning[0] == "set -eu" && beginning[1].starts_with("release()"), "{beginning:?}");
    [step.clone(), format!("{}\n{lenient}", beginning.join("\n"))]
}

/// A machine that runs pipelines: its programs, and what they leave behind.
struct Runner {
    folder: TempDir,
}

impl Runner {
    /// Its `ssh` leads to the node with that socket.
    fn new(socket: &str) -> Self {
        let runner = Runner { folder: place::scratch() };
        let shoal = place::shoal_bin();
        let (manifests, released) = (runner.path("manifests"), runner.path("released"));
        for (name, script) in [
            (
                "helm",
                format!(
                    "case $1 in template) cat '{manifests}';; upgrade) echo \"$@\" > '{released}';; esac"
                ),
            ),
            ("ssh", "test \"$1\" = node-1 && shift && exec \"$@\"".to_owned()),
            ("sudo", "exec \"$@\"".to_owned()),
            ("shoal", format!("exec '{}' \"$@\" --socket '{socket}'", shoal.display())),
        ] {
            let path = runner.folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the folder is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        }
        runner
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a script for a release with these images.
    async fn run(&self, script: &str, images: &[&str]) -> Output {
        let containers: Vec<_> = images
            .iter()
            .enumerate()
            .map(|(at, image)| format!("{{name: c{at}, image: '{image}'}}"))
            .collect();
        let pod = format!(
            "kind: Pod\napiVersion: v1\nmetadata: {{name: app}}\nspec: {{containers: [{}]}}\n",
            containers.join(", ")
        );
        fs::write(self.path("manifests"), pod).expect("the folder is ours");
        let _ = fs::remove_file(self.path("released"));
        let mut command = Command::new("/bin/sh");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-c", script]).current_dir(self.folder.path()).env("TAG", "v2").env("NODE", "node-1");
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
        ran.expect("there is a shell")
    }

    /// The same once every node answers the step's dry run: where one stands still for some seconds, it ends before anything has begun.
    async fn run_answered(&self, script: &str, images: &[&str]) -> Output {
        let ran = RefCell::new(None);
        wait::until("every node to answer a dry run", STEP_MAX, || async {
            let output = self.run(script, images).await;
            let is_answered = !String::from_utf8_lossy(&output.stdout).contains("does not answer");
            *ran.borrow_mut() = Some(output);
            is_answered
        })
        .await;
        ran.into_inner().expect("it has run")
    }

    fn has_released(&self) -> bool {
        Path::new(&self.path("released")).exists()
    }
}

#[track_caller]
fn expect(output: &Output, code: i32, text: &str) {
    let printed =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{printed}");
    assert!(printed.contains(text), "{text:?} is not in\n{printed}");
}

/// A release goes out when its images are there, and not when one is missing, a node is, or the agent is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_waits_for_its_images() {
    let jq = Command::new("jq").arg("--version").output();
    assert!(jq.is_ok_and(|jq| jq.status.success()), "jq is missing (Debian: jq)");
    let origin = Origin::start().await;
    origin.add_image(REPOSITORY, "v1", &Image::new(1200, &[300_000, 20_000]));
    origin.add_image(REPOSITORY, "v2", &Image::new(1210, &[5_000_000]));
    // The last one has no room for the larger image. Its zone is behind that of the others, so it is not the canary.
    let mut cluster = Cluster::start_with(&origin.url(), 3, |node, setup| {
        let setup = setup.set("swarm.labels.pool", "web");
        match node {
            2 => setup.set("swarm.zone", "b").set("store.capacity", "2MiB"),
            _ => setup.set("swarm.zone", "a"),
        }
    })
    .await;
    let runner = Runner::new(&socket(&cluster.agents[0]));
    let [step, lenient] = scripts();
    let (v1, v2, missing) = (name("v1"), name("v2"), name("v9"));

    expect(&runner.run_answered(&step, &[&v1]).await, 0, "3 nodes would receive");
    assert!(runner.has_released());
    let told: serde_json::Value =
        serde_json::from_slice(&fs::read(runner.path("prewarm.json")).expect("it was written"))
            .expect("JSON");
    assert_eq!((&told["nodes"], &told["ready"]), (&3.into(), &3.into()));
    assert!(told["pinned_until"].is_u64(), "{told}");
    expect(&runner.run(&lenient, &[&v1]).await, 0, "true");

    expect(&runner.run(&step, &[&v1, &missing]).await, 1, "no source has it");
    assert!(!runner.has_released());
    // For the lenient one, too, a request of which nothing comes is no success: 2 is not 1.
    expect(&runner.run(&lenient, &[&missing]).await, 1, "");

    expect(&runner.run(&step, &[&v2]).await, 1, "");
    assert!(!runner.has_released());
    expect(&runner.run(&lenient, &[&v2]).await, 1, "false");

    cluster.agents[0].kill();
    expect(&runner.run(&step, &[&v2]).await, 4, "");
    assert!(!runner.has_released());
}
