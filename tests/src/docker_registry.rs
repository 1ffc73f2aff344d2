//! Debian's docker-registry as the upstream, its content pushed over its own API.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use tempfile::TempDir;

use crate::http::{self, Client};
use crate::image::{Blob, Image};
use crate::netns::{self, Network};
use crate::place;
use crate::process::Process;
use crate::token_server::{ISSUER, SERVICE, TokenServer};
use crate::wait;

/// So many looks at an access log that find nothing new, and it is whole. A quarter of a second if all is well, and longer
/// on a machine that stands still meanwhile.
const CALM_LOOKS: usize = 25;
/// Pause between two of them.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a registry that is asked all the time is waited for.
const CALM_MAX: Duration = Duration::from_secs(10);

/// A running registry with its own storage.
pub struct DockerRegistry {
    process: Process,
    address: SocketAddr,
    _folder: Option<TempDir>,
}

impl DockerRegistry {
    /// Starts an empty one.
    pub async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// Starts an empty one that wants tokens of this server.
    pub async fn start_with_tokens(tokens: &TokenServer) -> Self {
        Self::start_with(|folder| {
            let bundle = folder.join("issuer.pem");
            tokens.write_certificate(&bundle);
            format!(
                "auth: {{token: {{realm: '{}', service: '{SERVICE}', issuer: '{ISSUER}', rootcertbundle: '{}'}}}}\n",
                tokens.realm(),
                bundle.display()
            )
        })
        .await
    }

    /// Starts an empty one that tells of each push at `url`, whose certificate is by the authority in the file `ca`.
    pub async fn start_telling(url: &str, token: &str, ca: &Path) -> Self {
        let mut command = Command::new(place::program("docker-registry", "docker-registry"));
        command.env("SSL_CERT_FILE", ca);
        let endpoint = format!(
            "{{name: shoal, url: '{url}', headers: {{Authorization: ['Bearer {token}']}}, timeout: 5s, threshold: 3, backoff: 1s}}"
        );
        Self::start_command(command, |_| format!("notifications: {{endpoints: [{endpoint}]}}\n")).await
    }

    /// `more` gets its folder and returns what is added to its configuration.
    async fn start_with(more: impl FnOnce(&Path) -> String) -> Self {
        Self::start_command(Command::new(place::program("docker-registry", "docker-registry")), more).await
    }

    async fn start_command(command: Command, more: impl FnOnce(&Path) -> String) -> Self {
        let folder = place::scratch();
        let address = SocketAddr::from((place::loopback(), 5000));
        let more = more(folder.path());
        let spawned = Self::spawn(command, folder.path(), address, &more);
        let process = spawned.unwrap_or_else(|e| panic!("{e}"));
        let registry = DockerRegistry { process, address, _folder: Some(folder) };
        wait::until("docker-registry to listen", wait::START_MAX, || async move {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        registry
    }

    /// Starts one by a command of the caller's, such as one inside a network namespace, and waits for nothing.
    ///
    /// # Errors
    /// Its files cannot be written, or the command cannot be run.
    pub fn start_by(command: Command, folder: &Path, address: SocketAddr) -> std::io::Result<Self> {
        Ok(DockerRegistry { process: Self::spawn(command, folder, address, "")?, address, _folder: None })
    }

    /// Starts an empty one in a node's network namespace, and waits until it listens.
    ///
    /// # Errors
    /// Its files cannot be written, or the program cannot be run.
    pub fn start_in(network: &Network, node: usize, folder: &Path) -> anyhow::Result<Self> {
        let at = SocketAddr::from((netns::address(node), 5000));
        let program = place::program("docker-registry", "docker-registry");
        let registry = DockerRegistry::start_by(network.command(node, &program), folder, at)?;
        network.block_on(node, move || async move {
            wait::until("the registry to listen", wait::START_MAX, || async {
                tokio::net::TcpStream::connect(at).await.is_ok()
            })
            .await;
        })?;
        Ok(registry)
    }

    fn spawn(
        mut command: Command,
        folder: &Path,
        address: SocketAddr,
        more: &str,
    ) -> std::io::Result<Process> {
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{more}",
            folder.join("data").display()
        );
        std::fs::write(&config, text)?;
        command.arg("serve").arg(&config);
        Process::spawn("docker-registry", &mut command, &folder.join("log"))
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Pushes an image with a tag.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        push_to(&self.url(), None, repository, tag, image).await;
    }

    /// Pushes an image by the right of an account.
    pub async fn push_as(
        &self,
        tokens: &TokenServer,
        user: &str,
        repository: &str,
        tag: &str,
        image: &Image,
    ) {
        let token = tokens.token(user, &format!("repository:{repository}:pull,push"));
        push_to(&self.url(), Some(&format!("Bearer {token}")), repository, tag, image).await;
    }

    /// Waits until the access log does not grow, so that what is counted in it is all that was answered: a line is
    /// written after the client has its answer.
    pub async fn until_calm(&self) {
        let begun = Instant::now();
        let (mut known, mut looks) = (self.process.log().len(), 0);
        while looks < CALM_LOOKS && begun.elapsed() < CALM_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.process.log().len();
            looks = if now == known { looks + 1 } else { 0 };
            known = now;
        }
    }

