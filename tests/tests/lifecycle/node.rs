//! A node of a cluster on this machine: a network and a file tree of its own, and in them the programs that a node runs, at the
//! very paths and ports that they have on a node.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent::admin::client::AdminClient;
use shoal_tests::containerd::Version;
use shoal_tests::cri::Cri;
use shoal_tests::helm::{self, Rendered};
use shoal_tests::netns::{self, Network};
use shoal_tests::process::{Finished, Process, run};
use shoal_tests::{place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use toml::Table;

/// Folders of this machine in whose place a node's programs find the node's own.
const OWN: [&str; 3] = ["etc/containerd", "var/lib", "run"];
/// Where the program, the ConfigMap and the Secret are in an agent's pod, as paths of the node.
const PROGRAM: &str = "run/pod/shoal";
const CONFIG: &str = "run/pod/shoal.toml";
const SECRET: &str = "run/secrets/shoal/swarm/secret";
/// The agent's socket, as a path of the node.
const SOCKET: &str = "run/shoal/admin.sock";
/// Names that resolvers know in it, in place of the cluster's DNS. Not a file of the node: what a kubelet mounts into a pod.
const NAMES: &str = "run/pod/hosts";
/// What the agent has of the node, as paths of the node: its store, and where its socket lies.
const DIRECTORIES: [&str; 2] = ["var/lib/shoal", "run/shoal"];
/// Everything else that it sees, which cannot be written to: its root, and of the node's own folders those around.
const READ_ONLY: [&str; 4] = ["var/lib", "run", "etc/containerd", ""];
/// The user that the chart's agents run as, and its group.
const AGENT: u32 = 65532;
/// What takes every right from it, for setpriv(1); and who changes users would otherwise outlive the test.
const NO_RIGHTS: &str = "--clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all --pdeathsig=KILL";
/// The field of a pod that says in which zone its node is.
const ZONE_FIELD: &str = "metadata.labels['topology.kubernetes.io/zone']";
/// Where the agent's probes are answered.
const OBSERVE: u16 = 5080;
/// Longest that one command of the agent's program may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// How long agents may take to know each other, and one to drain and end: what the chart grants it.
const MEET_MAX: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);

/// The containerd of the nodes: Debian's.
const CONTAINERD_VERSION: Version = Version::V1_6;

/// containerd's configuration as Debian ships it, but for where it looks for mirrors, for the one folder that is not the node's
/// own, and for the pods' sandboxes: their image is one that the tests' registry has, and they ask for no protection from the
/// kernel's killer, which root of a container may not give.
const CONTAINERD: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "SANDBOX"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/var/lib/cni/net.d"
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

/// A version of the agent's program.
pub struct Program {
    path: PathBuf,
    /// Whether it is older than the chart: it does not prepare its directories, does not learn its address and its zone from the
    /// environment, and has no proof for `shoal runtime install`.
    pub precedes_chart: bool,
}

impl Program {
    /// The program at a path.
    pub async fn at(path: PathBuf) -> Self {
        let newer = run(Command::new(&path).args(["runtime", "--help"]), COMMAND_MAX).await.ok;
        Program { path, precedes_chart: !newer }
    }
}

/// One node.
pub struct Node {
    number: usize,
    tree: PathBuf,
    network: Arc<Network>,
    containerd: Option<Process>,
    agent: Option<Process>,
    /// Whether its agent learns from the environment where it is.
    is_told: bool,
}

impl Node {
    /// A node with containerd configured for a private registry without TLS, and nothing of the agent.
    pub fn new(
        network: &Arc<Network>,
        number: usize,
        folder: &Path,
        sandbox: &str,
        hosts: &[(&str, String)],
    ) -> Self {
        let tree = folder.join(format!("node-{number}"));
        for own in OWN {
            fs::create_dir_all(tree.join(own)).expect("the folder is ours");
        }
        let network = Arc::clone(network);
        let node = Node { number, tree, network, containerd: None, agent: None, is_told: false };
        node.write(NAMES, 0o644, "127.0.0.1 localhost\n");
        node.write("etc/containerd/config.toml", 0o640, &CONTAINERD.replace("SANDBOX", sandbox));
        for (registry, text) in hosts {
            node.write(&format!("etc/containerd/certs.d/{registry}/hosts.toml"), 0o644, text);
        }
        node
    }

