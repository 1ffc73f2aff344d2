//! Pages: what is asked upstream, which page follows, and the filter that upstream may leave to us.
//!
//! Upstream's links are never handed on: they name another host and another addressing. What they say is taken out
//! of them and put into a link of our own.

use bytes::Bytes;
use serde_json::Value;
use shoal_engine::Repository;
use url::form_urlencoded::{self, Serializer};

use crate::node::Listing;
use crate::registry::path::LISTING_VALUE_BYTES_MAX;

/// What a listing is asked by at the registry itself, after the repository in the URL.
pub fn path_and_query(listing: &Listing) -> String {
    let mut query = Serializer::new(String::new());
    let path = match listing {
        Listing::Tags { n, last } => {
            if let Some(n) = n {
                // A page of no tags is ours to make; whether there is such a repository is not ours to know.
                query.append_pair("n", &(*n).max(1).to_string());
            }
            if let Some(last) = last {
                query.append_pair("last", last);
            }
            "tags/list".to_owned()
        }
        Listing::Referrers { digest, artifact_type, page } => {
            if let Some(artifact_type) = artifact_type {
                query.append_pair("artifactType", artifact_type);
            }
            // Taken apart and written anew: it came through a client and may hold anything.
            for (key, value) in form_urlencoded::parse(page.as_deref().unwrap_or_default().as_bytes()) {
                if is_paging_key(&key) {
                    query.append_pair(&key, &value);
                }
            }
            format!("referrers/{digest}")
        }
    };
    let query = query.finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// `ns` and the filter are said by us, not by a page token.
fn is_paging_key(key: &str) -> bool {
    !matches!(key, "" | "artifactType" | "ns")
}

/// The empty page.
pub fn no_tags(repository: &Repository) -> Bytes {
    Bytes::from(serde_json::json!({ "name": repository.as_str(), "tags": [] }).to_string())
}

/// The page of tags that the query of upstream's link asks for. Registries with page tokens of their own get `last` instead, which the
/// specification has for the same purpose.
pub fn next_tags(query: &str, n: Option<u64>, tags: &[String], current: &Listing) -> Option<Listing> {
    let (mut next_n, mut last, mut is_foreign) = (None, None, false);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "n" => next_n = value.parse().ok(),
            "last" => last = Some(value.into_owned()),
            "ns" => {}
            _ => is_foreign = true,
        }
    }
    if is_foreign || last.is_none() {
        last = tags.last().cloned();
    }
    let last = last.filter(|last| last.len() <= LISTING_VALUE_BYTES_MAX)?;
    // A link to the page that it stands on would send a client in circles.
    if matches!(current, Listing::Tags { last: Some(at), .. } if *at == last) {
        return None;
    }
    Some(Listing::Tags { n: n.or(next_n), last: Some(last) })
}

/// The page of referrers that the query of upstream's link asks for.
pub fn next_referrers(query: &str, current: &Listing) -> Option<Listing> {
    let Listing::Referrers { digest, artifact_type, page: at } = current else { return None };
    let mut page = Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| is_paging_key(key)) {
        page.append_pair(&key, &value);
    }
    let page = page.finish();
    if page.is_empty() || page.len() > LISTING_VALUE_BYTES_MAX || Some(&page) == at.as_ref() {
        return None;
    }
    Some(Listing::Referrers { digest: *digest, artifact_type: artifact_type.clone(), page: Some(page) })
}

/// Whether upstream has filtered by artifact type.
pub fn says_filtered(filters_applied: Option<&str>) -> bool {
    filters_applied.is_some_and(|filters| filters.split(',').any(|filter| filter.trim() == "artifactType"))
}

/// An index with only the entries of one artifact type; all else stays as it is.
pub fn filtered(index: &[u8], artifact_type: &str) -> Result<Bytes, serde_json::Error> {
    let mut index: Value = serde_json::from_slice(index)?;
    if let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) {
        manifests.retain(|entry| entry.get("artifactType").and_then(Value::as_str) == Some(artifact_type));
    }
    Ok(Bytes::from(serde_json::to_vec(&index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(n: Option<u64>, last: Option<&str>) -> Listing {
        Listing::Tags { n, last: last.map(str::to_owned) }
    }

    #[test]
    fn the_next_page_of_tags() {
        let shown = |query: &str, current: &Listing| {
            let next = next_tags(query, Some(2), &["a".into(), "b".into()], current);
            next.map(|next| format!("{next:?}"))
        };
        let first = tags(Some(2), None);
        let want = |last: &str| Some(format!("{:?}", tags(Some(2), Some(last))));
        assert_eq!(shown("last=b&n=2", &first), want("b"));
        assert_eq!(shown("n=2&last=x%2Fy", &first), want("x/y"));
        // A token of its own: the last tag of this page says the same.
        assert_eq!(shown("n=2&next_page=gAAA", &first), want("b"));
        assert_eq!(shown("last=b&n=2", &tags(Some(2), Some("b"))), None, "a page that follows itself");
        assert!(next_tags("t=1", None, &[], &first).is_none(), "an empty page leads nowhere");
    }

    #[test]
    fn the_next_page_of_referrers_keeps_upstreams_own_words() {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let at = |page: Option<&str>| Listing::Referrers {
            digest,
            artifact_type: Some("a/b".into()),
            page: page.map(str::to_owned),
        };
        let query = "artifactType=a%2Fb&nextToken=q%26r&ns=evil.test";
        let next = next_referrers(query, &at(None)).unwrap();
        assert_eq!(format!("{next:?}"), format!("{:?}", at(Some("nextToken=q%26r"))));
        let uri = path_and_query(&next);
        assert_eq!(uri, format!("referrers/{digest}?artifactType=a%2Fb&nextToken=q%26r"));
        assert!(next_referrers(query, &next).is_none(), "a page that follows itself");
        // A client cannot smuggle a filter or a path through the token.
        let hostile = path_and_query(&at(Some("artifactType=c&ns=d&k=/../&=e")));
        assert_eq!(hostile, format!("referrers/{digest}?artifactType=a%2Fb&k=%2F..%2F"));
    }

    #[test]
    fn filters() {
        let index =
            br#"{"schemaVersion":2,"manifests":[{"artifactType":"a","x":1},{"artifactType":"b"},{}],"z":0}"#;
        let kept: Value = serde_json::from_slice(&filtered(index, "a").unwrap()).unwrap();
        let want = serde_json::json!({"schemaVersion":2,"manifests":[{"artifactType":"a","x":1}],"z":0});
        assert_eq!(kept, want);
        assert!(filtered(b"<html>", "a").is_err());
        for (header, says) in
            [(None, false), (Some("artifactType"), true), (Some("x, artifactType"), true), (Some("x"), false)]
        {
            assert_eq!(says_filtered(header), says, "{header:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_query_panics(query in "[?=&%a-z0-9# ]{0,60}") {
            let current = tags(None, None);
            let _ = next_tags(&query, None, &[], &current);
        }
    }
}
