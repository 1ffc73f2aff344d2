//! A thousand members in a rollout, each of which changes every second: the page stays smooth. The looks are made up, all
//! behind them is the product.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use shoal_agent::page;
use shoal_agent::watch::{BlobView, Feed, Look, MemberView, NodeView, Traffic, View as Seen};
use shoal_tests::browser::{Browser, SHOWN_MAX, Tab, View};
use shoal_tests::{place, wait};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{is_sound, picture, text_has};

const MEMBERS: u64 = 1000;
const BLOBS: u64 = 12;
/// Looks, one each second, for which the page is watched at a time.
const WATCHED_LOOKS: u64 = 3;
/// Times that it is watched until it was smooth: a machine whose two cores have other work stands still now and then, a
/// page that is not smooth is so each time.
const WATCHES_MAX: usize = 5;
/// Part of a core that the page may take.
const BUSY_MAX: f64 = 0.5;
/// Longest time between two frames.
const FRAME_GAP_MAX_MS: f64 = 500.0;

/// A rollout that moves on by one look: members have more and more of the blobs, some are slow, one has failed. Who has all
/// begins anew, so that the page never comes to rest.
#[derive(Default)]
struct Rollout {
    looks: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Look for Rollout {
    async fn look(&self) -> Seen {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let member = |n: u64| {
            let have = ((look + n % 17) / 2) % (BLOBS + 1);
            let member = MemberView {
                address: format!("10.0.{}.{}", n / 250, n % 250),
                zone: format!("eu-west-1{}", ["a", "b", "c"][(n % 3) as usize]),
                version: "0.1.0".into(),
                have: have as u16,
                receiving: (BLOBS - have) as u16,
                is_slow: n % 97 == 5,
                has_failed: n == 500,
                is_away: false,
                is_self: n == 0,
            };
            (format!("{:012x}", n * 7_919), member)
        };
        let members: BTreeMap<String, MemberView> = (0..MEMBERS).map(member).collect();
        let blob = |n: u64| BlobView {
            digest: format!("sha256:{n:064x}").parse().expect("a digest"),
            repository: Some("registry.test/team/app".into()),
            size: (n + 1) * 31_000_000,
            holders: members.values().filter(|member| u64::from(member.have) > n).count(),
            receivers: members.values().filter(|member| u64::from(member.have) <= n).count(),
            slow: 10,
            fetchers: 3,
        };
        Seen {
            node: NodeView { name: "000000000000".into(), version: "0.1.0".into(), ..NodeView::default() },
            traffic: self.traffic(),
            blobs: (0..BLOBS).map(blob).collect(),
            members,
            ..Seen::default()
        }
    }

    fn traffic(&self) -> Traffic {
        let n = self.looks.load(Ordering::Relaxed) * 10_000_000;
        Traffic {
            registries: n / 50,
            members: n,
            store: n / 4,
            served: 2 * n,
            given: n,
            ..Traffic::default()
        }
    }
}

/// Waits for so many looks more.
async fn until_looks(looks: &AtomicU64, more: u64) {
    let enough = looks.load(Ordering::Relaxed) + more;
    wait::until_true(format!("{more} looks"), SHOWN_MAX, || looks.load(Ordering::Relaxed) >= enough).await;
}

/// Part of a core that the page takes, and the longest time between two frames, ms.
async fn watch(tab: &Tab, looks: &AtomicU64) -> (f64, f64) {
    // It begins with a look: what is drawn is then as much as there are seconds.
    until_looks(looks, 1).await;
    tab.eval("gap = 0").await;
    let (before, begun) = (tab.metric("TaskDuration").await, Instant::now());
    until_looks(looks, WATCHED_LOOKS).await;
    let busy = (tab.metric("TaskDuration").await - before) / begun.elapsed().as_secs_f64();
    // A frame that is still to come is late already.
    let gap = tab.eval("Math.max(gap, performance.now() - last)").await.as_f64().expect("a number");
    println!("{busy:.3} of a core, longest gap between frames {gap:.0} ms");
    (busy, gap)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_members_are_drawn_smoothly() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let rollout = Rollout::default();
    let looks = Arc::clone(&rollout.looks);
    let feed = Feed::new(rollout, &tasks, &stop);
    feed.spawn();
    let nobody = axum::routing::get(|| async { axum::http::StatusCode::NOT_FOUND });
    let listener =
        tokio::net::TcpListener::bind((place::loopback(), 5080)).await.expect("nobody else has it");
    let host = listener.local_addr().expect("it is bound").to_string();
    let served = tokio::spawn(async move { axum::serve(listener, page::router(feed, nobody, true)).await });
    let browser = Browser::start().await;
    let tab = browser.open(&format!("http://{host}/"), View::DARK).await;
    tab.until("document.querySelectorAll('#map .cell').length === 1000", SHOWN_MAX).await;
    tab.until(&text_has("map", "eu-west-1a: 334 members"), SHOWN_MAX).await;

    tab.eval(
        "window.gap = 0; window.last = performance.now();
         const frame = (now) => { gap = Math.max(gap, now - last); last = now; requestAnimationFrame(frame); };
         requestAnimationFrame(frame); 0",
    )
    .await;
    let is_smooth = |(busy, gap): &(f64, f64)| *busy < BUSY_MAX && *gap < FRAME_GAP_MAX_MS;
    let mut watched: Vec<(f64, f64)> = Vec::new();
    while watched.len() < WATCHES_MAX && !watched.iter().any(is_smooth) {
        watched.push(watch(&tab, &looks).await);
    }
    assert!(watched.iter().any(is_smooth), "parts of a core, ms between two frames: {watched:?}");
    assert!(tab.eval("document.querySelectorAll('#map .cell.slow').length").await.as_u64() > Some(5));
    tab.until(&text_has("slow", "will not be ready"), SHOWN_MAX).await;
    for (name, view) in [("dark", View::DARK), ("light", View::LIGHT), ("phone", View::PHONE)] {
        tab.look(view).await;
        picture(&tab, &format!("thousand-{name}")).await;
        is_sound(&tab, &host).await;
    }
    stop.cancel();
    served.abort();
}
