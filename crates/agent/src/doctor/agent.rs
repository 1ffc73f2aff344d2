//! Does the agent of this node answer, on its socket and on its ports, and is it the one that this configuration means?

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::finding::{Finding, Group, Outcome, kinds};
use super::process::{self, Process};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::status::{LimitStatus, Status, StoreStatus};
use crate::config::Config;
use crate::loopback;
use crate::runtime::{self, ProofError};
use crate::store_health::{Reason, StoreTrouble};

kinds! {
    DOWN: "agent-down", Agent, Problem,
        "Runtimes get nothing from this node: each pull waits for a refused connection and goes to the registry itself. What the agent knows of registries and members could not be checked.",
        "Start it: systemctl start shoal, or look at its pod. If it ends again, its log says why.";
    DENIED: "admin-denied", Agent, Problem,
        "There is an agent, but this user may not ask it; what it knows could not be checked.",
        "Run this as the agent's user, or as root.";
    SILENT: "admin-silent", Agent, Problem,
        "Something is behind the socket and does not answer: a process that hangs, or one that is no agent.",
        "Look at the agent's log and at the disk that it waits for; restart it.";
    TAKEN: "port-taken", Agent, Problem,
        "The agent cannot listen there, and runtimes that are pointed at the port ask somebody else.",
        "Stop the other process, or choose another port in registry.listeners, and in the runtimes.";
    MOVED: "listener-differs", Agent, Problem,
        "The agent that runs does not listen where this configuration says: it was started with another one.",
        "Restart the agent, or name the configuration that it was started with (--config).";
    CLOSED: "port-closed", Agent, Problem,
        "The agent says that it listens there, but no connection comes through: runtimes cannot reach it.",
        "Look for a packet filter on the node, and whether this command runs in the agent's network namespace.";
    OPEN: "listener-open", Agent, Warning,
        "Whoever reaches the port from the network can read every image that the agent's credentials can.",
        "Listen on 127.0.0.1, or keep others out with a packet filter and leave it so.";
    VERSION: "version-differs", Agent, Warning,
        "This program and the agent that runs are of different versions: the agent was not restarted after an upgrade, or another program lies in the path.",
        "Restart the agent, or use the program that it runs.";
    DEGRADED: "agent-degraded", Agent, Problem,
        "The store cannot be used: pulls go straight to the registries, nothing is kept and nothing is shared.",
        "Look at the disk that the path lies on (dmesg); replace it if it fails.";
    FULL: "store-full", Store, Problem,
        "What finds no room goes straight from the registry to the client, each time again; nodes that are warmed do not get ready.",
        "Raise store.capacity, or unpin what need not stay (shoal unpin, shoal prewarm cancel).";
    PINNED: "store-pinned", Store, Warning,
        "Nearly all of the store is pinned: soon there is no room for anything else.",
        "Raise store.capacity, or unpin what need not stay (shoal unpin, shoal prewarm cancel).";
    LIMITED: "own-limit", Agent, Hint,
        "A limit of this node's configuration is what makes its transfers slow.",
        "Raise the limit, or take it out, if that is not meant.";
    WRONG_CONTENT: "content-wrong", Agent, Warning,
        "A registry, a mirror or a member has sent bytes that do not match their digest. Nothing of it was stored or served.",
        "The agent's log names the blob and the source.";
    NOT_READY: "agent-not-ready", Agent, Warning,
        "The agent is starting or ending; it is not counted as ready by whoever watches it.",
        "Wait; if it stays so, its log says what it waits for.";
    OBSERVE: "observe-taken", Agent, Warning,
        "Metrics and health of this agent are not where they are looked for.",
        "Choose a free port in observe.address, and look for packet filters.";
    FILES: "nofile-low", Agent, Warning,
        "With too few open files, connections of runtimes are refused under load.",
        "Raise the limit (LimitNOFILE= in the unit), or lower registry.connections_max.";
}

