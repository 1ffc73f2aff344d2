//! `contract.md` 4.2: the token flow, Basic, and who may see what.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;

use super::*;

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// A registry that wants a bearer token from its own `/token`, which counts what it gives out: `token-1`, `token-2`.
/// A token is accepted while `accepted` says so.
#[derive(Clone, Default)]
struct TokenRegistry {
    issued: Arc<AtomicUsize>,
    /// Tokens up to this number have been revoked.
    revoked: Arc<AtomicUsize>,
}

impl TokenRegistry {
    async fn start(&self, challenge: &'static str, answer: fn(String) -> String) -> Server {
        let this = self.clone();
        serve(move |seen| {
            let this = this.clone();
            async move {
                if seen.path == "/token" {
                    let token = format!("token-{}", this.issued.fetch_add(1, Ordering::SeqCst) + 1);
                    return respond(200, &[], answer(token));
                }
                let token =
                    seen.header("authorization").and_then(|value| value.strip_prefix("Bearer token-"));
                if token.is_some_and(|n| n.parse::<usize>().unwrap() > this.revoked.load(Ordering::SeqCst)) {
                    return respond(200, &[], "{}");
                }
                let host = seen.header("host").unwrap();
                respond(401, &[("www-authenticate", &challenge.replace("HOST", host))], "{}")
            }
        })
        .await
    }
}

const CHALLENGE: &str = r#"Bearer realm="http://HOST/token?kind=docker",service="registry.test",scope="repository:library/app:pull repository:base/os:pull""#;

