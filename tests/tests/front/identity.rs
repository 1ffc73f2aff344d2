//! Who we say we are, and requests that come back to us (rows C16, C17).

use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;

use super::{REPOSITORY, Stand};

/// C16: our own User-Agent; the client's address only where that is wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_identity() {
    for forward in [false, true] {
        let stand = Stand::with(|setup| setup.set("upstream.forward_client_address", forward)).await;
        let image = Image::new(130, &[1000]);
        stand.origin.add_image(REPOSITORY, "v1", &image);
        let url = stand.agent.manifest(REPOSITORY, "v1");
        let request = stand.client.request("GET", &url).header("User-Agent", "containerd/v2.1.4");
        shoal_tests::http::read(request).await.expect(200, &image.manifest.bytes);
        let layer = &image.layers[0];
        stand.agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
        for seen in stand.origin.seen() {
            let agent = seen.header("user-agent").unwrap_or_default();
            assert!(agent.starts_with("shoal/"), "{agent}");
        }
        let told = stand
            .origin
            .seen()
            .iter()
            .any(|seen| seen.header("x-forwarded-for").is_some_and(|address| address.contains("127.")));
        assert_eq!(told, forward, "X-Forwarded-For");
    }
}

async fn expect_quick_failure(agent: &Agent) {
    let digest = Blob::noise(131, 1000).digest;
    for url in [
        agent.blob(REPOSITORY, &digest),
        agent.manifest(REPOSITORY, "v1"),
        agent.manifest(REPOSITORY, &digest),
    ] {
        let answer = agent.client().get(&url).await;
        assert!([404, 502, 508].contains(&answer.status), "{url}: {}", answer.status);
        assert!(answer.total < Duration::from_secs(10), "{:?}", answer.total);
    }
}

async fn requests(agent: &Agent) -> f64 {
    agent.metric("requests_total", &[]).await
}

/// C17: an agent whose upstream is itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_an_agent_that_is_its_own_upstream() {
    let setup = Setup::new("http://127.0.0.1:1");
    let own = format!("http://{}", setup.registry_address());
    // Each agent takes the other's requests by their path.
    let agent = setup.registry(REGISTRY, &own).default_registry(REGISTRY).start().await;
    expect_quick_failure(&agent).await;
    let total = requests(&agent).await;
    assert!(total <= 24.0, "{total} requests for three of a client");
}

/// C17: agents in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_agents_in_a_circle() {
    let setups: Vec<Setup> = (0..3).map(|_| Setup::new("http://127.0.0.1:1")).collect();
    let urls: Vec<String> =
        setups.iter().map(|setup| format!("http://{}", setup.registry_address())).collect();
    let mut agents = Vec::new();
    for (i, setup) in setups.into_iter().enumerate() {
        let next = &urls[(i + 1) % urls.len()];
        agents.push(setup.registry(REGISTRY, next).default_registry(REGISTRY).start().await);
    }
    expect_quick_failure(&agents[0]).await;
    let mut total = 0.0;
    for agent in &agents {
        total += requests(agent).await;
    }
    assert!(total <= 72.0, "{total} requests for three of a client");
}

/// A chain is no circle: an agent behind an agent serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_behind_an_agent() {
    let origin = Origin::start().await;
    let image = Image::new(132, &[2_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let inner = Setup::new(&origin.url()).default_registry(REGISTRY).start().await;
    let outer = Agent::start(&inner.url()).await;
    outer.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    let layer = &image.layers[0];
    outer.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}