/// Longest time for a connection on this machine, and for an answer over it.
const LOCAL_MAX: Duration = Duration::from_secs(3);
/// Longest time for the agent to say how it is; it asks its disk for that.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Pinned so much of the store, percent, little else can be held.
const PINNED_PERCENT_MAX: u64 = 90;
/// Open files that a client's connection costs at most.
const FILES_PER_CONNECTION: u64 = 3;
/// Open files for everything else: the index, partial blobs, upstream, members.
const FILES_BESIDES: u64 = 1024;
/// Most bytes of an answer's head that are read.
const HEAD_BYTES_MAX: usize = 4096;
/// How every answer begins.
const HTTP: &[u8; 5] = b"HTTP/";

/// What the agent says when it is asked.
pub(super) enum Answer {
    Status(Box<Status>),
    Down(PathBuf),
    Denied(PathBuf),
    Silent(String),
}

impl Answer {
    pub fn status(&self) -> Option<&Status> {
        match self {
            Answer::Status(status) => Some(status),
            _ => None,
        }
    }
}

/// What is known of an address where clients should reach the agent.
#[derive(Clone, Debug)]
struct Port {
    address: SocketAddr,
    is_open: bool,
    /// Whether an answer comes, too. Connections are taken by the kernel, also for a process that has been stopped.
    answers: bool,
    owner: Owner,
    /// The process that listens there, as far as this user can see it.
    holder: Option<Process>,
}

/// Who answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The agent of the admin socket: it has answered a challenge that only that one knew.
    Agent,
    /// Somebody else, or nobody who speaks HTTP.
    Other,
    /// There is no agent that could say.
    Unknown,
}

/// What is known of the port for metrics and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The agent answers, and is ready or not.
    Agent { ready: bool },
    /// Somebody else does, or nobody.
    Other,
}

/// Asks the agent for what it knows.
pub(super) async fn ask(socket: &Path) -> Answer {
    let client = AdminClient::new(socket);
    match tokio::time::timeout(ANSWER_MAX, client.status()).await {
        Ok(Ok(status)) => Answer::Status(Box::new(status)),
        Ok(Err(ClientError::NoAgent { .. })) => Answer::Down(socket.to_owned()),
        Ok(Err(ClientError::Denied { .. })) => Answer::Denied(socket.to_owned()),
        Ok(Err(error)) => Answer::Silent(crate::causes::chain(&error)),
        Err(_) => {
            let (shown, seconds) = (socket.display(), ANSWER_MAX.as_secs());
            Answer::Silent(format!("the agent on {shown} did not answer within {seconds} s"))
        }
    }
}

/// Looks at the ports and judges.
pub(super) async fn check(config: &Config, socket: &Path, answer: &Answer, pid: Option<u32>) -> Vec<Outcome> {
    let status = answer.status();
    let mut outcomes = judge_answer(answer);
    let addresses = config.listeners().iter().map(|listener| listener.address);
    let ports = addresses.filter(|address| address.port() != 0);
    let ports = join_all(ports.map(|address| look(address, socket, status.is_some()))).await;
    outcomes.extend(ports.iter().flat_map(|port| judge_port(port, answer)));
    if let Some(status) = status {
        outcomes.extend(judge_status(status));
        let watch = watch(config.observe_address(), &status.instance).await;
        outcomes.extend(judge_watch(config.observe_address(), watch));
    }
    let connections = config.connection_limits().connections_max as u64;
    outcomes.extend(process::open_files(pid).and_then(|files| judge_files(files, connections)));
    outcomes
}

/// Looks at a port; with an agent that answers on its socket, whether it is that one's.
async fn look(address: SocketAddr, socket: &Path, has_agent: bool) -> Port {
    let is_open = is_open(address).await;
    let owner = if is_open && has_agent { owner(socket, address).await } else { Owner::Unknown };
    let answers = is_open && (has_agent || answers(address, LOCAL_MAX).await);
    let holder = if is_open { process::listener(address) } else { None };
    Port { address, is_open, answers, owner, holder }
}

