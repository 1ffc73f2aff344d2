//! Warming: images that nodes shall have before anybody asks for them.
//!
//! Question: an operator names images and nodes; how do the bytes get there, and how is it known that they are there?
//! Answer: the agent that is asked resolves each image once ([`resolve`]), chooses the nodes from the list of members
//! ([`select`]), and hands each image's blobs to the engine as one warm set, whose order travels down a tree of members. The
//! set's name follows from its blobs and their repository alone, so that whoever asks for the same, later or elsewhere, meets
//! in the same set. Manifests are blobs of the set like all others: a warm node answers for the whole image by itself.
//!
//! What has been received stays on the nodes, and the same request, to this agent or another, goes on from there. Other agents
//! go on by themselves when this one is gone, also with what is pinned for nodes that join later ([`standing`]).
//!
//! Invariant: there are never more than [`RUNNING_MAX`] requests under way; each ends by its deadline.

mod alone;
mod elsewhere;
mod heirs;
mod job;
mod plan;
pub mod push;
mod resolve;
pub mod select;
mod standing;
mod status;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shoal_engine::limits::WARM_DEADLINE_MAX;
use shoal_engine::peer::{Member, PeerId};
use shoal_engine::wire::Pace;
use shoal_engine::{Digest, Scope, WarmSetId};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Rate;
use crate::image::{Image, ImageError};
use crate::node::Node;
use crate::swarm::Swarm;

use job::Job;
use select::{SelectError, Selection};
use standing::Standing;

pub(crate) use elsewhere::{Question, Told};
pub(crate) use standing::Order;

pub use plan::{PlannedImage, PlannedNode, WarmPlan};
pub use resolve::Platforms;
pub use standing::StandingOrder;
pub use status::{ImageState, ImageStatus, NodeName, Outcome, Phase, Unready, WarmStatus, ZoneStatus};

/// Images of one request. A cluster's own ones are some dozens.
pub const IMAGES_MAX: usize = 512;
/// Requests that are under way at a time.
pub const RUNNING_MAX: usize = 16;
/// Requests that are remembered, those under way included.
const REMEMBERED_MAX: usize = 64;
/// Longest time for which blobs are kept: a pin that is meant to stay is put on the blob itself.
pub const KEEP_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Smallest bound of a rate: with less, connections between nodes would be taken for dead while they wait for their turn.
pub const RATE_MIN: Rate = Rate(1_000_000);
/// Deadline of a request that names none.
pub const DEADLINE: Duration = Duration::from_secs(60 * 60);
/// How long nodes that are away are waited for in such a request: an agent that is restarted or replaced is back sooner, and a
/// pipeline is not held up for an hour by a machine that has been switched off.
pub const GRACE: Duration = Duration::from_secs(60);

/// What shall be warmed, as the admin API takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// Images, as for a runtime.
    #[schema(min_items = 1, max_items = 512)]
    pub images: Vec<String>,
    /// Platforms of images that are for several, `os/architecture[/variant]`, or `all`; empty: that of the agent.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Which nodes; all if it says nothing.
    #[serde(default)]
    pub nodes: Selection,
    /// How long the blobs are kept from eviction, from the beginning on, seconds; unset: like all others.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31622400)]
    pub pin_seconds: Option<u64>,
    /// Time after which whoever is not ready has failed, seconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86400)]
    pub deadline_seconds: Option<u64>,
    /// How long nodes are waited for that are away, once all others are decided, seconds. Unset: a minute, or until
    /// `deadline_seconds` if that is set.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub grace_seconds: Option<u64>,
    /// Bytes per second that all nodes together receive from upstream for these images; unset: as many as come. What a client
    /// waits for is not held back.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000000)]
    pub max_upstream_bytes_per_second: Option<u64>,
    /// Bytes per second that each node receives for these images, from anybody; unset: as many as come. What a client waits
    /// for is not held back.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000000)]
    pub max_per_node_bytes_per_second: Option<u64>,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

