//! Warm sets, between the engine that works on them and whoever in this agent has asked for them.
//!
//! Invariants: the driver never waits for a listener, who sees the latest news and may miss some before; a set is told of as
//! long as somebody listens, and forgotten when nobody does.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use shoal_engine::io::WarmTally;
use shoal_engine::peer::PeerId;
use shoal_engine::swarm::warm::blobs::Standing;
use shoal_engine::wire::{Pace, WarmFault};
use shoal_engine::{Digest, Input, Scope, WarmSetId};
use tokio::sync::watch;

use super::{Command, Driver, Handle};
use crate::rate;

/// What is to be warmed, see [`Input::Warm`].
#[derive(Clone, Debug)]
pub(crate) struct WarmOrder {
    /// The set: the same for the same blobs of the same repository, whoever asks.
    pub set: WarmSetId,
    /// The blobs and their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Where they may be fetched.
    pub scope: Scope,
    /// The members, this node only if it is named.
    pub targets: Vec<PeerId>,
    /// Time from now.
    pub deadline: Duration,
    /// Seconds since 1970, or 0.
    pub keep_until: u64,
    /// How fast.
    pub pace: Pace,
}

/// How far a set is.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarmNews {
    /// How each member stands that anybody on this node has asked for.
    pub members: Vec<(PeerId, Standing)>,
    /// Sums over them.
    pub tally: WarmTally,
    /// The set was not taken on at all.
    pub refused: Option<WarmFault>,
    /// There will be no more news of this run.
    pub over: bool,
}

/// The sets that somebody listens to.
#[derive(Default)]
pub(super) struct Watched(HashMap<WarmSetId, watch::Sender<WarmNews>>);

impl Watched {
    /// News of a run that begins now.
    fn begin(&mut self, set: WarmSetId) -> watch::Receiver<WarmNews> {
        self.0.retain(|_, listeners| !listeners.is_closed());
        let listeners = self.0.entry(set).or_insert_with(|| watch::channel(WarmNews::default()).0);
        listeners.send_modify(|news| (news.over, news.refused) = (false, None));
        listeners.subscribe()
    }

    fn tell(&mut self, set: WarmSetId, news: WarmNews) {
        if let Some(listeners) = self.0.get(&set) {
            listeners.send_replace(news);
        }
    }
}

/// What this node receives of each set that is held back, for as long as one of its blobs is.
#[derive(Default)]
pub(super) struct Paces {
    by_set: HashMap<WarmSetId, (rate::Pace, HashSet<Digest>)>,
}

impl Paces {
    /// The pace that a blob shares with the others of its set.
    fn share(&mut self, digest: Digest, set: WarmSetId, bytes_per_second: u64) -> rate::Pace {
        let (pace, blobs) = self.by_set.entry(set).or_default();
        blobs.insert(digest);
        pace.set(Some(bytes_per_second));
        let pace = pace.clone();
        self.leave(&digest, Some(set));
        pace
    }

    /// A blob is not held back any more, but for the set that is named.
    pub fn leave(&mut self, digest: &Digest, but: Option<WarmSetId>) {
        self.by_set.retain(|set, (_, blobs)| {
            but == Some(*set) || {
                blobs.remove(digest);
                !blobs.is_empty()
            }
        });
    }
}

impl Handle {
    /// Begins a set, or adds to it; `None` when the driver has ended. The news end with `over`.
    pub(crate) async fn warm(&self, order: WarmOrder) -> Option<watch::Receiver<WarmNews>> {
        self.ask(|tell| Command::Warm(Box::new(order), tell)).await
    }

    /// Nobody wants the set any more.
    pub(crate) async fn cancel_warm(&self, set: WarmSetId) {
        self.input(Input::WarmCancel { set }).await;
    }

    /// Bytes of these blobs that this node itself has received from upstream within the last `age`.
    pub(crate) async fn upstream_bytes(&self, blobs: HashSet<Digest>, age: Duration) -> u64 {
        self.ask(|tell| Command::UpstreamBytes(blobs, age, tell)).await.unwrap_or_default()
    }
}

impl Driver {
    pub(super) fn warm(&mut self, order: WarmOrder) -> watch::Receiver<WarmNews> {
        let WarmOrder { set, blobs, scope, targets, deadline, keep_until, pace } = order;
        let news = self.watched.begin(set);
        tracing::info!(%scope, blobs = blobs.len(), targets = targets.len(), ?deadline, "warming begins");
        self.handle_input(Input::Warm { set, blobs, scope, targets, deadline, keep_until, pace });
        news
    }

    pub(super) fn tell_warm(&mut self, set: WarmSetId, tally: WarmTally, over: bool) {
        if over {
            tracing::info!(ready = tally.ready, of = tally.of, failed = tally.failed, "warming has ended");
        } else {
            tracing::debug!(ready = tally.ready, of = tally.of, bytes = tally.bytes, "warming");
        }
        let known = self.engine.swarm().and_then(|swarm| swarm.warming().set(set));
        let members: Vec<_> = known.map(|set| set.asked().collect()).unwrap_or_default();
        // A set that is not known was not taken on: all failed for one reason.
        let refused = members.is_empty().then(|| tally.failures.first().map(|(_, why)| *why)).flatten();
        self.watched.tell(set, WarmNews { members, tally, refused, over });
    }

    /// How fast a blob may come that nothing but warm sets wants.
    pub(super) fn pace(&mut self, digest: Digest, pace: Option<(WarmSetId, Pace)>) {
        let Some(flight) = self.flights.get(&digest) else { return };
        let (upstream, of_set) = match pace {
            Some((set, pace)) if pace.per_node > 0 => {
                (pace.upstream, Some(self.paces.share(digest, set, pace.per_node)))
            }
            other => {
                self.paces.leave(&digest, None);
                (other.map_or(0, |(_, pace)| pace.upstream), None)
            }
        };
        tracing::debug!(digest = %digest.short(), upstream, shares = of_set.is_some(), "a blob's pace");
        flight.restraint().set(upstream, of_set);
    }

    /// A blob of a warm set is to be kept for a while.
    pub(super) fn keep(&self, digest: Digest, until: u64) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(until.min(u64::from(u32::MAX)));
            match store.pin_until(&digest, end) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(%digest, "it cannot be pinned: it lies in the runtime's own content")
                }
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob could not be pinned; it may be evicted")
                }
            }
        });
    }

    pub(super) fn upstream_bytes(&self, blobs: &HashSet<Digest>, age: Duration) -> u64 {
        let since = Instant::now().checked_sub(age);
        let flying = self.flights.iter().filter(|(digest, _)| blobs.contains(digest));
        let flying: u64 = flying.map(|(_, flight)| flight.shares().upstream_bytes(since)).sum();
        let come = self.come.iter().filter(|(digest, _)| blobs.contains(digest));
        come.map(|(_, shares)| shares.upstream_bytes(since)).sum::<u64>() + flying
    }
}
