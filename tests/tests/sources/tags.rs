//! Tags and mirrors: whom a tag is asked of, and that it does not go back (rows T1, T3, T4, T5, M3).

use std::time::{Duration, Instant};

use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::image::Image;
use shoal_tests::origin::Kind;
use shoal_tests::wait;

use super::composition::explained;
use super::{REPOSITORY, Set, Stand, mirror};

async fn expect_tag(stand: &Stand, image: &Image) {
    let url = stand.agent.manifest(REPOSITORY, "v1");
    let head = stand.client.head(&url).await;
    assert_eq!((head.status, head.header("Docker-Content-Digest")), (200, image.manifest.digest.as_str()));
    stand.client.get(&url).await.expect(200, &image.manifest.bytes);
}

/// Who was asked about the tag since then.
fn asked_for_tag(stand: &Stand, since: Instant) -> Vec<usize> {
    stand.order(since, |seen| seen.kind == Kind::Manifest && seen.reference == "v1")
}

/// T1: mirrors are for digests unless somebody says otherwise, however wrong their tags are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_tags_are_the_registrys_own_business() {
    let stand = Stand::new(1).await;
    let (image, other) = (Image::new(800, &[100_000]), Image::new(801, &[1000]));
    stand.add_image(REPOSITORY, "v1", &image);
    stand.mirrors[0].add_image(REPOSITORY, "v1", &other);
    let began = Instant::now();
    expect_tag(&stand, &image).await;
    let asked = asked_for_tag(&stand, began);
    assert!(!asked.is_empty() && asked.iter().all(|n| *n == 1), "T1: the registry alone: {asked:?}");
    let before = Instant::now();
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    let asked = stand.order(before, |seen| seen.kind == Kind::Blob);
    assert_eq!(asked, [0, 0], "digests come from the mirror");
    let list = format!("{}/v2/{REPOSITORY}/tags/list?ns={}", stand.agent.url(), shoal_tests::agent::REGISTRY);
    assert_eq!(stand.client.get(&list).await.status, 200);
    assert_eq!(stand.requests(Kind::Tags), [0, 1], "and so are lists of tags");
}

/// T3: where mirrors may be asked for tags, the source is first unless the operator wants the mirrors first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_order_for_tags() {
    let image = Image::new(810, &[1000]);
    for (order, first, next) in [(None, 1, 0), (Some("source-first"), 1, 0), (Some("mirror-first"), 0, 1)] {
        let mut set = Set::first(1).key("serves", "all");
        if let Some(order) = order {
            set = set.key("tag_order", order);
        }
        let stand = Stand::with(1, vec![set], |setup| setup).await;
        stand.add_image(REPOSITORY, "v1", &image);
        let began = Instant::now();
        expect_tag(&stand, &image).await;
        let asked = asked_for_tag(&stand, began);
        assert!(!asked.is_empty() && asked.iter().all(|n| *n == first), "{order:?}: {asked:?}");
        // Who is first is gone: a tag that was never asked for comes from the other one.
        stand.all().for_each(|origin| origin.add_image("team/other", "v2", &image));
        stand.all().nth(first).expect("there are two").refuse().await;
        let answer = stand.agent.get_manifest("team/other", "v2").await;
        answer.expect(200, &image.manifest.bytes);
        let asked = stand.order(began, |seen| seen.reference == "v2");
        assert!(!asked.is_empty() && asked.iter().all(|n| *n == next), "{order:?}: {asked:?}");
    }
}

/// M3: the source is asked for nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_the_source_is_never_contacted() {
    let image = Image::new(820, &[100_000]);
    let all = Set::first(1).key("serves", "all").key("never_contact_source", true);
    let stand = Stand::with(1, vec![all], |setup| setup).await;
    stand.add_image(REPOSITORY, "v1", &image);
    expect_tag(&stand, &image).await;
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    let missing = Image::new(821, &[1000]);
    stand.origin.add_image(REPOSITORY, "v2", &missing);
    assert_eq!(stand.agent.get_manifest(REPOSITORY, "v2").await.status, 404);
    assert_eq!(stand.agent.get_blob(REPOSITORY, &missing.layers[0].digest).await.status, 404);
    assert_eq!(stand.origin.seen().len(), 0, "M3");

    let digests = Set::first(1).key("never_contact_source", true);
    let stand = Stand::with(1, vec![digests], |setup| setup).await;
    stand.add_image(REPOSITORY, "v1", &image);
    let answer = stand.agent.get_manifest(REPOSITORY, "v1").await;
    assert!([404, 502].contains(&answer.status), "nobody may be asked for a tag: {}", answer.status);
    assert_eq!(stand.origin.seen().len() + stand.mirrors[0].seen().len(), 0);
}

