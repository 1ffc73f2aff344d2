//! Fallback of single blobs (rows F1 to F12, M5).

use std::time::{Duration, Instant};

use shoal_tests::http::{self, Answer, Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Kind, Match, Plan};
use shoal_tests::wait;

use super::{REPOSITORY, Set, Stand, WINDOW_BYTES};

/// F1, F9: the mirror has the manifest and fails one blob. The registry sees that blob and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_blob_falls_back_and_not_the_image() {
    let stand = Stand::new(1).await;
    let image = Image::new(500, &[300_000, 200_000]);
    stand.add_image(REPOSITORY, "v1", &image);
    let failed = &image.layers[1];
    stand.mirrors[0].script(Match::blob(&failed.digest), Plan::status(503));
    let digest = &image.manifest.digest;
    stand.agent.get_manifest(REPOSITORY, digest).await.expect(200, &image.manifest.bytes);
    // The one that fails comes last: what follows it begins where its walk has ended (F8).
    for blob in [&image.config, &image.layers[0], failed] {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    assert_eq!(stand.requests(Kind::Manifest), [1, 0]);
    let at_origin: Vec<String> = stand.origin.seen().into_iter().map(|seen| seen.reference).collect();
    assert_eq!(at_origin, std::slice::from_ref(&failed.digest), "F1: the failed blob alone");
}

/// F3, M5: a mirror may have some of it only. Whatever it says about what it does not have, the next source is asked, at
/// once and without a second try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_a_partial_mirror() {
    let stand = Stand::new(1).await;
    let bodies = [
        r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#,
        r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#,
        "<html><body>not found</body></html>",
        "",
    ];
    for (body, seed) in bodies.into_iter().zip(510..) {
        let blob = Blob::noise(seed, 100_000);
        stand.add_blob(&blob);
        stand.mirrors[0].script(Match::blob(&blob.digest), Plan::status_with(404, body));
        // A repository of its own, so that the mirror is asked each time.
        stand.agent.get_blob(&format!("team/f3-{seed}"), &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(stand.blob_gets(&blob.digest), [1, 1], "{body:?}");
    }
}

/// F4: a mirror that limits us costs nobody any time, whatever it wishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_a_limited_mirror_is_not_waited_for() {
    const WISH: u64 = 30;
    let stand = Stand::new(1).await;
    let limited = Plan::status(429);
    for (plan, seed) in [(limited.clone(), 520), (limited.header("Retry-After", &WISH.to_string()), 521)] {
        let blob = Blob::noise(seed, 100_000);
        stand.add_blob(&blob);
        stand.mirrors[0].script(Match::blob(&blob.digest), plan);
        let answer = stand.agent.get_blob(&format!("team/f4-{seed}"), &blob.digest).await;
        answer.expect(200, &blob.bytes);
        assert!(answer.total < Duration::from_secs(WISH / 2), "{:?}", answer.total);
        assert_eq!(stand.blob_gets(&blob.digest), [1, 1], "asked once, and the next one at once");
    }
}

/// F5: a refusal by a mirror is somebody's mistake. The walk ends, and the client is told by whom and why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_mirror_that_refuses_stops_the_walk() {
    let stand = Stand::new(1).await;
    for (status, seed) in [400, 401, 403, 405, 410].into_iter().zip(530..) {
        let blob = Blob::noise(seed, 1000);
        stand.add_blob(&blob);
        stand.mirrors[0].script(Match::blob(&blob.digest), Plan::status(status));
        let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
        assert!([404, 502].contains(&answer.status), "{status}: {}", answer.status);
        assert_eq!(stand.blob_gets(&blob.digest), [1, 0], "{status}");
        let told = detail(&answer);
        let address = stand.mirrors[0].address().to_string();
        // Behind a 401 there is more to tell than its number.
        let reason = if status == 401 { "access denied".to_owned() } else { status.to_string() };
        assert!(told.contains(&address) && told.contains(&reason), "{status}: {told}");
    }
}

/// F5, `mirrors.on_denied = "continue"`: the next source is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_mirror_that_refuses_is_passed_over_if_wished() {
    let lenient = |setup: shoal_tests::agent::Setup| setup.set("mirrors.on_denied", "continue");
    let stand = Stand::with(1, vec![Set::first(1)], lenient).await;
    for (status, seed) in [400, 401, 403, 405, 410].into_iter().zip(540..) {
        let blob = Blob::noise(seed, 1000);
        stand.add_blob(&blob);
        stand.mirrors[0].script(Match::blob(&blob.digest), Plan::status(status));
        stand.agent.get_blob(&format!("team/f5-{seed}"), &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(stand.blob_gets(&blob.digest), [1, 1], "{status}");
    }
    // The registry's own refusal is the answer all the same.
    let blob = Blob::noise(549, 1000);
    stand.all().for_each(|origin| origin.script(Match::kind(Kind::Blob), Plan::status(403)));
    let answer = stand.agent.get_blob("team/refused", &blob.digest).await;
    // Without credentials of ours only what is public is served; the runtime asks the registry with its own.
    assert_eq!(answer.status, 404);
    assert!(detail(&answer).contains("403"), "{}", detail(&answer));
}

