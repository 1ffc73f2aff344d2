use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use shoal_engine::{Algorithm, Digest};
use shoal_store::{Options, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::blobs::Verified;
use super::caller::{HEAD_TIMEOUT, LAST_WORDS_MAX};
use super::client::{AdminClient, ClientError};
use super::{
    AdminState, Instance, ObserveState, Readiness, SocketError, bind, observe_router, serve, serve_observe,
};
use crate::config::Config;
use crate::driver;
use crate::listing::{ListingSettings, Listings};
use crate::metrics::{Metrics, Served};
use crate::node::{Node, Parts};
use crate::upstream::{self, Upstream};
use crate::warm::Warmer;
use crate::watch::{self, AgentLook, Feed};

/// A store with the admin API before it.
struct Stand {
    folder: TempDir,
    store: Store,
    metrics: Arc<Metrics>,
    client: AdminClient,
    drain: CancellationToken,
    served: JoinHandle<()>,
}

/// What the admin API of an agent that works alone works on.
fn state(store: &Store, metrics: &Arc<Metrics>) -> AdminState {
    let upstream = Upstream::new(upstream::Settings::default(), Arc::clone(metrics)).unwrap();
    let driver = driver_of(store, &upstream, metrics);
    let settings = Config::default().node_settings();
    let parts = Parts {
        store: store.clone(),
        sources: upstream.clone().into(),
        driver: driver.clone(),
        swarm: None,
        listings: Listings::new(upstream.clone(), ListingSettings::from(settings.tags)),
        metrics: Arc::clone(metrics),
    };
    let node = Node::new(parts, settings);
    let warmer = Warmer::new(node.clone(), None, None);
    let look = AgentLook::new(watch::Parts {
        store: store.clone(),
        driver: driver.clone(),
        upstream: upstream.clone(),
        swarm: None,
        warmer: warmer.clone(),
        metrics: Arc::clone(metrics),
        started: Instant::now(),
    });
    let feed = Feed::new(look, &TaskTracker::new(), &CancellationToken::new());
    AdminState {
        store: store.clone(),
        driver,
        upstream,
        swarm: None,
        node,
        warmer,
        feed,
        metrics: Arc::clone(metrics),
        started: Instant::now(),
        listeners: vec!["127.0.0.1:5000".parse().unwrap()],
        proofs: Default::default(),
    }
}

fn driver_of(store: &Store, upstream: &Upstream, metrics: &Arc<Metrics>) -> driver::Handle {
    let settings = Config::default().driver_settings();
    driver::spawn(settings, store.clone(), upstream.clone(), Arc::clone(metrics), None)
}

impl Stand {
    async fn start() -> Self {
        Self::start_with(|state| state).await
    }

    async fn start_with(change: impl FnOnce(AdminState) -> AdminState) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { disk_free_min: 0, ..Options::new(folder.path().join("store")) };
        let store = Store::open(options).unwrap().store;
        let metrics = Metrics::new();
        let socket = folder.path().join("run").join("admin.sock");
        let listener = bind(&socket).await.unwrap();
        let state = change(state(&store, &metrics));
        let drain = CancellationToken::new();
        let served = tokio::spawn(serve(listener, state, drain.clone()));
        Stand { store, metrics, client: AdminClient::new(&socket), drain, served, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run").join("admin.sock")
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
        let digest = Digest::new(Algorithm::Sha256, hash.as_ref());
        let bytes = Bytes::copy_from_slice(bytes);
        self.store.put(&digest, Some("application/octet-stream"), &bytes, SystemTime::now()).unwrap();
        digest
    }

    fn content_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.path().join("store/blobs/sha256").join(&hex[..2]).join(&hex)
    }
}

/// A port behind which nobody decides is not one that a runtime should be pointed at.
#[tokio::test]
async fn an_agent_without_its_driver_proves_nothing() {
    let stand = Stand::start().await;
    let proof = stand.client.proof().await.unwrap();
    assert_ne!(proof.challenge, proof.answer);
    let stand = Stand::start_with(|state| {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let threads = threads.unwrap();
        let driver = {
            let _there = threads.enter();
            driver_of(&state.store, &state.upstream, &state.metrics)
        };
        // It ends with the threads that it runs on, and these are waited for where waiting is allowed.
        std::thread::spawn(move || drop(threads)).join().unwrap();
        AdminState { driver, ..state }
    })
    .await;
    let refused = stand.client.proof().await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status, .. } if status == 503), "{refused:?}");
}

