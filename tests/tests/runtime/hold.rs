//! `shoal runtime install --hold`, as a container beside the agent's runs it.

use shoal_tests::process::Process;
use shoal_tests::wait;

use super::*;

/// It starts before the agent answers, and what it has written goes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_when_the_agent_answers_and_taken_away_at_the_end() {
    let setup = Setup::new(NOWHERE);
    let folder = place::scratch();
    let tree = folder.path();
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    write(tree, "etc/containerd/config.toml", config);
    let before = snapshot(tree, &[""]);

    let mut command = Command::new(place::shoal_bin());
    command.args(["runtime", "install", "--hold", "--runtime", "containerd", "--containerd-version", "1.7"]);
    command.arg("--root").arg(tree).arg("--config").arg(setup.write());
    let log = setup.folder().join("hold");
    let mut held = Process::spawn("shoal runtime install --hold", &mut command, &log).expect("it starts");
    let retries = || held.log().contains("trying again");
    wait::until_true("it to say that no agent answers", PROGRAM_MAX, retries).await;
    assert_eq!(snapshot(tree, &[""]), before);

    let agent = setup.start().await;
    let hosts = tree.join("etc/containerd/certs.d/_default/hosts.toml");
    wait::until_true("the agent to be written down", PROGRAM_MAX, || hosts.is_file()).await;
    let written = fs::read_to_string(&hosts).expect("the tree is ours");
    assert!(written.contains(&agent.setup().registry_address().to_string()), "{written}");

    held.signal(libc::SIGTERM);
    let status = held.exit(PROGRAM_MAX).await;
    assert!(status.success(), "{status}: {}", held.log());
    assert_eq!(snapshot(tree, &[""]), before, "{}", held.log());
}
