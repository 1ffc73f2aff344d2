//! Transfers that break, lie or crawl (rows C3, C4, C20, L1-L4, L7, F11): the client sees one unbroken answer, or one
//! that is cut short of its length, and never a wrong byte as a whole.

use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Kind, Match, Origin, Plan};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::tls::Authority;

use super::{REPOSITORY, Stand, WINDOW_BYTES};

const MEGABYTE: u64 = 1_000_000;

/// Panics unless the ranges asked for go on where the ones before were broken, and never start over.
#[track_caller]
fn expect_resumes(origin: &Origin, blob: &Blob, resumes_min: usize) {
    let ranges = origin.blob_ranges(&blob.digest);
    let starts: Vec<u64> = ranges
        .iter()
        .map(|range| {
            range.as_deref().map_or(0, |range| {
                let first = range.trim_start_matches("bytes=").split('-').next().unwrap_or_default();
                first.parse().unwrap_or_else(|_| panic!("{range}"))
            })
        })
        .collect();
    assert!(starts.len() > resumes_min, "{ranges:?}");
    assert!(starts.is_sorted(), "the transfer went back: {ranges:?}");
    let sent = origin.blob_bytes(&blob.digest);
    let most = blob.len() + (starts.len() as u64 - 1) * WINDOW_BYTES;
    assert!(sent <= most, "{sent} bytes for a blob of {} after {ranges:?}", blob.len());
}

/// L1, L3: reset every 20 MB; the client completes in one pull, and the origin sends little more than the blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_reset_every_20_mb() {
    let stand = Stand::new().await;
    let blob = Blob::noise(50, 100_000_000);
    stand.origin.add_blob(&blob);
    stand.origin.script(Match::blob(&blob.digest), Plan::reset_after(20 * MEGABYTE));
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    expect_resumes(&stand.origin, &blob, 4);
    assert!(stand.agent.metric("upstream_resumes_total", &[]).await >= 4.0);
}

/// L1's load balancer: every connection is reset after a fixed time, whatever it carries (here 400 ms of a transfer
/// that takes 2 s; the time in the seed is 60 s of 210 s).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_load_balancer_that_resets_by_time() {
    let origin = Origin::start().await;
    let faults = Faults { reset_after: Some(Duration::from_millis(400)), ..Faults::default() };
    let proxy = Proxy::start(origin.address(), faults).await;
    let agent = Agent::start(&proxy.url()).await;
    let blob = Blob::noise(51, 40_000_000);
    origin.add_blob(&blob);
    origin.script(Match::blob(&blob.digest), Plan::rate(20 * MEGABYTE));
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert!(proxy.resets() >= 3, "{} resets", proxy.resets());
    expect_resumes(&origin, &blob, 3);
}

/// L1 in full: 60 s resets of a transfer of 150 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two and a half minutes by its nature; run with --ignored"]
async fn l1_the_60_s_load_balancer() {
    let origin = Origin::start().await;
    let faults = Faults { reset_after: Some(Duration::from_secs(60)), ..Faults::default() };
    let proxy = Proxy::start(origin.address(), faults).await;
    let agent = Agent::start(&proxy.url()).await;
    let blob = Blob::noise(52, 150_000_000);
    origin.add_blob(&blob);
    origin.script(Match::blob(&blob.digest), Plan::rate(MEGABYTE));
    // The client's own limit is for answers that are not throttled.
    let mut response = Client::new()
        .request("GET", &agent.blob(REPOSITORY, &blob.digest))
        .timeout(Duration::from_secs(400))
        .send()
        .await
        .expect("an answer");
    let mut at = 0;
    while let Some(chunk) = response.chunk().await.expect("an unbroken body") {
        assert_eq!(chunk, blob.bytes[at..at + chunk.len()]);
        at += chunk.len();
    }
    assert_eq!(at, blob.bytes.len());
    assert!(proxy.resets() >= 2);
    expect_resumes(&origin, &blob, 2);
}

/// F11, L4: bodies that end early, in an orderly way or not, at awkward places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_end_early() {
    let stand = Stand::new().await;
    let len = 9_000_001;
    for (plan, seed) in [
        (Plan::close_after(4_000_000), 53),
        (Plan::close_after(1), 54),
        (Plan::close_after(len - 1), 55),
        (Plan::reset_after(len - 1), 56),
        (Plan::reset_after(1 << 20), 57),
    ] {
        let blob = Blob::noise(seed, usize::try_from(len).expect("fits"));
        stand.origin.add_blob(&blob);
        stand.origin.script_times(1, Match::blob(&blob.digest), plan.clone());
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        expect_resumes(&stand.origin, &blob, 1);
    }
}

