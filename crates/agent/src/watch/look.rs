//! Looks at a real agent: its driver, its store, its members, its requests to warm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use shoal_store::Store;
use tokio::sync::Mutex;

use super::books::Books;
use super::view::{FLIGHTS_MAX, MemberView, NodeView, ROLLOUTS_MAX, RolloutView, View};
use super::{Look, Traffic};
use crate::driver::{self, FlightStatus, brief_name};
use crate::metrics::{Counters, Metrics};
use crate::swarm::Swarm;
use crate::upstream::{SourceState, Upstream};
use crate::warm::{NodeName, Phase, WarmStatus, Warmer};

/// What is looked at.
pub struct Parts {
    /// The blobs.
    pub store: Store,
    /// Knows the flights under way, and the books.
    pub driver: driver::Handle,
    /// Knows which sources are well.
    pub upstream: Upstream,
    /// The other members, if there are any.
    pub swarm: Option<Swarm>,
    /// Knows the requests to warm.
    pub warmer: Warmer,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// When the agent started.
    pub started: Instant,
}

/// Looks at a real agent.
pub struct AgentLook {
    parts: Parts,
    mirrors: BTreeSet<String>,
    started_at: u64,
    books: Mutex<Books>,
}

impl AgentLook {
    /// Nothing is followed yet.
    pub fn new(parts: Parts) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_at = now.saturating_sub(parts.started.elapsed()).as_secs();
        AgentLook { mirrors: parts.upstream.mirror_names(), started_at, books: Mutex::default(), parts }
    }

    async fn node(&self, counters: &Counters<'_>, flights: usize) -> NodeView {
        let store = self.parts.store.clone();
        // A store that cannot say how big it is shows as an empty one; that it is sick is said by `degraded`.
        let usage = tokio::task::spawn_blocking(move || store.usage()).await;
        let usage = usage.ok().and_then(Result::ok).unwrap_or_default();
        let sources = self.parts.upstream.sources().into_iter();
        let trouble = self.parts.driver.store_health().trouble();
        NodeView {
            name: self.parts.swarm.as_ref().map(|swarm| brief_name(&swarm.me())).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            degraded: trouble.is_some(),
            store_trouble: trouble.map(|trouble| trouble.reason),
            blobs: usage.blobs,
            bytes: usage.file_bytes + usage.inline_bytes,
            flights,
            waiting: counters.sum("tickets"),
            unwell: sources
                .filter(|source| source.state != SourceState::Well)
                .map(|source| source.name)
                .collect(),
        }
    }

    fn members(&self, books: &Books, warming: &[Arc<WarmStatus>]) -> BTreeMap<String, MemberView> {
        let Some(swarm) = &self.parts.swarm else { return BTreeMap::new() };
        let me = swarm.me();
        let view = |member: &Arc<shoal_engine::peer::Member>| MemberView {
            address: member.addresses.first().map(|address| address.ip().to_string()).unwrap_or_default(),
            zone: member.zone.to_string(),
            version: member.version.to_string(),
            is_self: member.peer == me,
            ..MemberView::default()
        };
        let roster = swarm.roster();
        let mut members: BTreeMap<String, MemberView> =
            roster.iter().map(|member| (brief_name(&member.peer), view(member))).collect();
        let mut each = |names: &[String], mark: fn(&mut MemberView)| {
            for name in names {
                if let Some(member) = members.get_mut(name) {
                    mark(member);
                }
            }
        };
        for book in books.iter() {
            each(&book.holders, |member| member.have += 1);
            each(&book.receivers, |member| member.receiving += 1);
            each(&book.slow, |member| member.is_slow = true);
        }
        mark_warming(&mut members, warming);
        members
    }
}

#[async_trait]
impl Look for AgentLook {
    async fn look(&self) -> View {
        let mut flights = self.parts.driver.status().await;
        flights.sort_by_key(|flight| (std::cmp::Reverse(flight.size), flight.digest));
        let mut books = self.books.lock().await;
        if let Some(swarm) = &self.parts.swarm {
            books.look(&flights, swarm, &self.parts.driver).await;
        }
        let exposition = self.parts.metrics.encode();
        let counters = Counters::new(&exposition);
        let warming = rollouts(self.parts.warmer.list());
        View {
            node: self.node(&counters, flights.len()).await,
            traffic: Traffic::of(&counters, &self.mirrors),
            members: self.members(&books, &warming),
            blobs: books.shown(),
            flights: flights.into_iter().take(FLIGHTS_MAX).collect::<Vec<FlightStatus>>(),
            rollouts: warming.iter().map(|status| RolloutView::from(&**status)).collect(),
        }
    }

    fn traffic(&self) -> Traffic {
        Traffic::of(&Counters::new(&self.parts.metrics.encode()), &self.mirrors)
    }
}

/// What requests that are under way say of nodes; what has ended says nothing of how they are by now. Who is away may be no
/// member, and is shown as long as somebody waits for it.
fn mark_warming(members: &mut BTreeMap<String, MemberView>, warming: &[Arc<WarmStatus>]) {
    let brief = |node: &NodeName| node.peer.get(..driver::BRIEF_DIGITS).map(str::to_owned);
    for status in warming.iter().filter(|status| status.phase == Phase::Warming) {
        for name in status.unready.iter().filter_map(|unready| brief(&unready.node)) {
            if let Some(member) = members.get_mut(&name) {
                member.has_failed = true;
            }
        }
        for node in &status.away {
            let Some(name) = brief(node) else { continue };
            let absent = || MemberView {
                address: node.address.map(|address| address.to_string()).unwrap_or_default(),
                zone: node.zone.clone(),
                ..MemberView::default()
            };
            members.entry(name).or_insert_with(absent).is_away = true;
        }
    }
}

/// Those under way, then the last ones that are over.
fn rollouts(mut all: Vec<Arc<WarmStatus>>) -> Vec<Arc<WarmStatus>> {
    all.sort_by_key(|status| status.phase != Phase::Warming);
    all.truncate(ROLLOUTS_MAX);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::Unready;

    fn node(number: u8) -> NodeName {
        let address = Some([10, 0, 0, number].into());
        NodeName { peer: format!("{number:02x}").repeat(32), address, zone: "a".into() }
    }

    #[test]
    fn only_requests_under_way_say_how_members_stand() {
        let unready = |number| Unready { node: node(number), image: "a".into(), why: "no".into() };
        let status = |phase, failed: u8, away: &[u8]| {
            let away = away.iter().map(|number| node(*number)).collect();
            Arc::new(WarmStatus { phase, unready: vec![unready(failed)], away, ..WarmStatus::default() })
        };
        let warming = [
            status(Phase::Warming, 1, &[2, 3]),
            status(Phase::Done, 2, &[4]),
            status(Phase::Cancelled, 4, &[4]),
        ];
        let name = |number: u8| format!("{number:02x}").repeat(driver::BRIEF_DIGITS / 2);
        let mut members: BTreeMap<_, _> =
            [1, 2, 4].map(|number| (name(number), MemberView::default())).into_iter().collect();
        mark_warming(&mut members, &warming);
        let marks = |number| members.get(&name(number)).map(|member| (member.has_failed, member.is_away));
        let found = [marks(1), marks(2), marks(3), marks(4)];
        assert_eq!(
            found,
            [Some((true, false)), Some((false, true)), Some((false, true)), Some((false, false))]
        );
        assert_eq!(members[&name(3)].address, "10.0.0.3", "it is no member, and shown all the same");
    }
}
