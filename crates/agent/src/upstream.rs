//! The registry client: asks a source for manifests, blobs and listings, with our own credentials.
//!
//! It does *not* decide what is fetched, or whether to try again after a transfer has broken: the engine does. A call is
//! one question, put to one source after the other until one answers ([`walk`]); to each source there is at most one
//! re-authentication and one fresh `Location`. What holds always: credentials go to the registry they were configured for
//! and to its token realm, and nowhere else (I8, C15); TLS is verified; bytes come out decoded (C20) and exactly those
//! that were asked for, or an error comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::access::Rules;
use shoal_engine::mirrors::{Asking, CandidateKind};
use shoal_engine::tags::Trust;
use shoal_engine::{Digest, Reference, Registry, Scope, Tag};
use url::Url;

use crate::metrics::Metrics;
use crate::node::Asked;
use crate::rate::Throttle;

mod auth;
mod blob;
mod body;
mod challenge;
mod client_token;
mod credentials;
mod error;
mod exchange;
mod headers;
mod health;
mod helper;
mod hops;
mod limits;
mod list;
mod manifest;
mod mirrors;
mod named;
mod place;
mod policy;
mod probe;
mod reach;
mod realm;
mod redirect;
mod source;
mod tls;
mod token;
mod transport;
mod trouble;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

pub use blob::{BlobSize, BlobStream};
pub use challenge::{Challenges, challenges_of};
pub use client_token::ClientToken;
pub use credentials::{Credentials, CredentialsError, Secret};
pub use error::UpstreamError;
pub use health::{SourceState, SourceStatus};
pub use helper::HelperError;
pub use hops::Hops;
pub use limits::{HOPS_MAX, LIST_BYTES_MAX, MANIFEST_BYTES_MAX, MAX_AGE_MAX, RETRY_AFTER_MAX};
pub use list::ListAnswer;
pub(crate) use manifest::own_type;
pub use manifest::{ManifestGet, ManifestHead};
pub use mirrors::MirrorSettings;
pub use policy::{AccessMode, Policy};
pub(crate) use probe::clock_ahead;
pub use probe::{Sight, Trouble};
pub use reach::Reach;
pub use verify::{Sought, Verdict};

use credentials::CredentialSource;
use exchange::Exchange;
use health::{Health, Weight};
use named::Named;
use place::Place;
use source::Source;
use tls::Clients;
use transport::Transport;
use trouble::Watch;
use walk::{Subject, Walker};

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
    /// Bytes of blobs, from all sources together.
    pub throttle: Throttle,
    /// Whether the client's address is passed on as `X-Forwarded-For`.
    pub forward_client_address: bool,
    /// Tokens kept, and repositories whose challenge is remembered: about 2 KiB each.
    pub tokens_max: u64,
    /// Registries with settings of their own.
    pub registries: BTreeMap<Registry, RegistrySettings>,
    /// Settings of every other registry. It must have neither endpoint nor password: clients choose the names.
    pub default: RegistrySettings,
    /// Where this process listens: no request is sent there (C17).
    pub own_addresses: Vec<SocketAddr>,
    /// Who else may be asked than the registries themselves.
    pub mirrors: MirrorSettings,
    /// Where is asked instead of where a name says.
    pub routes: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            user_agent: concat!("shoal/", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: format!("{:08x}", rand::random::<u32>()),
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
            throttle: Throttle::default(),
            forward_client_address: false,
            tokens_max: 4096,
            registries: BTreeMap::new(),
            default: RegistrySettings::default(),
            own_addresses: Vec::new(),
            mirrors: MirrorSettings::default(),
            routes: Rules::default(),
        }
    }
}

