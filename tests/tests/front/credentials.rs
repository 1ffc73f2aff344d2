//! Credentials: ours go only where they were configured for, the client's go nowhere (rows C15, C19; sections 4.2,
//! 8.9 and 8.10).

use std::time::Duration;

use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::http::{self, Client};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Auth, Kind, Match, Origin, Plan};
use shoal_tests::tls::Authority;
use shoal_tests::wait;

use super::{REPOSITORY, Stand};

fn robot(setup: Setup) -> Setup {
    setup.credentials(REGISTRY, "robot", "secret")
}

fn bearer(expires_in: u64) -> Auth {
    Auth::Bearer { account: Some(("robot".into(), "secret".into())), realm: None, expires_in }
}

/// Basic, as registries with htpasswd want it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_credentials() {
    let stand = Stand::with(robot).await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    let image = Image::new(110, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    let layer = &image.layers[0];
    stand.agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    let challenged = |seen: &&shoal_tests::origin::Seen| seen.header("authorization").is_none();
    assert!(stand.origin.seen().iter().filter(challenged).count() <= 1, "the challenge is learnt once");
}

/// Bearer: one token for many requests, fetched once, renewed when it has become worthless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bearer_tokens() {
    let stand = Stand::with(robot).await;
    stand.origin.require(bearer(300));
    let image = Image::new(111, &[1000, 2000, 3000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    assert_eq!(stand.origin.count(Kind::Token, "GET") + stand.origin.count(Kind::Token, "POST"), 1);
    stand.origin.revoke_tokens();
    let late = Blob::noise(112, 1000);
    stand.origin.add_blob(&late);
    stand.agent.get_blob(REPOSITORY, &late.digest).await.expect(200, &late.bytes);
    assert_eq!(stand.origin.count(Kind::Token, "GET") + stand.origin.count(Kind::Token, "POST"), 2);
    // Twenty clients that come at once with no token at hand share one.
    stand.origin.revoke_tokens();
    let blobs: Vec<Blob> = (113..118).map(|seed| Blob::noise(seed, 1000)).collect();
    let clients: Vec<_> = blobs
        .iter()
        .map(|blob| {
            stand.origin.add_blob(blob);
            let url = stand.agent.blob(REPOSITORY, &blob.digest);
            tokio::spawn(async move { Client::new().get(&url).await })
        })
        .collect();
    for (client, blob) in clients.into_iter().zip(&blobs) {
        client.await.expect("the request ends").expect(200, &blob.bytes);
    }
    let tokens = stand.origin.count(Kind::Token, "GET") + stand.origin.count(Kind::Token, "POST");
    assert!(tokens <= 4, "{tokens} tokens for five requests at once");
}

/// A registry that hands tokens to everybody (Docker Hub, GHCR).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_tokens() {
    let stand = Stand::new().await;
    stand.origin.require(Auth::Bearer { account: None, realm: None, expires_in: 300 });
    let image = Image::new(119, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    let token =
        stand.origin.seen().into_iter().find(|seen| seen.kind == Kind::Token).expect("a token was fetched");
    assert!(token.path.contains("service=origin.test"), "{}", token.path);
    assert!(
        token.path.contains("scope=repository%3Ateam%2Fapp%3Apull")
            || token.path.contains("scope=repository:team/app:pull"),
        "{}",
        token.path
    );
    assert_eq!(token.header("authorization"), None);
}

/// Wrong credentials end in a denial after one attempt for each request, not in a loop, and not in a challenge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials() {
    for auth in [
        Auth::Basic { user: "robot".into(), password: "other".into() },
        Auth::Bearer { account: Some(("robot".into(), "other".into())), realm: None, expires_in: 300 },
    ] {
        let stand = Stand::with(robot).await;
        stand.origin.require(auth);
        stand.origin.add_image(REPOSITORY, "v1", &Image::new(120, &[1000]));
        let answer = stand.agent.get_manifest(REPOSITORY, "v1").await;
        assert!([403, 404].contains(&answer.status), "{}", answer.status);
        assert!(answer.headers.get("WWW-Authenticate").is_none());
        assert!(stand.origin.seen().len() <= 6, "{} requests", stand.origin.seen().len());
    }
}

/// A realm on a foreign host gets no credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_realm_is_not_trusted() {
    let thief = Origin::start().await;
    thief.require(bearer(300));
    let stand = Stand::with(robot).await;
    // Another host, not just another port of the same one.
    let realm = format!("http://localhost:{}/token", thief.address().port());
    stand.origin.require(Auth::Bearer { account: None, realm: Some(realm), expires_in: 300 });
    stand.origin.add_image(REPOSITORY, "v1", &Image::new(121, &[1000]));
    let answer = stand.agent.get_manifest(REPOSITORY, "v1").await;
    assert!(answer.status >= 400);
    let stolen: Vec<_> = thief
        .seen()
        .into_iter()
        .filter(|seen| seen.header("authorization").is_some() || seen.method == "POST")
        .collect();
    assert!(stolen.is_empty(), "{stolen:?}");
}

