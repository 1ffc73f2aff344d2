mod hits;
mod lines;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex};
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use shoal_engine::{Registry, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;
use tracing::Dispatch;

use super::*;
use crate::listing::ListingReply;
use crate::metrics::Served;
use crate::registry::router;
use crate::upstream::ClientToken;

const BLOB: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const BYTES: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;

/// A node with one blob and one manifest, which writes down what it is asked.
#[derive(Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    calls: Mutex<Vec<String>>,
    /// What the next call answers instead of content.
    failures: Mutex<VecDeque<PullError>>,
    /// The blob, instead of [`BYTES`].
    blob: Option<Bytes>,
    /// Bodies break after this many bytes.
    break_after: Option<usize>,
    stale: Option<String>,
    /// What the version check says to those without a token.
    challenge: Option<&'static str>,
    /// Manifests never come.
    hangs: bool,
}

impl Fake {
    fn new(change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Inner::default();
        change(&mut inner);
        Fake(Arc::new(inner))
    }

    fn failing(error: PullError) -> Self {
        Fake::new(|inner| inner.failures = Mutex::new(VecDeque::from([error])))
    }

    fn called(&self, asked: &Asked, what: String) -> Result<(), PullError> {
        let from = asked.client.map(|client| format!(" from {client}")).unwrap_or_default();
        self.0.calls.lock().unwrap().push(format!("{what} {}{from}", asked.scope));
        match self.0.failures.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }

    fn blob(&self) -> Bytes {
        self.0.blob.clone().unwrap_or(Bytes::from_static(BYTES))
    }
}

/// Bytes in frames of seven, with an exact size; breaks where it is told to.
struct Chunks {
    bytes: Bytes,
    sent: usize,
    break_after: Option<usize>,
    has_paused: bool,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.break_after.is_some_and(|limit| self.sent >= limit) {
            // A source takes a moment to fail; a server sends what it has meanwhile.
            if !std::mem::replace(&mut self.has_paused, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(std::io::Error::other("the source is gone"))));
        }
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.bytes.len().min(7);
        self.sent += length;
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Pulls for Fake {
    type Body = Chunks;

    async fn open_blob(&self, asked: &Asked, digest: Digest, part: Part) -> Result<Blob<Chunks>, PullError> {
        self.called(asked, format!("open {part:?} {}", digest.short()))?;
        let bytes = self.blob();
        let size = bytes.len() as u64;
        let range = part.resolve(size).ok_or(PullError::Unsatisfiable { size })?;
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let body = Chunks { bytes, sent: 0, break_after: self.0.break_after, has_paused: false };
        Ok(Blob { size, range, body, source: Served::Shared })
    }

    async fn ping(&self, _: &Registry, token: Option<&ClientToken>) -> Result<(), PullError> {
        match (&self.0.challenge, token) {
            (Some(challenge), None) => {
                Err(PullError::Unauthorized { challenge: challenge.parse().expect("a header") })
            }
            _ => Ok(()),
        }
    }

    async fn blob_size(&self, asked: &Asked, digest: Digest) -> Result<(u64, Served), PullError> {
        self.called(asked, format!("size {}", digest.short()))?;
        Ok((self.blob().len() as u64, Served::Store))
    }

    async fn manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        self.called(asked, format!("manifest {body}"))?;
        if self.0.hangs {
            std::future::pending::<()>().await;
        }
        Ok(ManifestReply {
            digest: match reference {
                Reference::Digest(digest) => *digest,
                Reference::Tag(_) => BLOB.parse().unwrap(),
            },
            media_type: "application/vnd.oci.image.manifest.v1+json; charset=utf-8".into(),
            size: MANIFEST.len() as u64,
            bytes: body.then(|| Bytes::from_static(MANIFEST)),
            max_age: matches!(reference, Reference::Tag(_)).then_some(Duration::from_secs(90)),
            stale: self.0.stale.clone(),
            source: if self.0.stale.is_some() { Served::Stale } else { Served::Store },
        })
    }

    async fn listing(&self, asked: &Asked, listing: &Listing) -> Result<ListingReply, PullError> {
        self.called(asked, format!("{listing:?}"))?;
        let (next, is_filtered) = match listing {
            Listing::Tags { n, .. } => (Listing::Tags { n: *n, last: Some("b".into()) }, false),
            Listing::Referrers { digest, artifact_type, .. } => (
                Listing::Referrers {
                    digest: *digest,
                    artifact_type: artifact_type.clone(),
                    page: Some("t=1".into()),
                },
                artifact_type.is_some(),
            ),
        };
        Ok(ListingReply {
            body: Bytes::from_static(b"{\"tags\":[]}"),
            media_type: "application/json".into(),
            next: Some(next),
            is_filtered,
            max_age: Duration::from_secs(30),
            stale: None,
            source: Served::Upstream,
        })
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Result<Bytes, axum::Error>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }
}