fn plain_token(token: String) -> String {
    format!(r#"{{"token":"{token}","expires_in":30}}"#)
}

#[tokio::test]
async fn a_token_is_fetched_once_and_then_sent_at_once() {
    let server = TokenRegistry::default().start(CHALLENGE, plain_token).await;
    let metrics = Metrics::new();
    let upstream = Upstream::new(settings(&server.url(""), with_password()), Arc::clone(&metrics)).unwrap();
    for _ in 0..3 {
        upstream.list(&asked(), "tags/list").await.unwrap();
    }
    let seen = server.seen();
    let paths: Vec<_> = seen.iter().map(|seen| seen.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["list", "token", "list", "list", "list"]);
    let token = &seen[1];
    assert_eq!(token.method, Method::GET);
    assert_eq!(token.header("authorization"), Some(&*basic("user", "hunter2")));
    assert_eq!(token.query("kind"), ["docker"]);
    assert_eq!(token.query("service"), ["registry.test"]);
    assert_eq!(token.query("scope"), ["repository:base/os:pull", "repository:library/app:pull"]);
    assert_eq!(seen[0].header("authorization"), None);
    for seen in &seen[2..] {
        assert_eq!(seen.header("authorization"), Some("Bearer token-1"));
    }
    let text = metrics.encode();
    for (kind, count) in [("token", 1), ("list", 3)] {
        let line = format!(
            "shoal_upstream_requests_total{{registry=\"registry.test\",kind=\"{kind}\",outcome=\"ok\"}} {count}\n"
        );
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn a_challenge_without_scope_gets_the_repositorys() {
    let challenge = r#"bearer realm="http://HOST/token""#;
    let server =
        TokenRegistry::default().start(challenge, |token| format!(r#"{{"access_token":"{token}"}}"#)).await;
    upstream(&server.url("")).list(&asked(), "tags/list").await.unwrap();
    let token = &server.seen()[1];
    assert_eq!(token.query("scope"), ["repository:library/app:pull"]);
    assert_eq!(token.query("service"), [""; 0]);
    assert_eq!(token.header("authorization"), None, "nobody in particular");
}

#[tokio::test]
async fn a_named_scope_is_used_as_it_is() {
    let challenge = r#"Bearer realm="http://HOST/token",scope="aws""#;
    let server = TokenRegistry::default().start(challenge, plain_token).await;
    upstream(&server.url("")).list(&asked(), "tags/list").await.unwrap();
    assert_eq!(server.seen()[1].query("scope"), ["aws"]);
}

/// Moves the clock while nothing is under way.
async fn after(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire() {
    let server = TokenRegistry::default().start(CHALLENGE, plain_token).await;
    let upstream = upstream(&server.url(""));
    upstream.list(&asked(), "tags/list").await.unwrap();
    // 30 s were told, 60 s are the least there is, less 10 s for the way.
    after(Duration::from_secs(48)).await;
    upstream.list(&asked(), "tags/list").await.unwrap();
    assert_eq!(server.count("/token"), 1);
    after(Duration::from_secs(3)).await;
    upstream.list(&asked(), "tags/list").await.unwrap();
    assert_eq!(server.count("/token"), 2);
    let seen = server.seen();
    assert_eq!(seen.last().unwrap().header("authorization"), Some("Bearer token-2"));
    assert_eq!(seen.len(), 6, "renewing costs no 401");
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let registry = TokenRegistry::default();
    let server = registry.start(CHALLENGE, plain_token).await;
    let upstream = upstream(&server.url(""));
    upstream.list(&asked(), "tags/list").await.unwrap();
    registry.revoked.store(1, Ordering::SeqCst);
    upstream.list(&asked(), "tags/list").await.unwrap();
    assert_eq!(server.seen().last().unwrap().header("authorization"), Some("Bearer token-2"));

    // A registry that accepts no token at all is not asked in circles.
    registry.revoked.store(usize::MAX, Ordering::SeqCst);
    let before = server.seen().len();
    let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert_eq!(server.seen().len() - before, 3, "the question, a token, the question");
}

#[tokio::test]
async fn twenty_who_need_a_token_fetch_one() {
    const CLIENTS: usize = 20;
    let (refused, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let server = serve(move |seen| {
        let (refused, all) = (Arc::clone(&refused), Arc::clone(&all));
        async move {
            if seen.path == "/token" {
                // Answers when everybody has been sent here.
                while refused.load(Ordering::SeqCst) < CLIENTS {
                    all.notified().await;
                }
                return respond(200, &[], r#"{"token":"t"}"#);
            }
            if seen.header("authorization").is_some() {
                return respond(200, &[], "{}");
            }
            refused.fetch_add(1, Ordering::SeqCst);
            all.notify_one();
            let challenge = CHALLENGE.replace("HOST", seen.header("host").unwrap());
            respond(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.list(&asked(), "tags/list").await.map(drop) })
        })
        .collect();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(server.count("/token"), 1);
}

/// D5 for tokens: whoever waits goes on when the one who asked has left.
#[tokio::test]
async fn a_client_that_leaves_takes_no_token_away() {
    let (asked_for, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (first, held) = (Arc::clone(&asked_for), Arc::clone(&release));
    let server = serve(move |seen| {
        let (first, held) = (Arc::clone(&first), Arc::clone(&held));
        async move {
            if seen.path == "/token" {
                first.notify_one();
                held.notified().await;
                return respond(200, &[], r#"{"token":"t"}"#);
            }
            if seen.header("authorization").is_some() {
                return respond(200, &[], "{}");
            }
            let challenge = CHALLENGE.replace("HOST", seen.header("host").unwrap());
            respond(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let start = || {
        let upstream = upstream.clone();
        tokio::spawn(async move { upstream.list(&asked(), "tags/list").await.map(drop) })
    };
    let leader = start();
    asked_for.notified().await;
    let waiter = start();
    while server.count("/v2/library/app/tags/list") < 2 {
        tokio::task::yield_now().await;
    }
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    // The waiter asks for itself now.
    asked_for.notified().await;
    release.notify_waiters();
    release.notify_one();
    waiter.await.unwrap().unwrap();
    assert_eq!(server.count("/token"), 2);
}

#[tokio::test]
async fn a_failed_token_request_is_not_remembered() {
    let answers = Arc::new(Mutex::new(vec![
        (200, r#"{"token":"t"}"#),
        (200, r#"{"expires_in":300}"#),
        (200, "no JSON"),
        (404, ""),
        (403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
        (429, ""),
        (503, ""),
    ]));
    let server = serve(move |seen| {
        let answers = Arc::clone(&answers);
        async move {
            if seen.path == "/token" {
                let (status, body) = answers.lock().pop().unwrap();
                return respond(status, &[], body);
            }
            if seen.header("authorization").is_some() {
                return respond(200, &[], "{}");
            }
            let challenge = CHALLENGE.replace("HOST", seen.header("host").unwrap());
            respond(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let expected = [
        SourceFault::Transient,
        SourceFault::RateLimited { retry_after: None },
        SourceFault::Denied { status: 403 },
        // The endpoint is missing, not the blob.
        SourceFault::Denied { status: 404 },
        SourceFault::Protocol,
        SourceFault::Protocol,
    ];
    for fault in expected {
        let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
        assert_eq!(error.fault(), fault, "{:?}", error.cause());
    }
    upstream.list(&asked(), "tags/list").await.unwrap();
}

#[tokio::test]
async fn identity_tokens_are_posted() {
    let server =
        TokenRegistry::default().start(CHALLENGE, |token| format!(r#"{{"access_token":"{token}"}}"#)).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, r#"{"auths":{"registry.test":{"auth":"dTpw","identitytoken":"identity"}}}"#)
        .unwrap();
    let own = RegistrySettings {
        credentials: Credentials::DockerConfigs { paths: vec![path] },
        ..RegistrySettings::default()
    };
    upstream_with(&server.url(""), own).list(&asked(), "tags/list").await.unwrap();
    let token = &server.seen()[1];
    assert_eq!(token.method, Method::POST);
    assert_eq!(token.header("authorization"), None);
    let form: BTreeMap<_, _> = url::form_urlencoded::parse(&token.body).into_owned().collect();
    let expected = [
        ("client_id", "shoal"),
        ("grant_type", "refresh_token"),
        ("refresh_token", "identity"),
        ("scope", "repository:base/os:pull repository:library/app:pull"),
        ("service", "registry.test"),
    ];
    assert_eq!(form, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

/// A registry that wants Basic with the password of the moment.
async fn basic_registry(password: Arc<Mutex<&'static str>>) -> Server {
    serve(move |seen| {
        let expected = basic("user", *password.lock());
        async move {
            match seen.header("authorization") == Some(&expected) {
                true => respond(200, &[], "{}"),
                false => respond(401, &[("www-authenticate", "Basic realm=\"Registry\"")], ""),
            }
        }
    })
    .await
}

#[tokio::test]
async fn basic_is_sent_where_it_was_asked_for() {
    let password = Arc::new(Mutex::new("hunter2"));
    let server = basic_registry(Arc::clone(&password)).await;
    let upstream = upstream_with(&server.url(""), with_password());
    upstream.list(&asked(), "tags/list").await.unwrap();
    upstream.list(&asked(), "tags/list").await.unwrap();
    let with: Vec<_> = server.seen().iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(with, [false, true, true]);

    *password.lock() = "another";
    let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert!(error.cause().reason.contains("the credentials were not accepted"), "{:?}", error.cause());
    assert_eq!(server.seen().len(), 4, "the same password is not tried twice");
}

#[tokio::test]
async fn a_rotated_password_is_used_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let rotate = |auth: &str| {
        let new = directory.path().join("new");
        let auth = STANDARD.encode(format!("user:{auth}"));
        std::fs::write(&new, format!(r#"{{"auths":{{"registry.test":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let password = Arc::new(Mutex::new("one"));
    let server = basic_registry(Arc::clone(&password)).await;
    rotate("one");
    let credentials = Credentials::DockerConfigs { paths: vec![path.clone()] };
    let upstream =
        upstream_with(&server.url(""), RegistrySettings { credentials, ..RegistrySettings::default() });
    upstream.list(&asked(), "tags/list").await.unwrap();
    *password.lock() = "two";
    rotate("two");
    upstream.list(&asked(), "tags/list").await.unwrap();
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_denial_says_what_is_missing() {
    let server = basic_registry(Arc::new(Mutex::new("hunter2"))).await;
    let error = upstream(&server.url("")).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert!(error.cause().reason.contains("none are configured"), "{:?}", error.cause());
    assert_eq!(server.seen().len(), 1);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, r#"{"credsStore":"shoal-none"}"#).unwrap();
    let credentials = Credentials::DockerConfigs { paths: vec![path] };
    let own = RegistrySettings { credentials, ..RegistrySettings::default() };
    let error = upstream_with(&server.url(""), own.clone()).list(&asked(), "tags/list").await.unwrap_err();
    assert!(
        error.cause().reason.contains("docker-credential-shoal-none cannot be started"),
        "{:?}",
        error.cause()
    );

    // Public content is served all the same, and where it is not, the reason is the helper.
    let registry = TokenRegistry::default();
    let server = registry.start(CHALLENGE, plain_token).await;
    let upstream = upstream_with(&server.url(""), own);
    upstream.list(&asked(), "tags/list").await.unwrap();
    registry.revoked.store(usize::MAX, Ordering::SeqCst);
    let error = upstream.list(&asked(), "tags/list").await.unwrap_err();
    assert!(
        error.cause().reason.contains("docker-credential-shoal-none cannot be started"),
        "{:?}",
        error.cause()
    );
}

#[tokio::test]
async fn realms_of_others_get_nothing() {
    let collector = serve(|_| async { respond(200, &[], r#"{"token":"t"}"#) }).await;
    // Another name for the same machine is another host.
    let realm = format!("http://localhost:{}/token", collector.address.port());
    let server = serve(move |_| {
        let challenge = format!(r#"Bearer realm="{realm}""#);
        async move { respond(401, &[("www-authenticate", &challenge)], "") }
    })
    .await;
    let error =
        upstream_with(&server.url(""), with_password()).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert!(error.cause().reason.contains("is plain http"), "{:?}", error.cause());
    assert_eq!(collector.seen().len(), 0);
    // Unless the operator, who has configured this registry as plain http, trusts that host.
    let own = RegistrySettings { trusted_realms: vec!["localhost".into()], ..with_password() };
    let error = upstream_with(&server.url(""), own).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert_eq!(collector.seen().len(), 1);
}

#[tokio::test]
async fn a_token_endpoint_does_not_send_us_elsewhere() {
    let collector = serve(|_| async { respond(200, &[], r#"{"token":"t"}"#) }).await;
    let away = collector.url("/token").to_string();
    let server = serve(move |seen| {
        let away = away.clone();
        async move {
            match seen.path.as_str() {
                "/token" => respond(302, &[("location", "/token/")], ""),
                "/token/" => respond(302, &[("location", &away)], ""),
                _ => {
                    let challenge = CHALLENGE.replace("HOST", seen.header("host").unwrap());
                    respond(401, &[("www-authenticate", &challenge)], "")
                }
            }
        }
    })
    .await;
    let error =
        upstream_with(&server.url(""), with_password()).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Protocol);
    assert_eq!(server.count("/token/"), 1, "within the host it may");
    assert_eq!(collector.seen().len(), 0);
}

#[tokio::test]
async fn a_401_that_asks_for_nothing_we_know_is_a_denial() {
    for challenge in ["Negotiate", "Bearer", "Digest realm=\"x\", nonce=\"y\"", "\"\""] {
        let server =
            serve(move |_| async move { respond(401, &[("www-authenticate", challenge)], "") }).await;
        let error =
            upstream_with(&server.url(""), with_password()).list(&asked(), "tags/list").await.unwrap_err();
        assert_eq!(error.fault(), SourceFault::Denied { status: 401 }, "{challenge}");
        assert_eq!(server.seen().len(), 1, "{challenge}");
    }
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_refused() {
    let server =
        TokenRegistry::default().start(CHALLENGE, |_| r#"{"token":"a\nX-Evil: b"}"#.to_owned()).await;
    let error = upstream(&server.url("")).list(&asked(), "tags/list").await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 401 });
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn accounts_do_not_share_tokens() {
    let server = TokenRegistry::default().start(CHALLENGE, plain_token).await;
    let mut settings = settings(&server.url(""), with_password());
    let other: Registry = "other.test".parse().unwrap();
    let own = RegistrySettings { endpoint: Some(server.url("")), ..RegistrySettings::default() };
    settings.registries.insert(other.clone(), own);
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();
    upstream.list(&asked(), "tags/list").await.unwrap();
    let mut anonymous = asked();
    anonymous.scope.registry = other;
    upstream.list(&anonymous, "tags/list").await.unwrap();
    let tokens: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!(tokens.len(), 2);
    assert!(tokens[0].headers.contains_key("authorization"));
    assert!(!tokens[1].headers.contains_key("authorization"));
}

/// The registry names another token endpoint by now, and the one that it had named is gone: it is asked again.
#[tokio::test]
async fn a_token_endpoint_that_has_moved_is_found() {
    let issued = Arc::new(AtomicUsize::new(0));
    let is_moved = Arc::new(AtomicUsize::new(0));
    let moved = Arc::clone(&is_moved);
    let server = serve(move |seen| {
        let (issued, moved) = (Arc::clone(&issued), moved.load(Ordering::SeqCst) > 0);
        async move {
            let place = if moved { "/new" } else { "/old" };
            if seen.path == place {
                let token = format!("token-{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
                // It has ended before the next request: each needs one of its own.
                return respond(200, &[], format!(r#"{{"token":"{token}","expires_in":1}}"#));
            }
            if !seen.path.starts_with("/v2/") {
                return respond(404, &[], "");
            }
            if seen.header("authorization").is_some() {
                return respond(200, &[], "{}");
            }
            let host = seen.header("host").unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}{place}",service="registry.test""#);
            respond(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    upstream.list(&asked(), "tags/list").await.unwrap();
    is_moved.store(1, Ordering::SeqCst);
    after(Duration::from_secs(120)).await;
    upstream.list(&asked(), "tags/list").await.unwrap();
    assert!(server.count("/new") > 0, "{:?}", server.seen());
}
