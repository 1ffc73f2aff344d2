//! The client against servers in this process: what the contract's rows say about upstream, one test each.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use parking_lot::Mutex;
use shoal_engine::{Algorithm, Digest, Registry, SourceFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;

mod access;
mod auth;
mod blob;
mod manifest;
mod redirect;
mod secrets;
mod tls;
mod walk;

/// A request as a server saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    version: Version,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn query(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// A server on the loopback and what it has been asked.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    fn count(&self, path: &str) -> usize {
        self.seen.lock().iter().filter(|seen| seen.path == path).count()
    }
}

fn router<H, F>(handler: H, seen: &Arc<Mutex<Vec<Seen>>>) -> axum::Router
where
    H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let seen = Arc::clone(seen);
    axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (handler, seen) = (handler.clone(), Arc::clone(&seen));
        async move {
            let (parts, body) = request.into_parts();
            let request = Seen {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body: axum::body::to_bytes(body, 1 << 20).await.unwrap(),
                version: parts.version,
            };
            seen.lock().push(request.clone());
            handler(request).await
        }
    })
}

async fn serve<H, F>(handler: H) -> Server
where
    H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::default();
    let app = router(handler, &seen);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Server { address, seen }
}

/// What a raw server does once it has sent its text.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Stall,
}

/// A server that answers every request with the same text, right or wrong.
async fn serve_raw(text: Vec<u8>, then: Then) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let text = text.clone();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                stream.write_all(&text).await.unwrap();
                match then {
                    Then::Close => {}
                    // Closing with a zero linger time sends RST instead of FIN; loopback has delivered the text.
                    Then::Reset => stream.set_zero_linger().unwrap(),
                    Then::Stall => std::future::pending().await,
                }
            });
        }
    });
    Server { address, seen: Arc::default() }
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn asked() -> Asked {
    let registry = "registry.test".parse().unwrap();
    let scope = shoal_engine::Scope { registry, repository: "library/app".parse().unwrap() };
    Asked::without_token(scope)
}

/// Settings with deadlines a test can wait for.
fn settings(endpoint: &Url, own: RegistrySettings) -> Settings {
    let registry: Registry = "registry.test".parse().unwrap();
    let own = RegistrySettings { endpoint: Some(endpoint.clone()), ..own };
    Settings {
        connect_timeout: Duration::from_secs(5),
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        registries: BTreeMap::from([(registry, own)]),
        ..Settings::default()
    }
}

fn upstream(endpoint: &Url) -> Upstream {
    upstream_with(endpoint, RegistrySettings::default())
}

fn upstream_with(endpoint: &Url, own: RegistrySettings) -> Upstream {
    Upstream::new(settings(endpoint, own), Metrics::new()).unwrap()
}

fn with_password() -> RegistrySettings {
    let credentials = Credentials::Password { username: "user".into(), password: Secret::new("hunter2") };
    RegistrySettings { credentials, ..RegistrySettings::default() }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Bytes that are not the same anywhere, so that a wrong offset shows.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

/// All that a stream hands out, and the error it ends with.
async fn drain(stream: &mut BlobStream) -> (Vec<u8>, Option<UpstreamError>) {
    let mut all = Vec::new();
    loop {
        match stream.next().await {
            Ok(Some(bytes)) => all.extend_from_slice(&bytes),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error)),
        }
    }
}

#[tokio::test]
async fn requests_say_who_asks_and_who_asked_before() {
    let server = serve(|_| async { respond(200, &[], "{}") }).await;
    let mut settings = settings(&server.url(""), RegistrySettings::default());
    settings.forward_client_address = true;
    settings.instance = "1f00".into();
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();
    let asked = Asked { hops: one_hop(), client: Some("192.0.2.7".parse().unwrap()), ..asked() };
    upstream.list(&asked, "tags/list?n=5").await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/v2/library/app/tags/list", "n=5"));
    assert_eq!(seen.header("user-agent").unwrap(), concat!("shoal/", env!("CARGO_PKG_VERSION")));
    assert_eq!(seen.header("x-forwarded-for").unwrap(), "192.0.2.7");
    assert_eq!(seen.header("via").unwrap(), "1.1 shoal-before, 1.1 shoal-1f00");
    assert_eq!(Hops::of(&seen.headers).count(), 2);
    assert_eq!(seen.header("accept-encoding").unwrap(), "identity");
    assert_eq!(seen.header("authorization"), None);
}