/// `tracing` asks only the current thread's subscriber about a new log statement while there has been no more than
/// one subscriber, and remembers the answer for all threads. With two that stay, a test without a subscriber cannot
/// switch off the line that another test waits for.
static SUBSCRIBERS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish()))
});

fn app(fake: &Fake) -> (axum::Router, Arc<Metrics>) {
    LazyLock::force(&SUBSCRIBERS);
    let metrics = Metrics::new();
    let settings =
        FrontSettings { default_registry: Some("r.test".parse().unwrap()), instance: "1f00".into() };
    (router(fake.clone(), settings, Arc::clone(&metrics)), metrics)
}

async fn ask(fake: &Fake, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(uri.replace("{blob}", BLOB));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app(fake).0.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

fn quoted() -> String {
    format!("\"{BLOB}\"")
}

#[tokio::test]
async fn the_version_check() {
    let fake = Fake::default();
    for (method, body) in [("GET", "{}"), ("HEAD", "")] {
        for uri in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
            let answer = ask(&fake, method, uri, &[]).await;
            assert_eq!((answer.status, answer.text()), (200, body));
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
            assert_eq!(answer.header("content-length"), "2");
            assert!(!answer.headers.contains_key("x-registry-supports-signatures"));
        }
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn manifests() {
    let digest = BLOB;
    let table = [
        ("/v2/a/b/manifests/v1?ns=docker.io", "max-age=90", "docker.io"),
        ("/v2/docker.io/a/b/manifests/v1", "max-age=90", ""),
        ("/v2/a/b/manifests/{blob}?ns=ghcr.io%3A443", "public, max-age=31536000, immutable", "ghcr.io:443"),
    ];
    for (uri, cache, namespace) in table {
        for method in ["GET", "HEAD"] {
            let fake = Fake::default();
            let answer = ask(&fake, method, uri, &[("accept-encoding", "gzip, zstd")]).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
            assert_eq!(answer.header("content-length"), MANIFEST.len().to_string());
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert_eq!(answer.header("etag"), quoted());
            assert_eq!(answer.header("accept-ranges"), "bytes");
            assert_eq!(answer.header("cache-control"), cache);
            assert_eq!(answer.header("oci-namespace"), namespace);
            assert_eq!(answer.header("content-encoding"), "");
            assert_eq!(answer.header("warning"), "");
            assert_eq!(answer.body.unwrap(), if method == "GET" { MANIFEST } else { b"" });
            assert!(fake.calls()[0].starts_with(if method == "GET" {
                "manifest true"
            } else {
                "manifest false"
            }));
        }
    }
}

/// A cache that others use must not hand out what one client's token was good for.
#[tokio::test]
async fn an_answer_to_a_token_is_for_its_client_alone() {
    let table = [
        ("/v2/a/manifests/{blob}", "max-age=31536000, immutable"),
        ("/v2/a/blobs/{blob}", "max-age=31536000, immutable"),
        ("/v2/a/manifests/v1", "max-age=90"),
        ("/v2/a/tags/list", "max-age=30"),
    ];
    for (uri, cache) in table {
        for method in ["GET", "HEAD"] {
            let answer = ask(&Fake::default(), method, uri, &[("authorization", "Bearer x")]).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("cache-control"), format!("private, {cache}"), "{method} {uri}");
            let answer = ask(&Fake::default(), method, uri, &[]).await;
            assert!(!answer.header("cache-control").contains("private"), "{method} {uri}");
        }
    }
}

#[tokio::test]
async fn a_digest_is_answered_in_the_algorithm_it_was_asked_in() {
    let sha512 = format!("sha512:{}", "0f".repeat(64));
    let answer = ask(&Fake::default(), "HEAD", &format!("/v2/a/manifests/{sha512}"), &[]).await;
    assert_eq!(answer.header("docker-content-digest"), sha512);
    let answer = ask(&Fake::default(), "HEAD", &format!("/v2/a/blobs/{sha512}"), &[]).await;
    assert_eq!(answer.header("docker-content-digest"), sha512);
}

#[tokio::test]
async fn a_stale_manifest_says_so() {
    let fake = Fake::new(|inner| inner.stale = Some("r.test answered 429".into()));
    let answer = ask(&fake, "HEAD", "/v2/a/manifests/v1", &[]).await;
    assert_eq!(answer.header("warning"), "299 - \"r.test answered 429\"");
}

#[tokio::test]
async fn ranges_of_a_manifest() {
    let size = MANIFEST.len();
    let table = [
        ("bytes=0-", 206, 0..size),
        ("bytes=5-9", 206, 5..10),
        ("bytes=-4", 206, size - 4..size),
        ("bytes=5-9,11-12", 200, 0..size),
        ("nonsense", 200, 0..size),
    ];
    for (range, status, want) in table {
        let answer = ask(&Fake::default(), "GET", "/v2/a/manifests/v1", &[("range", range)]).await;
        assert_eq!((answer.status, answer.text().as_bytes()), (status, &MANIFEST[want.clone()]), "{range}");
        assert_eq!(answer.header("content-length"), want.len().to_string());
        let content_range = format!("bytes {}-{}/{size}", want.start, want.end - 1);
        assert_eq!(answer.header("content-range"), if status == 206 { content_range.as_str() } else { "" });
        assert_eq!(answer.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
    }
    for range in ["bytes=500-", "bytes=500-0", "bytes=-0"] {
        let answer = ask(&Fake::default(), "GET", "/v2/a/manifests/v1", &[("range", range)]).await;
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (416, format!("bytes */{size}").as_str())
        );
    }
}

#[tokio::test]
async fn blobs_and_their_ranges() {
    let table = [
        (None, 200, 0..36),
        (Some("bytes=0-"), 206, 0..36),
        (Some("bytes=10-"), 206, 10..36),
        (Some("bytes=10-19"), 206, 10..20),
        (Some("bytes=10-1000"), 206, 10..36),
        (Some("bytes=-5"), 206, 31..36),
        (Some("bytes=-500"), 206, 0..36),
        (Some("bytes=x"), 200, 0..36),
        (Some("bytes=0-3,900-"), 206, 0..4),
        (Some("bytes=0-30,5-35"), 200, 0..36),
    ];
    for (range, status, want) in table {
        let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        let answer = ask(&Fake::default(), "GET", "/v2/a/blobs/{blob}?ns=docker.io", &headers).await;
        assert_eq!((answer.status, answer.text().as_bytes()), (status, &BYTES[want.clone()]), "{range:?}");
        assert_eq!(answer.header("content-length"), want.len().to_string());
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("docker-content-digest"), BLOB);
        assert_eq!(answer.header("etag"), quoted());
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("oci-namespace"), "docker.io");
        let content_range = format!("bytes {}-{}/36", want.start, want.end - 1);
        assert_eq!(answer.header("content-range"), if status == 206 { content_range.as_str() } else { "" });
    }
    for range in ["bytes=36-", "bytes=500-0", "bytes=-0", "bytes=90-99,100-"] {
        let answer = ask(&Fake::default(), "GET", "/v2/a/blobs/{blob}", &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */36"), "{range}");
    }
}

