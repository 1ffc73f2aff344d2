//! One request: its images one after the other, and how each node stands.
//!
//! Invariants: a node is ready only when it has every image that was asked for, whole, so that an image that cannot be begun
//! leaves none ready; a request ends when each of its images has, when it is cancelled, or when the agent ends; what it began
//! elsewhere is taken back only if nobody else on this agent wants it.

pub(super) mod ask;
mod away;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use shoal_engine::WarmSetId;
use shoal_engine::limits::{WARM_GRACE, WARM_SETS_MAX};
use shoal_engine::peer::{Member, PeerId};
use shoal_engine::swarm::warm::blobs::Standing;
use shoal_engine::wire::{Pace, WarmFault};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ask::ACCOUNTED_MAX;

use super::resolve::{Resolved, resolve};
use super::status::{
    ImageState, ImageStatus, NodeName, Outcome, Phase, UNREADY_MAX, Unready, WAITING_MAX, WarmStatus,
    ZoneStatus, why,
};
use super::{Platforms, Wanted, Warmer, set_id};
use crate::driver::{WarmNews, WarmOrder};
use crate::image::Image;
use crate::node::Node;
use crate::swarm::Swarm;

/// Images of a request that are under way at a time: two requests and what others ask of this node leave sets free.
const IMAGES_AT_ONCE: usize = WARM_SETS_MAX / 4;
/// Times a set is begun again that somebody else has cancelled.
const BEGINNINGS_MAX: u32 = 4;
/// How much longer than the engine's own deadline its last word may take.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);

/// See the module's head.
pub(super) struct Job {
    id: String,
    /// The standing order that it is for; its own name, if it was asked for here.
    order: String,
    images: Vec<Image>,
    platforms: Platforms,
    targets: Vec<Arc<Member>>,
    numbers: HashMap<PeerId, usize>,
    deadline: Instant,
    deadline_at: u64,
    /// How long nodes that are away are waited for.
    grace: Duration,
    keep_until: u64,
    pace: Pace,
    began: Instant,
    started_at: u64,
    cancelled: CancellationToken,
    state: Mutex<State>,
    told: watch::Sender<Arc<WarmStatus>>,
}

struct State {
    phase: Phase,
    /// All is decided, and the last figures are being asked for: it cannot be cancelled any more.
    is_ending: bool,
    took: Option<Duration>,
    images: Vec<Progress>,
    sets: BTreeSet<WarmSetId>,
    /// What each node said that it received from upstream, by its number.
    upstream: Option<Vec<u64>>,
}

/// How far one image is.
struct Progress {
    state: ImageState,
    resolved: Option<Arc<Resolved>>,
    /// What it is for, if that is not what was asked for.
    platform_note: Option<String>,
    /// By the numbers of the nodes.
    standings: Vec<Standing>,
    /// Nodes that are away: they are not decided as long as they may come back.
    away: BTreeMap<usize, WarmFault>,
    /// Bytes that those have who are not ready.
    partial: u64,
    error: Option<String>,
}

impl Progress {
    /// A node stands so by now. Who is away is not decided.
    fn hear(&mut self, number: usize, standing: Standing) {
        self.away.remove(&number);
        self.standings[number] = match standing {
            Standing::Failed(why) if why.may_pass() => {
                self.away.insert(number, why);
                Standing::Waiting
            }
            standing => standing,
        };
    }

    /// Nothing more is heard of whoever is not decided: it is away, or has failed.
    fn settle(&mut self, why: WarmFault) {
        for number in 0..self.standings.len() {
            if self.standings[number] == Standing::Waiting && !self.away.contains_key(&number) {
                self.hear(number, Standing::Failed(why));
            }
        }
        if self.away.is_empty() {
            self.state = ImageState::Done;
        }
    }

    /// Whoever is not decided yet has failed.
    fn give_up(&mut self, why: WarmFault) {
        for (number, standing) in self.standings.iter_mut().enumerate() {
            if *standing == Standing::Waiting {
                *standing = Standing::Failed(self.away.get(&number).copied().unwrap_or(why));
            }
        }
        self.away.clear();
    }

    fn ready(&self) -> usize {
        self.standings.iter().filter(|standing| **standing == Standing::Ready).count()
    }
}

/// A name for a request.
pub(super) fn new_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

