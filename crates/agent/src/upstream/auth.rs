//! How a request is authenticated: which challenge is answered, with whose credentials, and what is remembered so
//! that the next request of the repository needs no 401 first.
//!
//! Nothing here repeats a request. The exchange asks at most twice per request: [`Authorizer::known`] before, and
//! [`Authorizer::answer`] after a 401.

use std::sync::Arc;

use http::HeaderValue;
use moka::future::Cache;
use shoal_engine::{Registry, Repository, SourceFault};
use url::Url;

use super::challenge::{Challenge, Challenges};
use super::credentials::{CredentialsError, Login, Resolved};
use super::error::UpstreamError;
use super::limits::CHALLENGE_LIFETIME;
use super::place::Place;
use super::realm::{self, RealmFault};
use super::source::Source;
use super::token::{Account, Token, TokenKey, Tokens, basic, sensitive};
use super::transport::Transport;
use crate::causes::chain;
use crate::metrics::Metrics;

/// Why a request could not be authenticated. Unless the token endpoint was sick, an operator has to help.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthFault {
    /// 401 without a `WWW-Authenticate` that we can answer.
    #[error("the registry names no way to authenticate that is supported (Bearer, Basic)")]
    NoChallenge,
    /// The registry wants a user, and there is none.
    #[error("credentials are needed{}", .0.as_ref().map_or(" and none are configured".to_owned(), |e| format!(" but: {}", chain(&**e))))]
    NoCredentials(Option<Arc<CredentialsError>>),
    /// The registry knows what we have and does not want it.
    #[error("the credentials were not accepted")]
    Refused,
    /// The challenge names a place we do not fetch tokens from.
    #[error(transparent)]
    Realm(RealmFault),
    /// The token endpoint failed.
    #[error("no token")]
    Token(#[source] UpstreamError),
    /// The token endpoint's answer holds no token.
    #[error("the token endpoint's answer holds no token")]
    NoToken,
    /// The user name, password or token has characters that a header cannot carry.
    #[error("the credentials cannot be sent in a header")]
    Unsendable,
}

impl AuthFault {
    /// Whether there may be no token endpoint any more where the last challenge has named one.
    fn is_about_the_place(&self) -> bool {
        let AuthFault::Token(error) = self else { return false };
        matches!(error.fault(), SourceFault::Missing | SourceFault::Transient)
    }

    /// What it means for the walk over the sources. A token endpoint's 404 says nothing about the blob.
    pub fn fault(&self) -> SourceFault {
        match self {
            AuthFault::Token(error) => match error.fault() {
                SourceFault::Missing => SourceFault::Denied { status: 404 },
                SourceFault::Interrupted => SourceFault::Transient,
                other => other,
            },
            AuthFault::NoToken => SourceFault::Protocol,
            AuthFault::NoChallenge
            | AuthFault::NoCredentials(_)
            | AuthFault::Refused
            | AuthFault::Realm(_)
            | AuthFault::Unsendable => SourceFault::Denied { status: 401 },
        }
    }
}

/// What goes into the `Authorization` header, and what it was made from.
pub(super) struct Authorization {
    pub header: HeaderValue,
    token: Option<Arc<Token>>,
    /// Whether it says who asks; a token that everybody gets does not.
    pub identifies: bool,
}

impl Authorization {
    /// What a client has shown.
    pub fn of_client(header: HeaderValue) -> Self {
        Authorization { header, token: None, identifies: true }
    }
}

/// A challenge that has been answered once; the realm has been judged.
#[derive(Clone)]
enum Scheme {
    Bearer { realm: Url, service: Option<String>, scopes: Vec<String> },
    Basic,
}

/// Tokens and remembered challenges of all sources.
pub(super) struct Authorizer {
    tokens: Tokens,
    schemes: Cache<(Registry, Repository), Scheme>,
    metrics: Arc<Metrics>,
}

impl Authorizer {
    pub fn new(tokens_max: u64, metrics: Arc<Metrics>) -> Self {
        let schemes = Cache::builder().max_capacity(tokens_max).time_to_live(CHALLENGE_LIFETIME).build();
        Authorizer { tokens: Tokens::new(tokens_max), schemes, metrics }
    }

    /// What the repository's last challenge asked for; `None` where none has been seen.
    pub async fn known(
        &self,
        transport: &Transport,
        place: &Place,
    ) -> Result<Option<Authorization>, Arc<AuthFault>> {
        if let Some(header) = clients_token(place).await {
            return Ok(Some(Authorization::of_client(header.clone())));
        }
        let (source, repository) = (&*place.source, &place.asked.scope.repository);
        let key = (source.registry.clone(), repository.clone());
        let Some(scheme) = self.schemes.get(&key).await else { return Ok(None) };
        let resolved = source.credentials.resolve().await;
        match self.authorize(transport, source, &scheme, &resolved, None).await {
            // The registry may send us elsewhere by now.
            Err(fault) if fault.is_about_the_place() => {
                self.schemes.invalidate(&key).await;
                Ok(None)
            }
            authorized => authorized.map(Some),
        }
    }

