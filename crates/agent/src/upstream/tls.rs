//! HTTP clients: one for each distinct setting of TLS and of the time for a connection, so that registries that agree share their connections.
//!
//! The certificate of every https server is verified, always. The provider is named here and in no process-wide
//! place. HTTP/2 is agreed by ALPN; redirects and decoding are ours.

use std::collections::HashMap;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::credentials::Secret;
use super::limits::{
    H2_CONNECTION_WINDOW, H2_PING_INTERVAL, H2_STREAM_WINDOW, IDLE_CONNECTION_LIFETIME,
    IDLE_CONNECTIONS_PER_HOST,
};
use super::{Settings, SettingsError};
use crate::tls;

/// What distinguishes two clients.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TlsKey {
    ca: Option<Vec<u8>>,
    identity: Option<Secret>,
    connect_timeout: Duration,
}

/// Makes clients, each once.
pub(super) struct Clients<'a> {
    settings: &'a Settings,
    platform: Vec<CertificateDer<'static>>,
    made: HashMap<TlsKey, reqwest::Client>,
}

impl<'a> Clients<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a CA certificate of this system cannot be read");
        }
        if found.certs.is_empty() {
            // Not an error: a node may use plain http or its own CA only. Every https server is refused then.
            tracing::warn!(
                "no CA certificates on this system; https registries need `ca` or the ca-certificates package"
            );
        }
        Clients { settings, platform: found.certs, made: HashMap::new() }
    }

    /// The client for a CA, an identity and a patience. `registry` is named in the error.
    pub fn get(
        &mut self,
        registry: &str,
        ca: Option<&[u8]>,
        identity: Option<&Secret>,
        connect_timeout: Duration,
    ) -> Result<reqwest::Client, SettingsError> {
        let key = TlsKey { ca: ca.map(<[u8]>::to_vec), identity: identity.cloned(), connect_timeout };
        if let Some(client) = self.made.get(&key) {
            return Ok(client.clone());
        }
        let tls = self.tls(registry, ca, identity)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(&self.settings.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE_CONNECTION_LIFETIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .http2_initial_stream_window_size(H2_STREAM_WINDOW)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
            .http2_keep_alive_interval(H2_PING_INTERVAL)
            .http2_keep_alive_timeout(self.settings.idle_timeout)
            .build()
            .map_err(|error| SettingsError::Client { registry: registry.to_owned(), error })?;
        self.made.insert(key, client.clone());
        Ok(client)
    }

    fn tls(
        &self,
        registry: &str,
        ca: Option<&[u8]>,
        identity: Option<&Secret>,
    ) -> Result<ClientConfig, SettingsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.platform.iter().cloned());
        if let Some(pem) = ca {
            tls::trust(&mut roots, pem).map_err(|error| SettingsError::Ca {
                registry: registry.to_owned(),
                reason: error.to_string(),
            })?;
        }
        let builder = tls::client(roots)
            .map_err(|error| SettingsError::Tls { registry: registry.to_owned(), error })?;
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let wrong =
                    |reason: String| SettingsError::Identity { registry: registry.to_owned(), reason };
                let pem = pem.expose().as_bytes();
                let chain = tls::certificates(pem).map_err(|error| wrong(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(pem)
                    .map_err(|_| wrong("there is no private key".into()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
