//! Tokens: fetched once for all who need the same one at the same time, kept until shortly before they expire, and
//! never sent anywhere but to the registry they were issued for.
//!
//! The cache's key names the account, so a token of one account is never used for another. A failed fetch is told to
//! those who waited for it and is not remembered: the next request asks again.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use moka::future::Cache;
use moka::ops::compute::Op;
use reqwest::Response;
use serde::Deserialize;
use shoal_engine::Registry;
use tokio::time::Instant;
use url::Url;

use super::auth::AuthFault;
use super::credentials::{Login, Resolved, Secret};
use super::error::{Reason, UpstreamError};
use super::limits::{TOKEN_BYTES_MAX, TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, TOKEN_SKEW};
use super::redirect::{self, RedirectFault, same_origin};
use super::source::Source;
use super::transport::Transport;

/// What a token is for and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub realm: Url,
    pub service: Option<String>,
    /// Sorted, each once.
    pub scopes: Vec<String>,
    pub account: Account,
}

/// Whose credentials a token was issued for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    Anonymous,
    User { registry: Registry, name: String },
    Identity { registry: Registry },
}

impl Account {
    pub fn of(registry: &Registry, login: Option<&Login>) -> Self {
        let registry = registry.clone();
        match login {
            None => Account::Anonymous,
            Some(Login::Password { username, .. }) => Account::User { registry, name: username.clone() },
            Some(Login::IdentityToken(_)) => Account::Identity { registry },
        }
    }
}

/// A token and how long it may be used.
#[derive(Debug)]
pub(super) struct Token {
    pub secret: Secret,
    good_until: Instant,
}

/// All tokens, at most as many as configured.
pub(super) struct Tokens {
    cache: Cache<TokenKey, Arc<Token>>,
}

impl Tokens {
    pub fn new(tokens_max: u64) -> Self {
        Tokens { cache: Cache::builder().max_capacity(tokens_max).time_to_live(TOKEN_LIFETIME_MAX).build() }
    }

    /// A token that is still good and is not the one that was just refused.
    pub async fn get(
        &self,
        transport: &Transport,
        source: &Source,
        key: TokenKey,
        resolved: &Resolved,
        refused: Option<&Arc<Token>>,
        count: impl FnOnce(Result<(), &UpstreamError>) + Send,
    ) -> Result<Arc<Token>, Arc<AuthFault>> {
        if let Some(token) = self.cache.get(&key).await {
            if Instant::now() < token.good_until
                && !refused.is_some_and(|refused| Arc::ptr_eq(refused, &token))
            {
                return Ok(token);
            }
            self.drop_this(&key, &token).await;
        }
        let fetch = async {
            let result = fetch(transport, source, &key, resolved.login.as_deref()).await;
            match &result {
                Ok(_) => count(Ok(())),
                Err(AuthFault::Token(error)) => count(Err(error)),
                Err(_) => {}
            }
            result.map(Arc::new)
        };
        self.cache.try_get_with_by_ref(&key, fetch).await.map_err(|shared| Arc::clone(&shared))
    }

    /// Removes a token unless somebody has replaced it already.
    async fn drop_this(&self, key: &TokenKey, token: &Arc<Token>) {
        let same = |found: Option<moka::Entry<TokenKey, Arc<Token>>>| {
            let same = found.is_some_and(|entry| Arc::ptr_eq(entry.value(), token));
            std::future::ready(if same { Op::Remove } else { Op::Nop })
        };
        self.cache.entry_by_ref(key).and_compute_with(same).await;
    }
}

/// `Authorization: Basic`, or `None` for a user name or password that no header can carry.
pub(super) fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
    sensitive(format!("Basic {pair}"))
}

/// A header value that the HTTP stack hides in its own debug output and does not put into the HPACK table.
pub(super) fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The answer of a token endpoint. No `Debug`.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

