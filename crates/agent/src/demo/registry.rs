//! A real registry, Debian's `docker-registry`, as a child process, and what its access log says it was asked.

use std::net::SocketAddr;
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, StatusCode};
use tokio::process::Command;

use super::child::Child;
use super::image::{Content, SyntheticImage};
use crate::loopback as http;

/// Where Debian puts it; looked for in `PATH` first.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// How long the access log may lag behind the answers it tells of.
const LOG_LAG_MAX: Duration = Duration::from_secs(5);
/// How long it must not have grown to be taken as whole.
const LOG_CALM: Duration = Duration::from_millis(250);

/// A running registry with a storage folder of its own.
pub struct RegistryProcess {
    child: Child,
    address: SocketAddr,
    client: Client,
}

impl RegistryProcess {
    /// Starts an empty registry on a free port of 127.0.0.1; its files lie in `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::launch("registry", folder, "").await
    }

    /// Starts one that is a pull-through cache of the registry at `remote` (a URL).
    pub async fn start_proxy(folder: &Path, remote: &str) -> Result<Self> {
        Self::launch("registry-proxy", folder, &format!("proxy: {{remoteurl: '{remote}'}}\n")).await
    }

    async fn launch(name: &str, folder: &Path, more: &str) -> Result<Self> {
        let data = folder.join(format!("{name}-data"));
        // Port 0: the registry chooses, and says on stderr what it chose.
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\nstorage: {{filesystem: \
             {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:0', secret: demo}}\n{more}",
            data.display()
        );
        let path = folder.join(format!("{name}.yml"));
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(program()?);
        command.arg("serve").arg(&path);
        let mut child = Child::spawn(name, &mut command, folder)?;
        let address = child.until("it listened", async |child| listening(&child.stderr())).await?;
        Ok(RegistryProcess { child, address, client: http::client("shoal-demo-push")? })
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Pushes an image with a tag, as a client does: blobs first, then the manifest.
    pub async fn push(&self, repository: &str, tag: &str, image: &SyntheticImage) -> Result<()> {
        for blob in image.blobs() {
            self.push_blob(repository, blob).await.with_context(|| format!("cannot push {}", blob.digest))?;
        }
        let url = format!("{}/v2/{repository}/manifests/{tag}", self.url());
        let put = self.client.put(url).header(CONTENT_TYPE, image.manifest.media_type);
        http::send(put.body(image.manifest.bytes.clone()), StatusCode::CREATED).await?;
        Ok(())
    }

    /// Pushes one blob.
    pub async fn push_blob(&self, repository: &str, blob: &Content) -> Result<()> {
        let url = format!("{}/v2/{repository}/blobs/uploads/", self.url());
        let started = http::send(self.client.post(url), StatusCode::ACCEPTED).await?;
        let location = started.headers().get(LOCATION).context("the registry named no place to upload to")?;
        let mut upload = started.url().join(location.to_str()?)?;
        upload.query_pairs_mut().append_pair("digest", &blob.digest);
        http::send(self.client.put(upload).body(blob.bytes.clone()), StatusCode::CREATED).await?;
        Ok(())
    }

    /// What it has been asked since it started.
    pub fn asked(&self) -> Asked {
        Asked::of_log(&self.child.stdout())
    }

    /// What it has been asked since `before`, once its log tells of at least so many bytes.
    ///
    /// A line is written when the answer has left the server, which may be a moment after the client has read it, and nothing tells how
    /// many are still to come: the log is taken as whole when it has not grown for a while.
    pub async fn asked_since(&self, before: Asked, bytes: u64) -> Result<Asked> {
        let start = Instant::now();
        let (mut seen, mut grown) = (Asked::default(), start);
        loop {
            let asked = self.asked() - before;
            if asked != seen {
                (seen, grown) = (asked, Instant::now());
            }
            if asked.bytes >= bytes && grown.elapsed() >= LOG_CALM {
                return Ok(asked);
            }
            if asked.bytes < bytes && start.elapsed() > LOG_LAG_MAX {
                bail!(
                    "the registry's log tells of {} bytes where at least {bytes} were received",
                    asked.bytes
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it.
    pub async fn end(self) -> Result<()> {
        self.child.end().await.map(|_| ())
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("docker-registry"))
        .chain([PathBuf::from(PROGRAM)])
        .find(|program| program.is_file())
        .context(
            "docker-registry is missing; as root: apt-get install --no-install-recommends docker-registry",
        )
}

/// The address in docker-registry's line `msg="listening on 127.0.0.1:43213"`, once it is written to its end.
fn listening(log: &str) -> Option<SocketAddr> {
    log.split_once("listening on ")?.1.split_once('"')?.0.parse().ok()
}

/// What a registry was asked, counted from its access log (Combined Log Format).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `HEAD` and `GET` of manifests.
    pub manifests: u64,
    /// `HEAD` and `GET` of blobs.
    pub blobs: u64,
    /// Only the `GET`s of these.
    pub blob_gets: u64,
    /// Body bytes sent in answer to these.
    pub bytes: u64,
}

impl Asked {
    fn of_log(log: &str) -> Self {
        let mut asked = Asked::default();
        for line in log.lines() {
            // 127.0.0.1 - - [date] "GET /v2/demo/app/blobs/sha256:... HTTP/1.1" 200 1234 "" "user agent"
            let mut quoted = line.split('"');
            let (Some(request), Some(answer)) = (quoted.nth(1), quoted.next()) else { continue };
            let mut request = request.split(' ');
            let (Some(method @ ("GET" | "HEAD")), Some(path)) = (request.next(), request.next()) else {
                continue;
            };
            if path.contains("/blobs/sha256:") {
                asked.blobs += 1;
                asked.blob_gets += u64::from(method == "GET");
            } else if path.contains("/manifests/") {
                asked.manifests += 1;
            } else {
                continue;
            }
            // The log has a size for HEAD as well, though nothing is sent.
            if method == "GET" {
                asked.bytes +=
                    answer.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        asked
    }
}

impl Sub for Asked {
    type Output = Asked;

    fn sub(self, before: Asked) -> Asked {
        Asked {
            manifests: self.manifests - before.manifests,
            blobs: self.blobs - before.blobs,
            blob_gets: self.blob_gets - before.blob_gets,
            bytes: self.bytes - before.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, listening};

    #[test]
    fn the_access_log_is_counted_by_kind() {
        let log = "\
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"HEAD /v2/demo/app/manifests/v1 HTTP/1.1\" 200 777 \"\" \"a\"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET /v2/demo/app/manifests/sha256:ab HTTP/1.1\" 200 777 \"\" \"a\"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET /v2/demo/app/blobs/sha256:cd HTTP/1.1\" 206 1000 \"\" \"a\"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"HEAD /v2/demo/app/blobs/sha256:cd HTTP/1.1\" 200 5000 \"\" \"a\"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"PUT /v2/demo/app/blobs/uploads/1?digest=sha256:cd HTTP/1.1\" 201 0 \"\" \"a\"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] \"GET /v2/ HTTP/1.1\" 200 2 \"\" \"a\"
time=\"2026\" level=info msg=\"response completed\"
";
        assert_eq!(Asked::of_log(log), Asked { manifests: 2, blobs: 2, blob_gets: 1, bytes: 1777 });
    }

    #[test]
    fn the_port_is_read_from_the_log() {
        let log =
            "level=info msg=\"redis not configured\"\nlevel=info msg=\"listening on 127.0.0.1:43213\" go=1\n";
        assert_eq!(listening(log), Some(([127, 0, 0, 1], 43213).into()));
        assert_eq!(listening("level=info msg=\"listening on 127.0.0.1:43"), None);
    }
}
