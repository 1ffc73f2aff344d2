//! Rules: deny, local-only, a chosen upstream; and that registries do not mix (C18, C19).

use shoal_tests::agent::REGISTRY;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Auth, Kind, Origin};

use super::{REPOSITORY, Stand, content_requests, expect_not_served, rule};

/// Everything that can be asked of an image.
fn paths(repository: &str, image: &Image) -> Vec<String> {
    vec![
        format!("{repository}/manifests/v1"),
        format!("{repository}/manifests/{}", image.manifest.digest),
        format!("{repository}/blobs/{}", image.layers[0].digest),
        format!("{repository}/blobs/{}", image.config.digest),
        format!("{repository}/tags/list"),
        format!("{repository}/referrers/{}", image.manifest.digest),
    ]
}

/// Deny: nothing is served, cold or stored, and nobody is asked; the answer names the rule, and is no challenge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_deny() {
    let stand = Stand::with(|setup| setup).await;
    let image = Image::new(500, &[100_000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    stand.origin.add_image("team/other", "v1", &image);
    // Stored, by the repository itself, before the rule is there.
    for path in paths(REPOSITORY, &image) {
        assert_eq!(stand.get(REGISTRY, &path).await.status, 200, "{path}");
    }
    stand.settled().await;
    let pattern = format!("{REGISTRY}/team/app");
    let Stand { origin, agent, client } = stand;
    let rules = vec![rule(&format!("{REGISTRY}/**"), "allow", None), rule(&pattern, "deny", None)];
    let agent = agent.restart_with(|setup| setup.set("access.rules", rules)).await;
    let stand = Stand { origin, agent, client };
    let before = stand.origin.seen().len();
    for path in paths(REPOSITORY, &image) {
        let answer = stand.get(REGISTRY, &path).await;
        expect_not_served(&answer, &path);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(&pattern) && text.contains("deny"), "the rule is not named: {text}");
        assert_eq!(stand.client.head(&stand.url(REGISTRY, &path)).await.status, 404, "{path}");
    }
    assert_eq!(stand.origin.seen().len(), before, "a denied repository was asked for");
    // The same content under a name that is allowed.
    for path in paths("team/other", &image) {
        assert_eq!(stand.get(REGISTRY, &path).await.status, 200, "{path}");
    }
}

/// The example of the requirement: local-only for a tag, remote for the rest. A miss is a 404 and costs no request; what is
/// here is served, the last known digest of a tag as well, whatever its age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_local_only() {
    let pattern = format!("{REGISTRY}/mycorp/product:latest");
    let rules = vec![
        rule(&format!("{REGISTRY}/mycorp/**"), "allow", None),
        rule(&pattern, "local-only", None),
        rule(&format!("{REGISTRY}/mycorp/kept"), "local-only", None),
    ];
    let stand = Stand::with(|setup| setup.set("tags.ttl", "0s")).await;
    let (image, kept) = (Image::new(501, &[50_000]), Image::new(502, &[50_000]));
    stand.origin.add_image("mycorp/product", "latest", &image);
    stand.origin.add_image("mycorp/product", "v1", &image);
    stand.origin.add_image("mycorp/kept", "v1", &kept);
    for path in &paths("mycorp/kept", &kept)[..4] {
        assert_eq!(stand.get(REGISTRY, path).await.status, 200, "{path}");
    }
    stand.settled().await;
    let Stand { origin, agent, client } = stand;
    let agent = agent.restart_with(|setup| setup.set("access.rules", rules)).await;
    let stand = Stand { origin, agent, client };
    let before = stand.origin.seen().len();
    // Not here.
    let answer = stand.get(REGISTRY, "mycorp/product/manifests/latest").await;
    expect_not_served(&answer, "a tag that is not here");
    assert!(String::from_utf8_lossy(&answer.body).contains(&pattern));
    let unknown = Blob::noise(503, 1000);
    stand.origin.add_blob(&unknown);
    for path in [
        format!("mycorp/kept/blobs/{}", unknown.digest),
        format!("mycorp/kept/manifests/{}", image.manifest.digest),
        "mycorp/kept/manifests/v2".to_owned(),
        "mycorp/kept/tags/list".to_owned(),
        format!("mycorp/kept/referrers/{}", kept.manifest.digest),
    ] {
        expect_not_served(&stand.get(REGISTRY, &path).await, &path);
        assert_eq!(stand.client.head(&stand.url(REGISTRY, &path)).await.status, 404, "{path}");
    }
    // Here.
    for path in &paths("mycorp/kept", &kept)[..4] {
        assert_eq!(stand.get(REGISTRY, path).await.status, 200, "{path}");
        assert_eq!(stand.client.head(&stand.url(REGISTRY, path)).await.status, 200, "{path}");
    }
    assert_eq!(stand.origin.seen().len(), before, "a local-only repository was asked for");
    // A rule for one tag is not about the others.
    assert_eq!(stand.get(REGISTRY, "mycorp/product/manifests/v1").await.status, 200);
}

