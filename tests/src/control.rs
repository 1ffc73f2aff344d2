//! Control connections between members, put together byte by byte by the words of `docs/WIRE.md`: what is shown and said on them is a
//! test's choice, and no code of ours would say some of it. Nothing but TLS is shared with the agents.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use shoal_net::{Identity, Key, client_tls, server_tls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::Agent;
use crate::wait;

/// What the two ends of a connection agree on, one inside the other.
const TLS: &str = "/shoal/tls/1";
const YAMUX: &str = "/yamux/1.0.0";
const CONTROL: &str = "/shoal/control/1";
const ALPN: &[u8] = b"shoal-control/1";

/// The types of yamux's frames.
const DATA: u8 = 0;
const WINDOW: u8 = 1;
const PING: u8 = 2;
const AWAY: u8 = 3;
/// Flags: the first frame of whoever opens a stream or asks, and of whoever answers; no more comes; the stream is broken off.
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;
/// The number of the first stream of a dialer.
const STREAM: u32 = 1;

/// What waits to be written or read.
const QUEUE: usize = 64;

/// Pause between two attempts to call somebody.
const PAUSE: Duration = Duration::from_millis(100);

/// The key of an agent, which is its name.
pub fn name_of(agent: &Agent) -> Key {
    Identity::open(&agent.setup().data_dir().join("identity.pem")).expect("it is there").peer()
}

/// A connection on which the stream of frames is open, and nothing has been shown or said yet. It ends when it is dropped.
pub struct Control {
    chunks: mpsc::Receiver<Vec<u8>>,
    /// What has come of the stream and was not taken yet.
    heard: Vec<u8>,
    out: mpsc::Sender<Vec<u8>>,
    /// Of the next bytes on the stream.
    flags: u16,
    _tasks: [AbortOnDropHandle<Option<()>>; 2],
}

