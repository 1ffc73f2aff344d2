//! Accounts with rights of their own, and the tokens that prove them: what a token server hands out says which
//! repositories it is good for, and for how long.

use std::time::{Duration, Instant};

use serde_json::json;

use super::answer::{Answer, basic, query};
use super::{Seen, Shared, lock};

/// Somebody who may pull.
#[derive(Clone, Debug)]
pub struct Account {
    user: String,
    password: String,
    repositories: Vec<String>,
}

impl Account {
    /// An account with rights to these repositories.
    pub fn new(user: &str, password: &str, repositories: &[&str]) -> Self {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        Account { user: user.into(), password: password.into(), repositories }
    }
}

/// A registry with accounts.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// Who may pull what.
    pub accounts: Vec<Account>,
    /// Repositories that everybody may pull, with a token that everybody gets.
    pub public: Vec<String>,
    /// Status of the token server where it would have no right to grant; without it, it grants none.
    pub refuse_tokens: Option<u16>,
    /// How long a token lives, by the registry's clock.
    pub lifetime: Option<Duration>,
    /// Whether the tokens are JWTs that say so themselves.
    pub jwt: bool,
}

/// A token that has been handed out.
pub(super) struct Grant {
    token: String,
    repositories: Vec<String>,
    until: Option<Instant>,
}

impl Accounts {
    /// Only these accounts, nothing public.
    pub fn of(accounts: &[Account]) -> Self {
        Accounts { accounts: accounts.to_vec(), ..Accounts::default() }
    }

    /// The challenge to answer with, or `None` when the request may pass.
    pub(super) fn challenge(&self, seen: &Seen, shared: &Shared) -> Option<String> {
        let given = seen.header("authorization");
        let token = given.as_deref().and_then(|given| given.strip_prefix("Bearer "));
        let mut text = format!("Bearer realm=\"http://{}/token\",service=\"origin.test\"", shared.address);
        if !seen.repository.is_empty() {
            text.push_str(&format!(",scope=\"repository:{}:pull\"", seen.repository));
        }
        let Some(token) = token else { return Some(text) };
        let grants = lock(&shared.grants);
        let grant = grants.iter().find(|grant| grant.token == token);
        match grant.filter(|grant| grant.until.is_none_or(|until| Instant::now() < until)) {
            Some(grant) if seen.repository.is_empty() || grant.repositories.contains(&seen.repository) => {
                None
            }
            Some(_) => Some(text + ",error=\"insufficient_scope\""),
            None => Some(text + ",error=\"invalid_token\""),
        }
    }

    /// The token server. Like distribution's, it is asked by GET with `Basic` or by a form.
    pub(super) fn token(&self, seen: &Seen, body: &[u8], shared: &Shared) -> Answer {
        let form = String::from_utf8_lossy(body).replace("%3A", ":").replace("%2F", "/");
        let field = |name: &str| {
            form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let shows = |account: &&Account| {
            seen.header("authorization") == Some(basic(&account.user, &account.password))
                || (field("username").as_ref() == Some(&account.user)
                    && field("password").as_ref() == Some(&account.password))
        };
        let account = self.accounts.iter().find(shows);
        let anonymous = seen.header("authorization").is_none() && field("username").is_none();
        if account.is_none() && !anonymous {
            return Answer::error(401, "UNAUTHORIZED");
        }
        let scope = query(seen, "scope").or_else(|| field("scope")).unwrap_or_default();
        let asked = scope.split([' ', '+']).filter_map(|one| {
            let mut parts = one.split(':');
            (parts.next() == Some("repository")).then(|| parts.next().unwrap_or_default().to_owned())
        });
        let may = |name: &String| {
            self.public.contains(name) || account.is_some_and(|account| account.repositories.contains(name))
        };
        let repositories: Vec<String> = asked.filter(may).collect();
        if repositories.is_empty()
            && let Some(status) = self.refuse_tokens
        {
            return Answer::error(status, "DENIED");
        }
        let mut grants = lock(&shared.grants);
        let token = self.name(grants.len());
        let until = self.lifetime.map(|lifetime| Instant::now() + lifetime);
        grants.push(Grant { token: token.clone(), repositories, until });
        let expires_in = self.lifetime.map_or(300, |lifetime| lifetime.as_secs());
        let body = json!({"token": token, "access_token": token, "expires_in": expires_in});
        Answer::new(200, "application/json", body.to_string())
    }

    fn name(&self, number: usize) -> String {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        if !self.jwt {
            return format!("opaque-token-{number}");
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let exp = (now + self.lifetime.unwrap_or(Duration::from_secs(300))).as_secs_f64();
        let payload = json!({"exp": exp, "jti": number}).to_string();
        format!("e30.{}.token-signature-{number}", URL_SAFE_NO_PAD.encode(payload))
    }
}
