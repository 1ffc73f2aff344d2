//! Ranges, broken bodies, content codings, sizes.

use std::convert::Infallible;

use async_compression::tokio::bufread::{GzipEncoder, ZlibEncoder, ZstdEncoder};
use futures_util::stream;

use super::*;

/// Answers as a well-behaved registry does: ranges of `content`.
fn ranged(content: &[u8], seen: &Seen) -> Response {
    let total = content.len();
    let Some(range) = seen.header("range") else { return respond(200, &[], content.to_vec()) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    if first >= total {
        return respond(416, &[("content-range", &format!("bytes */{total}"))], "");
    }
    let last = last.parse().map_or(total - 1, |last: usize| last.min(total - 1));
    let content_range = format!("bytes {first}-{last}/{total}");
    respond(206, &[("content-range", &content_range)], content[first..=last].to_vec())
}

#[tokio::test]
async fn parts_are_exact() {
    let all = content(10_000);
    let server = serve(move |seen| {
        let all = content(10_000);
        async move { ranged(&all, &seen) }
    })
    .await;
    let metrics = Metrics::new();
    let upstream =
        Upstream::new(settings(&server.url(""), RegistrySettings::default()), Arc::clone(&metrics)).unwrap();
    let table = [
        (0, None, None),
        (0, Some(1), Some("bytes=0-0")),
        (17, None, Some("bytes=17-")),
        (9_999, None, Some("bytes=9999-")),
        (100, Some(200), Some("bytes=100-199")),
        (9_000, Some(20_000), Some("bytes=9000-19999")),
    ];
    let mut received = 0;
    for (start, end, range) in table {
        let mut stream = upstream.open_blob(&asked(), &sha256(&all), start, end).await.unwrap();
        assert_eq!(stream.total, Some(10_000));
        let (bytes, error) = drain(&mut stream).await;
        assert!(error.is_none(), "{start} {end:?}: {error:?}");
        let expected = &all[start as usize..end.unwrap_or(10_000).min(10_000) as usize];
        assert!(bytes == expected, "{start} {end:?}: {} bytes", bytes.len());
        assert!(stream.next().await.unwrap().is_none(), "the end stays the end");
        received += bytes.len();
        assert_eq!(server.seen().last().unwrap().header("range"), range);
    }
    let text = metrics.encode();
    let bytes = format!("shoal_upstream_bytes_total{{registry=\"registry.test\"}} {received}\n");
    assert!(text.contains(&bytes), "{text}");
    let count =
        "shoal_upstream_requests_total{registry=\"registry.test\",kind=\"blob-get\",outcome=\"ok\"} 6\n";
    assert!(text.contains(count), "{text}");
}

#[tokio::test]
async fn an_answer_that_ignores_the_range_is_cut_to_it() {
    let all = content(300_000);
    let server = serve(move |_| async move { respond(200, &[], content(300_000)) }).await;
    let upstream = upstream(&server.url(""));
    for (start, end) in
        [(1, None), (299_999, None), (70_000, Some(70_001)), (5, Some(299_990)), (0, Some(10))]
    {
        let mut stream = upstream.open_blob(&asked(), &sha256(&all), start, end).await.unwrap();
        assert_eq!(stream.total, Some(300_000));
        let (bytes, error) = drain(&mut stream).await;
        assert!(error.is_none(), "{start} {end:?}: {error:?}");
        assert!(bytes == all[start as usize..end.unwrap_or(300_000) as usize], "{start} {end:?}");
    }
    let error = upstream.open_blob(&asked(), &sha256(&all), 300_000, None).await.unwrap_err();
    assert!(matches!(error.reason(), error::Reason::OutOfRange { total: Some(300_000), .. }), "{error}");
    assert_eq!(error.fault(), SourceFault::Protocol);
}

#[tokio::test]
async fn a_part_that_is_not_what_was_asked_is_refused() {
    let server = serve(|seen| async move {
        match seen.path.rsplit(':').next().unwrap().chars().next().unwrap() {
            '1' => respond(206, &[("content-range", "bytes 0-9/10")], content(10)),
            '2' => respond(206, &[], content(5)),
            '3' => respond(206, &[("content-type", "multipart/byteranges; boundary=x")], content(5)),
            '4' => respond(206, &[("content-range", "bytes 5-4/10")], content(5)),
            '5' => respond(416, &[("content-range", "bytes */3")], ""),
            other => panic!("{other}"),
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    for (first, total) in [(1, None), (2, None), (3, None), (4, None), (5, Some(3))] {
        let digest = Digest::new(Algorithm::Sha256, &[first * 16; 32]);
        let error = upstream.open_blob(&asked(), &digest, 5, None).await.unwrap_err();
        assert_eq!(error.fault(), SourceFault::Protocol, "{first}: {error}");
        match error.reason() {
            error::Reason::OutOfRange { total: found, .. } => assert_eq!(*found, total, "{first}"),
            error::Reason::ContentRange { start: 5, .. } => assert_eq!(total, None, "{first}"),
            other => panic!("{first}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_shorter_window_than_asked_is_no_end() {
    let server = serve(|_| async { respond(206, &[("content-range", "bytes 5-9/100")], content(5)) }).await;
    let upstream = upstream(&server.url(""));
    for end in [None, Some(50)] {
        let mut stream = upstream.open_blob(&asked(), &sha256(b""), 5, end).await.unwrap();
        let (bytes, error) = drain(&mut stream).await;
        assert_eq!(bytes.len(), 5);
        assert_eq!(error.unwrap().fault(), SourceFault::Interrupted);
        assert!(stream.next().await.is_err(), "a failed stream does not end cleanly later");
    }
}

#[tokio::test]
async fn bodies_that_break_are_interrupted_where_they_broke() {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nab".to_vec();
    let with = |mut head: Vec<u8>, body: &[u8]| {
        head.extend_from_slice(body);
        head
    };
    let table = [
        ("closed early", with(head(100), &content(40)), Then::Close, 40),
        ("reset", with(head(100), &content(40)), Then::Reset, 40),
        ("stalled", with(head(100), &content(40)), Then::Stall, 40),
        ("nothing at all", head(100), Then::Close, 0),
        ("chunked and closed", chunked, Then::Close, 5),
    ];
    for (name, text, then, at_most) in table {
        let server = serve_raw(text, then).await;
        let mut settings = settings(&server.url(""), RegistrySettings::default());
        settings.idle_timeout = Duration::from_millis(200);
        let upstream = Upstream::new(settings, Metrics::new()).unwrap();
        let mut stream = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
        let (bytes, error) = drain(&mut stream).await;
        let error = error.unwrap_or_else(|| panic!("{name}: ended cleanly after {} bytes", bytes.len()));
        assert_eq!(error.fault(), SourceFault::Interrupted, "{name}: {error}");
        // The client may drop what a reset follows at once.
        assert!(bytes.len() <= at_most + 2, "{name}: {} bytes", bytes.len());
        if !matches!(then, Then::Reset) {
            assert!(bytes.len() >= at_most, "{name}: {} bytes", bytes.len());
        }
        assert_eq!(
            matches!(error.reason(), error::Reason::Stalled { .. }),
            name == "stalled",
            "{name}: {error}"
        );
    }
}

#[tokio::test]
async fn a_body_longer_than_its_range_ends_with_the_range() {
    let text =
        b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-4/5\r\ncontent-length: 9\r\n\r\ncdeXXXXXX";
    let server = serve_raw(text.to_vec(), Then::Stall).await;
    let mut stream = upstream(&server.url("")).open_blob(&asked(), &sha256(b""), 2, None).await.unwrap();
    let (bytes, error) = drain(&mut stream).await;
    assert_eq!((&bytes[..], error.is_none()), (&b"cde"[..], true));
}

#[tokio::test]
async fn a_body_of_unknown_length_ends_where_it_ends() {
    let chunks = || stream::iter([Ok::<_, Infallible>(content(1000)), Ok(content(500))]);
    let server = serve(move |_| async move { respond(200, &[], Body::from_stream(chunks())) }).await;
    let upstream = upstream(&server.url(""));
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    assert_eq!(stream.total, None);
    assert_eq!(drain(&mut stream).await.0.len(), 1500);
    // Where the end is known to the caller, or the start lies behind the end, a clean end may still be too early.
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 1000, Some(1600)).await.unwrap();
    let (bytes, error) = drain(&mut stream).await;
    assert_eq!((bytes.len(), error.unwrap().fault()), (500, SourceFault::Interrupted));
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 2000, None).await.unwrap();
    let (bytes, error) = drain(&mut stream).await;
    assert_eq!((bytes.len(), error.unwrap().fault()), (0, SourceFault::Interrupted));
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let server = serve(|_| async { respond(200, &[], "") }).await;
    let mut stream = upstream(&server.url("")).open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    assert_eq!(stream.total, Some(0));
    assert!(stream.next().await.unwrap().is_none());
}

async fn coded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => GzipEncoder::new(bytes).read_to_end(&mut out).await,
        "zstd" => ZstdEncoder::new(bytes).read_to_end(&mut out).await,
        _ => ZlibEncoder::new(bytes).read_to_end(&mut out).await,
    }
    .unwrap();
    out
}

/// C20: what comes out hashes to the digest, whatever the server did to it on the way.
#[tokio::test]
async fn content_codings_are_undone() {
    let all = content(300_000);
    for coding in ["gzip", "zstd", "deflate"] {
        let body = coded(coding, &all).await;
        assert!(body.len() < all.len());
        // This server even counts its ranges in coded bytes.
        let server = serve(move |seen| {
            let body = body.clone();
            async move {
                let mut response = ranged(&body, &seen);
                response.headers_mut().insert("content-encoding", coding.parse().unwrap());
                response
            }
        })
        .await;
        let upstream = upstream(&server.url(""));
        for (start, end) in [(0, None), (1000, None), (0, Some(10)), (299_000, Some(299_500))] {
            let mut stream = upstream.open_blob(&asked(), &sha256(&all), start, end).await.unwrap();
            assert_eq!(stream.total, None, "the length of the coded form is not the blob's");
            let (bytes, error) = drain(&mut stream).await;
            assert!(error.is_none(), "{coding}: {error:?}");
            assert!(
                bytes == all[start as usize..end.unwrap_or(300_000) as usize],
                "{coding} {start} {end:?}"
            );
        }
        assert_eq!(upstream.blob_size(&asked(), &sha256(&all)).await.unwrap().size, None);
    }
}

#[tokio::test]
async fn codings_that_cannot_be_undone_are_refused() {
    let half = coded("gzip", &content(300_000)).await;
    let half = half[..half.len() / 2].to_vec();
    let server = serve(move |seen| {
        let half = half.clone();
        async move {
            match seen.path.rsplit(':').next().unwrap().chars().next().unwrap() {
                '1' => respond(200, &[("content-encoding", "br")], "x"),
                '2' => respond(200, &[("content-encoding", "gzip")], "not gzip at all"),
                _ => respond(200, &[("content-encoding", "gzip")], half),
            }
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let digest = |first: u8| Digest::new(Algorithm::Sha256, &[first * 16; 32]);
    let error = upstream.open_blob(&asked(), &digest(1), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Protocol);
    let mut stream = upstream.open_blob(&asked(), &digest(2), 0, None).await.unwrap();
    assert_eq!(drain(&mut stream).await.1.unwrap().fault(), SourceFault::Protocol);
    let mut stream = upstream.open_blob(&asked(), &digest(3), 0, None).await.unwrap();
    assert_eq!(drain(&mut stream).await.1.unwrap().fault(), SourceFault::Interrupted);
}

#[tokio::test]
async fn sizes_are_found_where_head_is_broken() {
    let server = serve(|seen| async move {
        let head = seen.method == Method::HEAD;
        match seen.path.rsplit(':').next().unwrap().chars().next().unwrap() {
            '1' if head => respond(200, &[("content-length", "7")], ""),
            // A URL signed for GET; a server without HEAD; a HEAD without a length.
            '2' if head => respond(403, &[], ""),
            '3' if head => respond(405, &[], ""),
            '4' if head => respond(501, &[], ""),
            '5' if head => respond(200, &[], Body::from_stream(stream::iter([Ok::<_, Infallible>("")]))),
            '2' | '3' | '4' | '5' => ranged(&content(7), &seen),
            '6' if head => respond(401, &[], ""),
            '6' => respond(416, &[("content-range", "bytes */0")], ""),
            '7' if head => respond(400, &[], ""),
            '7' => respond(200, &[], content(7)),
            '8' => respond(404, &[], ""),
            '9' => respond(403, &[], ""),
            other => panic!("{other}"),
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let size = async |first: u8| {
        let digest = Digest::new(Algorithm::Sha256, &[first * 16; 32]);
        upstream.blob_size(&asked(), &digest).await.map(|told| told.size).map_err(|error| error.fault())
    };
    for first in 1..=5 {
        assert_eq!(size(first).await, Ok(Some(7)), "{first}");
    }
    assert_eq!(size(6).await, Ok(Some(0)), "an empty blob has no first byte");
    assert_eq!(size(7).await, Ok(Some(7)), "the range was ignored");
    assert_eq!(size(8).await, Err(SourceFault::Missing));
    assert_eq!(size(9).await, Err(SourceFault::Denied { status: 403 }));
    let heads = server.seen().iter().filter(|seen| seen.method == Method::HEAD).count();
    assert_eq!((heads, server.seen().len()), (9, 9 + 7), "a missing blob is not asked for twice");
}

#[tokio::test]
async fn connections_are_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            *count.lock() += 1;
            tokio::spawn(async move {
                loop {
                    read_head(&mut stream).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let upstream = upstream(&format!("http://{address}").parse().unwrap());
    for _ in 0..5 {
        let mut stream = upstream.open_blob(&asked(), &sha256(b"abcde"), 0, None).await.unwrap();
        assert_eq!(drain(&mut stream).await.0, b"abcde");
    }
    assert_eq!(*connections.lock(), 1);
}