impl WarmRequest {
    /// How long nodes that are away are waited for. Who names a deadline waits until then.
    pub fn grace(&self) -> Duration {
        match (self.grace_seconds, self.deadline_seconds) {
            (Some(seconds), _) => Duration::from_secs(seconds),
            (None, Some(_)) => WARM_DEADLINE_MAX,
            (None, None) => GRACE,
        }
    }
}

/// What has become of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cancelled {
    /// It ends, or is not gone on with for nodes that join later.
    Now,
    /// It had ended before: nothing has changed.
    Over,
    /// Nobody here knows of it.
    Unknown,
}

/// Why a request was not begun. Whoever asked has to change it, or to wait.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to warm.
    #[error("no image is named")]
    Empty,
    /// There is too much.
    #[error("{0} images are more than {IMAGES_MAX}; ask for them in several requests")]
    TooMany(usize),
    /// What is no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What is no platform.
    #[error("{0:?} is no platform; write it as linux/amd64 or linux/arm/v7, or \"all\"")]
    Platform(String),
    /// A time that is none.
    #[error("{what} of {seconds} s is not between 1 s and {max:?}")]
    Time {
        /// Which.
        what: &'static str,
        /// What was given.
        seconds: u64,
        /// The most.
        max: Duration,
    },
    /// A rate that is none.
    #[error("{what} of {} is less than {RATE_MIN}; leave it out for no bound, or cancel the request for none at all", Rate(*.bytes_per_second))]
    Rate {
        /// Which.
        what: &'static str,
        /// What was given.
        bytes_per_second: u64,
    },
    /// There are no members that could share a rate.
    #[error(
        "this agent works alone and warms as fast as upstream.rate lets it; set that instead of a bound of the request"
    )]
    RateAlone,
    /// The nodes cannot be chosen.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Others are under way.
    #[error(
        "{RUNNING_MAX} requests to warm are under way on this agent; wait for one (shoal prewarm ls) or cancel it"
    )]
    Busy,
    /// The agent ends.
    #[error("the agent is shutting down; ask another one")]
    Draining,
}

/// Warms, and knows what is being warmed. Cheap to clone.
#[derive(Clone)]
pub struct Warmer(Arc<Inner>);

struct Inner {
    node: Node,
    swarm: Option<Swarm>,
    standing: Standing,
    /// There are new orders, or others than before: heirs are told soon.
    has_orders: Notify,
    started: Instant,
    /// Newest last.
    jobs: Mutex<VecDeque<Arc<Job>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why a request is begun.
enum Begin {
    /// Somebody asks for it here.
    Asked,
    /// A standing order is for members that it was not begun for yet, or by this agent.
    For {
        /// The order's name.
        order: String,
        /// The members.
        targets: Vec<Arc<Member>>,
    },
}

/// A request that has been looked through.
struct Wanted {
    images: Vec<Image>,
    platforms: Platforms,
    /// Whether they were asked for, and are not just those of this agent.
    names_platforms: bool,
    targets: Vec<Arc<Member>>,
    keep: Option<Duration>,
    deadline: Duration,
    grace: Duration,
    pace: Pace,
}

impl Warmer {
    /// Nothing is warmed yet. What is pinned is kept in `file`, for nodes that join later; without one it is not.
    pub fn new(node: Node, swarm: Option<Swarm>, file: Option<PathBuf>) -> Self {
        let (jobs, tasks, stop) = (Mutex::default(), TaskTracker::new(), CancellationToken::new());
        let standing = Standing::open(swarm.as_ref().map(Swarm::me), file);
        let (has_orders, started) = (Notify::new(), Instant::now());
        Warmer(Arc::new(Inner { node, swarm, standing, has_orders, started, jobs, tasks, stop }))
    }

