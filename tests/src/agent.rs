//! The agent as a child process: `shoal agent --config`, with a configuration, a data directory and an address of its
//! own, all of which survive its being killed and started again.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;
use toml::{Table, Value};

use crate::http::{Answer, Client};
use crate::place;
use crate::process::{Finished, Process, run};
use crate::wait;

/// The registry name that tests use for the origin.
pub const REGISTRY: &str = "registry.test:5001";

/// How long an agent may take to drain and end.
const END_MAX: Duration = Duration::from_secs(40);

/// Settings of an agent that is not running yet.
pub struct Setup {
    folder: TempDir,
    address: Ipv4Addr,
    config: Table,
    data: PathBuf,
    path_entry: bool,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// An agent for which `registry.test:5001` is at `origin` (`http://host:port`).
    pub fn new(origin: &str) -> Self {
        let folder = place::scratch();
        let data = folder.path().join("data");
        let setup = Setup {
            address: place::loopback(),
            config: Table::new(),
            data,
            folder,
            path_entry: false,
            environment: Vec::new(),
        };
        setup.base().registry(REGISTRY, origin)
    }

    /// What every test wants: its own addresses, folders, and a disk whose free space does not matter.
    fn base(self) -> Self {
        let (registry, observe) = (self.registry_address().to_string(), self.observe_address().to_string());
        let data = self.data.display().to_string();
        let socket = self.socket().display().to_string();
        let mut listener = Table::new();
        listener.insert("address".into(), registry.into());
        self.set("registry.listeners", vec![Value::Table(listener)])
            .set("store.path", data)
            .set("store.disk_free_min", "1MiB")
            .set("observe.address", observe)
            .set("admin.socket", socket)
    }

    /// The registry that is meant where a request names none.
    #[must_use]
    pub fn default_registry(mut self, name: &str) -> Self {
        let listeners = self.config["registry"]["listeners"].as_array_mut().expect("there is a listener");
        let listener = listeners[0].as_table_mut().expect("a listener is a table");
        listener.insert("default_registry".into(), name.into());
        self
    }

    /// User name and password for a registry, the password in a file of its own.
    #[must_use]
    pub fn credentials(self, name: &str, user: &str, password: &str) -> Self {
        let file = self.folder.path().join(format!("password-of-{user}"));
        std::fs::write(&file, password).expect("the folder is ours");
        let file = file.display().to_string();
        self.registry_key(name, "username", user).registry_key(name, "password_file", file)
    }

    /// Another registry and its endpoint.
    #[must_use]
    pub fn registry(self, name: &str, endpoint: &str) -> Self {
        self.set_at(&["upstream", "registries", name, "endpoint"], endpoint)
    }

    /// Sets a key of one registry.
    #[must_use]
    pub fn registry_key(self, name: &str, key: &str, value: impl Into<Value>) -> Self {
        let mut path = vec!["upstream", "registries", name];
        path.extend(key.split('.'));
        self.set_at(&path, value)
    }

    /// Sets a key, `table.key`.
    #[must_use]
    pub fn set(self, key: &str, value: impl Into<Value>) -> Self {
        let path: Vec<&str> = key.split('.').collect();
        self.set_at(&path, value)
    }