/// L7: no bytes for the idle timeout is a broken transfer, a slow one is not; there is no total timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_a_stall_is_resumed() {
    let stand = Stand::with(|setup| setup.set("upstream.idle_timeout", "1s")).await;
    let blob = Blob::noise(58, 9_000_000);
    stand.origin.add_blob(&blob);
    let never = Gate::closed();
    stand.origin.script_times(1, Match::blob(&blob.digest), Plan::pause_after(3_000_000, &never));
    let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
    answer.expect(200, &blob.bytes);
    assert!(answer.total < Duration::from_secs(10), "{:?}", answer.total);
    expect_resumes(&stand.origin, &blob, 1);
    // Eight seconds of bytes that trickle are no stall; that this machine stands still for a few is none either.
    let stand = Stand::with(|setup| setup.set("upstream.idle_timeout", "5s")).await;
    let slow = Blob::noise(59, 4_000_000);
    stand.origin.add_blob(&slow);
    stand.origin.script(Match::blob(&slow.digest), Plan::rate(MEGABYTE / 2));
    stand.agent.get_blob(REPOSITORY, &slow.digest).await.expect(200, &slow.bytes);
    assert_eq!(stand.origin.blob_gets(&slow.digest), 1);
}

/// A source that answers 200 to a resume: its first bytes are thrown away, the client's answer goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_that_is_answered_with_200() {
    let stand = Stand::new().await;
    let blob = Blob::noise(60, 12_000_000);
    stand.origin.add_blob(&blob);
    stand.origin.script_times(1, Match::blob(&blob.digest), Plan::reset_after(5_000_000));
    stand.origin.script(Match::blob(&blob.digest), Plan::ignore_range());
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(stand.origin.blob_gets(&blob.digest), 2);
}

/// A source that claims another window than the one asked for is not believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_range_that_lies() {
    let stand = Stand::new().await;
    let blob = Blob::noise(61, 12_000_000);
    stand.origin.add_blob(&blob);
    stand.origin.script_times(1, Match::blob(&blob.digest), Plan::reset_after(5_000_000));
    stand.origin.script_times(
        1,
        Match::blob(&blob.digest).ranged(true),
        Plan::content_range("bytes 0-6999999/12000000"),
    );
    let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, blob.bytes[..answer.body.len()], "a wrong byte was passed on");
    // Cut short is allowed, whole is better; the next pull is whole in any case.
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// HTTP/2 upstream: RST_STREAM with INTERNAL_ERROR in the middle (the cause in L1's log) and GOAWAY are resumable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_http2_resets() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server(&[b"h2"], false)).await;
    let setup = Setup::new(&origin.url());
    let ca = setup.folder().join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("the folder is ours");
    let agent = setup.registry_key(REGISTRY, "ca", ca.display().to_string()).start().await;
    for (plan, seed) in [(Plan::reset_after(5 * MEGABYTE), 62), (Plan::close_after(5 * MEGABYTE), 63)] {
        let blob = Blob::noise(seed, 24_000_000);
        origin.add_blob(&blob);
        origin.script_times(3, Match::blob(&blob.digest), plan);
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        expect_resumes(&origin, &blob, 3);
    }
}

/// L4, I2: wrong content is cut short and never whole, is not kept, and does no harm once the origin is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_wrong_content_is_cut_short() {
    let stand = Stand::new().await;
    for (offset, seed) in [(0, 64), (4_000_000, 65), (8_999_999, 66)] {
        let blob = Blob::noise(seed, 9_000_000);
        stand.origin.add_blob(&blob);
        stand.origin.script(Match::blob(&blob.digest), Plan::wrong_byte_at(offset));
        let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
        assert!(answer.cut.is_some() || answer.status == 502, "a wrong blob was served whole");
        assert!(answer.body.len() < blob.bytes.len());
        if answer.status == 200 {
            assert_eq!(answer.header("Content-Length"), blob.len().to_string());
        }
        stand.agent.until_idle().await;
        // Still wrong: still not served, from the store least of all.
        let again = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
        assert!(again.cut.is_some() || again.status == 502, "a wrong blob was served whole");
        stand.origin.heal();
        stand.agent.until_idle().await;
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    assert!(stand.agent.metric("verify_failures_total", &[]).await >= 3.0);
}

