//! `shoal runtime` as an operator uses it: real runtimes are pointed at a real agent and away from it, and their files are
//! afterwards what they were before.
//!
//! A test's file tree stands for the node's: `--root` names it, and the runtime reads the same files by their real paths.

mod hold;
mod taint;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::containerd::{self, Containerd, REGISTRY, Version};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::place;
use shoal_tests::process::{Finished, run};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::tree::snapshot;

const REPOSITORY: &str = "team/app";
const NAME: &str = "team/app:v1";
const NOWHERE: &str = "http://127.0.0.1:1";
/// A command's exit code when no agent answers.
const NO_AGENT: i32 = 4;
/// Longest that a program may take that moves an image, or starts.
const PROGRAM_MAX: Duration = Duration::from_secs(120);

fn write(tree: &Path, path: &str, text: &str) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().expect("the path has a folder")).expect("the tree is ours");
    fs::write(path, text).expect("the tree is ours");
}

/// `shoal runtime ...` for a tree, beside an agent.
async fn runtime(agent: &Agent, tree: &Path, arguments: &[&str]) -> Finished {
    let config = agent.setup().folder().join("shoal.toml").display().to_string();
    let tree = tree.display().to_string();
    let mut all = vec!["runtime"];
    all.extend(arguments);
    all.extend(["--root", &tree]);
    if arguments[0] != "uninstall" {
        all.extend(["--config", &config]);
    }
    shoal(&all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_asks_the_agent_and_then_the_registry_again() {
    let registry = DockerRegistry::start().await;
    let image = Image::small(880);
    registry.push(REPOSITORY, "v1", &image).await;
    for version in containerd::at_hand() {
        let agent = Setup::new(&registry.url()).registry(REGISTRY, &registry.url()).start().await;
        let passed_by = Proxy::start(registry.address(), Faults::default()).await;
        let containerd = Containerd::start(version, None).await;
        // Its folder of hosts is `hosts` in the tree; by now it names the registry alone.
        containerd.direct(&passed_by.url());
        let tree = containerd.folder();
        let section =
            if version == Version::V2 { "io.containerd.cri.v1.images" } else { "io.containerd.grpc.v1.cri" };
        let format = if version == Version::V2 { 3 } else { 2 };
        let config =
            format!("version = {format}\n[plugins.\"{section}\".registry]\nconfig_path = \"/hosts\"\n");
        write(tree, "etc/containerd/config.toml", &config);
        let before = snapshot(tree, &["etc", "hosts", "var"]);

        let install = ["install", "--registry", REGISTRY];
        runtime(&agent, tree, &install).await.expect_ok("shoal runtime install");
        let after = snapshot(tree, &["etc", "hosts", "var"]);
        let again = runtime(&agent, tree, &install).await.expect_ok("the second shoal runtime install");
        assert!(again.output.contains("nothing to change"), "{}", again.output);
        assert_eq!(snapshot(tree, &["etc", "hosts", "var"]), after);
        let status = runtime(&agent, tree, &["status"]).await.expect_ok("shoal runtime status");
        assert!(status.output.contains("containerd: asks the agent"), "{}", status.output);
        containerd.fetch(NAME).await.expect_ok("the pull by the agent");
        containerd.expect_image(&image).await;
        assert_eq!(passed_by.connections(), 0, "containerd {} passed the agent by", version.line());

        runtime(&agent, tree, &["uninstall"]).await.expect_ok("shoal runtime uninstall");
        assert_eq!(snapshot(tree, &["etc", "hosts", "var"]), before);
        containerd.forget(NAME).await;
        containerd.fetch(NAME).await.expect_ok("the pull from the registry");
        assert!(passed_by.connections() > 0, "containerd {} still asks the agent", version.line());
    }
}

/// Each containerd reads the configuration that was written for it as it was meant, and keeps what was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_reads_its_own_configuration() {
    let agent = Agent::start(NOWHERE).await;
    for version in containerd::at_hand() {
        let format = if version == Version::V2 { 3 } else { 2 };
        let plugin =
            if version == Version::V2 { "io.containerd.cri.v1.images" } else { "io.containerd.grpc.v1.cri" };
        let plain = format!("version = {format}\n");
        let with_section = format!(
            "{plain}imports = [\"conf.d/*.toml\"]\n[plugins.\"{plugin}\"]\nmax_concurrent_downloads = 7\n"
        );
        let with_imports = format!("{plain}imports = [\"conf.d/*.toml\"]\n");
        for (config, kept) in
            [(plain, ""), (with_section, "max_concurrent_downloads = 7"), (with_imports, "")]
        {
            let folder = place::scratch();
            write(folder.path(), "etc/containerd/config.toml", &config);
            let before = snapshot(folder.path(), &[""]);
            let given = version.line().to_owned() + if version == Version::V2 { ".1" } else { "" };
            let install = ["install", "--write-runtime-config", "--containerd-version", &given];
            runtime(&agent, folder.path(), &install).await.expect_ok("shoal runtime install");
            let program = version.folder().expect("it is at hand").join("containerd");
            let mut dump = Command::new(program);
            dump.arg("--config")
                .arg(folder.path().join("etc/containerd/config.toml"))
                .args(["config", "dump"]);
            let dumped = run(&mut dump, PROGRAM_MAX).await.expect_ok("containerd config dump").output;
            for line in ["/etc/containerd/certs.d", kept] {
                assert!(
                    dumped.contains(line),
                    "{line} is lost in containerd {}:\n{config}\n{dumped}",
                    version.line()
                );
            }
            runtime(&agent, folder.path(), &["uninstall"]).await.expect_ok("shoal runtime uninstall");
            assert_eq!(snapshot(folder.path(), &[""]), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_asks_the_agent() {
    let registry = DockerRegistry::start().await;
    let image = Image::small(881);
    registry.push(REPOSITORY, "v1", &image).await;
    let agent = Setup::new(&registry.url()).registry(REGISTRY, &registry.url()).start().await;
    let folder = place::scratch();
    let install = ["install", "--runtime", "podman", "--registry", REGISTRY];
    runtime(&agent, folder.path(), &install).await.expect_ok("shoal runtime install");
    let mut copy = Command::new(place::program("skopeo", "skopeo"));
    // This program takes the environment's word for nothing.
    copy.arg("--registries-conf").arg(folder.path().join("etc/containers/registries.conf.d/zz-shoal.conf"));
    copy.args(["--insecure-policy", "copy"]).arg(format!("docker://{REGISTRY}/{NAME}"));
    copy.arg(format!("dir:{}", folder.path().join("image").display()));
    run(&mut copy, PROGRAM_MAX).await.expect_ok("skopeo copy");
    registry.until_calm().await;
    for blob in image.blobs() {
        assert_eq!(registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
}

/// Nothing is written as long as the agent has not said that the port is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_has_to_prove_whose_it_is() {
    let mut agent = Agent::start(NOWHERE).await;
    let other = Agent::start(NOWHERE).await;
    let folder = place::scratch();
    write(folder.path(), "etc/containerd/config.toml", "version = 2\n");
    let before = snapshot(folder.path(), &[""]);
    let observe = format!("http://{}", agent.setup().observe_address());
    let strangers = [
        (other.url(), "is not this agent's"),
        (observe, "is not this agent's"),
        (NOWHERE.to_owned(), "nobody answers"),
        ("https://127.0.0.1:5000".to_owned(), "is no http:// address"),
    ];
    for (mirror, why) in strangers {
        let refused = runtime(&agent, folder.path(), &["install", "--mirror", &mirror]).await;
        assert!(!refused.ok && refused.output.contains(why), "{mirror}: {}", refused.output);
        assert_eq!(snapshot(folder.path(), &[""]), before, "{mirror}");
    }
    // The port answers nothing that the socket has not handed out.
    let unknown = agent.client().get(&format!("{}/shoal/proof/0123", agent.url())).await;
    assert_eq!(unknown.status, 404);
    agent.kill();
    let refused = runtime(&agent, folder.path(), &["install"]).await;
    assert_eq!(refused.code, Some(NO_AGENT), "{}", refused.output);
    assert_eq!(snapshot(folder.path(), &[""]), before);
    runtime(&agent, folder.path(), &["install", "--unchecked"]).await.expect_ok("an image build");
    assert!(folder.path().join("etc/containerd/certs.d/_default/hosts.toml").exists());
    runtime(&agent, folder.path(), &["uninstall"]).await.expect_ok("shoal runtime uninstall");
    assert_eq!(snapshot(folder.path(), &[""]), before);
}
