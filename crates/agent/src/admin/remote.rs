//! The admin API for other machines: the same paths as on the socket, over TLS, for whoever shows the token.
//!
//! Invariants: without an address in the configuration nobody listens; no request is looked at before its token has matched,
//! and how much of a wrong one was right cannot be told from the time that takes; the token and the key are never shown.

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
/// Pause between two looks at the files: a certificate that was renewed is used after so long.
const LOOK_EVERY: Duration = Duration::from_secs(10);
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

/// What is used, and what was seen last.
struct Current {
    looked: Instant,
    /// Of files that may be of no use.
    stamps: Stamps,
    material: Arc<Material>,
}

/// The material, read again when a file changes; what is wrong then leaves the last that was right in use.
struct Renewed {
    settings: RemoteSettings,
    state: Mutex<Current>,
}

impl Renewed {
    fn new(settings: RemoteSettings, material: Material) -> Self {
        let current =
            Current { looked: Instant::now(), stamps: material.stamps, material: Arc::new(material) };
        Renewed { settings, state: Mutex::new(current) }
    }

    fn current(&self) -> Arc<Material> {
        let mut current = self.state.lock();
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            self.look(&mut current);
        }
        Arc::clone(&current.material)
    }

    fn look(&self, current: &mut Current) {
        let stamps = stamps(&self.settings);
        if stamps == current.stamps {
            return;
        }
        current.stamps = stamps;
        match Material::read(&self.settings) {
            Ok(new) => {
                current.material = Arc::new(new);
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
    let each = move |tcp, from| connection(tcp, from, renewed.current(), router.clone(), stopped.clone());
    accept_each(move |cx| listener.poll_accept(cx), each, CONNECTIONS_MAX, stop).await;
}

async fn connection(
    tcp: TcpStream,
    from: SocketAddr,
    material: Arc<Material>,
    router: Router,
    stop: CancellationToken,
) {
    super::observe::give_up_on_the_stalled(&tcp);
    let acceptor = TlsAcceptor::from(Arc::clone(&material.tls));
    let tls = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a caller of the admin API was refused"),
        Err(_) => return tracing::debug!(%from, "a caller of the admin API said nothing"),
    };
    let router = router.layer(middleware::from_fn_with_state((material, from), admit));
    caller::answer(tls, from, router, stop).await;
}

async fn admit(
    State((material, from)): State<(Arc<Material>, SocketAddr)>,
    request: Request,
    next: Next,
) -> Response {
    if material.admits(request.headers()) {
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
    use super::*;

    #[test]
    fn only_the_token_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name);
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(path("certificate"), certified.cert.pem()).unwrap();
        std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("token"), format!("{token}\n")).unwrap();
        let settings = RemoteSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            certificate: path("certificate"),
            key: path("key"),
            token_file: path("token"),
        };
        let material = Material::read(&settings).unwrap();
        let table = [
            (format!("Bearer {token}"), true),
            (format!("bearer {token}"), true),
            (format!("Bearer {token}0"), false),
            (format!("Bearer {}", &token[1..]), false),
            (token.to_owned(), false),
            (format!("Basic {token}"), false),
            ("Bearer ".to_owned(), false),
            (String::new(), false),
        ];
        for (shown, expected) in table {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, shown.parse().unwrap())]);
            assert_eq!(material.admits(&headers), expected, "{shown:?}");
        }
        assert!(!material.admits(&HeaderMap::new()));
        assert!(!format!("{material:?}").contains(token));

        std::fs::write(path("token"), "short").unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.token_file");
        std::fs::write(path("key"), certified.cert.pem()).unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.key");
        std::fs::remove_file(path("certificate")).unwrap();
        assert_eq!(Material::read(&settings).unwrap_err().key, "admin.certificate");
    }
}
