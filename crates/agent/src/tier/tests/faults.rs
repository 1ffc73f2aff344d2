//! A store that fails: how long it may take, and what it costs the next one who asks.

use tokio::time::Instant;

use super::faulty::Fault;
use super::*;

async fn stored(stand: &Stand) -> (Scope, Digest, Bytes) {
    let (here, bytes) = (scope("r.test/a"), noise(10_000));
    stand.agent().upload(offer(&here, &bytes, Visibility::Public)).await;
    stand.store.take_asked();
    (here, digest_of(&bytes), bytes)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_costs_nothing_twice() {
    let stand = Stand::new();
    let (here, digest, bytes) = stored(&stand).await;
    stand.store.fail("", Fault::Hangs);
    let agent = stand.agent();
    let begun = Instant::now();
    let error = agent.tier.stat(&here, &digest).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::Late(_)), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(7), "connect and header timeout");
    stand.store.take_asked();

    let begun = Instant::now();
    for _ in 0..20 {
        let error = agent.tier.open(&here, &digest, 0, None).await.unwrap_err();
        assert!(matches!(error.fault(), TierFault::LeftAlone { .. }), "{error}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(stand.store.take_asked(), [""; 0]);
    assert_eq!(agent.metric("shoal_tier_requests_total{operation=\"open\",outcome=\"left-alone\"}"), 20);

    // After the pause one question finds out that it is back.
    stand.store.heal();
    tokio::time::sleep(shoal_engine::limits::BREAKER_PAUSE_FIRST).await;
    assert_eq!(agent.read(&here, &digest).await.unwrap(), bytes);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_with_errors_is_left_alone_soon() {
    let stand = Stand::new();
    let (here, digest, _) = stored(&stand).await;
    stand.store.fail("get cache/links", Fault::Fails);
    let agent = stand.agent();
    let mut asked = 0;
    while !matches!(agent.tier.stat(&here, &digest).await.unwrap_err().fault(), TierFault::LeftAlone { .. }) {
        asked += 1;
        assert!(asked < 100, "it is asked again and again");
    }
    assert_eq!(asked, shoal_engine::limits::BREAKER_ERRORS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_an_error() {
    let stand = Stand::new();
    let (here, digest, bytes) = stored(&stand).await;
    let agent = stand.agent();
    stand.store.fail("get cache/blobs", Fault::EndsAfter(7));
    let mut stream = agent.tier.open(&here, &digest, 100, None).await.unwrap().unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), bytes.slice(100..107));
    for _ in 0..2 {
        let error = stream.next().await.unwrap_err();
        assert!(matches!(error.fault(), TierFault::Short { received: 7, expected: 9_900 }), "{error}");
    }

    let again = agent.tier.open(&here, &digest, 107, None).await.unwrap();
    assert!(again.is_none(), "others are asked for the rest");

    stand.store.fail("get cache/blobs", Fault::StallsAfter(9));
    let agent = stand.agent();
    let mut stream = agent.tier.open(&here, &digest, 107, None).await.unwrap().unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), bytes.slice(107..116));
    let begun = Instant::now();
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::Stalled { received: 9, .. }), "{error}");
    assert_eq!(begun.elapsed(), stand.settings.idle_timeout);
    let error = agent.tier.stat(&here, &digest_of(b"another")).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::LeftAlone { .. }), "who stalls is left alone: {error}");
}

/// Twenty at once cost one timeout, not twenty pauses.
#[tokio::test(start_paused = true)]
async fn those_who_asked_together_fail_together() {
    let stand = Stand::new();
    let (here, digest, _) = stored(&stand).await;
    stand.store.fail("", Fault::Hangs);
    let agent = stand.agent();
    let ask = || async { agent.tier.stat(&here, &digest).await.unwrap_err() };
    let begun = Instant::now();
    futures_util::future::join_all((0..20).map(|_| ask())).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
    let error = ask().await;
    let TierFault::LeftAlone { left } = error.fault() else { panic!("{error}") };
    assert_eq!(*left, shoal_engine::limits::BREAKER_PAUSE_FIRST);
}
