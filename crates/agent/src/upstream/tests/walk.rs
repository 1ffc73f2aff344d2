//! The walk over mirrors and the registry itself: rows F1 to F14, T1, T3, M3 and C17.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shoal_engine::mirrors::{MirrorSet, Mirrors, OnDenied, Serves, TagOrder};
use shoal_engine::{Reference, Tag};

use super::*;

/// What a server answers to one request.
type Script = fn(usize, &Seen) -> Response;

fn well(_: usize, _: &Seen) -> Response {
    respond(200, &[], content(10_000))
}

/// Servers by name, and an agent that has them as mirrors of `registry.test`, in this order, the last one being the
/// registry itself.
struct Sources {
    servers: Vec<Server>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
}

impl Sources {
    async fn new(scripts: &[Script]) -> Self {
        Sources::with(scripts, |_| ()).await
    }

    async fn with(scripts: &[Script], change: impl FnOnce(&mut Settings)) -> Self {
        let mut servers = Vec::new();
        for script in scripts {
            let (script, count) = (*script, Arc::new(AtomicUsize::new(0)));
            servers.push(
                serve(move |seen| {
                    let nth = count.fetch_add(1, Ordering::SeqCst);
                    async move { script(nth, &seen) }
                })
                .await,
            );
        }
        let urls: Vec<Url> = servers.iter().map(|server| server.url("")).collect();
        let metrics = Metrics::new();
        let upstream = upstream_of(&urls, Arc::clone(&metrics), change);
        Sources { servers, upstream, metrics }
    }

    async fn open(&self, digest: &Digest) -> Result<BlobStream, UpstreamError> {
        self.upstream.open_blob(&asked(), digest, 0, None).await
    }

    fn asked(&self) -> Vec<usize> {
        self.servers.iter().map(|server| server.seen().len()).collect()
    }
}

fn upstream_of(urls: &[Url], metrics: Arc<Metrics>, change: impl FnOnce(&mut Settings)) -> Upstream {
    let (source, mirrors) = urls.split_last().unwrap();
    let mut settings = settings(source, RegistrySettings::default());
    let name = |n: usize| format!("mirror-{n}.test");
    for (n, url) in mirrors.iter().enumerate() {
        let own = RegistrySettings { endpoint: Some(url.clone()), ..RegistrySettings::default() };
        settings.registries.insert(name(n).parse().unwrap(), own);
    }
    let set = set((0..mirrors.len()).map(name));
    settings.mirrors.mirrors = Mirrors::new(vec![set]).unwrap();
    change(&mut settings);
    Upstream::new(settings, metrics).unwrap()
}

fn set(mirrors: impl Iterator<Item = String>) -> MirrorSet {
    MirrorSet {
        name: "test".into(),
        source: "registry.test".parse().unwrap(),
        mirrors: mirrors.map(|name| name.parse().unwrap()).collect(),
        serves: Serves::Digests,
        tag_order: None,
        never_contact_source: false,
    }
}

fn digest(n: usize) -> Digest {
    sha256(&n.to_be_bytes())
}

/// What comes of a future while time stands still: one that waits for a time to come gets nowhere, and a busy machine
/// makes no difference.
fn at_once<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let future = Box::pin(future);
    async move {
        tokio::time::pause();
        let began = Instant::now();
        let watched = async {
            // A paused clock goes on by itself when nobody has anything to do; somebody always has.
            while began.elapsed() < Duration::from_secs(30) {
                tokio::task::yield_now().await;
            }
        };
        let output = tokio::select! {
            output = future => output,
            () = watched => panic!("somebody waits for a time to come"),
        };
        tokio::time::resume();
        output
    }
}

macro_rules! script {
    ($status:expr) => {
        |_, _| respond($status, &[], "")
    };
}