#[tokio::test]
async fn a_head_has_the_size_and_no_range() {
    let fake = Fake::default();
    let answer = ask(&fake, "HEAD", "/v2/a/blobs/{blob}", &[("range", "bytes=1-2")]).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.text()), (200, "36", ""));
    assert_eq!(answer.header("docker-content-digest"), BLOB);
    assert_eq!(fake.calls(), ["size sha256:e3b0c44298fc r.test/a"]);
}

#[tokio::test]
async fn an_empty_blob_has_no_ranges_but_can_be_had() {
    for range in ["bytes=0-", "bytes=-5", "bytes=0-0,1-1"] {
        let fake = Fake::new(|inner| inner.blob = Some(Bytes::new()));
        let answer = ask(&fake, "GET", "/v2/a/blobs/{blob}", &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, "0"), "{range}");
    }
}

#[tokio::test]
async fn if_range_and_if_none_match() {
    let (quoted, other) = (quoted(), "\"sha256:other\"".to_owned());
    for (uri, all) in [("/v2/a/blobs/{blob}", BYTES), ("/v2/a/manifests/v1", MANIFEST)] {
        for (if_range, status, length) in [(&quoted, 206, 4), (&other, 200, all.len())] {
            let headers = [("range", "bytes=3-6"), ("if-range", if_range.as_str())];
            let answer = ask(&Fake::default(), "GET", uri, &headers).await;
            assert_eq!((answer.status, answer.body.unwrap().len()), (status, length), "{uri} {if_range}");
        }
        for method in ["GET", "HEAD"] {
            for known in [quoted.as_str(), "*"] {
                let headers = [("if-none-match", known), ("range", "bytes=0-1")];
                let answer = ask(&Fake::default(), method, uri, &headers).await;
                assert_eq!((answer.status, answer.header("etag"), answer.text()), (304, quoted.as_str(), ""));
                assert_eq!(answer.header("content-length"), all.len().to_string());
            }
            let answer = ask(&Fake::default(), method, uri, &[("if-none-match", &other)]).await;
            assert_eq!(answer.status, 200);
            // A client's wish for a fresh copy or a date is its own (C13).
            let headers =
                [("cache-control", "no-cache"), ("if-modified-since", "Sat, 29 Oct 2094 19:43:31 GMT")];
            assert_eq!(ask(&Fake::default(), method, uri, &headers).await.status, 200);
        }
        let fake = Fake::failing(PullError::Unknown(vec![]));
        let answer = ask(&fake, "GET", uri, &[("if-none-match", "*")]).await;
        assert_eq!(answer.status, 404, "what does not exist is not unmodified");
    }
}

