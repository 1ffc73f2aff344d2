//! Whoever does not know the secret gets nothing, and costs little.

mod support;

use std::sync::Arc;
use std::time::Duration;

use shoal_net::{Admission, Class, Loss, Net, NetConfig, NetEvent, NetLimits, Refusal, Secret, client_tls};
use support::{Node, OTHER_SECRET, SECRET, expect, identity, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn another_cluster_is_refused_and_told_nothing() {
    let mut ours = Node::start(SECRET).await;
    let mut theirs = Node::start(OTHER_SECRET).await;
    theirs.send(&ours, Class::Ordered, b"let me in".to_vec());
    assert_eq!(ours.until_stranger().await, Refusal::WrongProof);
    let event = theirs.next().await;
    assert!(
        matches!(&event, NetEvent::Lost { peer, why: Loss::NotAccepted } if *peer == ours.peer),
        "{event:?}"
    );
    assert_eq!(ours.meetings, 0);

    // By contact, the other way round.
    ours.handle.contact(theirs.address());
    loop {
        match ours.next().await {
            NetEvent::Missed { address, .. } => break assert_eq!(address, theirs.address()),
            NetEvent::Stranger { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(theirs.until_stranger().await, Refusal::WrongProof);
}

#[tokio::test]
async fn neighbours_in_a_rotation_meet() {
    let secrets = |first: &str, other: Option<&str>| {
        let secret = |text: &str| Secret::new(text.as_bytes()).unwrap();
        Arc::new(Admission::new(secret(first), other.map(secret)))
    };
    let steps = [
        secrets(SECRET, None),
        secrets(SECRET, Some(OTHER_SECRET)),
        secrets(OTHER_SECRET, Some(SECRET)),
        secrets(OTHER_SECRET, None),
    ];
    for pair in steps.windows(2) {
        let mut nodes = Vec::new();
        for admission in pair {
            let config = NetConfig {
                identity: identity(),
                admission: Arc::clone(admission),
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                mdns: false,
                limits: limits(),
            };
            nodes.push(Net::start(config).await.unwrap());
        }
        let (one, mut other) = (nodes.remove(0), nodes.remove(0));
        one.0.contact(other.0.listening()[0]);
        assert!(matches!(expect(other.1.recv()).await, Some(NetEvent::Met { .. })));
    }
}

#[tokio::test]
async fn whoever_speaks_something_else_is_closed() {
    let limits = NetLimits { handshake_timeout: Duration::from_millis(300), ..limits() };
    let mut ours = Node::start_as(identity(), SECRET, "127.0.0.1:0", limits).await;
    let mut stream = TcpStream::connect(ours.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shoal\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = expect(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("control"), "{answer}");
    assert!(matches!(ours.until_stranger().await, Refusal::Handshake(_)));
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_in_time() {
    let limits = NetLimits { handshake_timeout: Duration::from_millis(300), ..limits() };
    let mut ours = Node::start_as(identity(), SECRET, "127.0.0.1:0", limits).await;
    let mut stream = TcpStream::connect(ours.address()).await.unwrap();
    let mut answer = Vec::new();
    let _ = expect(stream.read_to_end(&mut answer)).await;
    assert!(matches!(ours.until_stranger().await, Refusal::Handshake(_)));
}

#[tokio::test]
async fn one_address_has_few_connections_that_prove_nothing() {
    let limits = NetLimits { unproven_per_address_max: 3, ..limits() };
    let mut ours = Node::start_as(identity(), SECRET, "127.0.0.1:0", limits).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(TcpStream::connect(ours.address()).await.unwrap());
    }
    assert_eq!(ours.until_stranger().await, Refusal::TooMany);
    // The places are free again when they have gone.
    drop(waiting);
    let mut friend = Node::start(SECRET).await;
    loop {
        friend.send(&ours, Class::Ordered, vec![1]);
        match friend.next().await {
            NetEvent::Met { .. } => break,
            NetEvent::Lost { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_data_connection_is_no_control_connection() {
    let mut ours = Node::start(SECRET).await;
    let stranger = identity();
    let stream = TcpStream::connect(ours.address()).await.unwrap();
    let client = tokio_rustls::TlsConnector::from(Arc::new(client_tls(&stranger, ours.peer)));
    let name = rustls::pki_types::ServerName::try_from("shoal").unwrap();
    assert!(expect(client.connect(name, stream)).await.is_err());
    assert!(matches!(ours.until_stranger().await, Refusal::Handshake(_)));
}
