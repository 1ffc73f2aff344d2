//! Images that are evicted and pinned on every node, by the command line.

use shoal_tests::agent::{Agent, REGISTRY, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::process::Finished;

use super::{REPOSITORY, one_layer};

fn name(tag: &str) -> String {
    format!("{REGISTRY}/{REPOSITORY}:{tag}")
}

async fn command(agent: &Agent, words: &[&str]) -> Finished {
    let socket = agent.setup().socket().display().to_string();
    shoal(&[words, &["--socket", &socket]].concat()).await
}

#[track_caller]
fn expect(finished: &Finished, code: i32, text: &str) {
    assert_eq!(finished.code, Some(code), "{}", finished.output);
    assert!(finished.output.contains(text), "{text:?} is not in\n{}", finished.output);
}

async fn stored(agent: &Agent) -> String {
    command(agent, &["blob", "ls", "--json"]).await.expect_ok("blob ls").output
}

/// A tag was overwritten upstream, and the old image must be gone from everywhere: blobs, and what the tag pointed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_evicted_from_every_node_and_can_be_warmed_again() {
    let origin = Origin::start().await;
    let (old, new) = (Image::new(970, &[300_000, 200]), Image::new(971, &[300_000, 200]));
    origin.add_image(REPOSITORY, "v1", &old);
    let cluster = Cluster::start(&origin.url(), 3).await;
    expect(&command(&cluster.agents[0], &["prewarm", &name("v1")]).await, 0, "3 of 3 nodes ready");
    cluster.agents[2].get_manifest(REPOSITORY, "v1").await.expect(200, &old.manifest.bytes);

    origin.add_image(REPOSITORY, "v1", &new);
    let finished = command(&cluster.agents[1], &["evict", &name("v1"), "--cluster"]).await;
    // Not every agent was asked for the tag, but they tell each other what it means.
    expect(&finished, 0, "12 blobs removed on 3 of 3 nodes");
    for agent in &cluster.agents {
        assert_eq!(stored(agent).await, "");
    }
    let asked = || {
        origin.seen().into_iter().filter(|seen| seen.kind == Kind::Manifest && seen.reference == "v1").count()
    };
    let before = asked();
    cluster.agents[2].get_manifest(REPOSITORY, "v1").await.expect(200, &new.manifest.bytes);
    assert!(asked() > before, "the tag was forgotten");

    // A set that was warmed a moment ago is not taken for warm any more.
    let by_digest = format!("{REGISTRY}/{REPOSITORY}@{}", old.manifest.digest);
    let finished = command(&cluster.agents[0], &["prewarm", &by_digest]).await;
    expect(&finished, 0, "3 of 3 nodes ready");
    for agent in &cluster.agents {
        let stored = stored(agent).await;
        assert!(old.blobs().all(|blob| stored.contains(&blob.digest)), "{stored}");
    }
}

/// Pins are set and taken away everywhere; a node that is gone is named, and the exit status says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_set_everywhere() {
    let (origin, image) = one_layer(975, 300_000).await;
    let mut cluster = Cluster::start(&origin.url(), 3).await;
    let by_digest = format!("{REGISTRY}/{REPOSITORY}@{}", image.manifest.digest);
    expect(&command(&cluster.agents[0], &["pin", &by_digest, "--cluster"]).await, 5, "on none of 3 nodes");
    expect(&command(&cluster.agents[0], &["prewarm", &by_digest]).await, 0, "3 of 3 nodes ready");
    let finished = command(&cluster.agents[0], &["pin", &by_digest, "--for", "1h", "--cluster"]).await;
    expect(&finished, 0, "9 blobs pinned until ");
    expect(&finished, 0, " on 3 of 3 nodes");
    for agent in &cluster.agents {
        assert!(!stored(agent).await.contains("\"pinned\":false"));
    }
    // Nothing that is pinned goes, however long it was not used.
    let finished = command(&cluster.agents[0], &["gc", "--unused-for", "0s"]).await;
    expect(&finished, 0, "nothing to remove");
    expect(&command(&cluster.agents[0], &["unpin", &by_digest]).await, 0, "3 blobs unpinned");

    cluster.agents[2].kill();
    let finished = command(&cluster.agents[0], &["unpin", &by_digest, "--cluster"]).await;
    expect(&finished, 1, "not done: ");
    let finished = command(&cluster.agents[0], &["evict", "Team/App"]).await;
    expect(&finished, 2, "is no image");
}