/// A body of another length than the manifest's descriptor says is wrong content, however it is announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_lengths() {
    let stand = Stand::new().await;
    let image = Image::new(67, &[3_000_000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let layer = &image.layers[0];
    for bytes in
        [layer.bytes.slice(..2_000_000), [&layer.bytes[..], b"more"].concat().into(), bytes::Bytes::new()]
    {
        stand.origin.add_bytes(&layer.digest, bytes);
        let answer = stand.agent.get_blob(REPOSITORY, &layer.digest).await;
        assert!(
            answer.cut.is_some() || answer.status >= 400,
            "{} with {} bytes",
            answer.status,
            answer.body.len()
        );
        stand.agent.until_idle().await;
    }
    stand.origin.add_blob(layer);
    stand.agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
}

/// A source that does not say how long its body is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_content_length() {
    let stand = Stand::new().await;
    for (plan, seed) in [(Plan::chunked(), 68), (Plan::well().without("Content-Length"), 69)] {
        let blob = Blob::noise(seed, 5_000_000);
        stand.origin.add_blob(&blob);
        // HEAD has no length either: the size is known only at the end.
        stand.origin.script(Match::kind(Kind::Blob).method("HEAD"), Plan::chunked());
        stand.origin.script(Match::blob(&blob.digest).ranged(false), plan.clone());
        for round in ["cold", "stored"] {
            let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
            answer.expect(200, &blob.bytes);
            assert_eq!(answer.header("Docker-Content-Digest"), blob.digest, "{round}");
            stand.agent.until_idle().await;
        }
        assert!(stand.origin.blob_bytes(&blob.digest) <= blob.len() + 2 * WINDOW_BYTES);
        stand.origin.heal();
    }
}

/// C20: a source that compresses on the way; what is stored and served hashes to the digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c20_content_encoding() {
    let stand = Stand::new().await;
    let image = Image::new(70, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    // Compressible, so that the encoded length differs.
    let blob = Blob::new(shoal_tests::image::LAYER, "shoal ".repeat(500_000));
    stand.origin.add_blob(&blob);
    stand.origin.script(Match::blob(&blob.digest), Plan::gzip());
    stand.origin.script(Match::manifest(&image.manifest.digest).method("GET"), Plan::gzip());
    for round in ["cold", "stored"] {
        let request = stand.client.request("GET", &stand.agent.blob(REPOSITORY, &blob.digest));
        let answer =
            shoal_tests::http::read(request.header("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8")).await;
        answer.expect(200, &blob.bytes);
        assert!(answer.headers.get("Content-Encoding").is_none(), "{round}");
        let manifest = stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await;
        manifest.expect(200, &image.manifest.bytes);
    }
    let range = stand.client.range(&stand.agent.blob(REPOSITORY, &blob.digest), "bytes=100-199").await;
    range.expect(206, &blob.bytes[100..200]);
}

/// C4: redirects are followed, relative ones too, without our credentials; a signed URL that has run out is asked for
/// again; the client sees nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_redirects() {
    let storage = Origin::start().await;
    let stand = Stand::with(|setup| setup.credentials(REGISTRY, "robot", "secret")).await;
    stand
        .origin
        .require(shoal_tests::origin::Auth::Basic { user: "robot".into(), password: "secret".into() });
    let absolute = |digest: &str| format!("{}/storage/{digest}?signature=abc", storage.url());
    let relative = |digest: &str| format!("/storage/{digest}?signature=abc");
    let sizes = [("absolute", 71), ("relative", 72), ("broken", 73), ("expired", 74)];
    for (case, seed) in sizes {
        let blob = Blob::noise(seed, 6_000_000);
        let elsewhere = case != "relative";
        if elsewhere {
            storage.add_blob(&blob)
        } else {
            stand.origin.add_blob(&blob)
        }
        let location = if elsewhere { absolute(&blob.digest) } else { relative(&blob.digest) };
        if elsewhere {
            stand.origin.add_blob(&blob);
        }
        stand.origin.script(Match::blob(&blob.digest), Plan::redirect(location));
        match case {
            "broken" => storage.script_times(1, Match::storage(&blob.digest), Plan::reset_after(2_000_000)),
            "expired" => storage.script_times(1, Match::storage(&blob.digest), Plan::status(403)),
            _ => {}
        }
        let url = stand.agent.blob(REPOSITORY, &blob.digest);
        let part = stand.client.range(&url, "bytes=1000-1999").await;
        part.expect(206, &blob.bytes[1000..2000]);
        assert!(part.headers.get("Location").is_none());
        stand.client.get(&url).await.expect(200, &blob.bytes);
    }
    assert!(
        storage.seen().iter().all(|seen| seen.header("authorization").is_none()),
        "credentials went to the storage"
    );
    // A redirect that leads round in a circle ends.
    let blob = Blob::noise(75, 1000);
    stand.origin.add_blob(&blob);
    let own = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    stand.origin.script(Match::kind(Kind::Blob), Plan::redirect(own));
    let answer = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
    assert_eq!(answer.status, 502);
    assert!(stand.origin.blob_gets(&blob.digest) <= 50);
}