#[tokio::test]
async fn blobs_are_listed_verified_pinned_and_removed() {
    let stand = Stand::start().await;
    let (small, large) = (stand.put(b"small"), stand.put(&vec![7; 200_000]));
    let page = stand.client.blobs(None).await.unwrap();
    let mut listed: Vec<_> = page.blobs.iter().map(|blob| (blob.digest, blob.size, blob.inline)).collect();
    listed.sort_by_key(|(_, size, _)| *size);
    assert_eq!(listed, [(small, 5, true), (large, 200_000, false)]);
    assert_eq!(page.next, None);

    stand.client.pin(&small, true).await.unwrap();
    let shown = stand.client.blob(&small).await.unwrap();
    assert!(shown.pinned && shown.media_type.as_deref() == Some("application/octet-stream"));
    stand.client.pin(&small, false).await.unwrap();
    assert!(!stand.client.blob(&small).await.unwrap().pinned);

    assert_eq!(stand.client.verify(&large).await.unwrap(), Verified::Good { size: 200_000 });
    let path = stand.content_file(&large);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, vec![8; 200_000]).unwrap();
    let verified = stand.client.verify(&large).await.unwrap();
    assert!(matches!(verified, Verified::Wrong { removed: true, .. }), "{verified:?}");
    assert_eq!(stand.client.verify(&large).await.unwrap(), Verified::Missing);

    stand.client.remove(&small).await.unwrap();
    let again = stand.client.remove(&small).await;
    assert!(
        matches!(&again, Err(ClientError::Refused { status, error }) if *status == 404 && error.contains(&small.to_string())),
        "{again:?}"
    );
    assert!(stand.client.blobs(None).await.unwrap().blobs.is_empty());
}

/// Where bytes came from is known without the disk, and asked for where it is sick.
#[tokio::test]
async fn a_story_is_told_without_the_disk() {
    let stand = Stand::start().await;
    let digest = stand.put(&vec![7; 200_000]);
    assert_eq!(stand.client.explain(&digest).await.unwrap().state, "stored");
    let file = stand.content_file(&digest);
    let folder = file.parent().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::write(folder, "not a folder").unwrap();
    assert!(stand.store.peek(&digest).is_err());
    let story = stand.client.explain(&digest).await.unwrap();
    assert_eq!((story.state.as_str(), story.stored_at), ("absent", None));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let stand = Stand::start().await;
    let mut all: Vec<Digest> = (0..super::blobs::PAGE_MAX + 1).map(|n| stand.put(&n.to_le_bytes())).collect();
    all.sort();
    let first = stand.client.blobs(None).await.unwrap();
    assert_eq!(first.blobs.len(), super::blobs::PAGE_MAX);
    let second = stand.client.blobs(first.next.as_ref()).await.unwrap();
    assert_eq!((second.blobs.len(), second.next), (1, None));
    let listed: Vec<Digest> = first.blobs.iter().chain(&second.blobs).map(|blob| blob.digest).collect();
    assert_eq!(listed, all);
}

#[tokio::test]
async fn status_tells_what_the_metrics_tell() {
    let stand = Stand::start().await;
    stand.put(b"small");
    stand.metrics.served(Served::Store, 700);
    stand.metrics.hit(Served::Store);
    stand.metrics.miss();
    let pinned = stand.put(b"pinned");
    stand.store.pin(&pinned).unwrap();
    let status = stand.client.status().await.unwrap();
    assert_eq!((status.store.blobs, status.store.bytes, status.store.degraded), (2, 11, false));
    assert_eq!((status.store.pinned, status.store.pinned_bytes, status.limits.len()), (1, 6, 0));
    assert_eq!((status.served_bytes["store"], status.hits["store"], status.misses), (700, 1, 1));
    assert_eq!(status.listeners, ["127.0.0.1:5000"]);
    assert_eq!(status.instance, Instance::of_this_process().to_string());
}