async fn fetch(
    transport: &Transport,
    source: &Source,
    key: &TokenKey,
    login: Option<&Login>,
) -> Result<Token, AuthFault> {
    let response = match login {
        Some(Login::IdentityToken(token)) => exchange_identity(transport, source, key, token).await?,
        Some(Login::Password { username, password }) => {
            let header = basic(username, password).ok_or(AuthFault::Unsendable)?;
            ask(transport, source, key, Some(header)).await?
        }
        None => ask(transport, source, key, None).await?,
    };
    if !response.status().is_success() {
        return Err(AuthFault::Token(transport.status_error(&key.realm, response, true).await));
    }
    let body = transport.read(&key.realm, response, TOKEN_BYTES_MAX).await.map_err(AuthFault::Token)?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| AuthFault::NoToken)?;
    let text = answer.token.into_iter().chain(answer.access_token).find(|text| !text.is_empty());
    Ok(Token {
        secret: Secret::new(text.ok_or(AuthFault::NoToken)?),
        // Our own clock: `issued_at` is optional and the registry's clock may be wrong.
        good_until: Instant::now() + lifetime(answer.expires_in) - TOKEN_SKEW,
    })
}

fn lifetime(expires_in: Option<f64>) -> Duration {
    // Whole seconds by the specification; some servers send fractions.
    let told = expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    told.unwrap_or(TOKEN_LIFETIME_DEFAULT).clamp(TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX)
}

/// The token specification's GET, for user names and for nobody in particular.
async fn ask(
    transport: &Transport,
    source: &Source,
    key: &TokenKey,
    authorization: Option<HeaderValue>,
) -> Result<Response, AuthFault> {
    let mut url = key.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(key.service.iter().map(|service| ("service", service)));
        query.extend_pairs(key.scopes.iter().map(|scope| ("scope", scope)));
    }
    for followed in 0.. {
        let mut headers = accept_json();
        headers.extend(authorization.iter().map(|value| (AUTHORIZATION, value.clone())));
        let sent = transport.send(source.client_for(&url), Method::GET, &url, headers, None).await;
        let response = sent.map_err(AuthFault::Token)?;
        if !redirect::is_redirect(response.status().as_u16()) {
            return Ok(response);
        }
        let next = redirect::target(&url, response.headers().get(LOCATION), followed).and_then(|next| {
            if same_origin(&url, &next) { Ok(next) } else { Err(RedirectFault::TokenElsewhere) }
        });
        let next =
            next.map_err(|fault| AuthFault::Token(UpstreamError::new(&url, Reason::Redirect(fault))))?;
        transport.drain(&url, response).await;
        url = next;
    }
    unreachable!("redirect::target ends the loop")
}

/// The OAuth form of the specification, the only one that takes an identity token.
async fn exchange_identity(
    transport: &Transport,
    source: &Source,
    key: &TokenKey,
    token: &Secret,
) -> Result<Response, AuthFault> {
    let scope = key.scopes.join(" ");
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "shoal"),
        ("service", key.service.as_deref().unwrap_or_default()),
        ("scope", &scope),
        ("refresh_token", token.expose()),
    ];
    let client = source.client_for(&key.realm);
    let sent = transport.send(client, Method::POST, &key.realm, accept_json(), Some(&form)).await;
    let response = sent.map_err(AuthFault::Token)?;
    if redirect::is_redirect(response.status().as_u16()) {
        let fault = Reason::Redirect(RedirectFault::TokenElsewhere);
        return Err(AuthFault::Token(UpstreamError::new(&key.realm, fault)));
    }
    Ok(response)
}

fn accept_json() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        let table = [
            (None, 60),
            (Some(0.0), 60),
            (Some(-5.0), 60),
            (Some(30.0), 60),
            (Some(300.0), 300),
            (Some(1e12), TOKEN_LIFETIME_MAX.as_secs()),
            (Some(f64::NAN), 60),
        ];
        for (told, seconds) in table {
            assert_eq!(lifetime(told), Duration::from_secs(seconds), "{told:?}");
        }
    }
}
