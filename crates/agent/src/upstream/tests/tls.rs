//! TLS: who is trusted, who is shown the client certificate, and HTTP/2.

use futures_util::{StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(issuer: &Issuer, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

fn ca(issuer: &Issuer) -> Option<Vec<u8>> {
    Some(issuer.pem().into_bytes())
}

fn identity(issuer: &Issuer) -> Option<Secret> {
    let (certificate, key) = certificate(issuer, ExtendedKeyUsagePurpose::ClientAuth);
    Some(Secret::new(certificate.pem() + &key.serialize_pem()))
}

/// Whether a server asks its clients for a certificate.
#[derive(Clone, Copy, PartialEq)]
enum Clients {
    Anonymous,
    Certified,
}

/// An https server. `alpn` is what it offers; its requests tell whether the client showed a certificate.
async fn serve_tls<H, F>(issuer: &Issuer, clients: Clients, alpn: &[&[u8]], handler: H) -> Server
where
    H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (certificate, key) = certificate(issuer, ExtendedKeyUsagePurpose::ServerAuth);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::Certified => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(issuer.der().to_vec())).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::default();
    let app = router(handler, &seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, app) = (acceptor.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().is_some();
                let app = app.layer(axum::middleware::map_request(
                    move |mut request: axum::extract::Request| async move {
                        let value = if shown { "shown" } else { "none" };
                        request.headers_mut().insert("x-certificate", value.parse().unwrap());
                        request
                    },
                ));
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
                    .await;
            });
        }
    });
    Server { address, seen }
}

fn https(server: &Server) -> Url {
    format!("https://{}", server.address).parse().unwrap()
}

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

#[tokio::test]
async fn only_a_trusted_server_is_talked_to() {
    let (issuer, stranger) = (authority(), authority());
    let server = serve_tls(&issuer, Clients::Anonymous, HTTP1, |_| async { respond(200, &[], "{}") }).await;
    for ca in [None, ca(&stranger)] {
        let own = RegistrySettings { ca, ..RegistrySettings::default() };
        let error = upstream_with(&https(&server), own).list(&asked(), "tags/list").await.unwrap_err();
        assert_eq!(error.fault(), SourceFault::Transient);
        assert!(error.cause().reason.contains("certificate"), "{:?}", error.cause());
    }
    assert_eq!(server.seen().len(), 0);
    let own = RegistrySettings { ca: ca(&issuer), ..RegistrySettings::default() };
    upstream_with(&https(&server), own.clone()).list(&asked(), "tags/list").await.unwrap();
    // The name in the certificate counts as well.
    let other_name = format!("https://localhost:{}", server.address.port()).parse().unwrap();
    assert!(upstream_with(&other_name, own).list(&asked(), "tags/list").await.is_err());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn the_client_certificate_is_for_the_registry_alone() {
    let issuer = authority();
    let storage =
        serve_tls(&issuer, Clients::Certified, HTTP1, |_| async { respond(200, &[], content(10)) }).await;
    let location = https(&storage).join("/x").unwrap().to_string();
    let server = serve_tls(&issuer, Clients::Certified, HTTP1, move |_| {
        let location = location.clone();
        async move { respond(307, &[("location", &location)], "") }
    })
    .await;
    let own = RegistrySettings {
        ca: ca(&issuer),
        client_identity: identity(&issuer),
        ..RegistrySettings::default()
    };
    let upstream = upstream_with(&https(&server), own);
    upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    assert_eq!(server.seen()[0].header("x-certificate"), Some("shown"));
    assert_eq!(storage.seen()[0].header("x-certificate"), Some("none"));
}

#[tokio::test]
async fn an_identity_that_is_none_is_refused() {
    let issuer = authority();
    let endpoint = "https://registry.test".parse().unwrap();
    for (pem, text) in [("", "there is no certificate"), (&*issuer.pem(), "there is no private key")] {
        let own = RegistrySettings { client_identity: Some(Secret::new(pem)), ..RegistrySettings::default() };
        let Err(error) = Upstream::new(settings(&endpoint, own), Metrics::new()) else { panic!("{text}") };
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn https_does_not_become_http() {
    let issuer = authority();
    let plain = serve(|_| async { respond(200, &[], content(10)) }).await;
    let location = plain.url("/x").to_string();
    let server = serve_tls(&issuer, Clients::Anonymous, HTTP1, move |_| {
        let location = location.clone();
        async move { respond(307, &[("location", &location)], "") }
    })
    .await;
    let own = RegistrySettings { ca: ca(&issuer), ..RegistrySettings::default() };
    let error =
        upstream_with(&https(&server), own).open_blob(&asked(), &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Protocol);
    assert!(error.cause().reason.contains("from https to http"), "{:?}", error.cause());
    assert_eq!(plain.seen().len(), 0);
}

#[tokio::test]
async fn http2_is_agreed_and_a_reset_stream_is_interrupted() {
    let issuer = authority();
    let cut = Arc::new(Notify::new());
    let when = Arc::clone(&cut);
    let server = serve_tls(&issuer, Clients::Anonymous, BOTH, move |seen| {
        let when = Arc::clone(&when);
        async move {
            let all = content(100_000);
            if seen.header("range").is_none() {
                return respond(200, &[], all);
            }
            // A body that fails makes the server reset the stream.
            let first = stream::iter([Ok(Bytes::from(all[1..50_000].to_vec()))]);
            let failure = stream::once(async move {
                when.notified().await;
                Err(std::io::Error::other("cut"))
            });
            respond(
                206,
                &[("content-range", "bytes 1-99999/100000")],
                Body::from_stream(first.chain(failure)),
            )
        }
    })
    .await;
    let own = RegistrySettings { ca: ca(&issuer), ..RegistrySettings::default() };
    let upstream = upstream_with(&https(&server), own);
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    let (bytes, error) = drain(&mut stream).await;
    assert!(error.is_none() && bytes == content(100_000));
    assert_eq!(server.seen()[0].version, Version::HTTP_2);

    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 1, None).await.unwrap();
    let mut bytes = stream.next().await.unwrap().unwrap().to_vec();
    cut.notify_one();
    let (rest, error) = drain(&mut stream).await;
    bytes.extend(rest);
    let error = error.unwrap();
    assert_eq!(error.fault(), SourceFault::Interrupted);
    assert!(bytes == content(100_000)[1..=bytes.len()]);
}
