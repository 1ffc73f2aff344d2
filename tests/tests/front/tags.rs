//! Tags and manifests: what may be remembered, for how long, and what happens when the source cannot be asked (rows
//! C1, C2, C9-C13).

use std::time::{Duration, Instant};

use shoal_tests::agent::REGISTRY;
use shoal_tests::http;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Match, Plan, Seen};
use shoal_tests::wait;

use super::{REPOSITORY, Stand};

fn images() -> (Image, Image) {
    (Image::new(90, &[1000]), Image::new(91, &[1000]))
}

/// Requests upstream for the manifest of a tag.
fn asked(stand: &Stand, tag: &str) -> Vec<Seen> {
    let mut seen = stand.origin.seen();
    seen.retain(|seen| seen.kind == Kind::Manifest && seen.reference == tag);
    seen
}

/// C9: the TTL is upstream's max-age: within it nothing is asked and the tag does not move, after it the tag moves.
/// C13: what the client says about caching changes nothing. The time left is told to the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_tags_live_as_long_as_upstream_says() {
    let stand = Stand::new().await;
    let (old, new) = images();
    stand.origin.add_image(REPOSITORY, "v1", &old);
    stand.origin.set_max_age(2);
    let fetched = Instant::now();
    let first = stand.agent.get_manifest(REPOSITORY, "v1").await;
    first.expect(200, &old.manifest.bytes);
    let age: u64 =
        first.header("Cache-Control").split("max-age=").nth(1).and_then(|v| v.parse().ok()).expect("max-age");
    assert!(age <= 2, "max-age is {age}");
    let cost = asked(&stand, "v1").len();
    stand.origin.add_image(REPOSITORY, "v1", &new);
    let url = stand.agent.manifest(REPOSITORY, "v1");
    for _ in 0..10 {
        let request = stand
            .client
            .request("GET", &url)
            .header("Cache-Control", "no-cache")
            .header("Pragma", "no-cache");
        let answer = http::read(request).await;
        // On a machine that stands still for seconds the two seconds may be over; then this round says nothing.
        if fetched.elapsed() < Duration::from_millis(1900) {
            answer.expect(200, &old.manifest.bytes);
            assert_eq!(asked(&stand, "v1").len(), cost, "upstream was asked within the TTL");
        }
    }
    wait::until("the tag to move", Duration::from_secs(10), || async {
        stand.client.get(&url).await.body == new.manifest.bytes
    })
    .await;
    assert!(fetched.elapsed() >= Duration::from_millis(1900), "the tag moved after {:?}", fetched.elapsed());
}

/// C11: after the TTL the source is asked with the digest that is known; its 304 (or HEAD) carries no body and starts
/// the TTL anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_revalidation_costs_no_body() {
    let stand = Stand::new().await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.set_max_age(1);
    let url = stand.agent.manifest(REPOSITORY, "v1");
    stand.client.get(&url).await.expect(200, &image.manifest.bytes);
    let first = asked(&stand, "v1").len();
    wait::until("the TTL to run out and the source to be asked", Duration::from_secs(10), || async {
        stand.client.get(&url).await.expect(200, &image.manifest.bytes);
        asked(&stand, "v1").len() > first
    })
    .await;
    let checks = asked(&stand, "v1");
    let etag = format!("\"{}\"", image.manifest.digest);
    for check in &checks[first..] {
        let conditional = check.header("if-none-match").is_some_and(|known| known.contains(&etag));
        assert!(conditional || check.method == "HEAD", "{check:?}");
        assert_eq!(check.sent(), 0, "the second check carried a body");
    }
    let count = asked(&stand, "v1").len();
    stand.client.get(&url).await.expect(200, &image.manifest.bytes);
    assert!(asked(&stand, "v1").len() <= count + 1);
}

