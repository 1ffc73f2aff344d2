//! `shoal runtime install --hold`, as a container or a unit beside the agent runs it.

use shoal_tests::process::Process;
use shoal_tests::tree::Snapshot;
use shoal_tests::wait;

use super::*;

/// containerd's own configuration, and a registry with an entry of the operator's.
fn node(tree: &Path) {
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    write(tree, "etc/containerd/config.toml", config);
    write(tree, "etc/containerd/certs.d/ghcr.io/hosts.toml", "# ours\n[host.\"https://m.test\"]\n");
}

/// `shoal runtime install --hold` for a tree, beside an agent.
pub(super) fn hold(setup: &Setup, tree: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(place::shoal_bin());
    command.args(["runtime", "install", "--hold", "--runtime", "containerd", "--containerd-version", "1.7"]);
    command.args(["--registry", "docker.io", "--registry", "ghcr.io", "--check-every", "50ms"]).args(more);
    command.arg("--root").arg(tree).arg("--config").arg(setup.write());
    let log = tree.join("log");
    Process::spawn("shoal runtime install --hold", &mut command, &log).expect("it starts")
}

/// The runtime's files; the record lies elsewhere.
fn etc(tree: &Path) -> Snapshot {
    snapshot(tree, &["etc"])
}

async fn until_etc(what: &str, tree: &Path, holder: &Process, expected: &Snapshot) {
    let is_so = || etc(tree) == *expected;
    wait::until_true(format!("{what}; {}", holder.tail()), PROGRAM_MAX, is_so).await;
}

/// It starts before the agent answers, and what it has written goes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_when_the_agent_answers_and_taken_away_at_the_end() {
    let setup = Setup::new(NOWHERE);
    let folder = place::scratch();
    let tree = folder.path();
    node(tree);
    let before = etc(tree);
    let mut holder = hold(&setup, tree, &[]);
    let retries = || holder.log().contains("trying again");
    wait::until_true("it to say that no agent answers", PROGRAM_MAX, retries).await;
    assert_eq!(etc(tree), before);

    let agent = setup.start().await;
    let hosts = tree.join("etc/containerd/certs.d/docker.io/hosts.toml");
    wait::until_true("the agent to be written down", PROGRAM_MAX, || hosts.is_file()).await;
    let written = fs::read_to_string(&hosts).expect("the tree is ours");
    assert!(written.contains(&agent.setup().registry_address().to_string()), "{written}");

    holder.signal(libc::SIGTERM);
    let status = holder.exit(PROGRAM_MAX).await;
    assert!(status.success(), "{status}: {}", holder.log());
    assert_eq!(etc(tree), before, "{}", holder.log());
    assert!(!tree.join("var").exists(), "the record is gone with its folders");
}

/// An agent that stands still, and one that is dead: its entries are out of the files, byte for byte, until it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taken_away_while_the_agent_cannot_serve() {
    let folder = place::scratch();
    let tree = folder.path();
    node(tree);
    let before = etc(tree);
    let mut agent = Agent::start(NOWHERE).await;
    let patience = ["--unable-after", "1s", "--able-after", "200ms"];
    let mut holder = hold(agent.setup(), tree, &patience);
    wait::until_true("both to be written", PROGRAM_MAX, || {
        holder.log().contains("docker.io/hosts.toml: written")
            && holder.log().contains("ghcr.io/hosts.toml: added to")
    })
    .await;
    let written = etc(tree);
    assert_ne!(written, before);

    agent.stop();
    until_etc("an agent that stands still to be taken out", tree, &holder, &before).await;
    // What follows from it is said, to whoever asks, before anybody else has written there.
    let status = runtime(&agent, tree, &["status", "--runtime", "containerd"]).await;
    assert!(status.output.contains("does not ask the agent"), "{}", status.output);
    assert!(status.output.contains("until it serves again: nobody answers"), "{}", status.output);
    agent.go_on();
    until_etc("an agent that goes on to be written again", tree, &holder, &written).await;

    agent.kill();
    until_etc("a dead agent to be taken out", tree, &holder, &before).await;
    // Whoever holds it may be replaced meanwhile.
    holder.kill();
    holder = hold(agent.setup(), tree, &patience);
    agent.restart().await;
    until_etc("a new agent to be written", tree, &holder, &written).await;

    // One that is killed leaves what it has written; the next one takes it away if there is no agent.
    holder.kill();
    agent.kill();
    assert_eq!(etc(tree), written);
    holder = hold(agent.setup(), tree, &patience);
    until_etc("what an earlier one has left to be taken out", tree, &holder, &before).await;
    holder.signal(libc::SIGTERM);
    assert!(holder.exit(PROGRAM_MAX).await.success(), "{}", holder.log());
    assert_eq!(etc(tree), before);
    assert!(!tree.join("var").exists(), "the record is gone with its folders");
}

/// An agent that comes and goes does not have the files rewritten for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_back_so_often_and_no_more() {
    let folder = place::scratch();
    let tree = folder.path();
    node(tree);
    let before = etc(tree);
    let mut agent = Agent::start(NOWHERE).await;
    let patience = ["--unable-after", "1s", "--able-after", "100ms", "--restores-per-hour", "1"];
    let holder = hold(agent.setup(), tree, &patience);
    let is_written = || etc(tree) != before;
    wait::until_true("the agent to be written", PROGRAM_MAX, is_written).await;
    agent.kill();
    until_etc("the agent to be taken out", tree, &holder, &before).await;
    agent.restart().await;
    wait::until_true("the agent to be written again", PROGRAM_MAX, is_written).await;
    agent.kill();
    until_etc("the agent to be taken out again", tree, &holder, &before).await;
    agent.restart().await;
    let is_held_back =
        || holder.log().contains("come back 1 times within an hour, and stay away for now: 60 min");
    wait::until_true("it to say that it waits", PROGRAM_MAX, is_held_back).await;
    assert_eq!(etc(tree), before);
}
