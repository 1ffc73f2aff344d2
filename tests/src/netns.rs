//! Network namespaces with shaped links: a bridge in a namespace of its own, and a namespace for each node, whose link
//! to the bridge has a rate in each direction. Nothing of it is reachable from this machine's network, and all of it is
//! gone when it is dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Most nodes: what one address range of /22 has, less what is not a node.
pub const NODES_MAX: usize = 1000;

/// Bytes that may pass at once at the start of a busy time. The kernel's timer is what it has to bridge.
const BURST: &str = "64kb";
/// Longest time a packet waits in a shaped link's queue: what a switch has, not the seconds of a modem.
const QUEUE: &str = "20ms";
/// Bytes of a packet of TCP before what it carries: Ethernet, IPv4, and TCP with the time stamps that Linux sends. The kernel counts
/// several segments that it hands over together as one packet with one head.
const HEAD_BYTES: u64 = 14 + 20 + 32;

/// A network of its own.
pub struct Network {
    name: String,
    nodes: usize,
    /// Put back when the network is gone.
    _neighbours: Neighbours,
}

/// The kernel's bound on neighbours that are known, which all namespaces of a machine share: with fifty nodes that all talk to
/// each other it is reached, and connections wait in vain.
struct Neighbours(Option<String>);

/// Where it is set.
const NEIGHBOURS_MAX: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";

impl Neighbours {
    fn raise(nodes: usize) -> Result<Self> {
        let before =
            std::fs::read_to_string(NEIGHBOURS_MAX).context("cannot read the bound on neighbours")?;
        let wanted = 2 * nodes * nodes + 1024;
        if before.trim().parse::<usize>().is_ok_and(|bound| bound >= wanted) {
            return Ok(Neighbours(None));
        }
        std::fs::write(NEIGHBOURS_MAX, wanted.to_string()).context("cannot raise the bound on neighbours")?;
        Ok(Neighbours(Some(before)))
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(NEIGHBOURS_MAX, before);
        }
    }
}