/// How one registry is asked.
#[derive(Clone, Debug)]
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
    /// Who gets its content; unset: whoever reaches the port where we have credentials, what is public elsewhere.
    pub access: Option<AccessMode>,
    /// Whether its content is stored.
    pub cache: bool,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        RegistrySettings {
            endpoint: None,
            ca: None,
            client_identity: None,
            credentials: Credentials::default(),
            trusted_realms: Vec::new(),
            access: None,
            cache: true,
        }
    }
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
    exchange: Arc<Exchange>,
    walker: Walker,
    mirrors: shoal_engine::mirrors::Mirrors,
    /// Registries with settings of their own, and all mirrors.
    configured: HashMap<Registry, Arc<Source>>,
    /// Registries that clients have named, up to a bound.
    named: Named,
    /// What the operator has said of registries by name, and of all others.
    registries: BTreeMap<Registry, RegistrySettings>,
    default: RegistrySettings,
    default_client: reqwest::Client,
    routes: Rules,
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
        let mirrors = settings.mirrors.mirrors.clone();
        let at_mirrors: BTreeSet<&Registry> =
            mirrors.locations().map(|location| &location.registry).collect();
        let named: BTreeSet<&Registry> =
            settings.registries.keys().chain(at_mirrors.iter().copied()).collect();
        for registry in named {
            let own = settings.registries.get(registry).unwrap_or(&settings.default);
            let connect_timeout = match at_mirrors.contains(registry) {
                true => settings.connect_timeout.min(settings.mirrors.connect_timeout),
                false => settings.connect_timeout,
            };
            let (name, ca) = (registry.as_str(), own.ca.as_deref());
            let client = clients.get(name, ca, own.client_identity.as_ref(), connect_timeout)?;
            let plain_client = clients.get(name, ca, None, connect_timeout)?;
            let source = make_source(registry, name, own, client, plain_client, &metrics)?;
            configured.insert(registry.clone(), Arc::new(source));
        }
        let default_ca = settings.default.ca.as_deref();
        let default_client = clients.get("(default)", default_ca, None, settings.connect_timeout)?;
        let transport = Transport {
            connect_timeout: settings.connect_timeout,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            own_addresses: settings.own_addresses,
            throttle: settings.throttle,
        };
        let exchange = Arc::new(Exchange {
            transport,
            authorizer: auth::Authorizer::new(settings.tokens_max, Arc::clone(&metrics)),
            metrics,
            instance: settings.instance,
            forward_client_address: settings.forward_client_address,
        });
        let walker = Walker::new(settings.mirrors, Arc::clone(&exchange));
        let inner = Inner {
            exchange,
            walker,
            mirrors,
            configured,
            named: Named::default(),
            registries: settings.registries,
            default: settings.default,
            default_client,
            routes: settings.routes,
        };
        Ok(Upstream { inner: Arc::new(inner) })
    }

    /// Asks whether a manifest is there and what it is. `known` makes the question conditional (C11).
    pub async fn head_manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, UpstreamError> {
        Ok(self.head_manifest_from(asked, reference, known).await?.0)
    }

    /// The same, with the mirror that answered if it was one.
    pub async fn head_manifest_from(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<(ManifestHead, Option<Mirror>), UpstreamError> {
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move { exchange.head_manifest(&place, reference, known).await };
        let (found, place) = self.walk(asked, reference.into(), Weight::Free, ask).await?;
        Ok((found, place.mirror()))
    }

    /// What a tag points to at the registry itself, whatever mirrors say (T4).
    pub async fn get_tag_of_registry(&self, asked: &Asked, tag: &Tag) -> Result<ManifestGet, UpstreamError> {
        let (exchange, reference) = (&self.inner.exchange, &Reference::Tag(tag.clone()));
        let ask = |place: Place| async move { exchange.get_manifest(&place, reference, None).await };
        let asked = &self.routed(asked, Some(tag));
        let mut places = self.places(asked, Asking::Tag)?;
        places.retain(|place| !place.is_mirror);
        let subject = Subject { digest: None, weight: Weight::Pull };
        Ok(self.inner.walker.run(&asked.scope, &places, subject, ask).await?.0)
    }

    /// How much a mirror's word about a tag counts; `None` is the registry itself.
    pub fn trust(&self, scope: &Scope, tag: &Tag, mirror: Option<&Registry>) -> Trust {
        let Some(mirror) = mirror else { return Trust::REGISTRY };
        let origin = self.origin(scope, Some(tag));
        let plan = self.inner.mirrors.candidates(&origin, Asking::Tag);
        let mut mirrors = plan.candidates.iter().filter(|c| matches!(c.kind, CandidateKind::Mirror(_)));
        let at = mirrors.position(|candidate| candidate.scope.registry == *mirror);
        at.and_then(|at| u32::try_from(at + 1).ok()).map_or(Trust::NOBODY, Trust)
    }

    /// Fetches a manifest of at most [`MANIFEST_BYTES_MAX`] and checks its digest.
    pub async fn get_manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestGet, UpstreamError> {
        Ok(self.get_manifest_from(asked, reference, known).await?.0)
    }

    /// The same, with the mirror that sent it if it was one.
    pub async fn get_manifest_from(
        &self,
        asked: &Asked,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<(ManifestGet, Option<Mirror>), UpstreamError> {
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move { exchange.get_manifest(&place, reference, known).await };
        let (found, place) = self.walk(asked, reference.into(), Weight::Pull, ask).await?;
        Ok((found, place.mirror()))
    }

    /// Whether a source has a blob, and its size in bytes; none if it does not tell.
    pub async fn blob_size(&self, asked: &Asked, digest: &Digest) -> Result<BlobSize, UpstreamError> {
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move { exchange.blob_size(&place, digest).await };
        Ok(self.walk(asked, Wanted::Digest(digest), Weight::Free, ask).await?.0)
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
        let exchange = &self.inner.exchange;
        let has_mirrors = !self.inner.mirrors.is_empty();
        let ask = |place: Place| async move {
            let stream = exchange.open_blob(&place, digest, start, end).await?;
            // Until a byte is there, somebody else can still be asked without the caller's noticing.
            if has_mirrors { stream.begun().await } else { Ok(stream) }
        };
        let (mut stream, place) = self.walk(asked, Wanted::Digest(digest), Weight::Free, ask).await?;
        if has_mirrors {
            let troubles = self.inner.walker.troubles.clone();
            stream.watch = Some(Watch { troubles, digest: *digest, source: place.source });
        }
        Ok(stream)
    }

    /// Fetches a listing of at most [`LIST_BYTES_MAX`]: `path_and_query` is what follows the repository in the URL.
    pub async fn list(&self, asked: &Asked, path_and_query: &str) -> Result<ListAnswer, UpstreamError> {
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move { exchange.list(&place, path_and_query).await };
        Ok(self.walk(asked, Wanted::List, Weight::Free, ask).await?.0)
    }

    /// The bytes that these mirrors have sent do not hash to the digest: they are not asked for it again.
    pub async fn quarantine(&self, digest: &Digest, mirrors: &[Mirror]) {
        for mirror in mirrors {
            self.inner.walker.quarantine(digest, &mirror.0).await;
        }
    }

    /// What registries and mirrors send.
    pub fn throttle(&self) -> &Throttle {
        &self.inner.exchange.transport.throttle
    }

    /// Every registry and mirror that is configured or has been asked, by name.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let named = self.inner.named.all();
        let mut all: Vec<SourceStatus> = self
            .inner
            .configured
            .values()
            .chain(&named)
            .map(|source| SourceStatus {
                name: source.registry.to_string(),
                endpoint: error::redacted(&source.endpoint),
                state: source.health.look(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Names of the registries that are configured as mirrors of others.
    pub fn mirror_names(&self) -> BTreeSet<String> {
        self.inner.mirrors.locations().map(|location| location.registry.to_string()).collect()
    }

    /// What metrics call the registry that stands behind a name. Clients make up names; of labels there are few.
    pub fn label(&self, scope: &Scope) -> String {
        let source = self.source(&self.origin(scope, None).registry);
        source.map_or_else(|_| named::OTHER.to_owned(), |source| source.label.clone())
    }

    /// Whether a registry is asked with credentials of ours, as of now.
    async fn has_credentials(&self, registry: &Registry) -> bool {
        match self.source(registry) {
            Ok(source) => source.has_login().await,
            Err(_) => false,
        }
    }

    /// Whether the registry that stands behind a repository's name is asked with credentials of ours, as of now.
    pub async fn has_credentials_for(&self, scope: &Scope) -> bool {
        self.has_credentials(&self.origin(scope, None).registry).await
    }

    async fn walk<T, F, Fut>(
        &self,
        asked: &Asked,
        wanted: Wanted<'_>,
        weight: Weight,
        ask: F,
    ) -> Result<(T, Place), UpstreamError>
    where
        F: Fn(Place) -> Fut,
        Fut: Future<Output = Result<T, UpstreamError>>,
    {
        let (asking, digest, tag) = match wanted {
            Wanted::Digest(digest) => (Asking::Digest, Some(digest), None),
            Wanted::Tag(tag) => (Asking::Tag, None, Some(tag)),
            Wanted::List => (Asking::Tag, None, None),
        };
        let asked = &self.routed(asked, tag);
        let places = self.places(asked, asking)?;
        // On the heap: it holds a whole exchange with a source, and those who wait for it are many.
        Box::pin(self.inner.walker.run(&asked.scope, &places, Subject { digest, weight }, ask)).await
    }

    /// Where a rule sends a request, if one does.
    fn routed(&self, asked: &Asked, tag: Option<&Tag>) -> Asked {
        Asked { scope: self.origin(&asked.scope, tag), ..asked.clone() }
    }

    /// The repository that stands behind a name.
    fn origin(&self, scope: &Scope, tag: Option<&Tag>) -> Scope {
        self.inner.routes.decide(scope, tag).origin(scope)
    }

    /// Where a repository's content may be asked for, in order.
    fn places(&self, asked: &Asked, asking: Asking) -> Result<Vec<Place>, UpstreamError> {
        if self.inner.mirrors.is_empty() {
            let source = self.source(&asked.scope.registry)?;
            return Ok(vec![Place { source, asked: asked.clone(), namespace: None, is_mirror: false }]);
        }
        let plan = self.inner.mirrors.candidates(&asked.scope, asking);
        let place = |candidate: shoal_engine::mirrors::Candidate| {
            let is_mirror = matches!(candidate.kind, CandidateKind::Mirror(_));
            Ok(Place {
                source: self.source(&candidate.scope.registry)?,
                namespace: candidate.sends_namespace.then(|| asked.scope.registry.clone()),
                asked: Asked {
                    scope: candidate.scope,
                    // What a client has shown is for the registry itself (I8).
                    bearer: asked.bearer.clone().filter(|_| !is_mirror),
                    ..asked.clone()
                },
                is_mirror,
            })
        };
        plan.candidates.into_iter().map(place).collect()
    }

    /// Where a registry is asked.
    fn source(&self, registry: &Registry) -> Result<Arc<Source>, UpstreamError> {
        let inner = &self.inner;
        if let Some(source) = inner.configured.get(registry) {
            return Ok(Arc::clone(source));
        }
        let make = |label: &str| {
            let (client, plain) = (inner.default_client.clone(), inner.default_client.clone());
            make_source(registry, label, &inner.default, client, plain, &inner.exchange.metrics)
        };
        inner.named.get(registry, make).map_err(|_| error::unnameable(registry))
    }
}

/// What is asked for: something that has a digest, or something that may change.
enum Wanted<'a> {
    Digest(&'a Digest),
    Tag(&'a Tag),
    List,
}

impl<'a> From<&'a Reference> for Wanted<'a> {
    fn from(reference: &'a Reference) -> Self {
        match reference {
            Reference::Digest(digest) => Wanted::Digest(digest),
            Reference::Tag(tag) => Wanted::Tag(tag),
        }
    }
}

/// A mirror that has sent bytes of a blob, to be named should they be wrong.
#[derive(Clone)]
pub struct Mirror(Arc<Source>);

impl Mirror {
    /// Its name in the configuration.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }
}

impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Place {
    /// The mirror that this is, if it is one.
    fn mirror(&self) -> Option<Mirror> {
        self.is_mirror.then(|| Mirror(Arc::clone(&self.source)))
    }
}

impl BlobStream {
    /// The mirror that the bytes come from; `None` for the registry itself.
    pub fn mirror(&self) -> Option<Mirror> {
        self.is_mirror.then(|| Mirror(Arc::clone(&self.source)))
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
    let shows_certificate = settings.shows_certificate();
    Ok(Source {
        registry: registry.clone(),
        label: label.to_owned(),
        endpoint: endpoint(registry, settings.endpoint.as_ref())?,
        client: if shows_certificate { client } else { plain_client.clone() },
        plain_client,
        shows_certificate,
        credentials: CredentialSource::new(registry.clone(), settings.shown()),
        trusted_realms: settings.trusted_realms.clone(),
        bytes: metrics.upstream_bytes(label),
        health: Health::new(metrics.source_down(label)),
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
