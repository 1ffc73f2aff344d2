//! Every way in which a request is refused, as HTTP: the only place where an error becomes a status.
//!
//! The statuses are chosen by what clients do with them (`contract.md` 4.5): a 502 is never repeated by containerd,
//! where 500, 503 and 504 cost a repeat and 408 and 429 cost five at once; a 404 sends every client to its next host;
//! a 401 would make it hand out its user's password, so there is none but the one that hands on a registry's own Bearer
//! challenge, where the operator wants clients to prove their right: the password then goes to the registry's token server.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use crate::node::{Cause, PullError};
use crate::registry::path::{Kind, RouteError};
use crate::registry::respond;

/// Methods that are answered.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD");

/// The error codes of the distribution specification ("Error Codes"), whose list is closed for answers with 4xx. Those of
/// pushing cannot occur here. [`Code::Unavailable`] is from the registry API that came before it: clients that read the body of
/// a 502 know and print it (containerd, crane, oras), docker and podman go by the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// No source has the blob.
    BlobUnknown,
    /// The digest is none.
    DigestInvalid,
    /// No source has the manifest.
    ManifestUnknown,
    /// A name does not match the grammar.
    NameInvalid,
    /// No source has the repository, or the registry was not named.
    NameUnknown,
    /// A size or range does not fit the content.
    SizeInvalid,
    /// The origin refuses us.
    Denied,
    /// The client has to prove its right.
    Unauthorized,
    /// What was asked is not done here.
    Unsupported,
    /// It cannot be done now.
    Unavailable,
}

/// A refused request.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Status of the answer.
    pub status: StatusCode,
    code: Code,
    message: String,
    causes: Vec<Cause>,
    extra: Option<(http::HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: Code,
    message: &'a str,
    #[serde(skip_serializing_if = "<[Cause]>::is_empty")]
    detail: &'a [Cause],
}

impl Refusal {
    fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), causes: Vec::new(), extra: None }
    }

    fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.causes = causes;
        self
    }

    /// A method other than GET and HEAD: this mirror is read-only (C21).
    pub fn method(method: &Method) -> Self {
        let message =
            format!("{method} is not supported; this mirror is read-only, push to the registry itself");
        let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message);
        refusal.extra = Some((header::ALLOW, ALLOW));
        refusal
    }

    /// The path or query asks for nothing that can be served.
    pub fn route(error: &RouteError) -> Self {
        let (status, code) = match error {
            RouteError::NoEndpoint => (StatusCode::NOT_FOUND, Code::Unsupported),
            RouteError::NoRegistry(_) => (StatusCode::NOT_FOUND, Code::NameUnknown),
            RouteError::TooLong(_) => (StatusCode::URI_TOO_LONG, Code::NameInvalid),
            RouteError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
            RouteError::Encoding(_) | RouteError::Name(_) | RouteError::RepeatedNamespace(_) => {
                (StatusCode::BAD_REQUEST, Code::NameInvalid)
            }
            RouteError::Parameter { .. } => (StatusCode::BAD_REQUEST, Code::Unsupported),
        };
        Refusal::new(status, code, error.to_string())
    }

    /// The node cannot serve the pull.
    pub fn pull(error: PullError, kind: Kind) -> Self {
        let message = error.to_string();
        let gateway = |message| Refusal::new(StatusCode::BAD_GATEWAY, Code::Unavailable, message);
        match error {
            PullError::Unsatisfiable { size } => {
                let mut refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid, message);
                refusal.extra = Some((header::CONTENT_RANGE, respond::content_range_unsatisfied(size)));
                refusal
            }
            PullError::Unknown(causes) | PullError::Withheld(causes) => {
                let code = match kind {
                    Kind::Blob => Code::BlobUnknown,
                    Kind::Manifest | Kind::Referrers => Code::ManifestUnknown,
                    Kind::Tags | Kind::Base | Kind::Other => Code::NameUnknown,
                };
                Refusal::new(StatusCode::NOT_FOUND, code, message).with_causes(causes)
            }
            PullError::Denied(causes) => {
                Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message).with_causes(causes)
            }
            PullError::Unauthorized { challenge } => {
                let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message);
                refusal.extra = Some((header::WWW_AUTHENTICATE, challenge));
                refusal
            }
            PullError::Exhausted(causes) => gateway(message).with_causes(causes),
            PullError::TimedOut(_) => gateway(message),
            PullError::Loop => Refusal::new(StatusCode::LOOP_DETECTED, Code::Unsupported, message),
            PullError::Draining => {
                // The client's next request has to open a connection, which whoever comes after us answers.
                let mut refusal = gateway(message);
                refusal.extra = Some((header::CONNECTION, HeaderValue::from_static("close")));
                refusal
            }
        }
    }

    /// One line for the log: what happened, and what each source said.
    pub fn summary(&self) -> String {
        let mut line = self.message.clone();
        for (at, cause) in self.causes.iter().enumerate() {
            line.push_str(if at == 0 { ": " } else { "; " });
            line.push_str(&cause.source);
            line.push_str(": ");
            line.push_str(&cause.reason);
        }
        line
    }

    /// The answer. A HEAD has no body, errors included.
    pub fn into_response(self, method: &Method) -> Response {
        let mut headers = HeaderMap::with_capacity(4);
        respond::api_version(&mut headers);
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        let body = if method == Method::HEAD {
            Body::empty()
        } else {
            let envelope = Envelope {
                errors: [Entry { code: self.code, message: &self.message, detail: &self.causes }],
            };
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Body::from(serde_json::to_vec(&envelope).expect("strings serialise"))
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

#[cfg(test)]
mod tests;
