//! The command line beside a running agent, and what the agent says about itself.

use std::process::Command;
use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup, shoal, shoal_within};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::place;
use shoal_tests::process::{Finished, run};

use super::{NOWHERE, REPOSITORY};

/// Exit codes that scripts rely on.
const WRONG_COMMAND_LINE: i32 = 2;
const NO_AGENT: i32 = 4;
const MISSING_OR_WRONG: i32 = 5;

/// Longest time for a demo, which starts a registry and agents on two busy cores.
const DEMO_MAX: Duration = Duration::from_secs(120);
/// Demos until one has shown what it is there to show. One in which an agent stands still does not: another goes on in
/// its place, and what was on its way comes twice.
const DEMOS_MAX: usize = 3;
/// Copies from the registry that still count as one; from here on a demo ends with a failure.
const ONE_COPY_MAX: f64 = 1.05;
/// Nodes of a demo of which nobody says how many.
const DEMO_NODES: usize = 8;
/// What a terminal shows while the first clients of a demo pull.
const PROGRESS: &str = "which has nothing ...";

async fn command(agent: &Agent, arguments: &[&str]) -> Finished {
    let config = agent.setup().folder().join("shoal.toml").display().to_string();
    let mut all = arguments.to_vec();
    all.extend(["--config", &config]);
    shoal(&all).await
}

/// `/healthz`, `/readyz` and `/metrics` on their own port; nothing of it on the registry's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics() {
    let agent = Agent::start(NOWHERE).await;
    let observe = format!("http://{}", agent.setup().observe_address());
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(agent.client().get(&format!("{observe}{path}")).await.status, 200, "{path}");
        assert_eq!(
            agent.client().get(&format!("{}{path}", agent.url())).await.status,
            404,
            "{path} on the registry's port"
        );
    }
    let metrics = agent.client().get(&format!("{observe}/metrics")).await;
    assert!(
        metrics.header("Content-Type").contains("openmetrics")
            || metrics.header("Content-Type").contains("text/plain")
    );
}

/// Metrics that count what a pull does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_a_pull() {
    let origin = Origin::start().await;
    let image = Image::new(510, &[1_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let agent = Setup::new(&origin.url()).set("prefetch.layers", false).start().await;
    let layer = &image.layers[0];
    for _ in 0..2 {
        agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
        agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
        agent.until_idle().await;
    }
    let bytes = layer.len() as f64;
    assert_eq!(agent.metric("requests_total", &["blob", "200"]).await, 2.0);
    assert_eq!(agent.metric("requests_total", &["manifest", "200"]).await, 2.0);
    assert!(agent.metric("served_bytes_total", &["upstream"]).await >= bytes);
    assert!(agent.metric("served_bytes_total", &["store"]).await >= bytes);
    assert!(agent.metric("upstream_bytes_total", &[]).await >= bytes);
    assert_eq!(agent.metric("upstream_requests_total", &["blob-get", "ok"]).await, 1.0);
    // A question whether it is there, and the end of a blob that was broken off, are no further pulls.
    assert_eq!(agent.client().head(&agent.blob(REPOSITORY, &layer.digest)).await.status, 200);
    let rest = agent.client().range(&agent.blob(REPOSITORY, &layer.digest), "bytes=500000-").await;
    rest.expect(206, &layer.bytes[500_000..]);
    assert_eq!(agent.metric("hits_total", &["store"]).await, 2.0);
    assert_eq!(agent.metric("misses_total", &[]).await, 2.0);
    assert!(agent.metric("store_bytes", &[]).await >= bytes);
    assert!(agent.metric("store_blobs", &[]).await >= 1.0);
    assert_eq!(agent.metric("store_degraded", &[]).await, 0.0);
}

/// `shoal status` and `shoal blob ls | verify | rm` beside the running agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_listed_verified_and_removed() {
    let origin = Origin::start().await;
    let (good, bad) = (Blob::noise(511, 2_000_000), Blob::noise(512, 3_000_000));
    origin.add_blob(&good);
    origin.add_blob(&bad);
    let agent = Agent::start(&origin.url()).await;
    for blob in [&good, &bad] {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    agent.until_idle().await;
    let status = command(&agent, &["status"]).await.expect_ok("shoal status");
    assert!(!status.output.trim().is_empty());
    let listed = command(&agent, &["blob", "ls"]).await.expect_ok("shoal blob ls");
    assert!(listed.output.contains(&good.digest) && listed.output.contains(&bad.digest), "{}", listed.output);
    command(&agent, &["blob", "verify", &good.digest]).await.expect_ok("shoal blob verify");

    // One flipped bit in the content file.
    let hex = bad.digest.trim_start_matches("sha256:");
    let named =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(hex));
    let path = agent.data_files().into_iter().find(named).expect("content files are named by their digest");
    let mut bytes = std::fs::read(&path).expect("ours");
    bytes[1_000_000] ^= 1;
    std::fs::write(&path, &bytes).expect("ours");
    let verified = command(&agent, &["blob", "verify", &bad.digest]).await;
    assert_eq!(verified.code, Some(MISSING_OR_WRONG), "a flipped bit was not found: {}", verified.output);
    assert!(verified.output.contains(hex), "{}", verified.output);

    // What was found wrong is gone, what is removed by hand too; both are misses now.
    command(&agent, &["blob", "rm", &good.digest]).await.expect_ok("shoal blob rm");
    let listed = command(&agent, &["blob", "ls"]).await.expect_ok("shoal blob ls");
    for blob in [&good, &bad] {
        assert!(!listed.output.contains(&blob.digest), "{}", listed.output);
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(origin.blob_gets(&blob.digest), 2);
    }
}

