//! `verify`: clients prove their right by a token of the registry (sections 2.7 and 7; AlwaysPullImages and KEP-2535 keep
//! their meaning).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::http::{self, Answer, Client};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Account, Accounts, Auth, Kind, Match, Origin, Plan, Seen};
use shoal_tests::wait;

use super::{REPOSITORY, Stand, content_requests, expect_not_served};

fn accounts() -> Accounts {
    Accounts::of(&[
        Account::new("anna", "annas-password", &[REPOSITORY, "team/more"]),
        Account::new("bert", "berts-password", &[REPOSITORY]),
        // Somebody with an account, and no right to what the tests are about.
        Account::new("eve", "eves-password", &["team/eves"]),
    ])
}

fn verify(setup: Setup) -> Setup {
    setup.registry_key(REGISTRY, "access", "verify")
}

async fn stand(accounts: Accounts) -> Stand {
    let stand = Stand::with(|setup| verify(setup).set("log.level", "debug").set("tags.ttl", "1h")).await;
    stand.origin.require(Auth::Accounts(accounts));
    stand
}

/// What a client does with a challenge: shows its password to the realm, and gets a token.
async fn log_in(origin: &Origin, user: &str, repository: &str) -> String {
    let pair = STANDARD.encode(format!("{user}:{user}s-password"));
    let url = format!("{}/token?service=origin.test&scope=repository:{repository}:pull", origin.url());
    let request = Client::new().request("GET", &url).header("Authorization", format!("Basic {pair}"));
    let answer = http::read(request).await;
    assert_eq!(answer.status, 200, "{user} gets no token");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    format!("Bearer {}", body["token"].as_str().expect("a token"))
}

fn image_paths(repository: &str, image: &Image) -> Vec<String> {
    let mut paths = vec![
        format!("{repository}/manifests/v1"),
        format!("{repository}/manifests/{}", image.manifest.digest),
    ];
    paths.extend(image.blobs().map(|blob| format!("{repository}/blobs/{}", blob.digest)));
    paths
}

async fn pull(stand: &Stand, token: &str, repository: &str, image: &Image) {
    stand.get_as(token, &format!("{repository}/manifests/v1")).await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let path = format!("{repository}/blobs/{}", blob.digest);
        stand.get_as(token, &path).await.expect(200, &blob.bytes);
    }
}

/// Requests at the origin that carried this token.
fn with_token(origin: &Origin, token: &str) -> Vec<Seen> {
    let mut seen = content_requests(origin);
    seen.retain(|seen| seen.header("authorization").as_deref() == Some(token));
    seen
}

