use libp2p_swarm::dummy;

use super::*;
use crate::net::links::Links;
use crate::net::{Class, NetLimits, Refusal};
use crate::{Admission, Identity, Net, NetHandle, Secret};

const PATIENCE: Duration = Duration::from_secs(120);

fn config(secret: &[u8], limits: NetLimits) -> NetConfig {
    NetConfig {
        identity: Identity::ephemeral().unwrap(),
        admission: Arc::new(Admission::new(Secret::new(secret).unwrap(), None)),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        mdns: false,
        limits,
    }
}

async fn next(events: &mut mpsc::Receiver<NetEvent>) -> NetEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("something happens").expect("not closed")
}

/// A swarm with a key and no protocol of ours, connected to `ours`; it ends when the connection does.
async fn silent_libp2p_node(ours: &NetHandle) {
    let identity = Identity::ephemeral().unwrap();
    let transport = transport::build(&identity, &NetLimits::default());
    let config = libp2p_swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    let mut swarm = Swarm::new(transport, dummy::Behaviour, address::peer_id(&identity.peer()), config);
    swarm.dial(address::multiaddr(ours.listening()[0])).unwrap();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionClosed { .. } => return,
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_libp2p_node_that_proves_nothing_is_disconnected() {
    let limits = NetLimits { handshake_timeout: Duration::from_secs(3), ..NetLimits::default() };
    let (ours, mut events) = Net::start(config(b"the secret of our cluster", limits)).await.unwrap();
    tokio::time::timeout(PATIENCE, silent_libp2p_node(&ours)).await.expect("disconnected");
    let event = next(&mut events).await;
    assert!(matches!(event, NetEvent::Stranger { why: Refusal::NoProof, .. }), "{event:?}");
}

#[tokio::test]
async fn the_proof_of_another_peer_is_refused() {
    let limits = NetLimits::default;
    let (ours, mut events) = Net::start(config(b"the secret of our cluster", limits())).await.unwrap();
    // A member's proof, overheard by somebody who does not know the secret.
    let member = Identity::ephemeral().unwrap();
    let overheard =
        Admission::new(Secret::new(b"the secret of our cluster").unwrap(), None).proof_bytes(&member.peer());
    let post = Arc::new(Post::new(&limits()));
    let (_commands, command_receiver) = mpsc::channel(1);
    let (event_sender, _events) = mpsc::channel(8);
    let thief = config(b"a secret that is nowhere known", limits());
    let mut thief = Task::new(thief, Arc::clone(&post), command_receiver, event_sender).unwrap();
    let links: &mut Links = &mut thief.swarm.behaviour_mut().links;
    links.proof = overheard;
    links.contact(ours.listening()[0]);
    let thief = tokio::spawn(thief.run());
    let event = next(&mut events).await;
    assert!(matches!(event, NetEvent::Stranger { why: Refusal::WrongProof, .. }), "{event:?}");
    thief.abort();
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection_and_costs_no_memory() {
    let limits = NetLimits::default;
    let (ours, mut events) = Net::start(config(b"the secret of our cluster", limits())).await.unwrap();
    let post = Arc::new(Post::new(&limits()));
    let (_commands, command_receiver) = mpsc::channel(1);
    let (event_sender, _their_events) = mpsc::channel(64);
    let theirs = config(b"the secret of our cluster", limits());
    let task = Task::new(theirs, Arc::clone(&post), command_receiver, event_sender).unwrap();
    let theirs = tokio::spawn(task.run());
    let too_long = vec![0; crate::FRAME_BYTES_MAX + 1];
    // By the post itself: the handle would not take it.
    let peer = ours.own;
    post.put(peer, ours.listening(), Class::Ordered, too_long).unwrap();
    assert!(matches!(next(&mut events).await, NetEvent::Met { .. }));
    let event = next(&mut events).await;
    assert!(matches!(&event, NetEvent::Lost { why: crate::Loss::Malformed(_), .. }), "{event:?}");
    theirs.abort();
}

#[tokio::test]
async fn a_frame_of_no_or_too_many_bytes_is_not_taken() {
    let (ours, _events) =
        Net::start(config(b"the secret of our cluster", NetLimits::default())).await.unwrap();
    let send = |bytes: usize| ours.send([1; 32], &[], Class::Lossy, vec![0; bytes]);
    assert_eq!(send(0), Err(crate::SendError::Size(0)));
    assert_eq!(send((1 << 20) + 1), Err(crate::SendError::Size((1 << 20) + 1)));
    assert_eq!(ours.send(ours.own, &[], Class::Lossy, vec![0]), Err(crate::SendError::Ourselves));
}
