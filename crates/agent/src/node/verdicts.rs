//! What registries have said of clients' tokens, and for how long that counts.
//!
//! Invariants: there is no verdict but the registry's own; one that could not be had is none, and nothing is served
//! without one; what is remembered is bounded in number and in time, and holds no token, only its hash; those who ask the
//! same at the same time share one request.

use std::hash::Hash;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use moka::future::Cache;
use shoal_engine::access::Rules;
use shoal_engine::{Registry, Scope};
use tokio::time::Instant;

use super::single::Single;
use super::{Asked, Cause, FetchError, PullError};
use crate::upstream::{ClientToken, Sought, Upstream, Verdict};

/// How long the registry's consent counts, unless the token ends sooner: the time that tokens of the large registries
/// live, so rights that were taken away end as soon as they would there.
const GRANTED_LIFETIME_MAX: Duration = Duration::from_secs(5 * 60);

/// How long a refusal of a token counts: long enough that a runtime's retries of one pull do not reach the registry, short
/// enough that nobody waits for a right that was just given.
const REFUSED_LIFETIME: Duration = Duration::from_secs(5);

/// How long a registry's challenge to those without a token is handed on before the registry is asked again.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Verdicts remembered of each kind: 300 bytes each, and more than the pods of a node have tokens and repositories.
const VERDICTS_MAX: u64 = 16 * 1024;

/// Registries whose challenge at `/v2/` is remembered.
const PINGS_MAX: u64 = 64;

/// A token and what it is for. The scope is the one that the registry knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// SHA-256; `None` is who shows nothing.
    token: Option<[u8; 32]>,
    scope: Scope,
}

impl Key {
    fn of(token: Option<&ClientToken>, scope: &Scope) -> Self {
        Key { token: token.map(ClientToken::fingerprint), scope: scope.clone() }
    }
}

/// Verdicts, for as long as they count.
#[derive(Clone)]
struct Said {
    /// Until when. The cache only bounds it; the time is judged on a clock that tests can move.
    granted: Cache<Key, Instant>,
    /// With the challenge to hand on.
    refused: Cache<Key, Option<HeaderValue>>,
    challenges: Cache<Scope, Option<HeaderValue>>,
}

impl Said {
    async fn get(&self, key: &Key) -> Option<Verdict> {
        if self.granted.get(key).await.is_some_and(|until| Instant::now() < until) {
            return Some(Verdict::Granted);
        }
        let refused = match key.token {
            Some(_) => self.refused.get(key).await,
            None => self.challenges.get(&key.scope).await,
        };
        refused.map(Verdict::Refused)
    }

    async fn remember(&self, key: Key, verdict: &Verdict, token: Option<&ClientToken>) {
        match verdict {
            Verdict::Granted => {
                let lifetime = lifetime(token, SystemTime::now());
                self.granted.insert(key, Instant::now() + lifetime).await;
            }
            Verdict::Refused(challenge) if key.token.is_some() => {
                self.refused.insert(key, challenge.clone()).await;
            }
            Verdict::Refused(challenge) => self.challenges.insert(key.scope, challenge.clone()).await,
        }
    }
}

/// See the module's head.
pub(super) struct Verdicts {
    upstream: Upstream,
    said: Said,
    pings: Cache<Registry, Option<HeaderValue>>,
    asking: Single<Key, Result<Verdict, FetchError>>,
}

impl Verdicts {
    pub fn new(upstream: Upstream) -> Self {
        Verdicts {
            upstream,
            said: Said {
                granted: cache(VERDICTS_MAX, GRANTED_LIFETIME_MAX),
                refused: cache(VERDICTS_MAX, REFUSED_LIFETIME),
                challenges: cache(VERDICTS_MAX, CHALLENGE_LIFETIME),
            },
            pings: cache(PINGS_MAX, CHALLENGE_LIFETIME),
            asking: Single::new(),
        }
    }

    /// Whether the registry lets the client have `sought`; what it has said lately counts. With `local`, nobody is asked.
    pub async fn check(
        &self,
        asked: &Asked,
        sought: &Sought,
        local: Option<&Cause>,
    ) -> Result<(), PullError> {
        let key = Key::of(asked.bearer.as_ref(), &asked.scope);
        if let Some(verdict) = self.said.get(&key).await {
            return told(&asked.scope, verdict);
        }
        if let Some(rule) = local {
            return Err(PullError::Withheld(vec![rule.clone()]));
        }
        let ask = || {
            let (upstream, asked, sought) = (self.upstream.clone(), asked.clone(), sought.clone());
            let (said, key) = (self.said.clone(), key.clone());
            Box::pin(async move {
                // Somebody else's question may have been answered between our look and our turn.
                if let Some(verdict) = said.get(&key).await {
                    return Ok(verdict);
                }
                let verdict = upstream.verify(&asked, &sought, asked.bearer.as_ref()).await?;
                said.remember(key, &verdict, asked.bearer.as_ref()).await;
                Ok(verdict)
            })
        };
        match self.asking.run_until_done(key.clone(), ask, FetchError::is_worth_a_retry).await {
            Ok(verdict) => told(&asked.scope, verdict),
            Err(error) => Err(FetchError::told(error)),
        }
    }