    fn write(&self, path: &str, mode: u32, text: &str) {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().expect("the path has a folder")).expect("the tree is ours");
        fs::write(&path, text).expect("the tree is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the tree is ours");
    }

    /// Its file tree, as this machine sees it.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Its address in the cluster's network.
    pub fn address(&self) -> String {
        netns::address(self.number).to_string()
    }

    /// Its zone: it shares it with no other node.
    fn zone(&self) -> String {
        format!("zone-{}", self.number)
    }

    /// A program inside the node, once the node's own folders are in their places: `then` is what the shell does with `$@`
    /// there, `with` are further arguments of unshare(1).
    fn inside(&self, with: &[&str], then: &str) -> Command {
        let mut command = Command::new(place::program("nsenter", "util-linux"));
        command.arg(format!("--net={}", self.network.path(self.number).display()));
        command.args(["unshare", "--mount"]).args(with);
        let names = format!("mount --bind \"$0/{NAMES}\" /etc/hosts && ");
        let mounts: String = OWN.iter().map(|own| format!("mount --bind \"$0/{own}\" /{own} && ")).collect();
        let mounts = names + &mounts;
        command.args(["sh", "-c", &(mounts + then)]).arg(&self.tree);
        command
    }

    /// The agent's program where it is in its image, run by `with` after the shell has done `first`: by root if that is nothing.
    fn in_pod(&self, program: &Program, first: &str, with: &str) -> Command {
        let then =
            format!("mount --bind \"$1\" /{PROGRAM} && shift && {first} exec {with} /{PROGRAM} \"$@\"");
        let mut command = self.inside(&[], &then);
        command.arg(&program.path);
        command
    }

    /// Starts its containerd, which ends with all that it has started.
    pub async fn start_containerd(&mut self) {
        let folder = CONTAINERD_VERSION.folder().expect("Debian's containerd is on this machine");
        let mut command = self.inside(&["--pid", "--fork", "--kill-child", "--mount-proc"], "exec \"$@\"");
        command.arg(folder.join("containerd"));
        self.containerd = Some(self.spawn("containerd", command));
        let cri = self.cri();
        wait::until(format!("containerd of node {} to answer", self.number), wait::START_MAX, || async {
            cri.answers().await
        })
        .await;
    }

    fn spawn(&self, name: &str, mut command: Command) -> Process {
        let log = self.tree.join(format!("{name}.log"));
        Process::spawn(name, &mut command, &log).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Which containerd it has.
    pub fn containerd_version(&self) -> &'static str {
        CONTAINERD_VERSION.line()
    }

    /// What kubelet would talk to.
    pub fn cri(&self) -> Cri {
        Cri::new(&self.tree.join("run/containerd/containerd.sock"))
    }

    /// Puts the configuration, the secret and a place for the program where an agent's pod has them, and tells the resolver who
    /// the other nodes are: a headless Service's name and their addresses.
    pub fn configure(&self, config: &Table, secret: &str, service: &str, addresses: &[String]) {
        let names: String = addresses.iter().map(|address| format!("{address} {service}\n")).collect();
        self.write(NAMES, 0o644, &format!("127.0.0.1 localhost\n{names}"));
        self.write(CONFIG, 0o444, &toml::to_string(config).expect("a table is TOML"));
        self.write(SECRET, 0o440, secret);
        chown(self.tree.join(SECRET), Some(0), Some(AGENT)).expect("the tree is ours");
        self.write(PROGRAM, 0o444, "");
    }

    /// What an agent's container has in its environment by the chart's manifests, with what Kubernetes knows of a pod on this node.
    fn environment(&self) -> Vec<(String, String)> {
        let manifests = fs::read_to_string(helm::deploy().join("manifests/shoal.yaml"));
        let rendered = Rendered::parse(manifests.expect("the manifests are in the checkout"));
        let variables = rendered.pod()["containers"][0]["env"].as_array().expect("a list").iter();
        let known = variables.map(|variable| {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                None => variable["value"].as_str().expect("a value").to_owned(),
                Some("status.podIP" | "status.podIPs") => self.address(),
                Some(ZONE_FIELD) => self.zone(),
                Some(other) => panic!("the pod of a node has no field {other}"),
            };
            (variable["name"].as_str().expect("a name").to_owned(), value)
        });
        known.collect()
    }

    /// Starts an agent as the chart does: a first container, root's, gives the directories to the user without any right that
    /// the second one runs as, on a root that is read-only.
    pub async fn start_agent(&mut self, program: &Program) {
        assert!(self.agent.is_none(), "node {} has an agent", self.number);
        self.prepare(program).await;
        let user = format!("setpriv --reuid={AGENT} --regid={AGENT} {NO_RIGHTS}");
        let writable = DIRECTORIES.map(|path| format!("mount --bind /{path} /{path} && ")).concat();
        let rest = READ_ONLY.map(|path| format!("mount -o remount,bind,ro /{path} && ")).concat();
        let mut command = self.in_pod(program, &(writable + &rest), &user);
        command.arg("agent").arg(format!("--config=/{CONFIG}")).envs(self.environment());
        self.is_told = !program.precedes_chart;
        self.agent = Some(self.spawn("shoal agent", command));
    }

    async fn prepare(&self, program: &Program) {
        if program.precedes_chart {
            for path in DIRECTORIES.map(|path| self.tree.join(path)) {
                fs::create_dir_all(&path).expect("the tree is ours");
                chown(path, Some(AGENT), Some(AGENT)).expect("the tree is ours");
            }
        } else {
            let mut command = self.in_pod(program, "", "");
            command.arg("prepare").args(DIRECTORIES.map(|path| format!("/{path}")));
            command.arg(format!("--owner={AGENT}:{AGENT}"));
            run(&mut command, COMMAND_MAX).await.expect_ok("shoal prepare");
        }
    }

    /// Ends the agent as kubelet does.
    pub async fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("there is an agent");
        agent.signal(libc::SIGTERM);
        let status = agent.exit(GRACE).await;
        assert!(status.success(), "node {}: {status}\n{}", self.number, agent.tail());
    }

    /// Waits until the agent is ready and knows so many members, and expects it to know where it is.
    pub async fn until_member_of(&self, members: usize) {
        let what = format!("node {} to be one of {members} members", self.number);
        let wanted = format!("shoal_members {members}");
        wait::until(what, MEET_MAX, || async {
            let is_ready = self.probe("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
            is_ready && self.says(&wanted)
        })
        .await;
        if self.is_told {
            let peers = AdminClient::new(&self.tree.join(SOCKET)).peers().await.expect("the agent runs");
            let own = peers.members.into_iter().find(|member| member.is_self).expect("it knows itself");
            assert_eq!(own.zone, self.zone(), "node {}", self.number);
        }
    }

    /// Whether the agent has needed no blob of another member since it was started.
    pub fn has_needed_nobody(&self) -> bool {
        self.says("shoal_peer_received_bytes_total 0")
    }

    /// Whether a line is among the agent's metrics.
    fn says(&self, sample: &str) -> bool {
        self.probe("/metrics").is_some_and(|answer| answer.lines().any(|line| line == sample))
    }

    /// The whole answer of a probe, made from the node itself.
    fn probe(&self, path: &str) -> Option<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let asked = self.network.block_on(self.number, move || async move {
            let exchange = async {
                let mut stream = TcpStream::connect(("127.0.0.1", OBSERVE)).await?;
                stream.write_all(request.as_bytes()).await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.map(|_| answer)
            };
            tokio::time::timeout(COMMAND_MAX, exchange).await
        });
        asked.expect("the node has a network").ok()?.ok()
    }

    /// `shoal runtime ...` as a container beside the agent runs it: the node's tree is mounted somewhere.
    pub async fn runtime(&self, program: &Program, arguments: &[&str]) -> Finished {
        let mut command = self.in_pod(program, "", "");
        command.arg("runtime").args(arguments).arg("--root").arg(&self.tree);
        run(&mut command, COMMAND_MAX).await
    }
}

/// Where an agent's configuration is, as its programs see it.
pub fn config_path() -> String {
    format!("/{CONFIG}")
}
