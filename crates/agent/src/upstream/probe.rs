//! One look at a source, for somebody who wants to know whether it can be used and if not, why: the version check with the
//! agent's own client, certificates and credentials.
//!
//! Nothing is asked twice, nothing is fetched, and the source's health is not touched. What comes out is a word that can be
//! decided on, and a text without credentials in it.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, DATE, LOCATION, VIA};
use http::{HeaderMap, Method};
use reqwest::Response;
use shoal_engine::{Registry, SourceFault};
use url::Url;

use super::Upstream;
use super::auth::{AuthFault, Authorization};
use super::challenge::challenges_of;
use super::error::{Reason, UpstreamError, redacted};
use super::headers;
use super::hops::Hops;
use super::source::Source;
use crate::causes::chain;

/// Header that a registry's answer to the version check may have (distribution specification, legacy part).
const API_VERSION: &str = "docker-distribution-api-version";

/// What one look at a source has shown.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Where it is, without anything secret.
    pub endpoint: String,
    /// Whether it was asked with credentials of ours, or with a client certificate.
    pub identified: bool,
    /// Why there are no credentials although some are configured.
    pub no_credentials: Option<String>,
    /// How far its clock is ahead of ours, seconds; none if it did not say what time it is. Precise to a second or two.
    pub clock_ahead: Option<i64>,
    /// How long its first answer took.
    pub took: Option<Duration>,
    /// Whether it can be used.
    pub trouble: Option<Trouble>,
}

/// Why a source cannot be used. The text says what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its name has no address.
    Name(String),
    /// Nobody answers.
    Connect(String),
    /// It does not answer in time.
    Late(String),
    /// Its certificate is from nobody who is trusted.
    Untrusted(String),
    /// Its certificate has expired, or is not valid yet.
    Expired(String),
    /// Encryption fails for another reason: another name, another protocol.
    Tls(String),
    /// The address is that of the agent itself.
    Loop,
    /// Somebody answers who is no registry.
    NoRegistry(String),
    /// It does not accept the credentials.
    Refused(String),
    /// It wants credentials, and there are none.
    Anonymous(String),
    /// Its tokens would have to come from a place that is not trusted with the credentials.
    Realm(String),
    /// Its token server cannot be used.
    TokenServer(String),
    /// It limits this node.
    Limited(String),
    /// It fails.
    Sick(String),
}

impl Upstream {
    /// Asks a source for its version, as the agent would ask it for anything. `looks_up` says that its name is looked up
    /// here and not by a proxy.
    pub async fn look_at(&self, registry: &Registry, looks_up: bool) -> Result<Sight, UpstreamError> {
        let source = self.source(registry)?;
        let resolved = source.credentials.resolve().await;
        let mut sight = Sight {
            endpoint: redacted(&source.endpoint),
            identified: resolved.login.is_some() || source.shows_certificate,
            no_credentials: resolved.problem.as_deref().map(|problem| chain(problem)),
            clock_ahead: None,
            took: None,
            trouble: None,
        };
        sight.trouble = self.greet(&source, looks_up, &mut sight).await.err();
        Ok(sight)
    }

    async fn greet(&self, source: &Source, looks_up: bool, sight: &mut Sight) -> Result<(), Trouble> {
        if looks_up {
            look_up(&source.endpoint, self.inner.exchange.transport.connect_timeout).await?;
        }
        let begun = std::time::Instant::now();
        let first = self.check(source, None).await?;
        sight.took = Some(begun.elapsed());
        let date = first.headers().get(DATE).and_then(|date| date.to_str().ok());
        sight.clock_ahead = date.and_then(|date| clock_ahead(date, SystemTime::now()));
        if first.status() != 401 {
            return self.judge(source, first, sight.identified).await;
        }
        let challenges = challenges_of(first.headers());
        let exchange = &self.inner.exchange;
        exchange.transport.drain(&source.base(), first).await;
        let answer = exchange.authorizer.answer_check(&exchange.transport, source, &challenges).await;
        let authorization = answer.map_err(|fault| auth_trouble(&fault, sight.identified))?;
        if !authorization.identifies {
            // What a token of nobody opens is another question for each repository.
            return Ok(());
        }
        let second = self.check(source, Some(&authorization)).await?;
        self.judge(source, second, true).await
    }

    async fn check(&self, source: &Source, shown: Option<&Authorization>) -> Result<Response, Trouble> {
        let exchange = &self.inner.exchange;
        let mut headers = HeaderMap::from_iter([(VIA, Hops::default().via(&exchange.instance))]);
        headers.extend(shown.map(|shown| (AUTHORIZATION, shown.header.clone())));
        let sent = exchange.transport.send(&source.client, Method::GET, &source.base(), headers, None).await;
        sent.map_err(|error| trouble(&error))
    }

    async fn judge(&self, source: &Source, answer: Response, identified: bool) -> Result<(), Trouble> {
        let (status, headers) = (answer.status(), answer.headers());
        if status.is_success() && is_registry(headers) {
            return Ok(());
        }
        let said = if status.is_redirection() {
            let to = headers.get(LOCATION).and_then(|to| Url::parse(to.to_str().ok()?).ok());
            format!("answered {status}, to {}", to.map_or_else(|| "elsewhere".to_owned(), |to| redacted(&to)))
        } else if status.is_success() {
            let kind = headers::media_type(headers).unwrap_or_else(|| "no content type".to_owned());
            format!("answered {status} with {kind}")
        } else {
            self.inner.exchange.transport.status_error(&source.base(), answer, true).await.to_string()
        };
        Err(match status.as_u16() {
            401 | 403 if identified => Trouble::Refused(said),
            401 | 403 => Trouble::Anonymous(said),
            429 => Trouble::Limited(said),
            500..=599 => Trouble::Sick(said),
            _ => Trouble::NoRegistry(said),
        })
    }
}