/// What the agent says of itself, where nothing else can be looked at.
pub(super) fn judge(answer: &Answer) -> Vec<Outcome> {
    let mut outcomes = judge_answer(answer);
    outcomes.extend(answer.status().map(judge_status).unwrap_or_default());
    outcomes
}

fn judge_answer(answer: &Answer) -> Vec<Outcome> {
    vec![match answer {
        Answer::Status(status) => {
            let up = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
            Outcome::well(Group::Agent, format!("version {} answers, up {up}", status.version))
        }
        Answer::Down(socket) => DOWN.found(format!("no agent answers on {}", socket.display())).into(),
        Answer::Denied(socket) => DENIED.found(format!("this user may not use {}", socket.display())).into(),
        Answer::Silent(why) => SILENT.found(why.clone()).into(),
    }]
}

fn judge_port(port: &Port, answer: &Answer) -> Vec<Outcome> {
    let Port { address, is_open, answers, owner, holder } = port;
    let mut outcomes = Vec::new();
    if !address.ip().is_loopback() {
        outcomes.push(OPEN.found(format!("the agent listens on {address}")).into());
    }
    let taken = || -> Finding {
        match holder {
            Some(process) => TAKEN.found(format!("{address} is taken by {process}")).remedy(format!(
                "Stop {process}, or choose another port in registry.listeners, and in the runtimes."
            )),
            None => TAKEN.found(format!("somebody else answers on {address}")),
        }
    };
    outcomes.push(match answer {
        Answer::Status(status) => {
            let says = status.listeners.iter().any(|listener| *listener == address.to_string());
            let is_others = *owner == Owner::Other;
            match (says, *is_open) {
                (true, true) if is_others => taken().into(),
                (true, true) => Outcome::well(Group::Agent, format!("listens on {address}")),
                (true, false) => CLOSED.found(format!("no connection to {address}")).into(),
                (false, true) if is_others => taken().into(),
                (false, _) => {
                    let where_it_is = status.listeners.join(", ");
                    MOVED.found(format!("{address} is configured, the agent listens on {where_it_is}")).into()
                }
            }
        }
        // There is an agent whom this user may not ask: the port is its own, as far as can be seen.
        Answer::Denied(_) | Answer::Silent(_) if *answers => {
            Outcome::well(Group::Agent, format!("somebody answers on {address}"))
        }
        Answer::Denied(_) | Answer::Silent(_) if *is_open => {
            let seconds = LOCAL_MAX.as_secs();
            SILENT.found(format!("{address} takes connections and answers nothing within {seconds} s")).into()
        }
        _ if *is_open => taken().into(),
        _ => return outcomes,
    });
    outcomes
}

fn judge_status(status: &Status) -> Vec<Outcome> {
    let ours = env!("CARGO_PKG_VERSION");
    let mut found = Vec::new();
    if status.version != ours {
        let what = format!("the agent is version {}, this program {ours}", status.version);
        found.push(VERSION.found(what).into());
    }
    found.extend(judge_store(&status.store).map(Outcome::from));
    let limits: Vec<String> =
        status.limits.iter().filter(|limit| limit.holds_back()).map(LimitStatus::in_words).collect();
    if !limits.is_empty() {
        found.push(LIMITED.found(format!("transfers wait for {}", limits.join(", "))).into());
    }
    if status.verify_failures > 0 {
        let what =
            format!("blobs that did not match their digest since the start: {}", status.verify_failures);
        found.push(WRONG_CONTENT.found(what).into());
    }
    found
}

