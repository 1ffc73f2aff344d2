//! Who gets what: what one agent has written, what others may read, and what is no more than a miss.

use super::layout::Marker;
use super::*;

#[tokio::test]
async fn what_one_agent_writes_another_reads() {
    let stand = Stand::new();
    let (here, bytes) = (scope("docker.io/library/redis"), noise(100_000));
    let digest = digest_of(&bytes);
    let reader = stand.agent();
    assert_eq!(reader.tier.stat(&here, &digest).await.unwrap(), None);
    stand.agent().upload(file_offer(&here, &bytes, Visibility::Public)).await;

    let found = TierBlob { size: 100_000, visibility: Visibility::Public };
    assert_eq!(reader.tier.stat(&here, &digest).await.unwrap(), Some(found));
    assert_eq!(reader.read(&here, &digest).await.unwrap(), bytes);
    assert_eq!(reader.tier.get_small(&here, &digest, 1 << 20).await.unwrap().unwrap(), bytes);
    assert_eq!(reader.metric("shoal_tier_received_bytes_total"), 200_000);
    for (sample, expected) in [
        ("shoal_tier_requests_total{operation=\"stat\",outcome=\"miss\"}", 1),
        ("shoal_tier_requests_total{operation=\"stat\",outcome=\"hit\"}", 1),
        ("shoal_tier_requests_total{operation=\"open\",outcome=\"hit\"}", 1),
        ("shoal_tier_requests_total{operation=\"get\",outcome=\"hit\"}", 1),
    ] {
        assert_eq!(reader.metric(sample), expected, "{sample}");
    }
}

/// A digest is no key to what somebody else's credentials have pulled.
#[tokio::test]
async fn private_content_is_for_its_repository() {
    let stand = Stand::new();
    let (owner, stranger, bytes) = (scope("r.test/team/app"), scope("r.test/other"), noise(10));
    let digest = digest_of(&bytes);
    stand.agent().upload(offer(&owner, &bytes, Visibility::Private)).await;
    let agent = stand.agent();
    let found = agent.tier.stat(&owner, &digest).await.unwrap().unwrap();
    assert_eq!(found.visibility, Visibility::Private);
    assert_eq!(agent.tier.stat(&stranger, &digest).await.unwrap(), None);
    assert!(agent.tier.open(&stranger, &digest, 0, None).await.unwrap().is_none());
    assert_eq!(agent.tier.get_small(&stranger, &digest, 1000).await.unwrap(), None);

    // The same layer, pulled anonymously by somebody from a public image, is nobody's secret.
    stand.agent().upload(offer(&scope("docker.io/library/busybox"), &bytes, Visibility::Public)).await;
    let agent = stand.agent();
    for scope in [&owner, &stranger] {
        let found = agent.tier.stat(scope, &digest).await.unwrap().unwrap();
        assert_eq!(found.visibility, Visibility::Public, "{scope}");
    }
    // And a later pull with credentials does not make it one.
    stand.agent().upload(offer(&stranger, &bytes, Visibility::Private)).await;
    let found = stand.agent().tier.stat(&owner, &digest).await.unwrap().unwrap();
    assert_eq!(found.visibility, Visibility::Public);
}

#[tokio::test]
async fn ranges() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(10_000));
    let digest = digest_of(&bytes);
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    let agent = stand.agent();
    for (start, end) in
        [(0, None), (4_321, None), (9_999, None), (0, Some(1)), (17, Some(9_000)), (1, Some(10_000))]
    {
        let mut stream = agent.tier.open(&here, &digest, start, end).await.unwrap().unwrap();
        assert_eq!(stream.total(), 10_000);
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        let expected = bytes.slice(start as usize..end.unwrap_or(10_000) as usize);
        assert_eq!(all, expected, "{start}..{end:?}");
    }
    for (start, end) in [(10_001, None), (0, Some(10_001))] {
        let error = agent.tier.open(&here, &digest, start, end).await.unwrap_err();
        assert!(matches!(error.fault(), TierFault::OutOfRange { size: 10_000, .. }), "{error}");
    }
    let error = agent.tier.get_small(&here, &digest, 9_999).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::TooLarge { size: 10_000, limit: 9_999 }), "{error}");
}

#[tokio::test]
async fn an_empty_blob() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), Bytes::new());
    stand.agent().upload(file_offer(&here, &bytes, Visibility::Public)).await;
    assert_eq!(stand.agent().read(&here, &digest_of(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_object_that_vanishes_is_a_miss() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    let digest = digest_of(&bytes);
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    let agent = stand.agent();
    assert!(agent.tier.stat(&here, &digest).await.unwrap().is_some());
    stand.remove(&stand.layout().blob(&digest)).await;
    assert!(agent.tier.open(&here, &digest, 0, None).await.unwrap().is_none(), "between stat and open");
    assert_eq!(agent.tier.stat(&here, &digest).await.unwrap(), None, "what was found is found no more");
    assert_eq!(stand.agent().tier.stat(&here, &digest).await.unwrap(), None, "a marker without its blob");
}

#[tokio::test]
async fn a_marker_that_is_none_is_a_miss() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    let digest = digest_of(&bytes);
    stand.put(&stand.layout().blob(&digest), bytes.clone()).await;
    let agent = stand.agent();
    assert_eq!(agent.tier.stat(&here, &digest).await.unwrap(), None, "no marker at all");
    for text in ["", "{", r#"{"version":9,"size":1000,"visibility":"public"}"#, &" ".repeat(2000)] {
        stand.put(&stand.layout().link(&here, &digest), text.to_owned()).await;
        assert_eq!(agent.tier.stat(&here, &digest).await.unwrap(), None, "{text:?}");
    }
    // A private marker in the place for public ones opens nothing.
    let private = Marker { size: 1000, visibility: Visibility::Private };
    stand.put(&stand.layout().public(&digest), private.encode()).await;
    assert_eq!(agent.tier.stat(&here, &digest).await.unwrap(), None);
}

/// A directory is a store like any other, and what is not mounted is not made.
#[tokio::test]
async fn a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared");
    let here = scope("r.test:5000/team/app");
    let bytes = noise(700_000);
    let digest = digest_of(&bytes);
    let settings = settings(Bucket::Directory { path: path.clone() });
    let agent = |metrics: &Arc<Metrics>| Tier::new(&settings, Arc::clone(metrics)).unwrap();
    let metrics = Metrics::new();
    let error = agent(&metrics).stat(&here, &digest).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::Directory(_)), "{error}");
    assert!(error.to_string().contains("shared"), "{error}");
    assert!(!path.exists(), "the directory was made");

    std::fs::create_dir(&path).unwrap();
    let writer = agent(&metrics);
    writer.offer(file_offer(&here, &bytes, Visibility::Private));
    writer.drain(Duration::from_secs(60)).await;
    let hex = digest.hex();
    assert!(path.join(format!("cache/blobs/sha256/{}/{hex}", &hex[..2])).is_file());
    assert!(path.join(format!("cache/links/r.test:5000/team/app/_/sha256/{hex}")).is_file());
    let reader = Agent { tier: agent(&metrics), metrics };
    assert_eq!(reader.read(&here, &digest).await.unwrap(), bytes);
    let mut part = reader.tier.open(&here, &digest, 600_000, Some(600_010)).await.unwrap().unwrap();
    assert_eq!(part.next().await.unwrap().unwrap(), bytes.slice(600_000..600_010));
    assert_eq!(part.next().await.unwrap(), None);
}