    /// Begins to look for nodes that join.
    pub fn spawn(&self) {
        if let Some(swarm) = &self.0.swarm {
            self.0.tasks.spawn(self.clone().see_to_orders(swarm.clone()));
        }
    }

    /// Begins; what follows is told by [`watch`](Self::watch).
    ///
    /// # Errors
    /// Why it was not begun.
    pub fn begin(&self, request: &WarmRequest) -> Result<Arc<WarmStatus>, RequestError> {
        let job = self.start(request, Begin::Asked)?;
        let until = job.keep_until().max(job.deadline_at());
        self.0.standing.remember(job.id(), request, until, job.targets(), self.now());
        self.0.has_orders.notify_one();
        Ok(job.status())
    }

    fn start(&self, request: &WarmRequest, begin: Begin) -> Result<Arc<Job>, RequestError> {
        let (order, targets) = match begin {
            Begin::Asked => (None, request.nodes.choose(&self.members())?),
            Begin::For { order, targets } => (Some(order), targets),
        };
        let wanted = self.wanted(request, targets)?;
        let mut jobs = self.0.jobs.lock();
        if self.0.stop.is_cancelled() {
            return Err(RequestError::Draining);
        }
        if jobs.iter().filter(|job| !job.is_over()).count() >= RUNNING_MAX {
            return Err(RequestError::Busy);
        }
        while jobs.len() >= REMEMBERED_MAX {
            // There are more remembered than may be under way, so one of them is over.
            let Some(oldest) = jobs.iter().position(|job| job.is_over()) else { break };
            jobs.remove(oldest);
        }
        // Whoever knows the request by its name finds it where it is gone on with.
        let is_free = |id: &String| !jobs.iter().any(|job| job.id() == *id);
        let id = order.clone().filter(is_free).unwrap_or_else(job::new_id);
        let order = order.unwrap_or_else(|| id.clone());
        let job = Arc::new(Job::new(id, order, wanted));
        jobs.push_back(Arc::clone(&job));
        drop(jobs);
        tracing::info!(
            id = job.id(),
            images = job.images().len(),
            nodes = job.targets().len(),
            "a request to warm begins"
        );
        self.0.tasks.spawn(Arc::clone(&job).run(self.clone()));
        Ok(job)
    }

    /// What would be done.
    ///
    /// # Errors
    /// Why it would not be begun.
    pub async fn plan(&self, request: &WarmRequest) -> Result<WarmPlan, RequestError> {
        let targets = request.nodes.choose(&self.members())?;
        Ok(plan::plan(self, self.wanted(request, targets)?).await)
    }

    /// The requests that are known, newest first.
    pub fn list(&self) -> Vec<Arc<WarmStatus>> {
        self.0.jobs.lock().iter().rev().map(|job| job.status()).collect()
    }

    /// The requests that others go on with if the agent that was asked is gone, as far as this one knows of them.
    pub fn standing(&self) -> Vec<StandingOrder> {
        self.0.standing.list()
    }

    /// A request by its name; its news end when it is over.
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Arc<WarmStatus>>> {
        self.job(id).map(|job| job.watch())
    }

    /// Ends a request, also for nodes that join later; what has come stays.
    pub fn cancel(&self, id: &str) -> Cancelled {
        let job = self.job(id);
        // Without a job, another agent may see to it, and this one know of it.
        let order = job.as_ref().map_or(id, |job| job.order());
        let stood = self.0.standing.forget(order, self.now());
        self.0.has_orders.notify_one();
        let stopped = self.jobs_of(order).iter().filter(|job| job.cancel()).count();
        match (job, stood || stopped > 0) {
            (_, true) => Cancelled::Now,
            (Some(_), false) => Cancelled::Over,
            (None, false) => Cancelled::Unknown,
        }
    }

