//! The registry client: asks a source for manifests, blobs and listings, with our own credentials.
//!
//! It does *not* decide what is fetched, from where, or whether to try again: the engine does. A call is one question
//! to one source; inside it there is at most one re-authentication and one fresh `Location`. What holds always:
//! credentials go to the registry they were configured for and to its token realm, and nowhere else (I8, C15); TLS is
//! verified; bytes come out decoded (C20) and exactly those that were asked for, or an error comes out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shoal_engine::{Digest, Reference, Registry};
use url::Url;

use crate::metrics::Metrics;
use crate::node::Asked;

mod auth;
mod blob;
mod body;
mod challenge;
mod credentials;
mod error;
mod exchange;
mod headers;
mod helper;
mod hops;
mod limits;
mod list;
mod manifest;
mod mirrors;
mod reach;
mod realm;
mod redirect;
mod source;
mod tls;
mod token;
mod transport;

#[cfg(test)]
mod tests;

pub use blob::BlobStream;
pub use challenge::{Challenges, challenges_of};
pub use credentials::{Credentials, CredentialsError, Secret};
pub use error::UpstreamError;
pub use helper::HelperError;
pub use hops::Hops;
pub use limits::{HOPS_MAX, LIST_BYTES_MAX, MANIFEST_BYTES_MAX, MAX_AGE_MAX, RETRY_AFTER_MAX};
pub use list::ListAnswer;
pub use manifest::{ManifestGet, ManifestHead};
pub use mirrors::MirrorSettings;

pub use reach::Reach;

use credentials::CredentialSource;
use exchange::Exchange;
use limits::UNCONFIGURED_REGISTRIES_MAX;
use source::Source;
use tls::Clients;
use transport::Transport;

/// How the client behaves, resolved from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `User-Agent` of every request (C16).
    pub user_agent: String,
    /// Name of this agent in `Via`, so that a loop can be traced: letters, digits, `-`, `.`.
    pub instance: String,
    /// Longest time for a connection: name look-up, TCP, TLS.
    pub connect_timeout: Duration,
    /// Longest time from the connection to the response headers.
    pub header_timeout: Duration,
    /// Longest time between two pieces of a body (L7). There is no limit for the whole.
    pub idle_timeout: Duration,
    /// Whether the client's address is passed on as `X-Forwarded-For`.
    pub forward_client_address: bool,
    /// Tokens kept, and repositories whose challenge is remembered: about 2 KiB each.
    pub tokens_max: u64,
    /// Registries with settings of their own.
    pub registries: BTreeMap<Registry, RegistrySettings>,
    /// Settings of every other registry. It must have neither endpoint nor password: clients choose the names.
    pub default: RegistrySettings,
    /// Who else has what registries have.
    pub mirrors: MirrorSettings,
    /// Where this process listens: no request is sent there (C17).
    pub own_addresses: Vec<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            user_agent: concat!("shoal/", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: format!("{:08x}", rand::random::<u32>()),
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
            forward_client_address: false,
            tokens_max: 4096,
            registries: BTreeMap::new(),
            default: RegistrySettings::default(),
            mirrors: MirrorSettings::default(),
            own_addresses: Vec::new(),
        }
    }
}

/// How one registry is asked.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// Where it is: scheme, host, port, path prefix. Without it `https://` and the registry's name. Plain http is
    /// used only where this says so.
    pub endpoint: Option<Url>,
    /// CA certificates in PEM form, trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// Client certificate chain and private key in PEM form.
    pub client_identity: Option<Secret>,
    /// How we identify ourselves.
    pub credentials: Credentials,
    /// Hosts (`auth.test` or `auth.test:8443`) that may issue tokens although they are not in the registry's domain.
    pub trusted_realms: Vec<String>,
}

/// What is wrong with the settings. The configuration is at fault; nothing has been started.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The endpoint cannot be asked.
    #[error(
        "registry {registry}: endpoint {endpoint} must be http:// or https:// with a host, and have neither user, query nor fragment"
    )]
    Endpoint {
        /// Which registry.
        registry: String,
        /// The endpoint, without what may be secret in it.
        endpoint: String,
    },
    /// The CA cannot be used.
    #[error("registry {registry}: ca: {reason}")]
    Ca {
        /// Which registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The client certificate cannot be used.
    #[error("registry {registry}: client certificate: {reason}")]
    Identity {
        /// Which registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The TLS library refuses the settings.
    #[error("registry {registry}: TLS cannot be set up")]
    Tls {
        /// Which registry.
        registry: String,
        /// What it said.
        #[source]
        error: rustls::Error,
    },
    /// The HTTP client refuses the settings.
    #[error("registry {registry}: no HTTP client can be made; check user_agent and the proxy variables")]
    Client {
        /// Which registry.
        registry: String,
        /// What it said.
        #[source]
        error: reqwest::Error,
    },
    /// Credentials for whatever registry a client names.
    #[error(
        "the default registry settings must have no {0}: it would be sent to whatever registry a client names"
    )]
    Default(&'static str),
    /// The name cannot stand in a header.
    #[error("{0:?} cannot name an agent; use at most 64 letters, digits, - and .")]
    Instance(String),
}

/// The registry client. Clones share connections, tokens and credentials.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    exchange: Exchange,
    configured: HashMap<Registry, Arc<Source>>,
    /// Registries that clients have named, up to a bound.
    named: Mutex<HashMap<Registry, Arc<Source>>>,
    default: RegistrySettings,
    default_client: reqwest::Client,
}

impl Upstream {
    /// The name of this agent in `Via`.
    pub fn instance(&self) -> &str {
        &self.inner.exchange.instance
    }