/// A client without a token gets the registry's own challenge, unchanged, for every kind of request; its password is not
/// looked at, and goes nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_challenge_is_handed_through() {
    let stand = stand(accounts()).await;
    let image = Image::new(560, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let direct = stand.client.get(&format!("{}/v2/{REPOSITORY}/manifests/v1", stand.origin.url())).await;
    let challenge = direct.header("WWW-Authenticate").to_owned();
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    let password = format!("Basic {}", STANDARD.encode("anna:annas-password"));
    let before = stand.origin.seen().len();
    let mut paths = image_paths(REPOSITORY, &image);
    paths.push(format!("{REPOSITORY}/tags/list"));
    paths.push(format!("{REPOSITORY}/referrers/{}", image.manifest.digest));
    for path in &paths {
        for answer in [stand.get(REGISTRY, path).await, stand.get_as(&password, path).await] {
            assert_eq!((answer.status, answer.error_code().as_str()), (401, "UNAUTHORIZED"), "{path}");
            assert_eq!(answer.header("WWW-Authenticate"), challenge, "{path}");
        }
    }
    assert_eq!(stand.origin.seen().len() - before, 1, "the challenge is learnt once");
    assert!(stand.origin.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(!stand.agent.log().contains(&password["Basic ".len()..]), "a password is in the log");
}

/// With everything in the store, a tenant without rights gets nothing: no manifest, no blob, no list; not with its own
/// token, not with one that is none, not by another repository's or registry's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_without_rights_gets_nothing() {
    let other = Origin::start().await;
    let url = other.url();
    let stand = Stand::with(|setup| verify(setup).registry("other.test", &url)).await;
    stand.origin.require(Auth::Accounts(accounts()));
    let image = Image::new(561, &[500_000, 1000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    stand.origin.add_private_image("team/eves", "v1", &Image::new(562, &[1000]));
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    pull(&stand, &anna, REPOSITORY, &image).await;
    for list in ["tags/list".to_owned(), format!("referrers/{}", image.manifest.digest)] {
        assert_eq!(stand.get_as(&anna, &format!("{REPOSITORY}/{list}")).await.status, 200);
    }
    stand.settled().await;
    let secrets: Vec<&[u8]> =
        image.blobs().chain([&image.manifest]).map(|blob| &blob.bytes[..40.min(blob.bytes.len())]).collect();
    let refused = |answer: &Answer, what: &str| {
        assert!([401, 404].contains(&answer.status), "{what}: {}", answer.status);
        for secret in &secrets {
            assert!(!answer.body.windows(secret.len()).any(|found| found == *secret), "{what}: content");
        }
        assert!(!answer.headers.contains_key("docker-content-digest"), "{what}: a digest");
    };
    let eve = log_in(&stand.origin, "eve", REPOSITORY).await;
    let eves_own = log_in(&stand.origin, "eve", "team/eves").await;
    let mut paths = image_paths(REPOSITORY, &image);
    paths.push(format!("{REPOSITORY}/tags/list"));
    paths.push(format!("{REPOSITORY}/referrers/{}", image.manifest.digest));
    for path in &paths {
        for token in [&*eve, &*eves_own, "Bearer made-up", "Bearer", "Basic ZXZlOng="] {
            refused(&stand.get_as(token, path).await, &format!("{token}: {path}"));
            let request = stand.client.request("HEAD", &stand.url(REGISTRY, path));
            refused(&http::read(request.header("Authorization", token)).await, &format!("HEAD {path}"));
        }
        refused(&stand.get(REGISTRY, path).await, path);
        // Even a tenant with rights has none under a name where the content is not.
        let elsewhere = path.replace(REPOSITORY, "team/eves");
        let answer = stand.get_as(&eves_own, &elsewhere).await;
        if !elsewhere.contains("list")
            && !elsewhere.contains("manifests/v1")
            && !elsewhere.contains("referrers")
        {
            refused(&answer, &format!("by another repository: {elsewhere}"));
        }
        let request = stand.client.request("GET", &stand.url("other.test", path));
        let answer = http::read(request.header("Authorization", &eve)).await;
        if !path.contains("referrers") {
            refused(&answer, &format!("by another registry: {path}"));
        }
    }
    assert!(with_token(&other, &eve).is_empty(), "a token was shown to another registry");
    // The one who has the right still has it.
    pull(&stand, &anna, REPOSITORY, &image).await;
}

/// A whole image costs one question for each token and repository, also with AlwaysPullImages: the second tenant is checked
/// once and then served from the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_question_for_each_token_and_repository() {
    let stand = stand(accounts()).await;
    let image = Image::new(563, &[200_000, 100_000, 50_000, 1000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    stand.origin.add_private_image("team/more", "v1", &image);
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    pull(&stand, &anna, REPOSITORY, &image).await;
    stand.settled().await;
    let cold = with_token(&stand.origin, &anna);
    let fetches = cold.iter().filter(|seen| seen.method == "GET").count();
    let checks = cold.len() - fetches;
    eprintln!(
        "cold pull of {} blobs and a manifest: {fetches} fetches, {checks} checks",
        image.layers.len() + 1
    );
    assert_eq!((fetches, checks), (image.layers.len() + 2, 1));
    for blob in image.blobs() {
        assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
    }
    // Twice: a runtime that always asks.
    let bert = log_in(&stand.origin, "bert", REPOSITORY).await;
    let before = content_requests(&stand.origin).len();
    for _ in 0..2 {
        pull(&stand, &bert, REPOSITORY, &image).await;
    }
    let asked = content_requests(&stand.origin).split_off(before);
    eprintln!("two pulls by a second tenant, everything stored: {} requests to the origin", asked.len());
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].method.as_str(), asked[0].header("authorization")), ("HEAD", Some(bert)));
    // Twenty at once with a new token, several times: some of them look just before the answer of the others is there.
    let mut late = String::new();
    for _ in 0..20 {
        late = log_in(&stand.origin, "anna", REPOSITORY).await;
        let path = format!("{REPOSITORY}/manifests/v1");
        let clients = (0..20).map(|_| stand.get_as(&late, &path));
        for answer in futures_util::future::join_all(clients).await {
            answer.expect(200, &image.manifest.bytes);
        }
        assert_eq!(with_token(&stand.origin, &late).len(), 1);
    }
    // A token for one repository is none for another.
    let before = content_requests(&stand.origin).len();
    assert_eq!(stand.get_as(&late, "team/more/manifests/v1").await.status, 401);
    assert_eq!(content_requests(&stand.origin).len() - before, 1);
}

