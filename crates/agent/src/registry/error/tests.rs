use std::time::Duration;

use http_body_util::BodyExt;
use shoal_engine::Registry;

use super::*;
use crate::registry::path;

fn causes() -> Vec<Cause> {
    let cause = |source: &str, reason: &str| Cause { source: source.into(), reason: reason.into() };
    vec![cause("https://a.test", "answered 503"), cause("https://b.test", "cannot \"connect\"")]
}

async fn sent(refusal: Refusal, method: &Method) -> (u16, HeaderMap, String) {
    let (head, body) = refusal.into_response(method).into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn what_a_failed_pull_becomes() {
    let detail = r#","detail":[{"source":"https://a.test","reason":"answered 503"},{"source":"https://b.test","reason":"cannot \"connect\""}]"#;
    let table = [
        (PullError::Unknown(causes()), Kind::Blob, 404, "BLOB_UNKNOWN", "no source has it", detail),
        (PullError::Unknown(causes()), Kind::Manifest, 404, "MANIFEST_UNKNOWN", "no source has it", detail),
        (PullError::Unknown(vec![]), Kind::Tags, 404, "NAME_UNKNOWN", "no source has it", ""),
        (PullError::Unknown(vec![]), Kind::Referrers, 404, "MANIFEST_UNKNOWN", "no source has it", ""),
        (PullError::Denied(vec![]), Kind::Manifest, 403, "DENIED", "the origin denies access", ""),
        (
            PullError::Withheld(causes()),
            Kind::Blob,
            404,
            "BLOB_UNKNOWN",
            "this agent does not serve it",
            detail,
        ),
        (PullError::Withheld(vec![]), Kind::Tags, 404, "NAME_UNKNOWN", "this agent does not serve it", ""),
        (PullError::Exhausted(causes()), Kind::Blob, 502, "UNAVAILABLE", "every source failed", detail),
        (
            PullError::TimedOut(Duration::from_secs(20)),
            Kind::Blob,
            502,
            "UNAVAILABLE",
            "no answer within 20s",
            "",
        ),
        (
            PullError::Loop,
            Kind::Blob,
            508,
            "UNSUPPORTED",
            "the request came back to an agent that had already forwarded it",
            "",
        ),
        (PullError::Draining, Kind::Blob, 502, "UNAVAILABLE", "the agent is shutting down", ""),
        (
            PullError::Unsatisfiable { size: 7 },
            Kind::Blob,
            416,
            "SIZE_INVALID",
            "the range lies outside the blob of 7 bytes",
            "",
        ),
    ];
    for (error, kind, status, code, message, detail) in table {
        let want = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"{detail}}}]}}"#);
        let refusal = Refusal::pull(error, kind);
        let (got, headers, body) = sent(refusal.clone(), &Method::GET).await;
        assert_eq!((got, body), (status, want));
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["docker-distribution-api-version"], "registry/2.0");
        assert!(!headers.contains_key("www-authenticate"), "a challenge costs the user's password");

        let (got, headers, body) = sent(refusal, &Method::HEAD).await;
        assert_eq!((got, body.as_str()), (status, ""), "a HEAD has no body");
        assert!(!headers.contains_key("content-type"));
    }
}

#[tokio::test]
async fn headers_that_belong_to_a_status() {
    let (_, headers, _) =
        sent(Refusal::pull(PullError::Unsatisfiable { size: 7 }, Kind::Blob), &Method::GET).await;
    assert_eq!(headers["content-range"], "bytes */7");
    let (_, headers, _) = sent(Refusal::pull(PullError::Draining, Kind::Blob), &Method::HEAD).await;
    assert_eq!(headers["connection"], "close");
    let (status, headers, body) = sent(Refusal::method(&Method::PUT), &Method::PUT).await;
    assert_eq!((status, &headers["allow"]), (405, &HeaderValue::from_static("GET, HEAD")));
    assert!(body.contains(r#""code":"UNSUPPORTED""#) && body.contains("PUT is not supported"), "{body}");
}

#[test]
fn what_a_wrong_address_becomes() {
    let hub: Registry = Registry::DOCKER_HUB.parse().unwrap();
    let long = format!("/v2/{}/manifests/x", "a".repeat(path::URI_BYTES_MAX));
    let table = [
        ("/v1/a/manifests/b", "", 404, Code::Unsupported),
        ("/v2/a/B/manifests/b", "", 400, Code::NameInvalid),
        ("/v2/a/b/manifests/-", "", 400, Code::NameInvalid),
        ("/v2/a/b/manifests/b", "ns=a&ns=b", 400, Code::NameInvalid),
        ("/v2/a/b/manifests/b", "ns=a%2Fb", 400, Code::NameInvalid),
        ("/v2/a%2Fb/manifests/b", "", 400, Code::NameInvalid),
        ("/v2/a/b/blobs/sha256:x", "", 400, Code::DigestInvalid),
        ("/v2/a/b/manifests/sha256:x", "", 400, Code::DigestInvalid),
        ("/v2/a/b/tags/list", "n=x", 400, Code::Unsupported),
        (&long, "", 414, Code::NameInvalid),
    ];
    for (path, query, status, code) in table {
        let (_, route) = path::parse(path, Some(query), Some(&hub));
        let refusal = Refusal::route(&route.unwrap_err());
        assert_eq!((refusal.status.as_u16(), refusal.code), (status, code), "{path}?{query}");
    }
    let (_, route) = path::parse("/v2/a/b/manifests/b", None, None);
    let refusal = Refusal::route(&route.unwrap_err());
    assert_eq!((refusal.status.as_u16(), refusal.code), (404, Code::NameUnknown));
}

#[test]
fn the_log_tells_every_cause() {
    let summary = Refusal::pull(PullError::Exhausted(causes()), Kind::Blob).summary();
    assert_eq!(
        summary,
        "every source failed: https://a.test: answered 503; https://b.test: cannot \"connect\""
    );
}

/// The one answer with a challenge: the registry's own, as it is.
#[tokio::test]
async fn a_challenge_is_handed_on() {
    let challenge: HeaderValue = "Bearer realm=\"https://auth.test/t\"".parse().unwrap();
    let refusal = Refusal::pull(PullError::Unauthorized { challenge: challenge.clone() }, Kind::Manifest);
    let (status, headers, body) = sent(refusal, &Method::GET).await;
    assert_eq!((status, &headers["www-authenticate"]), (401, &challenge));
    let want = r#"{"errors":[{"code":"UNAUTHORIZED","message":"the registry's token is needed"}]}"#;
    assert_eq!(body, want);
}
