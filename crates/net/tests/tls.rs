//! Data connections: who is at the other end is known, and it is the right one.

mod support;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use shoal_net::{Identity, Key, PeerOfError, client_tls, peer_of, server_tls};
use support::{expect, identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What each side learned: the server's view of the client, the client's of the server.
async fn connect(server: ServerConfig, client: ClientConfig) -> (std::io::Result<Key>, std::io::Result<Key>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        Ok(peer_of(stream.get_ref().1.peer_certificates().unwrap_or_default()).expect("a key"))
    };
    let call = async {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(peer_of(stream.get_ref().1.peer_certificates().unwrap_or_default()).expect("a key"))
    };
    expect(async { tokio::join!(Box::pin(accept), Box::pin(call)) }).await
}

#[tokio::test]
async fn both_learn_whom_they_talk_to() {
    let (server, client) = (identity(), identity());
    let (of_client, of_server) = connect(server_tls(&server), client_tls(&client, server.peer())).await;
    assert_eq!(of_client.unwrap(), client.peer());
    assert_eq!(of_server.unwrap(), server.peer());
}

#[tokio::test]
async fn another_peer_at_the_address_is_refused() {
    let (server, client) = (identity(), identity());
    let (of_client, of_server) = connect(server_tls(&server), client_tls(&client, identity().peer())).await;
    assert!(of_client.is_err());
    let error = of_server.unwrap_err().to_string();
    assert!(error.contains("ApplicationVerificationFailure"), "{error}");
}

#[tokio::test]
async fn a_client_without_a_key_is_refused() {
    let (server, client) = (identity(), identity());
    let mut anonymous = client_tls(&client, server.peer());
    anonymous.client_auth_cert_resolver = Arc::new(Anonymous);
    let (of_client, of_server) = connect(server_tls(&server), anonymous).await;
    assert!(of_client.is_err());
    assert!(of_server.is_err());
}

#[tokio::test]
async fn somebody_who_has_only_seen_a_key_cannot_use_it() {
    let (server, client, thief) = (identity(), identity(), identity());
    // The thief shows the client's public key, and signs with its own.
    let mut stolen = client_tls(&thief, server.peer());
    let shown = ends_of(&client).await;
    stolen.client_auth_cert_resolver =
        Arc::new(Thief { shown, signer: client_tls(&thief, server.peer()).client_auth_cert_resolver });
    let (of_client, _) = connect(server_tls(&server), stolen).await;
    assert!(of_client.is_err());
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (server, client) = (identity(), identity());
    let mut other = client_tls(&client, server.peer());
    other.alpn_protocols = vec![b"h2".to_vec()];
    let (of_client, of_server) = connect(server_tls(&server), other).await;
    assert!(of_client.is_err() && of_server.is_err());
}

#[test]
fn only_one_raw_key_is_a_peer() {
    assert_eq!(peer_of(&[]), Err(PeerOfError::Count(0)));
    assert_eq!(peer_of(&[vec![1, 2, 3].into()]), Err(PeerOfError::NotAKey));
}

/// The public key of `identity` as it is shown in a handshake.
async fn ends_of(identity: &Identity) -> rustls::pki_types::CertificateDer<'static> {
    client_tls(identity, [0; 32])
        .client_auth_cert_resolver
        .resolve(&[], &[rustls::SignatureScheme::ED25519])
        .expect("a key")
        .cert[0]
        .clone()
}

#[derive(Debug)]
struct Anonymous;

impl rustls::client::ResolvesClientCert for Anonymous {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Thief {
    shown: rustls::pki_types::CertificateDer<'static>,
    signer: Arc<dyn rustls::client::ResolvesClientCert>,
}

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(
        &self,
        hints: &[&[u8]],
        schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let own = self.signer.resolve(hints, schemes)?;
        Some(Arc::new(rustls::sign::CertifiedKey::new(vec![self.shown.clone()], Arc::clone(&own.key))))
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}
