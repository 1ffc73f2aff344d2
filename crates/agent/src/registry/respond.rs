//! The heads of successful answers: one function per shape, so that GET and HEAD, blobs and manifests, hits and
//! misses cannot differ in a header.

use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use headers::HeaderMapExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use shoal_engine::Digest;

use crate::registry::conditional;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What a blob is sent as: the registry does not know its type, only its manifest does.
pub const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// A year, which is the longest that RFC 9111 section 5.2.2.1 expects caches to take seriously; what a digest names
/// never changes (C10).
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The same for whoever has shown a token: a cache that others use must not keep it (section 5.2.2.7).
const IMMUTABLE_FOR_ONE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
/// Longest text of a warning, bytes, so that the whole header stays below the specification's 4096.
const WARNING_BYTES_MAX: usize = 1024;

/// How long an answer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// For ever: it was asked by digest.
    Immutable,
    /// This long.
    For(Duration),
}

/// What is said of content that has a digest.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Name of the content, in the algorithm it was asked by.
    pub digest: &'a Digest,
    /// Media type.
    pub media_type: HeaderValue,
    /// Size of all of it, bytes.
    pub size: u64,
    /// How long the answer may be used.
    pub freshness: Freshness,
    /// Whether the client has shown a token, without which it might have got none.
    pub for_one: bool,
    /// `ns`, if the client sent it.
    pub namespace: Option<&'a str>,
    /// Why the answer may be out of date.
    pub stale: Option<&'a str>,
}

impl Content<'_> {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12);
        api_version(&mut headers);
        let digest = HeaderValue::from_str(&self.digest.to_string()).expect("a digest is visible ASCII");
        headers.insert(DOCKER_CONTENT_DIGEST, digest);
        headers.typed_insert(conditional::etag(self.digest));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CACHE_CONTROL, cache_control(self.freshness, self.for_one));
        headers.insert(header::CONTENT_TYPE, self.media_type.clone());
        namespace(&mut headers, self.namespace);
        warning(&mut headers, self.stale);
        headers
    }

    /// 200 with all of it, or the head of that.
    pub fn whole(&self, body: Body) -> Response {
        let mut headers = self.headers();
        headers.insert(header::CONTENT_LENGTH, self.size.into());
        respond(StatusCode::OK, headers, body)
    }

    /// 206 with one range.
    pub fn partial(&self, range: &Range<u64>, body: Body) -> Response {
        let mut headers = self.headers();
        headers.insert(header::CONTENT_RANGE, content_range(range, self.size));
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
        respond(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    /// 206 with several ranges; `media_type` names the boundary and `length` is all that the body has.
    pub fn multipart(&self, media_type: HeaderValue, length: u64, body: Body) -> Response {
        let mut headers = self.headers();
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::CONTENT_LENGTH, length.into());
        respond(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    /// Not modified. The length is the one that the 200 would have had, as RFC 9110 section 8.6 allows; left out, an
    /// HTTP library would say that it is zero.
    pub fn not_modified(&self) -> Response {
        let mut headers = self.headers();
        headers.insert(header::CONTENT_LENGTH, self.size.into());
        respond(StatusCode::NOT_MODIFIED, headers, Body::empty())
    }
}

/// What is said of a list of tags or referrers.
#[derive(Clone, Debug)]
pub struct List<'a> {
    /// Media type.
    pub media_type: HeaderValue,
    /// Bytes of the body.
    pub size: u64,
    /// How long it may be used.
    pub max_age: Duration,
    /// Whether the client has shown a token, without which it might have got none.
    pub for_one: bool,
    /// Path and query of the next page on this agent.
    pub next: Option<String>,
    /// Filters that the list has been through.
    pub filters_applied: Option<&'static str>,
    /// `ns`, if the client sent it.
    pub namespace: Option<&'a str>,
    /// Why the answer may be out of date.
    pub stale: Option<&'a str>,
}

impl List<'_> {
    /// 200 with the list, or the head of that.
    pub fn answer(&self, body: Body) -> Response {
        let mut headers = HeaderMap::with_capacity(10);
        api_version(&mut headers);
        headers.insert(header::CONTENT_TYPE, self.media_type.clone());
        headers.insert(header::CONTENT_LENGTH, self.size.into());
        let freshness = Freshness::For(self.max_age);
        headers.insert(header::CACHE_CONTROL, cache_control(freshness, self.for_one));
        if let Some(next) = &self.next
            && let Ok(link) = HeaderValue::from_str(&format!("<{next}>; rel=\"next\""))
        {
            headers.insert(header::LINK, link);
        }
        if let Some(filters) = self.filters_applied {
            headers.insert(OCI_FILTERS_APPLIED, HeaderValue::from_static(filters));
        }
        namespace(&mut headers, self.namespace);
        warning(&mut headers, self.stale);
        respond(StatusCode::OK, headers, body)
    }
}