impl Job {
    pub fn new(id: String, order: String, wanted: Wanted) -> Self {
        let Wanted { images, platforms, targets, keep, deadline, grace, pace, .. } = wanted;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = Instant::now();
        let progress = || Progress {
            state: ImageState::Waiting,
            resolved: None,
            platform_note: None,
            standings: vec![Standing::Waiting; targets.len()],
            away: BTreeMap::new(),
            partial: 0,
            error: None,
        };
        let state = State {
            phase: Phase::Warming,
            is_ending: false,
            took: None,
            images: images.iter().map(|_| progress()).collect(),
            sets: BTreeSet::new(),
            upstream: (targets.len() <= ACCOUNTED_MAX).then(|| vec![0; targets.len()]),
        };
        let job = Job {
            id,
            order,
            numbers: targets.iter().enumerate().map(|(number, member)| (member.peer, number)).collect(),
            images,
            platforms,
            targets,
            deadline: began + deadline,
            deadline_at: (now + deadline).as_secs(),
            grace,
            keep_until: keep.map_or(0, |keep| (now + keep).as_secs()),
            pace,
            began,
            started_at: now.as_secs(),
            cancelled: CancellationToken::new(),
            state: Mutex::new(state),
            told: watch::channel(Arc::default()).0,
        };
        job.told.send_replace(Arc::new(job.look()));
        job
    }

    // ---- getters ----

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn order(&self) -> &str {
        &self.order
    }

    pub fn deadline_at(&self) -> u64 {
        self.deadline_at
    }

    pub fn images(&self) -> &[Image] {
        &self.images
    }

    pub fn targets(&self) -> &[Arc<Member>] {
        &self.targets
    }

    pub fn is_over(&self) -> bool {
        self.state.lock().phase != Phase::Warming
    }

    pub fn has_begun(&self, set: WarmSetId) -> bool {
        self.state.lock().sets.contains(&set)
    }

    pub fn status(&self) -> Arc<WarmStatus> {
        Arc::clone(&self.told.borrow())
    }

    pub fn watch(&self) -> watch::Receiver<Arc<WarmStatus>> {
        self.told.subscribe()
    }

    // ---- what is done ----

    /// Whether that ends it: it is not over by itself.
    pub fn cancel(&self) -> bool {
        let state = self.state.lock();
        let is_open = state.phase == Phase::Warming && !state.is_ending;
        if is_open {
            self.cancelled.cancel();
        }
        is_open
    }

    /// All is decided; how it ends, as nobody can cancel it from now on.
    fn begin_to_end(&self) -> Phase {
        let mut state = self.state.lock();
        state.is_ending = true;
        if self.cancelled.is_cancelled() { Phase::Cancelled } else { Phase::Done }
    }

    pub async fn run(self: Arc<Self>, warmer: Warmer) {
        let swarm = warmer.0.swarm.clone();
        let images = async {
            stream::iter(0..self.images.len())
                .for_each_concurrent(self.images_at_once(), |at| {
                    self.image(at, &warmer.0.node, swarm.as_ref())
                })
                .await;
            self.wait_for_those_away(&warmer.0.node, swarm.as_ref()).await;
        };
        tokio::select! {
            () = warmer.0.stop.cancelled() => return,
            () = self.cancelled.cancelled() => {}
            () = images => {}
            () = self.account(&warmer.0.node, swarm.as_ref()) => unreachable!("it goes on until it is dropped"),
        }
        let phase = self.begin_to_end();
        warmer.0.standing.ended(&self.order, warmer.now());
        let took = self.began.elapsed();
        if phase == Phase::Cancelled {
            let begun: Vec<_> = self.state.lock().sets.iter().copied().collect();
            for set in begun.into_iter().filter(|set| !warmer.is_wanted_by_others(&self, *set)) {
                warmer.0.node.driver().cancel_warm(set).await;
            }
        }
        let asked = self.ask_upstream(&warmer.0.node, swarm.as_ref());
        if warmer.0.stop.run_until_cancelled(asked).await.is_none() {
            return;
        }
        self.change(|state| {
            state.phase = phase;
            state.took = Some(took);
            state.images.iter_mut().for_each(|image| image.give_up(WarmFault::Cancelled));
        });
        let status = self.status();
        tracing::info!(
            id = self.id,
            ?phase,
            ready = status.ready,
            failed = status.failed,
            of = status.nodes,
            elapsed_ms = status.elapsed_ms,
            "a request to warm has ended"
        );
    }

