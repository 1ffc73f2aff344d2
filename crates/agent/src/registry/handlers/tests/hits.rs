//! What counts as a hit or a miss: each time that a client gets a blob or a manifest.

use super::*;
use crate::metrics::Counters;

const BLOB_PATH: &str = "/v2/a/blobs/{blob}";
const MANIFEST_PATH: &str = "/v2/a/manifests/v1";

/// Hits and misses after one request.
async fn counted(fake: &Fake, method: &str, path: &str, headers: &[(&str, &str)]) -> (u64, u64) {
    let (app, metrics) = app(fake);
    let mut request = Request::builder().method(method).uri(path.replace("{blob}", BLOB));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    response.into_body().collect().await.unwrap();
    let text = metrics.encode();
    let counters = Counters::new(&text);
    (counters.sum("hits_total"), counters.sum("misses_total"))
}

/// The node says of its blob that it has to be fetched, and of its manifest that it is there.
#[tokio::test]
async fn a_get_of_content_counts_and_a_head_does_not() {
    let table = [
        ("GET", BLOB_PATH, (0, 1)),
        ("HEAD", BLOB_PATH, (0, 0)),
        ("GET", MANIFEST_PATH, (1, 0)),
        ("HEAD", MANIFEST_PATH, (0, 0)),
        ("GET", "/v2/a/tags/list", (0, 0)),
        ("GET", "/v2/", (0, 0)),
    ];
    for (method, path, want) in table {
        assert_eq!(counted(&Fake::default(), method, path, &[]).await, want, "{method} {path}");
    }
    let stale = Fake::new(|inner| inner.stale = Some("r.test answered 429".into()));
    assert_eq!(counted(&stale, "GET", MANIFEST_PATH, &[]).await, (1, 0));
}

/// So a blob that is taken range by range counts as one that is taken whole.
#[tokio::test]
async fn only_the_range_with_the_first_byte_counts() {
    let table = [
        ("bytes=0-", (0, 1)),
        ("bytes=0-9", (0, 1)),
        ("bytes=10-", (0, 0)),
        ("bytes=-5", (0, 0)),
        ("bytes=-500", (0, 1)),
        ("bytes=10-14,0-9,20-24", (0, 1)),
        ("bytes=10-14,20-24,-3", (0, 0)),
        ("bytes=0-30,5-35", (0, 1)),
    ];
    for (range, want) in table {
        assert_eq!(counted(&Fake::default(), "GET", BLOB_PATH, &[("range", range)]).await, want, "{range}");
    }
    assert_eq!(counted(&Fake::default(), "GET", MANIFEST_PATH, &[("range", "bytes=5-9")]).await, (0, 0));
}

#[tokio::test]
async fn an_answer_without_content_counts_as_nothing() {
    for path in [BLOB_PATH, MANIFEST_PATH] {
        let unknown = Fake::failing(PullError::Unknown(vec![]));
        assert_eq!(counted(&unknown, "GET", path, &[]).await, (0, 0), "404 of {path}");
        let known = [("if-none-match", "*")];
        assert_eq!(counted(&Fake::default(), "GET", path, &known).await, (0, 0), "304 of {path}");
        let outside = [("range", "bytes=900-")];
        assert_eq!(counted(&Fake::default(), "GET", path, &outside).await, (0, 0), "416 of {path}");
    }
}