fn judge_store(store: &StoreStatus) -> Option<Finding> {
    let size = |bytes: u64| ByteSize(bytes).display().si().to_string();
    let room = |capacity: u64| {
        let (used, pinned) = (size(store.bytes + store.partial_bytes), size(store.pinned_bytes));
        format!("store.capacity is {}, {used} are used, {pinned} are pinned", size(capacity))
    };
    let needed = |trouble: &StoreTrouble| {
        trouble
            .needed
            .map_or_else(String::new, |needed| format!("; a blob of {} found no room", size(needed)))
    };
    if let Some((blob, capacity)) = store.larger_than_all() {
        let what = format!("a blob of {} is larger than store.capacity, {}", size(blob), size(capacity));
        return Some(FULL.found(what).remedy("Raise store.capacity."));
    }
    match (&store.trouble, store.capacity) {
        (Some(trouble), Some(capacity)) if trouble.reason == Reason::Capacity => {
            Some(FULL.found(format!("{}{}", room(capacity), needed(trouble))))
        }
        (Some(trouble), _) if trouble.reason == Reason::DiskError => {
            Some(DEGRADED.found(format!("the agent cannot use its store: {}", trouble.error)))
        }
        (Some(trouble), _) => {
            let free = size(store.disk_free);
            let found = FULL.found(format!("{free} are free on the disk{}", needed(trouble)));
            Some(
                found.remedy(
                    "Free space, lower store.disk_free_min, or put the store on another file system.",
                ),
            )
        }
        (None, _) if store.degraded => Some(DEGRADED.found("the agent cannot use its store")),
        (None, Some(capacity)) if store.pinned_bytes >= capacity / 100 * PINNED_PERCENT_MAX => {
            Some(PINNED.found(room(capacity)))
        }
        _ => None,
    }
}

fn judge_watch(address: SocketAddr, watch: Watch) -> Option<Outcome> {
    match watch {
        // It was asked for by port 0, and is somewhere else.
        _ if address.port() == 0 => None,
        Watch::Agent { ready: true } => {
            Some(Outcome::well(Group::Agent, format!("is ready; metrics on {address}")))
        }
        Watch::Agent { ready: false } => {
            Some(NOT_READY.found(format!("http://{address}/readyz says no")).into())
        }
        Watch::Other => Some(OBSERVE.found(format!("the agent does not answer on {address}")).into()),
    }
}

fn judge_files(files: u64, connections_max: u64) -> Option<Outcome> {
    let wanted = connections_max.saturating_mul(FILES_PER_CONNECTION).saturating_add(FILES_BESIDES);
    (files < wanted).then(|| {
        FILES
            .found(format!(
                "{files} files may be open, registry.connections_max = {connections_max} may need {wanted}"
            ))
            .remedy(format!(
                "Raise the limit (LimitNOFILE={wanted} in the unit), or lower registry.connections_max."
            ))
            .into()
    })
}

async fn owner(socket: &Path, address: SocketAddr) -> Owner {
    match runtime::prove(&AdminClient::new(socket), &runtime::Own::url(address)).await {
        Ok(()) => Owner::Agent,
        Err(ProofError::Stranger { .. } | ProofError::NoAnswer { .. }) => Owner::Other,
        Err(ProofError::Agent(_) | ProofError::Url(_)) => Owner::Unknown,
    }
}

async fn is_open(address: SocketAddr) -> bool {
    matches!(
        tokio::time::timeout(LOCAL_MAX, TcpStream::connect(loopback::reachable(address))).await,
        Ok(Ok(_))
    )
}

/// Whether somebody speaks HTTP there.
async fn answers(address: SocketAddr, within: Duration) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(loopback::reachable(address)).await?;
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: shoal\r\nconnection: close\r\n\r\n").await?;
        let mut head = [0; HTTP.len()];
        stream.read_exact(&mut head).await?;
        std::io::Result::Ok(head)
    };
    matches!(tokio::time::timeout(within, asked).await, Ok(Ok(head)) if head == *HTTP)
}

