//! Looks at this node as an experienced person would, and says what is wrong, what that means and what to do.
//!
//! Each part of a node has a module: it gathers facts (with deadlines, changing nothing), and judges them (pure functions,
//! with tables of cases). All parts are looked at at the same time; one that hangs is told as late, and the rest is there.
//! Invariant: no secret is among the facts, so none can get into a report.

mod agent;
mod configuration;
mod finding;
mod neighbour;
mod process;
mod registries;
mod report;
mod runtimes;
mod store;
mod swarm;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use finding::{Finding, Group, Kind, Level, Outcome};
pub use registries::PROXY_VARIABLES;
pub use report::Report;

use crate::admin::client::AdminClient;
use crate::admin::status::Status;
use crate::config::{Config, ConfigErrors, Whereabouts};
use registries::Proxies;

finding::kinds! {
    LATE: "check-late", Agent, Warning,
        "A check did not end in time; what it looks at hangs, or is very slow.",
        "Look at the disk, the network or the process that it names.";
}

/// Longest time for each part of the node; all are looked at at the same time, after the agent was asked.
const PART_MAX: Duration = Duration::from_secs(14);

/// Everything that can be found, in the order of the groups.
pub fn kinds() -> Vec<&'static Kind> {
    let all = [
        configuration::KINDS,
        agent::KINDS,
        KINDS,
        store::KINDS,
        registries::KINDS,
        swarm::KINDS,
        runtimes::KINDS,
    ];
    let mut kinds: Vec<&'static Kind> = all.concat();
    kinds.sort_by_key(|kind| kind.group);
    kinds
}

/// What is looked at.
#[derive(Debug)]
pub struct Patient {
    /// The configuration file; none for the defaults.
    pub config_path: Option<PathBuf>,
    /// What is in it.
    pub config: Result<Config, ConfigErrors>,
    /// The agent's admin socket, if it is not the one that the configuration names.
    pub socket: Option<PathBuf>,
    /// Where the root of the node's file system is, for what belongs to the runtimes.
    pub root: PathBuf,
    /// Proxy variables of this process, of [`PROXY_VARIABLES`].
    pub proxies: BTreeMap<String, String>,
}

/// Looks at everything. Takes 20 s at most, however much of the node hangs.
pub async fn examine(patient: Patient) -> Report {
    let config = match &patient.config {
        Ok(config) => config.clone(),
        Err(errors) => return without_config(&patient, errors).await,
    };
    let socket = patient.socket.clone().unwrap_or_else(|| config.admin_socket().to_owned());
    let answer = agent::ask(&socket).await;
    let status = answer.status();
    let pid = AdminClient::new(&socket).agents_pid().await;
    let proxies = proxies(&patient, pid);
    let path = patient.config_path.as_deref();
    let (files, agent, store, registries, swarm, runtimes) = tokio::join!(
        in_time("the configuration's files", on_a_thread(files(path, &config, status))),
        in_time("the agent's ports", agent::check(&config, &socket, &answer, pid)),
        in_time("the store's disk", on_a_thread(disk(&config, pid))),
        in_time("registries", look_at_registries(&config, status, &proxies)),
        in_time("other members", look_at_swarm(&config, &socket, status)),
        in_time("the runtimes' files", on_a_thread(runtime_files(&config, &patient.root))),
    );
    Report::new([files, agent, store, registries, swarm, runtimes].concat())
}

/// A configuration that cannot be used: by anybody, or by this user, who may then still ask the agent.
async fn without_config(patient: &Patient, errors: &ConfigErrors) -> Report {
    let places = Whereabouts::load(patient.config_path.as_deref());
    if let (Ok(places), ConfigErrors::Wrong { problems, .. }) = (places, errors) {
        let denied = places.denied(problems);
        if denied.len() == problems.len() {
            let socket = patient.socket.as_deref().unwrap_or(places.admin_socket());
            let mut outcomes = vec![configuration::judge_denied(&denied)];
            outcomes.extend(agent::judge(&agent::ask(socket).await));
            return Report::new(outcomes);
        }
    }
    Report::new(configuration::judge_errors(errors))
}

async fn look_at_registries(config: &Config, status: Option<&Status>, proxies: &Proxies) -> Vec<Outcome> {
    match registries::client(config) {
        Ok(client) => registries::check(config, &client, status, proxies).await,
        Err(error) => vec![configuration::judge_settings(&error)],
    }
}

async fn look_at_swarm(config: &Config, socket: &Path, status: Option<&Status>) -> Vec<Outcome> {
    let peers = match status {
        Some(_) => AdminClient::new(socket).peers().await.ok(),
        None => None,
    };
    swarm::check(config, peers.filter(|peers| peers.enabled)).await
}

fn files(
    path: Option<&Path>,
    config: &Config,
    status: Option<&Status>,
) -> impl FnOnce() -> Vec<Outcome> + use<> {
    let (path, config) = (path.map(Path::to_owned), config.clone());
    let up_since =
        status.and_then(|status| SystemTime::now().checked_sub(Duration::from_secs(status.uptime_seconds)));
    move || configuration::check(path.as_deref(), &config, up_since)
}

fn disk(config: &Config, agent: Option<u32>) -> impl FnOnce() -> Vec<Outcome> + use<> {
    let config = config.clone();
    move || store::check(&config, agent)
}

fn runtime_files(config: &Config, root: &Path) -> impl FnOnce() -> Vec<Outcome> + use<> {
    let (config, root) = (config.clone(), root.to_owned());
    move || runtimes::check(&config, &root)
}

/// Disks may hang, and threads cannot be stopped: this one is waited for, but not longer than others.
async fn on_a_thread(work: impl FnOnce() -> Vec<Outcome> + Send + 'static) -> Vec<Outcome> {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

async fn in_time(what: &'static str, part: impl Future<Output = Vec<Outcome>>) -> Vec<Outcome> {
    let late = || LATE.found(format!("{what}: not looked at within {} s", PART_MAX.as_secs())).into();
    tokio::time::timeout(PART_MAX, part).await.unwrap_or_else(|_| vec![late()])
}

fn proxies(patient: &Patient, agent: Option<u32>) -> Proxies {
    let agents = agent.and_then(|pid| process::environment(pid, &PROXY_VARIABLES));
    Proxies { ours: patient.proxies.clone(), agents: agents.map(BTreeMap::from_iter) }
}
