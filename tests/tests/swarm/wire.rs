//! Another implementation, as small as it can be: it reads a blob from a member's data port by the words of `docs/WIRE.md`. Nothing but
//! TLS is shared with the agents.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use shoal_net::{Identity, client_tls};
use shoal_tests::agent::REGISTRY;
use shoal_tests::cluster::{Cluster, DATA_PORT};
use shoal_tests::http::ANSWER_MAX;
use shoal_tests::image::{Blob, Image, sha256};
use shoal_tests::origin::Origin;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::REPOSITORY;

/// A visibility: whoever asks may have it.
const PUBLIC: u8 = 2;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- Admission ----

/// What a member shows beside its key.
fn proof(secret_file: &[u8], key: &[u8; 32]) -> String {
    let secret = secret_file.strip_suffix(b"\n").unwrap_or(secret_file);
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let shown = [&b"shoal admission proof 1\0"[..], &key[..]].concat();
    hex(ring::hmac::sign(&secret, &shown).as_ref())
}

// ---- Frames and encoding ----

/// An unsigned number of any width.
fn number(value: u64) -> Vec<u8> {
    match value {
        0..=250 => vec![value as u8],
        251..=0xffff => [&[0xfb][..], &(value as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[0xfc][..], &(value as u32).to_le_bytes()].concat(),
        _ => [&[0xfd][..], &value.to_le_bytes()].concat(),
    }
}

/// The frame of a Subscribe: version, number, digest, size, classes, class, runs, unlisted.
fn subscribe(blob: &Blob, classes: u32, class: u32, runs: &[(u32, u32)]) -> Vec<u8> {
    let digits = blob.digest.strip_prefix("sha256:").expect("a digest of SHA-256");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    let mut frame = vec![1, 11, 0];
    frame.extend((0..64).step_by(2).map(byte));
    frame.extend(number(blob.len()));
    frame.extend([classes as u8, class as u8]);
    frame.extend(number(runs.len() as u64));
    for (first, end) in runs {
        frame.extend(number(u64::from(*first)));
        frame.extend(number(u64::from(*end)));
    }
    // No hashes are wanted: they would come on a control connection.
    frame.extend([0, 0]);
    frame
}

// ---- Cutting a blob ----

/// Length of a piece, number of pieces, number of classes.
fn cut(size: u64) -> (u64, u32, u32) {
    let mut len = 256 << 10;
    while size.div_ceil(len) > 1024 && len < 4 << 20 {
        len *= 2;
    }
    let pieces = size.div_ceil(len) as u32;
    let classes = match pieces {
        0..=3 => 1,
        4..=63 => 4,
        64..=511 => 8,
        _ => 16,
    };
    (len, pieces, classes)
}

// ---- Data connections ----

/// A connection to the data port of a member, over which one request is sent after the other.
struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
    proof: String,
}

/// An answer, read to its end.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Connection {
    /// As a new member of a cluster, to the first of its agents.
    async fn open(cluster: &Cluster) -> Self {
        let agent = &cluster.agents[0];
        let key = Identity::open(&agent.setup().data_dir().join("identity.pem")).expect("it is there").peer();
        let member = Identity::ephemeral().expect("a key");
        let secret = std::fs::read(cluster.secret_file()).expect("it is there");
        let at = SocketAddr::new(agent.address().ip(), DATA_PORT);
        let tcp = TcpStream::connect(at).await.expect("the port is open");
        let tls = TlsConnector::from(Arc::new(client_tls(&member, key)));
        let stream = tls.connect(ServerName::from(at.ip()), tcp).await.expect("it has this key");
        Connection { stream: BufReader::new(stream), proof: proof(&secret, &member.peer()) }
    }

    /// Asks for a stream by this frame.
    async fn ask(&mut self, frame: &[u8]) -> Answer {
        let head = format!(
            "POST /shoal/1/stream HTTP/1.1\r\nhost: member\r\nshoal-proof: {}\r\ncontent-length: {}\r\n\r\n",
            self.proof,
            frame.len()
        );
        self.stream.write_all(&[head.as_bytes(), frame].concat()).await.expect("sent");
        self.stream.flush().await.expect("sent");
        tokio::time::timeout(ANSWER_MAX, self.answer()).await.expect("it answers, and the answer ends")
    }

    async fn answer(&mut self) -> Answer {
        let first = self.line().await;
        let status: Option<u16> = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (mut length, mut is_chunked): (usize, bool) = (0, false);
        loop {
            let line = self.line().await.to_ascii_lowercase();
            let Some((name, value)) = line.split_once(':') else { break };
            match name {
                "content-length" => length = value.trim().parse().expect("a length"),
                "transfer-encoding" => is_chunked = value.trim() == "chunked",
                _ => {}
            }
        }
        let mut body = Vec::new();
        while is_chunked {
            let size = usize::from_str_radix(&self.line().await, 16).expect("the size of a chunk");
            body.extend(self.bytes(size).await);
            assert_eq!(self.line().await, "", "behind a chunk");
            is_chunked = size > 0;
        }
        body.extend(self.bytes(length).await);
        Answer { status: status.expect("a status line"), body }
    }

    /// A line, without its end.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.expect("the connection lives");
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await.expect("the connection lives");
        bytes
    }
}

