use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fixture::{Client, Server, content, file, sized, soon, steps, until};
use super::{BindError, ConnectionLimits, accept_loop, bind};
use crate::metrics::Metrics;
use crate::registry::sendfile::MappedFile;

const MIB: u64 = 1024 * 1024;

/// `/` answers with the client's address.
fn who() -> Router {
    Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
}

/// `/` answers with a file of `len` bytes.
fn large(len: u64) -> Router {
    let source = MappedFile::new(file(len, 0..len), len).expect("files can be mapped");
    Router::new()
        .route("/", get(async move || sized(len, steps(0..len, MIB).map(move |part| Ok(source.bytes(part))))))
}

/// `/` sends `half` at once and again when told to.
fn in_two_halves(half: &'static [u8], second: &Arc<Notify>) -> Router {
    let second = Arc::clone(second);
    let app = async move || {
        let frames = futures_util::stream::iter([false, true]).then(move |wait| {
            let second = Arc::clone(&second);
            async move {
                if wait {
                    second.notified().await;
                }
                Ok(Bytes::from_static(half))
            }
        });
        sized(2 * half.len() as u64, frames)
    };
    Router::new().route("/", get(app))
}

async fn ask_who(client: &mut Client) {
    let me = client.0.local_addr().expect("it is connected").to_string();
    assert_eq!(soon(client.get("/", me.len() as u64)).await, me.as_bytes());
}

