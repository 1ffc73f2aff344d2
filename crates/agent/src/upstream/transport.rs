//! One request to one server: the deadline for its headers, the check that the server is not this agent, and bodies
//! read with a deadline for each chunk and a bound on the whole.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::Response;
use serde::Deserialize;
use url::{Host, Url};

use super::body::Body;
use super::error::{Reason, UpstreamError};
use super::headers;
use super::limits::{ERROR_BODY_WAIT, ERROR_BYTES_MAX, MESSAGE_CHARS_MAX};
use crate::rate::Throttle;

/// Deadlines and our own addresses.
pub(super) struct Transport {
    pub connect_timeout: Duration,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub own_addresses: Vec<SocketAddr>,
    pub throttle: Throttle,
}

impl Transport {
    /// Sends one request and waits for the response headers. Redirects are not followed.
    pub async fn send(
        &self,
        client: &reqwest::Client,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        form: Option<&[(&str, &str)]>,
    ) -> Result<Response, UpstreamError> {
        if self.is_own(url).await {
            return Err(UpstreamError::new(url, Reason::OwnAddress));
        }
        let mut request = client.request(method, url.clone()).headers(headers);
        if let Some(form) = form {
            request = request.form(form);
        }
        // The client has its own deadline for connecting, which comes before the wait for headers.
        let limit = self.connect_timeout + self.header_timeout;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(UpstreamError::request(url, error)),
            Err(_) => Err(UpstreamError::new(url, Reason::HeadersLate(limit))),
        }
    }

    /// The whole body, decoded, if it has at most `limit` bytes.
    pub async fn read(&self, url: &Url, response: Response, limit: u64) -> Result<Bytes, UpstreamError> {
        let announced = headers::length(response.headers());
        let too_large = || UpstreamError::new(url, Reason::TooLarge { limit });
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = Body::new(url.clone(), response, self.idle_timeout, None)?;
        let mut all =
            BytesMut::with_capacity(announced.and_then(|n| usize::try_from(n).ok()).unwrap_or_default());
        while let Some(chunk) = body.chunk().await? {
            if all.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large());
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// Reads a body that nobody wants, if it is short: the connection can then be used again.
    pub async fn drain(&self, url: &Url, response: Response) {
        let _ = tokio::time::timeout(ERROR_BODY_WAIT, self.read(url, response, ERROR_BYTES_MAX)).await;
    }

    /// The error that a status stands for. Only the registry's own words are passed on: an object store's error may
    /// quote the signature of the URL.
    pub async fn status_error(&self, url: &Url, response: Response, at_home: bool) -> UpstreamError {
        let status = response.status().as_u16();
        let retry_after = headers::retry_after(response.headers(), SystemTime::now());
        let mut message = None;
        if at_home {
            let read = tokio::time::timeout(ERROR_BODY_WAIT, self.read(url, response, ERROR_BYTES_MAX));
            message = read.await.ok().and_then(Result::ok).and_then(|body| registry_message(&body));
        }
        UpstreamError::new(url, Reason::Status { status, message, retry_after })
    }

    /// Whether a URL leads to a listener of this process. Names are looked up only where the port makes it possible.
    async fn is_own(&self, url: &Url) -> bool {
        let Some(port) = url.port_or_known_default() else { return false };
        let listeners: Vec<IpAddr> = self
            .own_addresses
            .iter()
            .filter(|own| own.port() == port)
            .map(|own| own.ip().to_canonical())
            .collect();
        if listeners.is_empty() {
            return false;
        }
        let targets: Vec<IpAddr> = match url.host() {
            None => return false,
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => {
                let found =
                    tokio::time::timeout(self.connect_timeout, tokio::net::lookup_host((name, port))).await;
                found.ok().and_then(Result::ok).map_or_else(Vec::new, |list| list.map(|a| a.ip()).collect())
            }
        };
        targets
            .iter()
            .map(IpAddr::to_canonical)
            .any(|target| listeners.iter().any(|own| reaches(*own, target)))
    }
}

/// Whether a connection to `target` arrives at a listener on `own`, the ports being equal.
fn reaches(own: IpAddr, target: IpAddr) -> bool {
    if own == target {
        return true;
    }
    if target.is_unspecified() {
        return own.is_loopback();
    }
    // Only addresses of this machine can be bound.
    own.is_unspecified() && UdpSocket::bind((target, 0)).is_ok()
}

/// `CODE: message` of a registry's error JSON, with nothing in it that a terminal would obey.
fn registry_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let parsed: Errors = serde_json::from_slice(body).ok()?;
    let first = parsed.errors.into_iter().next()?;
    let text = match (first.code.is_empty(), first.message.is_empty()) {
        (false, false) => format!("{}: {}", first.code, first.message),
        _ => first.code + &first.message,
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let table = [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m pull","detail":{"x":1}}]}"#,
                Some("DENIED: no[31m pull"),
            ),
            (r#"{"errors":[{"message":"only this"}]}"#, Some("only this")),
            (r#"{"errors":[]}"#, None),
            ("<html>no</html>", None),
            ("", None),
        ];
        for (body, expected) in table {
            assert_eq!(registry_message(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn own_addresses_are_recognised() {
        let transport = |own: &str| Transport {
            connect_timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            own_addresses: vec![own.parse().unwrap()],
            throttle: Throttle::default(),
        };
        let table = [
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/", true),
            ("127.0.0.1:5000", "http://127.0.0.1:5001/v2/", false),
            ("127.0.0.1:5000", "http://127.0.0.2:5000/v2/", false),
            ("127.0.0.1:5000", "http://0.0.0.0:5000/v2/", true),
            ("127.0.0.1:5000", "http://[::ffff:127.0.0.1]:5000/v2/", true),
            ("127.0.0.1:80", "http://127.0.0.1/v2/", true),
            ("0.0.0.0:5000", "http://127.0.0.9:5000/v2/", true),
            ("0.0.0.0:5000", "http://192.0.2.1:5000/v2/", false),
            ("127.0.0.1:5000", "http://localhost:5000/v2/", true),
        ];
        for (own, url, expected) in table {
            assert_eq!(transport(own).is_own(&url.parse().unwrap()).await, expected, "{own} {url}");
        }
    }
}
