//! Conditional requests. The entity tag of everything that has a digest is that digest, quoted (C11), so it is strong
//! and the same on every node. Dates are not kept: `If-Modified-Since` is ignored (C13), and an `If-Range` with a date
//! never matches.

use headers::{ETag, HeaderMapExt, IfNoneMatch, IfRange};
use http::HeaderMap;
use shoal_engine::Digest;

/// The entity tag of content with this digest.
pub fn etag(digest: &Digest) -> ETag {
    format!("\"{digest}\"").parse().expect("a digest has only characters that a quoted tag may have")
}

/// Whether a 304 is the right answer to a request for existing content: only if the client said what it has (C12).
pub fn is_not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(&etag(digest)))
}

/// Whether a `Range` counts: without `If-Range`, or if that names what we have (strong comparison). An `If-Range`
/// that cannot be read is one that does not match.
pub fn range_applies(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(http::header::IF_RANGE) {
        return true;
    }
    headers.typed_get::<IfRange>().is_some_and(|known| !known.is_modified(Some(&etag(digest)), None))
}

#[cfg(test)]
mod tests {
    use http::header::{IF_NONE_MATCH, IF_RANGE};

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn digest() -> Digest {
        DIGEST.parse().unwrap()
    }

    #[test]
    fn if_none_match() {
        let quoted = format!("\"{DIGEST}\"");
        let table = [
            (vec![quoted.clone()], true),
            (vec![format!("W/{quoted}")], true),
            (vec!["*".to_owned()], true),
            (vec![format!("\"other\", {quoted}")], true),
            (vec!["\"other\"".to_owned(), quoted.clone()], true),
            (vec!["\"other\"".to_owned()], false),
            // Not quoted: no entity tag, so no condition.
            (vec![DIGEST.to_owned()], false),
            (vec![String::new()], false),
            (vec![], false),
        ];
        for (lines, not_modified) in table {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(IF_NONE_MATCH, line.parse().unwrap());
            }
            assert_eq!(is_not_modified(&headers, &digest()), not_modified, "{lines:?}");
        }
    }

    #[test]
    fn if_range() {
        let quoted = format!("\"{DIGEST}\"");
        let table = [
            (None, true),
            (Some(quoted.clone()), true),
            (Some(format!("W/{quoted}")), false),
            (Some("\"other\"".to_owned()), false),
            (Some("Sat, 29 Oct 1994 19:43:31 GMT".to_owned()), false),
            (Some("nonsense".to_owned()), false),
        ];
        for (value, applies) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = &value {
                headers.insert(IF_RANGE, value.parse().unwrap());
            }
            assert_eq!(range_applies(&headers, &digest()), applies, "{value:?}");
        }
    }
}