    /// The agent ends: whoever listens is let go, and what was handed to other members goes on there.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Cancelled when the agent ends.
    pub fn stopped(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    fn jobs_of(&self, order: &str) -> Vec<Arc<Job>> {
        self.0.jobs.lock().iter().filter(|job| job.order() == order).cloned().collect()
    }

    fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.0.jobs.lock().iter().find(|job| job.id() == id).cloned()
    }

    /// Whether a request other than `job` that is under way has begun the set.
    fn is_wanted_by_others(&self, job: &Job, set: WarmSetId) -> bool {
        self.0
            .jobs
            .lock()
            .iter()
            .any(|other| other.id() != job.id() && !other.is_over() && other.has_begun(set))
    }

    fn wanted(&self, request: &WarmRequest, targets: Vec<Arc<Member>>) -> Result<Wanted, RequestError> {
        let mut images: Vec<Image> = Vec::new();
        for text in &request.images {
            let image = text.parse()?;
            if !images.contains(&image) {
                images.push(image);
            }
        }
        match images.len() {
            0 => return Err(RequestError::Empty),
            n if n > IMAGES_MAX => return Err(RequestError::TooMany(n)),
            _ => {}
        }
        let keep = request.pin_seconds.map(|seconds| period("a pin", seconds, KEEP_MAX)).transpose()?;
        let deadline =
            request.deadline_seconds.map(|s| period("a deadline", s, WARM_DEADLINE_MAX)).transpose()?;
        Ok(Wanted {
            images,
            platforms: Platforms::parse(&request.platforms).map_err(RequestError::Platform)?,
            names_platforms: !request.platforms.is_empty(),
            targets,
            keep,
            deadline: deadline.unwrap_or(DEADLINE),
            grace: request.grace().min(WARM_DEADLINE_MAX),
            pace: self.pace(request)?,
        })
    }

    fn pace(&self, request: &WarmRequest) -> Result<Pace, RequestError> {
        let pace = Pace {
            upstream: rate("a bound of what comes from upstream", request.max_upstream_bytes_per_second)?,
            per_node: rate("a bound of what a node receives", request.max_per_node_bytes_per_second)?,
        };
        if pace != Pace::FREE && self.0.swarm.is_none() {
            return Err(RequestError::RateAlone);
        }
        Ok(pace)
    }

    /// All members; without a swarm this node alone, which has no name then.
    fn members(&self) -> Vec<Arc<Member>> {
        match &self.0.swarm {
            Some(swarm) => swarm.roster().iter().cloned().collect(),
            None => vec![Arc::new(Member {
                peer: PeerId([0; 32]),
                generation: 0,
                addresses: Box::default(),
                data_port: 0,
                zone: "".into(),
                labels: Box::default(),
                version: env!("CARGO_PKG_VERSION").into(),
            })],
        }
    }
}

fn period(what: &'static str, seconds: u64, max: Duration) -> Result<Duration, RequestError> {
    match Duration::from_secs(seconds) {
        period if period.is_zero() || period > max => Err(RequestError::Time { what, seconds, max }),
        period => Ok(period),
    }
}

/// Bytes per second; 0 where there is no bound.
fn rate(what: &'static str, asked: Option<u64>) -> Result<u64, RequestError> {
    match asked {
        Some(bytes_per_second) if bytes_per_second < RATE_MIN.0 => {
            Err(RequestError::Rate { what, bytes_per_second })
        }
        asked => Ok(asked.unwrap_or(0)),
    }
}

/// The name of a set: it follows from the blobs and their repository, in whatever order they come, and from nothing else.
fn set_id(scope: &Scope, blobs: &[(Digest, u64)]) -> WarmSetId {
    let mut sorted: Vec<_> = blobs.to_vec();
    sorted.sort_unstable();
    let mut text = format!("shoal warm set 1\n{}\n{}\n", scope.registry, scope.repository);
    for (digest, size) in sorted {
        let _ = writeln!(text, "{digest} {size}");
    }
    let mut name = [0; 8];
    name.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    WarmSetId(u64::from_be_bytes(name))
}
