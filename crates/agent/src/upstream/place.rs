//! A place: a source together with the name under which a repository is kept there.

use std::sync::Arc;

use shoal_engine::Registry;
use url::Url;

use super::error::{Reason, UpstreamError};
use super::source::Source;
use crate::node::Asked;

/// Where one question can be put.
#[derive(Clone)]
pub(super) struct Place {
    /// Who is asked.
    pub source: Arc<Source>,
    /// The request, with its scope in the source's own words.
    pub asked: Asked,
    /// The registry that is meant, for a mirror that keeps several under their own names (`?ns=`).
    pub namespace: Option<Registry>,
    /// Whether this is a mirror and not the registry itself.
    pub is_mirror: bool,
}

impl Place {
    /// The URL of something in the repository: `rest` is what follows its name, query included.
    pub fn url(&self, rest: &str) -> Result<Url, UpstreamError> {
        let endpoint = &self.source.endpoint;
        let prefix =
            format!("{}/v2/{}/", endpoint.as_str().trim_end_matches('/'), self.asked.scope.repository);
        let wrong = |error| UpstreamError::new(endpoint, Reason::Url(error));
        let mut url = Url::parse(&format!("{prefix}{rest}")).map_err(wrong)?;
        // `..` in the rest would lead out of the repository, and out of what was authorised.
        if !url.as_str().starts_with(&prefix) {
            return Err(wrong(url::ParseError::RelativeUrlWithCannotBeABaseBase));
        }
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace.as_str());
        }
        Ok(url)
    }
}