#[tokio::test]
async fn a_connection_is_used_again_and_counted_once() {
    let server = Server::start(who());
    let mut client = server.client().await;
    for _ in 0..3 {
        ask_who(&mut client).await;
        assert_eq!(server.metrics.connections.get(), 1);
    }
    let mut other = server.client().await;
    ask_who(&mut other).await;
    assert_eq!(server.metrics.connections.get(), 2);
    drop((client, other));
    until("both are gone", || server.metrics.connections.get() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let len = 2 * MIB;
    let server = Server::start(large(len).merge(Router::new().route("/small", get("small"))));
    let mut client = server.client().await;
    for path in ["/", "/small", "/"] {
        client.ask(path).await;
    }
    for expected in [content(0..len), b"small".to_vec(), content(0..len)] {
        let head = soon(client.head()).await;
        assert!(head.contains(&format!("content-length: {}", expected.len())), "{head}");
        assert!(soon(client.body(expected.len() as u64)).await == expected);
    }
    server.stop().await;
}

/// Go's clients keep idle connections for up to 120 s (contract.md 4.5).
#[tokio::test]
async fn an_idle_connection_outlives_the_clients_pool_and_then_ends() {
    let server = Server::start(who());
    let mut client = server.client().await;
    ask_who(&mut client).await;
    tokio::time::pause();
    let idle = Instant::now();
    assert!(client.rest().await.is_empty());
    assert!(idle.elapsed() > Duration::from_secs(120), "{:?}", idle.elapsed());
    assert!(idle.elapsed() <= ConnectionLimits::default().head_timeout + Duration::from_secs(1));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut() {
    let server = Server::start(who());
    for begun in ["", "G", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let start = Instant::now();
        let mut client = server.client().await;
        client.0.write_all(begun.as_bytes()).await.expect("it is connected");
        let answer = client.rest().await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
        assert!(start.elapsed() >= ConnectionLimits::default().head_timeout, "{:?}", start.elapsed());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let server = Server::start(who());
    let fits = ConnectionLimits::default().head_bytes_max - 1024;
    for (bytes, status) in [(fits, "200"), (2 * fits, "431")] {
        let mut client = server.client().await;
        let request =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n", "x".repeat(bytes));
        // The server may close before it has read all of it.
        let _ = client.0.write_all(request.as_bytes()).await;
        let head = soon(client.head()).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes} bytes: {head}");
    }
    server.stop().await;
}

#[tokio::test]
async fn other_protocols_fail_at_once() {
    let server = Server::start(who());
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x5a\xc4\x11";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for first in [&hello[..], &preface[..], b"SSH-2.0-client\r\n\r\n"] {
        let mut client = server.client().await;
        client.0.write_all(first).await.expect("it is connected");
        let answer = soon(client.rest()).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", answer.escape_ascii());
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let len = 64 * MIB;
    let server = Server::start(large(len));
    let mut client = server.client().await;
    client.ask("/").await;
    client.head().await;
    let start = Instant::now();
    while server.metrics.connections.get() > 0 {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let limit = ConnectionLimits::default().write_idle_timeout;
    let polled = Duration::from_secs(20);
    assert!(start.elapsed() >= limit && start.elapsed() <= 2 * limit + polled, "{:?}", start.elapsed());
    let got = client.rest().await;
    assert!((got.len() as u64) < len && got == content(0..got.len() as u64));
    server.stop().await;
}

/// It takes less in each period than the socket needs to report room.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_little_is_not_cut() {
    let len = 64 * MIB;
    let server = Server::start(large(len));
    let mut client = server.client().await;
    client.ask("/").await;
    client.head().await;
    let mut got = Vec::new();
    for _ in 0..100 {
        tokio::time::sleep(ConnectionLimits::default().write_idle_timeout / 2).await;
        got.extend(client.body(MIB / 4).await);
    }
    got.extend(client.body(len - 25 * MIB).await);
    assert!(got == content(0..len));
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let seen = Arc::new(AtomicUsize::new(0));
    let app = {
        let seen = Arc::clone(&seen);
        Router::new().route("/", get(async move || seen.fetch_add(1, Ordering::Relaxed).to_string()))
    };
    let limits = ConnectionLimits { connections_max: 1, ..ConnectionLimits::default() };
    let server = Server::start_with(app, limits);
    let mut first = server.client().await;
    assert_eq!(soon(first.get("/", 1)).await, b"0");
    let mut second = server.client().await;
    second.ask("/").await;
    for n in 1..10 {
        assert_eq!(soon(first.get("/", 1)).await, n.to_string().as_bytes());
    }
    assert_eq!(server.metrics.connections.get(), 1);
    drop(first);
    soon(second.head()).await;
    assert_eq!(soon(second.body(2)).await, b"10");
    drop(second);
    server.stop().await;
}

#[tokio::test]
async fn a_drain_lets_requests_in_flight_end() {
    let second = Arc::new(Notify::new());
    let server = Server::start(in_two_halves(b"half", &second));
    let (mut busy, mut idle) = (server.client().await, server.client().await);
    second.notify_one();
    assert_eq!(soon(idle.get("/", 8)).await, b"halfhalf");
    busy.ask("/").await;
    soon(busy.head()).await;
    assert_eq!(soon(busy.body(4)).await, b"half");

    server.drain.cancel();
    assert!(soon(idle.rest()).await.is_empty(), "an idle connection ends at once");
    let refused = soon(async {
        loop {
            if let Err(error) = TcpStream::connect(server.address).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(refused.await.kind(), io::ErrorKind::ConnectionRefused);
    assert!(!server.task.is_finished());
    second.notify_one();
    assert_eq!(soon(busy.rest()).await, b"half");
    server.stop().await;
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_end_in_time() {
    let never = Arc::new(Notify::new());
    let server = Server::start(in_two_halves(b"half", &never));
    let mut client = server.client().await;
    client.ask("/").await;
    client.head().await;
    assert_eq!(client.body(4).await, b"half");
    tokio::time::pause();
    let start = Instant::now();
    server.drain.cancel();
    assert!(client.rest().await.is_empty());
    server.task.await.expect("the server does not panic");
    let deadline = ConnectionLimits::default().drain_deadline;
    assert!(start.elapsed() >= deadline && start.elapsed() < 2 * deadline, "{:?}", start.elapsed());
}

/// After the head there is no other way to say that something went wrong (L4).
#[tokio::test]
async fn a_body_that_fails_is_cut_short_of_its_length() {
    let fail = Arc::new(Notify::new());
    let app = {
        let fail = Arc::clone(&fail);
        async move || {
            let good = futures_util::stream::iter([Ok(Bytes::from_static(b"good"))]);
            let bad = futures_util::stream::once(async move {
                fail.notified().await;
                Err(io::Error::from(io::ErrorKind::InvalidData))
            });
            sized(8, good.chain(bad))
        }
    };
    let server = Server::start(Router::new().route("/", get(app)));
    let mut client = server.client().await;
    client.ask("/").await;
    soon(client.head()).await;
    assert_eq!(soon(client.body(4)).await, b"good");
    fail.notify_one();
    assert!(soon(client.rest()).await.is_empty());
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn accepting_goes_on_after_errors() {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut failures =
        [libc::EMFILE, libc::ENFILE, libc::ECONNABORTED, libc::ENOMEM, libc::EMFILE].into_iter();
    let poll_accept = move |cx: &mut Context<'_>| match failures.next() {
        Some(code) => Poll::Ready(Err(io::Error::from_raw_os_error(code))),
        None => listener.poll_accept(cx),
    };
    let drain = CancellationToken::new();
    let server = tokio::spawn(accept_loop(
        poll_accept,
        who(),
        ConnectionLimits::default(),
        Metrics::new(),
        drain.clone(),
    ));
    let start = Instant::now();
    let mut client = Client(TcpStream::connect(address).await.expect("it listens"));
    client.ask("/").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(
        start.elapsed().as_millis() / 100,
        4,
        "one pause for each shortage, none for the client's fault"
    );
    drain.cancel();
    drop(client);
    server.await.expect("the server does not panic");
}

#[tokio::test]
async fn the_wildcard_of_ipv6_takes_both_families() {
    let listener = match bind("[::]:0".parse().expect("an address")) {
        Ok(listener) => listener,
        Err(BindError::NotHere { .. }) => return eprintln!("no IPv6 on this machine"),
        Err(error) => panic!("{error}"),
    };
    let port = listener.local_addr().expect("it is bound").port();
    let drain = CancellationToken::new();
    let server = tokio::spawn(super::serve(
        listener,
        who(),
        ConnectionLimits::default(),
        Metrics::new(),
        drain.clone(),
    ));
    for address in ["[::1]", "127.0.0.1"] {
        let stream = TcpStream::connect(format!("{address}:{port}")).await.expect("it listens");
        let mut client = Client(stream);
        client.ask("/").await;
        assert!(soon(client.head()).await.starts_with("HTTP/1.1 200 "), "{address}");
    }
    drain.cancel();
    soon(server).await.expect("the server does not panic");
}

/// A loopback listener passes its own on to its connections; elsewhere the operator's choice for the system holds.
#[tokio::test]
async fn only_local_clients_get_a_congestion_control_of_our_own() {
    let chosen = |stream: &TcpStream| SockRef::from(stream).tcp_congestion().expect("a TCP socket");
    for (address, ours) in [([127, 0, 0, 1], true), ([0, 0, 0, 0], false)] {
        let listener = bind(SocketAddr::from((address, 0))).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let (accepted, _) = listener.accept().await.expect("a client is there");
        // The client's socket has what the system gives to everybody.
        let wanted = if ours { b"reno".to_vec() } else { trimmed(&chosen(&client)) };
        assert_eq!(trimmed(&chosen(&accepted)).escape_ascii().to_string(), wanted.escape_ascii().to_string());
    }
}

/// Without the zeros that the kernel fills the name up with.
fn trimmed(name: &[u8]) -> Vec<u8> {
    name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_is_named_with_the_remedy() {
    let held = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = held.local_addr().expect("it is bound");
    let error = bind(address).expect_err("it is in use");
    assert!(matches!(error, BindError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("in use"), "{text}");
    // A documentation address (RFC 5737), which no machine has.
    let error = bind(SocketAddr::from(([192, 0, 2, 1], 0))).expect_err("it is not ours");
    assert!(matches!(error, BindError::NotHere { .. }), "{error}");
}
