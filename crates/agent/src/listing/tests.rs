use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Semaphore;

use super::*;

/// A source that answers from a script, and writes down what it is asked.
#[derive(Clone)]
struct Script(Arc<Inner>);

struct Inner {
    answers: Mutex<VecDeque<Result<RawList, ListFailure>>>,
    asked: Mutex<Vec<String>>,
    /// One permit per answer.
    gate: Semaphore,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<RawList, ListFailure>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        Script(Arc::new(Inner { answers, asked: Mutex::default(), gate: Semaphore::new(1000) }))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.asked.lock().unwrap())
    }
}

impl Lister for Script {
    async fn list(&self, _asked: &Asked, path_and_query: &str) -> Result<RawList, ListFailure> {
        self.0.asked.lock().unwrap().push(path_and_query.to_owned());
        self.0.gate.acquire().await.unwrap().forget();
        self.0
            .answers
            .lock()
            .unwrap()
            .pop_front()
            .expect("nobody asks more often than the script has answers")
    }
}

fn raw(body: &str) -> RawList {
    RawList {
        body: Bytes::copy_from_slice(body.as_bytes()),
        next_query: None,
        filters_applied: None,
        max_age: None,
    }
}

fn ok(body: &str) -> Result<RawList, ListFailure> {
    Ok(raw(body))
}

fn failed(fault: SourceFault) -> Result<RawList, ListFailure> {
    Err(ListFailure { fault, cause: Cause { source: "https://r.test".into(), reason: "down".into() } })
}

fn asked() -> Asked {
    let scope = Scope { registry: "r.test".parse().unwrap(), repository: "a/b".parse().unwrap() };
    Asked::without_token(scope)
}

fn tags() -> Listing {
    Listing::Tags { n: None, last: None }
}

fn referrers(artifact_type: Option<&str>) -> Listing {
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    Listing::Referrers { digest, artifact_type: artifact_type.map(str::to_owned), page: None }
}

const SETTINGS: ListingSettings =
    ListingSettings { ttl: Duration::from_secs(30), stale_max: Duration::from_secs(600) };
const TAGS: &str = r#"{"name":"a/b","tags":["v1"]}"#;

#[tokio::test(start_paused = true)]
async fn a_list_is_asked_for_once_per_ttl() {
    let script = Script::new([ok(TAGS), ok("{\"tags\":null}")]);
    let listings = Listings::new(script.clone(), SETTINGS);
    let first = listings.get(&asked(), &tags()).await.unwrap();
    assert_eq!((first.body.as_ref(), first.source), (TAGS.as_bytes(), Served::Upstream));
    assert_eq!((first.media_type.as_str(), first.max_age), ("application/json", Duration::from_secs(30)));
    tokio::time::advance(Duration::from_secs(20)).await;
    let second = listings.get(&asked(), &tags()).await.unwrap();
    assert_eq!((second.source, second.max_age), (Served::Store, Duration::from_secs(10)));
    assert_eq!(script.asked(), ["tags/list"]);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(listings.get(&asked(), &tags()).await.unwrap().body.as_ref(), b"{\"tags\":null}");
    assert_eq!(script.asked().len(), 1);
}

