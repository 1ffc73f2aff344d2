//! Why a request to a source failed. Every variant answers to one [`SourceFault`], which is all the engine decides
//! on; the text is for the operator and never holds a credential, a token or the query of a signed URL.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::{Digest, Registry, Scope, SourceFault, walk};
use url::Url;

use super::auth::AuthFault;
use super::credentials::CredentialsError;
use super::redirect::RedirectFault;
use crate::causes::chain;
use crate::node::Cause;
use crate::tier::TierError;

/// What rustls says of an answer that is no TLS, such as that of an HTTP server.
const NO_TLS: &str = "InvalidContentType";

/// What went wrong, and at which URL.
#[derive(Debug)]
pub struct UpstreamError {
    at: String,
    reason: Box<Reason>,
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

/// What went wrong. The source is to blame for all of it but [`Reason::Hops`]; nothing has been changed on this node.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    /// No connection: name look-up, TCP or TLS. Worth a retry.
    #[error("cannot connect")]
    Connect(#[source] reqwest::Error),
    /// A connection, but no response headers in time. Worth a retry.
    #[error("no response headers within {0:?}")]
    HeadersLate(Duration),
    /// The connection broke before the response headers. Worth a retry.
    #[error("the connection broke before an answer came")]
    Request(#[source] reqwest::Error),
    /// An answer with a status that is no success; the status decides.
    #[error("answered {status}{}", said(.message))]
    Status { status: u16, message: Option<String>, retry_after: Option<Duration> },
    /// 401 and 403 after authentication has done what it can, or authentication itself failed.
    #[error("access denied")]
    Auth(#[source] Arc<AuthFault>),
    /// A redirect that must not be followed.
    #[error("redirect not followed")]
    Redirect(#[source] RedirectFault),
    /// The body broke: reset, RST_STREAM, GOAWAY. Worth going on at the byte reached.
    #[error("the body broke off after {received} bytes")]
    Broken {
        received: u64,
        #[source]
        error: std::io::Error,
    },
    /// The body ended cleanly but early. Worth going on at the byte reached.
    #[error("the body ended after {received} of {expected} bytes")]
    Short { received: u64, expected: u64 },
    /// No byte within the idle timeout. Worth going on at the byte reached.
    #[error("the body stalled after {received} bytes: nothing came within {idle:?}")]
    Stalled { received: u64, idle: Duration },
    /// A 206 whose `Content-Range` is missing or is not what was asked.
    #[error("asked for the bytes from {start}, got a 206 with Content-Range {found:?}")]
    ContentRange { start: u64, found: Option<String> },
    /// 416: the range lies outside what this source holds under the digest.
    #[error("has {} bytes, asked for those from {start}", .total.map_or("fewer".to_owned(), |n| n.to_string()))]
    OutOfRange { start: u64, total: Option<u64> },
    /// A `Content-Encoding` that was neither offered nor can be undone.
    #[error("content coding {0:?} is not supported")]
    Encoding(String),
    /// The bytes are not in the content coding that the header names.
    #[error("the body cannot be decoded")]
    Decode(#[source] std::io::Error),
    /// More than a manifest, a listing or a token answer may have.
    #[error("the answer has more than {limit} bytes")]
    TooLarge { limit: u64 },
    /// The bytes are not those the digest names.
    #[error("the content hashes to {found}, not to {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    /// The URL cannot be formed from what was asked.
    #[error("not a registry URL")]
    Url(#[source] url::ParseError),
    /// A page for people where content was asked for: a gateway's log-in.
    #[error("answered with a page for people")]
    Page,
    /// The source's address is one of this agent's own.
    #[error("the address is this agent's own")]
    OwnAddress,
    /// The request has passed through too many agents.
    #[error("the request has passed through {0} agents")]
    Hops(u32),
    /// The source did not answer lately and is left alone for a while; it has not been asked.
    #[error("did not answer lately; it is left alone for another {} s", .0.as_secs())]
    LeftAlone(Duration),
    /// The source wants to be left alone for a while; it has not been asked.
    #[error("limits us; it wants to be left alone for another {} s", .0.as_secs())]
    Limited(Duration),
    /// The mirror has sent other bytes under this digest; it has not been asked.
    #[error("has sent wrong bytes for this digest before; it is not asked for them again")]
    Quarantined,
    /// The source broke off in the middle of this blob; it has not been asked.
    #[error("has broken off in the middle of this blob; others are asked first")]
    BrokeOff,
    /// The object store failed in the middle of a body.
    #[error("{0}")]
    Tier(TierError),
    /// Several sources, or none; what each said, and what it means together.
    #[error("{}", said_by_all(.errors))]
    Walked { errors: Vec<UpstreamError>, fault: SourceFault },
}

fn said_by_all(errors: &[UpstreamError]) -> String {
    if errors.is_empty() {
        return "there is no source that may be asked".into();
    }
    errors.iter().map(|error| format!("{}: {}", error.at, error.reason)).collect::<Vec<_>>().join("; ")
}

fn said(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |text| format!(": {text}"))
}

impl UpstreamError {
    pub(super) fn new(url: &Url, reason: Reason) -> Self {
        UpstreamError { at: redacted(url), reason: Box::new(reason) }
    }

    /// An error of the HTTP client from before the response headers.
    pub(super) fn request(url: &Url, error: reqwest::Error) -> Self {
        // The client's own text would show the query of a signed URL.
        let error = error.without_url();
        let reason = if error.is_connect() { Reason::Connect(error) } else { Reason::Request(error) };
        UpstreamError::new(url, reason)
    }

    /// The object store has begun to send and failed.
    pub(crate) fn of_tier(error: TierError) -> Self {
        UpstreamError { at: "the object store".into(), reason: Box::new(Reason::Tier(error)) }
    }

    /// Tells the operator, where a registry denies access, that we could not show it the configured credentials.
    pub(super) fn without_credentials(mut self, problem: &CredentialsError) -> Self {
        if let Reason::Status { status: 401 | 403 | 404, message, .. } = &mut *self.reason {
            let said = message.take().map_or_else(String::new, |text| text + "; ");
            *message = Some(format!("{said}asked without credentials because {}", chain(problem)));
        }
        self
    }

    /// What a walk has come to; with one source, that source's own error.
    pub(super) fn walked(scope: &Scope, errors: Vec<(bool, UpstreamError)>) -> Self {
        let faults: Vec<_> = errors.iter().map(|(is_mirror, error)| (*is_mirror, error.fault())).collect();
        let fault = match errors.is_empty() {
            // No source is allowed to have it, so for this agent it does not exist.
            true => SourceFault::Missing,
            false => walk::outcome(&faults),
        };
        let mut errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
        match errors.pop() {
            Some(only) if errors.is_empty() && only.fault() == fault => only,
            last => {
                errors.extend(last);
                UpstreamError { at: scope.to_string(), reason: Box::new(Reason::Walked { errors, fault }) }
            }
        }
    }

    /// Whether no source may be asked at all.
    pub fn is_nobody_to_ask(&self) -> bool {
        matches!(&*self.reason, Reason::Walked { errors, .. } if errors.is_empty())
    }

    /// A server that does not know the method, which says nothing about the content.
    pub(super) fn is_method_refused(&self) -> bool {
        matches!(*self.reason, Reason::Status { status: 405 | 501, .. })
    }

    /// What went wrong.
    pub(super) fn reason(&self) -> &Reason {
        &self.reason
    }

    /// What it means for the walk over the sources.
    pub fn fault(&self) -> SourceFault {
        match &*self.reason {
            Reason::Connect(_) | Reason::HeadersLate(_) | Reason::Request(_) => SourceFault::Transient,
            Reason::Status { status, retry_after, .. } => SourceFault::from_status(*status, *retry_after),
            Reason::Auth(fault) => fault.fault(),
            Reason::OwnAddress | Reason::Hops(_) => SourceFault::Loop,
            Reason::LeftAlone(_) => SourceFault::Transient,
            Reason::Limited(pause) => SourceFault::RateLimited { retry_after: Some(*pause) },
            Reason::BrokeOff => SourceFault::Interrupted,
            Reason::Tier(error) => error.source_fault(),
            Reason::Walked { fault, .. } => fault.clone(),
            Reason::Broken { .. } | Reason::Short { .. } | Reason::Stalled { .. } => SourceFault::Interrupted,
            Reason::WrongDigest { .. } | Reason::Quarantined => SourceFault::WrongContent,
            Reason::Redirect(_)
            | Reason::ContentRange { .. }
            | Reason::OutOfRange { .. }
            | Reason::Encoding(_)
            | Reason::Decode(_)
            | Reason::TooLarge { .. }
            | Reason::Page
            | Reason::Url(_) => SourceFault::Protocol,
        }
    }

    /// Whether the headers were well and the body was not.
    pub(super) fn is_broken_body(&self) -> bool {
        matches!(*self.reason, Reason::Broken { .. } | Reason::Short { .. } | Reason::Stalled { .. })
    }

    /// What each source said, in the order in which they were asked, for the `detail` of an error.
    pub fn causes(&self) -> Vec<Cause> {
        match &*self.reason {
            Reason::Walked { errors, .. } if !errors.is_empty() => {
                errors.iter().flat_map(UpstreamError::causes).collect()
            }
            _ => vec![self.cause()],
        }
    }

    /// The whole story in one line, for the log.
    pub fn cause(&self) -> Cause {
        let mut reason = self.reason.to_string();
        if let Reason::Connect(error) = &*self.reason {
            return Cause {
                source: self.at.clone(),
                reason: format!("{reason}: {}", self.no_connection(error)),
            };
        }
        let mut next = self.reason.source();
        while let Some(error) = next {
            let text = error.to_string();
            // Several layers of the HTTP client repeat what the layer below says.
            if !reason.ends_with(&text) {
                reason.push_str(": ");
                reason.push_str(&text);
            }
            next = error.source();
        }
        Cause { source: self.at.clone(), reason }
    }
}

impl UpstreamError {
    /// What the system or TLS said; what lies between are the HTTP client's layers.
    fn no_connection(&self, error: &reqwest::Error) -> String {
        let mut layer: &dyn std::error::Error = error;
        while let Some(below) = layer.source() {
            layer = below;
        }
        let innermost = layer.to_string();
        let registry = Url::parse(&self.at).ok();
        let registry = registry.as_ref().filter(|url| url.scheme() == "https").map(Url::authority);
        match registry {
            Some(registry) if innermost.contains(NO_TLS) => format!(
                "it does not speak TLS; if it is meant to be http, say so in the configuration: \
                 [upstream.registries.\"{registry}\"] endpoint = \"http://{registry}\""
            ),
            _ => innermost,
        }
    }
}

/// A registry's name that is no host for a URL, although it has the form of one.
pub(super) fn unnameable(registry: &Registry) -> UpstreamError {
    UpstreamError {
        at: registry.to_string(),
        reason: Box::new(Reason::Url(url::ParseError::InvalidDomainCharacter)),
    }
}

/// The URL as it may be shown: a signed URL's secret is its query, and a user's may stand before the host.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    if !shown.username().is_empty() || shown.password().is_some() {
        // Both fail only for URLs that cannot have a user at all.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let table = [
            ("https://u:p@blob.test/x?X-Signature=abc#f", "https://blob.test/x"),
            ("https://u@blob.test/x", "https://blob.test/x"),
            ("http://[::1]:5000/v2/", "http://[::1]:5000/v2/"),
        ];
        for (url, shown) in table {
            assert_eq!(redacted(&url.parse().unwrap()), shown);
        }
    }

    #[test]
    fn the_cause_is_told_in_one_line() {
        let url = "https://u:p@blob.test/x?sig=abc".parse().unwrap();
        let error = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by peer");
        let error = UpstreamError::new(&url, Reason::Broken { received: 7, error });
        assert_eq!(error.fault(), SourceFault::Interrupted);
        let cause = error.cause();
        assert_eq!(cause.source, "https://blob.test/x");
        assert_eq!(cause.reason, "the body broke off after 7 bytes: reset by peer");
    }
}
