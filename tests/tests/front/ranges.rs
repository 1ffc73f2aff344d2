//! Ranges of blobs that are whole, half received, or not there at all.

use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Kind, Match, Plan};

use super::{REPOSITORY, Stand};
use shoal_tests::http::Answer;

const LEN: usize = 9_000_123;

/// One `Range` and what a blob of `LEN` bytes has to answer.
enum Expected {
    Part(usize, usize),
    Unsatisfiable,
    /// RFC 9110 lets a server ignore what is no valid range; the conformance suite wants 416.
    WholeOrUnsatisfiable,
    /// The whole, or exactly so many parts.
    WholeOrParts(&'static [(usize, usize)]),
}

const CASES: [(&str, Expected); 12] = [
    ("bytes=0-", Expected::Part(0, LEN)),
    ("bytes=0-0", Expected::Part(0, 1)),
    ("bytes=500-1499", Expected::Part(500, 1500)),
    ("bytes=3000000-5999999", Expected::Part(3_000_000, 6_000_000)),
    ("bytes=4000000-", Expected::Part(4_000_000, LEN)),
    ("bytes=-500", Expected::Part(LEN - 500, LEN)),
    ("bytes=-99999999", Expected::Part(0, LEN)),
    ("bytes=8999000-99999999", Expected::Part(8_999_000, LEN)),
    ("bytes=9000123-", Expected::Unsatisfiable),
    ("bytes=99999999-100000000", Expected::Unsatisfiable),
    ("bytes=500-0", Expected::WholeOrUnsatisfiable),
    (
        "bytes=10-19,5000000-5000099,-7",
        Expected::WholeOrParts(&[(10, 20), (5_000_000, 5_000_100), (LEN - 7, LEN)]),
    ),
];

#[track_caller]
fn check(state: &str, range: &str, expected: &Expected, answer: &Answer, blob: &Blob) {
    let context = format!("{state} {range}: {} {:?}", answer.status, answer.headers);
    let content_range = answer.header("Content-Range");
    match expected {
        Expected::Part(start, end) => {
            assert_eq!(answer.status, 206, "{context}");
            assert_eq!(content_range, format!("bytes {start}-{}/{LEN}", end - 1), "{context}");
            assert_eq!(answer.header("Content-Length"), (end - start).to_string(), "{context}");
            answer.expect(206, &blob.bytes[*start..*end]);
        }
        Expected::Unsatisfiable => {
            assert_eq!(answer.status, 416, "{context}");
            assert_eq!(content_range, format!("bytes */{LEN}"), "{context}");
        }
        Expected::WholeOrUnsatisfiable if answer.status == 416 => {
            assert_eq!(content_range, format!("bytes */{LEN}"), "{context}");
        }
        Expected::WholeOrUnsatisfiable => answer.expect(200, &blob.bytes),
        Expected::WholeOrParts(_) if answer.status == 200 => answer.expect(200, &blob.bytes),
        Expected::WholeOrParts(parts) => check_parts(&context, parts, answer, blob),
    }
}

/// A multipart answer: as many parts as were asked for, each with its own `Content-Range`, in order.
#[track_caller]
fn check_parts(context: &str, parts: &[(usize, usize)], answer: &Answer, blob: &Blob) {
    assert_eq!(answer.status, 206, "{context}");
    assert_eq!(answer.cut, None, "{context}");
    let kind = answer.header("Content-Type");
    let boundary =
        kind.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{context}"));
    let boundary = boundary.trim_matches('"');
    let mut rest: &[u8] = &answer.body;
    let find = |haystack: &[u8], needle: &str| {
        haystack.windows(needle.len()).position(|window| window == needle.as_bytes())
    };
    for (start, end) in parts {
        let dash = format!("--{boundary}\r\n");
        rest =
            &rest[find(rest, &dash).unwrap_or_else(|| panic!("{context}: a part is missing")) + dash.len()..];
        let head_len = find(rest, "\r\n\r\n").unwrap_or_else(|| panic!("{context}: a part has no head")) + 4;
        let head = String::from_utf8_lossy(&rest[..head_len]).to_ascii_lowercase();
        let wanted = format!("content-range: bytes {start}-{}/{LEN}\r\n", end - 1);
        assert!(head.contains(&wanted), "{context}: {head:?} lacks {wanted:?}");
        assert!(
            rest[head_len..].starts_with(&blob.bytes[*start..*end]),
            "{context}: bytes of {start}..{end}"
        );
        rest = &rest[head_len + end - start..];
    }
    assert!(
        rest.starts_with(format!("\r\n--{boundary}--").as_bytes()),
        "{context}: no end after the last part"
    );
}

/// Section 8, 1 and 2; C3: a range on a blob nobody has asked for before is a 206 with the right window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_cold_blob() {
    let stand = Stand::new().await;
    for ((range, expected), seed) in CASES.iter().zip(100..) {
        let blob = Blob::noise(seed, LEN);
        stand.origin.add_blob(&blob);
        let answer = stand.client.range(&stand.agent.blob(REPOSITORY, &blob.digest), range).await;
        check("cold", range, expected, &answer, &blob);
    }
}