/// C12: the agent answers conditional requests with 304.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_conditional_requests_of_clients() {
    let stand = Stand::new().await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let etag = format!("\"{}\"", image.manifest.digest);
    for reference in ["v1", &image.manifest.digest] {
        for method in ["GET", "HEAD"] {
            let url = stand.agent.manifest(REPOSITORY, reference);
            let with = |value: &str| stand.client.request(method, &url).header("If-None-Match", value);
            for value in [&etag, &format!("W/{etag}"), &format!("\"x\", {etag}"), "*"] {
                let answer = http::read(with(value)).await;
                assert_eq!((answer.status, answer.body.len()), (304, 0), "{method} {reference} {value}");
                assert_eq!(answer.header("ETag"), etag);
            }
            assert_eq!(http::read(with("\"sha256:other\"")).await.status, 200);
        }
    }
}

/// Section 8, 16: an outage of the source does not become a failed pull; the answer says that it may be old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_answers_only_when_the_source_cannot_be_asked() {
    let stand = Stand::new().await;
    let (old, new) = images();
    stand.origin.add_image(REPOSITORY, "v1", &old);
    stand.origin.set_max_age(0);
    let url = stand.agent.manifest(REPOSITORY, "v1");
    stand.client.get(&url).await.expect(200, &old.manifest.bytes);
    for status in [500, 503, 429] {
        stand.origin.heal();
        stand.origin.script(Match::any(), Plan::status(status));
        for method in ["GET", "HEAD"] {
            let answer = http::read(stand.client.request(method, &url)).await;
            assert_eq!(answer.status, 200, "upstream {status}");
            assert_eq!(answer.header("Docker-Content-Digest"), old.manifest.digest);
            let warning = answer.header("Warning");
            assert!(warning.starts_with("299 - \""), "upstream {status}: Warning is {warning:?}");
        }
    }
    stand.origin.refuse().await;
    let answer = stand.client.get(&url).await;
    answer.expect(200, &old.manifest.bytes);
    assert!(answer.header("Warning").starts_with("299 - \""));
    stand.origin.recover().await;
    // It can be asked again: no stale answer any more, neither for a tag that has moved nor for one that is gone.
    stand.origin.heal();
    stand.origin.add_image(REPOSITORY, "v1", &new);
    let moved = stand.client.get(&url).await;
    moved.expect(200, &new.manifest.bytes);
    assert_eq!(moved.header("Warning"), "");
    stand.origin.untag(REPOSITORY, "v1");
    let gone = stand.client.get(&url).await;
    assert_eq!((gone.status, gone.error_code().as_str()), (404, "MANIFEST_UNKNOWN"));
}

/// Where upstream names no time, the configured one counts; and a stale answer is served for a bounded time only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_times() {
    let stand = Stand::with(|setup| setup.set("tags.ttl", "1s").set("tags.stale_max", "6s")).await;
    let (old, new) = images();
    stand.origin.add_image(REPOSITORY, "v1", &old);
    let url = stand.agent.manifest(REPOSITORY, "v1");
    let fetched = Instant::now();
    stand.client.get(&url).await.expect(200, &old.manifest.bytes);
    stand.origin.add_image(REPOSITORY, "v1", &new);
    wait::until("the tag to move", Duration::from_secs(10), || async {
        stand.client.get(&url).await.body == new.manifest.bytes
    })
    .await;
    assert!(fetched.elapsed() >= Duration::from_millis(900), "the tag moved after {:?}", fetched.elapsed());
    stand.origin.refuse().await;
    wait::until("a stale answer", Duration::from_secs(30), || async {
        !stand.client.get(&url).await.header("Warning").is_empty()
    })
    .await;
    wait::until("stale answers to end", Duration::from_secs(30), || async {
        stand.client.get(&url).await.status == 502
    })
    .await;
}

