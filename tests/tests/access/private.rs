//! `public-only` and `open`: what the agent has without asking clients for anything.

use std::time::Duration;

use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::image::Image;
use shoal_tests::origin::{Account, Accounts, Auth, Kind, Match, Plan};
use shoal_tests::wait;

use super::{REPOSITORY, Stand, content_requests, expect_not_served};

fn robot(setup: Setup) -> Setup {
    setup.credentials(REGISTRY, "robot", "secret")
}

fn account() -> Account {
    Account::new("robot", "secret", &[REPOSITORY])
}

/// A registry without credentials is `public-only`: what it refuses is a 404 for the client, whose runtime then asks the
/// registry itself with its own secret; in every way in which registries refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_public_is_a_404() {
    let image = Image::new(520, &[1000]);
    let private = |refuse_tokens| Auth::Accounts(Accounts { refuse_tokens, ..Accounts::of(&[account()]) });
    let table = [
        ("401 Basic", Some(Auth::Basic { user: "robot".into(), password: "secret".into() }), None),
        ("401 for a token without rights", Some(private(None)), None),
        ("the token server answers 401", Some(private(Some(401))), None),
        ("the token server answers 403", Some(private(Some(403))), None),
        ("403", None, Some(403)),
        ("401 without a challenge", None, Some(401)),
    ];
    for (how, auth, status) in table {
        let stand = Stand::with(|setup| setup).await;
        stand.origin.add_image(REPOSITORY, "v1", &image);
        if let Some(auth) = auth {
            stand.origin.require(auth);
        }
        if let Some(status) = status {
            stand.origin.script(Match::any(), Plan::status(status));
        }
        for path in [
            format!("{REPOSITORY}/manifests/v1"),
            format!("{REPOSITORY}/manifests/{}", image.manifest.digest),
            format!("{REPOSITORY}/blobs/{}", image.layers[0].digest),
            format!("{REPOSITORY}/tags/list"),
        ] {
            expect_not_served(&stand.get(REGISTRY, &path).await, &format!("{how}: {path}"));
            assert_eq!(stand.client.head(&stand.url(REGISTRY, &path)).await.status, 404, "{how}: {path}");
        }
    }
}

/// `public-only` with credentials at hand: they are not shown to anybody, and what was stored by their help is not served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_only_serves_nothing_that_credentials_have_brought() {
    let stand = Stand::with(robot).await;
    let accounts = Accounts { public: vec!["team/public".into()], ..Accounts::of(&[account()]) };
    stand.origin.require(Auth::Accounts(accounts));
    let (image, public) = (Image::new(521, &[100_000, 1000]), Image::new(522, &[100_000]));
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    stand.origin.add_private_image("team/public", "v1", &public);
    stand.origin.set_max_age(3600);
    // `open`, because there are credentials: everything is served, and stored.
    for (repository, image) in [(REPOSITORY, &image), ("team/public", &public)] {
        stand.agent.get_manifest(repository, "v1").await.expect(200, &image.manifest.bytes);
        for blob in image.blobs() {
            stand.agent.get_blob(repository, &blob.digest).await.expect(200, &blob.bytes);
        }
    }
    stand.settled().await;
    let Stand { origin, agent, client } = stand;
    let agent = agent.restart_with(|setup| setup.registry_key(REGISTRY, "access", "public-only")).await;
    let stand = Stand { origin, agent, client };
    let before = stand.origin.seen().len();
    for path in [
        format!("{REPOSITORY}/manifests/v1"),
        format!("{REPOSITORY}/manifests/{}", image.manifest.digest),
        format!("{REPOSITORY}/blobs/{}", image.layers[0].digest),
        format!("{REPOSITORY}/blobs/{}", image.config.digest),
        // By the name of a repository that everybody may pull.
        format!("team/public/manifests/{}", image.manifest.digest),
        format!("team/public/blobs/{}", image.layers[0].digest),
    ] {
        expect_not_served(&stand.get(REGISTRY, &path).await, &path);
        assert_eq!(stand.client.head(&stand.url(REGISTRY, &path)).await.status, 404, "{path}");
    }
    // What is public is asked for once more, anonymously, and then served from the store.
    for _ in 0..2 {
        stand.agent.get_manifest("team/public", "v1").await.expect(200, &public.manifest.bytes);
        for blob in public.blobs() {
            stand.agent.get_blob("team/public", &blob.digest).await.expect(200, &blob.bytes);
        }
    }
    let secret = basic("robot", "secret");
    for seen in &stand.origin.seen()[before..] {
        assert_ne!(
            seen.header("authorization").as_deref(),
            Some(&*secret),
            "credentials were shown: {seen:?}"
        );
    }
    let since = content_requests(&stand.origin).len();
    stand.agent.get_blob("team/public", &public.layers[0].digest).await.expect(200, &public.layers[0].bytes);
    assert_eq!(content_requests(&stand.origin).len(), since, "asked for a second time");
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// The mode of a registry that names none follows its credentials, also when they come and go in a Docker configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_follows_the_credentials() {
    let origin = shoal_tests::origin::Origin::start().await;
    origin.require(Auth::Accounts(Accounts::of(&[account()])));
    let image = Image::new(523, &[1000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let setup = Setup::new(&origin.url());
    let config = setup.folder().join("config.json");
    let with = format!(r#"{{"auths": {{"{REGISTRY}": {{"auth": "cm9ib3Q6c2VjcmV0"}}}}}}"#);
    std::fs::write(&config, r#"{"auths": {}}"#).expect("ours");
    let path = config.display().to_string();
    let agent = setup.set("upstream.docker_config", path).set("tags.ttl", "1h").start().await;
    expect_not_served(&agent.get_manifest(REPOSITORY, "v1").await, "without credentials");
    std::fs::write(&config, &with).expect("ours");
    wait::until("the credentials to be found", Duration::from_secs(20), || async {
        agent.get_manifest(REPOSITORY, "v1").await.status == 200
    })
    .await;
    std::fs::write(&config, r#"{"auths": {"x.test": {}}}"#).expect("ours");
    wait::until("what they have brought not to be served", Duration::from_secs(20), || async {
        agent.get_manifest(REPOSITORY, "v1").await.status == 404
    })
    .await;
}

/// `open` without credentials is a promise of the operator that there is nothing private: a refusal is a 403 then, because
/// something is missing in the configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_says_that_it_is_denied() {
    let stand = Stand::with(|setup| setup.registry_key(REGISTRY, "access", "open")).await;
    stand.origin.require(Auth::Accounts(Accounts::of(&[account()])));
    stand.origin.add_image(REPOSITORY, "v1", &Image::new(524, &[1000]));
    let answer = stand.agent.get_manifest(REPOSITORY, "v1").await;
    assert_eq!((answer.status, answer.error_code().as_str()), (403, "DENIED"));
    assert!(!answer.headers.contains_key("www-authenticate"));
    assert!(stand.origin.count(Kind::Token, "GET") <= 1);
}
