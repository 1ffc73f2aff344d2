//! Agents of which each has a network namespace of its own, the clients beside them, and how busy all of them are.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_agent::admin::client::AdminClient;
use tokio::task::JoinHandle;

use crate::agent::Setup;
use crate::http::Client;
use crate::image::Blob;
use crate::netns::Network;
use crate::process::Process;
use crate::{place, usage, wait};

/// An agent in its namespace.
pub struct Node<'n> {
    /// Before its folder, in which its log is.
    process: Process,
    /// How it was set up.
    pub setup: Setup,
    /// Which node of the network it is.
    pub number: usize,
    network: &'n Network,
    /// CPU seconds that it had used when it was killed.
    spent: f64,
}

impl<'n> Node<'n> {
    /// Starts it, and waits for nothing.
    pub fn start(network: &'n Network, number: usize, setup: Setup) -> Self {
        let mut command = network.command(number, &place::shoal_bin());
        command.arg("agent").arg("--config").arg(setup.write()).envs(setup.environment());
        let process = Process::spawn("shoal agent", &mut command, &setup.folder().join("log"));
        Node { process: process.expect("the agent starts"), setup, number, network, spent: 0.0 }
    }

    /// Its admin socket.
    pub fn admin(&self) -> AdminClient {
        AdminClient::new(&self.setup.socket())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.spent = self.cpu_seconds();
        self.process.kill();
    }

    /// Stops it where it is (SIGSTOP).
    pub fn stop(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// CPU seconds that it has used so far.
    pub fn cpu_seconds(&self) -> f64 {
        usage::cpu_seconds(self.process.pid().unsigned_abs()).unwrap_or(self.spent)
    }

    /// Name and addresses of each member that it knows, itself included; nobody before it answers.
    pub async fn members(&self) -> Vec<(String, Vec<SocketAddr>)> {
        let members = self.admin().peers().await.map_or_else(|_| Vec::new(), |peers| peers.members);
        members.into_iter().map(|member| (member.peer, member.addresses)).collect()
    }

    /// Waits until it knows so many members, itself included.
    pub async fn until_members(&self, members: usize, within: Duration) {
        wait::until(format!("{members} members to be known to node {}", self.number), within, || async {
            self.members().await.len() == members
        })
        .await;
    }

    /// Bytes that it has received from upstream.
    pub async fn upstream_bytes(&self) -> u64 {
        self.admin().status().await.expect("the agent runs").upstream_bytes.values().sum()
    }

    /// Begins a pull of a blob by a client beside the agent, which compares every byte. Tells how long it took.
    pub fn begin(&self, registry: &str, repository: &str, blob: &Blob) -> JoinHandle<Duration> {
        let agent = self.setup.registry_address();
        let url = format!("http://{agent}/v2/{repository}/blobs/{}?ns={registry}", blob.digest);
        let bytes = blob.bytes.clone();
        let client = self.network.inside(self.number, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let begun = Instant::now();
            runtime.block_on(async { Client::patient().get(&url).await.expect(200, &bytes) });
            std::io::Result::Ok(begun.elapsed())
        });
        tokio::task::spawn_blocking(move || {
            client
                .join()
                .expect("the client gets every byte")
                .expect("its namespace is there")
                .expect("it runs")
        })
    }
}

/// How busy agents and the whole machine are.
pub struct Busy {
    begun: Instant,
    agents: f64,
    machine: f64,
}

impl Busy {
    /// From now on.
    pub fn from_now(nodes: &[Node<'_>]) -> Self {
        Busy { begun: Instant::now(), agents: cpu_seconds(nodes), machine: machine_cpu_seconds() }
    }

    /// Until now, in words.
    pub fn until_now(&self, nodes: &[Node<'_>]) -> String {
        let (seconds, cores) = (self.begun.elapsed().as_secs_f64(), usage::cores());
        let percent = |used: f64| 100.0 * used / (seconds * cores as f64);
        format!(
            "{seconds:.1} s, in which {} agents used {:.0} % of {cores} cores, and all that ran on the machine {:.0} %",
            nodes.len(),
            percent(cpu_seconds(nodes) - self.agents),
            percent(machine_cpu_seconds() - self.machine),
        )
    }
}

fn cpu_seconds(nodes: &[Node<'_>]) -> f64 {
    nodes.iter().map(Node::cpu_seconds).sum()
}

fn machine_cpu_seconds() -> f64 {
    usage::machine_cpu_seconds().expect("the kernel tells")
}
