//! A node for tests: a [`NetHandle`] with its events, and nothing that waits without end.
#![allow(dead_code, reason = "each test uses some of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_net::{
    Admission, Class, Identity, Key, Loss, Net, NetConfig, NetEvent, NetHandle, NetLimits, Refusal, Secret,
};
use tokio::sync::mpsc;

pub const SECRET: &str = "the secret of the cluster of the tests";
pub const OTHER_SECRET: &str = "the secret of the cluster next door";

/// Nothing in these tests takes so long, on any machine; it is here so that a failure is not a hang.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn expect<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("something happens")
}

pub fn identity() -> Identity {
    Identity::ephemeral().expect("a key")
}

pub fn admission(secret: &str) -> Arc<Admission> {
    Arc::new(Admission::new(Secret::new(secret.as_bytes()).expect("a secret"), None))
}

/// Wide enough for slow machines: nothing may fail because of time in these tests.
pub fn limits() -> NetLimits {
    NetLimits {
        handshake_timeout: Duration::from_secs(60),
        silence_max: Duration::from_secs(60),
        backoff_max: Duration::from_secs(1),
        queue_bytes_max: 32 << 20,
        ..NetLimits::default()
    }
}

pub struct Node {
    pub peer: Key,
    pub handle: NetHandle,
    pub events: mpsc::Receiver<NetEvent>,
    pub meetings: usize,
    pub losses: usize,
}

impl Node {
    pub async fn start(secret: &str) -> Self {
        Self::start_as(identity(), secret, "127.0.0.1:0", limits()).await
    }

    pub async fn start_as(identity: Identity, secret: &str, listen: &str, limits: NetLimits) -> Self {
        let peer = identity.peer();
        let (handle, events) = Net::start(NetConfig {
            identity,
            admission: admission(secret),
            listen: vec![listen.parse().expect("an address")],
            mdns: false,
            limits,
        })
        .await
        .expect("started");
        Self { peer, handle, events, meetings: 0, losses: 0 }
    }

    pub fn address(&self) -> SocketAddr {
        self.handle.listening()[0]
    }

    pub fn send(&self, to: &Node, class: Class, frame: Vec<u8>) {
        self.handle.send(to.peer, &[to.address()], class, frame).expect("taken");
    }

    /// The next event, counted.
    pub async fn next(&mut self) -> NetEvent {
        let event = expect(self.events.recv()).await.expect("not closed");
        match &event {
            NetEvent::Met { .. } => self.meetings += 1,
            NetEvent::Lost { why, .. } => {
                self.losses += 1;
                println!("lost: {why}");
            }
            _ => {}
        }
        event
    }

    pub async fn frame(&mut self) -> (Key, Vec<u8>) {
        loop {
            if let NetEvent::Frame { from, bytes } = self.next().await {
                return (from, bytes);
            }
        }
    }

    pub async fn until_lost(&mut self) -> (Key, Loss) {
        loop {
            if let NetEvent::Lost { peer, why } = self.next().await {
                return (peer, why);
            }
        }
    }

    pub async fn until_stranger(&mut self) -> Refusal {
        loop {
            if let NetEvent::Stranger { why, .. } = self.next().await {
                return why;
            }
        }
    }

    /// Says farewell, then is gone.
    pub async fn stop(self) {
        expect(self.handle.close(Duration::from_secs(10))).await;
    }

    /// Is gone without a word.
    pub async fn kill(mut self) {
        drop(self.handle);
        expect(async { while self.events.recv().await.is_some() {} }).await;
    }
}
