//! The library's requests over our own client: TLS as everywhere in the agent (rustls with ring, verified, the
//! system's CAs and the configured one), no redirects, and error bodies cut down to their code, because the rest may
//! quote the key and the signature of the request. Deadlines are the caller's.

use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use rustls::ClientConfig;

use super::limits::{ERROR_BYTES_MAX, IDLE_CONNECTION_LIFETIME, IDLE_CONNECTIONS_PER_HOST};
use super::{TierSettings, TierSettingsError};
use crate::tls;

/// Longest code of an error that is taken for one.
const CODE_CHARS_MAX: usize = 64;

/// Hands the library our clients.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: reqwest::Client,
    /// For the instance's metadata service, which no proxy can reach.
    direct: reqwest::Client,
}

impl Connector {
    pub fn new(settings: &TierSettings) -> Result<Self, TierSettingsError> {
        let tls = tls(settings.ca.as_deref())?;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(&settings.user_agent)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(settings.connect_timeout)
                .pool_idle_timeout(IDLE_CONNECTION_LIFETIME)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
        };
        let client = builder().build().map_err(TierSettingsError::Client)?;
        let direct = builder().no_proxy().build().map_err(TierSettingsError::Client)?;
        Ok(Connector { client, direct })
    }
}

impl HttpConnector for Connector {
    /// The library's own options are of no account: a plain `http://` endpoint is a matter of the configuration.
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let client = if is_metadata(request.uri()) { &self.direct } else { &self.client };
        let response = HttpService::call(client, request).await?;
        if !response.status().is_client_error() && !response.status().is_server_error() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ERROR_BYTES_MAX).collect().await.map(|body| body.to_bytes());
        let code = body.ok().and_then(|body| error_code(&body)).unwrap_or_default();
        Ok(HttpResponse::from_parts(parts, Bytes::from(code).into()))
    }
}

/// The addresses that clouds give their metadata and credential services.
fn is_metadata(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_unicast_link_local() || address.segments()[0] == 0xfd00,
        Err(_) => host == "metadata.google.internal" || host == "metadata",
    }
}

/// `NoSuchKey` of `<Error><Code>NoSuchKey</Code>...`, as S3, Azure and (in XML) Google answer.
fn error_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_code =
        code.len() <= CODE_CHARS_MAX && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    is_code.then(|| code.to_owned())
}

fn tls(ca: Option<&[u8]>) -> Result<ClientConfig, TierSettingsError> {
    // What cannot be read there has been told by the client for the registries.
    let mut roots = tls::system_roots();
    if let Some(pem) = ca {
        tls::trust(&mut roots, pem).map_err(|error| TierSettingsError::Ca(error.to_string()))?;
    }
    let builder = tls::client(roots).map_err(TierSettingsError::Tls)?;
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_an_error_is_kept() {
        let table = [
            (
                "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>",
                Some("SignatureDoesNotMatch"),
            ),
            ("<Error><Code>a b\u{1b}</Code></Error>", None),
            ("<html>no</html>", None),
            ("", None),
        ];
        for (body, code) in table {
            assert_eq!(error_code(body.as_bytes()).as_deref(), code, "{body}");
        }
    }

    #[test]
    fn metadata_services_are_reached_without_a_proxy() {
        let table = [
            ("http://169.254.169.254/latest/meta-data", true),
            ("http://169.254.170.2/v2/credentials", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://metadata.google.internal/computeMetadata", true),
            ("https://s3.eu-central-1.amazonaws.com/bucket", false),
            ("http://127.0.0.1:9000/bucket", false),
        ];
        for (uri, expected) in table {
            assert_eq!(is_metadata(&uri.parse().unwrap()), expected, "{uri}");
        }
    }
}