    /// The challenge of the registry's version check, if it has one that may be handed on.
    pub async fn ping(&self, registry: &Registry) -> Result<(), PullError> {
        let known = match self.pings.get(registry).await {
            Some(known) => known,
            None => {
                let said = self.upstream.ping(registry).await.map_err(|error| super::pull_error(&error))?;
                let challenge = match said {
                    Verdict::Granted => None,
                    Verdict::Refused(challenge) => challenge,
                };
                self.pings.insert(registry.clone(), challenge.clone()).await;
                challenge
            }
        };
        known.map_or(Ok(()), |challenge| Err(PullError::Unauthorized { challenge }))
    }

    /// The registry has refused what the token was used for: its consent is forgotten.
    pub async fn doubt(&self, asked: &Asked, rules: &Rules) {
        let scope = rules.decide(&asked.scope, None).origin(&asked.scope);
        self.said.granted.invalidate(&Key::of(asked.bearer.as_ref(), &scope)).await;
    }
}

fn cache<K, V>(most: u64, lifetime: Duration) -> Cache<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(most).time_to_live(lifetime).build()
}

/// How long the registry's consent counts.
fn lifetime(token: Option<&ClientToken>, now: SystemTime) -> Duration {
    let told = token.and_then(|token| token.lifetime(now));
    told.map_or(GRANTED_LIFETIME_MAX, |told| told.min(GRANTED_LIFETIME_MAX))
}

fn told(scope: &Scope, verdict: Verdict) -> Result<(), PullError> {
    match verdict {
        Verdict::Granted => Ok(()),
        Verdict::Refused(challenge) => Err(refusal(scope, challenge)),
    }
}

fn refusal(scope: &Scope, challenge: Option<HeaderValue>) -> PullError {
    match challenge {
        Some(challenge) => PullError::Unauthorized { challenge },
        None => {
            let reason = "the registry does not let this client have it".into();
            PullError::Withheld(vec![Cause { source: scope.to_string(), reason }])
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use http::HeaderMap;
    use http::header::AUTHORIZATION;

    use super::*;

    fn token(text: &str) -> ClientToken {
        let header = format!("Bearer {text}").parse().unwrap();
        ClientToken::of(&HeaderMap::from_iter([(AUTHORIZATION, header)])).unwrap()
    }

    #[test]
    fn how_long_consent_counts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let jwt = |seconds: i64| {
            format!("e30.{}.s", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{}}}", 1_000_000 + seconds)))
        };
        let most = GRANTED_LIFETIME_MAX.as_secs();
        let table = [
            ("opaque".to_owned(), most),
            (jwt(60), 60),
            (jwt(86_400), most),
            (jwt(-1), 0),
            ("a.b.c".to_owned(), most),
        ];
        for (text, seconds) in table {
            assert_eq!(lifetime(Some(&token(&text)), now), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(lifetime(None, now), GRANTED_LIFETIME_MAX);
    }

    #[test]
    fn a_verdict_is_for_one_token_and_one_repository() {
        let scope =
            |name: &str| Scope { registry: "r.test".parse().unwrap(), repository: name.parse().unwrap() };
        let key = Key::of(Some(&token("a")), &scope("x"));
        assert_eq!(key, Key::of(Some(&token("a")), &scope("x")));
        for other in [(Some(token("b")), scope("x")), (Some(token("a")), scope("y")), (None, scope("x"))] {
            assert_ne!(key, Key::of(other.0.as_ref(), &other.1));
        }
    }

    #[test]
    fn only_a_challenge_is_a_401() {
        let scope = Scope { registry: "r.test".parse().unwrap(), repository: "x".parse().unwrap() };
        let challenge = HeaderValue::from_static("Bearer realm=\"https://r.test/t\"");
        assert!(matches!(refusal(&scope, Some(challenge)), PullError::Unauthorized { .. }));
        assert!(matches!(refusal(&scope, None), PullError::Withheld(_)));
    }
}