    /// Takes a key away, `table.key`.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        let (table, name) = key.split_once('.').expect("a key is in a table");
        if let Some(Value::Table(table)) = self.config.get_mut(table) {
            table.remove(name);
        }
        self
    }

    /// Adds what another configuration says; what a test needs of its own (addresses, folders) stays.
    #[must_use]
    pub fn merge(mut self, other: Table) -> Self {
        merge(&mut self.config, other);
        self
    }

    fn set_at(mut self, path: &[&str], value: impl Into<Value>) -> Self {
        let (last, tables) = path.split_last().expect("a key has a name");
        let mut table = &mut self.config;
        for name in tables {
            let entry = table.entry(*name).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().expect("a table stays a table");
        }
        table.insert((*last).to_owned(), value.into());
        self
    }

    /// Keeps the data somewhere else.
    #[must_use]
    pub fn data(mut self, path: &Path) -> Self {
        self.data = path.to_owned();
        let text = path.display().to_string();
        self.set("store.path", text)
    }

    /// Looks for programs (credential helpers) in this set-up's folder too.
    #[must_use]
    pub fn with_path_entry(mut self) -> Self {
        self.path_entry = true;
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The variables that it has been given, for whoever starts the program by other means than [`Setup::start`].
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Where its data lies.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A folder that lives as long as this set-up.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `host:port` of the registry front.
    pub fn registry_address(&self) -> SocketAddr {
        SocketAddr::from((self.address, 5000))
    }

    /// `host:port` of metrics and health.
    pub fn observe_address(&self) -> SocketAddr {
        SocketAddr::from((self.address, 5080))
    }

    /// The socket of the command line.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Writes the configuration, unless it is there, and returns its path.
    pub fn write(&self) -> PathBuf {
        let path = self.folder.path().join("shoal.toml");
        let text = toml::to_string(&self.config).expect("the configuration is valid TOML");
        // A file that is younger than the agent would be one that it has not read.
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            std::fs::write(&path, text).expect("the folder is ours");
        }
        path
    }

    /// Starts the agent and waits until it is ready.
    pub async fn start(self) -> Agent {
        let mut agent = Agent { process: self.launch(), setup: self, client: Client::new() };
        agent.until_ready().await;
        agent
    }

    fn launch(&self) -> Process {
        let mut command = Command::new(place::shoal_bin());
        command.arg("agent").arg("--config").arg(self.write());
        command.env("RUST_BACKTRACE", "1");
        command.envs(self.environment());
        if self.path_entry {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        }
        Process::spawn("shoal agent", &mut command, &self.folder.path().join("log"))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs the agent where it is expected to end by itself.
    pub async fn run_to_end(&self) -> Finished {
        let mut command = Command::new(place::shoal_bin());
        command.arg("agent").arg("--config").arg(self.write());
        run(&mut command, Duration::from_secs(20)).await
    }
}

