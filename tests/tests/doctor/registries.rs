//! Registries, mirrors, credentials, proxies and the clock.

use shoal_tests::image::Image;
use shoal_tests::origin::{Auth, Kind, Match, Plan};
use shoal_tests::tls::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn expect(setup: Setup, id: &str, level: &str, words: &[&str]) {
    doctor(&setup).await.expect(id, level, words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_that_cannot_be_reached() {
    let setup = Setup::new("https://registry.shoal-test.invalid");
    expect(setup, "name-unresolved", "problem", &[REGISTRY, "registry.shoal-test.invalid"]).await;
    let origin = Origin::start().await;
    origin.black_hole();
    expect(Setup::new(&origin.url()), "answer-late", "problem", &[REGISTRY]).await;
    // A mirror costs time only: others are asked.
    let set = format!("[[mirrors.sets]]\nsource = \"{REGISTRY}\"\nmirrors = [\"mirror.test\"]\n");
    let origin = Origin::start().await;
    let setup = Setup::new(&origin.url()).registry("mirror.test", NOWHERE).merge(set.parse().expect("TOML"));
    let found = doctor(&setup).await;
    found.expect("connect-failed", "warning", &["mirror.test"]);
    assert_eq!(found.texts("connect-failed").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_registries() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server(&[b"http/1.1"], false)).await;
    expect(Setup::new(&origin.url()), "tls-untrusted", "problem", &[REGISTRY]).await;
    let trusting = |authority: &Authority, url: &str| {
        let setup = Setup::new(url);
        let ca = setup.folder().join("ca.pem");
        std::fs::write(&ca, authority.pem()).expect("ours");
        setup.registry_key(REGISTRY, "ca", ca.display().to_string())
    };
    doctor(&trusting(&authority, &origin.url())).await.expect_no("tls-untrusted");
    let ending = Authority::ending(2020);
    let origin = Origin::start_tls(ending.server(&[b"http/1.1"], false)).await;
    expect(trusting(&ending, &origin.url()), "tls-expired", "problem", &[REGISTRY]).await;
    expect(Setup::new(&plain_http().await), "tls-failed", "problem", &[REGISTRY]).await;
}

/// An address where http is spoken and TLS is expected: as `https://`.
async fn plain_http() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let url = format!("https://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut hello = [0; 1024];
            // The answer is all that counts; a client that has gone needs none.
            let _ = client.read(&mut hello).await;
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_who_is_no_registry() {
    let origin = Origin::start().await;
    origin.script(Match::kind(Kind::Base), Plan::status(404));
    expect(Setup::new(&origin.url()), "not-a-registry", "problem", &["404"]).await;
    origin.heal();
    origin.script(Match::kind(Kind::Base), Plan::status(503));
    expect(Setup::new(&origin.url()), "registry-failing", "problem", &["503"]).await;
    let setup = Setup::new(NOWHERE);
    let own = format!("http://{}", setup.registry_address());
    expect(setup.registry(REGISTRY, &own), "upstream-loop", "problem", &[REGISTRY]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_not_taken() {
    let origin = Origin::start().await;
    let account = ("puller".to_owned(), "the-right-password".to_owned());
    let (user, password) = account.clone();
    let bearer = |realm| Auth::Bearer { account: Some(account.clone()), realm, expires_in: 60 };
    for auth in [Auth::Basic { user, password }, bearer(None)] {
        origin.require(auth);
        expect(Setup::new(&origin.url()), "credentials-missing", "warning", &[REGISTRY]).await;
        let right = Setup::new(&origin.url()).credentials(REGISTRY, "puller", "the-right-password");
        doctor(&right).await.expect_no("credentials-refused");
        let wrong = Setup::new(&origin.url()).credentials(REGISTRY, "puller", "the-wrong-password");
        let found = doctor(&wrong).await;
        found.expect("credentials-refused", "problem", &[REGISTRY]);
        assert!(!found.report.to_string().contains("the-wrong-password"));
    }
    let right = || Setup::new(&origin.url()).credentials(REGISTRY, "puller", "the-right-password");
    origin.require(bearer(Some("http://elsewhere.test/token".into())));
    expect(right(), "token-realm", "problem", &["elsewhere.test"]).await;
    origin.require(bearer(Some(format!("{NOWHERE}/token"))));
    expect(right(), "token-server", "problem", &["127.0.0.1:1"]).await;
}

/// A credential helper that is not installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_cannot_be_had() {
    let origin = Origin::start().await;
    let setup = Setup::new(&origin.url());
    let file = setup.folder().join("docker.json");
    let text = format!("{{\"credHelpers\": {{\"{REGISTRY}\": \"of-nobody\"}}}}");
    std::fs::write(&file, text).expect("ours");
    let setup = setup.set("upstream.docker_config", file.display().to_string());
    expect(setup, "credentials-unavailable", "problem", &["of-nobody"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong() {
    let origin = Origin::start().await;
    origin.script(Match::kind(Kind::Base), Plan::well().header("date", "Sun, 06 Nov 1994 08:49:37 GMT"));
    expect(Setup::new(&origin.url()), "clock-wrong", "problem", &["ahead of the registries'"]).await;
}

/// What the agent has been told, or has met with, is told on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_knows_of_its_sources() {
    let origin = Origin::start().await;
    let image = Image::new(1200, &[1000]);
    origin.add_image("team/app", "v1", &image);
    let limits =
        Plan::well().header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", "3;w=21600");
    origin.script(Match::kind(Kind::Manifest), limits);
    let set = format!("[[mirrors.sets]]\nsource = \"{REGISTRY}\"\nmirrors = [\"mirror.test\"]\n");
    let setup = Setup::new(&origin.url()).registry("mirror.test", NOWHERE).merge(set.parse().expect("TOML"));
    let agent = setup.start().await;
    assert_eq!(agent.get_manifest("team/app", "v1").await.status, 200);
    for layer in &image.layers {
        assert_eq!(agent.get_blob("team/app", &layer.digest).await.status, 200);
    }
    let found = doctor(agent.setup()).await;
    found.expect("rate-limit-low", "warning", &[REGISTRY, "3 of 100"]);
    found.expect("connect-failed", "warning", &["mirror.test"]);
    found.expect("source-left-alone", "warning", &["mirror.test"]);
    assert_eq!((&found.report["problems"], found.code), (&0.into(), Some(0)), "{:#}", found.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies() {
    // The agent's environment is for root alone.
    place::needs_root();
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let found = doctor_with(agent.setup(), |command| {
        command.env("HTTPS_PROXY", "http://user:a-password-of-a-proxy@127.0.0.1:1");
    })
    .await;
    found.expect("proxy-unreachable", "problem", &["127.0.0.1:1"]);
    found.expect("proxy-differs", "warning", &["HTTPS_PROXY"]);
    assert!(!found.report.to_string().contains("a-password-of-a-proxy"));
    doctor(agent.setup()).await.expect_no("proxy-differs");
}

/// Twenty registries that hang at once do not add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_hang() {
    let origin = Origin::start().await;
    origin.black_hole();
    let mut setup = Setup::new(&origin.url());
    for number in 0..20 {
        setup = setup.registry(&format!("registry{number}.test"), &origin.url());
    }
    let found = doctor(&setup).await;
    assert_eq!(found.texts("answer-late").len(), 21, "{:#}", found.report);
}
