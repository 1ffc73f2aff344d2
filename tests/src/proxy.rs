//! A TCP proxy that does to connections what load balancers and bad networks do: resets after so many bytes or so
//! much time, a bounded rate, silence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes carried at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What the proxy does to every connection. The default does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Resets a connection after so many bytes from the server.
    pub reset_after_bytes: Option<u64>,
    /// Resets a connection after so much time, whatever it carries (a load balancer's total timeout).
    pub reset_after: Option<Duration>,
    /// Bytes per second from the server, for each connection.
    pub rate: Option<u64>,
}

#[derive(Debug, Default)]
struct Counters {
    down: AtomicU64,
    connections: AtomicU64,
    resets: AtomicU64,
    silent: AtomicBool,
}

/// The running proxy. Dropping it closes its sockets.
pub struct Proxy {
    address: SocketAddr,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 in front of `target`.
    pub async fn start(target: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, target, faults, Arc::clone(&shared)));
                while connections.try_join_next().is_some() {}
            }
        });
        Proxy { address, counters, task }
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes carried from the server to clients.
    pub fn down(&self) -> u64 {
        self.counters.down.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Connections reset.
    pub fn resets(&self) -> u64 {
        self.counters.resets.load(Ordering::Relaxed)
    }

    /// Carries nothing more from the server, and keeps connections open.
    pub fn go_silent(&self) {
        self.counters.silent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, target: SocketAddr, faults: Faults, counters: Arc<Counters>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let reset = {
        let up_and_down = both_ways(&client, &server, faults, &counters);
        match faults.reset_after {
            Some(after) => tokio::time::timeout(after, up_and_down).await.unwrap_or(true),
            None => up_and_down.await,
        }
    };
    if reset {
        counters.resets.fetch_add(1, Ordering::Relaxed);
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

/// Carries until one side ends; true when the byte limit was reached.
async fn both_ways(client: &TcpStream, server: &TcpStream, faults: Faults, counters: &Counters) -> bool {
    let (mut from_client, mut to_client) = (ReadHalf(client), WriteHalf(client));
    let (mut from_server, mut to_server) = (ReadHalf(server), WriteHalf(server));
    let up = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            if to_server.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        false
    };
    let down = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut carried = 0_u64;
        let started = Instant::now();
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            if counters.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
            carried += n as u64;
            counters.down.fetch_add(n as u64, Ordering::Relaxed);
            if faults.reset_after_bytes.is_some_and(|limit| carried >= limit) {
                return true;
            }
            if let Some(rate) = faults.rate {
                let due = started + Duration::from_secs_f64(carried as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
            }
        }
        false
    };
    tokio::select! { reset = up => reset, reset = down => reset }
}

/// Reading through a shared stream, so that the whole stream can still be reset afterwards.
struct ReadHalf<'a>(&'a TcpStream);
/// Writing through a shared stream.
struct WriteHalf<'a>(&'a TcpStream);

impl ReadHalf<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.0.try_read(buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

impl WriteHalf<'_> {
    async fn write_all(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