    /// When the engine has said its last word.
    fn latest(&self) -> Instant {
        self.deadline + WARM_GRACE + LAST_WORD_MAX
    }

    /// A pace is that of all images together, so that with one they come one after the other.
    fn images_at_once(&self) -> usize {
        if self.pace == Pace::FREE { IMAGES_AT_ONCE } else { 1 }
    }

    async fn image(&self, at: usize, node: &Node, swarm: Option<&Swarm>) {
        self.change(|state| state.images[at].state = ImageState::Resolving);
        let resolved =
            tokio::time::timeout_at(self.deadline, resolve(node, &self.images[at], &self.platforms));
        let resolved = match resolved.await {
            Ok(Ok(resolved)) => Arc::new(resolved),
            Ok(Err(error)) => return self.fail(at, error.to_string()),
            Err(_) => return self.fail(at, "its manifests had not come at the deadline".into()),
        };
        self.change(|state| {
            state.images[at].state = ImageState::Warming;
            state.images[at].resolved = Some(Arc::clone(&resolved));
        });
        let swarm_warms = async {
            match swarm {
                Some(_) => self.in_swarm(at, node, &resolved, (0..self.targets.len()).collect()).await,
                None => self.alone(at, node, &resolved).await,
            }
        };
        let (why, ()) = tokio::join!(
            tokio::time::timeout_at(self.latest(), swarm_warms),
            self.look_at_platform(at, node, &resolved)
        );
        let why = why.unwrap_or(WarmFault::Deadline);
        self.change(|state| state.images[at].settle(why));
    }

    /// Until each of these nodes is decided, or away. Why those that are not then have failed.
    async fn in_swarm(&self, at: usize, node: &Node, resolved: &Resolved, numbers: Vec<usize>) -> WarmFault {
        let set = set_id(&resolved.scope, &resolved.blobs);
        self.state.lock().sets.insert(set);
        for _ in 0..BEGINNINGS_MAX {
            let order = WarmOrder {
                set,
                blobs: resolved.blobs.clone(),
                scope: resolved.scope.clone(),
                targets: numbers.iter().map(|number| self.targets[*number].peer).collect(),
                deadline: self.deadline.saturating_duration_since(Instant::now()),
                keep_until: self.keep_until,
                pace: self.pace,
            };
            let Some(mut news) = node.driver().warm(order).await else { return WarmFault::Draining };
            loop {
                if news.changed().await.is_err() {
                    return WarmFault::Draining;
                }
                let is_over = self.hear(at, resolved.size(), &news.borrow_and_update());
                if is_over {
                    break;
                }
            }
            // Whoever else warms the same image may have cancelled it for all; here it is still wanted.
            let state = self.state.lock();
            let standings = &state.images[at].standings;
            if !numbers.iter().any(|number| standings[*number] == Standing::Failed(WarmFault::Cancelled)) {
                break;
            }
        }
        WarmFault::Silent
    }

    /// Whether there is nothing more to be heard.
    fn hear(&self, at: usize, size: u64, news: &WarmNews) -> bool {
        self.change(|state| {
            let image = &mut state.images[at];
            if let Some(why) = news.refused {
                image.standings.iter_mut().for_each(|standing| *standing = Standing::Failed(why));
            }
            for (peer, standing) in &news.members {
                if let Some(number) = self.numbers.get(peer) {
                    image.hear(*number, *standing);
                }
            }
            image.partial = news.tally.bytes.saturating_sub(size.saturating_mul(news.tally.ready as u64));
            news.over || image.standings.iter().all(|standing| *standing == Standing::Ready)
        })
    }

    pub(super) fn progress(&self, at: usize, bytes: u64) {
        self.change(|state| state.images[at].partial += bytes);
    }

    /// The only node has this image, or will not.
    pub(super) fn decide(&self, at: usize, standing: Standing, error: Option<String>) {
        self.change(|state| {
            let image = &mut state.images[at];
            image.standings.fill(standing);
            image.error = error;
        });
    }

    pub(super) fn keep_until(&self) -> u64 {
        self.keep_until
    }