fn merge(into: &mut Table, other: Table) {
    for (key, value) in other {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(table)) => merge(inner, table),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Runs `shoal` with arguments.
pub async fn shoal(arguments: &[&str]) -> Finished {
    shoal_within(arguments, Duration::from_secs(30)).await
}

/// The same for what may take longer.
pub async fn shoal_within(arguments: &[&str], within: Duration) -> Finished {
    let mut command = Command::new(place::shoal_bin());
    command.args(arguments);
    run(&mut command, within).await
}

/// A running agent.
pub struct Agent {
    process: Process,
    setup: Setup,
    client: Client,
}

impl Agent {
    /// An agent for `registry.test:5001` at `origin`, all else as it comes.
    pub async fn start(origin: &str) -> Self {
        Setup::new(origin).start().await
    }

    /// Waits until `/readyz` says so.
    pub async fn until_ready(&mut self) {
        let start = std::time::Instant::now();
        let url = format!("http://{}/readyz", self.setup.observe_address());
        loop {
            if let Some(status) = self.process.ended() {
                panic!("the agent ended with {status} before it was ready:\n{}", self.process.tail());
            }
            let answer = self.client.request("GET", &url).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            assert!(start.elapsed() < wait::START_MAX, "the agent is not ready:\n{}", self.process.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// `host:port` of the registry front.
    pub fn address(&self) -> SocketAddr {
        self.setup.registry_address()
    }

    /// `http://host:port` of the registry front.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A client with its own connections.
    pub fn client(&self) -> Client {
        Client::new()
    }

    /// URL of a blob, addressed by `ns`.
    pub fn blob(&self, repository: &str, digest: &str) -> String {
        format!("{}/v2/{repository}/blobs/{digest}?ns={REGISTRY}", self.url())
    }

    /// URL of a manifest, addressed by `ns`.
    pub fn manifest(&self, repository: &str, reference: &str) -> String {
        format!("{}/v2/{repository}/manifests/{reference}?ns={REGISTRY}", self.url())
    }

    /// GET of a blob, read to its end.
    pub async fn get_blob(&self, repository: &str, digest: &str) -> Answer {
        self.client.get(&self.blob(repository, digest)).await
    }

    /// GET of a manifest, read to its end.
    pub async fn get_manifest(&self, repository: &str, reference: &str) -> Answer {
        self.client.get(&self.manifest(repository, reference)).await
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
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

    /// SIGTERM.
    pub fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// Waits until it has ended.
    pub async fn exit(&mut self) -> ExitStatus {
        self.process.exit(END_MAX).await
    }

    /// Starts it again on the same data and addresses.
    pub async fn restart(&mut self) {
        self.kill();
        self.process = self.setup.launch();
        self.until_ready().await;
    }

    /// Changes a key and starts it again.
    pub async fn restart_with(mut self, change: impl FnOnce(Setup) -> Setup) -> Self {
        self.kill();
        change(self.setup).start().await
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until what it has logged is as `condition` wants it: a thread of its own writes the lines, some time after
    /// what they tell of.
    pub async fn until_logged(&self, what: impl std::fmt::Display, mut condition: impl FnMut(&str) -> bool) {
        wait::until_true(what, Duration::from_secs(20), || condition(&self.log())).await;
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = self.client.get(&format!("http://{}/metrics", self.setup.observe_address())).await;
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body.to_vec()).expect("metrics are text")
    }

    /// Bytes that it has sent to other members.
    pub async fn sent_bytes(&self) -> f64 {
        self.metric("peer_sent_bytes_total", &[]).await
    }

    /// Sum of all samples of a metric (without the `shoal_` prefix) whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let sample = format!("shoal_{name}");
        text.lines()
            .filter_map(|line| {
                let (head, value) = line.rsplit_once(' ')?;
                let named = head.split('{').next()? == sample;
                (named && labels.iter().all(|label| head.contains(label)))
                    .then(|| value.parse::<f64>().ok())?
            })
            .sum()
    }

    /// Waits until nothing is being received and nobody waits.
    pub async fn until_idle(&self) {
        wait::until("no flight to be under way", Duration::from_secs(60), || async {
            self.metric("flights", &[]).await == 0.0
        })
        .await;
    }

    /// Files under the data directory.
    pub fn data_files(&self) -> Vec<PathBuf> {
        files(self.setup.data_dir())
    }

    /// Bytes that files under the data directory hold.
    pub fn disk_usage(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let held = |path: &PathBuf| std::fs::metadata(path).map_or(0, |data| data.blocks() * 512);
        self.data_files().iter().map(held).sum()
    }

    /// Bytes of the write-ahead logs of its index, which grow with each write.
    pub fn index_log_bytes(&self) -> u64 {
        let logs = self.data_files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.map(|path| std::fs::metadata(path).map_or(0, |data| data.len())).sum()
    }

    /// Waits until what has arrived of a transfer that is now held up is in a checkpoint: for some seconds, which is longer
    /// than a checkpoint is put off, nothing has been written to the index.
    pub async fn until_checkpoint(&self) {
        /// Ten milliseconds apart, or more. The agent has to answer at each, so that no time counts in which it stands still.
        const QUIET_LOOKS_MIN: u32 = 400;
        let seen = Cell::new((self.index_log_bytes(), 0));
        assert!(seen.get().0 > 0, "no write-ahead log of the index found");
        wait::until("nothing to be written to the index", 2 * wait::START_MAX, || async {
            self.metrics().await;
            let ((before, quiet), now) = (seen.get(), self.index_log_bytes());
            seen.set((now, if now == before { quiet + 1 } else { 0 }));
            quiet >= QUIET_LOOKS_MIN
        })
        .await;
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