    /// Checks the settings and makes the HTTP clients; connects to nothing.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, SettingsError> {
        check(&settings)?;
        let mut clients = Clients::new(&settings);
        let mut configured = HashMap::new();
        for (registry, own) in &settings.registries {
            let client = clients.get(registry.as_str(), own.ca.as_deref(), own.client_identity.as_ref())?;
            let plain_client = clients.get(registry.as_str(), own.ca.as_deref(), None)?;
            let source = make_source(registry, registry.as_str(), own, client, plain_client, &metrics)?;
            configured.insert(registry.clone(), Arc::new(source));
        }
        let default_client = clients.get("(default)", settings.default.ca.as_deref(), None)?;
        let transport = Transport {
            connect_timeout: settings.connect_timeout,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            own_addresses: settings.own_addresses,
        };
        let exchange = Exchange {
            transport,
            authorizer: auth::Authorizer::new(settings.tokens_max, Arc::clone(&metrics)),
            metrics,
            instance: settings.instance,
            forward_client_address: settings.forward_client_address,
        };
        let named = Mutex::new(HashMap::new());
        let inner = Inner { exchange, configured, named, default: settings.default, default_client };
        Ok(Upstream { inner: Arc::new(inner) })
    }

    /// Asks whether a manifest is there and what it is. `known` makes the question conditional (C11).
    pub async fn head_manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, UpstreamError> {
        let source = self.source(asked)?;
        self.inner.exchange.head_manifest(&source, asked, reference, known).await
    }

    /// Fetches a manifest of at most [`MANIFEST_BYTES_MAX`] and checks its digest.
    pub async fn get_manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestGet, UpstreamError> {
        let source = self.source(asked)?;
        self.inner.exchange.get_manifest(&source, asked, reference, known).await
    }

    /// Size of a blob in bytes; `None` if the source has it but sends it without telling its size.
    pub async fn blob_size(&self, asked: &Asked, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let source = self.source(asked)?;
        self.inner.exchange.blob_size(&source, asked, digest).await
    }

    /// Opens a blob at byte `start`, up to `end` (exclusive) or to its end; resolves when the headers are there. The
    /// bytes are not checked against the digest: a part cannot be.
    ///
    /// # Panics
    /// If the range is empty.
    pub async fn open_blob(
        &self,
        asked: &Asked,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<BlobStream, UpstreamError> {
        let source = self.source(asked)?;
        self.inner.exchange.open_blob(&source, asked, digest, start, end).await
    }

    /// Fetches a listing of at most [`LIST_BYTES_MAX`]: `path_and_query` is what follows the repository in the URL.
    pub async fn list(&self, asked: &Asked, path_and_query: &str) -> Result<ListAnswer, UpstreamError> {
        let source = self.source(asked)?;
        self.inner.exchange.list(&source, asked, path_and_query).await
    }

    /// Where a request's registry is asked.
    fn source(&self, asked: &Asked) -> Result<Arc<Source>, UpstreamError> {
        let registry = &asked.scope.registry;
        if let Some(source) = self.inner.configured.get(registry) {
            return Ok(Arc::clone(source));
        }
        let mut named = self.inner.named.lock();
        if let Some(source) = named.get(registry) {
            return Ok(Arc::clone(source));
        }
        let bounded = named.len() < UNCONFIGURED_REGISTRIES_MAX;
        let label = if bounded { registry.as_str() } else { "other" };
        let (client, plain) = (self.inner.default_client.clone(), self.inner.default_client.clone());
        let made =
            make_source(registry, label, &self.inner.default, client, plain, &self.inner.exchange.metrics);
        let source = Arc::new(made.map_err(|_| error::unnameable(registry))?);
        if bounded {
            named.insert(registry.clone(), Arc::clone(&source));
        }
        Ok(source)
    }
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    if !hops::is_instance(&settings.instance) {
        return Err(SettingsError::Instance(settings.instance.chars().take(80).collect()));
    }
    let default = &settings.default;
    let forbidden = match &default.credentials {
        Credentials::Password { .. } | Credentials::PasswordFile { .. } => Some("password"),
        _ if default.client_identity.is_some() => Some("client certificate"),
        _ if default.endpoint.is_some() => Some("endpoint"),
        _ => None,
    };
    forbidden.map_or(Ok(()), |what| Err(SettingsError::Default(what)))
}

fn make_source(
    registry: &Registry,
    label: &str,
    settings: &RegistrySettings,
    client: reqwest::Client,
    plain_client: reqwest::Client,
    metrics: &Metrics,
) -> Result<Source, SettingsError> {
    Ok(Source {
        registry: registry.clone(),
        label: label.to_owned(),
        endpoint: endpoint(registry, settings.endpoint.as_ref())?,
        client,
        plain_client,
        credentials: CredentialSource::new(registry.clone(), settings.credentials.clone()),
        trusted_realms: settings.trusted_realms.clone(),
        bytes: metrics.upstream_bytes(label),
    })
}

/// Docker Hub's API is not at the name that users write.
fn endpoint(registry: &Registry, configured: Option<&Url>) -> Result<Url, SettingsError> {
    let wrong = |endpoint: String| SettingsError::Endpoint { registry: registry.to_string(), endpoint };
    let mut url = match configured {
        Some(url) => url.clone(),
        None => {
            let host = if registry.as_str() == Registry::DOCKER_HUB {
                "registry-1.docker.io"
            } else {
                registry.as_str()
            };
            Url::parse(&format!("https://{host}")).map_err(|_| wrong(format!("https://{host}")))?
        }
    };
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !plain {
        return Err(wrong(error::redacted(&url)));
    }
    // People copy endpoints with and without the API's own first component.
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v2").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}
