//! An upstream registry that answers exactly as a test wants and remembers every request.
//!
//! It speaks HTTP/1.1 by itself on a socket it owns, because the faults that matter (a TCP reset after so many bytes,
//! a body that ends early, a header that never comes) are the ones that server libraries protect their users from.

mod accounts;
mod answer;
mod h2;
mod script;
mod serve;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use self::accounts::{Account, Accounts};
pub use self::script::{Auth, Gate, Match, Plan};

use crate::image::{Blob, Image};
use crate::wait;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v2/`.
    Base,
    /// `manifests/<reference>`.
    Manifest,
    /// `blobs/<digest>`.
    Blob,
    /// `tags/list`.
    Tags,
    /// `referrers/<digest>`.
    Referrers,
    /// The token server.
    Token,
    /// The object store that blobs may be redirected to.
    Storage,
    /// Anything else.
    Other,
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it asks for.
    pub kind: Kind,
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Repository, if the path has one.
    pub repository: String,
    /// Digest or tag, if the path has one.
    pub reference: String,
    /// All headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// When it arrived.
    pub at: Instant,
    sent: Arc<AtomicU64>,
}

impl Seen {
    /// Value of a header; repeated ones are joined by `, `.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Body bytes written in answer to it so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// How the origin treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Answers.
    Up,
    /// Nobody listens: connections are refused, open ones are reset. The port stays the origin's.
    Refusing,
    /// Accepts and never reads or answers.
    BlackHole,
}

/// What the origin has.
#[derive(Default)]
struct Content {
    blobs: BTreeMap<String, Bytes>,
    /// By (repository, digest).
    manifests: BTreeMap<(String, String), Blob>,
    /// By (repository, tag): digest.
    tags: BTreeMap<(String, String), String>,
    /// Repositories of blobs that not every repository has.
    homes: BTreeMap<String, Vec<String>>,
}

/// What connections share.
struct Shared {
    address: SocketAddr,
    content: Mutex<Content>,
    script: Mutex<Vec<script::Rule>>,
    seen: Mutex<Vec<Seen>>,
    auth: Mutex<Option<Auth>>,
    grants: Mutex<Vec<accounts::Grant>>,
    /// Shared with the origins that accept them.
    tokens: Arc<Mutex<Vec<String>>>,
    /// Tokens of another origin that are accepted too.
    other_tokens: Mutex<Option<Arc<Mutex<Vec<String>>>>>,
    max_age: Mutex<Option<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The running registry. Dropping it closes its sockets.
pub struct Origin {
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
    tls: bool,
    /// Has the port also while nobody listens, so that no other test is given it: it never listens itself.
    _port: TcpSocket,
}

impl Origin {
    /// An empty registry on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        Origin::serve(None).await
    }

    /// The same over TLS; HTTP/2 where the configuration's ALPN offers it.
    pub async fn start_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        Origin::serve(Some(tokio_rustls::TlsAcceptor::from(tls))).await
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let port = TcpSocket::new_v4().expect("there are sockets");
        port.set_reuseaddr(true).expect("a socket can share its address");
        port.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a loopback port is free");
        let shared = Arc::new(Shared {
            address: port.local_addr().expect("a bound socket has an address"),
            content: Mutex::default(),
            script: Mutex::default(),
            seen: Mutex::default(),
            auth: Mutex::default(),
            grants: Mutex::default(),
            tokens: Arc::default(),
            other_tokens: Mutex::default(),
            max_age: Mutex::default(),
        });
        let (mode, modes) = watch::channel(Mode::Up);
        let is_tls = tls.is_some();
        let listener = listen(shared.address).await;
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), modes, tls));
        Origin { shared, mode, task, tls: is_tls, _port: port }
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// `http://host:port`, or `https://localhost:port`, for which test certificates are made.
    pub fn url(&self) -> String {
        if self.tls {
            format!("https://localhost:{}", self.shared.address.port())
        } else {
            format!("http://{}", self.shared.address)
        }
    }

    /// Adds a blob.
    pub fn add_blob(&self, blob: &Blob) {
        lock(&self.shared.content).blobs.insert(blob.digest.clone(), blob.bytes.clone());
    }

    /// Adds bytes under any digest, also a wrong one.
    pub fn add_bytes(&self, digest: &str, bytes: Bytes) {
        lock(&self.shared.content).blobs.insert(digest.to_owned(), bytes);
    }

    /// Takes a blob away.
    pub fn remove_blob(&self, digest: &str) {
        lock(&self.shared.content).blobs.remove(digest);
    }

    /// Adds a manifest or index to a repository.
    pub fn add_manifest(&self, repository: &str, manifest: &Blob) {
        let key = (repository.to_owned(), manifest.digest.clone());
        lock(&self.shared.content).manifests.insert(key, manifest.clone());
    }

    /// Adds a manifest under a digest of another algorithm.
    pub fn add_manifest_as(&self, repository: &str, digest: &str, manifest: &Blob) {
        let key = (repository.to_owned(), digest.to_owned());
        lock(&self.shared.content).manifests.insert(key, manifest.clone());
    }

    /// Points a tag at a manifest.
    pub fn tag(&self, repository: &str, tag: &str, digest: &str) {
        let key = (repository.to_owned(), tag.to_owned());
        lock(&self.shared.content).tags.insert(key, digest.to_owned());
    }

    /// Takes a tag away.
    pub fn untag(&self, repository: &str, tag: &str) {
        lock(&self.shared.content).tags.remove(&(repository.to_owned(), tag.to_owned()));
    }

    /// Has a blob in this repository, and in no other that was not named like this.
    pub fn only_in(&self, repository: &str, digest: &str) {
        let mut content = lock(&self.shared.content);
        content.homes.entry(digest.to_owned()).or_default().push(repository.to_owned());
    }

    /// Adds a whole image with a tag, its blobs in this repository only.
    pub fn add_private_image(&self, repository: &str, tag: &str, image: &Image) {
        self.add_image(repository, tag, image);
        for blob in image.blobs() {
            self.only_in(repository, &blob.digest);
        }
    }

    /// Adds a whole image with a tag.
    pub fn add_image(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.add_blob(blob);
        }
        self.add_manifest(repository, &image.manifest);
        self.tag(repository, tag, &image.manifest.digest);
    }

    /// Adds a rule. The first rule that matches a request and is not used up applies.
    pub fn script(&self, when: Match, plan: Plan) {
        lock(&self.shared.script).push(script::Rule { when, plan, left: None });
    }

    /// Adds a rule for the next `times` matching requests.
    pub fn script_times(&self, times: u32, when: Match, plan: Plan) {
        lock(&self.shared.script).push(script::Rule { when, plan, left: Some(times) });
    }

    /// Forgets all rules: everything is answered well from now on.
    pub fn heal(&self) {
        lock(&self.shared.script).clear();
    }

    /// Asks for credentials from now on.
    pub fn require(&self, auth: Auth) {
        *lock(&self.shared.auth) = Some(auth);
    }

    /// Accepts the tokens that another origin has handed out, too.
    pub fn accept_tokens_of(&self, issuer: &Origin) {
        *lock(&self.shared.other_tokens) = Some(Arc::clone(&issuer.shared.tokens));
    }

    /// Makes every token that was handed out worthless.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.tokens).clear();
    }

    /// Sends `Cache-Control: max-age=<seconds>` with manifests from now on.
    pub fn set_max_age(&self, seconds: u64) {
        *lock(&self.shared.max_age) = Some(seconds);
    }

    /// Refuses connections and resets the open ones.
    pub async fn refuse(&self) {
        self.mode.send_replace(Mode::Refusing);
        let address = self.address();
        wait::until("connections to be refused", wait::START_MAX, || async move {
            TcpStream::connect(address).await.is_err()
        })
        .await;
    }

    /// Accepts and never answers.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }

    /// Answers again.
    pub async fn recover(&self) {
        self.mode.send_replace(Mode::Up);
        let address = self.address();
        wait::until("connections to be accepted", wait::START_MAX, || async move {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    /// Every request so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Requests of a kind with a method.
    pub fn count(&self, kind: Kind, method: &str) -> usize {
        self.seen().iter().filter(|seen| seen.kind == kind && seen.method == method).count()
    }

    /// GETs of one blob, at the registry itself.
    pub fn blob_gets(&self, digest: &str) -> usize {
        let wanted =
            |seen: &&Seen| seen.kind == Kind::Blob && seen.method == "GET" && seen.reference == digest;
        self.seen().iter().filter(wanted).count()
    }

    /// Body bytes sent for one blob, by the registry or its storage.
    pub fn blob_bytes(&self, digest: &str) -> u64 {
        let wanted =
            |seen: &&Seen| matches!(seen.kind, Kind::Blob | Kind::Storage) && seen.reference == digest;
        self.seen().iter().filter(wanted).map(Seen::sent).sum()
    }

    /// The `Range` headers of the GETs of one blob.
    pub fn blob_ranges(&self, digest: &str) -> Vec<Option<String>> {
        let wanted = |seen: &&Seen| {
            matches!(seen.kind, Kind::Blob | Kind::Storage)
                && seen.method == "GET"
                && seen.reference == digest
        };
        self.seen().iter().filter(wanted).map(|seen| seen.header("range")).collect()
    }

    /// Waits until so many body bytes of a blob have been sent.
    pub async fn until_sent(&self, digest: &str, bytes: u64) {
        wait::until_true(format!("{bytes} bytes of {digest} to be sent"), Duration::from_secs(30), || {
            self.blob_bytes(digest) >= bytes
        })
        .await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens at the address of an origin, whose port it holds. tokio's listeners share their address with who does not listen.
async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("the port is the origin's")
}

async fn accept(
    first: TcpListener,
    shared: Arc<Shared>,
    mut modes: watch::Receiver<Mode>,
    tls: Option<tokio_rustls::TlsAcceptor>,
) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Refusing {
            listener = None;
            connections.shutdown().await;
            if modes.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = Some(listen(shared.address).await);
        }
        let bound = listener.as_ref().expect("bound above");
        tokio::select! {
            accepted = bound.accept() => match (accepted, mode) {
                (Ok((stream, _)), Mode::Up) => {
                    connections.spawn(serve::connection(stream, tls.clone(), Arc::clone(&shared)));
                }
                // Held open unread until the origin is dropped or refuses.
                (Ok((stream, _)), _) => {
                    connections.spawn(async move {
                        std::future::pending::<()>().await;
                        drop(stream);
                    });
                }
                (Err(_), _) => {}
            },
            changed = modes.changed() => if changed.is_err() { return },
        }
        while connections.try_join_next().is_some() {}
    }
}