/// `detail` of the first error of an answer.
fn detail(answer: &Answer) -> String {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("the registry's error JSON");
    json["errors"][0]["detail"].to_string()
}

/// F6, F8: A lacks the manifest, B has it and lacks the blob, C lacks it too: B, C, the registry, and A not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_the_walk_goes_on_and_never_back() {
    let stand = Stand::new(3).await;
    let image = Image::new(550, &[200_000, 100_000]);
    let layer = &image.layers[0];
    stand.add_image(REPOSITORY, "v1", &image);
    stand.mirrors[0].script(Match::kind(Kind::Manifest), Plan::status(404));
    stand.mirrors[1].remove_blob(&layer.digest);
    stand.mirrors[2].remove_blob(&layer.digest);
    let began = Instant::now();
    stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    assert_eq!(stand.order(began, |seen| seen.kind == Kind::Manifest), [0, 1]);
    stand.agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    assert_eq!(stand.order(began, |seen| seen.kind == Kind::Blob), [1, 2, 3], "F6");
    let next = Instant::now();
    let other = &image.layers[1];
    stand.agent.get_blob(REPOSITORY, &other.digest).await.expect(200, &other.bytes);
    assert_eq!(stand.order(next, |_| true), [3], "F8: later blobs begin where the walk has ended");
}

/// F7, F8: twenty blobs at once, the first mirror fails all of them. Those that were under way are all it sees, and one
/// retry; the others wait for the one walk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f7_twenty_blobs_walk_once() {
    const BLOBS: usize = 20;
    let stand = Stand::new(2).await;
    let blobs: Vec<Blob> = (0..=BLOBS as u64).map(|n| Blob::noise(560 + n, 100_000)).collect();
    blobs.iter().for_each(|blob| stand.add_blob(blob));
    let gate = Gate::closed();
    stand.mirrors[0].script(Match::kind(Kind::Blob), Plan::status(503).held_by(&gate));
    let began = Instant::now();
    let clients: Vec<_> = blobs[..BLOBS]
        .iter()
        .map(|blob| {
            let (url, bytes) = (stand.agent.blob(REPOSITORY, &blob.digest), blob.bytes.clone());
            tokio::spawn(async move { Client::new().get(&url).await.expect(200, &bytes) })
        })
        .collect();
    // Each begins with a HEAD for the size.
    let under_way = || stand.requests(Kind::Blob)[0];
    wait::until_true("all to be under way", Duration::from_secs(10), || under_way() == BLOBS).await;
    let failed = Instant::now();
    gate.open();
    for client in clients {
        client.await.expect("every blob comes");
    }
    let (took, asked) = (failed.elapsed(), stand.requests(Kind::Blob));
    println!(
        "20 blobs at once, first mirror down: it sees {} requests, the second {}, the registry {}; all there {took:?} \
         after the failure",
        asked[0], asked[1], asked[2]
    );
    assert!(asked[0] <= BLOBS + 1, "F7: what was under way, and one retry: {asked:?}");
    assert_eq!((stand.mirrors[1].count(Kind::Blob, "GET"), asked[2]), (BLOBS, 0));
    let last = &blobs[BLOBS];
    stand.agent.get_blob(REPOSITORY, &last.digest).await.expect(200, &last.bytes);
    assert_eq!(stand.order(began, |seen| seen.reference == last.digest), [1, 1], "F8: HEAD and GET");
}

/// F10: two requests to a mirror that fails once, and a second lies between them. A registry without mirrors is asked
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_once_more_at_the_same_source() {
    let stand = Stand::new(1).await;
    let blob = Blob::noise(590, 100_000);
    stand.add_blob(&blob);
    stand.mirrors[0].script_times(1, Match::blob(&blob.digest), Plan::status(503));
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(stand.blob_gets(&blob.digest), [2, 0]);
    let mut seen = stand.mirrors[0].seen();
    seen.retain(|seen| seen.method == "GET");
    let pause = seen[1].at - seen[0].at;
    assert!(pause >= Duration::from_millis(990), "{pause:?}");

    let alone = Stand::new(0).await;
    alone.origin.script(Match::kind(Kind::Blob), Plan::status(503));
    assert_eq!(alone.agent.get_blob(REPOSITORY, &blob.digest).await.status, 502);
    assert_eq!(alone.requests(Kind::Blob), [1], "HEAD or GET, once");
}

