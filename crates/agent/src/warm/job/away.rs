//! Nodes that are away: members that were given up because they do not answer, have left, or shut down.
//!
//! Question: a node's agent restarts, or stands still for some seconds, while it is warmed; has it failed? Answer: not yet. When all
//! others are decided, those that are members again are asked in rounds, image by image, until the deadline or for the grace of the
//! request; and before a verdict each is asked itself what it has. Rounds, because a node that never comes back must not keep the
//! place of an image that others wait for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use shoal_engine::Digest;
use shoal_engine::swarm::warm::blobs::Standing;
use shoal_engine::wire::WarmFault;
use tokio::time::Instant;

use super::ask::{ACCOUNT_MAX, ASKED_AT_ONCE, held};
use super::{ImageState, Job, Resolved};
use crate::node::Node;
use crate::swarm::Swarm;

/// Pause between two rounds.
const ROUND_EVERY: Duration = Duration::from_secs(3);

impl Job {
    /// Until nobody is away any more, or as long as it is worth while.
    pub(super) async fn wait_for_those_away(&self, node: &Node, swarm: Option<&Swarm>) {
        let until = self.deadline.min(Instant::now() + self.grace);
        while let Some(swarm) = swarm
            && !self.images_awaited().is_empty()
            && Instant::now() < until
        {
            tokio::time::sleep_until(until.min(Instant::now() + ROUND_EVERY)).await;
            stream::iter(self.images_awaited())
                .for_each_concurrent(self.images_at_once(), |at| self.ask_again(at, node, swarm))
                .await;
        }
        for at in 0..self.images.len() {
            self.ask_themselves(at, node, swarm).await;
        }
        self.change(|state| {
            for image in state.images.iter_mut().filter(|image| image.state != ImageState::Failed) {
                image.give_up(WarmFault::Silent);
                image.state = ImageState::Done;
            }
        });
    }

    /// Images for which somebody is away.
    fn images_awaited(&self) -> Vec<usize> {
        let state = self.state.lock();
        (0..state.images.len()).filter(|at| !state.images[*at].away.is_empty()).collect()
    }

    fn resolved(&self, at: usize) -> Option<Arc<Resolved>> {
        self.state.lock().images[at].resolved.clone()
    }

    /// Begins an image again for those who were away and are members.
    async fn ask_again(&self, at: usize, node: &Node, swarm: &Swarm) {
        let Some(resolved) = self.resolved(at) else { return };
        let roster = swarm.roster();
        let back: Vec<usize> = {
            let state = self.state.lock();
            let away = state.images[at].away.keys().copied();
            away.filter(|number| roster.contains(&self.targets[*number].peer)).collect()
        };
        if !back.is_empty() {
            let asked = self.in_swarm(at, node, &resolved, back);
            let why = tokio::time::timeout_at(self.latest(), asked).await.unwrap_or(WarmFault::Deadline);
            self.change(|state| state.images[at].settle(why));
        }
    }

    /// Before it is said of somebody that it is not ready, it is asked itself: it may have everything, and its word may be
    /// lost. Whether it keeps what is to be kept is not known then, so who has not said so has failed.
    async fn ask_themselves(&self, at: usize, node: &Node, swarm: Option<&Swarm>) {
        let Some(resolved) = self.resolved(at).filter(|_| self.keep_until == 0) else { return };
        let numbers: Vec<usize> = {
            let image = &self.state.lock().images[at];
            let is_open = |number: &usize| {
                image.away.contains_key(number)
                    || image.standings[*number] == Standing::Failed(WarmFault::Deadline)
            };
            (0..self.targets.len()).filter(is_open).collect()
        };
        let digests: Vec<Digest> = resolved.blobs.iter().map(|(digest, _)| *digest).collect();
        let ask = |number: usize| {
            let (digests, peer) = (&digests, self.targets[number].peer);
            async move { (number, held(node, swarm, peer, digests, Duration::ZERO, false).await) }
        };
        let mut answers = stream::iter(numbers).map(ask).buffer_unordered(ASKED_AT_ONCE);
        let until = Instant::now() + ACCOUNT_MAX;
        while let Ok(Some((number, held))) = tokio::time::timeout_at(until, answers.next()).await {
            if held.is_some_and(|held| held.here.iter().all(|here| *here)) {
                self.change(|state| state.images[at].hear(number, Standing::Ready));
            }
        }
    }
}