/// Who answers on the port for metrics and health: the agent names itself in every answer.
async fn watch(address: SocketAddr, instance: &str) -> Watch {
    let asked = async {
        let mut stream = TcpStream::connect(loopback::reachable(address)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: shoal\r\nconnection: close\r\n\r\n").await?;
        let mut head = Vec::new();
        stream.take(HEAD_BYTES_MAX as u64).read_to_end(&mut head).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&head).into_owned())
    };
    match tokio::time::timeout(LOCAL_MAX, asked).await {
        Ok(Ok(head)) if head.contains(instance) => Watch::Agent { ready: head.starts_with("HTTP/1.1 200") },
        _ => Watch::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::status::StoreStatus;

    fn status(listeners: &[&str]) -> Status {
        let store = StoreStatus {
            degraded: false,
            trouble: None,
            blobs: 0,
            bytes: 0,
            pinned: 0,
            pinned_bytes: 0,
            partials: 0,
            partial_bytes: 0,
            capacity: None,
            disk_free: 0,
            evicted: 0,
            expired: 0,
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: "i".into(),
            pid: 7,
            uptime_seconds: 1,
            listeners: listeners.iter().map(|text| (*text).to_owned()).collect(),
            connections: 0,
            store,
            flights: Vec::new(),
            served_bytes: BTreeMap::new(),
            hits: BTreeMap::new(),
            misses: 0,
            upstream_bytes: BTreeMap::new(),
            saved_bytes: 0,
            sources: Vec::new(),
            rate_limits: BTreeMap::new(),
            limits: Vec::new(),
            other_secrets: Vec::new(),
            members: 0,
            peer_received_bytes: 0,
            peer_sent_bytes: 0,
            upstream_resumes: 0,
            verify_failures: 0,
        }
    }

    fn ids(outcomes: &[Outcome]) -> Vec<&'static str> {
        let id = |outcome: &Outcome| match outcome {
            Outcome::Well { .. } => "ok",
            Outcome::Found(finding) => finding.kind.id,
        };
        outcomes.iter().map(id).collect()
    }

    #[test]
    fn ports() {
        let up = |listeners: &[&str]| Answer::Status(Box::new(status(listeners)));
        let down = || Answer::Down("/run/s".into());
        let (ours, others, unknown) = (Some(Owner::Agent), Some(Owner::Other), Some(Owner::Unknown));
        // `None`: the port is closed.
        let table: Vec<(&str, Option<Owner>, Answer, &[&str])> = vec![
            ("127.0.0.1:5000", ours, up(&["127.0.0.1:5000"]), &["ok"]),
            ("127.0.0.1:5000", unknown, up(&["127.0.0.1:5000"]), &["ok"]),
            ("0.0.0.0:5000", ours, up(&["0.0.0.0:5000"]), &["listener-open", "ok"]),
            ("127.0.0.1:5000", others, up(&["127.0.0.1:5000"]), &["port-taken"]),
            ("127.0.0.1:5000", None, up(&["127.0.0.1:5000"]), &["port-closed"]),
            ("127.0.0.1:5000", None, up(&["127.0.0.1:6000"]), &["listener-differs"]),
            ("127.0.0.1:5000", others, up(&["127.0.0.1:6000"]), &["port-taken"]),
            ("127.0.0.1:5000", None, down(), &[]),
            ("127.0.0.1:5000", unknown, down(), &["port-taken"]),
            ("127.0.0.1:5000", unknown, Answer::Denied("/run/s".into()), &["ok"]),
        ];
        for (address, found, answer, expected) in table {
            let (is_open, owner) = (found.is_some(), found.unwrap_or(Owner::Unknown));
            let holder = Some(Process { pid: 9, name: "nginx".into() });
            let address = address.parse().unwrap();
            let port = Port { address, is_open, answers: is_open, owner, holder };
            assert_eq!(ids(&judge_port(&port, &answer)), expected, "{port:?}");
        }
        let address = "127.0.0.1:5000".parse().unwrap();
        let stopped = Port { address, is_open: true, answers: false, owner: Owner::Unknown, holder: None };
        assert_eq!(ids(&judge_port(&stopped, &Answer::Silent("no answer".into()))), ["admin-silent"]);
    }

    /// A process that has been stopped has a kernel that goes on.
    #[tokio::test]
    async fn a_connection_alone_is_no_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_open(address).await);
        assert!(!answers(address, Duration::from_millis(20)).await);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                // Those who have gone need no answer.
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = client.read(&mut [0; 256]).await;
            }
        });
        assert!(answers(address, LOCAL_MAX).await);
    }

    #[test]
    fn what_the_agent_says_of_itself() {
        let well = status(&[]);
        assert!(judge_status(&well).is_empty());
        let mut ill = Status { version: "0.0.1".into(), verify_failures: 2, ..well };
        ill.store.degraded = true;
        assert_eq!(ids(&judge_status(&ill)), ["version-differs", "agent-degraded", "content-wrong"]);
    }

    #[test]
    fn a_store_that_takes_nothing_more() {
        const MB: u64 = 1_000_000;
        let trouble = |reason, needed| {
            Some(StoreTrouble { reason, error: "no room".into(), needed: Some(needed), seconds_ago: 3 })
        };
        let store = |trouble: Option<StoreTrouble>, capacity, pinned_bytes| StoreStatus {
            degraded: trouble.is_some(),
            trouble,
            capacity,
            bytes: 60 * MB,
            pinned_bytes,
            disk_free: 5 * MB,
            ..status(&[]).store
        };
        let table = [
            (store(None, None, 0), None),
            (store(None, Some(80 * MB), 60 * MB), None),
            (store(None, Some(64 * MB), 60 * MB), Some(("store-pinned", "60.0 MB are pinned"))),
            (
                store(trouble(Reason::Capacity, 15 * MB), Some(64 * MB), 60 * MB),
                Some(("store-full", "a blob of 15.0 MB found no room")),
            ),
            (
                store(trouble(Reason::Capacity, 65 * MB), Some(64 * MB), 0),
                Some(("store-full", "a blob of 65.0 MB is larger than store.capacity, 64.0 MB")),
            ),
            (
                store(trouble(Reason::DiskFull, 15 * MB), Some(640 * MB), 0),
                Some(("store-full", "5.0 MB are free on the disk")),
            ),
            (store(trouble(Reason::DiskError, 0), None, 0), Some(("agent-degraded", "no room"))),
        ];
        for (store, expected) in table {
            let found = judge_store(&store).map(|finding| (finding.kind.id, finding.what));
            assert_eq!(found.as_ref().map(|(id, _)| *id), expected.map(|(id, _)| id), "{store:?}");
            if let (Some((_, what)), Some((_, part))) = (found, expected) {
                assert!(what.contains(part), "{what}");
            }
        }
    }

    #[test]
    fn limits_that_hold_back() {
        let limit = |waits, waited_percent| LimitStatus {
            key: "swarm.download_rate".into(),
            bytes_per_second: 1_000_000,
            waits,
            waited_percent,
            waited_seconds: 0.0,
        };
        for (waits, waited_percent, expected) in [(false, 10, 0), (true, 0, 1), (false, 50, 1)] {
            let status = Status { limits: vec![limit(waits, waited_percent)], ..status(&[]) };
            assert_eq!(ids(&judge_status(&status)), vec!["own-limit"; expected]);
        }
    }

    #[test]
    fn files_and_health() {
        assert_eq!(judge_files(1_000_000, 4096), None);
        assert!(judge_files(1024, 4096).is_some());
        assert!(judge_files(u64::MAX, u64::MAX).is_none());
        let (at, anywhere) =
            (SocketAddr::from(([127, 0, 0, 1], 5080)), SocketAddr::from(([127, 0, 0, 1], 0)));
        for (address, watch, expected) in [
            (at, Watch::Agent { ready: true }, "ok"),
            (at, Watch::Agent { ready: false }, "agent-not-ready"),
            (at, Watch::Other, "observe-taken"),
        ] {
            assert_eq!(ids(&Vec::from_iter(judge_watch(address, watch))), [expected]);
        }
        assert_eq!(judge_watch(anywhere, Watch::Other), None);
    }
}
