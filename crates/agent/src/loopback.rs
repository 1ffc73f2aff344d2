//! The HTTP client for what is on this machine: no proxies, no TLS roots to load.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

/// A client with connections of its own.
pub fn client(user_agent: &str) -> Result<Client> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("the TLS versions of rustls are supported by its own provider")?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Client::builder()
        .user_agent(user_agent)
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .build()
        .context("cannot make an HTTP client")
}

/// Sends a request; an error, with what the server said, for any other status than `expected`.
pub async fn send(request: RequestBuilder, expected: StatusCode) -> Result<Response> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    if status != expected {
        let said = response.text().await.unwrap_or_default();
        bail!("{url} answered {status} instead of {expected}: {}", said.trim());
    }
    Ok(response)
}

/// Sends a GET and reads the body to its end.
pub async fn get(client: &Client, url: &str) -> Result<Bytes> {
    Ok(send(client.get(url), StatusCode::OK).await?.bytes().await?)
}