    /// Answers a 401. `refused` is what the request had carried.
    pub async fn answer(
        &self,
        transport: &Transport,
        place: &Place,
        challenges: &Challenges,
        refused: Option<&Authorization>,
    ) -> Result<Authorization, Arc<AuthFault>> {
        if refused.is_some() && clients_token(place).await.is_some() {
            return Err(Arc::new(AuthFault::Refused));
        }
        let (source, repository) = (&*place.source, &place.asked.scope.repository);
        let resolved = source.credentials.resolve().await;
        let scheme = choose(source, Some(repository), challenges, &resolved)?;
        let authorization = self.authorize(transport, source, &scheme, &resolved, refused).await?;
        if refused.is_some_and(|refused| refused.header == authorization.header) {
            source.credentials.doubt();
            return Err(Arc::new(AuthFault::Refused));
        }
        self.schemes.insert((source.registry.clone(), repository.clone()), scheme).await;
        Ok(authorization)
    }

    /// Answers the 401 of a version check, which is about no repository.
    pub async fn answer_check(
        &self,
        transport: &Transport,
        source: &Source,
        challenges: &Challenges,
    ) -> Result<Authorization, Arc<AuthFault>> {
        let resolved = source.credentials.resolve().await;
        let scheme = choose(source, None, challenges, &resolved)?;
        self.authorize(transport, source, &scheme, &resolved, None).await
    }

    async fn authorize(
        &self,
        transport: &Transport,
        source: &Source,
        scheme: &Scheme,
        resolved: &Resolved,
        refused: Option<&Authorization>,
    ) -> Result<Authorization, Arc<AuthFault>> {
        let login = resolved.login.as_deref();
        let Scheme::Bearer { realm, service, scopes } = scheme else {
            let Some(Login::Password { username, password }) = login else {
                return Err(Arc::new(AuthFault::NoCredentials(resolved.problem.clone())));
            };
            let header = basic(username, password).ok_or(AuthFault::Unsendable)?;
            return Ok(Authorization { header, token: None, identifies: true });
        };
        let account = Account::of(&source.registry, login);
        let key =
            TokenKey { realm: realm.clone(), service: service.clone(), scopes: scopes.clone(), account };
        let count = |result: Result<(), &UpstreamError>| {
            let outcome = result.map_or_else(|error| outcome(&error.fault()), |()| "ok");
            self.metrics.upstream_request(&source.label, "token", outcome);
        };
        let refused = refused.and_then(|refused| refused.token.as_ref());
        let token = self.tokens.get(transport, source, key, resolved, refused, count).await;
        let token = token.inspect_err(|fault| {
            if matches!(fault.fault(), SourceFault::Denied { .. }) {
                source.credentials.doubt();
            }
        })?;
        let header = sensitive(format!("Bearer {}", token.secret.expose())).ok_or(AuthFault::Unsendable)?;
        Ok(Authorization { header, token: Some(token), identifies: login.is_some() })
    }
}

/// The client's own token, where it may be used: at the registry that has accepted it, which no mirror is, and only if we
/// have no login there.
async fn clients_token(place: &Place) -> Option<&HeaderValue> {
    let header = place.asked.bearer.as_ref().filter(|_| !place.is_mirror)?.to_fetch()?;
    place.source.credentials.resolve().await.login.is_none().then_some(header)
}

/// Whether what is sent to a place carries the token of the client that asks: to be judged, or to fetch with.
pub(super) async fn carries_clients_token(place: &Place) -> bool {
    let is_to_be_judged = place.asked.bearer.as_ref().is_some_and(|token| token.to_fetch().is_none());
    (is_to_be_judged && !place.is_mirror) || clients_token(place).await.is_some()
}

/// Bearer before Basic: where both are offered (Quay), content is served for a token only.
fn choose(
    source: &Source,
    repository: Option<&Repository>,
    challenges: &Challenges,
    resolved: &Resolved,
) -> Result<Scheme, AuthFault> {
    let mut fault = AuthFault::NoChallenge;
    for challenge in &challenges.0 {
        let Challenge::Bearer { realm, service, scopes } = challenge else { continue };
        match realm::judge(&source.endpoint, realm, &source.trusted_realms) {
            Ok(realm) => {
                // A named scope is used as it is: ECR Public wants `aws` and nothing else.
                let scopes = if scopes.is_empty() {
                    repository.iter().map(|name| format!("repository:{name}:pull")).collect()
                } else {
                    scopes.clone()
                };
                return Ok(Scheme::Bearer { realm, service: service.clone(), scopes });
            }
            Err(refused) => fault = AuthFault::Realm(refused),
        }
    }
    if challenges.0.contains(&Challenge::Basic) {
        if resolved.login.is_some() {
            return Ok(Scheme::Basic);
        }
        if matches!(fault, AuthFault::NoChallenge) {
            fault = AuthFault::NoCredentials(resolved.problem.clone());
        }
    }
    Err(fault)
}

/// Value of the `outcome` label.
pub(super) fn outcome(fault: &SourceFault) -> &'static str {
    match fault {
        SourceFault::Transient | SourceFault::Interrupted => "transient",
        SourceFault::Missing => "missing",
        SourceFault::RateLimited { .. } => "rate-limited",
        SourceFault::Denied { .. } | SourceFault::Stopped => "denied",
        SourceFault::Protocol | SourceFault::WrongContent | SourceFault::Loop => "protocol",
    }
}
