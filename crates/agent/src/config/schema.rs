//! Every key of the configuration file: its name, what it does, its default, its unit, its cost, and how it is misused.
//! `config/shoal.toml` says the same to operators; a test keeps the two complete and equal.
//!
//! Nothing is checked here but names and types: what a value may be is decided by `resolve`, which sees all of them.

mod mirrors;
mod object_store;
mod swarm;
mod traces;

pub use mirrors::{MirrorSet, Mirrors};
pub use object_store::{CredentialsFrom, ObjectStore};
pub use swarm::Swarm;
pub use traces::Traces;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::paths::Paths;
use super::quantity::{Period, Rate, Size};
use crate::upstream::AccessMode;

mod access;

pub use access::{Access, AccessAction, AccessRule};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// What clients talk to.
    pub registry: Registry,
    /// Blobs on disk.
    pub store: Store,
    /// Where blobs come from.
    pub upstream: Upstream,
    /// Who else has what registries have.
    pub mirrors: Mirrors,
    /// The other agents.
    pub swarm: Swarm,
    /// The second tier that nodes share.
    pub object_store: ObjectStore,
    /// What is served at all.
    pub access: Access,
    /// Answers about mutable names.
    pub tags: Tags,
    /// What is fetched before it is asked for.
    pub prefetch: Prefetch,
    /// What the agent says about itself.
    pub log: Log,
    /// Traces of pulls.
    pub traces: Traces,
    /// Metrics and health.
    pub observe: Observe,
    /// The socket of the command line.
    pub admin: Admin,
    /// The end.
    pub shutdown: Shutdown,
}

/// `[registry]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Longest time from a request to its response headers. Default 25 s: below the 30 s after which containerd and
    /// buildkit take a host for dead. Longer, and clients leave before they are told why; much shorter, and a slow
    /// registry becomes a failed pull.
    pub answer_timeout: Period,
    /// A client that gets no byte for this long, because no source brings any, is cut off so that its runtime can ask
    /// elsewhere. Default 60 s. Below the upstream timeouts it cuts pulls that would have gone on.
    pub body_idle_timeout: Period,
    /// Connections open at once, over all listeners; further ones wait. Default 4096. Each costs up to 64 KiB and
    /// three file descriptors.
    pub connections_max: usize,
    /// How long an idle connection is kept, and how long a request's head may take. Default 150 s: clients keep idle
    /// connections for up to 120 s and fail when they use one that has just been closed.
    pub keep_alive: Period,
    /// How long a client may take nothing of an answer before it is cut. Default 5 min: runtimes pause while they
    /// unpack. Longer keeps the memory and descriptors of clients that have died.
    pub write_idle_timeout: Period,
    /// Where clients connect. Default: one, `127.0.0.1:5000`, without a default registry.
    pub listeners: Vec<Listener>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            answer_timeout: Period::from_secs(25),
            body_idle_timeout: Period::from_secs(60),
            connections_max: 4096,
            keep_alive: Period::from_secs(150),
            write_idle_timeout: Period::from_secs(5 * 60),
            listeners: vec![Listener { address: Some("127.0.0.1:5000".into()), default_registry: None }],
        }
    }
}

