//! TLS as every part of this agent speaks it: rustls with ring, which is named here and in no process-wide place, and the
//! certificates that it trusts. (Members of the swarm trust each other's keys instead: `shoal_net`.)

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WantsServerCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

/// What is wrong with a text that should hold certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    /// It is something else.
    #[error("it is not in PEM form")]
    Form,
    /// It may be in PEM form, and holds other things.
    #[error("there is no certificate in PEM form")]
    Empty,
}

/// Why certificates cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// They are none.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// One of them is malformed.
    #[error(transparent)]
    Certificate(#[from] rustls::Error),
}

/// The certificates in a text, at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(list) if list.is_empty() => Err(PemError::Empty),
        Ok(list) => Ok(list),
        Err(_) => Err(PemError::Form),
    }
}

/// Trusts the certificates in a text too.
pub(crate) fn trust(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), TrustError> {
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(())
}

/// What this system trusts. What cannot be read there is left out.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client that trusts these, and may yet get a certificate of its own.
///
/// # Errors
/// The library does not know its own versions of TLS.
pub(crate) fn client(
    roots: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots))
}

/// A server for whoever comes, that is yet to get its certificate.
///
/// # Errors
/// The library does not know its own versions of TLS.
pub(crate) fn server() -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_no_client_auth())
}