/// A chosen upstream: another registry is asked, with its own credentials, below its prefix; the registry of the name sees
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_c19_a_chosen_upstream() {
    let production = Origin::start().await;
    production.require(Auth::Basic { user: "robot".into(), password: "hidden".into() });
    let url = production.url();
    let stand = Stand::with(|setup| {
        let rules = vec![
            rule(&format!("{REGISTRY}/mycorp/**"), "allow", Some("production.test/mirror")),
            rule(&format!("{REGISTRY}/mycorp/product:next"), "allow", None),
        ];
        setup
            .registry("production.test", &url)
            .credentials("production.test", "robot", "hidden")
            .set("access.rules", rules)
    })
    .await;
    let (image, next) = (Image::new(504, &[100_000, 50_000]), Image::new(505, &[1000]));
    production.add_image("mirror/mycorp/product", "v1", &image);
    stand.origin.add_image("mycorp/product", "next", &next);
    for path in paths("mycorp/product", &image) {
        assert_eq!(stand.get(REGISTRY, &path).await.status, 200, "{path}");
    }
    let asked: Vec<_> = content_requests(&production).into_iter().map(|seen| seen.repository).collect();
    assert!(asked.iter().all(|repository| repository == "mirror/mycorp/product"), "{asked:?}");
    assert_eq!(stand.origin.seen().len(), 0, "the registry of the name was asked");
    stand.get(REGISTRY, "mycorp/product/manifests/next").await.expect(200, &next.manifest.bytes);
    assert_eq!(stand.origin.count(Kind::Manifest, "GET"), 1);
    assert!(stand.origin.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

/// Two registries, one repository name, and the second has something else under the tag; the first one's blobs are not the
/// second one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_two_registries_do_not_mix() {
    let other = Origin::start().await;
    let url = other.url();
    let stand = Stand::with(|setup| {
        let setup = setup.credentials(REGISTRY, "robot", "secret");
        setup.registry("other.test", &url).credentials("other.test", "android", "hidden")
    })
    .await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    other.require(Auth::Basic { user: "android".into(), password: "hidden".into() });
    let (one, two) = (Image::new(506, &[100_000]), Image::new(507, &[100_000]));
    stand.origin.add_image(REPOSITORY, "v1", &one);
    other.add_image(REPOSITORY, "v1", &two);
    for round in 0..2 {
        for (registry, image) in [(REGISTRY, &one), ("other.test", &two)] {
            let tag = format!("{REPOSITORY}/manifests/v1");
            stand.get(registry, &tag).await.expect(200, &image.manifest.bytes);
            let layer = format!("{REPOSITORY}/blobs/{}", image.layers[0].digest);
            stand.get(registry, &layer).await.expect(200, &image.layers[0].bytes);
        }
        stand.settled().await;
        for (registry, image) in [(REGISTRY, &two), ("other.test", &one)] {
            for path in &paths(REPOSITORY, image)[1..4] {
                let answer = stand.get(registry, path).await;
                assert_eq!(answer.status, 404, "round {round}: {path} was served under {registry}");
            }
        }
    }
}

/// `cache = false`: every client gets right bytes, nothing is written, and a restart knows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_cache_off() {
    let stand = Stand::with(|setup| setup.registry_key(REGISTRY, "cache", false)).await;
    let image = Image::new(508, &[3_000_000, 1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    for round in 1..=2 {
        let tag = format!("{REPOSITORY}/manifests/v1");
        stand.get(REGISTRY, &tag).await.expect(200, &image.manifest.bytes);
        for blob in image.blobs() {
            let path = format!("{REPOSITORY}/blobs/{}", blob.digest);
            stand.get(REGISTRY, &path).await.expect(200, &blob.bytes);
            assert_eq!(stand.origin.blob_gets(&blob.digest), round, "{path}");
        }
    }
    let part = stand.client.range(&stand.agent.blob(REPOSITORY, &image.layers[0].digest), "bytes=9-99").await;
    part.expect(206, &image.layers[0].bytes[9..100]);
    stand.settled().await;
    assert_eq!(stand.agent.metric("store_blobs", &[]).await, 0.0, "something was stored");
    stand.origin.refuse().await;
    assert_eq!(stand.get(REGISTRY, &format!("{REPOSITORY}/manifests/v1")).await.status, 502);
}
