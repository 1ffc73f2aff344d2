//! The queues of frames that wait for peers, shared by whoever sends, by the connections that take, and by
//! [`Links`](super::links) that connects.
//!
//! Invariants: what waits is bounded for each peer and in all; a queue whose ordered frames did not fit is gone as a whole
//! and stays so until its connection is; taking and putting hold one lock for a few instructions, and nobody waits in it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use libp2p_swarm::ConnectionId;
use parking_lot::Mutex;

use super::{Class, NetLimits, SendError};
use crate::Key;

/// Peers that frames can wait for: more than a cluster has members.
const PEERS_MAX: usize = 16_384;

/// Addresses that are remembered of a peer. A node with more has some that nobody else can use.
const ADDRESSES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Post(Mutex<State>);

#[derive(Debug)]
struct State {
    queues: HashMap<Key, Queue>,
    /// Bytes in all queues.
    bytes: usize,
    /// Peers that [`Links`](super::links) must do something about, each once.
    wishes: VecDeque<Key>,
    wisher: Option<Waker>,
    closed: bool,
    frames_max: usize,
    bytes_max: usize,
    bytes_in_all_max: usize,
}

#[derive(Debug)]
struct Queue {
    lossy: VecDeque<Vec<u8>>,
    ordered: VecDeque<Vec<u8>>,
    bytes: usize,
    addresses: Vec<SocketAddr>,
    /// The one connection that takes from it.
    link: Option<ConnectionId>,
    wished: bool,
    overflowed: bool,
    taker: Option<Waker>,
    used: Instant,
}

/// What is to be done about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Something waits and nobody takes it.
    Connect(Key),
    /// Too much waited.
    Overflow(Key),
}

impl Queue {
    fn new() -> Self {
        Self {
            lossy: VecDeque::new(),
            ordered: VecDeque::new(),
            bytes: 0,
            addresses: Vec::new(),
            link: None,
            wished: false,
            overflowed: false,
            taker: None,
            used: Instant::now(),
        }
    }

    fn is_empty(&self) -> bool {
        self.lossy.is_empty() && self.ordered.is_empty()
    }

    fn of(&mut self, class: Class) -> &mut VecDeque<Vec<u8>> {
        match class {
            Class::Lossy => &mut self.lossy,
            Class::Ordered => &mut self.ordered,
        }
    }
}

impl State {
    /// Makes room in the peer's queue by dropping its oldest lossy frames. Whether there is room now.
    fn make_room(&mut self, peer: &Key, class: Class, more: usize) -> bool {
        let queue = self.queues.get_mut(peer).expect("of a queue that is there");
        if class == Class::Ordered && queue.ordered.len() >= self.frames_max {
            return false;
        }
        while queue.bytes + more > self.bytes_max
            || self.bytes + more > self.bytes_in_all_max
            || (class == Class::Lossy && queue.lossy.len() >= self.frames_max)
        {
            let Some(dropped) = queue.lossy.pop_front() else { return false };
            queue.bytes -= dropped.len();
            self.bytes -= dropped.len();
        }
        true
    }

    fn clear(&mut self, peer: &Key) {
        if let Some(queue) = self.queues.get_mut(peer) {
            queue.lossy = VecDeque::new();
            queue.ordered = VecDeque::new();
            self.bytes -= std::mem::take(&mut queue.bytes);
        }
    }

    fn wish(&mut self, peer: Key) {
        let queue = self.queues.get_mut(&peer).expect("of a queue that is there");
        if !queue.wished {
            queue.wished = true;
            self.wishes.push_back(peer);
            if let Some(waker) = self.wisher.take() {
                waker.wake();
            }
        }
    }
}

impl Post {
    pub fn new(limits: &NetLimits) -> Self {
        Self(Mutex::new(State {
            queues: HashMap::new(),
            bytes: 0,
            wishes: VecDeque::new(),
            wisher: None,
            closed: false,
            frames_max: limits.queue_frames_max,
            bytes_max: limits.queue_bytes_max,
            bytes_in_all_max: limits.queues_bytes_max,
        }))
    }