/// `[[registry.listeners]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// IP address and port. Required. Whoever reaches it can read every image that the agent's credentials can: anything
    /// but loopback is a decision.
    pub address: Option<String>,
    /// The registry that is meant where a request names none, as docker's graph drivers do. Default: such requests are
    /// refused. With it, a client whose mirror path is wrong gets images of this registry instead of an error.
    pub default_registry: Option<String>,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The data directory. Default `/var/lib/shoal`. Made when it is not there; it belongs to one agent alone, and should
    /// lie on a local disk: on a network file system every pull crosses the network twice.
    pub path: PathBuf,
    /// Most bytes of blobs, half-received ones with their full size. Default: unset, what the file system has less
    /// `disk_free_min`. The index comes on top, about 200 bytes a blob. Smaller than the images of the node, it makes
    /// every pull a cold one.
    pub capacity: Option<Size>,
    /// Part of the capacity at which eviction starts. Default 0.9.
    pub high_watermark: f64,
    /// Part of the capacity at which eviction stops. Default 0.8. The distance between the two is what one round of
    /// eviction frees: too small, and it runs for every blob.
    pub low_watermark: f64,
    /// Bytes always left free on the file system. Default 1 GiB. On a disk shared with kubelet it should exceed
    /// kubelet's own eviction threshold (10 % of the disk), or the agent's cache costs pods their place.
    pub disk_free_min: Size,
    /// Largest blob kept inside the index. Default 64 KiB: manifests and configurations, which then cost no file and one
    /// sync. Larger makes the index slow; blobs up to this size are held in memory while they arrive.
    pub inline_max: Size,
    /// A blob that nobody used for longer is removed. Default: unset, blobs go only for want of room.
    pub max_age: Option<Period>,
    /// A half-received blob that was not written for longer is removed. Default 1 day: what a broken pull may leave
    /// behind, to go on with.
    pub partial_max_age: Period,
    /// How often expired blobs and leftovers are looked for. Default 1 min. One round reads a part of the index; a broken
    /// index is tried again as often.
    pub sweep_interval: Period,
    /// The container runtime's content store (containerd: `/var/lib/containerd/io.containerd.content.v1.content`), to
    /// serve from what the node has already. Default: unset. Only read; the agent needs the right to, which mostly only root
    /// has. With containerd's `discard_unpacked_layers` there is next to nothing in it.
    pub runtime_content: Option<PathBuf>,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            path: "/var/lib/shoal".into(),
            capacity: None,
            high_watermark: 0.9,
            low_watermark: 0.8,
            disk_free_min: Size(1 << 30),
            inline_max: Size(64 << 10),
            max_age: None,
            partial_max_age: Period::from_secs(24 * 60 * 60),
            sweep_interval: Period::from_secs(60),
            runtime_content: None,
        }
    }
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Longest time for a connection: name look-up, TCP, TLS. Default 5 s.
    pub connect_timeout: Period,
    /// Longest time from the connection to the response headers. Default 10 s. Together with `connect_timeout` it should
    /// stay below `registry.answer_timeout`, or nothing is left for a second attempt.
    pub header_timeout: Period,
    /// Longest time between two pieces of a body; then the transfer goes on over a new connection. Default 15 s. There is
    /// no limit for the whole.
    pub idle_timeout: Period,
    /// Transfers from upstream at a time. Default 32. More makes registries take the node for an attacker; fewer lets
    /// large layers hold up small ones.
    pub transfers_max: usize,
    /// Most bytes per second that come from registries and mirrors to this node, all transfers together, such as `100MB/s`.
    /// Default: unset. It holds for each node; the nodes of a swarm share what comes in.
    pub rate: Option<Rate>,
    /// `User-Agent` of every request. Default `shoal/` and the version. Registries block unknown names in bulk: one that
    /// says who you are gets a mail instead.
    pub user_agent: String,
    /// Whether the client's address is passed on as `X-Forwarded-For`. Default false: it tells the registry about the
    /// inside of your network.
    pub forward_client_address: bool,
    /// A Docker `config.json` with credentials and credential helpers for all registries, or a list of such files, of which the
    /// first that has something for a registry counts. Default: unset, anonymous. Read again when they change.
    pub docker_config: Paths,
    /// Registries that need more than their name. Default: none; any other is asked at `https://` and its name.
    pub registries: BTreeMap<String, UpstreamRegistry>,
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream {
            connect_timeout: Period::from_secs(5),
            header_timeout: Period::from_secs(10),
            idle_timeout: Period::from_secs(15),
            transfers_max: shoal_engine::limits::FETCHES_MAX,
            rate: None,
            user_agent: concat!("shoal/", env!("CARGO_PKG_VERSION")).into(),
            forward_client_address: false,
            docker_config: Paths::default(),
            registries: BTreeMap::new(),
        }
    }
}

