//! `shoal doctor` on nodes on which something is wrong on purpose: with real files, agents, registries and proxies, each fault is
//! found by its identifier, and a node that is well has none.

mod agent;
mod configuration;
mod registries;
mod runtimes;
mod store;
mod swarm;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shoal_tests::agent::{Agent, REGISTRY, Setup, shoal};
use shoal_tests::origin::Origin;
use shoal_tests::{place, process};

/// An upstream that nobody answers at.
const NOWHERE: &str = "http://127.0.0.1:1";
/// The command has its own deadlines, which end far earlier.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// What the command promises, and what starting a process may take on a busy machine.
const PROMISED: Duration = Duration::from_secs(20 + 10);

/// What the command has found.
struct Found {
    report: Value,
    code: Option<i32>,
}

impl Found {
    /// Everything that it says of what has this identifier.
    fn texts(&self, id: &str) -> Vec<&str> {
        let checks = self.report["checks"].as_array().expect("a list");
        checks.iter().filter(|check| check["id"] == id).filter_map(|check| check["what"].as_str()).collect()
    }

    fn level(&self, id: &str) -> Option<&str> {
        let checks = self.report["checks"].as_array().expect("a list");
        checks.iter().find(|check| check["id"] == id).and_then(|check| check["level"].as_str())
    }

    /// Panics unless it was found, at this level, with these words.
    #[track_caller]
    fn expect(&self, id: &str, level: &str, words: &[&str]) {
        let texts = self.texts(id);
        assert!(!texts.is_empty(), "{id} was not found: {:#}", self.report);
        assert_eq!(self.level(id), Some(level), "{id}: {texts:?}");
        for word in words {
            assert!(texts.iter().any(|text| text.contains(word)), "{word:?} is not said: {texts:?}");
        }
        if level == "problem" {
            assert_eq!(self.code, Some(1), "the exit status tells of problems");
        }
    }

    #[track_caller]
    fn expect_no(&self, id: &str) {
        assert!(self.texts(id).is_empty(), "{id} was found: {:?}", self.texts(id));
    }
}

/// Runs the command for a set-up, whose node has nothing in its file tree.
async fn doctor(setup: &Setup) -> Found {
    doctor_with(setup, |_| {}).await
}

/// The same with a say in how it is run.
async fn doctor_with(setup: &Setup, change: impl FnOnce(&mut Command)) -> Found {
    let root = setup.folder().join("root");
    std::fs::create_dir_all(&root).expect("the folder is ours");
    look(&setup.write(), &root, change).await
}

async fn look(config: &Path, root: &Path, change: impl FnOnce(&mut Command)) -> Found {
    let mut command = Command::new(place::shoal_bin());
    command.args(["doctor", "--json", "--config"]).arg(config).arg("--root").arg(root);
    change(&mut command);
    let finished = process::run(&mut command, ENDS_WITHIN).await;
    let report =
        serde_json::from_str(&finished.output).unwrap_or_else(|e| panic!("{e}: {}", finished.output));
    assert!(finished.took < PROMISED, "it took {:?}", finished.took);
    Found { report, code: finished.code }
}

/// A node on which all is well: nothing but hints, and what is well is said in a line each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_well() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let found = doctor(agent.setup()).await;
    assert_eq!((&found.report["problems"], found.code), (&0.into(), Some(0)), "{:#}", found.report);
    for id in
        ["agent-down", "port-taken", "store-unusable", "connect-failed", "clock-wrong", "config-changed"]
    {
        found.expect_no(id);
    }
    let config = agent.setup().write();
    let text = shoal(&["doctor", "--config", &config.display().to_string(), "--root", "/nonexistent"]).await;
    assert!(text.ok, "{}", text.output);
    for word in ["Configuration\n  ok ", "Registries and mirrors\n  ok ", REGISTRY, "0 problems, "] {
        assert!(text.output.contains(word), "{word:?} is not said: {}", text.output);
    }
    assert!(!text.output.contains('\x1b'), "colours are for terminals");
}
