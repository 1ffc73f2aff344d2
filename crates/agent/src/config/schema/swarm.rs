//! `[swarm]`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::quantity::Rate;

/// `[swarm]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Swarm {
    /// File with the secret that all agents of the cluster share, at least 16 bytes (`openssl rand -hex 32`); a line break
    /// at its end does not count. Default: unset, the agent works alone and opens no port for others. Whoever has the
    /// secret can join, read every image, and send what nobody asked for: treat it like a registry's password.
    pub secret_file: Option<PathBuf>,
    /// File with a second secret that is accepted and not shown: the new one in the first step of a rotation, the old one in
    /// the second. Default: unset.
    pub other_secret_file: Option<PathBuf>,
    /// IP addresses to listen at for other agents. Default `0.0.0.0`; add `::` for IPv6.
    pub listen: Vec<String>,
    /// Port for control messages. Default 5001. 0 is a new port each time.
    pub port: u16,
    /// Port for pieces of blobs. Default 5002. Closed by a firewall while `port` is open, every stream fails before the
    /// agent goes upstream.
    pub data_port: u16,
    /// IP addresses that others are told, best first. Default: none, those the agent listens at. Needed behind address
    /// translation, and where a node has addresses that others cannot reach.
    pub advertise: Vec<String>,
    /// Where others may be: addresses (`10.0.0.7`, `10.0.0.7:5001`), names with an address for each node, such as a
    /// headless Service (`shoal.shoal-system.svc.cluster.local`), and services with their ports
    /// (`_shoal._tcp.example.com`). Default: none. One that answers is enough; looked up again and again.
    pub join: Vec<String>,
    /// Whether the local network is asked for others by multicast. Default false. For a few machines on a desk: every one
    /// there sees this agent's address.
    pub mdns: bool,
    /// Failure and cost domain, such as an availability zone. Default: empty, all nodes are alike. Blobs cross from zone to
    /// zone about once; zones that are none cost time.
    pub zone: String,
    /// Most bytes per second that this node sends to others, all transfers together, such as `100MB/s`. Default: unset, as
    /// many as the link takes. Below `download_rate`, nodes that wait for this one get less than they could.
    pub upload_rate: Option<Rate>,
    /// Most bytes per second that this node receives from others. Default: unset. What comes from registries is bounded by
    /// `upstream.rate`.
    pub download_rate: Option<Rate>,
    /// Labels of this agent, by which `shoal prewarm --select` chooses nodes, such as `pool = "gpu"`. Default: none. At most 16,
    /// of 64 bytes each. Labels of Kubernetes' nodes are others.
    pub labels: BTreeMap<String, String>,
}

impl Default for Swarm {
    fn default() -> Self {
        Swarm {
            secret_file: None,
            other_secret_file: None,
            listen: vec!["0.0.0.0".into()],
            port: 5001,
            data_port: 5002,
            advertise: Vec::new(),
            join: Vec::new(),
            mdns: false,
            zone: String::new(),
            upload_rate: None,
            download_rate: None,
            labels: BTreeMap::new(),
        }
    }
}
