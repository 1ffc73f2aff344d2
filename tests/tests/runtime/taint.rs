//! `--remove-taint`: the node's taint goes when its runtime asks the agent, through an API that behaves as Kubernetes' does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path as Part, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use shoal_tests::helm;
use shoal_tests::process::Process;
use shoal_tests::tls::Authority;
use shoal_tests::wait;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::hold::hold;
use super::*;

const KEY: &str = "shoal.io/not-ready";
const NODE: &str = "node-7";
const TOKEN: &str = "a-token";

/// A cluster with one node.
struct Cluster {
    address: SocketAddr,
    /// The service account's folder.
    account: tempfile::TempDir,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What the API keeps, and how it behaves.
struct Seen {
    node: Value,
    /// The verbs that were asked for, in order.
    verbs: Vec<&'static str>,
    /// Patches before which somebody else changes the node.
    races: u32,
    /// What it says to everything.
    refusal: Option<StatusCode>,
}

impl Cluster {
    async fn start(races: u32, refusal: Option<StatusCode>) -> Self {
        let taints = json!([
            { "key": KEY, "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
        ]);
        let metadata = json!({ "name": NODE, "resourceVersion": "100" });
        let node =
            json!({ "kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": { "taints": taints } });
        let seen = Arc::new(Mutex::new(Seen { node, verbs: Vec::new(), races, refusal }));
        let authority = Authority::new();
        let account = place::scratch();
        fs::write(account.path().join("token"), format!("{TOKEN}\n")).expect("the folder is ours");
        fs::write(account.path().join("ca.crt"), authority.pem()).expect("the folder is ours");
        let tcp = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = tcp.local_addr().expect("bound");
        let tls = Tls { tcp, acceptor: TlsAcceptor::from(authority.server(&[b"http/1.1"], false)) };
        let router = Router::new().route("/api/v1/nodes/{name}", get(node_of).patch(node_of));
        let router = router.with_state(Arc::clone(&seen));
        let task = tokio::spawn(async move { axum::serve(tls, router).await.expect("it serves") });
        Cluster { address, account, seen, task }
    }

    fn hold(&self, agent: &Setup, tree: &Path) -> Process {
        let server = format!("https://{}", self.address);
        let account = self.account.path().display().to_string();
        hold(
            agent,
            tree,
            &["--remove-taint", KEY, "--node", NODE, "--api-server", &server, "--service-account", &account],
        )
    }

    fn taints(&self) -> Value {
        self.seen.lock().expect("nobody panics").node["spec"]["taints"].clone()
    }

    fn verbs(&self) -> Vec<&'static str> {
        self.seen.lock().expect("nobody panics").verbs.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn node_of(
    State(seen): State<Arc<Mutex<Seen>>>,
    Part(name): Part<String>,
    method: Method,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, Json<Value>) {
    let status = |code: StatusCode| (code, Json(json!({ "kind": "Status", "code": code.as_u16() })));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut seen = seen.lock().expect("nobody panics");
    seen.verbs.push(if method == Method::PATCH { "patch" } else { "get" });
    if let Some(refusal) = seen.refusal {
        return status(refusal);
    }
    if header("authorization") != format!("Bearer {TOKEN}") {
        return status(StatusCode::UNAUTHORIZED);
    }
    if name != NODE {
        return status(StatusCode::NOT_FOUND);
    }
    if method == Method::PATCH {
        if header("content-type") != "application/merge-patch+json" {
            return status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let Ok(patch) = serde_json::from_str::<Value>(&body) else { return status(StatusCode::BAD_REQUEST) };
        if seen.races > 0 {
            seen.races -= 1;
            let version = 200 + seen.races;
            seen.node["metadata"]["resourceVersion"] = json!(version.to_string());
        }
        if patch["metadata"]["resourceVersion"] != seen.node["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT);
        }
        seen.node["spec"]["taints"] = patch["spec"]["taints"].clone();
    }
    (StatusCode::OK, Json(seen.node.clone()))
}

/// Connections after their handshake.
struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, address)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn containerd(tree: &Path, config_path: &str) {
    let config = format!("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n{config_path}\n");
    write(tree, "etc/containerd/config.toml", &config);
}

const CONFIG_PATH: &str = "config_path = \"/etc/containerd/certs.d\"";

/// Not before the agent answers; although somebody else changes the node; nothing but the one taint; with the rights that the
/// chart gives, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_taint_goes_when_the_mirror_works() {
    let cluster = Cluster::start(2, None).await;
    let setup = Setup::new(NOWHERE);
    let folder = place::scratch();
    containerd(folder.path(), CONFIG_PATH);
    let holder = cluster.hold(&setup, folder.path());
    let retries = || holder.log().contains("trying again");
    wait::until_true("it to say that no agent answers", PROGRAM_MAX, retries).await;
    assert!(cluster.verbs().is_empty(), "nothing is asked before the agent answers");

    let _agent = setup.start().await;
    let is_off = || holder.log().contains("the taint shoal.io/not-ready is off the node node-7");
    wait::until_true(format!("the taint to go; {}", holder.tail()), PROGRAM_MAX, is_off).await;
    let left = json!([{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }]);
    assert_eq!(cluster.taints(), left);
    assert_eq!(cluster.verbs(), ["get", "patch", "get", "patch", "get", "patch"]);

    let rendered = helm::render("{runtime: {configure: true, removeTaint: shoal.io/not-ready}}").await;
    let rules = &rendered.one("ClusterRole")["rules"];
    assert_eq!(*rules, json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] }]));
}

/// A runtime that passes the mirror by is none that a pod should start on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_taint_stays_while_the_runtime_does_not_ask_the_agent() {
    let cluster = Cluster::start(0, None).await;
    let folder = place::scratch();
    containerd(folder.path(), "");
    let agent = Agent::start(NOWHERE).await;
    let holder = cluster.hold(agent.setup(), folder.path());
    let says = || {
        holder.log().contains("the taint shoal.io/not-ready stays: no runtime of this node asks the agent; ")
    };
    wait::until_true("it to say why", PROGRAM_MAX, says).await;
    assert!(holder.log().contains("config_path is not set"), "{}", holder.log());
    assert!(cluster.verbs().is_empty());
}

/// What the API says against it, and what an operator reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_remedy() {
    let agent = Agent::start(NOWHERE).await;
    for (refusal, words) in [
        (StatusCode::FORBIDDEN, "rule {apiGroups: [\"\"], resources: [nodes], verbs: [get, patch]}"),
        (StatusCode::UNAUTHORIZED, "does not accept the token in "),
        (StatusCode::NOT_FOUND, "the cluster has no node \"node-7\""),
        (StatusCode::INTERNAL_SERVER_ERROR, "refused to get the node: 500"),
        (StatusCode::CONFLICT, "was changed by somebody else"),
    ] {
        let cluster = Cluster::start(0, Some(refusal)).await;
        let folder = place::scratch();
        containerd(folder.path(), CONFIG_PATH);
        let holder = cluster.hold(agent.setup(), folder.path());
        wait::until_true(words, PROGRAM_MAX, || holder.log().contains(words)).await;
        // What it is there for goes on.
        assert!(folder.path().join("etc/containerd/certs.d/docker.io/hosts.toml").is_file());
        assert!(!holder.log().contains(TOKEN), "{}", holder.log());
    }
}
