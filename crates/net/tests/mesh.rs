//! Many nodes in one process: meeting, order, loss, return.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_net::{Class, Loss, NetEvent, NetLimits};
use support::{Node, SECRET, expect, identity};

#[tokio::test]
async fn a_frame_makes_a_connection_and_comes_once() {
    let (mut one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    one.send(&other, Class::Ordered, b"hello".to_vec());
    assert!(matches!(other.next().await, NetEvent::Met { peer, dialed: false, .. } if peer == one.peer));
    assert!(matches!(one.next().await, NetEvent::Met { peer, dialed: true, address }
        if peer == other.peer && address == other.address()));
    let (from, bytes) = other.frame().await;
    assert_eq!((from, &bytes[..]), (one.peer, &b"hello"[..]));
    // The answer takes the same connection: no address is needed.
    other.handle.send(one.peer, &[], Class::Lossy, b"hi".to_vec()).unwrap();
    assert_eq!(one.frame().await, (other.peer, b"hi".to_vec()));
}

#[tokio::test]
async fn whoever_is_contacted_is_met_and_we_are_not_met_by_ourselves() {
    let (mut one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    one.handle.contact(one.address());
    one.handle.contact(other.address());
    one.handle.contact(other.address());
    let event = one.next().await;
    assert!(matches!(event, NetEvent::Met { peer, .. } if peer == other.peer), "{event:?}");
    assert!(matches!(other.next().await, NetEvent::Met { peer, .. } if peer == one.peer));
    one.send(&other, Class::Ordered, b"only one connection".to_vec());
    assert_eq!(other.frame().await.0, one.peer);
}

#[tokio::test]
async fn nobody_at_an_address_is_told() {
    let mut one = Node::start(SECRET).await;
    let gone = Node::start(SECRET).await;
    let (address, peer) = (gone.address(), gone.peer);
    gone.stop().await;
    one.handle.contact(address);
    let event = expect(one.next()).await;
    assert!(matches!(&event, NetEvent::Missed { address: at, .. } if *at == address), "{event:?}");
    one.handle.send(peer, &[address], Class::Ordered, vec![1]).unwrap();
    let event = expect(one.next()).await;
    assert!(
        matches!(&event, NetEvent::Lost { peer: lost, why: Loss::Unreachable(_) } if *lost == peer),
        "{event:?}"
    );
}

#[tokio::test]
async fn frames_of_all_sizes_come_in_order() {
    let (one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    let sizes: Vec<usize> = (0..200).map(|n| 1 + (n * 7919) % 40_000).chain([1 << 20, 1, 1 << 20]).collect();
    let sender = one.handle.clone();
    let (peer, address) = (other.peer, other.address());
    let frames: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(n, size)| vec![u8::try_from(n % 251).unwrap(); *size]).collect();
    for (number, frame) in frames.iter().enumerate() {
        sender.send(peer, &[address], Class::Ordered, frame.clone()).unwrap();
        if number % 40 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // 7 MiB may not wait for one peer, so what is expected is either everything or a loss; the limits of the test nodes
    // are wide enough for everything.
    for frame in &frames {
        let (_, bytes) = other.frame().await;
        assert!(bytes == *frame);
    }
}

#[tokio::test]
async fn both_dial_at_once_and_keep_one_connection() {
    for _ in 0..20 {
        let (mut one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
        one.send(&other, Class::Ordered, vec![1]);
        other.send(&one, Class::Ordered, vec![2]);
        assert_eq!(one.frame().await, (other.peer, vec![2]));
        assert_eq!(other.frame().await, (one.peer, vec![1]));
        for number in 3..50 {
            one.send(&other, Class::Ordered, vec![number]);
            other.send(&one, Class::Ordered, vec![number]);
        }
        for number in 3..50 {
            assert_eq!(one.frame().await.1, vec![number]);
            assert_eq!(other.frame().await.1, vec![number]);
        }
        assert_eq!((one.losses, other.losses), (0, 0));
        assert_eq!((one.meetings, other.meetings), (1, 1));
    }
}

#[tokio::test]
async fn a_peer_that_dies_is_lost_once_and_met_again_at_its_port() {
    let mut one = Node::start(SECRET).await;
    let (name, address);
    {
        let identity = identity();
        let mut other = Node::start_as(identity.clone(), SECRET, "127.0.0.1:0", limits()).await;
        address = other.address();
        one.send(&other, Class::Ordered, vec![1]);
        assert_eq!(other.frame().await.1, vec![1]);
        name = identity;
        other.kill().await;
    }
    assert!(matches!(one.until_lost().await, (peer, Loss::Broken(_)) if peer == name.peer()));
    let mut other = Node::start_as(name, SECRET, &address.to_string(), limits()).await;
    one.send(&other, Class::Ordered, vec![2]);
    assert_eq!(other.frame().await, (one.peer, vec![2]));
    other.send(&one, Class::Ordered, vec![3]);
    assert_eq!(one.frame().await.1, vec![3]);
    assert_eq!(one.losses, 1);
}

#[tokio::test]
async fn closing_sends_what_waits_and_nobody_is_lost() {
    let (mut one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    one.send(&other, Class::Ordered, vec![0]);
    assert_eq!(other.frame().await.1, vec![0]);
    for number in 1..=100 {
        one.send(&other, Class::Ordered, vec![number]);
    }
    let (closed, ()) = tokio::join!(expect(one.handle.close(Duration::from_secs(10))), async {
        for number in 1..=100 {
            assert_eq!(other.frame().await.1, vec![number]);
        }
    });
    let () = closed;
    assert_eq!(other.losses, 0);
    assert!(one.handle.send(other.peer, &[], Class::Lossy, vec![1]).is_err());
    while one.events.recv().await.is_some() {}
}

#[tokio::test]
async fn with_too_many_connections_the_idle_ones_go_and_come_back_without_loss() {
    let limits = NetLimits { connections_max: 4, ..limits() };
    let mut hub = Node::start_as(identity(), SECRET, "127.0.0.1:0", limits).await;
    let mut others = Vec::new();
    for _ in 0..12 {
        others.push(Node::start(SECRET).await);
    }
    for round in 0..3 {
        for other in &mut others {
            hub.send(other, Class::Ordered, vec![round]);
            assert_eq!(other.frame().await, (hub.peer, vec![round]));
            other.send(&hub, Class::Ordered, vec![round]);
            assert_eq!(hub.frame().await, (other.peer, vec![round]));
        }
    }
    assert_eq!(hub.losses, 0);
    assert!(hub.meetings > 12, "{} meetings", hub.meetings);
    assert!(others.iter().all(|other| other.losses == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_in_full_mesh() {
    mesh(50).await;
}

async fn mesh(count: usize) {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Node::start(SECRET).await);
    }
    let directory: BTreeMap<_, _> = nodes.iter().map(|node| (node.peer, node.address())).collect();
    let tasks: Vec<_> = nodes
        .into_iter()
        .map(|mut node| {
            let directory = directory.clone();
            tokio::spawn(async move {
                for (peer, address) in directory.iter().filter(|(peer, _)| **peer != node.peer) {
                    node.handle.send(*peer, &[*address], Class::Ordered, node.peer.to_vec()).unwrap();
                }
                let mut heard = BTreeSet::new();
                while heard.len() < directory.len() - 1 {
                    let (from, bytes) = node.frame().await;
                    assert_eq!(bytes, from, "frames are of whom they say");
                    assert!(heard.insert(from), "once");
                }
                assert_eq!(node.losses, 0);
                assert_eq!(node.meetings, directory.len() - 1);
                node
            })
        })
        .collect();
    // Nobody leaves before all have heard from all.
    let mut nodes = Vec::new();
    for task in tasks {
        nodes.push(task.await.expect("a node of the mesh"));
    }
}

fn limits() -> NetLimits {
    support::limits()
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_lost_and_not_our_memory() {
    let limits = NetLimits { queue_bytes_max: 1 << 20, ..limits() };
    let mut one = Node::start_as(identity(), SECRET, "127.0.0.1:0", limits).await;
    let mut other = Node::start(SECRET).await;
    one.send(&other, Class::Ordered, vec![0]);
    assert_eq!(other.frame().await.1, vec![0]);
    // It takes no more events, so nothing more is read from its connections.
    let lost = loop {
        one.send(&other, Class::Ordered, vec![7; 64 << 10]);
        tokio::task::yield_now().await;
        if let Ok(NetEvent::Lost { peer, why }) = one.events.try_recv() {
            break (peer, why);
        }
    };
    assert_eq!(lost, (other.peer, Loss::Overflow));
}

#[tokio::test]
async fn lossy_frames_to_a_slow_reader_are_dropped_and_the_last_ones_come() {
    let (one, mut other) = (Node::start(SECRET).await, Node::start(SECRET).await);
    one.send(&other, Class::Ordered, vec![0]);
    assert_eq!(other.frame().await.1, vec![0]);
    let last = 200_000u32;
    for number in 1..=last {
        one.send(&other, Class::Lossy, [&number.to_le_bytes()[..], &[0; 1200]].concat());
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (mut before, mut frames) = (0, 0u32);
    while before != last {
        let (_, bytes) = other.frame().await;
        let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert!(number > before, "in order");
        before = number;
        frames += 1;
    }
    assert!(frames < last, "some were dropped");
    assert_eq!(other.losses, 0);
}
