//! The admin API for other machines: the same paths as on the socket, over TLS, for whoever shows the token.
//!
//! Invariants: without an address in the configuration nobody listens; no request is looked at before its token has matched,
//! and how much of a wrong one was right cannot be told from the time that takes; a token that was replaced opens nothing
//! once that has been seen ([`LOOK_EVERY`]), on no connection, however old; the token and the key are never shown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::caller::{self, HEAD_TIMEOUT};
use crate::registry::listen::accept_each;
use crate::stamp::Stamp;
use crate::tls;

/// Connections at a time: some people, and some pipelines.
const CONNECTIONS_MAX: usize = 128;
/// Pause between two looks at the files: a certificate or token that was renewed is used after so long.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a caller waits for such a look, which takes less than a millisecond when the disk is well.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// Least length of a token: 128 bits in hex.
const TOKEN_BYTES_MIN: usize = 32;
/// Most bytes that are read of any of the files.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the API is served to others, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSettings {
    /// Address and port.
    pub address: SocketAddr,
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// File with the token.
    pub token_file: PathBuf,
}

/// Why the API cannot be served to others. The operator has to act.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct MaterialError {
    /// The key of the configuration that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// What the files say.
pub struct Material {
    tls: Arc<ServerConfig>,
    /// Of the token. Hashes are compared in constant time, and say nothing of what they are of.
    token: blake3::Hash,
    /// Of the files, before they were read.
    stamps: Stamps,
}

/// Those of certificate, key and token.
type Stamps = [Option<Stamp>; 3];

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material")
    }
}

impl Material {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with the first of them that is of no use.
    pub fn read(settings: &RemoteSettings) -> Result<Self, MaterialError> {
        let RemoteSettings { certificate, key, token_file, .. } = settings;
        let stamps = stamps(settings);
        let wrong =
            |name, path: &Path, reason: String| MaterialError { key: name, path: path.to_owned(), reason };
        let pem = read(certificate).map_err(|reason| wrong("admin.certificate", certificate, reason))?;
        let form = "must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)";
        let chain =
            tls::certificates(&pem).map_err(|_| wrong("admin.certificate", certificate, form.into()))?;
        let pem = read(key).map_err(|reason| wrong("admin.key", key, reason))?;
        let form = "must hold a private key in PEM form (-----BEGIN PRIVATE KEY-----)";
        let private =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|_| wrong("admin.key", key, form.into()))?;
        let tls = server_config(chain, private).map_err(|error| {
            wrong("admin.key", key, format!("does not go with {}: {error}", certificate.display()))
        })?;
        let token = read(token_file).map_err(|reason| wrong("admin.token_file", token_file, reason))?;
        let token = token.trim_ascii_end();
        let is_token = token.len() >= TOKEN_BYTES_MIN && token.iter().all(u8::is_ascii_graphic);
        let form = format!(
            "must hold one word of at least {TOKEN_BYTES_MIN} printable characters; make one with `openssl rand -hex 32`"
        );
        let token = is_token.then(|| blake3::hash(token));
        let token = token.ok_or_else(|| wrong("admin.token_file", token_file, form))?;
        Ok(Material { tls: Arc::new(tls), token, stamps })
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let token = shown.and_then(|value| {
            let (scheme, token) = value.split_at_checked("bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        });
        token.is_some_and(|token| blake3::hash(token) == self.token)
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = tls::server()?.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("has {size} bytes, which is too much for what it is to hold"));
    }
    std::fs::read(path).map_err(unreadable)
}

/// What was seen last.
struct Seen {
    looked: Instant,
    /// Of files that may be of no use.
    stamps: Stamps,
}

/// The material, read again when a file changes; what is wrong then leaves the last that was right in use.
struct Renewed {
    settings: RemoteSettings,
    /// What is used.
    material: Mutex<Arc<Material>>,
    /// Held by whoever looks, to the end of the look: all others wait for what it brings, and a disk that does not answer costs
    /// one thread.
    seen: Arc<tokio::sync::Mutex<Seen>>,
}

impl Renewed {
    fn new(settings: RemoteSettings, material: Material) -> Self {
        let seen = Seen { looked: Instant::now(), stamps: material.stamps };
        Renewed {
            settings,
            material: Mutex::new(Arc::new(material)),
            seen: Arc::new(tokio::sync::Mutex::new(seen)),
        }
    }

    /// What counts now: of files that were looked at within the last [`LOOK_EVERY`], if they can be.
    async fn current(self: &Arc<Self>) -> Arc<Material> {
        let looked = async {
            let mut seen = Arc::clone(&self.seen).lock_owned().await;
            if seen.looked.elapsed() >= LOOK_EVERY {
                let this = Arc::clone(self);
                let look = tokio::task::spawn_blocking(move || this.look(&mut seen));
                // It ends early only with the runtime.
                let _ = look.await;
            }
        };
        if tokio::time::timeout(LOOK_MAX, looked).await.is_err() {
            tracing::debug!("the files of the admin API could not be looked at in time");
        }
        Arc::clone(&self.material.lock())
    }