#[tokio::test]
async fn what_goes_on_to_the_next_source() {
    let table: &[(&str, Script, usize)] = &[
        ("F2: 500, asked twice (F10)", script!(500), 2),
        ("F2: 502", script!(502), 2),
        ("F2: 503", script!(503), 2),
        ("F2: 504", script!(504), 2),
        ("F3: nothing said", script!(404), 1),
        ("F3: BLOB_UNKNOWN", |_, _| respond(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#), 1),
        ("F3: NAME_UNKNOWN", |_, _| respond(404, &[], r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#), 1),
        ("F3: a page for people", |_, _| respond(404, &[], "<html>no</html>"), 1),
        ("F4: without Retry-After", script!(429), 1),
        ("F4: with Retry-After", |_, _| respond(429, &[("retry-after", "3600")], ""), 1),
        ("a redirect to nowhere", script!(302), 1),
    ];
    // All at once: the pauses of a second are real ones.
    let checks = table.iter().map(|(name, script, times)| async move {
        let sources = Sources::new(&[*script, well]).await;
        let mut stream = sources.open(&digest(0)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(drain(&mut stream).await.0.len(), 10_000, "{name}");
        assert_eq!(sources.asked(), [*times, 1], "{name}");
        assert_eq!(sources.servers[1].seen()[0].method, Method::GET, "F9: the blob and nothing else, {name}");
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn a_mirror_that_denies_ends_the_walk() {
    for status in [400, 401, 403, 405, 410] {
        let scripts: [Script; 2] = match status {
            400 => [script!(400), well],
            401 => [script!(401), well],
            403 => [script!(403), well],
            405 => [script!(405), well],
            _ => [script!(410), well],
        };
        let sources = Sources::new(&scripts).await;
        let error = sources.open(&digest(0)).await.unwrap_err();
        assert_eq!(error.fault(), SourceFault::Stopped, "{status}");
        assert_eq!(sources.asked(), [1, 0], "F5: {status}");
        let cause = &error.causes()[0];
        assert!(cause.source.contains(&sources.servers[0].address.to_string()), "{cause:?}");
        if status != 401 {
            assert!(cause.reason.contains(&status.to_string()), "{cause:?}");
        }

        let lenient =
            Sources::with(&scripts, |settings| settings.mirrors.on_denied = OnDenied::Continue).await;
        assert!(lenient.open(&digest(0)).await.is_ok(), "{status}");
        assert_eq!(lenient.asked(), [1, 1], "{status}");
    }
}

#[tokio::test]
async fn the_walk_goes_on_and_never_back() {
    let missing_manifest: Script = |_, seen| {
        if seen.path.contains("/manifests/") { respond(404, &[], "") } else { well(0, seen) }
    };
    let no_blobs: Script = |_, seen| {
        if seen.path.contains("/blobs/") { respond(404, &[], "") } else { respond(200, &[], "{}") }
    };
    let origin: Script = |_, seen| {
        if seen.path.contains("/blobs/") { well(0, seen) } else { respond(200, &[], "{}") }
    };
    let sources = Sources::new(&[missing_manifest, no_blobs, script!(404), origin]).await;
    let manifest = Reference::Digest(sha256(b"{}"));
    sources.upstream.get_manifest(&asked(), &manifest, None).await.unwrap();
    assert_eq!(sources.asked(), [1, 1, 0, 0]);
    sources.open(&digest(1)).await.unwrap();
    assert_eq!(sources.asked(), [1, 2, 1, 1], "F6: B, C, origin, and A not at all");
    for n in 2..20 {
        sources.open(&digest(n)).await.unwrap();
    }
    assert_eq!(sources.asked()[..3], [1, 2, 1], "F8: later blobs begin where the walk ended");
}

#[tokio::test]
async fn parallel_blobs_walk_once() {
    let sources = Arc::new(Sources::new(&[script!(503), well]).await);
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let sources = Arc::clone(&sources);
            tokio::spawn(async move { sources.open(&digest(n)).await.map(|_| ()) })
        })
        .collect();
    let began = Instant::now();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    let asked = sources.asked();
    assert!(asked[0] <= 20 + 1, "F7: what was under way, and one retry: {asked:?}");
    assert_eq!(asked[1], 20);
    // One each, in turn, would be twenty seconds.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "one pause for all, not one each: {:?}",
        began.elapsed()
    );
    let before = asked[0];
    sources.open(&digest(21)).await.unwrap();
    assert_eq!(sources.asked()[0], before, "F8");
}

#[tokio::test]
async fn the_same_source_is_asked_once_more_only_if_there_are_others() {
    let recovers: Script = |nth, seen| if nth == 0 { respond(503, &[], "") } else { well(nth, seen) };
    let began = Instant::now();
    let sources = Sources::new(&[recovers, well]).await;
    sources.open(&digest(0)).await.unwrap();
    assert_eq!(sources.asked(), [2, 0]);
    assert!(began.elapsed() >= Duration::from_secs(1), "F10: {:?}", began.elapsed());

    let alone = Sources::new(&[script!(503)]).await;
    assert_eq!(alone.open(&digest(0)).await.unwrap_err().fault(), SourceFault::Transient);
    assert_eq!(alone.asked(), [1], "F10: a single source is asked once");
}

#[tokio::test]
async fn dead_mirrors_cost_once() {
    // Nobody listens at the first three; the next two accept and say nothing.
    let mut urls: Vec<Url> = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    }
    for _ in 0..2 {
        urls.push(serve_raw(Vec::new(), Then::Stall).await.url(""));
    }
    let good = serve(|seen| async move { well(0, &seen) }).await;
    urls.push(good.url(""));
    let upstream = upstream_of(&urls, Metrics::new(), |settings| {
        settings.mirrors.connect_timeout = Duration::from_millis(300);
        settings.mirrors.header_timeout = Duration::from_millis(300);
        settings.mirrors.walk_budget = Duration::from_secs(3);
    });
    let began = Instant::now();
    upstream.open_blob(&asked(), &digest(0), 0, None).await.unwrap();
    let first = began.elapsed();
    // The budget, and a second for each that was left when it was used up.
    assert!(first < Duration::from_secs(3 + 5), "F14: {first:?}");
    let other = Asked {
        scope: shoal_engine::Scope { repository: "other/app".parse().unwrap(), ..asked().scope },
        ..asked()
    };
    println!("five dead mirrors: the first pull waits {first:?}");
    at_once(upstream.open_blob(&other, &digest(1), 0, None)).await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_who_is_left_alone() {
    let mut urls: Vec<Url> = Vec::new();
    for _ in 0..5 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    }
    let good = serve(|seen| async move { well(0, &seen) }).await;
    urls.push(good.url(""));
    let upstream = upstream_of(&urls, Metrics::new(), |_| ());
    at_once(upstream.open_blob(&asked(), &digest(0), 0, None)).await.unwrap();
}

#[tokio::test]
async fn headers_alone_are_no_answer() {
    let breaks_off: Script = |_, _| {
        let cut = futures_util::stream::once(async {
            // What has been written so far, the headers, is sent meanwhile.
            tokio::task::yield_now().await;
            Err::<Bytes, _>(std::io::Error::other("cut"))
        });
        respond(200, &[("content-length", "10000")], Body::from_stream(cut))
    };
    let sources = Sources::new(&[breaks_off, well]).await;
    let mut stream = at_once(sources.open(&digest(0))).await.unwrap();
    assert_eq!(drain(&mut stream).await.0.len(), 10_000);
    assert_eq!(sources.asked(), [1, 1]);
}

#[tokio::test]
async fn blobs_that_nobody_has_cost_one_pause() {
    let sources = Arc::new(Sources::new(&[script!(503), script!(404)]).await);
    let began = Instant::now();
    let missing = (0..20).map(|n| {
        let sources = Arc::clone(&sources);
        async move { sources.open(&digest(n)).await.unwrap_err().fault() }
    });
    let faults = futures_util::future::join_all(missing).await;
    assert!(faults.iter().all(|fault| *fault == SourceFault::Missing), "{faults:?}");
    // One for each, in turn, would be twenty seconds.
    assert!(began.elapsed() < Duration::from_secs(10), "F7: a pause for each: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_elsewhere_at_the_byte_reached() {
    // The mirror sends 79 %, and then one byte each time it is asked again.
    let mirror: Script = |_, seen| {
        let all = content(1_000_000);
        let start = seen.header("range").map_or(0, |range| {
            range.strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap()
        });
        let upto = 790_000.max(start + 1);
        // The server sends what it has when the body makes it wait; without that it would send nothing at all.
        let sent = futures_util::stream::iter([Ok(Bytes::from(all[start..upto].to_vec()))]);
        let cut = futures_util::stream::once(async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        });
        let body = futures_util::StreamExt::chain(sent, cut);
        let range = format!("bytes {start}-999999/1000000");
        let length = (1_000_000 - start).to_string();
        let headers = [("content-range", range.as_str()), ("content-length", length.as_str())];
        respond(if start > 0 { 206 } else { 200 }, &headers, Body::from_stream(body))
    };
    let origin: Script = |_, seen| {
        let start: usize = seen.header("range").map_or(0, |range| {
            range.strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap()
        });
        let range = format!("bytes {start}-999999/1000000");
        respond(206, &[("content-range", &range)], content(1_000_000)[start..].to_vec())
    };
    let sources = Sources::new(&[mirror, origin]).await;
    let (digest, mut all) = (digest(0), Vec::new());
    for attempt in 0..4 {
        let start = all.len() as u64;
        let mut stream = sources.upstream.open_blob(&asked(), &digest, start, None).await.unwrap();
        let (bytes, error) = drain(&mut stream).await;
        all.extend(bytes);
        match error {
            None => break,
            Some(error) => assert_eq!(error.fault(), SourceFault::Interrupted, "{attempt}"),
        }
    }
    assert!(all == content(1_000_000));
    // The mirror was getting on when it broke, so it is asked once more; then the other one has its turn.
    assert_eq!(sources.asked(), [2, 1]);
    assert_eq!(sources.servers[1].seen()[0].header("range"), Some("bytes=790001-"), "F11");
}

#[tokio::test]
async fn a_mirror_that_lied_is_not_asked_again() {
    let sources = Sources::new(&[well, well]).await;
    let stream = sources.open(&digest(0)).await.unwrap();
    let mirror = stream.mirror().expect("the mirror comes first");
    sources.upstream.quarantine(&digest(0), &[mirror]).await;
    let stream = sources.open(&digest(0)).await.unwrap();
    assert!(stream.mirror().is_none());
    assert_eq!(sources.asked(), [1, 1]);
    assert!(sources.metrics.encode().contains("shoal_quarantines_total{registry=\"mirror-0.test\"} 1"));

    let manifest = Reference::Digest(sha256(b"right"));
    let liar: Script = |_, _| respond(200, &[], "wrong");
    let sources = Sources::new(&[liar, |_, _| respond(200, &[], "right")]).await;
    for _ in 0..2 {
        let other = Asked {
            scope: shoal_engine::Scope { repository: "other/app".parse().unwrap(), ..asked().scope },
            ..asked()
        };
        sources.upstream.get_manifest(&other, &manifest, None).await.unwrap();
    }
    assert_eq!(sources.servers[0].seen().len(), 1);
}

#[tokio::test]
async fn tags_are_the_registrys_own_business() {
    let manifest: Script =
        |_, _| respond(200, &[("docker-content-digest", &sha256(b"{}").to_string())], "{}");
    let tag = Reference::Tag("v1".parse::<Tag>().unwrap());
    let with = |serves, tag_order, never| {
        move |settings: &mut Settings| {
            let set = MirrorSet {
                serves,
                tag_order,
                never_contact_source: never,
                ..set(["mirror-0.test".to_owned()].into_iter())
            };
            settings.mirrors.mirrors = Mirrors::new(vec![set]).unwrap();
        }
    };
    let table: [(&str, Serves, Option<TagOrder>, bool, [usize; 2]); 4] = [
        ("T1", Serves::Digests, None, false, [0, 1]),
        ("T3: source first", Serves::All, None, false, [0, 1]),
        ("T3: mirror first", Serves::All, Some(TagOrder::MirrorFirst), false, [1, 0]),
        ("M3", Serves::All, None, true, [1, 0]),
    ];
    for (name, serves, order, never, expected) in table {
        let sources = Sources::with(&[manifest, manifest], with(serves, order, never)).await;
        sources.upstream.get_manifest(&asked(), &tag, None).await.unwrap();
        assert_eq!(sources.asked(), expected, "{name}");
    }
    // Nobody may be asked for the tag, and nobody is.
    let blocked = Sources::with(&[manifest, manifest], with(Serves::Digests, None, true)).await;
    let error = blocked.upstream.get_manifest(&asked(), &tag, None).await.unwrap_err();
    assert_eq!((error.fault(), blocked.asked()), (SourceFault::Missing, vec![0, 0]));
    assert!(error.cause().reason.contains("no source"), "{error}");
}

#[tokio::test]
async fn a_limit_is_kept_without_asking_again() {
    let limited: Script = |_, _| respond(429, &[("retry-after", "600")], "");
    let sources = Sources::new(&[limited, well]).await;
    for n in 0..3 {
        let other = Asked {
            scope: shoal_engine::Scope { repository: format!("app/{n}").parse().unwrap(), ..asked().scope },
            ..asked()
        };
        at_once(sources.upstream.open_blob(&other, &digest(n), 0, None)).await.unwrap();
    }
    assert_eq!(sources.asked(), [1, 3]);
}

#[tokio::test]
async fn a_mirror_that_is_this_agent_is_passed_over() {
    let good = serve(|seen| async move { well(0, &seen) }).await;
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let urls = [format!("http://{own}").parse().unwrap(), good.url("")];
    let upstream = upstream_of(&urls, Metrics::new(), |settings| settings.own_addresses = vec![own]);
    upstream.open_blob(&asked(), &digest(0), 0, None).await.unwrap();
    assert_eq!(good.seen().len(), 1, "C17");
}

#[tokio::test]
async fn mirrors_are_asked_in_their_own_words() {
    let sources = Sources::with(&[well, well], |settings| {
        let moved = MirrorSet {
            source: "registry.test/library".parse().unwrap(),
            ..set(["mirror-0.test/cache/hub".to_owned()].into_iter())
        };
        settings.mirrors.mirrors = Mirrors::new(vec![moved]).unwrap();
    })
    .await;
    sources.open(&digest(0)).await.unwrap();
    let seen = &sources.servers[0].seen()[0];
    assert_eq!(seen.path, format!("/v2/cache/hub/app/blobs/{}", digest(0)));
    assert_eq!(seen.query, "", "the name is in the path");

    let sources = Sources::new(&[well, well]).await;
    sources.open(&digest(0)).await.unwrap();
    let seen = &sources.servers[0].seen()[0];
    assert_eq!((seen.path.contains("/v2/library/app/"), seen.query.as_str()), (true, "ns=registry.test"));
}

#[tokio::test]
async fn credentials_stay_with_their_registry() {
    let challenge: Script = |_, seen| match seen.header("authorization") {
        None => respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
        Some(_) => well(0, seen),
    };
    let sources = Sources::with(&[challenge, challenge], |settings| {
        settings.mirrors.on_denied = OnDenied::Continue;
        let registry: Registry = "registry.test".parse().unwrap();
        settings.registries.get_mut(&registry).unwrap().credentials = with_password().credentials;
    })
    .await;
    sources.open(&digest(0)).await.unwrap();
    let shown: BTreeSet<_> = sources.servers[0]
        .seen()
        .iter()
        .filter_map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    assert!(shown.is_empty(), "I8: {shown:?}");
    assert_eq!(sources.asked(), [1, 2]);
}

/// A rate that makes everybody wait for bytes is no reason to take a mirror for one that does not answer.
#[tokio::test]
async fn a_limit_of_our_own_is_not_the_mirrors_fault() {
    const BYTES: usize = 50_000;
    let script: Script = |_, _| respond(200, &[], vec![7; BYTES]);
    let change = |settings: &mut Settings| settings.throttle = Throttle::new(Some(1000));
    let sources = Sources::with(&[script, script], change).await;
    let mut first = sources.open(&digest(0)).await.unwrap();
    // What has come has to be paid for by whoever wants more, for a minute nearly.
    first.next().await.unwrap().unwrap();
    let paying = tokio::spawn(async move { first.next().await.map(|_| ()) });
    for n in 1..4 {
        at_once(sources.open(&digest(n))).await.unwrap();
    }
    assert_eq!(sources.asked(), [4, 0]);
    paying.abort();
}