/// An error and its innermost cause, which is what the system said. What lies between are the HTTP client's layers.
fn brief(error: &UpstreamError) -> String {
    causes(error).last().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Whether the endpoint has an address, or a name that has one.
async fn look_up(endpoint: &Url, within: Duration) -> Result<(), Trouble> {
    let (Some(url::Host::Domain(name)), Some(port)) = (endpoint.host(), endpoint.port_or_known_default())
    else {
        return Ok(());
    };
    let first = async { tokio::net::lookup_host((name, port)).await.map(|mut found| found.next()) };
    match tokio::time::timeout(within, first).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err(Trouble::Name(format!("{name} has no address"))),
        Ok(Err(error)) => Err(Trouble::Name(format!("{name}: {error}"))),
        Err(_) => Err(Trouble::Name(format!("{name}: not looked up within {within:?}"))),
    }
}

fn is_registry(headers: &HeaderMap) -> bool {
    headers.contains_key(API_VERSION)
        || headers::media_type(headers).is_none_or(|kind| !kind.eq_ignore_ascii_case("text/html"))
}

/// How far a clock is ahead of ours that says `date` (the header of RFC 9110, section 6.6.1), seconds.
pub(crate) fn clock_ahead(date: &str, now: SystemTime) -> Option<i64> {
    let told = httpdate::parse_http_date(date).ok()?;
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    Some(told.duration_since(now).map_or_else(|behind| -seconds(behind.duration()), seconds))
}

/// What a request that came to nothing says of the source.
fn trouble(error: &UpstreamError) -> Trouble {
    let text = brief(error);
    match error.reason() {
        Reason::OwnAddress => Trouble::Loop,
        Reason::HeadersLate(_) => Trouble::Late(text),
        Reason::Connect(cause) | Reason::Request(cause) => match tls_fault(cause) {
            Some(fault) => tls_trouble(fault, text),
            None if cause.is_timeout() => Trouble::Late(text),
            // Whoever does not speak TLS hangs up.
            None if cause.is_connect() && ends_early(cause) => Trouble::Tls(text),
            None => Trouble::Connect(text),
        },
        _ => Trouble::Sick(text),
    }
}

fn tls_trouble(fault: &rustls::Error, text: String) -> Trouble {
    use rustls::CertificateError as Certificate;
    match fault {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            Certificate::UnknownIssuer | Certificate::BadSignature => Trouble::Untrusted(text),
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. } => Trouble::Expired(text),
            _ => Trouble::Tls(text),
        },
        _ => Trouble::Tls(text),
    }
}

/// The TLS library's own word, however deep the HTTP client has put it.
fn tls_fault(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn ends_early(error: &reqwest::Error) -> bool {
    let mut io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}

/// What an error says is behind it, the outermost first. An I/O error shows what it was made of only when it is asked.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
        Some(cause)
    })
}

fn auth_trouble(fault: &AuthFault, identified: bool) -> Trouble {
    let text = match fault {
        AuthFault::Token(error) => brief(error),
        other => chain(other),
    };
    match fault {
        AuthFault::Token(error) => match error.fault() {
            SourceFault::Denied { .. } | SourceFault::Stopped if identified => Trouble::Refused(text),
            SourceFault::Denied { .. } | SourceFault::Stopped => Trouble::Anonymous(text),
            SourceFault::RateLimited { .. } => Trouble::Limited(text),
            _ => Trouble::TokenServer(text),
        },
        AuthFault::NoToken => Trouble::TokenServer(text),
        AuthFault::Realm(_) => Trouble::Realm(text),
        AuthFault::NoChallenge => Trouble::NoRegistry(text),
        AuthFault::NoCredentials(_) => Trouble::Anonymous(text),
        AuthFault::Refused | AuthFault::Unsendable => Trouble::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn clocks() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 07:49:37 GMT", Some(-3600)),
            ("yesterday", None),
        ] {
            assert_eq!(clock_ahead(date, now), expected, "{date}");
        }
    }

    #[test]
    fn who_answers_like_a_registry() {
        let headers = |list: &[(&'static str, &str)]| -> HeaderMap {
            list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        assert!(is_registry(&headers(&[])));
        assert!(is_registry(&headers(&[("content-type", "application/json; charset=utf-8")])));
        assert!(is_registry(&headers(&[(API_VERSION, "registry/2.0"), ("content-type", "text/html")])));
        assert!(!is_registry(&headers(&[("content-type", "text/html; charset=utf-8")])));
    }

    #[test]
    fn what_tls_faults_mean() {
        use rustls::CertificateError as Certificate;
        let table = [
            (
                rustls::Error::InvalidCertificate(Certificate::UnknownIssuer),
                Trouble::Untrusted(String::new()),
            ),
            (rustls::Error::InvalidCertificate(Certificate::Expired), Trouble::Expired(String::new())),
            (rustls::Error::InvalidCertificate(Certificate::NotValidForName), Trouble::Tls(String::new())),
            (rustls::Error::HandshakeNotComplete, Trouble::Tls(String::new())),
        ];
        for (fault, expected) in table {
            assert_eq!(tls_trouble(&fault, String::new()), expected, "{fault}");
        }
    }
}