/// A realm on another host is trusted when the operator says so, and only then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_the_operator_trusts() {
    let authority = Authority::new();
    // Over TLS: credentials go nowhere by plain http but to a registry that is configured so.
    let server = authority.server(&[b"http/1.1"], false);
    let origin = Origin::start_tls(server.clone()).await;
    let issuer = Origin::start_tls(server).await;
    issuer.require(bearer(300));
    let realm = format!("{}/token", issuer.url());
    origin.require(Auth::Bearer { account: None, realm: Some(realm), expires_in: 300 });
    origin.accept_tokens_of(&issuer);
    // The registry by its address, the realm by a name: another host.
    let setup = robot(Setup::new(&format!("https://{}", origin.address())));
    let ca = setup.folder().join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("the folder is ours");
    let agent = setup.registry_key(REGISTRY, "ca", ca.display().to_string()).start().await;
    let image = Image::new(127, &[1000]);
    origin.add_image(REPOSITORY, "v1", &image);
    assert!(agent.get_manifest(REPOSITORY, "v1").await.status >= 400);
    assert_eq!(issuer.seen().len(), 0, "a realm that nobody trusts was asked");
    let realms = vec![format!("localhost:{}", issuer.address().port())];
    let agent = agent.restart_with(|setup| setup.registry_key(REGISTRY, "trusted_realms", realms)).await;
    agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    assert_eq!(issuer.count(Kind::Token, "GET") + issuer.count(Kind::Token, "POST"), 1);
}

/// A password that is rotated is taken up without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_rotated() {
    let stand = Stand::with(robot).await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "rotated".into() });
    let image = Image::new(128, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    assert!(stand.agent.get_manifest(REPOSITORY, "v1").await.status >= 400);
    let setup = stand.agent.setup();
    std::fs::write(setup.folder().join("password-of-robot"), "rotated\n").expect("the folder is ours");
    wait::until("the new password to be used", Duration::from_secs(20), || async {
        stand.agent.get_manifest(REPOSITORY, "v1").await.status == 200
    })
    .await;
}

/// C15: the client's Authorization (and its cookies) reach nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c15_client_credentials_go_nowhere() {
    let storage = Origin::start().await;
    let stand = Stand::new().await;
    let image = Image::new(122, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let layer = &image.layers[0];
    storage.add_blob(layer);
    let location = format!("{}/storage/{}", storage.url(), layer.digest);
    stand.origin.script(Match::blob(&layer.digest), Plan::redirect(location));
    for url in [stand.agent.manifest(REPOSITORY, "v1"), stand.agent.blob(REPOSITORY, &layer.digest)] {
        for method in ["HEAD", "GET"] {
            let request =
                stand.client.request(method, &url).header("Authorization", "Bearer the-clients-own");
            assert_eq!(http::read(request.header("Cookie", "session=the-clients-own")).await.status, 200);
        }
    }
    for seen in stand.origin.seen().iter().chain(&storage.seen()) {
        assert!(seen.headers.iter().all(|(_, value)| !value.contains("the-clients-own")), "{seen:?}");
    }
    assert!(!stand.agent.log().contains("the-clients-own"), "the client's secret is in the log");
}

/// C19: two registries with the same repository and tag do not mix, and each gets its own credentials only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_registries_do_not_mix() {
    let other = Origin::start().await;
    let url = other.url();
    let stand = Stand::with(|setup| {
        robot(setup).registry("other.test", &url).credentials("other.test", "android", "hidden")
    })
    .await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    other.require(Auth::Basic { user: "android".into(), password: "hidden".into() });
    let (one, two) = (Image::new(123, &[1000]), Image::new(124, &[1000]));
    stand.origin.add_image(REPOSITORY, "v1", &one);
    other.add_image(REPOSITORY, "v1", &two);
    for _ in 0..2 {
        stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &one.manifest.bytes);
        let url = format!("{}/v2/{REPOSITORY}/manifests/v1?ns=other.test", stand.agent.url());
        stand.client.get(&url).await.expect(200, &two.manifest.bytes);
    }
}

/// TLS: verified; a custom authority and a client certificate for one registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_authority_and_client_certificate() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server(&[b"http/1.1"], true)).await;
    let image = Image::new(125, &[3_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let setup = Setup::new(&origin.url());
    let file = |name: &str, text: &str| {
        let path = setup.folder().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let (certificate, key) = authority.client();
    let (ca, certificate, key) =
        (file("ca.pem", &authority.pem()), file("client.pem", &certificate), file("client.key", &key));
    // Nothing of this is known: refused.
    let agent = setup.start().await;
    assert_eq!(agent.get_manifest(REPOSITORY, "v1").await.status, 502);
    // The authority alone: the server wants a client certificate.
    let agent = agent.restart_with(|setup| setup.registry_key(REGISTRY, "ca", ca)).await;
    assert_eq!(agent.get_manifest(REPOSITORY, "v1").await.status, 502);
    let agent = agent
        .restart_with(|setup| {
            setup.registry_key(REGISTRY, "client_certificate", certificate).registry_key(
                REGISTRY,
                "client_key",
                key,
            )
        })
        .await;
    agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    let layer = &image.layers[0];
    agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
}

/// A Docker `config.json`, by `auth` and by a credential helper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_configuration() {
    use std::os::unix::fs::PermissionsExt as _;
    let origin = Origin::start().await;
    origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    let image = Image::new(126, &[1000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let setup = Setup::new(&origin.url());
    let config = setup.folder().join("config.json");
    // base64 of robot:secret
    std::fs::write(&config, format!(r#"{{"auths": {{"{REGISTRY}": {{"auth": "cm9ib3Q6c2VjcmV0"}}}}}}"#))
        .expect("ours");
    let path = config.display().to_string();
    let agent = setup.set("upstream.docker_config", path).start().await;
    agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    // A helper on the PATH of the agent would need an environment; the file may name it with the test's own folder.
    let helper = agent.setup().folder().join("docker-credential-shoaltest");
    std::fs::write(&helper, "#!/bin/sh\nread server\necho '{\"ServerURL\": \"x\", \"Username\": \"robot\", \"Secret\": \"secret\"}'\n").expect("ours");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("ours");
    std::fs::write(&config, format!(r#"{{"credHelpers": {{"{REGISTRY}": "shoaltest"}}}}"#)).expect("ours");
    let agent = agent.restart_with(|setup| setup.with_path_entry()).await;
    let layer = &image.layers[0];
    agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
}