#[tokio::test]
async fn several_ranges_are_as_many_parts() {
    let fake = Fake::default();
    let answer = ask(&fake, "GET", "/v2/a/blobs/{blob}", &[("range", "bytes=10-14, 0-9,-3, 90-")]).await;
    assert_eq!(answer.status, 206);
    assert!(!answer.headers.contains_key("content-range"));
    let boundary =
        answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
    let part = |range: &str, bytes: &str| {
        format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/36\r\n\r\n{bytes}\r\n"
        )
    };
    let want = [
        part("10-14", "abcde"),
        part("0-9", "0123456789"),
        part("33-35", "xyz"),
        format!("--{boundary}--\r\n"),
    ];
    assert_eq!(answer.text(), want.concat());
    assert_eq!(answer.header("content-length"), answer.text().len().to_string());
    let opened = ["Bounded(10, 14)", "Bounded(0, 9)", "Bounded(33, 35)"];
    let opened = opened.map(|part| format!("open {part} sha256:e3b0c44298fc r.test/a"));
    assert_eq!(fake.calls()[1..], opened);
}

#[tokio::test]
async fn the_version_check_hands_a_challenge_on() {
    let fake = Fake::new(|inner| inner.challenge = Some("Bearer realm=\"https://auth.test/t\""));
    for method in ["GET", "HEAD"] {
        let answer = ask(&fake, method, "/v2/", &[]).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, "Bearer realm=\"https://auth.test/t\"")
        );
        assert_eq!(ask(&fake, method, "/v2/", &[("authorization", "Basic dTpw")]).await.status, 401);
        assert_eq!(ask(&fake, method, "/v2/", &[("authorization", "Bearer x")]).await.status, 200);
    }
    assert_eq!(ask(&Fake::default(), "GET", "/v2/", &[]).await.status, 200);
}

