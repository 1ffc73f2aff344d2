//! Challenges: what a 401 asks for. Parsing is `http-auth`'s; here the few forms that registries use are picked out.
//! Whatever cannot be parsed is no challenge: the request is denied, nothing is guessed.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use http_auth::ChallengeParser;
use url::Url;

use super::limits::SCOPES_MAX;
use super::realm;

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

/// The Bearer challenge of an answer as a client may be given it: as it came, with `error` where it names none. `None`
/// where there is none, or where its realm is not one that a client of this registry should show a password to; a Basic
/// challenge would have the client show it here.
pub(super) fn bearer_to_hand_on(
    headers: &HeaderMap,
    (endpoint, trusted_realms): (&Url, &[String]),
    error: Option<&str>,
) -> Option<HeaderValue> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| ChallengeParser::new(text).map_while(Result::ok))
        .filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))
        .find_map(|challenge| {
            let Some(Challenge::Bearer { realm, .. }) = known(&challenge) else { return None };
            realm::judge(endpoint, &realm, trusted_realms).ok()?;
            let mut params: Vec<_> =
                challenge.params.iter().map(|(name, value)| (*name, value.to_unescaped())).collect();
            let names_error = params.iter().any(|(name, _)| name.eq_ignore_ascii_case("error"));
            params.extend(error.filter(|_| !names_error).map(|error| ("error", error.to_owned())));
            let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let params: Vec<_> =
                params.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
            HeaderValue::try_from(format!("Bearer {}", params.join(","))).ok()
        })
}

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
    fn what_a_client_is_handed() {
        let bearer =
            r#"Bearer realm="https://auth.test/token",service="reg.test",scope="repository:a/b:pull""#;
        let table: &[(&[&str], Option<&str>, Option<&str>)] = &[
            (&[bearer], None, Some(bearer)),
            (&["Basic realm=\"x\"", bearer], None, Some(bearer)),
            (
                &[r#"Basic realm="x", Bearer realm="https://auth.test/t",service="a \"b\" \\c""#],
                None,
                Some(r#"Bearer realm="https://auth.test/t",service="a \"b\" \\c""#),
            ),
            (
                &[r#"bearer realm="https://reg.test/t""#],
                Some("invalid_token"),
                Some(r#"Bearer realm="https://reg.test/t",error="invalid_token""#),
            ),
            (
                &[r#"Bearer realm="https://reg.test/t",error="insufficient_scope""#],
                Some("invalid_token"),
                Some(r#"Bearer realm="https://reg.test/t",error="insufficient_scope""#),
            ),
            (&[r#"Basic realm="x""#], None, None),
            (&[r#"Bearer realm="https://evil.example/t""#], None, None),
            (&[r#"Bearer realm="http://auth.test/t""#], None, None),
            (&["Bearer"], None, None),
            (&[], None, None),
        ];
        let endpoint: Url = "https://reg.test".parse().unwrap();
        let trusted = ["auth.test".to_owned()];
        for (lines, error, expected) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
            }
            let handed = bearer_to_hand_on(&headers, (&endpoint, &trusted), *error);
            assert_eq!(handed.as_ref().map(|value| value.to_str().unwrap()), *expected, "{lines:?}");
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