/// A verdict ends with its token: by what a JWT says, and the registry is then asked again and says no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_ends_with_its_token() {
    // Longer than a busy machine may need between a token and its first use.
    let lifetime = Some(Duration::from_secs(6));
    let stand = stand(Accounts { lifetime, jwt: true, ..accounts() }).await;
    let image = Image::new(564, &[1000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    let begun = Instant::now();
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    let path = format!("{REPOSITORY}/manifests/v1");
    stand.get_as(&anna, &path).await.expect(200, &image.manifest.bytes);
    wait::until("the verdict to end", Duration::from_secs(20), || async {
        stand.get_as(&anna, &path).await.status == 401
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(5500), "it ended after {:?}", begun.elapsed());
    // In the registry's own words, so that the client fetches a new token, once.
    let answer = stand.get_as(&anna, &path).await;
    let challenge = answer.header("WWW-Authenticate").to_owned();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    let fresh = log_in(&stand.origin, "anna", REPOSITORY).await;
    stand.get_as(&fresh, &path).await.expect(200, &image.manifest.bytes);
}

/// A token is shown to the registry that it is for, and to nobody else: not to a storage that blobs are redirected to, not
/// to another registry; it stands in no log; and it fetches nothing where the agent has a login of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_token_goes() {
    let storage = Origin::start().await;
    let with_own = Account::new("robot", "secret", &[REPOSITORY]);
    for own_login in [false, true] {
        let stand = Stand::with(|setup| {
            let setup = verify(setup).set("log.level", "trace");
            if own_login { setup.credentials(REGISTRY, "robot", "secret") } else { setup }
        })
        .await;
        let mut accounts = accounts();
        accounts.accounts.push(with_own.clone());
        stand.origin.require(Auth::Accounts(accounts));
        let image = Image::new(565, &[300_000, 1000]);
        stand.origin.add_private_image(REPOSITORY, "v1", &image);
        let layer = &image.layers[0];
        storage.add_blob(layer);
        let location = format!("{}/storage/{}", storage.url(), layer.digest);
        stand.origin.script(Match::blob(&layer.digest), Plan::redirect(location));
        let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
        pull(&stand, &anna, REPOSITORY, &image).await;
        stand.settled().await;
        assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
        let fetched = with_token(&stand.origin, &anna).iter().filter(|seen| seen.method == "GET").count();
        assert_eq!(fetched > 0, !own_login, "{fetched} fetches with the client's token");
        let secret = &anna["Bearer ".len()..];
        let named = |log: &str| log.contains(&layer.digest[..15]);
        stand.agent.until_logged("a line about the layer", named).await;
        let log = stand.agent.log();
        assert!(!log.contains(secret), "the token is in the log");
        for password in ["annas-password", "YW5uYTph"] {
            assert!(!log.contains(password), "a password is in the log");
            let shown = |seen: &&Seen| {
                seen.headers.iter().any(|(_, value)| value.contains(password)) && seen.kind != Kind::Token
            };
            assert_eq!(stand.origin.seen().iter().filter(shown).count(), 0);
        }
    }
}

/// Where the registry cannot be asked there is no verdict, and nothing is served without one, whatever is in the store; a
/// verdict that there is counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verdict_nothing_served() {
    let stand = stand(accounts()).await;
    let image = Image::new(566, &[100_000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    let bert = log_in(&stand.origin, "bert", REPOSITORY).await;
    pull(&stand, &anna, REPOSITORY, &image).await;
    stand.settled().await;
    for status in [500, 503] {
        stand.origin.script(Match::any(), Plan::status(status));
        for path in image_paths(REPOSITORY, &image) {
            assert_eq!(stand.get_as(&bert, &path).await.status, 502, "{path} while the origin says {status}");
        }
        stand.origin.heal();
    }
    stand.origin.refuse().await;
    for path in image_paths(REPOSITORY, &image) {
        assert_eq!(stand.get_as(&bert, &path).await.status, 502, "{path}");
        assert_eq!(stand.get(REGISTRY, &path).await.status, 502, "{path}: without a challenge");
    }
    pull(&stand, &anna, REPOSITORY, &image).await;
    stand.origin.recover().await;
    wait::until("the origin to be asked again", Duration::from_secs(20), || async {
        stand.get_as(&bert, &format!("{REPOSITORY}/manifests/v1")).await.status == 200
    })
    .await;
}

/// What would have a client send its password here is never handed on, and neither is a realm that is nobody's: a 404, and
/// the client asks the registry itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_bearer_challenge_is_handed_on() {
    let image = Image::new(567, &[1000]);
    let realm = "Bearer realm=\"https://tokens.elsewhere.example/t\",service=\"x\"";
    let basic = "Basic realm=\"x\"";
    for (challenge, handed) in [
        (basic.to_owned(), None),
        (realm.to_owned(), None),
        (format!("{basic}, {realm}"), None),
        ("Bearer".to_owned(), None),
        (String::new(), None),
    ] {
        let stand = Stand::with(verify).await;
        stand.origin.add_image(REPOSITORY, "v1", &image);
        stand.origin.script(Match::any(), Plan::status(401).header("WWW-Authenticate", &challenge));
        for path in image_paths(REPOSITORY, &image) {
            let answer = stand.get(REGISTRY, &path).await;
            expect_not_served(&answer, &format!("{challenge:?}: {path}"));
            assert_eq!(answer.headers.get("WWW-Authenticate"), handed);
        }
    }
    // Both are offered, and the Bearer one is sound.
    let stand = Stand::with(verify).await;
    let sound = format!("Bearer realm=\"{}/token\",service=\"x\"", stand.origin.url());
    stand
        .origin
        .script(Match::any(), Plan::status(401).header("WWW-Authenticate", &format!("{basic}, {sound}")));
    let answer = stand.get(REGISTRY, &format!("{REPOSITORY}/manifests/v1")).await;
    assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, &*sound));
    // A gateway that sends strangers to its log-in has not consented to anything.
    stand.origin.heal();
    let login = format!("{}/login", stand.origin.url());
    let stand = Stand::with(verify).await;
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.script(Match::kind(Kind::Manifest), Plan::redirect(format!("{}/login", stand.origin.url())));
    stand.origin.script(Match::kind(Kind::Other), Plan::status_with(200, "<html>who are you?</html>"));
    let answer = stand.get(REGISTRY, &format!("{REPOSITORY}/manifests/v1")).await;
    assert_eq!(answer.status, 502, "{login}");
}

