//! Several real agents, one upstream: what is fetched, from whom, and what happens when some of them fail. Every byte that a
//! client gets is compared with what was pushed.

mod admission;
mod away;
mod clocks;
mod endings;
mod faults;
mod faults_shaped;
mod finding;
mod liars;
mod links;
mod outsiders;
mod pace;
mod pipeline;
mod prewarm;
mod rollout;
mod rotation;
mod runtime;
mod second;
mod slow;
mod small;
mod stock;
mod tags;
mod takeover;
mod traces;
mod wire;
mod withdrawn;

use std::time::Duration;

use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::homes::homes;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::wait;

const REPOSITORY: &str = "team/app";
/// Homes of a manifest or a tag. Whoever stands still, nobody else asks upstream for it.
const HOMES: usize = 3;
/// Tries of which one has to be exact: see [`exact`].
const TRIES_MAX: u64 = 3;
/// How long it may take until a new home has heard who has what, or until a log tells of what has happened.
const HEARD_MAX: Duration = Duration::from_secs(60);

/// An origin that has an image of one layer.
async fn one_layer(seed: u64, layer_bytes: usize) -> (Origin, Image) {
    let origin = Origin::start().await;
    let image = Image::new(seed, &[layer_bytes]);
    origin.add_image(REPOSITORY, "v1", &image);
    (origin, image)
}

/// An origin that sends the first bytes of an image's only layer, and the rest once the gate is open. Whoever is to go on in place of
/// the first one that fetches waits as well: the layer would be whole after a few of them.
async fn paused_image(seed: u64, layer_bytes: usize, first: u64) -> (Origin, Image, Gate) {
    let (origin, image) = one_layer(seed, layer_bytes).await;
    let gate = Gate::closed();
    let layer = Match::blob(&image.layers[0].digest);
    origin.script_times(1, layer.clone(), Plan::pause_after(first, &gate));
    origin.script(layer, Plan::hold(&gate));
    (origin, image, gate)
}

/// What the first exact one of a few attempts finds, each with something fresh made from a seed of its own. Attempts that are not exact,
/// as when upstream was asked twice, find nothing: a member that stands still for seconds rightly costs a second request, but not each
/// time. What is never right makes an attempt panic.
async fn exact<T>(first: u64, mut attempt: impl AsyncFnMut(u64) -> Option<T>) -> T {
    for seed in first..first + TRIES_MAX {
        if let Some(found) = attempt(seed).await {
            return found;
        }
        println!("what was done with seed {seed} was not exact");
    }
    panic!("none of {TRIES_MAX} attempts was exact");
}

/// Whether upstream was asked for each blob of an image once, by what it tells of a digest: requests, and bytes that it has sent. Who
/// has stood still may have had a copy on its way; a third one is never right.
fn are_sent_once(image: &Image, told: impl Fn(&str) -> (usize, u64)) -> bool {
    let mut are_once = true;
    for blob in image.blobs() {
        let (requests, sent) = told(&blob.digest);
        let line = format!("{}: {requests} requests, {sent} bytes of {}", blob.digest, blob.len());
        assert!(sent <= 2 * blob.len(), "{line}");
        if requests != 1 {
            println!("{line}");
            are_once = false;
        }
    }
    are_once
}

/// Waits until a registry's access log tells of all that an image was asked for: a line is written behind the body.
async fn until_logged(registry: &DockerRegistry, image: &Image) {
    for blob in image.blobs() {
        wait::until_true(format!("a request of {}", blob.digest), HEARD_MAX, || {
            registry.blob_gets(&blob.digest) > 0
        })
        .await;
    }
    registry.until_calm().await;
}

/// Waits until a member that has just come has heard that all others have a blob, if it has become the blob's home. Before that it asks
/// them for a moment, and fetches by itself what nobody answers for in time.
async fn until_heard(cluster: &Cluster, late: usize, blob: &Blob) {
    let admins = cluster.admins();
    if homes(&admins, blob).await.expect("the agents run")[0] == late {
        faults::until_held(&admins[late], blob, cluster.agents.len() - 1, HEARD_MAX).await;
    }
}
