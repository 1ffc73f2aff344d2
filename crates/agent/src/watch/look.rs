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
use crate::warm::{Phase, WarmStatus, Warmer};

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
        for unready in warming.iter().flat_map(|status| &status.unready) {
            let name = unready.node.peer.get(..driver::BRIEF_DIGITS).unwrap_or_default();
            each(&[name.to_owned()], |member| member.has_failed = true);
        }
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

/// Those under way, then the last ones that are over.
fn rollouts(mut all: Vec<Arc<WarmStatus>>) -> Vec<Arc<WarmStatus>> {
    all.sort_by_key(|status| status.phase != Phase::Warming);
    all.truncate(ROLLOUTS_MAX);
    all
}