/// L2: the same while the blob is being received, behind and ahead of the transfer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_blob_in_flight() {
    let stand = Stand::new().await;
    let blob = Blob::noise(1, LEN);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script_times(1, Match::blob(&blob.digest), Plan::pause_after(4_500_000, &gate));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut leader = stand.client.open(&url).await;
    assert_eq!(leader.status(), 200);
    let first = shoal_tests::http::read_some(&mut leader, 1000).await;
    assert_eq!(first, blob.bytes[..first.len()]);

    // Behind the transfer: answered although nothing moves.
    let behind = stand.client.range(&url, "bytes=500-1499").await;
    check("in flight, behind", "bytes=500-1499", &Expected::Part(500, 1500), &behind, &blob);

    // Ahead of it: some may need the gate to open.
    let asked: Vec<_> = CASES
        .iter()
        .map(|(range, _)| {
            let (client, url) = (stand.client.clone(), url.clone());
            tokio::spawn(async move { client.range(&url, range).await })
        })
        .collect();
    stand.origin.until_sent(&blob.digest, 4_500_000).await;
    gate.open();
    for ((range, expected), answer) in CASES.iter().zip(asked) {
        check("in flight", range, expected, &answer.await.expect("the request ends"), &blob);
    }
    let rest = shoal_tests::http::finish(leader).await;
    rest.expect(200, &blob.bytes[first.len()..]);
}

/// The same for a stored blob, without asking upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_stored_blob() {
    let stand = Stand::new().await;
    let blob = Blob::noise(2, LEN);
    stand.origin.add_blob(&blob);
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    stand.agent.until_idle().await;
    let bytes = stand.origin.blob_bytes(&blob.digest);
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    for (range, expected) in &CASES {
        let answer = stand.client.range(&url, range).await;
        check("stored", range, expected, &answer, &blob);
    }
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
    assert_eq!(stand.origin.blob_bytes(&blob.digest), bytes);
}

/// `If-Range` with our ETag is honoured, with any other the answer is the whole; `If-None-Match` gives 304 (C12).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_on_blobs() {
    let stand = Stand::new().await;
    for (state, seed) in [("cold", 3), ("stored", 4)] {
        let blob = Blob::noise(seed, LEN);
        stand.origin.add_blob(&blob);
        let url = stand.agent.blob(REPOSITORY, &blob.digest);
        let etag = format!("\"{}\"", blob.digest);
        if state == "stored" {
            let answer = stand.client.get(&url).await;
            answer.expect(200, &blob.bytes);
            assert_eq!(answer.header("ETag"), etag);
        }
        let with = |name: &str, value: &str| {
            stand.client.request("GET", &url).header("Range", "bytes=7-99").header(name, value)
        };
        let same = shoal_tests::http::read(with("If-Range", &etag)).await;
        same.expect(206, &blob.bytes[7..100]);
        let other = shoal_tests::http::read(with("If-Range", "\"other\"")).await;
        other.expect(200, &blob.bytes);
        // A weak validator never matches, and a date is none that we have given out.
        let weak = shoal_tests::http::read(with("If-Range", &format!("W/{etag}"))).await;
        weak.expect(200, &blob.bytes);
        let known =
            shoal_tests::http::read(stand.client.request("GET", &url).header("If-None-Match", &etag)).await;
        assert_eq!((known.status, known.body.len()), (304, 0), "{state}");
    }
}

