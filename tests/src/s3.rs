//! A real S3 server as the object store that agents share: `s3s-fs`, which checks signatures and keeps each object as a
//! file, so that a test can take one away or change it behind everybody's back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::agent::Setup;
use crate::place;
use crate::process::Process;
use crate::wait;

const BUCKET: &str = "images";
const PREFIX: &str = "cache";
const KEY: &str = "AKIATEST";
const SECRET: &str = "hunter2-of-the-bucket";

/// A running server with one empty bucket.
pub struct S3 {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl S3 {
    /// Starts one.
    pub async fn start() -> Self {
        let folder = place::scratch();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join(BUCKET)).expect("the folder is ours");
        let keys = format!("access_key_id = '{KEY}'\nsecret_access_key = '{SECRET}'\n");
        std::fs::write(folder.path().join("keys.toml"), keys).expect("the folder is ours");
        let address = SocketAddr::from((place::loopback(), 9000));
        let mut command = Command::new(program());
        command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.args(["--access-key", KEY, "--secret-key", SECRET]).arg(&root);
        let log = folder.path().join("log");
        let process = Process::spawn("s3s-fs", &mut command, &log).unwrap_or_else(|e| panic!("{e}"));
        wait::until("the S3 server to listen", wait::START_MAX, || async move {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        S3 { process, address, folder }
    }

    /// An agent that shares this bucket.
    pub fn shared_by(&self, setup: Setup) -> Setup {
        let keys = self.folder.path().join("keys.toml").display().to_string();
        setup
            .set("object_store.url", format!("s3://{BUCKET}/{PREFIX}"))
            .set("object_store.endpoint", format!("http://{}", self.address))
            .set("object_store.allow_http", true)
            .set("object_store.credentials_file", keys)
    }

    /// What must be in no log and no metric.
    pub fn secret(&self) -> &'static str {
        SECRET
    }

    /// The file behind a blob's object, whether or not it is there.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').expect("a digest has an algorithm");
        self.root().join(format!("blobs/{algorithm}/{}/{hex}", &hex[..2]))
    }

    /// Whether the bucket has a blob.
    pub fn has(&self, digest: &str) -> bool {
        self.blob_file(digest).is_file()
    }

    /// Takes a blob away, and leaves its markers, as a lifecycle rule would that looks at sizes.
    pub fn remove(&self, digest: &str) {
        std::fs::remove_file(self.blob_file(digest)).expect("the bucket has the blob");
    }

    /// Accepts connections and answers nothing any more.
    pub fn stall(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root").join(BUCKET).join(PREFIX)
    }
}

/// The program, which `cargo xtask setup` builds.
fn program() -> PathBuf {
    let versions = std::fs::read_dir(place::cache().join("s3s-fs")).into_iter().flatten().flatten();
    let built = versions.map(|version| version.path().join("bin/s3s-fs")).find(|path| Path::is_file(path));
    built.unwrap_or_else(|| panic!("the S3 server s3s-fs is missing; build it with `cargo xtask setup`"))
}
