//! Token realms. Question: may a token be fetched from the URL that a challenge names? Answer: only over https, and
//! only from the registry's own host, its registrable domain, or a host the operator trusts; over plain http only for
//! a registry that is itself configured as plain http, from its own host or one the operator trusts. Prevents a registry, or
//! somebody who speaks in its name, from collecting credentials for a third party (`contract.md` 4.2).

use url::{Host, Url};

/// Why a token is not fetched from a realm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RealmFault {
    /// Not a URL, or one that cannot be asked.
    #[error("the token realm is no http(s) URL")]
    NoUrl,
    /// Plain http, although the registry is asked over https, or from a host that is neither its own nor trusted.
    #[error("the token realm {0} is plain http")]
    Plain(String),
    /// Somebody else's host.
    #[error(
        "the token realm {0} is neither on the registry's host nor in its domain; trusted_realms can allow it"
    )]
    Foreign(String),
}

/// The realm's URL, if a token for the registry at `endpoint` may be fetched there.
pub(super) fn judge(endpoint: &Url, realm: &str, trusted: &[String]) -> Result<Url, RealmFault> {
    let mut url = Url::parse(realm).map_err(|_| RealmFault::NoUrl)?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    let (Some(own), Some(host)) = (endpoint.host(), url.host()) else { return Err(RealmFault::NoUrl) };
    let named = || host.to_string();
    let is_named = own == host || trusted.iter().any(|entry| is_trusted(entry, &url));
    match url.scheme() {
        "https" => {}
        // A registry that is configured as plain http has shown its credentials to the network already.
        "http" if endpoint.scheme() == "http" && is_named => return Ok(url),
        "http" => return Err(RealmFault::Plain(named())),
        _ => return Err(RealmFault::NoUrl),
    }
    let allowed = is_named || same_domain(&own, &host);
    if allowed { Ok(url) } else { Err(RealmFault::Foreign(named())) }
}

fn same_domain(a: &Host<&str>, b: &Host<&str>) -> bool {
    let (Host::Domain(a), Host::Domain(b)) = (a, b) else { return false };
    // `None`: the name is itself a public suffix, under which everybody may live.
    match (psl::domain_str(a), psl::domain_str(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// `auth.test` trusts that host on every port, `auth.test:8443` only on this one.
fn is_trusted(entry: &str, url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    entry.eq_ignore_ascii_case(host)
        || url
            .port_or_known_default()
            .is_some_and(|port| entry.eq_ignore_ascii_case(&format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms() {
        let foreign = |host: &str| Err(RealmFault::Foreign(host.into()));
        let plain = |host: &str| Err(RealmFault::Plain(host.into()));
        let table = [
            ("https://registry-1.hub.test", "https://auth.hub.test/token", Ok("https://auth.hub.test/token")),
            ("https://hub.test", "https://hub.test:8443/t", Ok("https://hub.test:8443/t")),
            ("https://Hub.test", "HTTPS://hub.TEST/t?x=1", Ok("https://hub.test/t?x=1")),
            ("https://hub.test", "https://u:p@auth.hub.test/t#f", Ok("https://auth.hub.test/t")),
            ("https://hub.test", "https://evil.test/t", foreign("evil.test")),
            ("https://hub.test", "https://hub.test.evil.example/t", foreign("hub.test.evil.example")),
            ("https://a.co.uk", "https://b.co.uk/t", foreign("b.co.uk")),
            ("https://x.a.co.uk", "https://y.a.co.uk/t", Ok("https://y.a.co.uk/t")),
            ("https://one.github.io", "https://two.github.io/t", foreign("two.github.io")),
            ("https://10.0.0.1", "https://10.0.0.1/t", Ok("https://10.0.0.1/t")),
            ("https://10.0.0.1", "https://10.0.0.2/t", foreign("10.0.0.2")),
            ("https://hub.test", "http://hub.test/t", plain("hub.test")),
            ("https://hub.test", "http://auth.hub.test/t", plain("auth.hub.test")),
            ("http://hub.test:5000", "http://hub.test:5001/t", Ok("http://hub.test:5001/t")),
            ("http://hub.test:5000", "http://auth.hub.test/t", plain("auth.hub.test")),
            ("http://hub.test:5000", "https://auth.hub.test/t", Ok("https://auth.hub.test/t")),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/t", Ok("http://127.0.0.1:5001/t")),
            ("https://hub.test", "https://sso.corp.example/t", Ok("https://sso.corp.example/t")),
            ("https://hub.test", "https://sso2.corp.example:8443/t", Ok("https://sso2.corp.example:8443/t")),
            ("https://hub.test", "https://sso2.corp.example/t", foreign("sso2.corp.example")),
            ("https://hub.test", "http://sso.corp.example/t", plain("sso.corp.example")),
            ("http://hub.test:5000", "http://sso.corp.example/t", Ok("http://sso.corp.example/t")),
            ("https://hub.test", "file:///etc/passwd", Err(RealmFault::NoUrl)),
            ("https://hub.test", "ftp://hub.test/", Err(RealmFault::NoUrl)),
            ("https://hub.test", "/token", Err(RealmFault::NoUrl)),
        ];
        let trusted = ["sso.corp.example".to_owned(), "SSO2.corp.example:8443".to_owned()];
        for (endpoint, realm, expected) in table {
            let found = judge(&endpoint.parse().unwrap(), realm, &trusted);
            assert_eq!(found, expected.map(|url: &str| url.parse().unwrap()), "{endpoint} {realm}");
        }
    }
}