/// One ticket at a time: the second part is opened when the first has been read.
#[tokio::test]
async fn parts_are_opened_one_after_the_other() {
    let fake = Fake::default();
    let request = Request::builder().uri(format!("/v2/a/blobs/{BLOB}")).header("range", "bytes=0-1,4-5,8-9");
    let response = app(&fake).0.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(fake.calls().len(), 2, "the size and the first part");
    let mut body = response.into_body();
    for _ in ["head", "bytes"] {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(fake.calls(), Vec::<String>::new());
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(fake.calls(), ["open Bounded(4, 5) sha256:e3b0c44298fc r.test/a"]);
}

#[tokio::test]
async fn a_part_that_fails_cuts_the_answer_short() {
    let fake = Fake::new(|inner| inner.break_after = Some(7));
    let answer = ask(&fake, "GET", "/v2/a/blobs/{blob}", &[("range", "bytes=0-6,8-20")]).await;
    assert_eq!(answer.status, 206);
    assert!(answer.body.is_err());
    let fake = Fake::default();
    let request = Request::builder().uri(format!("/v2/a/blobs/{BLOB}")).header("range", "bytes=0-1,4-5");
    let response = app(&fake).0.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    fake.0.failures.lock().unwrap().push_back(PullError::Exhausted(vec![]));
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn listings_link_to_this_agent_in_the_clients_own_addressing() {
    let referrers = format!("/v2/a/referrers/{BLOB}?artifactType=x%2Fy&page=t%3D1&ns=ghcr.io");
    let table = [
        ("/v2/a/b/tags/list?n=2", "/v2/a/b/tags/list?n=2&last=b", ""),
        ("/v2/a/tags/list?n=2&ns=docker.io", "/v2/a/tags/list?n=2&last=b&ns=docker.io", ""),
        ("/v2/docker.io/a/tags/list", "/v2/docker.io/a/tags/list?last=b", ""),
        ("/v2/a/referrers/{blob}?artifactType=x/y&ns=ghcr.io", referrers.as_str(), "artifactType"),
    ];
    for (uri, next, filters) in table {
        for method in ["GET", "HEAD"] {
            let answer = ask(&Fake::default(), method, uri, &[]).await;
            assert_eq!(
                (answer.status, answer.header("link")),
                (200, format!("<{next}>; rel=\"next\"").as_str())
            );
            assert_eq!(answer.header("oci-filters-applied"), filters);
            assert_eq!(answer.header("cache-control"), "max-age=30");
            assert_eq!(answer.header("content-length"), "11");
            assert_eq!(answer.text().len(), if method == "GET" { 11 } else { 0 });
        }
    }
    let answer = ask(&Fake::failing(PullError::Unknown(vec![])), "GET", "/v2/a/referrers/{blob}", &[]).await;
    assert_eq!(answer.status, 404, "a client then uses the tag schema");
}

#[tokio::test]
async fn only_reading_is_served() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let fake = Fake::default();
        for uri in ["/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/v1", "/v2/a/blobs/{blob}"] {
            let answer = ask(&fake, method, uri, &[]).await;
            assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method} {uri}");
            assert!(answer.text().contains("UNSUPPORTED"));
        }
        assert!(fake.calls().is_empty());
    }
}

#[tokio::test]
async fn a_request_that_has_been_forwarded_too_often_asks_nobody() {
    let via = vec!["1.1 shoal-a"; upstream::HOPS_MAX as usize + 1].join(", ");
    for uri in ["/v2/a/manifests/v1", "/v2/a/blobs/{blob}", "/v2/a/tags/list"] {
        let fake = Fake::default();
        assert_eq!(ask(&fake, "GET", uri, &[("via", &via)]).await.status, 508);
        assert!(fake.calls().is_empty());
        assert_eq!(ask(&fake, "GET", uri, &[("via", "1.1 shoal-a, 1.1 other")]).await.status, 200);
        assert_eq!(ask(&fake, "GET", uri, &[("via", "1.1 shoal-1f00")]).await.status, 508, "itself");
    }
}