/// A range on a cold blob fetches what it needs and what read-ahead is worth, not the blob; what was fetched is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_range_does_not_fetch_the_blob() {
    let stand = Stand::new().await;
    let blob = Blob::noise(5, 64_000_000);
    stand.origin.add_blob(&blob);
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    for (range, part) in
        [("bytes=40000000-40000999", 40_000_000..40_001_000), ("bytes=-500", 63_999_500..64_000_000)]
    {
        stand.client.range(&url, range).await.expect(206, &blob.bytes[part]);
    }
    stand.agent.until_idle().await;
    let sent = stand.origin.blob_bytes(&blob.digest);
    assert!(sent <= 20 << 20, "two ranges of 1,500 bytes together cost {sent} bytes of {}", blob.len());
    // The same range again costs nothing, and the whole costs what is missing.
    stand
        .client
        .range(&url, "bytes=40000000-40000999")
        .await
        .expect(206, &blob.bytes[40_000_000..40_001_000]);
    stand.agent.until_idle().await;
    assert_eq!(stand.origin.blob_bytes(&blob.digest), sent, "the range was fetched twice");
    stand.client.get(&url).await.expect(200, &blob.bytes);
    let all = stand.origin.blob_bytes(&blob.digest);
    assert!(all <= blob.len() + super::WINDOW_BYTES, "{all} bytes for a blob of {}", blob.len());
}

/// containerd 2.1.0-2.1.2 sends `bytes=0-` with manifests too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_manifests() {
    let stand = Stand::new().await;
    let image = Image::new(6, &[1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    let len = image.manifest.len();
    for (state, reference) in
        [("cold", image.manifest.digest.as_str()), ("stored", &image.manifest.digest), ("tag", "v1")]
    {
        let url = stand.agent.manifest(REPOSITORY, reference);
        let whole = stand.client.range(&url, "bytes=0-").await;
        whole.expect(206, &image.manifest.bytes);
        assert_eq!(whole.header("Content-Range"), format!("bytes 0-{}/{len}", len - 1), "{state}");
        let part = stand.client.range(&url, "bytes=10-19").await;
        part.expect(206, &image.manifest.bytes[10..20]);
        let outside = stand.client.range(&url, &format!("bytes={len}-")).await;
        assert_eq!(
            (outside.status, outside.header("Content-Range")),
            (416, format!("bytes */{len}").as_str())
        );
    }
}

/// HEAD ignores `Range`: its Content-Length is the size that containerd commits with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_ignores_range() {
    let stand = Stand::new().await;
    let blob = Blob::noise(7, LEN);
    stand.origin.add_blob(&blob);
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    for state in ["cold", "again"] {
        let answer =
            shoal_tests::http::read(stand.client.request("HEAD", &url).header("Range", "bytes=5-9")).await;
        assert_eq!(
            (answer.status, answer.header("Content-Length")),
            (200, LEN.to_string().as_str()),
            "{state}"
        );
        assert_eq!(answer.header("Docker-Content-Digest"), blob.digest);
        assert_eq!(answer.header("Accept-Ranges"), "bytes");
    }
    assert_eq!(stand.origin.count(Kind::Blob, "GET"), 0, "a HEAD does not fetch the blob");
}