/// F11: the mirror is cut at 79 %, and then at every byte that it is asked for. The client sees one unbroken 200, and the
/// registry sends what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_cut_body_goes_on_elsewhere() {
    const SIZE: u64 = 10_000_000;
    const CUT: u64 = SIZE / 100 * 79;
    let stand = Stand::new(1).await;
    let cuts: [(fn(u64) -> Plan, u64, u64); 2] =
        [(Plan::close_after, 600, 0), (Plan::reset_after, 601, WINDOW_BYTES)];
    for (cut, seed, lost_max) in cuts {
        let blob = Blob::noise(seed, SIZE as usize);
        stand.add_blob(&blob);
        stand.mirrors[0].script_times(1, Match::blob(&blob.digest), cut(CUT));
        stand.mirrors[0].script(Match::blob(&blob.digest), cut(0));
        let answer = stand.agent.get_blob(&format!("team/f11-{seed}"), &blob.digest).await;
        answer.expect(200, &blob.bytes);
        let at_mirror = stand.mirrors[0].blob_gets(&blob.digest);
        assert!(at_mirror >= 1, "the mirror was not asked");
        let ranges = stand.origin.blob_ranges(&blob.digest);
        let [Some(range)] = ranges.as_slice() else { panic!("asked of the registry: {ranges:?}") };
        let start = range.strip_prefix("bytes=").and_then(|range| range.split('-').next());
        let start: u64 = start.and_then(|start| start.parse().ok()).expect("a range has a start");
        println!("F11: cut at {CUT}, {at_mirror} requests at the mirror, the registry is asked from {start}");
        assert!(start <= CUT && CUT - start <= lost_max, "{range}");
        assert_eq!(stand.origin.blob_bytes(&blob.digest), SIZE - start);
    }
}

/// F1, F11: a mirror that sends headers and not one byte after them, to a client that is alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_never_begins_comes_from_elsewhere() {
    let stand = Stand::new(1).await;
    for (plan, seed) in [(Plan::close_after(0), 605), (Plan::reset_after(0), 606)] {
        let blob = Blob::noise(seed, 100_000);
        stand.add_blob(&blob);
        stand.mirrors[0].script(Match::blob(&blob.digest), plan);
        stand.agent.get_blob(&format!("team/app-{seed}"), &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
        assert!(stand.mirrors[0].blob_gets(&blob.digest) >= 1, "the mirror was not asked");
    }
}

/// F12: whom the agent asks is its own affair. A client whose blobs come by way of a mirror that fails gets the answers, to
/// the header, that it would get without any mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_fallback_changes_no_answer() {
    let (plain, falling) = (Stand::new(0).await, Stand::new(1).await);
    let (image, missing) = (Image::new(607, &[300_000]), Blob::noise(608, 100));
    falling.mirrors[0].script(Match::kind(Kind::Blob), Plan::status(503));
    let (mut told, mut refusals) = (Vec::new(), Vec::new());
    for stand in [&plain, &falling] {
        stand.add_image(REPOSITORY, "v1", &image);
        let manifest = stand.agent.manifest(REPOSITORY, &image.manifest.digest);
        let layer = stand.agent.blob(REPOSITORY, &image.layers[0].digest);
        let mut answers: Vec<Answer> = Vec::new();
        for (method, url, range) in [
            ("HEAD", &manifest, None),
            ("GET", &manifest, None),
            // The layer is not there yet.
            ("GET", &layer, Some("bytes=1000-")),
            ("GET", &layer, None),
            ("HEAD", &layer, None),
        ] {
            let request = stand.client.request(method, url);
            let request = match range {
                Some(range) => request.header("Range", range),
                None => request,
            };
            answers.push(http::read(request).await);
        }
        told.push(answers);
        // What each source said about it stands in the body, so there the code alone can be the same.
        let refused = stand.agent.get_blob(REPOSITORY, &missing.digest).await;
        refusals.push((refused.status, refused.error_code()));
    }
    let statuses: Vec<u16> = told[0].iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 206, 200, 200]);
    let headers = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers
    };
    for (without, with) in told[0].iter().zip(&told[1]) {
        with.expect(without.status, &without.body);
        assert_eq!(headers(with), headers(without), "F12");
    }
    assert_eq!(refusals[0], (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(refusals[1], refusals[0], "F12");
    assert_eq!(falling.requests(Kind::Manifest), [1, 0]);
    assert!(falling.requests(Kind::Blob)[0] > 0, "the mirror was not asked for blobs");
}

/// What has been received from a mirror is not lost with the agent: it goes on at another source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_received_blob_survives_the_agent_and_the_mirror() {
    let mut stand = Stand::new(1).await;
    let blob = Blob::noise(610, 48_000_000);
    stand.add_blob(&blob);
    let half = blob.len() / 2;
    // The index has been written once, so that what is written next is the checkpoint.
    let earlier = Blob::noise(611, 1000);
    stand.add_blob(&earlier);
    stand.agent.get_blob("team/earlier", &earlier.digest).await.expect(200, &earlier.bytes);
    stand.agent.until_idle().await;
    let never = Gate::closed();
    stand.mirrors[0].script(Match::blob(&blob.digest), Plan::pause_after(half, &never));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut response = stand.client.open(&url).await;
    read_some(&mut response, (half - WINDOW_BYTES) as usize).await;
    stand.agent.until_checkpoint().await;
    stand.agent.kill();
    drop(response);
    stand.mirrors[0].refuse().await;
    stand.agent.restart().await;
    finish(Client::new().open(&url).await).await.expect(200, &blob.bytes);
    let sent = stand.origin.blob_bytes(&blob.digest);
    println!("half received, then kill -9: the registry sends {sent} of {} bytes", blob.len());
    assert!(sent > 0 && sent <= blob.len() - half + WINDOW_BYTES, "{sent} of {}", blob.len());
}
