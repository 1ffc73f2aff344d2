//! A TCP proxy that does to connections what load balancers and bad networks do: resets after so many bytes or so
//! much time, a bounded rate, silence.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::netns::{self, Network};

/// Bytes carried at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// More than any connection carries.
const NEVER: u64 = u64::MAX;

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

/// What its connections share.
#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    faults: Faults,
    /// Bytes from the server after which a connection is reset.
    reset_at: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    resets: AtomicU64,
    silent: AtomicBool,
    away: CancellationToken,
}

impl Shared {
    fn new(target: SocketAddr, faults: Faults) -> Arc<Self> {
        Arc::new(Shared {
            target,
            faults,
            reset_at: AtomicU64::new(faults.reset_after_bytes.unwrap_or(NEVER)),
            down: AtomicU64::default(),
            connections: AtomicU64::default(),
            resets: AtomicU64::default(),
            silent: AtomicBool::default(),
            away: CancellationToken::new(),
        })
    }
}

/// The running proxy. Dropping it closes its sockets.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends when it has been told to go away and all sockets are closed.
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 in front of `target`.
    pub async fn start(target: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Shared::new(target, faults);
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Proxy { address, shared, task }
    }

    /// The same at a port of a node's own address, inside the node's network namespace. It has a thread there, so that what it connects
    /// to is in there as well.
    pub async fn start_in(
        network: &Network,
        node: usize,
        port: u16,
        target: SocketAddr,
        faults: Faults,
    ) -> Self {
        let address = SocketAddr::from((netns::address(node), port));
        let shared = Shared::new(target, faults);
        let (listens, told) = oneshot::channel();
        let inside = Arc::clone(&shared);
        let thread = network.inside(node, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await?;
                // Whoever started it may be gone.
                let _ = listens.send(());
                serve(listener, inside).await;
                io::Result::Ok(())
            })
        });
        let task = tokio::task::spawn_blocking(move || drop(thread.join()));
        told.await.expect("the port is free in that namespace");
        Proxy { address, shared, task }
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
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections reset.
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::Relaxed)
    }

    /// Carries nothing more from the server, and keeps connections open.
    pub fn go_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Resets connections after so many bytes from the server from now on, also those that have carried some before.
    pub fn reset_every(&self, bytes: u64) {
        self.shared.reset_at.store(bytes, Ordering::Relaxed);
    }

    /// Refuses connections from now on, and resets the open ones.
    pub async fn go_away(&mut self) {
        self.shared.away.cancel();
        if !self.task.is_finished() {
            (&mut self.task).await.expect("it carries until it is told to go away");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.away.cancel();
    }
}

/// Carries for everybody who connects until it is told to go away. Then all of its sockets are closed.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.away.cancelled() => break,
        };
        let Ok((client, _)) = accepted else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(client, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.target).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let reset = {
        let up_and_down = both_ways(&client, &server, &shared);
        let in_time = async {
            match shared.faults.reset_after {
                Some(after) => tokio::time::timeout(after, up_and_down).await.unwrap_or(true),
                None => up_and_down.await,
            }
        };
        tokio::select! {
            reset = in_time => reset,
            () = shared.away.cancelled() => true,
        }
    };
    if reset {
        shared.resets.fetch_add(1, Ordering::Relaxed);
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

/// Carries until one side ends; true when the byte limit was reached.
async fn both_ways(client: &TcpStream, server: &TcpStream, shared: &Shared) -> bool {
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
            if shared.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
            carried += n as u64;
            shared.down.fetch_add(n as u64, Ordering::Relaxed);
            if carried >= shared.reset_at.load(Ordering::Relaxed) {
                return true;
            }
            if let Some(rate) = shared.faults.rate {
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
