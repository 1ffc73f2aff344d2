//! TLS 1.3 between agents: each end shows its Ed25519 key, and nothing else.
//!
//! The key goes as a raw public key (RFC 7250), so there is no certificate to make, to parse or to expire, and a handshake
//! costs one signature and one verification on each side. Whoever asks says which key it expects; whoever is asked learns
//! the key ([`peer_of`]) and decides then.
//!
//! Sessions are not resumed: resuming saves one signature of 20 µs on connections that live for hours, and costs state for
//! each peer on both sides.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

use crate::{Identity, Key};

/// What data connections speak, so that they can never be mistaken for control connections.
const ALPN_DATA: &[u8] = b"shoal-data/1";

/// What control connections speak.
pub(crate) const ALPN_CONTROL: &[u8] = b"shoal-control/1";

/// An Ed25519 key as SubjectPublicKeyInfo is this and the 32 bytes of the key (RFC 8410, section 4).
const PUBLIC_KEY_INFO_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why what the other end showed is not the key of a peer. It is to blame; do not talk to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerOfError {
    /// It showed none, or a chain.
    #[error("the other end showed {0} keys instead of one")]
    Count(usize),
    /// It showed something else.
    #[error("the other end showed something else than a raw Ed25519 key")]
    NotAKey,
}

/// For accepting data connections. Whoever connects must show a key, but any key will do: take it from the connection's
/// `peer_certificates()` by [`peer_of`] and ask [`Admission`](crate::Admission).
pub fn server_tls(identity: &Identity) -> ServerConfig {
    server(identity, ALPN_DATA)
}

/// For data connections to the one agent that has the key `expected`. Server names play no role.
pub fn client_tls(identity: &Identity, expected: Key) -> ClientConfig {
    client(identity, Some(expected), ALPN_DATA)
}

/// The key that the other end of a TLS connection has proved to have.
pub fn peer_of(certificates: &[CertificateDer<'_>]) -> Result<Key, PeerOfError> {
    let [shown] = certificates else { return Err(PeerOfError::Count(certificates.len())) };
    let key = shown.as_ref().strip_prefix(&PUBLIC_KEY_INFO_PREFIX).ok_or(PeerOfError::NotAKey)?;
    key.try_into().map_err(|_| PeerOfError::NotAKey)
}

pub(crate) fn server(identity: &Identity, alpn: &[u8]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(Verifier { expected: None }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

pub(crate) fn client(identity: &Identity, expected: Option<Key>, alpn: &[u8]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { expected }))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

pub(crate) fn public_key_info(peer: &Key) -> Vec<u8> {
    [&PUBLIC_KEY_INFO_PREFIX[..], peer].concat()
}

/// AES with 128 bits first: a quarter faster than with 256 where pieces are moved, and nobody breaks either.
fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

/// Accepts a raw Ed25519 key: the expected one, or any.
#[derive(Debug)]
struct Verifier {
    expected: Option<Key>,
}

impl Verifier {
    fn verify(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !more.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let key = peer_of(std::slice::from_ref(shown))
            .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        match self.expected {
            Some(expected) if expected != key => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(()),
        }
    }
}

fn verify_signature(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(shown.as_ref()),
        signed,
        &algorithms,
    )
}

fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
