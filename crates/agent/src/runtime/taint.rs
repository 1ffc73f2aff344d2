//! A taint with which a node joins its cluster, so that no pod starts there before the node's runtime asks the agent; and how it
//! is taken off the node, by the Kubernetes API.
//!
//! The agent itself knows nothing of Kubernetes. Whoever has to write the runtime's configuration anyway may do this as well, with
//! a service account that may get and patch nodes.
//!
//! Invariants: only taints of the named key are touched; a node that has changed since it was read is read again, never
//! overwritten; the token is sent to the named server alone, over TLS that its own CA has signed.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use url::Url;

use crate::tls;

/// How long all of it may take: whoever waits has other things to do.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Largest answer, bytes: a node object names up to 50 images and has annotations of at most 256 KiB.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How often a node that somebody else changes at the same time is read again. kubelet writes to it every few seconds at most.
const ATTEMPTS: u32 = 5;
/// Where a pod's service account lies, in files that Kubernetes keeps up to date.
const TOKEN: &str = "token";
const CA: &str = "ca.crt";

/// A taint of a node, and the API where both are kept.
#[derive(Clone, Debug)]
pub struct NodeTaint {
    /// The API server, `https://host:port`.
    pub server: Url,
    /// The folder with the service account's `token` and `ca.crt`.
    pub account: PathBuf,
    /// The node's name.
    pub node: String,
    /// The taint's key.
    pub key: String,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The node has it no longer.
    Removed,
    /// The node did not have it.
    WasNotThere,
}

/// Why the taint is still there. Nothing has changed; all but what is the account's or the command line's fault may be over the
/// next time.
#[derive(Debug, thiserror::Error)]
pub enum TaintError {
    /// Nothing says where the API server is.
    #[error("nothing says where the Kubernetes API is: this is no pod; name it with --api-server")]
    NoServer,
    /// The API server's address is none.
    #[error("{0} is no https:// address of a Kubernetes API server; name it with --api-server")]
    Server(Url),
    /// The service account's files are of no use.
    #[error("{path} cannot be read; mount the service account's token and ca.crt there", path = path.display())]
    Account {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA is none.
    #[error("{} holds no certificates in PEM form; mount the service account's ca.crt there", .0.display())]
    Ca(PathBuf),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The API server cannot be asked.
    #[error("the Kubernetes API at {server} did not answer")]
    NoAnswer {
        /// Where.
        server: Url,
        /// What happened.
        source: reqwest::Error,
    },
    /// It took too long.
    #[error("the Kubernetes API at {0} did not answer within {TIME_MAX:?}")]
    Late(Url),
    /// Its answer is nothing that it should say.
    #[error("the Kubernetes API at {0} sent no node")]
    NoNodeObject(Url),
    /// The token is not accepted.
    #[error("the Kubernetes API does not accept the token in {}", .0.display())]
    Unauthorized(PathBuf),
    /// The account lacks a right.
    #[error(
        "the service account may not {verb} nodes: give it a ClusterRole with the rule {{apiGroups: [\"\"], resources: [nodes], verbs: [get, patch]}}"
    )]
    Forbidden {
        /// Which.
        verb: &'static str,
    },
    /// There is no such node.
    #[error("the cluster has no node {0:?}; --node takes the name as `kubectl get nodes` shows it")]
    NoNode(String),
    /// Others changed the node each time.
    #[error("the node {0:?} was changed by somebody else {ATTEMPTS} times in a row")]
    Conflict(String),
    /// Anything else.
    #[error("the Kubernetes API refused to {verb} the node: {status}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Its answer.
        status: StatusCode,
    },
}

impl NodeTaint {
    /// Takes the taint off the node, whatever its value and effect.
    ///
    /// # Errors
    /// See [`TaintError`].
    pub async fn remove(&self) -> Result<Removal, TaintError> {
        if self.server.scheme() != "https" {
            return Err(TaintError::Server(self.server.clone()));
        }
        let removal = tokio::time::timeout(TIME_MAX, self.remove_at_last()).await;
        removal.unwrap_or_else(|_| Err(TaintError::Late(self.server.clone())))
    }

    async fn remove_at_last(&self) -> Result<Removal, TaintError> {
        let (client, token) = (self.client()?, self.token()?);
        for _ in 0..ATTEMPTS {
            let node = self.ask(self.request(&client, Method::GET, &token)?, "get").await?;
            let node = node.ok_or_else(|| TaintError::Conflict(self.node.clone()))?;
            let Some(patch) = without(&node, &self.key) else { return Ok(Removal::WasNotThere) };
            let request = self.request(&client, Method::PATCH, &token)?;
            let request =
                request.header(header::CONTENT_TYPE, "application/merge-patch+json").body(patch.to_string());
            if self.ask(request, "patch").await?.is_some() {
                return Ok(Removal::Removed);
            }
        }
        Err(TaintError::Conflict(self.node.clone()))
    }