impl Network {
    /// Makes the namespaces. `rates` are bits per second from and to each node.
    ///
    /// # Errors
    /// Not root, or the kernel lacks something.
    pub fn new(rates: &[u64]) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        ensure!(rates.len() <= NODES_MAX, "at most {NODES_MAX} nodes");
        static NETWORKS: AtomicUsize = AtomicUsize::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-{}-{number}", std::process::id());
        let network = Network { nodes: rates.len(), name, _neighbours: Neighbours::raise(rates.len())? };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for (node, rate) in rates.iter().enumerate() {
            network.add(node, *rate)?;
        }
        Ok(network)
    }

    fn add(&self, node: usize, rate: u64) -> Result<()> {
        let (hub, space, port) = (self.hub(), self.space(node), format!("p{node}"));
        ip(&["netns", "add", &space])?;
        ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "address", "add", &format!("{}/22", address(node)), "dev", "eth0"])?;
        shape(&space, "eth0", rate)?;
        shape(&hub, &port, rate)
    }

    /// Runs a command inside a node's namespace.
    pub fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node)]).arg(program);
        command
    }

    /// The file by which a node's namespace is entered.
    pub fn path(&self, node: usize) -> PathBuf {
        Path::new("/run/netns").join(self.space(node))
    }

    /// Runs something on a thread that is inside a node's namespace: sockets that it opens belong there.
    pub fn inside<T: Send + 'static>(
        &self,
        node: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<io::Result<T>> {
        let path = self.path(node);
        std::thread::spawn(move || {
            let space = std::fs::File::open(path)?;
            // SAFETY: the descriptor is open; only this thread moves.
            if unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(work())
        })
    }

    /// Runs a future inside a node's namespace to its end, on a thread and a runtime of its own.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the future panics.
    pub fn block_on<F: Future>(
        &self,
        node: usize,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<F::Output>
    where
        F::Output: Send + 'static,
    {
        let thread = self.inside(node, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            io::Result::Ok(runtime.block_on(work()))
        });
        let ended = thread.join().map_err(|_| anyhow!("what ran inside node {node}'s network panicked"))?;
        Ok(ended??)
    }

    /// Drops what comes to a port of a node, as a firewall does.
    pub fn drop_port(&self, node: usize, port: u16) -> Result<()> {
        self.close_port(node, port, &["DROP"])
    }

    /// Refuses what comes to a port of a node, as where nobody listens.
    pub fn refuse_port(&self, node: usize, port: u16) -> Result<()> {
        self.close_port(node, port, &["REJECT", "--reject-with", "tcp-reset"])
    }

    fn close_port(&self, node: usize, port: u16, how: &[&str]) -> Result<()> {
        let (space, port) = (self.space(node), port.to_string());
        let inside =
            ["netns", "exec", &space, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j"];
        ip(&[&inside[..], how].concat())
    }

    /// Drops what comes to a node from a port of others. With [`drop_port`](Self::drop_port) alone those who are connected there
    /// would still hear something; with both nothing passes.
    pub fn drop_from_port(&self, node: usize, port: u16) -> Result<()> {
        let (space, port) = (self.space(node), port.to_string());
        let inside = ["netns", "exec", &space, "iptables", "-A", "INPUT", "-p", "tcp", "--sport", &port];
        ip(&[&inside[..], &["-j", "DROP"]].concat())
    }

    /// Bytes that have left a node by its link so far, less the heads of its packets. What was lost behind the link and sent again counts
    /// twice; what was still in the node's memory when a connection broke does not count.
    pub fn sent_bytes(&self, node: usize) -> Result<u64> {
        let space = self.space(node);
        let bytes = counter(&space, "eth0", "tx_bytes")?;
        Ok(bytes.saturating_sub(HEAD_BYTES * counter(&space, "eth0", "tx_packets")?))
    }

    /// Pulls a node's plug: nothing gets to it or from it, and nobody is told.
    pub fn unplug(&self, node: usize) -> Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &format!("p{node}"), "down"])
    }

    /// Puts nodes behind a switch of their own, which has one link to the others'. What they say to each other stays there.
    pub fn zone(&self, nodes: Range<usize>) -> Result<Zone> {
        let (hub, number) = (self.hub(), nodes.start);
        let (bridge, inner, outer) = (format!("zone{number}"), format!("in{number}"), format!("out{number}"));
        ip(&["-n", &hub, "link", "add", &bridge, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", &bridge, "up"])?;
        ip(&["-n", &hub, "link", "add", &outer, "type", "veth", "peer", "name", &inner])?;
        ip(&["-n", &hub, "link", "set", &inner, "master", &bridge, "up"])?;
        ip(&["-n", &hub, "link", "set", &outer, "master", "br0", "up"])?;
        for node in nodes {
            ip(&["-n", &hub, "link", "set", &format!("p{node}"), "master", &bridge])?;
        }
        Ok(Zone { hub, link: outer })
    }

    /// Gives a node its [IPv6 address](address_v6) beside the one it has; nothing has to be waited for before it is used.
    pub fn add_v6(&self, node: usize) -> Result<()> {
        let address = format!("{}/64", address_v6(node));
        ip(&["-n", &self.space(node), "address", "add", &address, "dev", "eth0", "nodad"])
    }

    /// Gives a node the IPv4 address of another number in place of its own.
    pub fn move_to(&self, node: usize, number: usize) -> Result<()> {
        let moved = format!("{}/22", address(number));
        self.remove_v4(node)?;
        ip(&["-n", &self.space(node), "address", "add", &moved, "dev", "eth0"])
    }

    /// Takes a node's IPv4 address away.
    pub fn remove_v4(&self, node: usize) -> Result<()> {
        let address = format!("{}/22", address(node));
        ip(&["-n", &self.space(node), "address", "delete", &address, "dev", "eth0"])
    }

    /// Has those whom [`command`](Self::command) starts in a node's namespace from now on ask this server for names.
    pub fn set_resolver(&self, node: usize, server: IpAddr) -> Result<()> {
        let folder = own_files(&self.space(node));
        std::fs::create_dir_all(&folder).context("cannot make a folder for the files of a namespace")?;
        let written = std::fs::write(folder.join("resolv.conf"), format!("nameserver {server}\n"));
        written.context("cannot write the resolv.conf of a namespace")
    }

    /// Undoes what closes ports, and [`unplug`](Self::unplug).
    pub fn heal(&self, node: usize) -> Result<()> {
        ip(&["netns", "exec", &self.space(node), "iptables", "-F", "INPUT"])?;
        ip(&["-n", &self.hub(), "link", "set", &format!("p{node}"), "up"])
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn space(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }
}

/// Nodes behind a switch of their own.
pub struct Zone {
    hub: String,
    /// The end of its link at the others' switch.
    link: String,
}

impl Zone {
    /// Pulls the link between the zone and all others, or puts it back.
    pub fn set_link(&self, up: bool) -> Result<()> {
        ip(&["-n", &self.hub, "link", "set", &self.link, if up { "up" } else { "down" }])
    }

    /// Bytes that have come into the zone from all others so far, headers included.
    pub fn entered_bytes(&self) -> Result<u64> {
        counter(&self.hub, &self.link, "tx_bytes")
    }
}

/// Address of a node.
pub fn address(node: usize) -> Ipv4Addr {
    let number = node as u32 + 2;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 0)) + number)
}

/// IPv6 address of a node, once it [has been given it](Network::add_v6).
pub fn address_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, node as u16 + 2)
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in (0..self.nodes).map(|node| self.space(node)).chain([self.hub()]) {
            // What has not been made cannot be removed.
            let _ = ip(&["netns", "delete", &space]);
            let _ = std::fs::remove_dir_all(own_files(&space));
        }
    }
}

/// Where a namespace's own files lie, which `ip netns exec` puts in the place of those in /etc.
fn own_files(space: &str) -> PathBuf {
    Path::new("/etc/netns").join(space)
}

/// What the kernel counts of a device in a namespace.
fn counter(space: &str, device: &str, what: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{device}/statistics/{what}");
    let text = output("ip", &["netns", "exec", space, "cat", &path])?;
    text.trim().parse().with_context(|| format!("{path} is odd"))
}

fn shape(space: &str, device: &str, rate: u64) -> Result<()> {
    let rate = format!("{rate}bit");
    let arguments =
        ["-n", space, "qdisc", "add", "dev", device, "root", "tbf", "rate", &rate, "burst", BURST];
    run("tc", &[&arguments[..], &["latency", QUEUE]].concat())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

/// What a program that ends well has written.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program} (Debian: iproute2)"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