    fn fail(&self, at: usize, error: String) {
        tracing::warn!(image = %self.images[at], %error, "an image cannot be warmed");
        self.change(|state| {
            let image = &mut state.images[at];
            (image.state, image.error) = (ImageState::Failed, Some(error));
        });
    }

    // ---- what is told ----

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.told.send_replace(Arc::new(self.look()));
        result
    }

    fn look(&self) -> WarmStatus {
        let state = self.state.lock();
        let begun: Vec<_> =
            state.images.iter().enumerate().filter(|(_, image)| image.state != ImageState::Failed).collect();
        let mut zones: BTreeMap<&str, ZoneStatus> = BTreeMap::new();
        let (mut ready, mut failed) = (0, 0);
        let (mut waiting, mut away, mut unready) = (Vec::new(), Vec::new(), Vec::new());
        for (number, member) in self.targets.iter().enumerate() {
            let fault = begun.iter().find_map(|(at, image)| match image.standings[number] {
                Standing::Failed(fault) => {
                    Some((*at, image.error.clone().unwrap_or_else(|| why(fault).into())))
                }
                _ => None,
            });
            let has_what_began = begun.iter().all(|(_, image)| image.standings[number] == Standing::Ready);
            let is_ready = has_what_began && begun.len() == state.images.len();
            let zone = zones.entry(&member.zone).or_insert_with(|| ZoneStatus {
                zone: member.zone.to_string(),
                nodes: 0,
                ready: 0,
                failed: 0,
            });
            zone.nodes += 1;
            match fault {
                _ if is_ready => (zone.ready, ready) = (zone.ready + 1, ready + 1),
                Some((at, why)) => {
                    (zone.failed, failed) = (zone.failed + 1, failed + 1);
                    if unready.len() < UNREADY_MAX {
                        let image = self.images[at].to_string();
                        unready.push(Unready { node: NodeName::of(member), image, why });
                    }
                }
                // What it lacks could not be begun for anybody, and the images say why.
                None if has_what_began => (zone.failed, failed) = (zone.failed + 1, failed + 1),
                None => {
                    if begun.iter().any(|(_, image)| image.away.contains_key(&number))
                        && away.len() < UNREADY_MAX
                    {
                        away.push(NodeName::of(member));
                    }
                    if waiting.len() < WAITING_MAX {
                        waiting.push(NodeName::of(member));
                    }
                }
            }
        }
        let nodes = self.targets.len() as u64;
        let bytes = |image: &Progress| {
            let size = image.resolved.as_ref().map_or(0, |resolved| resolved.size());
            let whole = size.saturating_mul(image.ready() as u64);
            (whole.saturating_add(image.partial).min(size.saturating_mul(nodes)), size.saturating_mul(nodes))
        };
        let sums = begun.iter().map(|(_, image)| bytes(image));
        let (there, of) =
            sums.fold((0u64, 0u64), |(a, b), (c, d)| (a.saturating_add(c), b.saturating_add(d)));
        let mut status = WarmStatus {
            id: self.id.clone(),
            phase: state.phase,
            outcome: Outcome::default(),
            started_at: self.started_at,
            elapsed_ms: state.took.unwrap_or_else(|| self.began.elapsed()).as_millis() as u64,
            deadline_at: self.deadline_at,
            pinned_until: (self.keep_until > 0).then_some(self.keep_until),
            images: self
                .images
                .iter()
                .zip(&state.images)
                .map(|(name, image)| image_status(name, image))
                .collect(),
            nodes: self.targets.len(),
            ready,
            failed,
            zones: zones.into_values().collect(),
            waiting,
            away,
            unready,
            agent: None,
            bytes: there,
            bytes_of: of,
            upstream_bytes: state.upstream.as_ref().map(|told| told.iter().sum()),
        };
        status.outcome = status.outcome();
        status
    }
}

fn image_status(name: &Image, image: &Progress) -> ImageStatus {
    let resolved = image.resolved.as_deref();
    ImageStatus {
        image: name.to_string(),
        digest: resolved.map(|resolved| resolved.digest),
        state: image.state,
        blobs: resolved.map_or(0, |resolved| resolved.blobs.len()),
        size: resolved.map_or(0, Resolved::size),
        ready: image.ready(),
        error: image.error.clone(),
        note: joined(image.platform_note.as_deref(), resolved.and_then(|resolved| resolved.note.as_deref())),
    }
}