/// 200 of the version check.
pub fn base(head: bool) -> Response {
    const BODY: &[u8] = b"{}";
    let mut headers = HeaderMap::with_capacity(4);
    api_version(&mut headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, BODY.len().into());
    respond(StatusCode::OK, headers, if head { Body::empty() } else { Body::from(BODY) })
}

/// Every answer carries it: older clients take a server without it for no registry.
pub fn api_version(headers: &mut HeaderMap) {
    headers.insert(DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"));
}

/// `bytes a-b/T`.
///
/// # Panics
/// If the range is empty: no `Content-Range` can say that, and nobody may ask for it.
pub fn content_range(range: &Range<u64>, size: u64) -> HeaderValue {
    assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    HeaderValue::from_str(&text).expect("digits are visible ASCII")
}

/// `bytes */T`.
pub fn content_range_unsatisfied(size: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes */{size}")).expect("digits are visible ASCII")
}

/// A media type as registry clients compare it: without parameters. What cannot stand in a header is sent as bytes
/// of no particular type.
pub fn media_type(text: &str) -> HeaderValue {
    let bare = text.split(';').next().unwrap_or_default().trim();
    match HeaderValue::from_str(bare) {
        Ok(value) if !value.is_empty() => value,
        _ => OCTET_STREAM,
    }
}

fn cache_control(freshness: Freshness, for_one: bool) -> HeaderValue {
    match freshness {
        Freshness::Immutable if for_one => IMMUTABLE_FOR_ONE,
        Freshness::Immutable => IMMUTABLE,
        Freshness::For(left) => {
            let private = if for_one { "private, " } else { "" };
            let text = format!("{private}max-age={}", left.as_secs());
            HeaderValue::from_str(&text).expect("words and digits are visible ASCII")
        }
    }
}

fn namespace(headers: &mut HeaderMap, namespace: Option<&str>) {
    if let Some(value) = namespace.and_then(|ns| HeaderValue::from_str(ns).ok()) {
        headers.insert(OCI_NAMESPACE, value);
    }
}

/// `Warning: 299 - "text"`, the only form that containers/image shows to its user.
fn warning(headers: &mut HeaderMap, text: Option<&str>) {
    let Some(text) = text else { return };
    let plain: String = text
        .chars()
        .take(WARNING_BYTES_MAX)
        .map(|c| match c {
            '"' | '\\' => '\'',
            ' '..='~' => c,
            _ => '?',
        })
        .collect();
    let value = HeaderValue::from_str(&format!("299 - \"{plain}\"")).expect("visible ASCII only");
    headers.insert(header::WARNING, value);
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_has_no_parameters() {
        let table = [
            ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.index.v1+json"),
            ("application/json; charset=utf-8", "application/json"),
            ("", "application/octet-stream"),
            (";", "application/octet-stream"),
            ("a/b\r\nX-Evil: 1", "application/octet-stream"),
        ];
        for (text, want) in table {
            assert_eq!(media_type(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_warning_is_one_quoted_line_of_bounded_length() {
        let table = [
            ("source is down", "299 - \"source is down\""),
            ("a \"b\" \\c\r\nX: y", "299 - \"a 'b' 'c??X: y\""),
            ("é", "299 - \"?\""),
        ];
        for (text, want) in table {
            let mut headers = HeaderMap::new();
            warning(&mut headers, Some(text));
            assert_eq!(headers[header::WARNING], want, "{text:?}");
        }
        let mut headers = HeaderMap::new();
        warning(&mut headers, Some(&"x".repeat(100_000)));
        assert!(headers[header::WARNING].len() < 4096);
    }
}