/// A repository that the registry gives to everybody without a token is served without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_registry_gives_to_everybody() {
    let stand = Stand::with(verify).await;
    let image = Image::new(568, &[100_000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    let without = stand.origin.seen().iter().all(|seen| seen.header("authorization").is_none());
    assert!(without);
    // And with a token that everybody gets, as Docker Hub has it.
    let public = Accounts { public: vec!["team/public".into()], ..accounts() };
    stand.origin.require(Auth::Accounts(public));
    stand.origin.add_image("team/public", "v1", &image);
    let answer = stand.agent.get_manifest("team/public", "v1").await;
    assert_eq!(answer.status, 401);
    let url = format!("{}/token?scope=repository:team/public:pull", stand.origin.url());
    let body: serde_json::Value = serde_json::from_slice(&stand.client.get(&url).await.body).expect("JSON");
    let token = format!("Bearer {}", body["token"].as_str().expect("a token"));
    pull(&stand, &token, "team/public", &image).await;
}

/// The version check knows no registry, except on a listener that has one: there clients that look for a challenge nowhere
/// else (podman, skopeo, docker) find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_check() {
    let plain = stand(accounts()).await;
    assert_eq!(plain.client.get(&format!("{}/v2/", plain.agent.url())).await.status, 200);
    let stand = Stand::with(|setup| verify(setup).default_registry(REGISTRY)).await;
    stand.origin.require(Auth::Accounts(accounts()));
    let base = format!("{}/v2/", stand.agent.url());
    for _ in 0..2 {
        let answer = stand.client.get(&base).await;
        let wanted = format!("Bearer realm=\"{}/token\",service=\"origin.test\"", stand.origin.url());
        assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, &*wanted));
    }
    assert_eq!(stand.origin.seen().len(), 1, "the challenge is learnt once");
    let request = stand.client.request("GET", &base).header("Authorization", "Bearer anything");
    assert_eq!(http::read(request).await.status, 200);
    let image = Image::new(569, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    let url = format!("{}/v2/{REPOSITORY}/manifests/v1", stand.agent.url());
    let request = stand.client.request("GET", &url).header("Authorization", &anna);
    http::read(request).await.expect(200, &image.manifest.bytes);
}

