//! A mirror that sends wrong bytes: it spoils at most one pull, and never the store.

use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Kind, Match, Origin, Plan};

use super::{REPOSITORY, Stand, mirror};

/// What an operator sees: the metric and one error line name the mirror.
async fn expect_report(stand: &Stand, digest: &str, origin: &Origin) {
    let address = origin.address().to_string();
    let told = |log: &str| {
        let names = |line: &&str| line.contains("ERROR") && line.contains(&address) && line.contains(digest);
        log.lines().filter(names).count()
    };
    let what = "an error line that names the mirror and the blob";
    stand.agent.until_logged(what, |log| told(log) > 0).await;
    let log = stand.agent.log();
    assert_eq!(told(&log), 1, "error lines that name the mirror and the blob:\n{log}");
    let counted = stand.agent.metric("quarantines_total", &[&mirror(0)]).await;
    assert_eq!(counted, 1.0, "shoal_quarantines_total");
}

/// A blob of several pieces: its client may have received bytes already and then is cut, but gets no wrong end. The
/// next pull succeeds by the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_mirror_spoils_one_pull() {
    let stand = Stand::new(1).await;
    let blob = Blob::noise(620, 24_000_000);
    stand.add_blob(&blob);
    stand.mirrors[0].script(Match::blob(&blob.digest), Plan::wrong_byte_at(blob.len() / 2));
    let spoiled = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
    let is_whole = spoiled.cut.is_none() && spoiled.body.len() == blob.bytes.len();
    assert!(!is_whole || spoiled.body == blob.bytes, "wrong bytes were passed on as a whole blob");
    println!("lying mirror: status {}, {} of {} bytes", spoiled.status, spoiled.body.len(), blob.len());
    for repository in [REPOSITORY, "team/other"] {
        stand.agent.get_blob(repository, &blob.digest).await.expect(200, &blob.bytes);
    }
    assert_eq!(stand.blob_gets(&blob.digest), [1, 1], "the mirror is not asked for it again");
    expect_report(&stand, &blob.digest, &stand.mirrors[0]).await;

    // It has lied about one blob; the others are still asked of it.
    let honest = Blob::noise(621, 100_000);
    stand.add_blob(&honest);
    stand.agent.get_blob("team/third", &honest.digest).await.expect(200, &honest.bytes);
    assert_eq!(stand.blob_gets(&honest.digest), [1, 0]);
}

/// A client that has received nothing when the lie is found notices nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_a_small_blob_spoils_no_pull() {
    let stand = Stand::new(1).await;
    let blob = Blob::noise(622, 100_000);
    stand.add_blob(&blob);
    stand.mirrors[0].script(Match::blob(&blob.digest), Plan::wrong_byte_at(50_000));
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(stand.blob_gets(&blob.digest), [1, 1]);
    expect_report(&stand, &blob.digest, &stand.mirrors[0]).await;
}

/// Nor does one that waits for the end of a large one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_spoils_no_bounded_pull_of_the_end() {
    let stand = Stand::new(1).await;
    let blob = Blob::noise(623, 24_000_000);
    stand.add_blob(&blob);
    stand.mirrors[0].script(Match::blob(&blob.digest), Plan::wrong_byte_at(1000));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let (whole, from) = (stand.client.get(&url), blob.len() - 1000);
    let range = format!("bytes={from}-{}", blob.len() - 1);
    let bounded = stand.client.range(&url, &range);
    let (_, bounded) = tokio::join!(whole, bounded);
    bounded.expect(206, &blob.bytes[from as usize..]);
    assert!(stand.mirrors[0].blob_gets(&blob.digest) >= 1, "the mirror was not asked");
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// A manifest that is not what its digest says: the registry is asked, and the client notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_a_manifest_spoils_no_pull() {
    let stand = Stand::new(1).await;
    let image = Image::new(624, &[1000]);
    stand.add_image(REPOSITORY, "v1", &image);
    stand.mirrors[0].script(Match::kind(Kind::Manifest), Plan::wrong_byte_at(20));
    let digest = &image.manifest.digest;
    stand.agent.get_manifest(REPOSITORY, digest).await.expect(200, &image.manifest.bytes);
    assert_eq!(stand.requests(Kind::Manifest), [1, 1]);
    expect_report(&stand, digest, &stand.mirrors[0]).await;
}
