//! A member can be made to call a stranger, and shows it a proof. That is worth nothing: not at another member, and not at the one
//! that it is of. What travels is put together here byte by byte (docs/WIRE.md), for no code of ours would show such a thing.

mod support;

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use shoal_net::{Identity, NetEvent, Refusal, client_tls, key_of, server_tls};
use support::{Node, OTHER_SECRET, SECRET, admission, expect, identity};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the two ends of a connection agree on, one inside the other.
const TLS: &str = "/shoal/tls/1";
const YAMUX: &str = "/yamux/1.0.0";
const CONTROL: &str = "/shoal/control/1";
const ALPN: &[u8] = b"shoal-control/1";

/// Bytes of a proof as a frame: its length, and the proof.
const PROOF_FRAME_BYTES: usize = 4 + 32;

/// The type of a yamux frame with bytes of a stream, the flags of the first one of each end, and the number of the first stream.
const DATA: u8 = 0;
const SYN: u16 = 1;
const ACK: u16 = 2;
const STREAM: u32 = 1;

/// What both ends say where they agree on a protocol: each line after its length, which is short enough for one byte.
fn agreement(protocol: &str) -> Vec<u8> {
    let line = |name: &str| {
        let length = u8::try_from(name.len() + 1).expect("names are short");
        [&[length][..], name.as_bytes(), &b"\n"[..]].concat()
    };
    [line("/multistream/1.0.0"), line(protocol)].concat()
}

async fn agree<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, protocol: &str) -> io::Result<()> {
    let said = agreement(protocol);
    stream.write_all(&said).await?;
    stream.flush().await?;
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).await?;
    assert_eq!(heard, said, "{protocol}");
    Ok(())
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, flags: u16, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).expect("it is short");
    let frame = [
        &[0, DATA][..],
        &flags.to_be_bytes()[..],
        &STREAM.to_be_bytes()[..],
        &length.to_be_bytes()[..],
        bytes,
    ];
    stream.write_all(&frame.concat()).await?;
    stream.flush().await
}

/// What comes on the stream, until it is so many bytes or the connection ends.
async fn hear<S: AsyncRead + Unpin>(stream: &mut S, bytes: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < bytes {
        let mut head = [0; 12];
        if stream.read_exact(&mut head).await.is_err() {
            break;
        }
        // Of other frames the last four bytes say something else, and nothing follows.
        if head[1] == DATA {
            let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
            let mut body = vec![0; length as usize];
            if stream.read_exact(&mut body).await.is_err() {
                break;
            }
            heard.extend_from_slice(&body);
        }
    }
    heard
}

/// A proof as it is sent.
fn frame(proof: &str) -> Vec<u8> {
    let proof = key_of(proof).expect("it has as many digits as a name");
    let length = u32::try_from(proof.len()).expect("it is short");
    [&length.to_le_bytes()[..], &proof[..]].concat()
}

/// Calls a member with this key and shows it a frame. What it says to that.
async fn show(to: &Node, key: &Identity, frame: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(to.address()).await.expect("it listens");
    agree(&mut tcp, TLS).await.expect("it speaks TLS");
    let mut config = client_tls(key, to.peer);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from("shoal").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(name, tcp).await.expect("any key is good for TLS");
    agree(&mut tls, YAMUX).await.expect("it speaks yamux");
    say(&mut tls, SYN, &[&agreement(CONTROL)[..], frame].concat()).await.expect("it reads");
    let mut heard = hear(&mut tls, agreement(CONTROL).len() + PROOF_FRAME_BYTES).await;
    let said = heard.split_off(agreement(CONTROL).len());
    assert_eq!(heard, agreement(CONTROL));
    said
}

/// Lets a member call, as if there were a member with this key. The frame that it shows.
async fn lure(member: &Node, key: &Identity) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    member.handle.contact(listener.local_addr().expect("it is bound"));
    let (mut tcp, _) = listener.accept().await.expect("it calls");
    agree(&mut tcp, TLS).await.expect("it speaks TLS");
    let mut config = server_tls(key);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tls = acceptor.accept(tcp).await.expect("any key is good for TLS");
    agree(&mut tls, YAMUX).await.expect("it speaks yamux");
    let agreed = agreement(CONTROL);
    let mut heard = hear(&mut tls, agreed.len()).await;
    say(&mut tls, ACK, &agreed).await.expect("it reads");
    let rest = (agreed.len() + PROOF_FRAME_BYTES).saturating_sub(heard.len());
    heard.extend(hear(&mut tls, rest).await);
    let shown = heard.split_off(agreed.len());
    assert_eq!(heard, agreed);
    shown
}

/// Whether a member sends away who shows this, without a word.
async fn expect_refused(member: &mut Node, key: &Identity, frame: &[u8]) {
    let meetings = member.meetings;
    assert_eq!(expect(show(member, key, frame)).await, Vec::<u8>::new(), "not a word");
    assert_eq!(member.until_stranger().await, Refusal::WrongProof);
    assert_eq!(member.meetings, meetings, "nobody was met");
}

#[tokio::test]
async fn a_proof_that_was_lured_out_is_worth_nothing() {
    let (mut victim, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    let thief = identity();
    let stolen = expect(lure(&victim, &thief)).await;
    assert_eq!(stolen, frame(&admission(SECRET).proof(&victim.peer)), "it is the one that members accept");

    // At the member that it is of, at another one, and with what that one has let itself be shown meanwhile.
    expect_refused(&mut victim, &thief, &stolen).await;
    expect_refused(&mut other, &thief, &stolen).await;
    let reflected = expect(lure(&other, &thief)).await;
    assert_ne!(reflected, stolen);
    expect_refused(&mut other, &thief, &reflected).await;
    // The right key, and another secret.
    expect_refused(&mut other, &thief, &frame(&admission(OTHER_SECRET).proof(&thief.peer()))).await;
}

/// What the test above relies on: whoever has the secret is answered on the very same way.
#[tokio::test]
async fn who_shows_its_own_proof_is_answered() {
    let mut member = Node::start(SECRET).await;
    let newcomer = identity();
    let shown = frame(&admission(SECRET).proof(&newcomer.peer()));
    let answer = expect(show(&member, &newcomer, &shown)).await;
    assert_eq!(answer, frame(&admission(SECRET).proof(&member.peer)));
    let event = member.next().await;
    assert!(
        matches!(&event, NetEvent::Met { peer, dialed: false, .. } if *peer == newcomer.peer()),
        "{event:?}"
    );
}
