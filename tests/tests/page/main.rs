//! The status page, in a real browser and as others see the port: what is shown while a rollout runs, with a thousand members,
//! and to whom nothing is shown.

mod many;
mod port;

use std::path::PathBuf;
use std::time::Duration;

use shoal_tests::agent::shoal;
use shoal_tests::browser::{Browser, SHOWN_MAX, Tab, View};
use shoal_tests::cluster::Cluster;
use shoal_tests::image::Image;
use shoal_tests::origin::{Gate, Match, Origin, Plan};

const REPOSITORY: &str = "team/app";

/// Keeps a picture of the page for whoever looks, in the folder that `SHOAL_TEST_PICTURES` names.
async fn picture(tab: &Tab, name: &str) {
    if let Some(folder) = std::env::var_os("SHOAL_TEST_PICTURES") {
        tab.screenshot(&PathBuf::from(folder).join(format!("{name}.png"))).await;
    }
}

fn text_has(id: &str, words: &str) -> String {
    format!("document.getElementById({id:?})?.innerText.includes({words:?})")
}

/// What holds for every page, however it is looked at.
async fn is_sound(tab: &Tab, host: &str) {
    assert_eq!(tab.complaints(), Vec::<String>::new());
    for url in tab.requests() {
        assert!(url.starts_with(&format!("http://{host}/")), "{url} is loaded from elsewhere");
    }
    let wide = tab.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
    assert_eq!(wide, 0, "the page is wider than its window");
    let unnamed = "[...document.querySelectorAll('button, input, a, [role=img], [role=application]')]
        .filter((e) => !(e.innerText || e.ariaLabel || e.getAttribute('aria-label') || e.labels?.length)).length";
    assert_eq!(tab.eval(unnamed).await, 0, "something that is used or read has no name");
}

/// A rollout over real agents, from its beginning to its end, by day, at night and on a telephone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_watched() {
    let origin = Origin::start().await;
    let image = Image::new(760, &[6_000_000, 2_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let (layer, gate) = (&image.layers[0], Gate::closed());
    // Whoever goes on in place of the first one that fetches waits as well.
    origin.script_times(1, Match::blob(&layer.digest), Plan::pause_after(3_000_000, &gate));
    origin.script(Match::blob(&layer.digest), Plan::hold(&gate));
    let zones =
        |node: usize, setup: shoal_tests::agent::Setup| setup.set("swarm.zone", ["eu-1a", "eu-1b"][node % 2]);
    let cluster = Cluster::start_with(&origin.url(), 4, zones).await;
    let host = cluster.agents[0].setup().observe_address().to_string();
    let browser = Browser::start().await;
    let tab = browser.open(&format!("http://{host}/"), View::DARK).await;
    tab.until("document.querySelectorAll('#map .cell').length === 4", SHOWN_MAX).await;
    tab.until(&text_has("link", "live"), SHOWN_MAX).await;
    tab.until(&text_has("map", "eu-1b: 2 members"), SHOWN_MAX).await;

    let socket = cluster.agents[0].setup().socket().display().to_string();
    let image_name = format!("{}/{REPOSITORY}:v1", shoal_tests::agent::REGISTRY);
    shoal(&["prewarm", &image_name, "--detach", "--socket", &socket]).await.expect_ok("prewarm");
    tab.until(&text_has("rollouts", "0 of 4 nodes ready"), SHOWN_MAX).await;
    tab.until(&text_has("blobs", "0 of 4 have it, 4 receiving"), SHOWN_MAX).await;
    tab.until("document.querySelectorAll('#map .cell.receiving').length === 4", SHOWN_MAX).await;
    tab.until(&text_has("flights", "of 6.0 MB"), SHOWN_MAX).await;
    for (name, view) in [("dark", View::DARK), ("light", View::LIGHT), ("phone", View::PHONE)] {
        tab.look(view).await;
        picture(&tab, &format!("rollout-{name}")).await;
        is_sound(&tab, &host).await;
    }

    gate.open();
    tab.until(&text_has("rollouts", "4 of 4 nodes ready"), SHOWN_MAX).await;
    tab.until(&text_has("blobs", "4 of 4 have it"), SHOWN_MAX).await;
    tab.until("document.querySelectorAll('#map .cell.receiving').length === 0", SHOWN_MAX).await;
    tab.until(&text_has("flights", "Nothing."), SHOWN_MAX).await;
    let story = format!("document.querySelector('#blobs button[data-digest=\"{}\"]').click()", layer.digest);
    tab.eval(&story).await;
    tab.until(&text_has("story", "4 members"), SHOWN_MAX).await;
    tab.until("document.querySelectorAll('#story tbody tr').length >= 1", SHOWN_MAX).await;
    assert_eq!(tab.eval("document.activeElement.id").await, "story-title", "the keyboard goes along");
    picture(&tab, "story-phone").await;
    is_sound(&tab, &host).await;
    // From member to member with the keyboard.
    tab.eval("document.getElementById('map').focus()").await;
    let first = tab.eval("document.getElementById('member').innerText").await;
    tab.key("ArrowRight").await;
    let second = tab.eval("document.getElementById('member').innerText").await;
    assert!(
        first != second && second.as_str().is_some_and(|text| text.contains("version")),
        "{first} {second}"
    );
}

/// An agent that goes and comes back is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_finds_its_agent_again() {
    let origin = Origin::start().await;
    let mut agent = shoal_tests::agent::Agent::start(&origin.url()).await;
    let browser = Browser::start().await;
    let url = format!("http://{}/", agent.setup().observe_address());
    let tab = browser.open(&url, View::LIGHT).await;
    tab.until(&text_has("link", "live"), SHOWN_MAX).await;
    tab.until(&text_has("identity", "works alone"), SHOWN_MAX).await;
    agent.terminate();
    assert!(agent.exit().await.success(), "an open page does not keep an agent from ending");
    tab.until(&text_has("link", "no connection"), SHOWN_MAX).await;
    agent.restart().await;
    tab.until(&text_has("link", "live"), Duration::from_secs(2 * SHOWN_MAX.as_secs())).await;
}
