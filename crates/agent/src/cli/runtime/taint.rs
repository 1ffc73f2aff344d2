//! `--remove-taint`: the node's taint goes when its runtime asks the agent, and not before.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use url::Url;

use super::{InstallArgs, plan};
use crate::causes::chain;
use crate::cli::Failure;
use crate::runtime::{NodeTaint, Removal, Runtime, Survey, TaintError, server_of};

/// Time between two attempts: a thousand nodes whose account lacks a right must not be a load for the API.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct TaintArgs {
    /// Take taints with this key off the node, once its runtime asks the agent. Needs a service account that may get and patch nodes.
    #[arg(long, value_name = "KEY", requires = "hold", requires = "node")]
    remove_taint: Option<String>,
    /// The node's name in its cluster.
    #[arg(long, value_name = "NAME", requires = "remove_taint")]
    node: Option<String>,
    /// The Kubernetes API. Without it: where Kubernetes tells every pod that it is.
    #[arg(long, value_name = "URL", requires = "remove_taint")]
    api_server: Option<Url>,
    /// The folder with the service account's token and ca.crt.
    #[arg(long, value_name = "DIR", requires = "remove_taint", value_hint = ValueHint::DirPath,
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account: PathBuf,
}

impl TaintArgs {
    /// The taint to remove, if one is named.
    pub fn wanted(&self) -> Result<Option<Untaint>, Failure> {
        let (Some(key), Some(node)) = (&self.remove_taint, &self.node) else { return Ok(None) };
        let server = match &self.api_server {
            Some(server) => server.clone(),
            None => server_of_pod().ok_or(TaintError::NoServer)?,
        };
        let taint =
            NodeTaint { server, account: self.service_account.clone(), node: node.clone(), key: key.clone() };
        Ok(Some(Untaint { taint, next: Instant::now(), told: String::new() }))
    }
}

/// The API's address, as Kubernetes tells it to every pod.
fn server_of_pod() -> Option<Url> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
    server_of(&host, &port).ok()
}

/// A taint that is still to be removed.
#[derive(Debug)]
pub(super) struct Untaint {
    taint: NodeTaint,
    /// When it is tried next.
    next: Instant,
    /// Why it is still there, as was said last: the same is said once.
    told: String,
}

impl Untaint {
    /// Whether it is done. Why not, it says itself.
    pub async fn attempt(&mut self, args: &InstallArgs) -> bool {
        if Instant::now() < self.next {
            return false;
        }
        self.next = Instant::now() + RETRY;
        let NodeTaint { node, key, .. } = &self.taint;
        let why = match plan(args) {
            Err(failure) => chain(&failure),
            Ok(plan) if !plan.survey.runtimes.iter().any(Runtime::uses_agent) => not_asked(&plan.survey),
            Ok(_) => match self.taint.remove().await {
                Ok(Removal::Removed) => {
                    eprintln!("the taint {key} is off the node {node}");
                    return true;
                }
                Ok(Removal::WasNotThere) => {
                    eprintln!("the node {node} has no taint {key}");
                    return true;
                }
                Err(error) => chain(&error),
            },
        };
        if why != self.told {
            eprintln!("the taint {key} stays: {why}\ntrying again every {RETRY:?}");
            self.told = why;
        }
        false
    }
}

/// Pods would start on a node that passes the agent by.
fn not_asked(survey: &Survey) -> String {
    let findings = survey.runtimes.iter().flat_map(|runtime| &runtime.findings);
    let findings: Vec<String> = findings.map(|finding| format!("; {finding}")).collect();
    format!("no runtime of this node asks the agent{}", findings.concat())
}