    /// GETs of one blob, from the access log.
    pub fn blob_gets(&self, digest: &str) -> usize {
        self.blob_gets_by("", digest)
    }

    /// The same by those clients alone whose user agent begins so.
    pub fn blob_gets_by(&self, client: &str, digest: &str) -> usize {
        let (wanted, client) = (format!("/blobs/{digest}"), format!(" \"{client}"));
        let log = self.process.log();
        let is_meant =
            |line: &&str| line.contains("\"GET /v2/") && line.contains(&wanted) && line.contains(&client);
        log.lines().filter(is_meant).count()
    }

    /// The same by the client at this address alone.
    pub fn blob_gets_from(&self, client: IpAddr, digest: &str) -> usize {
        let (wanted, client) = (format!("/blobs/{digest}"), format!("{client} "));
        let log = self.process.log();
        let is_meant =
            |line: &&str| line.starts_with(&client) && line.contains("\"GET /v2/") && line.contains(&wanted);
        log.lines().filter(is_meant).count()
    }

    /// Bytes of one blob that were handed to connections, from the access log: what was on its way when one broke is among them, and
    /// what the kernel had taken and not yet sent, which never left (on a link of 10 Mbit/s a megabyte).
    pub fn blob_bytes(&self, digest: &str) -> u64 {
        let wanted = format!("/blobs/{digest}");
        let log = self.process.log();
        let is_meant = |line: &&str| line.contains("\"GET /v2/") && line.contains(&wanted);
        log.lines().filter(is_meant).filter_map(body_bytes).sum()
    }

    /// The same of all blobs of an image.
    pub fn image_bytes(&self, image: &Image) -> u64 {
        image.blobs().map(|blob| self.blob_bytes(&blob.digest)).sum()
    }

    /// Requests of manifests, from the access log.
    pub fn manifest_requests(&self) -> usize {
        let log = self.process.log();
        let asked = |line: &&str| {
            (line.contains("\"GET /v2/") || line.contains("\"HEAD /v2/")) && line.contains("/manifests/")
        };
        log.lines().filter(asked).count()
    }
}

/// What a line of the access log says of the body: `... "GET /v2/... HTTP/1.1" 206 1000000 "" "shoal/0.1.0"`.
fn body_bytes(line: &str) -> Option<u64> {
    let (_, answer) = line.split_once(" HTTP/1.1\" ")?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Pushes an image with a tag to the registry at a URL.
pub async fn push_to(url: &str, authorization: Option<&str>, repository: &str, tag: &str, image: &Image) {
    let client = Client::patient();
    let with = |request: RequestBuilder| match authorization {
        Some(value) => request.header("Authorization", value),
        None => request,
    };
    for blob in image.blobs() {
        push_blob(url, &client, &with, repository, blob).await;
    }
    let manifest = &image.manifest;
    let url = format!("{url}/v2/{repository}/manifests/{tag}");
    let request = client.request("PUT", &url).header("Content-Type", manifest.media_type);
    let answer = http::read(with(request).body(manifest.bytes.clone())).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
}

async fn push_blob(
    url: &str,
    client: &Client,
    with: &impl Fn(RequestBuilder) -> RequestBuilder,
    repository: &str,
    blob: &Blob,
) {
    let url = format!("{url}/v2/{repository}/blobs/uploads/");
    let started = http::read(with(client.request("POST", &url))).await;
    assert_eq!(started.status, 202, "{}", String::from_utf8_lossy(&started.body));
    let location = started.header("Location");
    let joint = if location.contains('?') { '&' } else { '?' };
    let request = client.request("PUT", &format!("{location}{joint}digest={}", blob.digest));
    let done = http::read(with(request).body(blob.bytes.clone())).await;
    assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
}
