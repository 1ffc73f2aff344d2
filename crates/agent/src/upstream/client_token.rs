//! A client's bearer token: proof of a right, shown to the registry that issued it and to nobody else.
//!
//! Invariants: it has no text form; it is used to fetch only after [`ClientToken::for_fetches`] has said so, which the
//! node does where the registry has confirmed it (I8); a client's `Authorization` of any other scheme is not looked at.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;

use super::limits::CLIENT_TOKEN_BYTES_MAX;

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct ClientToken {
    /// The whole value of `Authorization`.
    header: HeaderValue,
    may_fetch: bool,
}

impl fmt::Debug for ClientToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl ClientToken {
    /// The token of a request that shows exactly one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let token = token_of(value)?;
        if token.is_empty() || value.len() > CLIENT_TOKEN_BYTES_MAX || token.contains(' ') {
            return None;
        }
        let mut header = value.clone();
        header.set_sensitive(true);
        Some(ClientToken { header, may_fetch: false })
    }

    /// What stands for the token where it is remembered: its SHA-256.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.text().as_bytes());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// How long the token says that it lives, if it is a JWT. Its signature is not checked: this can only shorten what
    /// the registry's own verdict allows.
    pub fn lifetime(&self, now: SystemTime) -> Option<Duration> {
        #[derive(Deserialize)]
        struct Claims {
            exp: f64,
        }
        let payload = self.text().split('.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(Duration::try_from_secs_f64(claims.exp - since.as_secs_f64()).unwrap_or_default())
    }

    /// The same token, to be used for fetching as well: its registry has said that it is good.
    pub fn for_fetches(&self) -> Self {
        ClientToken { may_fetch: true, ..self.clone() }
    }

    /// What is sent to the registry that is to judge it.
    pub(super) fn to_be_judged(&self) -> &HeaderValue {
        &self.header
    }

    /// What is sent with a fetch, if it may be.
    pub(super) fn to_fetch(&self) -> Option<&HeaderValue> {
        self.may_fetch.then_some(&self.header)
    }

    fn text(&self) -> &str {
        token_of(&self.header).expect("checked when it was made")
    }
}

fn token_of(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[&str]) -> Option<ClientToken> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        ClientToken::of(&headers)
    }

    #[test]
    fn only_one_bearer_token_is_one() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&["Bearer abc"], Some("abc")),
            (&["bearer  abc"], Some("abc")),
            (&["Basic dTpw"], None),
            (&["Bearer"], None),
            (&["Bearer "], None),
            (&["Bearer a b"], None),
            (&["Bearerabc"], None),
            (&["Bearer abc", "Bearer def"], None),
            (&["Basic dTpw", "Bearer abc"], None),
            (&[], None),
        ];
        for (values, token) in table {
            assert_eq!(shown(values).as_ref().map(ClientToken::text), *token, "{values:?}");
        }
        assert!(shown(&[&format!("Bearer {}", "x".repeat(CLIENT_TOKEN_BYTES_MAX))]).is_none());
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = shown(&["Bearer hunter2"]).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
        assert!(!format!("{:?}", token.to_be_judged()).contains("hunter2"));
    }

    #[test]
    fn it_fetches_only_when_it_may() {
        let token = shown(&["Bearer abc"]).unwrap();
        assert!(token.to_fetch().is_none());
        assert_eq!(token.for_fetches().to_fetch().unwrap(), "Bearer abc");
    }

    #[test]
    fn what_a_jwt_says_of_its_life() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let jwt = |claims: &str| format!("Bearer h.{}.s", URL_SAFE_NO_PAD.encode(claims));
        let table = [
            (jwt(r#"{"exp":1060}"#), Some(60)),
            (jwt(r#"{"exp":1060.0,"aud":"x"}"#), Some(60)),
            (jwt(r#"{"exp":940}"#), Some(0)),
            (jwt(r#"{"exp":-1e300}"#), Some(0)),
            (jwt(r#"{"exp":"soon"}"#), None),
            (jwt(r#"{"iat":1}"#), None),
            ("Bearer opaque".to_owned(), None),
            ("Bearer a.b.c".to_owned(), None),
        ];
        for (value, seconds) in table {
            let lifetime = shown(&[&value]).unwrap().lifetime(now);
            assert_eq!(lifetime, seconds.map(Duration::from_secs), "{value}");
        }
    }
}