fn one_hop() -> Hops {
    let mut headers = HeaderMap::new();
    headers.insert("via", "1.1 shoal-before".parse().unwrap());
    Hops::of(&headers)
}

#[tokio::test]
async fn the_clients_address_is_private_unless_configured() {
    let server = serve(|_| async { respond(200, &[], "{}") }).await;
    let asked = Asked { client: Some("192.0.2.7".parse().unwrap()), ..asked() };
    upstream(&server.url("")).list(&asked, "tags/list").await.unwrap();
    assert_eq!(server.seen()[0].header("x-forwarded-for"), None);
}

#[tokio::test]
async fn loops_end() {
    let server = serve(|_| async { respond(508, &[], "") }).await;
    let error = upstream(&server.url("")).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Loop);

    let mut far = HeaderMap::new();
    far.insert("via", vec!["1.1 shoal-a"; HOPS_MAX as usize].join(", ").parse().unwrap());
    let far = Asked { hops: Hops::of(&far), ..asked() };
    let error = upstream(&server.url("")).list(&far, "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Loop);

    let mut settings = settings(&server.url(""), RegistrySettings::default());
    settings.own_addresses = vec![server.address];
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();
    let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Loop);
    assert_eq!(server.seen().len(), 1, "only the first question was sent");
}

#[tokio::test]
async fn statuses_become_faults() {
    let server = serve(|seen| async move {
        let status: u16 = seen.query("status")[0].parse().unwrap();
        respond(status, &[("retry-after", "7")], r#"{"errors":[{"code":"CODE","message":"the reason"}]}"#)
    })
    .await;
    let denied = |status| SourceFault::Denied { status };
    let table = [
        (404, SourceFault::Missing),
        (429, SourceFault::RateLimited { retry_after: Some(Duration::from_secs(7)) }),
        (500, SourceFault::Transient),
        (503, SourceFault::Transient),
        (401, denied(401)),
        (403, denied(403)),
        (400, denied(400)),
        (204, SourceFault::Protocol),
        (304, SourceFault::Protocol),
    ];
    for (status, fault) in table {
        // A new agent each: one that has been limited does not ask again at once.
        let upstream = upstream(&server.url(""));
        let error = upstream.list(&asked(), &format!("tags/list?status={status}")).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{status}");
        let cause = error.cause();
        assert_eq!(cause.source, server.url("/v2/library/app/tags/list").as_str());
        if !matches!(status, 204 | 304 | 401) {
            assert_eq!(cause.reason, format!("answered {status}: CODE: the reason"));
        }
    }
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = upstream(&endpoint).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Transient);
    let reason = error.cause().reason;
    assert_eq!(reason, "cannot connect: Connection refused (os error 111)");
}

#[tokio::test]
async fn a_registry_without_tls_is_told_with_what_to_write() {
    // It does not wait for the end of what is no request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let reason = upstream(&endpoint).list(&asked(), "tags/list").await.unwrap_err().cause().reason;
    let at = endpoint.authority();
    let wanted = format!("[upstream.registries.\"{at}\"] endpoint = \"http://{at}\"");
    assert!(
        reason.starts_with("cannot connect: it does not speak TLS; ") && reason.ends_with(&wanted),
        "{reason}"
    );
}

#[tokio::test]
async fn headers_that_do_not_come_are_transient() {
    let server = serve_raw(Vec::new(), Then::Stall).await;
    let mut settings = settings(&server.url(""), RegistrySettings::default());
    settings.connect_timeout = Duration::from_millis(50);
    settings.header_timeout = Duration::from_millis(50);
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();
    let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Transient);
    assert!(matches!(error.reason(), error::Reason::HeadersLate(_)), "{error}");
}

