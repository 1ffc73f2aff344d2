//! Listings (tags, referrers): passed through as they are, bounded.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::LINK;

use super::error::UpstreamError;
use super::exchange::{Exchange, Question};
use super::headers;
use super::limits::LIST_BYTES_MAX;
use super::place::Place;

const ACCEPT: &str = "application/json, application/vnd.oci.image.index.v1+json";

/// A listing as the source answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAnswer {
    /// The body.
    pub bytes: Bytes,
    /// Media type without parameters, if the source told.
    pub media_type: Option<String>,
    /// The `Link` header, which points to the source: it must be rewritten before a client sees it.
    pub link: Option<String>,
    /// The `OCI-Filters-Applied` header.
    pub filters_applied: Option<String>,
    /// How long the answer may be used, if the source said.
    pub max_age: Option<Duration>,
}

impl ListAnswer {
    /// The query of the next page's URL, from `Link: <url>; rel="next"`.
    pub fn next_query(&self) -> Option<&str> {
        let (target, params) = self.link.as_ref()?.split_once('<')?.1.split_once('>')?;
        let is_next = params.split([';', ',']).any(|param| {
            param.trim().split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            })
        });
        let query = target.split_once('?')?.1.split('#').next()?;
        (is_next && !query.is_empty()).then_some(query)
    }
}

impl Exchange {
    /// Asks for what follows the repository's name in the URL: `tags/list?n=5`, `referrers/<digest>`.
    pub async fn list(&self, place: &Place, path_and_query: &str) -> Result<ListAnswer, UpstreamError> {
        let url = place.url(path_and_query)?;
        let question = Question {
            place,
            kind: "list",
            method: Method::GET,
            url,
            accept: ACCEPT,
            range: None,
            if_none_match: None,
            statuses: &[200],
        };
        let answer = self.ask(&question).await?;
        let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        let (link, filters_applied) = (text(LINK.as_str()), text("oci-filters-applied"));
        let (media_type, max_age) =
            (headers::media_type(answer.headers()), headers::max_age(answer.headers()));
        let bytes = self.transport.read(&answer.url, answer.response, LIST_BYTES_MAX).await?;
        place.source.bytes.inc_by(bytes.len() as u64);
        Ok(ListAnswer { bytes, media_type, link, filters_applied, max_age })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pages() {
        let table = [
            (r#"</v2/a/tags/list?last=x&n=5>; rel="next""#, Some("last=x&n=5")),
            (r#"<https://registry.test/v2/a/tags/list?n=5&last=%3E>; Rel=next"#, Some("n=5&last=%3E")),
            (r#"<?token=a#f>; title="x"; rel="next""#, Some("token=a")),
            (r#"</v2/a/tags/list?n=5>; rel="prev""#, None),
            (r#"</v2/a/tags/list>; rel="next""#, None),
            (r#"</v2/a/tags/list?>; rel="next""#, None),
            (r#"rel="next""#, None),
            ("<", None),
            ("", None),
        ];
        for (link, expected) in table {
            let answer = ListAnswer {
                bytes: Bytes::new(),
                media_type: None,
                link: Some(link.to_owned()),
                filters_applied: None,
                max_age: None,
            };
            assert_eq!(answer.next_query(), expected, "{link}");
        }
    }
}
