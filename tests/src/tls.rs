//! Certificates for a test: an authority, a server on loopback, and a client.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

/// An authority and what it has signed.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The year at whose beginning all that it signs ends, and itself.
    ends: Option<i32>,
}

impl Authority {
    /// A fresh authority.
    pub fn new() -> Self {
        Self::until(None)
    }

    /// A fresh authority that ended with all that it signs, at the beginning of this year.
    pub fn ending(year: i32) -> Self {
        Self::until(Some(year))
    }

    fn until(ends: Option<i32>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate for self-signed whose issuer has the same name as it has itself.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        end(&mut params, ends);
        let key = KeyPair::generate().expect("a key can be made");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("parameters are valid"), ends }
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn signed(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key can be made");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        end(&mut params, self.ends);
        (params.signed_by(&key, &self.issuer).expect("parameters are valid"), key)
    }

    /// A client's certificate and key: two PEM texts.
    pub fn client(&self) -> (String, String) {
        let (certificate, key) = self.signed(&["client.test"]);
        (certificate.pem(), key.serialize_pem())
    }

    /// Certificate and key of a server for `localhost` and 127.0.0.1: two PEM texts.
    pub fn server_pem(&self) -> (String, String) {
        self.server_pem_for(&["localhost", "127.0.0.1"])
    }

    /// The same for a server with other names or addresses.
    pub fn server_pem_for(&self, names: &[&str]) -> (String, String) {
        let (certificate, key) = self.signed(names);
        (certificate.pem(), key.serialize_pem())
    }

    /// A server for `localhost` and 127.0.0.1 that speaks these protocols (ALPN); with `clients`, only to holders of a certificate
    /// of this authority.
    pub fn server(&self, protocols: &[&[u8]], clients: bool) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (certificate, key) = self.signed(&["localhost", "127.0.0.1"]);
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).expect("our own certificate is valid");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .expect("there is a root");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            builder.with_single_cert(vec![certificate.der().clone()], key).expect("certificate and key fit");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

fn end(params: &mut CertificateParams, year: Option<i32>) {
    if let Some(year) = year {
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}