/// T4: A says v2, B lags behind and says v1. A goes down; the tag must not go back, whether the registry can be asked or
/// not, and whoever is first. And it still moves on when there is something newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_a_tag_does_not_go_back() {
    for order in ["mirror-first", "source-first"] {
        // Every request finds the answer out of date, so that every request is a question.
        let setup = |setup: Setup| setup.set("tags.ttl", "0s");
        let set = Set::first(2).key("serves", "all").key("tag_order", order);
        let stand = Stand::with(2, vec![set], setup).await;
        let [old, new, newest] = [830, 831, 832].map(|seed| Image::new(seed, &[1000]));
        stand.all().for_each(|origin| origin.add_image(REPOSITORY, "v1", &new));
        stand.mirrors[1].add_image(REPOSITORY, "v1", &old);
        let url = stand.agent.manifest(REPOSITORY, "v1");
        stand.client.get(&url).await.expect(200, &new.manifest.bytes);

        stand.mirrors[0].refuse().await;
        stand.origin.refuse().await;
        for round in 0..3 {
            let answer = stand.client.get(&url).await;
            answer.expect(200, &new.manifest.bytes);
            assert_ne!(answer.header("Warning"), "", "{order}, round {round}: it may be out of date");
            let head = stand.client.head(&url).await;
            assert_eq!(head.header("Docker-Content-Digest"), new.manifest.digest, "{order}");
        }
        stand.origin.recover().await;
        stand.origin.add_image(REPOSITORY, "v1", &newest);
        // The registry may be left alone for a while after it was down; what is not allowed meanwhile is the old one.
        wait::until("the tag to move on", Duration::from_secs(40), async || {
            let body = stand.client.get(&url).await.body;
            assert_ne!(body, old.manifest.bytes, "{order}: the tag went back");
            body == newest.manifest.bytes
        })
        .await;
    }
}

/// T5: mirrors are trusted with tags and with digests apart. One that has digests never tells what a tag is, however much it
/// would like to, and one that has tags is not asked for what they point to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t5_tags_and_digests_are_trusted_apart() {
    let names = [mirror(0), mirror(1)];
    // Without a word about it, a mirror is for digests.
    let [digests, tags] = names.each_ref().map(|name| Set::new(REGISTRY, [name.as_str()]));
    let tags = tags.key("serves", "tags").key("tag_order", "mirror-first");
    let stand = Stand::with(2, vec![digests, tags], |setup| setup).await;
    let [image, trusted, hijack] = [840, 841, 842].map(|seed| Image::new(seed, &[100_000]));
    stand.add_image(REPOSITORY, "v1", &image);
    stand.add_image(REPOSITORY, "other", &trusted);
    stand.mirrors[0].add_image(REPOSITORY, "v1", &hijack);
    stand.mirrors[1].tag(REPOSITORY, "v1", &trusted.manifest.digest);

    let began = Instant::now();
    expect_tag(&stand, &trusted).await;
    let asked = asked_for_tag(&stand, began);
    assert!(!asked.is_empty() && asked.iter().all(|n| *n == 1), "T5: whom tags are entrusted to: {asked:?}");
    let list = format!("{}/v2/{REPOSITORY}/tags/list?ns={REGISTRY}", stand.agent.url());
    assert_eq!(stand.client.get(&list).await.status, 200);
    assert_eq!(stand.requests(Kind::Tags), [0, 1, 0], "T5: lists of tags are about tags");
    for blob in trusted.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    let asked = stand.order(began, |seen| seen.reference.starts_with("sha256:"));
    assert!(!asked.is_empty() && asked.iter().all(|n| *n == 0), "T5: whom digests are asked of: {asked:?}");

    // Who reviews the configuration is told the same.
    let name = format!("{REGISTRY}/{REPOSITORY}:v1");
    assert_eq!(explained(&stand, &name, "tags").await, [1, 2]);
    assert_eq!(explained(&stand, &name, "digests").await, [0, 2]);
}

/// T5: the worst that a mirror for digests can do is to fail. What it says of tags is not even heard, and other bytes under a
/// digest reach nobody whole, also while nobody else can be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t5_a_mirror_for_digests_can_only_fail() {
    let stand = Stand::new(1).await;
    let [image, hijack] = [843, 844].map(|seed| Image::new(seed, &[100_000]));
    stand.add_image(REPOSITORY, "v1", &image);
    let (manifest, layer, hostile) = (&image.manifest, &image.layers[0], &stand.mirrors[0]);
    hostile.add_image(REPOSITORY, "v1", &hijack);
    hostile.add_manifest_as(REPOSITORY, &manifest.digest, &hijack.manifest);
    hostile.add_bytes(&layer.digest, hijack.layers[0].bytes.clone());
    stand.origin.refuse().await;

    let url = |path: &str| format!("{}/v2/{REPOSITORY}/{path}?ns={REGISTRY}", stand.agent.url());
    for path in ["manifests/v1", "tags/list", &format!("referrers/{}", manifest.digest)] {
        let answer = stand.client.get(&url(path)).await;
        assert_ne!(answer.status, 200, "{path}");
    }
    let heard: Vec<String> = hostile.seen().into_iter().map(|seen| seen.path).collect();
    assert!(heard.is_empty(), "T5: asked for what may change: {heard:?}");

    let by_digest =
        [(format!("manifests/{}", manifest.digest), manifest), (format!("blobs/{}", layer.digest), layer)];
    for (path, _) in &by_digest {
        let answer = stand.client.get(&url(path)).await;
        assert!(answer.status != 200 || answer.cut.is_some(), "T5: {path} is whole: {:?}", answer.headers);
    }
    assert_eq!((hostile.count(Kind::Manifest, "GET"), hostile.blob_gets(&layer.digest)), (1, 1));

    stand.origin.recover().await;
    for (path, right) in &by_digest {
        let url = url(path);
        // The registry may be left alone for a while after it was down.
        wait::until(format!("{path} to be there"), Duration::from_secs(40), async || {
            stand.client.get(&url).await.status == 200
        })
        .await;
        stand.client.get(&url).await.expect(200, &right.bytes);
    }
}
