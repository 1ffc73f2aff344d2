//! The process, its ports and its socket.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_down() {
    let setup = Setup::new(NOWHERE);
    let found = doctor(&setup).await;
    found.expect("agent-down", "problem", &["admin.sock"]);
    found.expect_no("port-taken");
    // What can be checked is checked.
    found.expect("connect-failed", "problem", &[REGISTRY]);
}

/// Somebody else has the port: the process is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken() {
    let setup = Setup::new(NOWHERE);
    let _taken =
        std::net::TcpListener::bind(setup.registry_address()).expect("nobody else uses this address");
    let own = format!("process {}", std::process::id());
    doctor(&setup).await.expect("port-taken", "problem", &[&setup.registry_address().to_string(), &own]);
}

/// The agent was started with another configuration than the one that is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_listens_elsewhere() {
    let agent = Agent::start(NOWHERE).await;
    let text = std::fs::read_to_string(agent.setup().write()).expect("ours");
    let config = agent.setup().folder().join("other.toml");
    let ours = agent.address().to_string();
    let other = ours.replace(":5000", ":5100");
    std::fs::write(&config, text.replace(&ours, &other)).expect("ours");
    let found = look(&config, agent.setup().folder(), |_| {}).await;
    found.expect("listener-differs", "problem", &[&ours, &other]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_for_everybody() {
    // Never bound: the configuration alone is looked at.
    let text = "[[registry.listeners]]\naddress = \"0.0.0.0:5999\"\n";
    let setup = Setup::new(NOWHERE).merge(text.parse().expect("TOML"));
    doctor(&setup).await.expect("listener-open", "warning", &["0.0.0.0:5999"]);
}

/// A user who may not ask the agent is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not() {
    place::needs_root();
    const NOBODY: u32 = 65_534;
    let agent = Agent::start(NOWHERE).await;
    let folder = agent.setup().folder();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("ours");
    // The build's folder may be closed to others.
    let program = folder.join("shoal");
    // Written by a child: were it open for writing here while another test forks, running it would fail.
    let mut copy = Command::new("cp");
    copy.arg("--preserve=mode").arg(place::shoal_bin()).arg(&program);
    process::run(&mut copy, ENDS_WITHIN).await.expect_ok("cp");
    let (config, root) = (agent.setup().write(), folder.join("root"));
    let mut command = Command::new(&program);
    command
        .args(["doctor", "--json", "--config"])
        .arg(config)
        .arg("--root")
        .arg(root)
        .uid(NOBODY)
        .gid(NOBODY);
    let finished = process::run(&mut command, ENDS_WITHIN).await;
    let report =
        serde_json::from_str(&finished.output).unwrap_or_else(|e| panic!("{e}: {}", finished.output));
    let found = Found { report, code: finished.code };
    found.expect("admin-denied", "problem", &["admin.sock"]);
    found.expect_no("agent-down");
    found.expect_no("port-taken");
}

/// An agent that does not answer is told, in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs() {
    let agent = Agent::start(NOWHERE).await;
    agent.stop();
    let found = doctor(agent.setup()).await;
    agent.go_on();
    found.expect("admin-silent", "problem", &["admin.sock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_open_files() {
    let setup = Setup::new(NOWHERE);
    let (config, root) = (setup.write(), setup.folder().join("root"));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 512; exec \"$0\" doctor --json --config \"$1\" --root \"$2\""]);
    command.arg(place::shoal_bin()).arg(config).arg(root);
    let finished = process::run(&mut command, ENDS_WITHIN).await;
    let report =
        serde_json::from_str(&finished.output).unwrap_or_else(|e| panic!("{e}: {}", finished.output));
    Found { report, code: finished.code }.expect("nofile-low", "warning", &["512", "connections_max"]);
}

/// Metrics are where another process was first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_that_are_elsewhere() {
    let agent = Agent::start(NOWHERE).await;
    let text = std::fs::read_to_string(agent.setup().write()).expect("ours");
    let config = agent.setup().folder().join("other.toml");
    let ours = agent.setup().observe_address().to_string();
    let other = ours.replace(":5080", ":5081");
    let _taken = std::net::TcpListener::bind(&other).expect("nobody else uses this address");
    std::fs::write(&config, text.replace(&ours, &other)).expect("ours");
    look(&config, agent.setup().folder(), |_| {}).await.expect("observe-taken", "warning", &[&other]);
}