    /// A client for the one server, without the proxies of the environment: it is inside the cluster. Made anew each time, because
    /// the files change.
    fn client(&self) -> Result<reqwest::Client, TaintError> {
        let path = self.account.join(CA);
        let pem = std::fs::read(&path);
        let pem = pem.map_err(|source| TaintError::Account { path: path.clone(), source })?;
        let mut roots = rustls::RootCertStore::empty();
        tls::trust(&mut roots, &pem).map_err(|_| TaintError::Ca(path))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client(roots)?.with_no_client_auth())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build();
        client.map_err(|source| self.no_answer(source))
    }

    fn token(&self) -> Result<String, TaintError> {
        let path = self.account.join(TOKEN);
        let text = std::fs::read_to_string(&path);
        text.map(|text| text.trim_end().to_owned()).map_err(|source| TaintError::Account { path, source })
    }

    fn request(
        &self,
        client: &reqwest::Client,
        method: Method,
        token: &str,
    ) -> Result<RequestBuilder, TaintError> {
        let mut url = self.server.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(["api", "v1", "nodes", self.node.as_str()]),
            Err(()) => return Err(TaintError::Server(self.server.clone())),
        };
        Ok(client.request(method, url).bearer_auth(token).header(header::ACCEPT, "application/json"))
    }

    /// The node as it is afterwards; none if it has changed in between.
    async fn ask(&self, request: RequestBuilder, verb: &'static str) -> Result<Option<Value>, TaintError> {
        let mut answer = request.send().await.map_err(|source| self.no_answer(source))?;
        match answer.status() {
            StatusCode::CONFLICT => return Ok(None),
            StatusCode::UNAUTHORIZED => return Err(TaintError::Unauthorized(self.account.join(TOKEN))),
            StatusCode::FORBIDDEN => return Err(TaintError::Forbidden { verb }),
            StatusCode::NOT_FOUND => return Err(TaintError::NoNode(self.node.clone())),
            status if !status.is_success() => return Err(TaintError::Refused { verb, status }),
            _ => {}
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|source| self.no_answer(source))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(TaintError::NoNodeObject(self.server.clone()));
            }
        }
        let node = serde_json::from_slice(&body).ok().filter(|node: &Value| node["kind"] == "Node");
        node.map(Some).ok_or_else(|| TaintError::NoNodeObject(self.server.clone()))
    }

    fn no_answer(&self, source: reqwest::Error) -> TaintError {
        TaintError::NoAnswer { server: self.server.clone(), source: source.without_url() }
    }
}

/// The address that Kubernetes gives to every pod, in two variables.
///
/// # Errors
/// They are no address.
pub fn server_of(host: &str, port: &str) -> Result<Url, url::ParseError> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Url::parse(&format!("https://{host}:{port}"))
}

/// What makes a node's list of taints what it is without the ones of a key; none if there are none. A list is replaced as a
/// whole, so the patch holds for the very version that was read.
fn without(node: &Value, key: &str) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let left: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != key).collect();
    if left.len() == taints.len() {
        return None;
    }
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    let version = &node["metadata"]["resourceVersion"];
    Some(json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": left } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "shoal.io/not-ready";

    #[test]
    fn only_the_taints_of_the_key_go() {
        let ours = json!({ "key": KEY, "effect": "NoSchedule" });
        let harder = json!({ "key": KEY, "effect": "NoExecute", "value": "x" });
        let other = json!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" });
        for (taints, left) in [
            (json!(null), None),
            (json!([]), None),
            (json!([other]), None),
            (json!([ours]), Some(json!(null))),
            (json!([ours, other, harder]), Some(json!([other]))),
        ] {
            let node = json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": taints } });
            let patch = left
                .map(|left| json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": left } }));
            assert_eq!(without(&node, KEY), patch, "{node}");
        }
    }

    #[test]
    fn addresses_of_the_server() {
        for (host, port, expected) in [
            ("10.96.0.1", "443", "https://10.96.0.1/"),
            ("fd00::1", "6443", "https://[fd00::1]:6443/"),
            ("kubernetes.default", "443", "https://kubernetes.default/"),
        ] {
            assert_eq!(server_of(host, port).unwrap().as_str(), expected);
        }
        assert!(server_of("", "443").is_err());
    }
}