/// `[upstream.registries."docker.io"]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamRegistry {
    /// Where it is: scheme, host, port, path prefix. Default `https://` and the registry's name. `http://` sends
    /// everything in the clear, credentials included.
    pub endpoint: Option<String>,
    /// PEM file with CA certificates, trusted besides the system's. Default: unset. Read once, at the start.
    pub ca: Option<PathBuf>,
    /// PEM file with the client certificate and its chain. Default: unset. Read once, at the start.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with its private key. Default: unset. Should be readable to the agent's user alone.
    pub client_key: Option<PathBuf>,
    /// User name. Default: unset, what `docker_config` has for the registry.
    pub username: Option<String>,
    /// File with the password, whose last line break does not count. Default: unset. Read again when it changes. A
    /// password cannot stand in this file: configuration is copied, logged and kept in repositories.
    pub password_file: Option<PathBuf>,
    /// Hosts (`auth.test` or `auth.test:8443`) that may issue tokens although they are not in the registry's domain.
    /// Default: none. Each gets the credentials of this registry.
    pub trusted_realms: Vec<String>,
    /// Who gets its images from this agent. `open`: whoever reaches the port. `public-only`: whoever reaches the port, but only
    /// what everybody can pull; the rest the runtime fetches from the registry with its own credentials. `verify`: who shows a
    /// token of the registry for the repository. Default: `open` where there are credentials for the registry, otherwise
    /// `public-only`. `open` on a node with several tenants hands each the others' images.
    pub access: Option<AccessMode>,
    /// Whether its images are stored. Default true. Without, each client costs a transfer of its own.
    pub cache: bool,
}

impl Default for UpstreamRegistry {
    fn default() -> Self {
        UpstreamRegistry {
            endpoint: None,
            ca: None,
            client_certificate: None,
            client_key: None,
            username: None,
            password_file: None,
            trusted_realms: Vec::new(),
            access: None,
            cache: true,
        }
    }
}

/// `[tags]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tags {
    /// How long an answer about a tag is good when upstream names no `max-age`. Default 1 min. Longer saves requests and
    /// shows a moved tag later.
    pub ttl: Period,
    /// Longest `max-age` that is believed. Default 14 days.
    pub ttl_max: Period,
    /// How long beyond its time an answer is still served while its source cannot be asked. Default 1 day. 0 s makes an
    /// outage of the registry an outage of the cluster; very long hides that a registry has gone.
    pub stale_max: Period,
}

impl Default for Tags {
    fn default() -> Self {
        let day = 24 * 60 * 60;
        Tags {
            ttl: Period::from_secs(60),
            ttl_max: Period::from_secs(14 * day),
            stale_max: Period::from_secs(day),
        }
    }
}

/// `[prefetch]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prefetch {
    /// Whether an image's manifest sets its layers in motion before the client asks for them. Default true. Costs the
    /// bytes of layers that a client then does not want, such as a runtime's that has them already.
    pub layers: bool,
}

impl Default for Prefetch {
    fn default() -> Self {
        Prefetch { layers: true }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people, `json` (one object a line) for machines. Default `text`. Written to standard error.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list of `target=level` such as `info,shoal::request=warn`. Default
    /// `info`: one line per request. `debug` is for a node that is looked at; it can cost more than the pulls.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, level: "info".into() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[observe]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observe {
    /// Where `/metrics`, `/healthz` and `/readyz` are served over plain http. Default `127.0.0.1:5080`. Nothing secret is
    /// there, but the names of registries are.
    pub address: String,
    /// Whether the status page is served there as well, at `/`, with the events and stories of blobs that it reads. It shows
    /// names of images, digests, and the members with their addresses. Default: true where `address` is on loopback, otherwise
    /// false: whoever may scrape metrics need not know what runs in the cluster.
    pub page: Option<bool>,
}

impl Default for Observe {
    fn default() -> Self {
        Observe { address: "127.0.0.1:5080".into(), page: None }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The unix socket through which `shoal status` and `shoal blob` talk to the agent; only its own user and root may.
    /// Default `/run/shoal/admin.sock`. The directory is made when it is not there.
    pub socket: PathBuf,
    /// Where the same API is served to other machines, over TLS, to whoever shows the token. Default: unset, nowhere. Whoever has
    /// the token can do what the command line can: warm any node, and remove what this one has stored.
    pub address: Option<String>,
    /// PEM file with the certificate for that, and its chain. Default: unset. Read again when it changes.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key. Default: unset. Should be readable to the agent's user alone. Read again when it changes.
    pub key: Option<PathBuf>,
    /// File with the token, at least 32 characters. Default: unset. Read again when it changes.
    pub token_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            socket: "/run/shoal/admin.sock".into(),
            address: None,
            certificate: None,
            key: None,
            token_file: None,
        }
    }
}

/// `[shutdown]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long requests under way may go on after SIGTERM. Default 15 s: half of the 30 s after which Kubernetes kills.
    /// Half-received blobs are kept and go on after the restart.
    pub drain_deadline: Period,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { drain_deadline: Period::from_secs(15) }
    }
}
