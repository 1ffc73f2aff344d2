//! What containerd makes of a mirror that fails, with the agent in the mirror's place and the fault behind it. Without
//! the agent a cut is resumed by the runtime itself, a stall or a black hole fails the pull after minutes, and a wrong
//! byte fails it at once.

use std::time::Duration;

use shoal_tests::agent::Setup;
use shoal_tests::containerd::{self, Containerd, REGISTRY, Version};
use shoal_tests::image::Image;
use shoal_tests::origin::{Gate, Kind, Match, Origin, Plan};
use shoal_tests::proxy::{Faults, Proxy};

use super::{NAME, REPOSITORY};

/// One row: what goes wrong upstream of the agent, and whether the runtime may notice.
struct Row {
    name: &'static str,
    /// Scripts the origin that the agent asks.
    script: fn(&Origin, &Image),
    /// Whether the runtime goes on to the origin itself.
    falls_back: bool,
}

const ROWS: [Row; 8] = [
    Row {
        name: "blobs are missing",
        script: |o, _| o.script(Match::kind(Kind::Blob), Plan::status(404)),
        falls_back: true,
    },
    Row {
        name: "everything is 500",
        script: |o, _| o.script(Match::any(), Plan::status(500)),
        falls_back: true,
    },
    Row {
        name: "everything is 503",
        script: |o, _| o.script(Match::any(), Plan::status(503)),
        falls_back: true,
    },
    Row { name: "nothing is answered", script: |o, _| o.black_hole(), falls_back: true },
    Row {
        name: "bodies are cut",
        script: |o, image| {
            for layer in &image.layers {
                o.script_times(1, Match::blob(&layer.digest), Plan::close_after(layer.len() / 2));
            }
        },
        falls_back: false,
    },
    Row {
        name: "connections are reset",
        script: |o, image| {
            for layer in &image.layers {
                o.script_times(2, Match::blob(&layer.digest), Plan::reset_after(layer.len() / 3));
            }
        },
        falls_back: false,
    },
    Row {
        name: "a body stalls",
        script: |o, image| {
            let never = Gate::closed();
            o.script_times(1, Match::blob(&image.layers[0].digest), Plan::pause_after(3_000_000, &never));
        },
        falls_back: false,
    },
    Row {
        name: "the last byte is wrong, once",
        script: |o, image| {
            let layer = &image.layers[0];
            o.script_times(1, Match::blob(&layer.digest), Plan::wrong_byte_at(layer.len() - 1));
        },
        falls_back: false,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fault_matrix() {
    for version in containerd::at_hand() {
        for (row, seed) in ROWS.iter().zip(410..) {
            let origin = Origin::start().await;
            let healthy = Origin::start().await;
            let image = Image::small(seed);
            origin.add_image(REPOSITORY, "v1", &image);
            healthy.add_image(REPOSITORY, "v1", &image);
            (row.script)(&origin, &image);
            let mut setup = Setup::new(&origin.url())
                .registry(REGISTRY, &origin.url())
                .set("upstream.idle_timeout", "2s");
            // Where the runtime must not go on, a busy machine may not look like an upstream that is silent.
            if row.falls_back {
                setup = setup.set("upstream.connect_timeout", "500ms").set("upstream.header_timeout", "1s");
            }
            let agent = setup.start().await;
            let containerd = Containerd::start(version, None).await;
            containerd.mirror(&agent.url(), &healthy.url());
            let context = format!("containerd {}: {}", version.line(), row.name);
            let pulled = containerd.fetch(NAME).await.expect_ok(&context);
            containerd.expect_image(&image).await;
            assert!(pulled.took < Duration::from_secs(60), "{context}: {:?}", pulled.took);
            eprintln!("{context}: {:?}", pulled.took);
            let asked = healthy.seen().len();
            assert_eq!(asked > 0, row.falls_back, "{context}: {asked} requests went past the agent");
        }
    }
}

/// The agent is not there at all: one refused connection, and the origin serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agent_at_all() {
    let healthy = Origin::start().await;
    let image = Image::small(420);
    healthy.add_image(REPOSITORY, "v1", &image);
    let setup = Setup::new(&healthy.url());
    for version in containerd::at_hand() {
        let containerd = Containerd::start(version, None).await;
        containerd.mirror(&format!("http://{}", setup.registry_address()), &healthy.url());
        containerd.fetch(NAME).await.expect_ok("the pull without an agent");
        containerd.expect_image(&image).await;
    }
}

/// A wrong byte early in a blob reaches the runtime before anybody can know; that pull may fail, the next one after
/// the origin is repaired may not, and the store has nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_wrong_byte_spoils_one_pull_at_most() {
    let origin = Origin::start().await;
    let image = Image::small(421);
    origin.add_image(REPOSITORY, "v1", &image);
    let layer = &image.layers[0];
    origin.script(Match::blob(&layer.digest), Plan::wrong_byte_at(10));
    let fallback = Proxy::start(origin.address(), Faults::default()).await;
    let agent = Setup::new(&origin.url()).registry(REGISTRY, &origin.url()).start().await;
    let containerd = Containerd::start(Version::V1_6, None).await;
    containerd.mirror(&agent.url(), &fallback.url());
    let spoilt = containerd.fetch(NAME).await;
    assert!(!spoilt.ok, "the origin lies, and containerd was content: {}", spoilt.output);
    origin.heal();
    // containerd may hold the bad prefix for one more attempt; the agent does not.
    let url = format!("{}/v2/{REPOSITORY}/blobs/{}?ns={REGISTRY}", agent.url(), layer.digest);
    agent.client().get(&url).await.expect(200, &layer.bytes);
    let fresh = Containerd::start(Version::V1_6, None).await;
    fresh.mirror(&agent.url(), "http://127.0.0.1:1");
    fresh.fetch(NAME).await.expect_ok("the pull after the repair");
    fresh.expect_image(&image).await;
}