#[tokio::test]
async fn a_manifest_without_its_bytes_is_no_answer() {
    let scope = Scope { registry: "r.test".parse().unwrap(), repository: "a".parse().unwrap() };
    let target = Target { scope: scope.clone(), addressing: path::Addressing { name: "a".into(), ns: None } };
    let (head, ()) = http::Request::new(()).into_parts();
    let asked = Asked::without_token(scope);
    let call = Call { head: &head, target: &target, asked, is_head: false };
    let fake = Fake::default();
    let mut reply = fake.manifest(&call.asked, &"v1".parse().unwrap(), true).await.unwrap();
    assert!(manifest_bytes(&call, &reply).is_ok());
    reply.size += 1;
    assert!(matches!(manifest_bytes(&call, &reply), Err(PullError::Exhausted(_))));
    reply.bytes = None;
    assert!(matches!(manifest_bytes(&call, &reply), Err(PullError::Exhausted(_))));
}

/// Starts a real server and returns its address.
async fn serving(fake: &Fake) -> (SocketAddr, Arc<Metrics>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (app, metrics) = app(fake);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (address, metrics)
}

/// Sends a request and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = request.replace("{blob}", BLOB);
    stream.write_all(format!("{request}Host: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn lower_head(answer: &str) -> String {
    answer.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase()
}

/// What the HTTP library makes of it on the wire.
#[tokio::test]
async fn on_the_wire() {
    let fake = Fake::default();
    let (address, _) = serving(&fake).await;
    let answer = exchange(address, "HEAD /v2/a/blobs/{blob} HTTP/1.1\r\n").await;
    assert_eq!(fake.calls(), ["size sha256:e3b0c44298fc r.test/a from 127.0.0.1"]);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(lower_head(&answer).matches("content-length: 36").count(), 1, "{answer}");

    let known = format!("GET /v2/a/blobs/{{blob}} HTTP/1.1\r\nIf-None-Match: \"{BLOB}\"\r\n");
    let answer = exchange(address, &known).await;
    assert!(answer.starts_with("HTTP/1.1 304") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(!lower_head(&answer).contains("content-length: 0"), "{answer}");

    let answer = exchange(address, "GET /v2/a/blobs/{blob} HTTP/1.1\r\nRange: bytes=30-\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with("\r\n\r\nuvwxyz"), "{answer}");
    assert!(!lower_head(&answer).contains("transfer-encoding"), "{answer}");

    let answer = exchange(address, "GET /v2/a/blobs/{blob} HTTP/1.1\r\nContent-Length: 3\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 400"), "{answer}");

    let answer = exchange(address, "HEAD /v2/a/blobs/sha256:x HTTP/1.1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("\r\n\r\n"), "{answer}");
}

/// L4: after the first byte an error is a connection that closes short of Content-Length.
#[tokio::test]
async fn a_body_that_breaks_is_cut_short() {
    let (address, _) = serving(&Fake::new(|inner| inner.break_after = Some(14))).await;
    let answer = exchange(address, "GET /v2/a/blobs/{blob} HTTP/1.1\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("content-length: 36"), "{head}");
    assert!(BYTES.starts_with(body.as_bytes()) && body.len() < BYTES.len(), "{body}");
}

/// How far a request of a log test gets before its client leaves.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    Asked,
    FirstFrame,
    End,
}

/// The connection sends slices of mapped files by their address, so a frame must be the very same bytes.
#[tokio::test]
async fn frames_pass_through_uncopied() {
    let blob = Bytes::from(vec![7u8; 20]);
    let address = blob.as_ptr() as usize;
    let fake = Fake::new(|inner| inner.blob = Some(blob.clone()));
    let request = Request::builder().uri(format!("/v2/a/blobs/{BLOB}")).body(Body::empty()).unwrap();
    let mut body = app(&fake).0.oneshot(request).await.unwrap().into_body();
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(20));
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first.as_ptr() as usize, second.as_ptr() as usize), (address, address + 7));
}