/// Two notes in one.
pub(super) fn joined(one: Option<&str>, other: Option<&str>) -> Option<String> {
    let notes: Vec<_> = one.into_iter().chain(other).collect();
    Some(notes.join("; ")).filter(|note| !note.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::{DEADLINE, GRACE, tests::members};

    fn job(images: &[&str]) -> Job {
        let wanted = Wanted {
            images: images.iter().map(|name| name.parse::<Image>().unwrap()).collect(),
            platforms: Platforms::All,
            names_platforms: true,
            targets: members(),
            keep: None,
            deadline: DEADLINE,
            grace: GRACE,
            pace: Pace::FREE,
        };
        Job::new("0a1b2c3d".into(), "0a1b2c3d".into(), wanted)
    }

    /// Whoever lets a release wait for the nodes that are ready must not let it go without one of its images.
    #[test]
    fn an_image_that_cannot_be_begun_leaves_no_node_ready() {
        let ready = |state: &mut State, at: usize| {
            state.images[at].standings.fill(Standing::Ready);
            state.images[at].state = ImageState::Done;
        };
        let counts = |job: &Job| {
            let status = job.status();
            (status.ready, status.failed, status.waiting.len(), status.unready.len())
        };
        let whole = job(&["r.test/app:v1", "r.test/app:v2"]);
        whole.change(|state| ready(state, 0));
        assert_eq!(counts(&whole), (0, 0, 6, 0), "one of them is on its way");
        whole.change(|state| ready(state, 1));
        assert_eq!(counts(&whole), (6, 0, 0, 0));

        let lacking = job(&["r.test/app:v1", "r.test/app:v9"]);
        lacking.fail(1, "no source has it".into());
        assert_eq!(counts(&lacking), (0, 0, 6, 0), "the other one is on its way");
        lacking.change(|state| {
            ready(state, 0);
            state.phase = Phase::Done;
        });
        assert_eq!(counts(&lacking), (0, 6, 0, 0), "the image says why, and not each node");
        let status = lacking.status();
        assert_eq!((status.outcome, status.images_failed()), (Outcome::Partial, 1));
        let on_nodes: Vec<usize> = status.images.iter().map(|image| image.ready).collect();
        assert_eq!(on_nodes, [6, 0]);
        assert!(status.zones.iter().all(|zone| (zone.ready, zone.failed) == (0, zone.nodes)));
    }

    #[test]
    fn who_is_away_is_decided_at_the_end() {
        let (waiting, ready) = (Standing::Waiting, Standing::Ready);
        let failed = Standing::Failed;
        // What is heard of a node, how it stands then, after nothing more is heard of it, and at the end.
        let table = [
            (ready, ready, ready, ready),
            (
                failed(WarmFault::Denied),
                failed(WarmFault::Denied),
                failed(WarmFault::Denied),
                failed(WarmFault::Denied),
            ),
            (waiting, waiting, failed(WarmFault::Deadline), failed(WarmFault::Deadline)),
            (failed(WarmFault::Silent), waiting, waiting, failed(WarmFault::Silent)),
            (failed(WarmFault::Unreachable), waiting, waiting, failed(WarmFault::Unreachable)),
            (failed(WarmFault::Draining), waiting, waiting, failed(WarmFault::Draining)),
            (failed(WarmFault::Busy), waiting, waiting, failed(WarmFault::Busy)),
        ];
        for (heard, now, settled, end) in table {
            let mut image = Progress {
                state: ImageState::Warming,
                resolved: None,
                platform_note: None,
                standings: vec![waiting],
                away: BTreeMap::new(),
                partial: 0,
                error: None,
            };
            image.hear(0, heard);
            assert_eq!(image.standings, [now], "{heard:?}");
            image.settle(WarmFault::Deadline);
            assert_eq!(image.standings, [settled], "{heard:?}");
            let is_awaited = settled == waiting;
            assert_eq!(
                (image.state == ImageState::Done, image.away.len()),
                (!is_awaited, usize::from(is_awaited))
            );
            image.give_up(WarmFault::Cancelled);
            assert_eq!(image.standings, [end], "{heard:?}");
            // It may come back before that.
            image.hear(0, failed(WarmFault::Silent));
            image.hear(0, ready);
            assert_eq!((image.standings[0], image.away.len()), (ready, 0));
        }
    }
}
