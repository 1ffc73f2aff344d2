//! A thousand members in a rollout, each of which changes every second: the page stays smooth. The looks are made up, all
//! behind them is the product.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_agent::page;
use shoal_agent::watch::{BlobView, Feed, Look, MemberView, NodeView, Traffic, View as Seen};
use shoal_tests::browser::{Browser, SHOWN_MAX, View};
use shoal_tests::place;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{is_sound, picture, text_has};

const MEMBERS: u64 = 1000;
const BLOBS: u64 = 12;
/// For how long the page is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Part of a core that the page may take, on a machine whose two cores have other work.
const BUSY_MAX: f64 = 0.5;
/// Longest time between two frames.
const FRAME_GAP_MAX_MS: f64 = 500.0;

/// A rollout that moves on by one look: members have more and more of the blobs, some are slow, one has failed.
#[derive(Default)]
struct Rollout {
    looks: AtomicU64,
}

#[async_trait::async_trait]
impl Look for Rollout {
    async fn look(&self) -> Seen {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let member = |n: u64| {
            let have = ((look + n % 17) / 2).min(BLOBS);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_members_are_drawn_smoothly() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let feed = Feed::new(Rollout::default(), &tasks, &stop);
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
    let before = tab.metric("TaskDuration").await;
    // What is measured is what the page does in this time.
    tokio::time::sleep(WATCHED).await;
    let busy = (tab.metric("TaskDuration").await - before) / WATCHED.as_secs_f64();
    let gap = tab.eval("gap").await.as_f64().expect("a number");
    println!("{busy:.3} of a core, longest gap between frames {gap:.0} ms");
    assert!(busy < BUSY_MAX, "the page takes {busy:.2} of a core");
    assert!(gap < FRAME_GAP_MAX_MS, "{gap:.0} ms between two frames");
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
