//! How an agent is reached: through the socket of this machine, or over TLS with the token of another one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::tls;

/// Why an agent of another machine cannot even be called. Whoever wrote the command has to change it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("{0:?} is no address of an admin API; write it as https://node-7.example.com:5443")]
    Url(String),
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token's file holds none.
    #[error("{} holds no token: it must be one line of printable characters", .0.display())]
    Token(PathBuf),
    /// The file holds no certificates.
    #[error("{} holds no certificates in PEM form", .0.display())]
    Ca(PathBuf),
    /// No certificate would be trusted.
    #[error("this system has no CA certificates; name the one that signed the agent's certificate with --ca")]
    NoCa,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// A stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// How an agent is reached.
#[derive(Clone)]
pub(super) enum Reach {
    Socket(PathBuf),
    Remote(Box<Remote>),
}

/// An agent of another machine.
#[derive(Clone)]
pub(super) struct Remote {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    token: HeaderValue,
}

impl Reach {
    pub fn remote(url: &str, token_file: &Path, ca: Option<&Path>) -> Result<Self, RemoteError> {
        let wrong = || RemoteError::Url(url.to_owned());
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        let is_bare =
            matches!(parsed.path(), "" | "/") && parsed.query().is_none() && parsed.username().is_empty();
        let host = parsed.host_str().filter(|_| parsed.scheme() == "https" && is_bare).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let port = parsed.port_or_known_default().ok_or_else(wrong)?;
        let token = String::from_utf8(read(token_file)?).ok();
        let token = token.as_deref().map(str::trim_end).filter(|token| !token.is_empty());
        let token = token.and_then(|token| format!("Bearer {token}").parse::<HeaderValue>().ok());
        let mut token = token.ok_or_else(|| RemoteError::Token(token_file.to_owned()))?;
        token.set_sensitive(true);
        Ok(Reach::Remote(Box::new(Remote { host, port, name, tls: Arc::new(tls(ca)?), token })))
    }

    /// The value of `Host`.
    pub fn host(&self) -> &str {
        match self {
            Reach::Socket(_) => "shoal",
            Reach::Remote(remote) => &remote.host,
        }
    }

    /// The value of `Authorization`.
    pub fn token(&self) -> Option<&HeaderValue> {
        match self {
            Reach::Socket(_) => None,
            Reach::Remote(remote) => Some(&remote.token),
        }
    }

    pub async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Reach::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Reach::Remote(remote) => {
                let tcp = TcpStream::connect((remote.host.as_str(), remote.port)).await?;
                let connector = TlsConnector::from(Arc::clone(&remote.tls));
                Ok(Box::new(connector.connect(remote.name.clone(), tcp).await?))
            }
        }
    }
}

/// What an error names.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::Socket(path) => write!(f, "{}", path.display()),
            Reach::Remote(remote) => write!(f, "https://{}:{}", remote.host, remote.port),
        }
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// With a CA of one's own only that one is trusted: it is named because it alone is meant.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, RemoteError> {
    let roots = match ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            tls::trust(&mut roots, &read(path)?).map_err(|_| RemoteError::Ca(path.to_owned()))?;
            roots
        }
        None => tls::system_roots(),
    };
    if roots.is_empty() {
        return Err(RemoteError::NoCa);
    }
    Ok(tls::client(roots).map_err(RemoteError::Tls)?.with_no_client_auth())
}

fn read(path: &Path) -> Result<Vec<u8>, RemoteError> {
    std::fs::read(path).map_err(|source| RemoteError::Read { path: path.to_owned(), source })
}