impl Control {
    /// Calls a member, which has to have this key.
    ///
    /// # Errors
    /// Nobody is there, it is somebody else, speaks something else or hangs up.
    pub async fn call(to: SocketAddr, identity: &Identity, member: Key) -> io::Result<Self> {
        let mut tcp = TcpStream::connect(to).await?;
        agree(&mut tcp, TLS).await?;
        let mut config = client_tls(identity, member);
        config.alpn_protocols = vec![ALPN.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(ServerName::from(to.ip()), tcp).await?;
        agree(&mut tls, YAMUX).await?;
        Self::open(tls, true).await
    }

    /// [Calls](Self::call) a member until that succeeds: one that stands still for seconds meanwhile hangs up, and so it does on a test
    /// that does.
    pub async fn reach(to: SocketAddr, identity: &Identity, member: Key) -> Self {
        let start = Instant::now();
        loop {
            match Self::call(to, identity, member).await {
                Ok(control) => return control,
                Err(error) => assert!(start.elapsed() < wait::START_MAX, "{to} cannot be called: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits for somebody's call, and answers as whoever has this key.
    ///
    /// # Errors
    /// It speaks something else or hangs up.
    pub async fn accept(listener: &TcpListener, identity: &Identity) -> io::Result<Self> {
        let (mut tcp, _) = listener.accept().await?;
        agree(&mut tcp, TLS).await?;
        let mut config = server_tls(identity);
        config.alpn_protocols = vec![ALPN.to_vec()];
        let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
        agree(&mut tls, YAMUX).await?;
        Self::open(tls, false).await
    }

    /// Opens the stream, or waits until the dialer does.
    async fn open<S>(tls: S, is_dialer: bool) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(tls);
        let (to_us, chunks) = mpsc::channel(QUEUE);
        let (out, to_them) = mpsc::channel(QUEUE);
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(carry_in(read, to_us, out.clone()))),
            AbortOnDropHandle::new(tokio::spawn(carry_out(write, to_them))),
        ];
        let flags = if is_dialer { SYN } else { ACK };
        let mut control = Control { chunks, heard: Vec::new(), out, flags, _tasks: tasks };
        let agreed = agreement(CONTROL);
        // The other end knows of no stream before it has been opened.
        if is_dialer {
            control.say(&agreed).await;
        }
        let heard = control.take(agreed.len()).await.ok_or(io::ErrorKind::UnexpectedEof)?;
        expect_echo(&heard, &agreed)?;
        if !is_dialer {
            control.say(&agreed).await;
        }
        Ok(control)
    }

    /// Says a frame: a proof, or what comes after it.
    pub async fn tell(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("frames are short");
        self.say(&[&length.to_le_bytes()[..], frame].concat()).await;
    }

    /// The next frame, without its length; `None` once the other end has hung up. Nothing is lost where this is given up in the middle.
    pub async fn frame(&mut self) -> Option<Vec<u8>> {
        self.until_heard(4).await?;
        let length = u32::from_le_bytes([self.heard[0], self.heard[1], self.heard[2], self.heard[3]]);
        let frame = self.take(4 + length as usize).await?;
        Some(frame[4..].to_vec())
    }

    /// All that comes until the other end hangs up.
    pub async fn rest(mut self) -> Vec<u8> {
        while let Some(chunk) = self.chunks.recv().await {
            self.heard.extend(chunk);
        }
        self.heard
    }

    /// Bytes on the stream. No test says as much as fits into the window with which a stream begins, so it is not kept count of.
    async fn say(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("it is short");
        let flags = std::mem::take(&mut self.flags);
        let frame = [&head(DATA, flags, STREAM, length)[..], bytes].concat();
        // That the other end has hung up is seen by whoever reads.
        let _ = self.out.send(frame).await;
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        self.until_heard(count).await?;
        Some(self.heard.drain(..count).collect())
    }

    async fn until_heard(&mut self, count: usize) -> Option<()> {
        while self.heard.len() < count {
            let chunk = self.chunks.recv().await?;
            self.heard.extend(chunk);
        }
        Some(())
    }
}

// ---- yamux ----

/// What a frame begins with; the last number is the length of what follows it in a frame with bytes, and something else in others.
fn head(kind: u8, flags: u16, stream: u32, value: u32) -> Vec<u8> {
    let mut head = vec![0, kind];
    head.extend(flags.to_be_bytes());
    head.extend(stream.to_be_bytes());
    head.extend(value.to_be_bytes());
    head
}

/// Reads until the stream or the connection ends: hands on the stream's bytes, and answers what yamux wants answered.
async fn carry_in<R: AsyncRead + Unpin>(
    mut tls: R,
    chunks: mpsc::Sender<Vec<u8>>,
    out: mpsc::Sender<Vec<u8>>,
) -> Option<()> {
    loop {
        let mut head_bytes = [0; 12];
        tls.read_exact(&mut head_bytes).await.ok()?;
        let [_, kind, high, low, _, _, _, _, value @ ..] = head_bytes;
        let (flags, value) = (u16::from_be_bytes([high, low]), u32::from_be_bytes(value));
        match kind {
            DATA if value > 0 => {
                let mut bytes = vec![0; value as usize];
                tls.read_exact(&mut bytes).await.ok()?;
                // As many may come again.
                out.send(head(WINDOW, 0, STREAM, value)).await.ok()?;
                chunks.send(bytes).await.ok()?;
            }
            PING if flags & SYN != 0 => out.send(head(PING, ACK, 0, value)).await.ok()?,
            AWAY => return Some(()),
            _ => {}
        }
        if flags & (FIN | RST) != 0 {
            return Some(());
        }
    }
}

async fn carry_out<W: AsyncWrite + Unpin>(mut tls: W, mut frames: mpsc::Receiver<Vec<u8>>) -> Option<()> {
    while let Some(frame) = frames.recv().await {
        tls.write_all(&frame).await.ok()?;
        tls.flush().await.ok()?;
    }
    Some(())
}

// ---- multistream-select ----

/// What both ends say where they agree on a protocol: each line after its length, which is short enough for one byte.
fn agreement(protocol: &str) -> Vec<u8> {
    let line = |name: &str| {
        let length = u8::try_from(name.len() + 1).expect("names are short");
        [&[length][..], name.as_bytes(), &b"\n"[..]].concat()
    };
    [line("/multistream/1.0.0"), line(protocol)].concat()
}

/// Both may speak at once: each says what it expects to hear.
async fn agree<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, protocol: &str) -> io::Result<()> {
    let said = agreement(protocol);
    stream.write_all(&said).await?;
    stream.flush().await?;
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).await?;
    expect_echo(&heard, &said)
}

fn expect_echo(heard: &[u8], said: &[u8]) -> io::Result<()> {
    if heard == said {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is answered by {}", said.escape_ascii(), heard.escape_ascii())))
}
