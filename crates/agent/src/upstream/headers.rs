//! What response headers say, read once and typed. Pure functions over a `HeaderMap`.

use std::time::{Duration, SystemTime};

use headers::{Age, CacheControl, ContentRange, HeaderMapExt as _};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use shoal_engine::Digest;

use super::limits::{MAX_AGE_MAX, RETRY_AFTER_MAX};

/// The registry's word for what it sends; a hint until the bytes have been hashed.
pub(super) const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// How the body is coded for the way (RFC 9110, section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
    Deflate,
}

/// The body's coding, or the text of one that cannot be undone.
pub(super) fn coding(headers: &HeaderMap) -> Result<Coding, String> {
    let mut found = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().map_err(|_| "(not text)".to_owned())?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let coding = match name.to_ascii_lowercase().as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "zstd" => Coding::Zstd,
                "deflate" => Coding::Deflate,
                other => return Err(other.chars().take(32).collect()),
            };
            if found != Coding::Identity {
                return Err(text.chars().take(32).collect());
            }
            found = coding;
        }
    }
    Ok(found)
}

/// Bytes of the body as it stands after decoding: unknown where it is coded.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    if coding(headers) != Ok(Coding::Identity) {
        return None;
    }
    // Read from the header because the HTTP client reports the length of the body, which for a HEAD is none.
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// `Content-Range` of a 206 or 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First and last byte, inclusive; none in a 416.
    pub range: Option<(u64, u64)>,
    /// Size of the whole, if it was told.
    pub total: Option<u64>,
}

/// How many requests a registry allows, and how many of them are left (Docker Hub's `ratelimit-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateLimit {
    /// Requests in a window.
    pub limit: u64,
    /// Those left in this one.
    pub remaining: u64,
}

/// The limit, where both headers are there: `100;w=21600`.
pub(super) fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.split(';').next()?.trim().parse().ok();
    Some(RateLimit { limit: number("ratelimit-limit")?, remaining: number("ratelimit-remaining")? })
}

/// The extent, or `None` if the header is missing or malformed.
pub(super) fn extent(headers: &HeaderMap) -> Option<Extent> {
    let header: ContentRange = headers.typed_get()?;
    let extent = Extent { range: header.bytes_range(), total: header.bytes_len() };
    let consistent = match (extent.range, extent.total) {
        (Some((first, last)), total) => first <= last && total.is_none_or(|total| last < total),
        (None, total) => total.is_some(),
    };
    consistent.then_some(extent)
}

/// The text of `Content-Range` for an error message.
pub(super) fn extent_text(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_RANGE)?.to_str().unwrap_or("(not text)");
    Some(text.chars().take(64).collect())
}

/// `Content-Type` without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = text.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_owned())
}

/// `Docker-Content-Digest`; one that cannot be read is none.
pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// How long the answer may be reused: `s-maxage` before `max-age` (we are a shared cache), less the time it has
/// already spent in caches on the way. `no-cache` and `no-store` allow no time at all; `None` means nothing was said.
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let control: CacheControl = headers.typed_get()?;
    if control.no_cache() || control.no_store() {
        return Some(Duration::ZERO);
    }
    let age = headers.typed_get::<Age>().map_or(Duration::ZERO, Duration::from);
    control.s_max_age().or_else(|| control.max_age()).map(|time| time.saturating_sub(age).min(MAX_AGE_MAX))
}

/// `Retry-After` as seconds or date, at most [`RETRY_AFTER_MAX`]; a date in the past is no time at all.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or(Duration::ZERO),
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'static str, &'a str)];

    fn with(pairs: Pairs<'_>) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut map, (name, value): (http::HeaderName, http::HeaderValue)| {
                map.append(name, value);
                map
            },
        )
    }

    #[test]
    fn content_ranges() {
        let extent_of = |text| extent(&with(&[("content-range", text)]));
        let table = [
            ("bytes 0-0/1", Some((Some((0, 0)), Some(1)))),
            ("bytes 5-9/10", Some((Some((5, 9)), Some(10)))),
            ("bytes 5-9/*", Some((Some((5, 9)), None))),
            ("bytes */10", Some((None, Some(10)))),
            ("bytes */*", None),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes=5-9/10", None),
            ("items 5-9/10", None),
            ("bytes 5-/10", None),
            ("bytes 18446744073709551616-1/2", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(extent_of(text), expected.map(|(range, total)| Extent { range, total }), "{text}");
        }
        assert_eq!(extent(&HeaderMap::new()), None);
    }

    #[test]
    fn pauses() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let table = [
            ("0", Some(0)),
            ("30", Some(30)),
            (" 30 ", Some(30)),
            ("99999999999999", Some(RETRY_AFTER_MAX.as_secs())),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(RETRY_AFTER_MAX.as_secs())),
            ("-1", None),
            ("soon", None),
            ("", None),
        ];
        for (text, seconds) in table {
            let found = retry_after(&with(&[("retry-after", text)]), now);
            assert_eq!(found, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn ages() {
        let table: [(Pairs, Option<u64>); 8] = [
            (&[], None),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "public, max-age=60")], Some(60)),
            (&[("cache-control", "max-age=60, s-maxage=30")], Some(30)),
            (&[("cache-control", "no-cache, max-age=60")], Some(0)),
            (&[("cache-control", "no-store")], Some(0)),
            (&[("cache-control", "max-age=60"), ("age", "70")], Some(0)),
            (&[("cache-control", "max-age=99999999999")], Some(MAX_AGE_MAX.as_secs())),
        ];
        for (pairs, seconds) in table {
            assert_eq!(max_age(&with(pairs)), seconds.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn codings() {
        let table: [(Pairs, Result<Coding, &str>); 8] = [
            (&[], Ok(Coding::Identity)),
            (&[("content-encoding", "identity")], Ok(Coding::Identity)),
            (&[("content-encoding", "GZIP")], Ok(Coding::Gzip)),
            (&[("content-encoding", "x-gzip, identity")], Ok(Coding::Gzip)),
            (&[("content-encoding", "zstd")], Ok(Coding::Zstd)),
            (&[("content-encoding", "deflate")], Ok(Coding::Deflate)),
            (&[("content-encoding", "br")], Err("br")),
            (&[("content-encoding", "gzip, gzip")], Err("gzip, gzip")),
        ];
        for (pairs, expected) in table {
            assert_eq!(coding(&with(pairs)), expected.map_err(str::to_owned), "{pairs:?}");
        }
        assert_eq!(length(&with(&[("content-length", "7")])), Some(7));
        assert_eq!(length(&with(&[("content-length", "7"), ("content-encoding", "gzip")])), None);
        assert_eq!(length(&with(&[("content-length", "x")])), None);
    }

    #[test]
    fn types_and_digests() {
        let media = |text| media_type(&with(&[("content-type", text)]));
        assert_eq!(
            media("application/vnd.oci.image.index.v1+json; charset=utf-8").unwrap(),
            "application/vnd.oci.image.index.v1+json"
        );
        assert_eq!(media("; charset=utf-8"), None);
        let text = format!("sha256:{}", "0".repeat(64));
        assert_eq!(digest(&with(&[(DOCKER_CONTENT_DIGEST, &text)])).unwrap().to_string(), text);
        assert_eq!(digest(&with(&[(DOCKER_CONTENT_DIGEST, "sha256:x")])), None);
    }
}
