//! nginx: a server of files, a cache in front of a registry, and a mirror that serves manifests and fails blobs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::place;
use crate::process::Process;
use crate::tls::Authority;
use crate::wait;

/// How long its workers may take to end.
const END_MAX: Duration = Duration::from_secs(5);

/// Where every request is timed, none is written down.
const QUIET: &str = "access_log off;";

/// What the mirror does with blobs.
#[derive(Clone, Debug)]
pub enum BlobFault {
    /// Answers with this status.
    Status(u16),
    /// Asks another server (`http://host:port`), one that cuts, stalls or lies.
    At(String),
    /// Serves the files of a folder, by digest, whatever is in them.
    Files(std::path::PathBuf),
}

/// A running nginx.
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Serves the files below `root` with sendfile, as a well set-up nginx does.
    pub async fn files(root: &Path) -> Self {
        Nginx::start(place::scratch(), QUIET, &format!("location / {{ root '{}'; }}", root.display())).await
    }

    /// The same over TLS, with a certificate of the authority.
    pub async fn files_over_tls(root: &Path, authority: &Authority) -> Self {
        let folder = place::scratch();
        let (certificate, key) = authority.server_pem();
        let (certificate_file, key_file) = (folder.path().join("certificate"), folder.path().join("key"));
        fs::write(&certificate_file, certificate).expect("the folder is ours");
        fs::write(&key_file, key).expect("the folder is ours");
        let tls = format!(
            "{QUIET} ssl_certificate '{}'; ssl_certificate_key '{}'; ssl_protocols TLSv1.3;",
            certificate_file.display(),
            key_file.display()
        );
        Nginx::start_at("ssl", folder, &tls, &format!("location / {{ root '{}'; }}", root.display())).await
    }

    /// A cache of `upstream` (`http://host:port`) that lets one client at a time fetch a file that is not there yet.
    pub async fn cache(upstream: &str) -> Self {
        let folder = place::scratch();
        let zone = format!(
            "{QUIET} proxy_cache_path '{}' keys_zone=blobs:10m max_size=50g use_temp_path=off;",
            folder.path().join("cache").display()
        );
        let location = format!(
            "location / {{ proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_cache \
             blobs; proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_cache_lock_timeout 600s; \
             proxy_cache_lock_age 600s; }}"
        );
        Nginx::start(folder, &zone, &location).await
    }

    /// A mirror of `registry` (`http://host:port`) that passes everything on but blobs.
    pub async fn mirror(registry: &str, blobs: &BlobFault) -> Self {
        let to = |url: &str| format!("proxy_pass {url}; proxy_http_version 1.1; proxy_buffering off;");
        let blobs = match blobs {
            BlobFault::Status(status) => format!("return {status};"),
            BlobFault::At(url) => to(url),
            BlobFault::Files(folder) => format!("alias '{}/$1';", folder.display()),
        };
        let locations = format!(
            "location ~ '/blobs/(sha256:[0-9a-f]+)$' {{ {blobs} }} location / {{ {} }}",
            to(registry)
        );
        let folder = place::scratch();
        let access = format!("access_log '{}';", folder.path().join("access").display());
        Nginx::start(folder, &access, &locations).await
    }

    async fn start(folder: TempDir, http: &str, locations: &str) -> Self {
        Nginx::start_at("", folder, http, locations).await
    }

    async fn start_at(kind: &str, folder: TempDir, http: &str, locations: &str) -> Self {
        let program = place::program("nginx", "nginx");
        let address = SocketAddr::from((place::loopback(), 8080));
        let inside = |name: &str| folder.path().join(name).display().to_string();
        // As root, nginx would run its workers as a user that cannot read what root has made.
        let user = if place::is_root() { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path '{}';", inside(kind)))
            .concat();
        let config = format!(
            "{user} daemon off; worker_processes 2; pid '{pid}'; error_log stderr;\nevents {{ worker_connections \
             512; }}\nhttp {{ sendfile on; tcp_nopush on; keepalive_requests 1000000; \
             {temporary} {http}\n server {{ listen {address} {kind}; {locations} }} }}\n",
            pid = inside("pid"),
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).expect("the folder is ours");
        let mut command = Command::new(program);
        command.arg("-p").arg(folder.path()).arg("-e").arg("stderr").arg("-c").arg(&path);
        let log = folder.path().join("log");
        let process = Process::spawn("nginx", &mut command, &log).unwrap_or_else(|e| panic!("{e}"));
        let nginx = Nginx { process, address, folder };
        wait::until("nginx to listen", wait::START_MAX, || async move {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        nginx
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Process id of its master.
    pub fn id(&self) -> u32 {
        self.process.pid().unsigned_abs()
    }

    /// Requests of manifests (`manifests`) or blobs (`blobs`) that it has answered so far with a status.
    pub fn answered(&self, what: &str, status: u16) -> usize {
        let log = fs::read_to_string(self.folder.path().join("access")).unwrap_or_default();
        let (what, status) = (format!("/{what}/"), format!("\" {status} "));
        log.lines().filter(|line| line.contains(&what) && line.contains(&status)).count()
    }
}

impl Drop for Nginx {
    /// A master that is killed leaves its workers behind, so it is asked first.
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.signal(libc::SIGTERM);
        }
        let since = Instant::now();
        while self.process.ended().is_none() && since.elapsed() < END_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
