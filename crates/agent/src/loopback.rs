//! What is on this machine: where its listeners are reached, and an HTTP client without proxies and TLS roots to load.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use crate::tls;

/// Where a listener is reached from this machine: one that listens everywhere, at the loopback address of its family.
pub fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

/// A client with connections of its own.
pub fn client(user_agent: &str) -> Result<Client> {
    let tls = tls::client(rustls::RootCertStore::empty())
        .context("the TLS versions of rustls are supported by its own provider")?
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