#[tokio::test]
async fn many_clients_are_one_request_that_outlives_the_first_of_them() {
    let script = Script::new([ok(TAGS)]);
    script.0.gate.forget_permits(1000);
    let listings = Listings::new(script.clone(), SETTINGS);
    let ask = || {
        let listings = listings.clone();
        tokio::spawn(async move { listings.get(&asked(), &tags()).await })
    };
    let leader = ask();
    while script.0.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let waiters: Vec<_> = (0..20).map(|_| ask()).collect();
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    script.0.gate.add_permits(1);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap().body.as_ref(), TAGS.as_bytes());
    }
    assert_eq!(script.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_outlives_its_source_for_a_bounded_time() {
    let down = [
        failed(SourceFault::Transient),
        failed(SourceFault::RateLimited { retry_after: None }),
        ok("<html>"),
    ];
    for answer in down {
        let script = Script::new([ok(TAGS), answer.clone(), answer]);
        let listings = Listings::new(script.clone(), SETTINGS);
        listings.get(&asked(), &tags()).await.unwrap();
        tokio::time::advance(Duration::from_secs(31)).await;
        let stale = listings.get(&asked(), &tags()).await.unwrap();
        assert_eq!((stale.body.as_ref(), stale.source), (TAGS.as_bytes(), Served::Stale));
        assert_eq!(stale.max_age, Duration::ZERO);
        assert!(stale.stale.unwrap().contains("r.test"));
        // The source is left alone for a moment.
        listings.get(&asked(), &tags()).await.unwrap();
        assert_eq!(script.asked().len(), 2);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(matches!(listings.get(&asked(), &tags()).await, Err(PullError::Exhausted(_))));
    }
}

#[test]
fn the_configuration_of_tags_is_that_of_lists() {
    let (seconds, day) = (Duration::from_secs, Duration::from_secs(24 * 60 * 60));
    for (ttl, kept) in [(0, 2), (1, 2), (5, 5), (30, 30), (60, 30)] {
        let tags = TagPolicy { ttl: seconds(ttl), ttl_max: day, stale_max: seconds(7) };
        let settings = ListingSettings::from(tags);
        assert_eq!((settings.ttl, settings.stale_max), (seconds(kept), seconds(7)), "{ttl}");
    }
}

/// Nobody who wants no stale answers gets one, and who wants them gets them for so long beyond the list's own time.
#[tokio::test(start_paused = true)]
async fn a_copy_is_stale_for_as_long_as_is_configured() {
    let seconds = Duration::from_secs;
    for (stale_max, is_served) in [(0, false), (1, false), (3, true)] {
        let policy = TagPolicy { ttl: seconds(10), ttl_max: seconds(60), stale_max: seconds(stale_max) };
        let script = Script::new([ok(TAGS), failed(SourceFault::Transient)]);
        let listings = Listings::new(script.clone(), policy.into());
        listings.get(&asked(), &tags()).await.unwrap();
        tokio::time::advance(seconds(9)).await;
        assert_eq!(listings.get(&asked(), &tags()).await.unwrap().source, Served::Store);
        tokio::time::advance(seconds(3)).await;
        match listings.get(&asked(), &tags()).await {
            Ok(reply) => assert!(is_served && reply.source == Served::Stale, "{stale_max}: {reply:?}"),
            Err(error) => assert!(!is_served && matches!(error, PullError::Exhausted(_)), "{stale_max}"),
        }
        assert_eq!(script.asked().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_says_no_is_believed() {
    let table = [
        (failed(SourceFault::Missing), "Unknown"),
        (failed(SourceFault::Denied { status: 401 }), "Denied"),
        (failed(SourceFault::Loop), "Loop"),
    ];
    for (answer, error) in table {
        let script = Script::new([ok(TAGS), answer, ok(TAGS)]);
        let listings = Listings::new(script.clone(), SETTINGS);
        listings.get(&asked(), &tags()).await.unwrap();
        tokio::time::advance(Duration::from_secs(31)).await;
        for _ in 0..2 {
            let got = listings.get(&asked(), &tags()).await.unwrap_err();
            assert!(format!("{got:?}").starts_with(error), "{got:?}");
        }
        // Not for long: it may have been pushed meanwhile.
        tokio::time::advance(FAILURE_TTL).await;
        assert!(listings.get(&asked(), &tags()).await.is_ok());
        assert_eq!(script.asked().len(), 3);
    }
}

#[tokio::test]
async fn lists_of_different_scopes_and_pages_do_not_mix() {
    let script = Script::new([ok(TAGS), ok("{\"tags\":[\"other\"]}"), ok("{\"tags\":[]}")]);
    let listings = Listings::new(script.clone(), SETTINGS);
    let mut other = asked();
    other.scope.registry = "s.test".parse().unwrap();
    let page = Listing::Tags { n: Some(3), last: Some("x/y".into()) };
    assert_eq!(listings.get(&asked(), &tags()).await.unwrap().body.as_ref(), TAGS.as_bytes());
    assert_eq!(listings.get(&other, &tags()).await.unwrap().body.as_ref(), b"{\"tags\":[\"other\"]}");
    assert_eq!(listings.get(&asked(), &page).await.unwrap().body.as_ref(), b"{\"tags\":[]}");
    assert_eq!(script.asked()[2], "tags/list?n=3&last=x%2Fy");
}

#[tokio::test]
async fn no_tags_asked_for_are_no_tags() {
    let next_query = Some("n=1&last=v1".into());
    let script = Script::new([Ok(RawList { next_query, ..raw(TAGS) })]);
    let listings = Listings::new(script.clone(), SETTINGS);
    let reply = listings.get(&asked(), &Listing::Tags { n: Some(0), last: None }).await.unwrap();
    assert_eq!(reply.body.as_ref(), br#"{"name":"a/b","tags":[]}"#);
    assert!(reply.next.is_none());
}

#[tokio::test]
async fn referrers_are_filtered_here_if_upstream_has_not() {
    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[{"artifactType":"x/y"},{"artifactType":"z"}]}"#;
    const ONE: &str = r#"{"manifests":[{"artifactType":"x/y"}],"schemaVersion":2}"#;
    let filters_applied = Some("artifactType".into());
    let filtered = RawList { filters_applied, next_query: Some("token=7".into()), ..raw(ONE) };
    let script = Script::new([ok(INDEX), Ok(filtered), ok(INDEX), ok("{}")]);
    for _ in 0..2 {
        let listings = Listings::new(script.clone(), SETTINGS);
        let reply = listings.get(&asked(), &referrers(Some("x/y"))).await.unwrap();
        let got: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(got, serde_json::from_str::<serde_json::Value>(ONE).unwrap());
        assert!(reply.is_filtered);
        assert_eq!(reply.media_type, "application/vnd.oci.image.index.v1+json");
    }
    let listings = Listings::new(script.clone(), SETTINGS);
    let reply = listings.get(&asked(), &referrers(None)).await.unwrap();
    assert_eq!((reply.body.as_ref(), reply.is_filtered), (INDEX.as_bytes(), false));
    assert!(script.asked()[0].ends_with("?artifactType=x%2Fy"));
    let listings = Listings::new(script, SETTINGS);
    assert!(
        matches!(listings.get(&asked(), &referrers(None)).await, Err(PullError::Exhausted(_))),
        "no index"
    );
}

#[tokio::test(start_paused = true)]
async fn upstream_may_shorten_the_time_a_list_is_kept() {
    let seconds = Duration::from_secs;
    for (max_age, kept) in [(0, 2), (7, 7), (3600, 30)] {
        let answer = RawList { max_age: Some(seconds(max_age)), ..raw(TAGS) };
        let listings = Listings::new(Script::new([Ok(answer)]), SETTINGS);
        assert_eq!(listings.get(&asked(), &tags()).await.unwrap().max_age, seconds(kept));
    }
}

#[tokio::test]
async fn the_next_page_is_told() {
    let tagged = RawList { next_query: Some("n=1&last=v1".into()), ..raw(TAGS) };
    let referring = RawList { next_query: Some("token=7".into()), ..raw(r#"{"manifests":[]}"#) };
    let listings = Listings::new(Script::new([Ok(tagged), Ok(referring)]), SETTINGS);
    let next = listings.get(&asked(), &tags()).await.unwrap().next;
    assert!(
        matches!(&next, Some(Listing::Tags { n: Some(1), last: Some(last) }) if last == "v1"),
        "{next:?}"
    );
    let next = listings.get(&asked(), &referrers(None)).await.unwrap().next;
    assert!(
        matches!(&next, Some(Listing::Referrers { page: Some(page), .. }) if page == "token=7"),
        "{next:?}"
    );
}
