//! Requests that are no HTTP, or too much of it. The agent answers or closes, quickly, and goes on.

use std::time::{Duration, Instant};

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::http::{Client, raw};
use shoal_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::NOWHERE;

async fn expect_alive(agent: &Agent) {
    assert_eq!(agent.client().get(&format!("{}/v2/", agent.url())).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request() {
    let agent = Agent::start(NOWHERE).await;
    let start = Instant::now();
    // A TLS ClientHello comes with every pull of podman, which tries https first.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random bytes of a client hello\r\n\r\n";
    let huge_head =
        [b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Pad: ".as_slice(), &vec![b'a'; 2 << 20], b"\r\n\r\n"].concat();
    let many_headers: String = (0..5000).map(|i| format!("X-{i}: y\r\n")).collect();
    let many_headers = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many_headers}\r\n");
    let long_line = format!("GET /v2/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let many_ranges = format!(
        "GET /v2/a/blobs/sha256:{}?ns=registry.test HTTP/1.1\r\nHost: x\r\nRange: bytes={}\r\nConnection: close\r\n\r\n",
        "0".repeat(64),
        (0..2000).map(|i| format!("{}-{}", i * 10, i * 10 + 1)).collect::<Vec<_>>().join(",")
    );
    for request in [
        hello.as_slice(),
        b"\0\0\0\0\r\n\r\n",
        b"BREW / HTCPCP/1.0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        &huge_head,
        many_headers.as_bytes(),
        long_line.as_bytes(),
        many_ranges.as_bytes(),
    ] {
        let answer = raw(agent.address(), request).await;
        let what = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
        assert!(answer.is_empty() || !answer.starts_with("HTTP/1.1 2"), "{what:?}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 500"), "{what:?}: {answer}");
        expect_alive(&agent).await;
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}: something was waited for", start.elapsed());
}

/// HTTP/1.0 and several requests at once on one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_hurried_clients() {
    let agent = Agent::start(NOWHERE).await;
    let old = raw(agent.address(), b"GET /v2/ HTTP/1.0\r\n\r\n").await;
    assert!(old.contains(" 200 "), "{old}");
    let twice =
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = raw(agent.address(), twice).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

/// A client that never finishes its head is not waited for longer than configured, and holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends() {
    let agent = Setup::new(NOWHERE).set("registry.keep_alive", "1s").start().await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(agent.address()).await.expect("the agent listens");
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("the agent reads");
        streams.push(stream);
    }
    expect_alive(&agent).await;
    for mut stream in streams {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a head that never ends keeps its connection");
    }
}

/// The bound on connections: those beyond it wait and are served when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_allowed() {
    let agent = Setup::new(NOWHERE).set("registry.connections_max", 4).start().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(agent.address()).await.expect("the agent listens"));
    }
    wait::until("four connections to be open", Duration::from_secs(10), || async {
        agent.metric("connections", &[]).await >= 4.0
    })
    .await;
    let url = format!("{}/v2/", agent.url());
    let waiting = tokio::spawn(async move { Client::new().get(&url).await.status });
    drop(held);
    assert_eq!(waiting.await.expect("the request ends"), 200);
}
