//! The other end of the events: what has been shown so far.
//!
//! Invariant: after a [`Snapshot`] and every [`Change`] since, it is what the agent showed last.

use std::collections::BTreeMap;

use serde::Serialize;

use super::change::{Change, MemberShown, Snapshot};
use super::traffic::{Moment, Traffic};
use super::view::{BlobView, NodeView, RolloutView};
use crate::driver::FlightStatus;

/// Moments that are kept: ten minutes at one a second.
const MOMENTS_MAX: usize = 600;

/// One event.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything.
    Snapshot(Box<Snapshot>),
    /// What has changed.
    Change(Box<Change>),
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Followed {
    /// When it was so, Unix milliseconds.
    pub at_ms: u64,
    /// The node that is asked.
    pub node: NodeView,
    /// Bytes since it started.
    pub traffic: Traffic,
    /// The same over the last minutes, oldest first.
    #[serde(skip)]
    pub history: Vec<Moment>,
    /// The members by their numbers.
    #[serde(serialize_with = "listed")]
    pub members: BTreeMap<u32, MemberShown>,
    /// Blobs on their way over the members.
    pub blobs: Vec<BlobView>,
    /// Blobs that the node receives.
    pub flights: Vec<FlightStatus>,
    /// Requests to warm that it follows.
    pub rollouts: Vec<RolloutView>,
}

fn listed<S: serde::Serializer>(members: &BTreeMap<u32, MemberShown>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(members.values())
}

impl Followed {
    /// Takes an event in.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Snapshot(snapshot) => self.begin(*snapshot),
            Event::Change(change) => self.go_on(*change),
        }
        let now = Moment { at_ms: self.at_ms, traffic: self.traffic };
        if self.history.last().is_none_or(|last| last.at_ms < now.at_ms) {
            self.history.push(now);
        }
        let surplus = self.history.len().saturating_sub(MOMENTS_MAX);
        self.history.drain(..surplus);
    }

    fn begin(&mut self, snapshot: Snapshot) {
        let Snapshot { at_ms, node, traffic, history, members, blobs, flights, rollouts } = snapshot;
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        *self = Followed { at_ms, node, traffic, history, members, blobs, flights, rollouts };
    }

    fn go_on(&mut self, change: Change) {
        let Change { at_ms, node, traffic, joined, left, standings, blobs, flights, rollouts } = change;
        self.at_ms = at_ms;
        renew(&mut self.node, node);
        renew(&mut self.traffic, traffic);
        renew(&mut self.blobs, blobs);
        renew(&mut self.flights, flights);
        renew(&mut self.rollouts, rollouts);
        for id in left {
            self.members.remove(&id);
        }
        self.members.extend(joined.into_iter().map(|member| (member.id, member)));
        for (id, standing) in standings {
            if let Some(member) = self.members.get_mut(&id) {
                member.standing = standing;
            }
        }
    }

    /// Bytes a second of something, over about the last `over_ms` milliseconds.
    pub fn rate(&self, of: impl Fn(&Traffic) -> u64, over_ms: u64) -> u64 {
        let Some(last) = self.history.last() else { return 0 };
        let since = last.at_ms.saturating_sub(over_ms);
        let Some(first) = self.history.iter().rev().take_while(|moment| moment.at_ms >= since).last() else {
            return 0;
        };
        let first =
            if first.at_ms == last.at_ms { self.history.iter().rev().nth(1).unwrap_or(first) } else { first };
        per_second(of(&last.traffic).saturating_sub(of(&first.traffic)), last.at_ms - first.at_ms)
    }

    /// A counter at a moment: on the straight line between the two moments that are known.
    fn at(&self, of: &impl Fn(&Traffic) -> u64, at_ms: u64) -> u64 {
        let after = self.history.partition_point(|moment| moment.at_ms <= at_ms);
        let before = after.checked_sub(1).and_then(|before| self.history.get(before));
        match (before, self.history.get(after)) {
            (Some(a), Some(b)) => {
                let part = (at_ms - a.at_ms) as f64 / (b.at_ms - a.at_ms).max(1) as f64;
                let (from, to) = (of(&a.traffic), of(&b.traffic));
                from + (to.saturating_sub(from) as f64 * part) as u64
            }
            (Some(only), None) | (None, Some(only)) => of(&only.traffic),
            (None, None) => 0,
        }
    }

    /// Bytes a second of something in each of the last `count` spans of `every_ms`, oldest first.
    pub fn rates(&self, of: impl Fn(&Traffic) -> u64, every_ms: u64, count: usize) -> Vec<u64> {
        let spans = (0..count as u64).rev();
        let span = |ago: u64| {
            let end = self.at_ms.saturating_sub(ago * every_ms);
            per_second(self.at(&of, end).saturating_sub(self.at(&of, end.saturating_sub(every_ms))), every_ms)
        };
        spans.map(span).collect()
    }
}

fn per_second(bytes: u64, ms: u64) -> u64 {
    bytes.saturating_mul(1000).checked_div(ms).unwrap_or(0)
}

fn renew<T>(place: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *place = new;
    }
}
