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
mod slow;
mod small;
mod stock;
mod tags;
mod takeover;
mod traces;
mod wire;
mod withdrawn;

use shoal_tests::image::Image;
use shoal_tests::origin::{Gate, Match, Origin, Plan};

const REPOSITORY: &str = "team/app";

/// An origin that has an image of one layer.
async fn one_layer(seed: u64, layer_bytes: usize) -> (Origin, Image) {
    let origin = Origin::start().await;
    let image = Image::new(seed, &[layer_bytes]);
    origin.add_image(REPOSITORY, "v1", &image);
    (origin, image)
}

/// An origin that sends the first bytes of an image's only layer, and the rest once the gate is open.
async fn paused_image(seed: u64, layer_bytes: usize, first: u64) -> (Origin, Image, Gate) {
    let (origin, image) = one_layer(seed, layer_bytes).await;
    let gate = Gate::closed();
    origin.script(Match::blob(&image.layers[0].digest), Plan::pause_after(first, &gate));
    (origin, image, gate)
}
