use std::convert::Infallible;

use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use shoal_net::server_tls;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What is answered at once; everything else never is.
const AT_ONCE: &str = "/at-once";
const NEVER: &str = "/never";

/// Longer than other questions have.
const PATIENCE: Duration = Duration::from_secs(20);

/// A member's port for pieces.
struct Port {
    member: Arc<Member>,
    asked: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

impl Port {
    async fn open() -> Self {
        let identity = Identity::ephemeral().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = member(PeerId(identity.peer()), listener.local_addr().unwrap());
        let (asked, open, cut) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<Notify>)>::default();
        let port = Port { member, asked: Arc::clone(&asked), open: Arc::clone(&open), cut: Arc::clone(&cut) };
        let acceptor = TlsAcceptor::from(Arc::new(server_tls(&identity)));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let (asked, open, cut) = (Arc::clone(&asked), Arc::clone(&open), Arc::clone(&cut));
                let service = service_fn(move |request: Request<Incoming>| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    async move {
                        if request.uri().path() != AT_ONCE {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"here"))))
                    }
                });
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
                open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = served => {}
                        () = cut.notified() => {}
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        port
    }

    async fn ask(&self, dialer: &Arc<Dialer>, path: &'static str) -> Result<Bytes, DialError> {
        let (response, connection) = dialer.post(&self.member, question(path), &Reached::default()).await?;
        let body = response.into_body().collect().await?.to_bytes();
        dialer.keep(connection);
        Ok(body)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn member(peer: PeerId, at: SocketAddr) -> Arc<Member> {
    Arc::new(Member {
        peer,
        generation: 1,
        addresses: Box::new([at]),
        data_port: at.port(),
        zone: "".into(),
        labels: Box::new([]),
        version: "".into(),
    })
}

fn dialer() -> Arc<Dialer> {
    Arc::new(Dialer::new(Identity::ephemeral().unwrap(), "a proof".into(), Arc::default(), Gauge::default()))
}

fn question(path: &'static str) -> Post {
    Post { path, content_type: "text/plain", body: Bytes::new(), head_timeout: PATIENCE }
}

#[tokio::test]
async fn what_takes_too_long_is_not_asked_again() {
    let (port, dialer) = (Port::open().await, dialer());
    assert_eq!(port.ask(&dialer, AT_ONCE).await.unwrap(), "here");
    let begun = Instant::now();
    let taken = async {
        while port.asked() < 2 {
            tokio::task::yield_now().await;
        }
        // The rest of the time passes at once.
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(port.ask(&dialer, NEVER), taken);
    let error = answer.unwrap_err();
    assert!(matches!(error, DialError::Silent(_)), "{error}");
    assert!(begun.elapsed() >= PATIENCE, "as long as this question may take: {:?}", begun.elapsed());
    assert_eq!(port.asked(), 2);
    assert!(!error.is_closed_port() && !dialer.has_failed(&port.member.peer));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_nobodys_fault() {
    let (port, dialer) = (Port::open().await, dialer());
    assert_eq!(port.ask(&dialer, AT_ONCE).await.unwrap(), "here");
    port.cut.notify_waiters();
    while port.open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(port.ask(&dialer, AT_ONCE).await.unwrap(), "here");
    assert_eq!(port.asked(), 2);
}

/// On a machine that is busy only the kernel answers.
#[tokio::test]
async fn one_that_takes_too_long_for_tls_has_no_closed_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (member, dialer) = (member(PeerId([1; 32]), listener.local_addr().unwrap()), dialer());
    let (begun, reached) = (Instant::now(), Reached::default());
    let connected = async {
        while dialer.latency(&member.peer).is_none() {
            tokio::task::yield_now().await;
        }
        // The rest of the time passes at once.
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(dialer.post(&member, question(AT_ONCE), &reached), connected);
    let error = answer.err().unwrap();
    assert!(matches!(error, DialError::Secure { .. }) && !error.is_closed_port(), "{error}");
    assert!(begun.elapsed() >= HANDSHAKE_TIMEOUT, "{:?}", begun.elapsed());
    assert!(!dialer.has_failed(&member.peer));

    tokio::time::resume();
    drop(listener);
    let error = dialer.post(&member, question(AT_ONCE), &reached).await.err().unwrap();
    assert!(matches!(error, DialError::Connect { .. }) && error.is_closed_port(), "{error}");
    assert!(dialer.has_failed(&member.peer));
}

#[tokio::test]
async fn somebody_else_at_the_address_is_no_closed_port() {
    let (port, dialer) = (Port::open().await, dialer());
    let other = member(PeerId([1; 32]), port.member.addresses[0]);
    let error = dialer.post(&other, question(AT_ONCE), &Reached::default()).await.err().unwrap();
    assert!(matches!(error, DialError::Secure { .. }) && !error.is_closed_port(), "{error}");
    assert_eq!(port.asked(), 0);
}

#[test]
fn how_long_an_address_has_to_answer() {
    let (near, far) = (Some(NEAR / 2), Some(NEAR));
    for (lately, has_failed, silent, round_trip, patience) in [
        (false, false, 1, near, CONNECT_TIMEOUT),
        (false, true, 1, None, CONNECT_AGAIN),
        (false, false, SILENT_ENOUGH, near, CONNECT_AGAIN),
        (false, false, SILENT_ENOUGH, far, CONNECT_TIMEOUT),
        (false, false, SILENT_ENOUGH, None, CONNECT_TIMEOUT),
        // Its link may be full, or theirs.
        (true, false, SILENT_ENOUGH, near, CONNECT_TIMEOUT),
        (true, true, SILENT_ENOUGH, near, CONNECT_TIMEOUT),
    ] {
        let setting = format!("{lately} {has_failed} {silent} {round_trip:?}");
        assert_eq!(super::patience(lately, has_failed, silent, round_trip), patience, "{setting}");
    }
}

#[test]
fn an_attempt_counts_while_it_lasts() {
    let count = AtomicUsize::default();
    let silent = [Silent::begin(&count), Silent::begin(&count)];
    assert_eq!(count.load(Ordering::Relaxed), 2);
    drop(silent);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}