/// C3: bytes flow while they arrive: what a source has sent before it falls silent is with the client, and is not kept
/// until there is more of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_a_slow_origin() {
    let stand = Stand::new().await;
    let blob = Blob::noise(76, 4_000_000);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(MEGABYTE, &gate));
    let mut response = stand.client.open(&stand.agent.blob(REPOSITORY, &blob.digest)).await;
    let first = tokio::time::timeout(Duration::from_secs(30), read_some(&mut response, 900_000)).await;
    let first = first.expect("what has come is passed on before there is more");
    assert_eq!(first, blob.bytes[..first.len()]);
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1, "the bytes came with a second request");
    gate.open();
    finish(response).await.expect(200, &blob.bytes[first.len()..]);
}

/// Section 8, 6: an origin that accepts and says nothing costs an answer within the budget, not a hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_never_answers() {
    let stand =
        Stand::with(|setup| setup.set("upstream.header_timeout", "1s").set("upstream.connect_timeout", "1s"))
            .await;
    let blob = Blob::noise(77, 1000);
    stand.origin.black_hole();
    for url in [stand.agent.blob(REPOSITORY, &blob.digest), stand.agent.manifest(REPOSITORY, "v1")] {
        let answer = stand.client.get(&url).await;
        assert_eq!(answer.status, 502, "{url}");
        answer.error_code();
        assert!(answer.total < Duration::from_secs(20), "{:?}", answer.total);
    }
    stand.origin.refuse().await;
    let refused = stand.agent.get_blob(REPOSITORY, &blob.digest).await;
    assert_eq!(refused.status, 502);
    assert!(refused.total < Duration::from_secs(15), "{:?}", refused.total);
    stand.origin.recover().await;
    stand.origin.add_blob(&blob);
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// With settings as they come, the answer still arrives well before clients give up (30 s).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_answer_budget() {
    let stand = Stand::new().await;
    stand.origin.black_hole();
    let blob = Blob::noise(78, 1000);
    let (blob_url, tag_url) =
        (stand.agent.blob(REPOSITORY, &blob.digest), stand.agent.manifest(REPOSITORY, "v1"));
    let (one, two) = tokio::join!(stand.client.get(&blob_url), stand.client.get(&tag_url));
    for answer in [one, two] {
        assert_eq!(answer.status, 502);
        assert!(answer.total < Duration::from_secs(25), "{:?}", answer.total);
    }
}

/// L2, L3: killed in the middle, started again: the client's resume is a 206, and the origin sends what was missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_l3_a_restart_in_the_middle() {
    let mut stand = Stand::new().await;
    let blob = Blob::noise(79, 130_000_000);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script_times(1, Match::blob(&blob.digest), Plan::pause_after(110_000_000, &gate));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut response = Client::new().open(&url).await;
    let first = read_some(&mut response, 108_000_000).await;
    assert_eq!(first, blob.bytes[..first.len()]);
    stand.agent.until_checkpoint().await;
    let before = stand.origin.blob_bytes(&blob.digest);
    stand.agent.kill();
    assert!(finish(response).await.cut.is_some(), "a body ended cleanly although the agent was killed");
    stand.agent.restart().await;
    let resumed = stand.client.range(&url, &format!("bytes={}-", first.len())).await;
    resumed.expect(206, &blob.bytes[first.len()..]);
    stand.client.get(&url).await.expect(200, &blob.bytes);
    // The last checkpoint had what the client had, to the piece.
    let again = stand.origin.blob_bytes(&blob.digest) - before;
    let missing = blob.len() - before;
    assert!(again <= missing + (16 << 20) + WINDOW_BYTES, "{again} bytes fetched, {missing} were missing");
}