/// Local-only asks nobody, not even whether the client may: who has no verdict gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_only_needs_a_verdict_too() {
    let blob = Blob::noise(570, 1000);
    let stand = Stand::with(|setup| {
        let rules = vec![super::rule(&format!("{REGISTRY}/{REPOSITORY}"), "local-only", None)];
        verify(setup).set("access.rules", rules)
    })
    .await;
    stand.origin.require(Auth::Accounts(accounts()));
    stand.origin.add_blob(&blob);
    let anna = log_in(&stand.origin, "anna", REPOSITORY).await;
    let before = stand.origin.seen().len();
    expect_not_served(
        &stand.get_as(&anna, &format!("{REPOSITORY}/blobs/{}", blob.digest)).await,
        "local-only",
    );
    assert_eq!(stand.origin.seen().len(), before);
}

/// What a verified hit costs: the goal is a p99 of at most a millisecond over the open mode. Printed; asserted is only what a
/// busy machine cannot break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_that_a_verdict_costs() {
    const REQUESTS: usize = 500;
    let image = Image::new(571, &[1000]);
    let path = format!("{REPOSITORY}/manifests/{}", image.manifest.digest);
    let mut stands = Vec::new();
    for mode in ["open", "verify"] {
        let stand = Stand::with(|setup| {
            setup.registry_key(REGISTRY, "access", mode).set("log.level", "warn").set("tags.ttl", "1h")
        })
        .await;
        stand.origin.add_image(REPOSITORY, "v1", &image);
        let mut token = "Bearer unused".to_owned();
        if mode == "verify" {
            stand.origin.require(Auth::Accounts(accounts()));
            token = log_in(&stand.origin, "anna", REPOSITORY).await;
        }
        stands.push((mode, stand, token, Vec::with_capacity(REQUESTS)));
    }
    // In turns: whatever else the machine does meanwhile, it does to both.
    for number in 0..REQUESTS + 50 {
        for (_, stand, token, took) in &mut stands {
            let start = Instant::now();
            let answer = stand.get_as(token, &path).await;
            answer.expect(200, &image.manifest.bytes);
            if number >= 50 {
                took.push(start.elapsed());
            }
        }
    }
    let mut figures = Vec::new();
    for (mode, _, _, mut took) in stands {
        took.sort();
        let (p50, p99) = (took[REQUESTS / 2], took[REQUESTS * 99 / 100]);
        eprintln!("stored manifest, {mode}: p50 {p50:?}, p99 {p99:?}");
        figures.push(p50);
    }
    assert!(figures[1] < figures[0] + Duration::from_millis(5), "{figures:?}");
}
