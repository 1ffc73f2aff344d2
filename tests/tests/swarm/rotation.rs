//! The secret is changed while the cluster works, from the old one alone to the new one alone. Nobody is lost on the way but who
//! missed it, and that one is told why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};

use super::{REPOSITORY, TRIES_MAX, exact};

/// Members that take part in the rotation.
const MEMBERS: usize = 3;
const LAYER_BYTES: usize = 1_000_000;
/// How soon whoever has another secret has been told so.
const TOLD_MAX: Duration = Duration::from_secs(20);
/// What the log of an agent says that is refused, and what those say that refuse it.
const REFUSED: &str = "a member refuses this agent: it has another secret";
const SENT_AWAY: &str = "somebody who does not belong to this cluster was sent away";
const WRONG_PROOF: &str = "it does not know the cluster's secret";

/// Shows one secret, and accepts a second one.
fn secrets(setup: Setup, shown: &Path, accepted: Option<&Path>) -> Setup {
    let setup = setup.set("swarm.secret_file", shown.display().to_string());
    match accepted {
        Some(accepted) => setup.set("swarm.other_secret_file", accepted.display().to_string()),
        None => setup.unset("swarm.other_secret_file"),
    }
}

async fn command(agent: &Agent, name: &str) -> String {
    let socket = agent.setup().socket().display().to_string();
    shoal(&[name, "--socket", &socket]).await.expect_ok(name).output
}

/// Lines of a log with these words.
fn lines(log: &str, words: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

/// An image that one of them fetches from upstream, and all others from that one. It takes [`TRIES_MAX`] seeds.
async fn expect_shared(cluster: &Cluster, origin: &Origin, first: u64) {
    exact(first, async |seed| {
        let image = Image::new(seed, &[LAYER_BYTES]);
        origin.add_image(REPOSITORY, &format!("v{seed}"), &image);
        cluster.pull([0], REPOSITORY, &image).await;
        cluster.pull(1..cluster.agents.len(), REPOSITORY, &image).await;
        let layer = &image.layers[0];
        let copies = origin.blob_bytes(&layer.digest) as f64 / layer.len() as f64;
        println!("{copies:.2} copies of a layer");
        assert!(copies < 2.5, "{copies} copies of a layer: they do not share any more");
        (copies < 1.5).then_some(())
    })
    .await;
}

/// From `[old]` over `[old, new]` and `[new, old]` to `[new]`, one agent after the other, while the others work. A fourth one is off
/// meanwhile and comes back with the old secret alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_missed_a_rotation_is_told_so() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), MEMBERS + 1).await;
    let folder = place::scratch();
    let (old, new) = (cluster.secret_file(), folder.path().join("new"));
    std::fs::write(&new, "the secret that comes after it\n").expect("the folder is ours");
    expect_shared(&cluster, &origin, 1600).await;
    let mut late = cluster.agents.pop().expect("there are four");
    late.terminate();
    late.exit().await;
    cluster.until_met(MEMBERS).await;

    let steps = [(&old, Some(&new)), (&new, Some(&old)), (&new, None)];
    for (first, (shown, accepted)) in (1610..).step_by(TRIES_MAX as usize).zip(steps) {
        for node in 0..MEMBERS {
            let agent = cluster.agents.remove(node);
            let accepted = accepted.map(PathBuf::as_path);
            let agent = agent.restart_with(|setup| secrets(setup, shown, accepted)).await;
            cluster.agents.insert(node, agent);
            // Until the last one, some are a step ahead of the others.
            cluster.until_met(MEMBERS).await;
        }
        expect_shared(&cluster, &origin, first).await;
    }
    for agent in &cluster.agents {
        assert_eq!(lines(&agent.log(), WRONG_PROOF), Vec::<String>::new(), "nobody was sent away on the way");
    }

    late.restart().await;
    wait::until("it to be refused, and to know where", TOLD_MAX, || async {
        let status = command(&late, "status").await;
        let named = cluster.agents.iter().all(|agent| status.contains(&agent.address().ip().to_string()));
        named && status.contains("another secret than this agent's")
    })
    .await;
    late.until_logged("the refusal", |log| !lines(log, REFUSED).is_empty()).await;
    let file = old.display().to_string();
    assert!(lines(&late.log(), REFUSED).iter().all(|line| line.contains(&file)), "{}", late.log());
    let peers = command(&late, "peers").await;
    for agent in &cluster.agents {
        let whoever = format!("whoever is at {} has another secret", agent.address().ip());
        assert!(peers.contains(&whoever), "{peers}");
    }
    for agent in &cluster.agents {
        wait::until_true("those that refused it to say so", TOLD_MAX, || {
            lines(&agent.log(), SENT_AWAY).iter().any(|line| line.contains(WRONG_PROOF))
        })
        .await;
        assert_eq!(agent.metric("members", &[]).await as usize, MEMBERS, "it is no member");
        let status = command(agent, "status").await;
        assert!(status.contains("another secret than this agent's"), "{status}");
    }
    assert_eq!(late.metric("members", &[]).await, 1.0);
    for agent in cluster.agents.iter().chain([&late]) {
        assert!(!agent.log().contains("a secret of this test"), "the old secret is in no log");
        assert!(!agent.log().contains("the secret that comes after"), "the new secret is in no log");
    }

    // With the new one it is a member again, and gets from the others what it has missed.
    let late = late.restart_with(|setup| secrets(setup, &new, None)).await;
    cluster.agents.push(late);
    cluster.until_met(MEMBERS + 1).await;
    expect_shared(&cluster, &origin, 1620).await;
}
