//! Who may have what, as the registry is asked about it: modes, routes, clients' tokens, challenges handed on.

use super::*;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;

fn tag() -> Reference {
    "latest".parse().unwrap()
}

/// A token as a client shows it.
fn shown(text: &str) -> ClientToken {
    let header = format!("Bearer {text}").parse().unwrap();
    ClientToken::of(&http::HeaderMap::from_iter([(http::header::AUTHORIZATION, header)])).unwrap()
}

fn manifest() -> Sought {
    Sought::Manifest(tag())
}

#[tokio::test]
async fn the_mode_of_a_registry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, r#"{"auths": {"registry.test": {"auth": "dTpw"}}}"#).unwrap();
    let docker = Credentials::DockerConfigs { paths: vec![path] };
    let password = with_password().credentials;
    let file = Credentials::PasswordFile { username: "u".into(), path: "/no/such/file".into() };
    let table = [
        (Credentials::Anonymous, None, AccessMode::PublicOnly),
        (password.clone(), None, AccessMode::Open),
        // It was configured; that it cannot be read just now is no reason to ask for something else.
        (file, None, AccessMode::Open),
        (docker.clone(), None, AccessMode::Open),
        (password.clone(), Some(AccessMode::PublicOnly), AccessMode::PublicOnly),
        (password, Some(AccessMode::Verify), AccessMode::Verify),
        (Credentials::Anonymous, Some(AccessMode::Open), AccessMode::Open),
    ];
    let endpoint: Url = "http://127.0.0.1:1".parse().unwrap();
    for (credentials, access, mode) in table {
        let own =
            RegistrySettings { credentials: credentials.clone(), access, ..RegistrySettings::default() };
        let mut settings = settings(&endpoint, own);
        settings.default.credentials = docker.clone();
        let upstream = Upstream::new(settings, Metrics::new()).unwrap();
        let policy = upstream.policy(&"registry.test".parse().unwrap()).await;
        assert_eq!((policy.mode, policy.is_configured), (mode, true), "{credentials:?} {access:?}");
        let other = upstream.policy(&"other.test".parse().unwrap()).await;
        assert_eq!((other.mode, other.is_configured), (AccessMode::PublicOnly, false), "not in the file");
    }
}