    fn look(&self, seen: &mut Seen) {
        seen.looked = Instant::now();
        let stamps = stamps(&self.settings);
        if stamps == seen.stamps {
            return;
        }
        seen.stamps = stamps;
        match Material::read(&self.settings) {
            Ok(new) => {
                *self.material.lock() = Arc::new(new);
                tracing::info!(
                    "certificate, key or token of the admin API have changed and are used from now on"
                );
            }
            Err(error) => tracing::warn!(key = error.key, %error, "the admin API goes on with what it had"),
        }
    }
}

fn stamps(settings: &RemoteSettings) -> Stamps {
    [&settings.certificate, &settings.key, &settings.token_file].map(|path| Stamp::of(path))
}

/// Answers on the port until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    settings: RemoteSettings,
    material: Material,
    router: Router,
    stop: CancellationToken,
) {
    let renewed = Arc::new(Renewed::new(settings, material));
    let stopped = stop.clone();
    let each = move |tcp, from| connection(tcp, from, Arc::clone(&renewed), router.clone(), stopped.clone());
    accept_each(move |cx| listener.poll_accept(cx), each, CONNECTIONS_MAX, stop).await;
}

async fn connection(
    tcp: TcpStream,
    from: SocketAddr,
    renewed: Arc<Renewed>,
    router: Router,
    stop: CancellationToken,
) {
    super::observe::give_up_on_the_stalled(&tcp);
    let acceptor = TlsAcceptor::from(Arc::clone(&renewed.current().await.tls));
    let tls = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a caller of the admin API was refused"),
        Err(_) => return tracing::debug!(%from, "a caller of the admin API said nothing"),
    };
    caller::answer(tls, from, guarded(router, renewed, from), stop).await;
}

/// Answers those who show the token, and refuses the rest.
fn guarded(router: Router, renewed: Arc<Renewed>, from: SocketAddr) -> Router {
    router.layer(middleware::from_fn_with_state((renewed, from), admit))
}

async fn admit(
    State((renewed, from)): State<(Arc<Renewed>, SocketAddr)>,
    request: Request,
    next: Next,
) -> Response {
    // With each request: a connection may be older than the token.
    if renewed.current().await.admits(request.headers()) {
        return next.run(request).await;
    }
    tracing::info!(client = %from.ip(), "a caller without the admin API's token was refused");
    let refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "show the token of admin.token_file: Authorization: Bearer ...",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer realm=\"shoal\"")], refusal).into_response()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    /// The files of an API in `folder`.
    fn settings(folder: &Path) -> RemoteSettings {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = |name: &str| folder.join(name);
        std::fs::write(path("certificate"), certified.cert.pem()).unwrap();
        std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("token"), format!("{TOKEN}\n")).unwrap();
        RemoteSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            certificate: path("certificate"),
            key: path("key"),
            token_file: path("token"),
        }
    }

    #[test]
    fn only_the_token_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let material = Material::read(&settings).unwrap();
        let table = [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer {TOKEN}"), true),
            (format!("Bearer {TOKEN}0"), false),
            (format!("Bearer {}", &TOKEN[1..]), false),
            (TOKEN.to_owned(), false),
            (format!("Basic {TOKEN}"), false),
            ("Bearer ".to_owned(), false),
            (String::new(), false),
        ];
        for (shown, expected) in table {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, shown.parse().unwrap())]);
            assert_eq!(material.admits(&headers), expected, "{shown:?}");
        }
        assert!(!material.admits(&HeaderMap::new()));
        assert!(!format!("{material:?}").contains(TOKEN));

        std::fs::write(&settings.token_file, "short").unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.token_file");
        std::fs::copy(&settings.certificate, &settings.key).unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.key");
        std::fs::remove_file(&settings.certificate).unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.certificate");
    }

    /// The status of the answer to one more request on the connection, with `token`.
    async fn ask(connection: &mut DuplexStream, token: &str) -> u16 {
        let request = format!("GET / HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {token}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.expect("the connection stays open"));
        }
        let head = String::from_utf8(head).unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Files with a token and a certificate, and who looks at them again and again.
    fn renewed() -> (tempfile::TempDir, RemoteSettings, Arc<Renewed>) {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let material = Material::read(&settings).unwrap();
        let renewed = Arc::new(Renewed::new(settings.clone(), material));
        (folder, settings, renewed)
    }

    /// A client that asks often enough keeps its connection for days, and the token that it came with as long, if nobody looks.
    #[tokio::test(start_paused = true)]
    async fn a_replaced_token_is_refused_on_a_connection_that_is_open() {
        let (_folder, settings, renewed) = renewed();
        let from = settings.address;
        let router = Router::new().route("/", get(|| async { StatusCode::NO_CONTENT }));
        let router = guarded(router, renewed, from);
        let connect = || {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(caller::answer(theirs, from, router.clone(), CancellationToken::new()));
            ours
        };
        let mut open = connect();
        assert_eq!(ask(&mut open, TOKEN).await, 204);

        let other = format!("{TOKEN}{TOKEN}");
        std::fs::write(&settings.token_file, &other).unwrap();
        // Two steps: a connection on which nobody asks for so long as between two looks is closed.
        for expected in [204, 401] {
            tokio::time::advance(LOOK_EVERY * 3 / 5).await;
            assert_eq!(ask(&mut open, TOKEN).await, expected);
        }
        assert_eq!(ask(&mut connect(), &other).await, 204);
    }

    /// A disk that hangs is asked once, and meanwhile what was right last counts.
    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_end_delays_callers_and_is_the_only_one() {
        let (_folder, settings, renewed) = renewed();
        let look = Arc::clone(&renewed.seen).lock_owned().await;
        std::fs::write(&settings.token_file, format!("{TOKEN}{TOKEN}")).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        let before = Instant::now();
        let token = blake3::hash(TOKEN.as_bytes());
        let (one, two) = tokio::join!(renewed.current(), renewed.current());
        assert!(one.token == token && two.token == token);
        assert_eq!(before.elapsed().as_secs(), LOOK_MAX.as_secs());
        drop(look);
        assert!(renewed.current().await.token != token);
    }
}
