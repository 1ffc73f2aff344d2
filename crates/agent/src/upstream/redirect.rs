//! Redirects. Question: may this `Location` be followed, and what may go along? Answer: at most ten hops, never from
//! https to http, and nothing that identifies us leaves the origin that was asked. Prevents leaked credentials, the
//! "only one auth mechanism" 400 of object stores, and circles.

use http::HeaderValue;
use url::{Position, Url};

use super::limits::REDIRECTS_MAX;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedirectFault {
    /// A 3xx without anywhere to go.
    #[error("it has no usable Location")]
    NoLocation,
    /// More hops than any working registry needs.
    #[error("more than {REDIRECTS_MAX} in a row")]
    TooMany,
    /// From https to http: what was asked in private would be asked in public.
    #[error("it leads from https to http")]
    Downgrade,
    /// Neither http nor https.
    #[error("it leads to a {0:?} URL")]
    Scheme(String),
    /// A token must be fetched where the challenge says, or nowhere.
    #[error("a token endpoint must not redirect to another host")]
    TokenElsewhere,
}

/// Whether a status says "look elsewhere". 304 does not, and 300 has no meaning in this protocol.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where to ask next. `followed` counts the redirects already followed for this request.
pub(super) fn target(
    from: &Url,
    location: Option<&HeaderValue>,
    followed: usize,
) -> Result<Url, RedirectFault> {
    if followed >= REDIRECTS_MAX {
        return Err(RedirectFault::TooMany);
    }
    let location = location.and_then(|value| value.to_str().ok()).ok_or(RedirectFault::NoLocation)?;
    let mut to = from.join(location).map_err(|_| RedirectFault::NoLocation)?;
    if !matches!(to.scheme(), "http" | "https") {
        return Err(RedirectFault::Scheme(to.scheme().chars().take(16).collect()));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(RedirectFault::Downgrade);
    }
    // Credentials inside a Location would be sent as Basic by the HTTP client; nobody means that.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_fragment(None);
    Ok(to)
}

/// Same scheme, host and port. Only then do `Authorization` and the other headers about us go along.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a[..Position::AfterHost] == b[..Position::AfterHost]
        && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn locations() {
        let from = url("https://registry.test/v2/a/blobs/sha256:00");
        let table = [
            ("/artifacts/x?sig=1", Ok("https://registry.test/artifacts/x?sig=1")),
            ("x", Ok("https://registry.test/v2/a/blobs/x")),
            ("//cdn.test/x", Ok("https://cdn.test/x")),
            ("https://u:p@cdn.test/x#f", Ok("https://cdn.test/x")),
            ("https://cdn.test:8443/x", Ok("https://cdn.test:8443/x")),
            ("http://cdn.test/x", Err(RedirectFault::Downgrade)),
            ("ftp://cdn.test/x", Err(RedirectFault::Scheme("ftp".into()))),
            ("data:text/plain,x", Err(RedirectFault::Scheme("data".into()))),
            ("https://", Err(RedirectFault::NoLocation)),
        ];
        for (location, expected) in table {
            let found = target(&from, Some(&location.parse().unwrap()), 0);
            assert_eq!(found, expected.map(url), "{location}");
        }
        assert_eq!(target(&from, None, 0), Err(RedirectFault::NoLocation));
        let location = HeaderValue::from_static("/x");
        assert!(target(&from, Some(&location), REDIRECTS_MAX - 1).is_ok());
        assert_eq!(target(&from, Some(&location), REDIRECTS_MAX), Err(RedirectFault::TooMany));
        assert!(target(&url("http://registry.test/"), Some(&"http://cdn.test/".parse().unwrap()), 0).is_ok());
    }

    #[test]
    fn origins() {
        let table = [
            ("https://a.test/x", "https://a.test:443/y?z", true),
            ("https://a.test/", "https://A.test/", true),
            ("https://a.test/", "http://a.test/", false),
            ("https://a.test/", "https://a.test:8443/", false),
            ("https://a.test/", "https://b.a.test/", false),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:5001/", false),
        ];
        for (a, b, same) in table {
            assert_eq!(same_origin(&url(a), &url(b)), same, "{a} {b}");
        }
    }
}