/// `public-only`: a registry is not shown what we have for it.
#[tokio::test]
async fn public_only_asks_anonymously() {
    let server = serve(|seen| async move {
        match seen.header("authorization") {
            None => respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
            Some(_) => respond(200, &[], MANIFEST),
        }
    })
    .await;
    let own = RegistrySettings { access: Some(AccessMode::PublicOnly), ..with_password() };
    let upstream = upstream_with(&server.url(""), own);
    let error = upstream.get_manifest(&asked(), &tag(), None).await.unwrap_err();
    assert!(matches!(error.fault(), SourceFault::Denied { .. }), "{error}");
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

/// A client's token is sent with a fetch only after it may be, and not at all where we have a login.
#[tokio::test]
async fn whose_token_fetches() {
    for (own, may_fetch, expected) in [
        (RegistrySettings::default(), false, None),
        (RegistrySettings::default(), true, Some("Bearer of-a-client")),
        (with_password(), true, None),
    ] {
        let server = serve(|_| async { respond(200, &[], MANIFEST) }).await;
        let upstream = upstream_with(&server.url(""), own);
        let token = shown("of-a-client");
        let bearer = Some(if may_fetch { token.for_fetches() } else { token });
        let got = upstream.get_manifest(&Asked { bearer, ..asked() }, &tag(), None).await.unwrap();
        let ManifestGet::Found { visibility, .. } = got else { panic!("{got:?}") };
        assert_eq!(server.seen()[0].header("authorization"), expected);
        let identified = expected.is_some();
        assert_eq!(visibility == shoal_store::Visibility::Private, identified);
    }
}

/// A client's token that is refused is not tried again, and nobody else's is tried in its place.
#[tokio::test]
async fn a_clients_token_that_is_refused() {
    let server = serve(|_| async {
        respond(401, &[("www-authenticate", "Bearer realm=\"http://127.0.0.1:1/t\"")], "")
    })
    .await;
    let upstream = upstream(&server.url(""));
    let bearer = Some(shown("x").for_fetches());
    let error = upstream.get_manifest(&Asked { bearer, ..asked() }, &tag(), None).await.unwrap_err();
    assert!(matches!(error.fault(), SourceFault::Denied { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_is_a_verdict() {
    let html = [("content-type", "text/html; charset=utf-8")];
    let bearer = "Bearer realm=\"http://127.0.0.1/t\"";
    let handed = |text: &str| Ok(Verdict::Refused(Some(text.parse().unwrap())));
    let answer = async |status: u16, headers: Vec<(&'static str, &'static str)>| {
        let server = serve(move |_| {
            let headers = headers.clone();
            async move { respond(status, &headers, "") }
        })
        .await;
        let token = shown("x");
        let verdict = upstream(&server.url("")).verify(&asked(), &manifest(), Some(&token)).await;
        assert!(server.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer x")));
        verdict.map_err(|error| error.fault())
    };
    assert_eq!(answer(200, vec![]).await, Ok(Verdict::Granted));
    assert_eq!(answer(200, html.to_vec()).await, Err(SourceFault::Protocol), "a page for people");
    assert_eq!(answer(403, vec![]).await, Ok(Verdict::Refused(None)));
    assert_eq!(answer(401, vec![]).await, Ok(Verdict::Refused(None)));
    assert_eq!(
        answer(401, vec![("www-authenticate", "Basic realm=\"x\"")]).await,
        Ok(Verdict::Refused(None))
    );
    let with_error = format!("{bearer},error=\"invalid_token\"");
    assert_eq!(answer(401, vec![("www-authenticate", bearer)]).await, handed(&with_error));
    assert_eq!(answer(404, vec![]).await, Err(SourceFault::Missing));
    assert_eq!(answer(500, vec![]).await, Err(SourceFault::Transient));
    assert!(matches!(answer(429, vec![]).await, Err(SourceFault::RateLimited { .. })));
}

/// Where HEAD is not supported one byte is asked for, and a redirect is followed without the token.
#[tokio::test]
async fn the_second_question() {
    let server = serve(|seen| async move {
        if seen.method == Method::HEAD { respond(405, &[], "") } else { respond(200, &[], MANIFEST) }
    })
    .await;
    let token = shown("x");
    let verdict = upstream(&server.url("")).verify(&asked(), &manifest(), Some(&token)).await.unwrap();
    assert_eq!(verdict, Verdict::Granted);
    assert_eq!(server.seen()[1].header("range"), Some("bytes=0-0"));
}

/// The registry limits one account: whoever else asks is answered, and the one that is limited is asked about again.
#[tokio::test]
async fn a_clients_limit_is_its_own() {
    let server = serve(|seen| async move {
        match seen.header("authorization") {
            Some("Bearer of-one") => respond(429, &[("retry-after", "600")], ""),
            _ => respond(200, &[], MANIFEST),
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let judged = async |token: &str| {
        let token = shown(token);
        let asked = Asked { bearer: Some(token.clone()), ..asked() };
        upstream.verify(&asked, &manifest(), Some(&token)).await
    };
    for _ in 0..2 {
        let error = judged("of-one").await.unwrap_err();
        assert!(matches!(error.fault(), SourceFault::RateLimited { .. }), "{error}");
    }
    assert!(matches!(judged("of-another").await.unwrap(), Verdict::Granted));
    let bearer = Some(shown("of-one").for_fetches());
    upstream.get_manifest(&Asked { bearer, ..asked() }, &tag(), None).await.unwrap_err();
    upstream.get_manifest(&asked(), &tag(), None).await.unwrap();
    assert_eq!(server.seen().len(), 5, "everybody was asked about");
}
