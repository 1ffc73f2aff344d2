//! A source: one server that can be asked for content, a registry's own or a mirror's; nothing behind this type knows
//! the difference.

use prometheus_client::metrics::counter::Counter;
use shoal_engine::Registry;
use url::Url;

use super::credentials::CredentialSource;
use super::health::Health;
use super::redirect::same_origin;

/// An endpoint with what is needed to ask it.
pub(super) struct Source {
    /// The registry by the name clients use.
    pub registry: Registry,
    /// Value of the `registry` label of metrics; not the registry's name once clients have made up too many.
    pub label: String,
    /// Scheme, host, port and path prefix; no trailing slash, no `/v2`.
    pub endpoint: Url,
    /// Presents the registry's client certificate.
    pub client: reqwest::Client,
    /// The same without the client certificate, for every other origin.
    pub plain_client: reqwest::Client,
    /// Our credentials for it.
    pub credentials: CredentialSource,
    /// Hosts that may issue its tokens although they are not in its domain.
    pub trusted_realms: Vec<String>,
    /// Body bytes received.
    pub bytes: Counter,
    /// Whether it is worth asking.
    pub health: Health,
}

impl Source {
    /// Whether a URL is this source itself rather than a place that it redirects to.
    pub fn is_home(&self, url: &Url) -> bool {
        same_origin(&self.endpoint, url)
    }

    /// The client for a URL: the certificate identifies us, so it is for the source alone.
    pub fn client_for(&self, url: &Url) -> &reqwest::Client {
        if self.is_home(url) { &self.client } else { &self.plain_client }
    }
}
