//! Who may have what: the first thing that is decided about a request, before anything of it is looked for.
//!
//! Question: may this client have this, from where, and on what proof? Answer: the rules of the operator first, then the
//! access mode of the registry that is asked. Invariants: nothing is served, joined or fetched for a request that has not
//! been admitted; a client's token leaves this module only if its registry has confirmed it; a refusal is a 404, which
//! sends the client's runtime to the registry with its own credentials, and a challenge only where the operator wants
//! clients to prove their right.

use std::time::Duration;

use moka::future::Cache;
use shoal_engine::access::{Action, Pattern, Rules};
use shoal_engine::{Reference, Registry};
use shoal_store::Visibility;

use super::verdicts::Verdicts;
use super::{Asked, Cause, PullError};
use crate::upstream::{AccessMode, ClientToken, Policy, Sought, Upstream};

/// How long a registry's policy is used before it is looked up again. It depends on a Docker configuration where that is
/// what has the credentials; looking at that file for each request would cost more than the answer.
const POLICY_LIFETIME: Duration = Duration::from_secs(1);

/// Registries whose policy is remembered: clients make up names.
const POLICIES_MAX: u64 = 1024;

/// A request that may be answered, and on what terms.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    /// The request; its token is there only if it may be used to fetch.
    pub asked: Asked,
    /// Whether only what was obtained anonymously may be served.
    pub needs_public: bool,
    /// Whether what is fetched is stored.
    pub stores: bool,
    /// Whether the operator has named the registry, so that its word is worth more than a stranger's.
    pub is_configured: bool,
    /// Whether other members may be asked: not on behalf of one of them.
    pub asks_members: bool,
    /// The rule that keeps the request on this node.
    pub local: Option<Cause>,
}

impl Admitted {
    /// Whether something obtained like this may be served.
    pub fn suffices(&self, visibility: Visibility) -> bool {
        visibility >= Visibility::Mirrored || !self.needs_public
    }

    /// Why something that is not on this node is not fetched either, if it is not.
    pub fn local(&self) -> Result<(), PullError> {
        match &self.local {
            Some(rule) => Err(PullError::Withheld(vec![rule.clone()])),
            None => Ok(()),
        }
    }

    /// What came only with credentials, where only public things are served.
    pub fn not_public(&self) -> PullError {
        let reason = "it is not public, and only public images of this registry are served".into();
        PullError::Withheld(vec![Cause { source: self.asked.scope.to_string(), reason }])
    }
}

/// The rules, and what is remembered of registries and clients.
pub(super) struct Access {
    rules: Rules,
    upstream: Upstream,
    policies: Cache<Registry, Policy>,
    verdicts: Verdicts,
}

impl Access {
    pub fn new(rules: Rules, upstream: Upstream) -> Self {
        let policies = Cache::builder().max_capacity(POLICIES_MAX).time_to_live(POLICY_LIFETIME).build();
        Access { rules, verdicts: Verdicts::new(upstream.clone()), upstream, policies }
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// Why it is not answered.
    pub async fn admit(&self, asked: &Asked, sought: &Sought) -> Result<Admitted, PullError> {
        let tag = match sought {
            Sought::Manifest(Reference::Tag(tag)) => Some(tag),
            Sought::Manifest(Reference::Digest(_)) | Sought::Blob(_) | Sought::List(_) => None,
        };
        let decision = self.rules.decide(&asked.scope, tag);
        let origin = decision.origin(&asked.scope);
        let local = match (decision.action, &decision.rule) {
            (Action::Deny, rule) => return Err(PullError::Withheld(vec![ruled(rule.as_ref(), "deny")])),
            (Action::LocalOnly, rule) => Some(ruled(rule.as_ref(), "local-only, and it is not on this node")),
            (Action::Allow, _) => None,
        };
        let policy = self.policy(&origin.registry).await;
        let bearer = match policy.mode {
            AccessMode::Open | AccessMode::PublicOnly => None,
            AccessMode::Verify => {
                let at_origin = Asked { scope: origin, ..asked.clone() };
                self.verdicts.check(&at_origin, sought, local.as_ref()).await?;
                asked.bearer.as_ref().map(ClientToken::for_fetches)
            }
        };
        Ok(Admitted {
            asked: Asked { bearer, ..asked.clone() },
            needs_public: policy.mode == AccessMode::PublicOnly,
            stores: policy.cache,
            is_configured: policy.is_configured,
            asks_members: true,
            local,
        })
    }

    /// What the version check of a listener with a default registry says to a client without a token.
    pub async fn ping(&self, registry: &Registry, token: Option<&ClientToken>) -> Result<(), PullError> {
        match (self.policy(registry).await.mode, token) {
            (AccessMode::Verify, None) => self.verdicts.ping(registry).await,
            (AccessMode::Verify, Some(_)) | (AccessMode::Open | AccessMode::PublicOnly, _) => Ok(()),
        }
    }

    /// The answer to an admitted request, with what the origin's refusal means under these terms.
    pub async fn answered<T>(
        &self,
        admitted: &Admitted,
        result: Result<T, PullError>,
    ) -> Result<T, PullError> {
        match result {
            Err(PullError::Denied(causes)) if admitted.needs_public => Err(PullError::Withheld(causes)),
            Err(PullError::Denied(causes)) if admitted.asked.bearer.is_some() => {
                // What the token was good for a moment ago it is no more, or never was for this.
                self.verdicts.doubt(&admitted.asked, &self.rules).await;
                Err(PullError::Withheld(causes))
            }
            other => other,
        }
    }

    async fn policy(&self, registry: &Registry) -> Policy {
        if let Some(policy) = self.policies.get(registry).await {
            return policy;
        }
        let policy = self.upstream.policy(registry).await;
        self.policies.insert(registry.clone(), policy).await;
        policy
    }
}

fn ruled(rule: Option<&Pattern>, reason: &str) -> Cause {
    let rule = rule.map_or_else(String::new, ToString::to_string);
    Cause { source: format!("access rule {rule:?}"), reason: reason.into() }
}