/// Without a running agent `status` says so, with the socket it tried; `blob` opens the store itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_without_an_agent() {
    let origin = Origin::start().await;
    let blob = Blob::noise(513, 2_000_000);
    origin.add_blob(&blob);
    let mut agent = Agent::start(&origin.url()).await;
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    agent.until_idle().await;
    agent.kill();
    let status = command(&agent, &["status"]).await;
    assert_eq!(status.code, Some(NO_AGENT), "{}", status.output);
    let socket = agent.setup().socket().display().to_string();
    assert!(status.output.contains(&socket), "{}", status.output);
    let listed = command(&agent, &["blob", "ls"]).await.expect_ok("shoal blob ls");
    assert!(listed.output.contains(&blob.digest), "{}", listed.output);
    let unknown = command(&agent, &["blob", "verify", &Blob::noise(514, 1).digest]).await;
    assert_eq!(unknown.code, Some(MISSING_OR_WRONG), "{}", unknown.output);
}

/// `shoal config check` of a good file, and `shoal config show`, whose output is a good file again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_is_checked_and_shown() {
    let setup = Setup::new(NOWHERE);
    let path = setup.write().display().to_string();
    shoal(&["config", "check", "--config", &path]).await.expect_ok("shoal config check");
    let shown = shoal(&["config", "show", "--config", &path]).await.expect_ok("shoal config show");
    assert!(shown.output.contains(&setup.registry_address().to_string()), "{}", shown.output);
    let again = setup.folder().join("shown.toml");
    std::fs::write(&again, &shown.output).expect("ours");
    shoal(&["config", "check", "--config", &again.display().to_string()])
        .await
        .expect_ok("check of what was shown");
}

/// Shell completion and help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_and_help() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = shoal(&["completion", shell]).await.expect_ok("shoal completion");
        assert!(finished.output.contains("shoal"), "{shell}");
    }
    let help = shoal(&["--help"]).await.expect_ok("shoal --help");
    for word in ["agent", "config", "blob", "status", "demo"] {
        assert!(help.output.contains(word), "{word}: {}", help.output);
    }
    assert!(!shoal(&["no-such-command"]).await.ok);
}

/// The first pull comes from upstream, the second from the store, and the command says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_measured() {
    let origin = Origin::start().await;
    let image = Image::new(77, &[300_000, 1000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let agent = Agent::start(&origin.url()).await;
    let mirror = agent.url();
    let name = format!("{REGISTRY}/{REPOSITORY}:v1");
    let pull = ["pull", &*name, "--mirror", &*mirror];
    let cold = command(&agent, &[&pull[..], &["--json"]].concat()).await.expect_ok("pull").output;
    let cold: serde_json::Value = serde_json::from_str(&cold).unwrap();
    let whats: Vec<_> = cold["steps"].as_array().unwrap().iter().map(|step| step["what"].clone()).collect();
    assert_eq!(whats[..2], ["tag", "manifest"]);
    assert_eq!(whats.len(), 2 + image.blobs().count());
    for step in cold["steps"].as_array().unwrap().iter().skip(2) {
        assert_eq!(step["from"][0]["source"], REGISTRY, "{step}");
    }
    let warm = command(&agent, &pull).await.expect_ok("pull").output;
    assert!(warm.contains("were here already (100 %)"), "{warm}");
    let missing = shoal(&["pull", &format!("{REGISTRY}/{REPOSITORY}:v9"), "--mirror", &mirror]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.output.contains("was answered 404"), "{}", missing.output);
    let nobody = shoal(&["pull", "redis:7", "--mirror", NOWHERE]).await;
    assert_eq!(nobody.code, Some(4), "{}", nobody.output);
}

/// An agent that hangs is given up soon after its own deadline, and asked once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_from_an_agent_that_hangs() {
    let agent = Setup::new(NOWHERE).set("registry.answer_timeout", "1s").start().await;
    let mirror = agent.url();
    agent.stop();
    let pull = ["pull", "redis:7", "--mirror", &*mirror];
    let table: [(&[&str], &str); 2] = [
        (&pull[..2], "admin.sock did not answer within 5s"),
        (&pull, "did not answer within 6s (docker.io/library/redis: manifests/7)"),
    ];
    for (arguments, told) in table {
        let finished = command(&agent, arguments).await;
        assert_eq!(finished.code, Some(1), "{}", finished.output);
        assert!(finished.output.contains(told), "{told:?} is not said: {}", finished.output);
        assert!(finished.output.contains("help: it hangs"), "{}", finished.output);
    }
    agent.go_on();
}

