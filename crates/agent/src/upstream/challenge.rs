//! Challenges: what a 401 asks for. Parsing is `http-auth`'s; here the few forms that registries use are picked out.
//! Whatever cannot be parsed is no challenge: the request is denied, nothing is guessed.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use http_auth::ChallengeParser;

use super::limits::SCOPES_MAX;

/// One way to authenticate that the registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from `realm` (distribution, token specification).
    Bearer {
        /// URL of the token endpoint, not yet judged.
        realm: String,
        /// The registry's name for itself, if it has one.
        service: Option<String>,
        /// What the token must allow; sorted, each once.
        scopes: Vec<String>,
    },
    /// User name and password with each request (RFC 7617).
    Basic,
}

/// All challenges of all `WWW-Authenticate` lines that we can answer, in the order in which they came.
pub fn challenges_of(headers: &HeaderMap) -> Challenges {
    Challenges(headers.get_all(WWW_AUTHENTICATE).iter().flat_map(parse).collect())
}

/// The challenges of one answer. Opaque outside; a fuzz target needs no more than that parsing ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenges(pub(super) Vec<Challenge>);

fn parse(value: &HeaderValue) -> Vec<Challenge> {
    let Ok(text) = value.to_str() else { return Vec::new() };
    // The parser stops for good at the first mistake; what was well formed before it counts.
    ChallengeParser::new(text).map_while(Result::ok).filter_map(|challenge| known(&challenge)).collect()
}

fn known(challenge: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let param = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
    };
    let mut scopes: Vec<String> =
        param("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.len() > SCOPES_MAX {
        return None;
    }
    Some(Challenge::Bearer { realm: param("realm")?, service: param("service"), scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scopes: scopes.iter().map(|s| (*s).into()).collect(),
        }
    }

    #[test]
    fn what_registries_send() {
        let realm = "https://auth.test/token";
        let table: &[(&[&str], Vec<Challenge>)] = &[
            (&[], vec![]),
            (
                &[
                    r#"Bearer realm="https://auth.test/token",service="reg.test",scope="repository:a/b:pull,push""#,
                ],
                vec![bearer(realm, Some("reg.test"), &["repository:a/b:pull,push"])],
            ),
            (
                &[
                    r#"bearer Realm="https://auth.test/token", SCOPE="repository:b:pull repository:a:pull repository:b:pull""#,
                ],
                vec![bearer(realm, None, &["repository:a:pull", "repository:b:pull"])],
            ),
            (
                &[r#"Bearer realm="https://auth.test/token",service="",scope="aws""#],
                vec![bearer(realm, None, &["aws"])],
            ),
            (&[r#"BASIC realm="Registry Realm""#], vec![Challenge::Basic]),
            (
                &[r#"Negotiate, Basic realm="x", Bearer realm="https://auth.test/token""#],
                vec![Challenge::Basic, bearer(realm, None, &[])],
            ),
            (
                &[r#"Bearer realm="https://auth.test/token",error="invalid_token""#, r#"Basic realm="y""#],
                vec![bearer(realm, None, &[]), Challenge::Basic],
            ),
            (&[r#"Bearer realm="""#], vec![]),
            (&["Bearer"], vec![]),
            (&[r#"Digest realm="x",nonce="y""#], vec![]),
            (&[r#"Basic realm="a", Bearer realm="unclosed"#], vec![Challenge::Basic]),
            (&["\"\",,,=", "Bearer =", ""], vec![]),
        ];
        for (lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
            }
            assert_eq!(challenges_of(&headers).0, *expected, "{lines:?}");
        }
    }

    #[test]
    fn too_many_scopes_are_no_challenge() {
        let scopes = (0..=SCOPES_MAX).map(|n| format!("repository:r{n}:pull")).collect::<Vec<_>>().join(" ");
        let mut headers = HeaderMap::new();
        let line = format!(r#"Bearer realm="https://auth.test/",scope="{scopes}""#);
        headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        assert_eq!(challenges_of(&headers), Challenges::default());
    }
}