// ---- Pieces ----

/// What one record says.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    Piece { piece: u32, backlog: u32, bytes: Vec<u8> },
    Repository { visibility: u8, registry: String, repository: String },
}

/// What has not been read yet.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect("a record does not end in the middle");
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn text(&mut self) -> String {
        let count = usize::from(self.byte());
        String::from_utf8(self.take(count).to_vec()).expect("text")
    }

    fn record(&mut self) -> Record {
        match self.byte() {
            0 => {
                let (piece, backlog, length) = (self.number(), self.number(), self.number());
                Record::Piece { piece, backlog, bytes: self.take(length as usize).to_vec() }
            }
            1 => {
                let visibility = self.byte();
                Record::Repository { visibility, registry: self.text(), repository: self.text() }
            }
            kind => panic!("there is no record of kind {kind}"),
        }
    }
}

/// The records of a stream.
fn records(body: &[u8]) -> Vec<Record> {
    let (mut rest, mut records) = (Rest(body), Vec::new());
    while !rest.0.is_empty() {
        records.push(rest.record());
    }
    records
}

/// Reads the pieces of one class that lie in these runs: they come in order, all of them, with as many behind each as there are, and
/// after the name of the repository.
async fn read(
    connection: &mut Connection,
    blob: &Blob,
    class: u32,
    runs: &[(u32, u32)],
) -> Vec<(u32, Vec<u8>)> {
    let (_, pieces, classes) = cut(blob.len());
    let answer = connection.ask(&subscribe(blob, classes, class, runs)).await;
    assert_eq!(answer.status, 200, "class {class}");
    let is_wanted = |piece: &u32| {
        piece % classes == class && runs.iter().any(|(first, end)| (*first..*end).contains(piece))
    };
    let wanted: Vec<u32> = (0..pieces).filter(is_wanted).collect();
    let (mut came, mut is_named) = (Vec::new(), false);
    for record in records(&answer.body) {
        match record {
            Record::Piece { piece, backlog, bytes } => {
                assert!(is_named, "a piece comes after the name of a repository");
                assert_eq!(backlog as usize, wanted.len() - came.len() - 1, "piece {piece} of class {class}");
                came.push((piece, bytes));
            }
            named => {
                let (registry, repository) = (REGISTRY.to_owned(), REPOSITORY.to_owned());
                assert_eq!(named, Record::Repository { visibility: PUBLIC, registry, repository });
                is_named = true;
            }
        }
    }
    assert_eq!(came.iter().map(|(piece, _)| *piece).collect::<Vec<_>>(), wanted, "class {class}");
    came
}

/// All of a blob, class by class, and a part of it; then what is no request, and one for something that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_the_page_can_read_a_blob() {
    let origin = Origin::start().await;
    // Blobs of four classes and of one, and the configuration.
    let image = Image::new(1610, &[6_000_000, 700_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let cluster = Cluster::start(&origin.url(), 1).await;
    cluster.pull([0], REPOSITORY, &image).await;
    cluster.agents[0].until_idle().await;
    let before = cluster.upstream_bytes().await;
    let mut connection = Connection::open(&cluster).await;

    for blob in image.blobs() {
        let (len, pieces, classes) = cut(blob.len());
        let mut whole = vec![0; blob.bytes.len()];
        for class in 0..classes {
            for (piece, bytes) in read(&mut connection, blob, class, &[(0, pieces)]).await {
                let start = piece as usize * len as usize;
                whole[start..start + bytes.len()].copy_from_slice(&bytes);
            }
        }
        assert_eq!(sha256(&whole), blob.digest, "{pieces} pieces in {classes} classes");
        assert!(whole[..] == blob.bytes[..], "{pieces} pieces in {classes} classes");
    }

    let layer = &image.layers[0];
    let (len, pieces, classes) = cut(layer.len());
    assert_eq!((pieces, classes), (23, 4));
    // Of the runs only what is of the class.
    for (piece, bytes) in read(&mut connection, layer, 1, &[(4, 10), (20, 23)]).await {
        let start = piece as usize * len as usize;
        let end = layer.bytes.len().min(start + len as usize);
        assert!(bytes[..] == layer.bytes[start..end], "piece {piece}");
    }

    // Hail, and nothing at all.
    for frame in [&[1, 33][..], &[]] {
        let answer = connection.ask(frame).await;
        assert_eq!(answer.status, 400, "{frame:?}");
    }
    // It is refused, which the body's end says.
    let absent = Blob::noise(1611, 1_500_000);
    let answer = connection.ask(&subscribe(&absent, 4, 0, &[(0, 6)])).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0), "it is not there");
    assert_eq!(cluster.upstream_bytes().await, before, "who is asked by a member does not ask upstream");
}