/// The configured times are also those of lists: without stale answers a list ends soon after its source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_times_of_lists() {
    let stand = Stand::with(|setup| setup.set("tags.ttl", "1s").set("tags.stale_max", "0s")).await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let url = format!("{}/v2/{REPOSITORY}/tags/list?ns={REGISTRY}", stand.agent.url());
    assert_eq!(stand.client.get(&url).await.status, 200);
    stand.origin.refuse().await;
    wait::until("the list to end", Duration::from_secs(60), || async {
        stand.client.get(&url).await.status == 502
    })
    .await;
}

/// Section 8, 23: that something does not exist is not remembered: a tag, a manifest or a blob that is pushed a moment
/// later is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_is_not_remembered() {
    let stand = Stand::new().await;
    let (image, _) = images();
    let layer = &image.layers[0];
    assert_eq!(stand.agent.get_manifest(REPOSITORY, "v1").await.status, 404);
    assert_eq!(stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await.status, 404);
    assert_eq!(stand.agent.get_blob(REPOSITORY, &layer.digest).await.status, 404);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    stand.agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
}

/// C1, C10: what is asked by digest is never asked of the source again. C2: it is stored before it is served, so a
/// kill right after the answer does not lose it, and neither does an outage of the source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_c2_c10_digests_are_for_ever() {
    let mut stand = Stand::new().await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let digest = &image.manifest.digest;
    stand.agent.get_manifest(REPOSITORY, digest).await.expect(200, &image.manifest.bytes);
    stand.agent.kill();
    stand.agent.restart().await;
    stand.origin.refuse().await;
    let before = stand.origin.seen().len();
    for _ in 0..3 {
        let answer = stand.agent.get_manifest(REPOSITORY, digest).await;
        answer.expect(200, &image.manifest.bytes);
        assert_eq!(answer.header("Content-Type"), image.manifest.media_type);
        assert_eq!(answer.header("Warning"), "");
    }
    assert_eq!(stand.origin.seen().len(), before);
}

/// A pull by digest after a pull by tag, HEAD first as containerd does it, costs one GET of the manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_and_its_digest_are_one_manifest() {
    let stand = Stand::new().await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.set_max_age(600);
    for _ in 0..3 {
        assert_eq!(stand.client.head(&stand.agent.manifest(REPOSITORY, "v1")).await.status, 200);
        stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
        stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    }
    assert_eq!(stand.origin.count(Kind::Manifest, "GET"), 1);
    assert!(stand.origin.count(Kind::Manifest, "HEAD") <= 1);
}

/// A manifest whose bytes are not those of the digest is not served under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_not_what_it_says() {
    let stand = Stand::new().await;
    let (image, _) = images();
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.script(Match::kind(Kind::Manifest), Plan::wrong_byte_at(20));
    for reference in [image.manifest.digest.as_str(), "v1"] {
        let answer = stand.agent.get_manifest(REPOSITORY, reference).await;
        assert_eq!(answer.status, 502, "{reference}: {:?}", answer.body);
    }
    stand.origin.heal();
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
}

/// Whatever list of types the client sends, upstream is asked with the full one (section 8, 19).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accept_list_upstream_is_always_full() {
    let stand = Stand::new().await;
    let (image, other) = images();
    let index = Image::index(&[(&image, "amd64"), (&other, "arm64")]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.add_manifest(REPOSITORY, &index);
    stand.origin.tag(REPOSITORY, "index", &index.digest);
    let with = |url: &str, accept: &str| stand.client.request("GET", url).header("Accept", accept);
    let narrow = "application/vnd.docker.distribution.manifest.v2+json";
    for accept in ["*/*", narrow, "text/html"] {
        let answer = http::read(with(&stand.agent.manifest(REPOSITORY, "index"), accept)).await;
        answer.expect(200, &index.bytes);
        assert_eq!(answer.header("Content-Type"), index.media_type);
    }
    for seen in stand.origin.seen().iter().filter(|seen| seen.kind == Kind::Manifest) {
        let accept = seen.header("accept").unwrap_or_default();
        for wanted in [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ] {
            assert!(accept.contains(wanted), "{accept}");
        }
    }
}