#[tokio::test]
async fn what_is_not_in_the_api_is_refused_in_words() {
    let stand = Stand::start().await;
    let router = super::admin_router(state(&stand.store, &stand.metrics));
    let table = [
        ("GET", "/v2/", 404),
        ("GET", "/v1/blobs/sha256:zz", 400),
        ("DELETE", "/v1/blobs/nothing", 400),
        ("GET", "/v1/blobs?after=zz", 400),
        ("GET", "/v1/blobs?max=many", 400),
        ("POST", "/v1/status", 405),
    ];
    for (method, target, status) in table {
        let request =
            http::Request::builder().method(method).uri(target).body(axum::body::Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {target}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(
            status == 405 || serde_json::from_slice::<super::Refusal>(&body).is_ok(),
            "{target}: {body:?}"
        );
    }
}

#[tokio::test]
async fn the_socket_is_the_owners_alone_and_goes_with_the_agent() {
    let stand = Stand::start().await;
    let socket = stand.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let second = bind(&socket).await;
    assert!(matches!(&second, Err(SocketError::InUse(path)) if *path == socket), "{second:?}");
    stand.client.status().await.unwrap();
    stand.drain.cancel();
    stand.served.await.unwrap();
    assert!(!socket.exists());
    let nobody = stand.client.status().await;
    assert!(matches!(nobody, Err(ClientError::NoAgent { .. })), "{nobody:?}");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_another_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    drop(bind(&socket).await.unwrap());
    assert!(socket.exists(), "a killed agent leaves its socket behind");
    bind(&socket).await.expect("nobody answers there");
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file).await, Err(SocketError::NotASocket(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(matches!(bind(Path::new("/proc/no/such")).await, Err(SocketError::Io { .. })));
}

#[tokio::test]
async fn watchers_see_alive_ready_and_metrics() {
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    let refreshed = Arc::new(AtomicUsize::new(0));
    let refresh = {
        let (refreshed, metrics) = (Arc::clone(&refreshed), Arc::clone(&metrics));
        move || {
            refreshed.fetch_add(1, Ordering::Relaxed);
            metrics.store_blobs.set(77);
        }
    };
    let router = observe_router(ObserveState::new(Arc::clone(&metrics), readiness.clone(), refresh));
    let get = async |path: &str| {
        let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        assert!(head.headers.contains_key("shoal-instance") || head.status == 404, "{path}");
        (head, String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    };
    let (head, body) = get("/readyz").await;
    assert_eq!(head.status, 503);
    assert!(body.contains("starting"), "{body}");
    readiness.ready();
    assert_eq!(get("/readyz").await.0.status, 200);
    readiness.not_ready("the agent is shutting down");
    let (head, body) = get("/readyz").await;
    assert!(head.status == 503 && body.contains("shutting down"), "{body}");

    let (head, body) = get("/healthz").await;
    let instance = Instance::of_this_process().to_string();
    assert_eq!(
        (head.status.as_u16(), head.headers["shoal-instance"].to_str().unwrap()),
        (200, instance.as_str())
    );
    assert!(body.contains(&instance), "{body}");

    let (head, body) = get("/metrics").await;
    assert!(
        head.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert!(body.contains("shoal_store_blobs 77\n") && body.ends_with("# EOF\n"), "{body}");
    assert_eq!(refreshed.load(Ordering::Relaxed), 1);
    assert_eq!(get("/v2/").await.0.status, 404);
}

/// Whoever does not say what it wants is hung up on, and keeps the port no longer than that from its end.
#[tokio::test]
async fn half_a_request_keeps_no_place_at_the_port_for_watchers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = ObserveState::new(Metrics::new(), Readiness::new(), || {});
    let drain = CancellationToken::new();
    let served = tokio::spawn(serve_observe(listener, state, drain.clone()));
    let begin = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        stream.write_all(b"GET /heal").await.unwrap();
        stream
    };
    let mut slow = begin().await;
    tokio::time::pause();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(2 * HEAD_TIMEOUT, slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still there");
    tokio::time::resume();

    let _slow = begin().await;
    tokio::time::pause();
    drain.cancel();
    let ended = tokio::time::timeout(2 * LAST_WORDS_MAX, served).await;
    ended.expect("it does not wait for the rest").unwrap();
}
