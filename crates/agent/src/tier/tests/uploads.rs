//! What is written, in which order, and what happens to an offer that cannot be taken or finished.

use super::faulty::Fault;
use super::limits::{OFFERED_BYTES_MAX, OFFERS_MAX, PART_BYTES, UPLOAD_ATTEMPTS_MAX};
use super::*;

/// Writes, in the order in which they were made.
fn writes(stand: &Stand) -> Vec<String> {
    let is_write = |request: &String| request.starts_with("put ") || request.starts_with("multipart ");
    stand.store.take_asked().into_iter().filter(is_write).collect()
}

#[tokio::test]
async fn the_blob_is_written_before_its_markers() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    let layout = stand.layout();
    let digest = digest_of(&bytes);
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    let expected = [layout.blob(&digest), layout.link(&here, &digest), layout.public(&digest)];
    assert_eq!(writes(&stand), expected.map(|path| format!("put {path}")));

    // What is there already is not written again; another repository adds its own marker.
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    assert_eq!(writes(&stand), [""; 0]);
    let there = scope("r.test/b");
    stand.agent().upload(offer(&there, &bytes, Visibility::Private)).await;
    assert_eq!(writes(&stand), [format!("put {}", layout.link(&there, &digest))]);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_was_not_written_gets_no_marker() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    stand.store.fail("put cache/blobs", Fault::Fails);
    let agent = stand.agent();
    agent.tier.offer(offer(&here, &bytes, Visibility::Public));
    agent.tier.drain(Duration::from_secs(3600)).await;
    let written = writes(&stand);
    assert_eq!(written.len(), UPLOAD_ATTEMPTS_MAX as usize, "{written:?}");
    assert!(written.iter().all(|request| request.starts_with("put cache/blobs")), "{written:?}");
    assert_eq!((agent.uploads("failed"), agent.dropped("failed")), (u64::from(UPLOAD_ATTEMPTS_MAX), 1));
    assert_eq!(stand.agent().tier.stat(&here, &digest_of(&bytes)).await.unwrap(), None);
}

#[tokio::test]
async fn large_blobs_are_sent_in_parts() {
    let stand = Stand::new();
    let here = scope("r.test/a");
    let bytes = noise(2 * PART_BYTES as usize + 12_345);
    let digest = digest_of(&bytes);
    let agent = stand.agent();
    agent.tier.offer(file_offer(&here, &bytes, Visibility::Public));
    agent.tier.drain(Duration::from_secs(60)).await;
    assert_eq!(stand.bytes(&stand.layout().blob(&digest)).await.unwrap(), bytes);
    assert!(writes(&stand)[0].starts_with("multipart cache/blobs"));
    assert_eq!(agent.uploads("stored"), 1);
    assert!(agent.metric("shoal_tier_sent_bytes_total") > bytes.len() as u64);
}

/// A file that is shorter than the blob is somebody's mistake on this node, and goes nowhere.
#[tokio::test]
async fn content_of_the_wrong_length_is_not_written() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    for offer in [offer(&here, &bytes, Visibility::Public), file_offer(&here, &bytes, Visibility::Public)] {
        let agent = stand.agent();
        agent.tier.offer(Offer { size: 1001, ..offer });
        agent.tier.drain(Duration::from_secs(60)).await;
        assert_eq!(agent.dropped("failed"), 1);
        assert_eq!(writes(&stand), [""; 0]);
    }
}

/// An upload of somebody else that broke off, or was tampered with, is replaced by the next one.
#[tokio::test]
async fn a_wrong_object_is_replaced() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    let digest = digest_of(&bytes);
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    let path = stand.layout().blob(&digest);

    stand.put(&path, bytes.slice(..999)).await;
    let agent = stand.agent();
    let error = agent.tier.stat(&here, &digest).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::WrongSize { expected: 1000, found: 999 }), "{error}");
    agent.upload(offer(&here, &bytes, Visibility::Public)).await;
    assert_eq!(stand.bytes(&path).await.unwrap(), bytes);

    // The right size and the wrong bytes: only whoever checked the digest knows.
    let wrong = Bytes::from(vec![0; 1000]);
    stand.put(&path, wrong.clone()).await;
    let agent = stand.agent();
    assert_eq!(agent.read(&here, &digest).await.unwrap(), wrong);
    agent.tier.distrust(&digest).await;
    assert_eq!(agent.tier.stat(&here, &digest).await.unwrap(), None, "it is left alone");
    assert!(agent.tier.open(&here, &digest, 0, None).await.unwrap().is_none());
    agent.tier.offer(offer(&here, &bytes, Visibility::Public));
    let tier = agent.tier.clone();
    tier.drain(Duration::from_secs(60)).await;
    assert_eq!(stand.bytes(&path).await.unwrap(), bytes);
    assert_eq!(agent.read(&here, &digest).await.unwrap(), bytes, "it is trusted again");
}

#[tokio::test(start_paused = true)]
async fn offers_without_room_are_dropped() {
    let stand = Stand::new();
    stand.store.fail("put", Fault::Hangs);
    let agent = stand.agent();
    let here = scope("r.test/a");
    for n in 0..OFFERS_MAX + 3 {
        agent.tier.offer(offer(&here, &noise(n + 1), Visibility::Public));
    }
    assert_eq!(agent.dropped("no-room"), 3);
    // What is under way already is no further offer.
    agent.tier.offer(offer(&here, &noise(1), Visibility::Public));
    assert_eq!(agent.dropped("no-room"), 3);
    agent.tier.drain(Duration::from_secs(1)).await;
    assert_eq!(agent.dropped("stopped"), OFFERS_MAX as u64, "the deadline ends what hangs");
    agent.tier.offer(offer(&here, &noise(1), Visibility::Public));
    assert_eq!(agent.dropped("stopped"), OFFERS_MAX as u64, "nothing is taken any more");

    let agent = stand.agent();
    let half = OFFERED_BYTES_MAX / 2 + 1;
    agent.tier.offer(offer(&here, &noise(half), Visibility::Public));
    agent.tier.offer(offer(&here, &noise(half + 1), Visibility::Public));
    assert_eq!(agent.dropped("no-room"), 1, "the memory of offers is bounded");
    agent.tier.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn an_agent_that_only_reads_writes_nothing() {
    let mut stand = Stand::new();
    stand.settings.write = false;
    stand.agent().upload(offer(&scope("r.test/a"), &noise(10), Visibility::Public)).await;
    assert_eq!(stand.store.take_asked(), [""; 0]);
}

/// A store that was away for a moment gets the upload afterwards; one that stays away gets nothing.
#[tokio::test(start_paused = true)]
async fn an_upload_waits_for_a_store_that_comes_back() {
    let stand = Stand::new();
    let (here, bytes) = (scope("r.test/a"), noise(1000));
    stand.store.fail("put", Fault::Hangs);
    let agent = stand.agent();
    agent.tier.offer(offer(&here, &bytes, Visibility::Public));
    tokio::time::sleep(Duration::from_secs(8)).await;
    stand.store.heal();
    agent.tier.drain(Duration::from_secs(60)).await;
    assert_eq!((agent.uploads("failed"), agent.uploads("stored")), (1, 1));

    stand.store.fail("", Fault::Hangs);
    let agent = stand.agent();
    for n in 0..5 {
        agent.tier.offer(offer(&here, &noise(n + 1), Visibility::Public));
    }
    agent.tier.drain(Duration::from_secs(3600)).await;
    let given_up = agent.dropped("failed") + agent.dropped("left-alone");
    assert_eq!(given_up, 5);
}
