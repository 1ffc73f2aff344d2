//! What a request asks of the nodes themselves, beside what the engine hears of them: what they have, what came to them from
//! upstream, and what an image is for.
//!
//! Invariant: nobody who is silent holds the request up for longer than a named time.

use std::collections::HashSet;
use std::iter;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use shoal_engine::Digest;
use shoal_engine::limits::WARM_BLOBS_MAX;
use shoal_engine::peer::PeerId;
use tokio::time::Instant;

use super::{Job, Platforms, Resolved};
use crate::node::{Held, Node};
use crate::swarm::Swarm;

/// Nodes up to which each is asked what it received from upstream.
pub(super) const ACCOUNTED_MAX: usize = 256;
/// Nodes that are asked at the same time.
pub(in super::super) const ASKED_AT_ONCE: usize = 32;
/// Pause between two rounds of asking them.
const ACCOUNT_EVERY: Duration = Duration::from_secs(2);
/// Longest such round: some nodes may be silent, and nobody waits for a figure.
pub(super) const ACCOUNT_MAX: Duration = Duration::from_secs(5);
/// Longest time that an image's configuration is waited for, which only says what it is for.
const PLATFORM_MAX: Duration = Duration::from_secs(10);

impl Job {
    /// An image that is in no index is warmed whatever it is for; if that is something else than was asked for, it is said.
    pub(super) async fn look_at_platform(&self, at: usize, node: &Node, resolved: &Resolved) {
        if let Some(note) = platform_note(node, resolved, &self.platforms, false).await {
            self.change(|state| state.images[at].platform_note = Some(note));
        }
    }

    /// Asks the nodes from time to time what they received from upstream.
    pub(super) async fn account(&self, node: &Node, swarm: Option<&Swarm>) {
        loop {
            tokio::time::sleep(ACCOUNT_EVERY).await;
            self.ask_upstream(node, swarm).await;
        }
    }

    pub(super) async fn ask_upstream(&self, node: &Node, swarm: Option<&Swarm>) {
        if self.state.lock().upstream.is_none() {
            return;
        }
        let digests = self.digests();
        let age = self.began.elapsed();
        let ask = |number: usize| {
            let (digests, peer) = (&digests, self.targets[number].peer);
            async move { Some((number, held(node, swarm, peer, digests, age, false).await?.upstream_bytes)) }
        };
        let mut answers = stream::iter(0..self.targets.len()).map(ask).buffer_unordered(ASKED_AT_ONCE);
        let (mut told, until) = (Vec::new(), Instant::now() + ACCOUNT_MAX);
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
            told.extend(answer);
        }
        self.change(|state| {
            let Some(upstream) = &mut state.upstream else { return };
            // Who does not answer now has still received what it said before.
            told.into_iter().for_each(|(number, bytes)| upstream[number] = bytes.max(upstream[number]));
        });
    }

    fn digests(&self) -> Vec<Digest> {
        let state = self.state.lock();
        let resolved = state.images.iter().filter_map(|image| image.resolved.as_ref());
        let all: HashSet<Digest> = resolved.flat_map(|r| r.blobs.iter().map(|(digest, _)| *digest)).collect();
        all.into_iter().collect()
    }
}

/// What is to be said of an image in no index that is for none of the platforms. With `stored`, only what is here is looked at.
pub(in super::super) async fn platform_note(
    node: &Node,
    resolved: &Resolved,
    platforms: &Platforms,
    stored: bool,
) -> Option<String> {
    let config = resolved.config.filter(|_| *platforms != Platforms::All)?;
    let asked = node.platform_to_warm(&resolved.scope, config, stored);
    let there = tokio::time::timeout(PLATFORM_MAX, asked).await.ok().flatten()?;
    platforms.miss(&there)
}

/// What a node has of some blobs, however many, and with `room` how much more its store can take; `None` if it does not answer.
pub(in super::super) async fn held(
    node: &Node,
    swarm: Option<&Swarm>,
    peer: PeerId,
    digests: &[Digest],
    age: Duration,
    room: bool,
) -> Option<Held> {
    let mut all = Held::default();
    for part in digests.chunks(WARM_BLOBS_MAX) {
        let held = match swarm.filter(|swarm| swarm.me() != peer) {
            Some(swarm) => swarm.ask_held(peer, part, age, room).await?,
            None if room => node.held_and_room(part.to_vec()).await,
            None => node.held(part.to_vec(), age).await,
        };
        // What a node could not look up is not known to be there.
        all.here.extend(held.here.into_iter().chain(iter::repeat(false)).take(part.len()));
        all.upstream_bytes += held.upstream_bytes;
        all.room = all.room.into_iter().chain(held.room).min();
    }
    Some(all)
}
