//! nginx, as a server of files and as a cache in front of a registry.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use shoal_agent::demo::child::Child;
use tokio::process::Command;

use super::setting;

/// A running nginx.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Serves the files below `root` with sendfile, as a well set-up nginx does.
    pub async fn files(folder: &Path, root: &Path) -> Result<Self> {
        Self::start("nginx-files", folder, "", &format!("root '{}';", root.display())).await
    }

    /// A cache of `upstream` (`http://host:port`) that lets one client at a time fetch a file that is not there yet.
    pub async fn cache(folder: &Path, upstream: &str) -> Result<Self> {
        let zone = format!(
            "proxy_cache_path '{}' keys_zone=blobs:10m max_size=50g use_temp_path=off;",
            folder.join("nginx-cache-data").display()
        );
        let location = format!(
            "proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_cache blobs; \
             proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_cache_lock_timeout 600s; proxy_cache_lock_age 600s;"
        );
        Self::start("nginx-cache", folder, &zone, &location).await
    }

    async fn start(name: &str, folder: &Path, http: &str, location: &str) -> Result<Self> {
        let prefix = folder.join(name);
        fs::create_dir_all(&prefix)?;
        // nginx cannot be asked for a free port.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // As root, nginx would run its workers as a user that cannot read what root has made.
        let user = if setting::is_root()? { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path '{}';", prefix.join(kind).display()))
            .concat();
        let config = format!(
            "{user} daemon off; worker_processes 2; pid '{pid}'; error_log stderr;\nevents {{ worker_connections \
             512; }}\nhttp {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; {temporary} \
             {http}\n server {{ listen {address}; location / {{ {location} }} }} }}\n",
            pid = prefix.join("pid").display(),
        );
        let path = prefix.join("nginx.conf");
        fs::write(&path, config)?;
        let program = shoal_tests::place::find_program("nginx")
            .context("nginx is missing; as root: apt-get install --no-install-recommends nginx")?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&prefix).arg("-e").arg("stderr").arg("-c").arg(&path);
        let mut child = Child::spawn(name, &mut command, folder)?;
        child.until("it listened", async |_| tokio::net::TcpStream::connect(address).await.ok()).await?;
        Ok(Nginx { child, address })
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id of its master.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it and its workers.
    pub async fn end(self) -> Result<()> {
        self.child.end().await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Setting;
    use crate::sink::together;

    #[tokio::test]
    async fn the_cache_asks_once_and_the_file_server_serves() -> Result<()> {
        let setting = Setting::new(2_000_000).await?;
        let before = setting.registry.asked();

        let cache = Nginx::cache(setting.folder.path(), &setting.registry.url()).await?;
        let (got, _) = together(cache.address(), &setting.path(), 4).await?;
        cache.end().await?;

        assert!(got.iter().all(|got| got.bytes == 2_000_000));
        assert_eq!(setting.registry.asked_since(before, 2_000_000).await?.blob_gets, 1);

        let root = setting.subfolder("files")?;
        fs::write(root.join("blob"), &setting.blob.bytes)?;
        let files = Nginx::files(setting.folder.path(), &root).await?;
        let (got, _) = together(files.address(), "/blob", 1).await?;
        assert_eq!(got[0].bytes, 2_000_000);
        files.end().await
    }
}