#[tokio::test]
async fn a_listing_stays_in_its_repository() {
    let server = serve(|_| async {
        let headers = [
            ("content-type", "application/vnd.oci.image.index.v1+json; charset=utf-8"),
            ("link", r#"</v2/library/app/tags/list?last=b>; rel="next""#),
            ("oci-filters-applied", "artifactType"),
            ("cache-control", "max-age=30"),
        ];
        respond(200, &headers, "[]")
    })
    .await;
    let upstream = upstream(&server.url(""));
    for path in ["../other/tags/list", "tags/../../other/tags/list", "%2e%2e/other/tags/list"] {
        let error = upstream.list(&asked(), path).await.unwrap_err();
        assert_eq!(error.fault(), SourceFault::Protocol, "{path}");
    }
    assert_eq!(server.seen().len(), 0);
    let answer = upstream.list(&asked(), "referrers/x").await.unwrap();
    assert_eq!(&answer.bytes[..], b"[]");
    assert_eq!(answer.media_type.as_deref(), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(answer.next_query(), Some("last=b"));
    assert_eq!(answer.filters_applied.as_deref(), Some("artifactType"));
    assert_eq!(answer.max_age, Some(Duration::from_secs(30)));
}

#[test]
fn endpoints() {
    let hub: Registry = Registry::DOCKER_HUB.parse().unwrap();
    let test: Registry = "registry.test:5000".parse().unwrap();
    let parse = |text: &str| Some(text.parse::<Url>().unwrap());
    let table = [
        (&hub, None, Some("https://registry-1.docker.io/")),
        (&test, None, Some("https://registry.test:5000/")),
        (&test, parse("http://10.0.0.1:5000"), Some("http://10.0.0.1:5000/")),
        (&test, parse("https://cache.test/hub/v2/"), Some("https://cache.test/hub")),
        (&test, parse("https://cache.test/v2"), Some("https://cache.test/")),
        (&test, parse("ftp://cache.test"), None),
        (&test, parse("https://user:hunter2@cache.test"), None),
        (&test, parse("https://cache.test/?key=hunter2"), None),
        (&test, parse("unix:/run/registry.sock"), None),
    ];
    for (registry, configured, expected) in table {
        let found = endpoint(registry, configured.as_ref());
        if let Err(error) = &found {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!(found.ok().as_ref().map(Url::as_str), expected, "{registry} {configured:?}");
    }
}

#[test]
fn settings_that_would_leak_are_refused() {
    let with_default = |default| Settings { default, ..Settings::default() };
    let identity =
        RegistrySettings { client_identity: Some(Secret::new("x")), ..RegistrySettings::default() };
    let broken_ca = RegistrySettings { ca: Some(b"no certificate".to_vec()), ..RegistrySettings::default() };
    for (settings, text) in [
        (with_default(with_password()), "must have no password"),
        (with_default(identity), "must have no client certificate"),
        (with_default(broken_ca), "there is no certificate in PEM form"),
        (Settings { instance: "a b".into(), ..Settings::default() }, "cannot name an agent"),
    ] {
        let Err(error) = Upstream::new(settings, Metrics::new()) else { panic!("{text}") };
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn registries_that_clients_make_up_are_bounded() {
    let upstream = Upstream::new(Settings::default(), Metrics::new()).unwrap();
    let registry = |n: usize| -> Registry { format!("r{n}.test").parse().unwrap() };
    let first = upstream.source(&registry(0)).unwrap();
    for n in 0..2 * limits::UNCONFIGURED_REGISTRIES_MAX {
        let mut asked = asked();
        asked.scope.registry = registry(n);
        let source = upstream.source(&registry(n)).unwrap();
        let own = n < limits::LABELLED_REGISTRIES_MAX;
        assert_eq!(source.label, if own { registry(n).to_string() } else { "other".into() });
        assert_eq!(upstream.label(&asked.scope), source.label);
        assert_eq!(source.endpoint.as_str(), format!("https://r{n}.test/"));
        // What has been learned of it is not learned again, however many others there are.
        assert!(Arc::ptr_eq(&source, &upstream.source(&registry(n)).unwrap()), "{n}");
        assert!(Arc::ptr_eq(&first, &upstream.source(&registry(0)).unwrap()), "{n}");
    }
    assert_eq!(upstream.sources().len(), limits::UNCONFIGURED_REGISTRIES_MAX);
    // It has been forgotten; its label has not.
    assert_eq!(upstream.source(&registry(1)).unwrap().label, "r1.test");
}