    pub fn put(
        &self,
        peer: Key,
        addresses: &[SocketAddr],
        class: Class,
        frame: Vec<u8>,
    ) -> Result<(), SendError> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(SendError::Closed);
        }
        if !state.queues.contains_key(&peer) {
            if state.queues.len() >= PEERS_MAX || state.bytes + frame.len() > state.bytes_in_all_max {
                return Err(SendError::Full);
            }
            state.queues.insert(peer, Queue::new());
        }
        let room = state.make_room(&peer, class, frame.len());
        let queue = state.queues.get_mut(&peer).expect("it was made above");
        queue.used = Instant::now();
        if !addresses.is_empty() && !queue.addresses.starts_with(addresses) {
            queue.addresses = addresses.iter().copied().take(ADDRESSES_MAX).collect();
        }
        if !room || queue.overflowed {
            if class == Class::Ordered && !queue.overflowed {
                queue.overflowed = true;
                state.clear(&peer);
                state.wish(peer);
            }
            return Ok(());
        }
        let bytes = frame.len();
        queue.of(class).push_back(frame);
        queue.bytes += bytes;
        let (linked, taker) = (queue.link.is_some(), queue.taker.take());
        state.bytes += bytes;
        match taker {
            Some(waker) => waker.wake(),
            None if !linked => state.wish(peer),
            None => {}
        }
        Ok(())
    }

    /// What is to be done next. Asked by [`Links`](super::links) only.
    pub fn poll_wish(&self, cx: &mut Context<'_>) -> Poll<Wish> {
        let mut state = self.0.lock();
        while let Some(peer) = state.wishes.pop_front() {
            let Some(queue) = state.queues.get_mut(&peer) else { continue };
            queue.wished = false;
            // Stays so until the queue is removed: nothing may follow the gap.
            if queue.overflowed {
                return Poll::Ready(Wish::Overflow(peer));
            }
            if queue.link.is_none() && !queue.is_empty() {
                return Poll::Ready(Wish::Connect(peer));
            }
        }
        state.wisher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Connection `link` takes from now on what is for `peer`, and no other one does.
    pub fn link(&self, peer: Key, link: ConnectionId) {
        let mut state = self.0.lock();
        let queue = state.queues.entry(peer).or_insert_with(Queue::new);
        queue.link = Some(link);
        queue.taker = None;
        queue.used = Instant::now();
    }

    /// No connection takes any more. If something waits, the wish to connect comes again.
    pub fn unlink(&self, peer: &Key) {
        let mut state = self.0.lock();
        let Some(queue) = state.queues.get_mut(peer) else { return };
        queue.link = None;
        queue.taker = None;
        if queue.is_empty() {
            state.queues.remove(peer);
        } else {
            state.wish(*peer);
        }
    }

    /// Drops what waits for `peer`, and all that is known of it.
    pub fn remove(&self, peer: &Key) {
        let mut state = self.0.lock();
        state.clear(peer);
        state.queues.remove(peer);
    }

    /// The next frame for `peer` that `link` is to send; if there is none, the task is woken when there is.
    pub fn poll_take(&self, peer: &Key, link: ConnectionId, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        let mut state = self.0.lock();
        let Some(queue) = state.queues.get_mut(peer).filter(|queue| queue.link == Some(link)) else {
            return Poll::Pending;
        };
        match queue.lossy.pop_front().or_else(|| queue.ordered.pop_front()) {
            Some(frame) => {
                queue.bytes -= frame.len();
                state.bytes -= frame.len();
                Poll::Ready(frame)
            }
            None => {
                // Nothing waits, so nothing is kept: an idle peer costs no more than its name.
                queue.lossy = VecDeque::new();
                queue.ordered = VecDeque::new();
                queue.taker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing waits for `peer`.
    pub fn is_empty(&self, peer: &Key) -> bool {
        self.0.lock().queues.get(peer).is_none_or(Queue::is_empty)
    }

    pub fn addresses(&self, peer: &Key) -> Vec<SocketAddr> {
        self.0.lock().queues.get(peer).map(|queue| queue.addresses.clone()).unwrap_or_default()
    }

    /// When something was last sent to or got from `peer`.
    pub fn used(&self, peer: &Key) -> Option<Instant> {
        self.0.lock().queues.get(peer).map(|queue| queue.used)
    }

    /// Something came from `peer`.
    pub fn touch(&self, peer: &Key) {
        if let Some(queue) = self.0.lock().queues.get_mut(peer) {
            queue.used = Instant::now();
        }
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::task::noop_waker;
    use proptest::prelude::*;

    use super::*;

    fn link() -> ConnectionId {
        ConnectionId::new_unchecked(1)
    }

    fn post() -> Post {
        Post::new(&NetLimits {
            queue_frames_max: 4,
            queue_bytes_max: 100,
            queues_bytes_max: 150,
            ..NetLimits::default()
        })
    }

    fn take(post: &Post, peer: Key) -> Option<Vec<u8>> {
        match post.poll_take(&peer, link(), &mut Context::from_waker(&noop_waker())) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        }
    }

    fn wish(post: &Post) -> Option<Wish> {
        match post.poll_wish(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(wish) => Some(wish),
            Poll::Pending => None,
        }
    }

    fn put(post: &Post, peer: Key, class: Class, frame: &[u8]) {
        post.put(peer, &[], class, frame.to_vec()).expect("taken");
    }

    #[test]
    fn lossy_frames_overtake_and_the_oldest_are_dropped() {
        let post = post();
        put(&post, [1; 32], Class::Ordered, &[0]);
        for number in 1..=6 {
            put(&post, [1; 32], Class::Lossy, &[number]);
        }
        assert_eq!(wish(&post), Some(Wish::Connect([1; 32])));
        assert_eq!(wish(&post), None, "once");
        assert_eq!(take(&post, [1; 32]), None, "not before there is a connection");
        post.link([1; 32], link());
        let taken: Vec<_> = std::iter::from_fn(|| take(&post, [1; 32])).flatten().collect();
        assert_eq!(taken, [3, 4, 5, 6, 0]);
    }

    #[test]
    fn ordered_frames_that_do_not_fit_end_the_queue() {
        let post = post();
        post.link([1; 32], link());
        for _ in 0..5 {
            put(&post, [1; 32], Class::Ordered, &[0]);
        }
        put(&post, [1; 32], Class::Ordered, &[1]);
        assert!(post.is_empty(&[1; 32]), "nothing follows a gap");
        assert_eq!(wish(&post), Some(Wish::Overflow([1; 32])));
        assert_eq!(wish(&post), None);
        put(&post, [1; 32], Class::Ordered, &[2]);
        assert_eq!(take(&post, [1; 32]), None, "the connection is about to end");
        post.remove(&[1; 32]);
        put(&post, [1; 32], Class::Ordered, &[3]);
        assert_eq!(take(&post, [1; 32]), None, "it is for the next one");
        let next = ConnectionId::new_unchecked(2);
        post.link([1; 32], next);
        assert_eq!(take(&post, [1; 32]), None);
        let frame = post.poll_take(&[1; 32], next, &mut Context::from_waker(&noop_waker()));
        assert_eq!(frame, Poll::Ready(vec![3]));
    }

    #[test]
    fn what_waits_when_a_connection_ends_wishes_for_another() {
        let post = post();
        post.link([1; 32], link());
        put(&post, [1; 32], Class::Ordered, &[0]);
        assert_eq!(wish(&post), None);
        post.unlink(&[1; 32]);
        assert_eq!(wish(&post), Some(Wish::Connect([1; 32])));
        post.remove(&[1; 32]);
        assert!(post.is_empty(&[1; 32]));
        assert_eq!(post.0.lock().queues.len(), 0);
    }

    proptest! {
        #[test]
        fn what_waits_is_bounded(steps in prop::collection::vec((0u8..3, 0u8..5, 1usize..60), 1..300)) {
            let post = post();
            for (peer, step, bytes) in steps {
                let peer = [peer; 32];
                match step {
                    0 => { let _ = post.put(peer, &[], Class::Lossy, vec![0; bytes]); }
                    1 => { let _ = post.put(peer, &[], Class::Ordered, vec![0; bytes]); }
                    2 => { post.link(peer, link()); take(&post, peer); }
                    3 => post.unlink(&peer),
                    _ => { wish(&post); }
                }
                let state = post.0.lock();
                prop_assert_eq!(state.bytes, state.queues.values().map(|queue| queue.bytes).sum::<usize>());
                prop_assert!(state.bytes <= 150);
                for queue in state.queues.values() {
                    let frames = queue.lossy.iter().chain(&queue.ordered);
                    prop_assert_eq!(queue.bytes, frames.map(Vec::len).sum::<usize>());
                    prop_assert!(queue.bytes <= 100 && queue.lossy.len() <= 4 && queue.ordered.len() <= 4);
                }
            }
        }
    }
}
