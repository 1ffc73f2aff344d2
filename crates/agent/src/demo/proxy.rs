//! A TCP proxy that limits how fast bytes come from a registry: all connections together share one link, as the nodes
//! of a cluster share the way to theirs. Without it, loopback would hide what pulling the same bytes again costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that take the link at a time: small, so that connections take turns.
const TURN_BYTES: usize = 64 * 1024;

/// How far the link may fall behind its rate and still catch up. Timers are late by a millisecond or so; without this
/// the rate would be missed by as much.
const CATCH_UP_MAX: Duration = Duration::from_millis(5);

/// Room for what the registry has sent and the link has not taken yet. The kernel's own choice is megabytes, all of which
/// the registry's log counts as sent when a client leaves.
const AHEAD_BYTES: u32 = 64 * 1024;

/// A proxy in front of one address. Dropping it closes all its connections.
pub struct Throttle {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Throttle {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `target`. What comes back from there passes
    /// at `bytes_per_second` for all connections together.
    pub async fn start(target: SocketAddr, bytes_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no loopback port is free")?;
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let link = Arc::new(Link::new(bytes_per_second));
        let task = tokio::spawn(accept(listener, target, link, Arc::clone(&received)));
        Ok(Throttle { address, received, task })
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that have come from the target, headers included.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The shared link: whoever has bytes to send takes the next free stretch of time on it.
struct Link {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Link {
    fn new(bytes_per_second: u64) -> Self {
        Link { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// When `bytes` that want to pass at `now` may.
    fn pass(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock();
        let starts = now.checked_sub(CATCH_UP_MAX).map_or(now, |earliest| earliest.max(*free_at));
        *free_at = starts + takes;
        *free_at
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, link: Arc<Link>, received: Arc<AtomicU64>) {
    // Ends its connections when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                let (link, received) = (Arc::clone(&link), Arc::clone(&received));
                connections.spawn(async move {
                    // A broken connection is seen by both ends; there is nobody else to tell.
                    let _ = connect(client, target, &link, &received).await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(
    mut client: TcpStream,
    target: SocketAddr,
    link: &Link,
    received: &AtomicU64,
) -> std::io::Result<()> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(AHEAD_BYTES)?;
    let mut server = socket.connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; TURN_BYTES];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            received.fetch_add(read as u64, Ordering::Relaxed);
            tokio::time::sleep_until(link.pass(read, Instant::now()).into()).await;
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    // A side that breaks ends the other.
    tokio::try_join!(up, down).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_shared_and_does_not_save_up() {
        let link = Link::new(1_000_000);
        let start = Instant::now() + Duration::from_secs(1);
        // Two senders at one moment: the second waits for the first.
        assert_eq!(link.pass(100_000, start), start + Duration::from_millis(95));
        assert_eq!(link.pass(100_000, start), start + Duration::from_millis(195));
        // An hour of silence earns no more than the catch-up.
        let later = start + Duration::from_secs(3600);
        assert_eq!(link.pass(100_000, later), later + Duration::from_millis(95));
    }

    #[tokio::test]
    async fn bytes_pass_unchanged_in_both_directions() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = echo.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("a connection");
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.expect("an echo");
        });
        let throttle = Throttle::start(target, 100_000_000).await.expect("a proxy");
        let mut stream = TcpStream::connect(throttle.address).await.expect("a connection");
        let sent = crate::demo::image::noise(1, 300_000);
        let (mut read, mut write) = stream.split();
        let send = async {
            write.write_all(&sent).await.expect("sent");
            write.shutdown().await.expect("closed");
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(read.read_to_end(&mut got), send);
        read.expect("received");
        assert_eq!(got, sent);
        assert_eq!(throttle.received(), 300_000);
    }
}