/// What is wrong with a command line is told before anybody is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_lines_that_are_wrong() {
    let table: [(&[&str], &str); 7] = [
        (&["explain", "sha256:aaf"], "give at least 6 digits"),
        (&["blob", "rm", "foo"], "\"foo\" is no digest"),
        (&["blob", "verify"], "<DIGEST|--all>"),
        (&["evict", "sha256:zzz"], "\"sha256:zzz\" is no digest"),
        (&["pin", "redis:7", "--for", "0s"], "must be at least 1s"),
        (&["pull", "redis:7", "--mirror", "ftp://x"], "is no http:// address of a host and a port"),
        (&["help", "nix"], "there is no command `shoal nix`"),
    ];
    for (arguments, told) in table {
        let finished = shoal(arguments).await;
        assert_eq!(finished.code, Some(WRONG_COMMAND_LINE), "{arguments:?}: {}", finished.output);
        assert!(finished.output.contains(told), "{arguments:?}: {told:?} is not said: {}", finished.output);
    }
}

/// Copies that leave the registry in a demo with as many nodes as it has by itself, of which all else is right.
async fn copies_in_a_demo() -> f64 {
    let told = shoal_within(&["demo", "--size", "12MB", "--json"], DEMO_MAX).await;
    let line = told.output.lines().find(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("there is no JSON object: {}", told.output));
    let report: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!((&report["nodes"], &report["verified"]), (&DEMO_NODES.into(), &true.into()), "{report}");
    let copies = report["upstream_ratio"].as_f64().expect("a number");
    assert!((1.0..DEMO_NODES as f64).contains(&copies), "{report}");
    for pulls in ["seconds", "seconds_direct"] {
        assert!(report[pulls].as_f64().is_some_and(|seconds| seconds > 0.0), "{pulls}: {report}");
    }
    assert!(report["image_bytes"].as_u64().is_some_and(|bytes| bytes >= 12_000_000), "{report}");
    assert!(told.ok || copies >= ONE_COPY_MAX, "exit code {:?}: {report}", told.code);
    for node in (0..DEMO_NODES).map(|node| format!("node {node} ")) {
        assert!(told.output.contains(&node), "{node:?} is not in the table: {}", told.output);
    }
    assert!(!told.output.contains(PROGRESS), "this is no terminal: {}", told.output);
    copies
}

/// A small demo with two nodes, as somebody sees it who runs it in a terminal.
async fn demo_in_a_terminal() -> String {
    let mut command = Command::new(place::program("script", "bsdutils"));
    command.args(["-qec", r#"exec "$PROGRAM" demo --nodes 2 --size 3MB"#, "/dev/null"]);
    command.env("PROGRAM", place::shoal_bin()).env("SHELL", "/bin/sh").env("TERM", "xterm");
    run(&mut command, DEMO_MAX).await.output
}

/// The first thing that anybody runs: a real registry and agents that share one copy. Whoever looks sees how far the pulls are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_ends_with_one_copy_and_says_who_sent_what() {
    let mut copies = f64::INFINITY;
    for _ in 0..DEMOS_MAX {
        copies = copies_in_a_demo().await.min(copies);
        if copies < ONE_COPY_MAX {
            break;
        }
    }
    assert!(copies < ONE_COPY_MAX, "{copies} copies at best");

    let told = demo_in_a_terminal().await;
    // The bar has its end in it: what both clients receive together.
    for word in [PROGRESS, "B/6.01 MB", "from registry", "node 0", "node 1", "Every byte was right."] {
        assert!(told.contains(word), "{word:?} is not said: {told}");
    }
}
