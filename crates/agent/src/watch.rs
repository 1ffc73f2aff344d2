//! Watching: the same events for everybody who looks at the agent, on the page and on the command line.
//!
//! Question: how do many watch an agent of a thousand members without costing it anything? Answer: one task looks once a
//! second for all listeners together, and only while there are any; each first gets everything ([`Snapshot`]) and then
//! what has changed ([`Change`]).
//!
//! Invariants: there are never more than [`LISTENERS_MAX`] listeners; nobody waits for a listener, and one that does not
//! take [`EVENTS_WAITING_MAX`] events is dropped; a change has a bounded size, whatever happens in the cluster.

mod books;
mod change;
mod follow;
mod look;
mod traffic;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use change::{Change, MemberShown, Snapshot, Standing};
pub use follow::{Event, Followed};
pub use look::{AgentLook, Parts};
pub use traffic::{Moment, Traffic};
pub use view::{BlobView, MemberView, NodeView, RolloutView, View};

use change::Shown;
use traffic::History;

/// Listeners at a time: people with a page open, and a few that forgot to close it.
pub const LISTENERS_MAX: usize = 16;
/// Events that wait for a listener; one that is further behind than so many seconds does not keep up.
const EVENTS_WAITING_MAX: usize = 8;
/// Pause between two looks, and so between two events: a person cannot follow more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time for one look; what is late is in the next one.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Silence after which a listener is told that the agent lives.
const BEAT_EVERY: Duration = Duration::from_secs(10);

/// Looks at what is watched.
#[async_trait]
pub trait Look: Send + Sync + 'static {
    /// Everything, as it is now.
    async fn look(&self) -> View;

    /// The counters of bytes alone; cheap, because it is asked every ten seconds whether anybody listens or not.
    fn traffic(&self) -> Traffic;
}

/// There are as many listeners as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{LISTENERS_MAX} others are watching this agent already; close one of them")]
pub struct Busy;

/// Hands out events. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    look: Box<dyn Look>,
    watched: Mutex<Watched>,
    history: Mutex<History>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Invariant: a task looks if and only if there are listeners.
#[derive(Default)]
struct Watched {
    /// What the listeners have been shown; nothing until the first look has ended.
    shown: Option<Shown>,
    listeners: Vec<mpsc::Sender<Bytes>>,
    /// Whether a task looks.
    looking: bool,
}

impl Feed {
    /// Nobody listens yet. `tasks` are those that end when `stop` is cancelled.
    pub fn new(look: impl Look, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        Feed(Arc::new(Inner {
            look: Box::new(look),
            watched: Mutex::default(),
            history: Mutex::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        }))
    }

    /// Begins to write down the counters of bytes, so that who looks later sees the last ten minutes.
    pub fn spawn(&self) {
        let feed = self.clone();
        self.0.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(traffic::MOMENT_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while feed.0.stop.run_until_cancelled(ticks.tick()).await.is_some() {
                feed.0.history.lock().write(now_ms(), feed.0.look.traffic());
            }
        });
    }

    /// Listens, until the [`Listener`] is dropped or does not keep up.
    ///
    /// # Errors
    /// There are too many listeners; nothing has been changed.
    pub fn listen(&self) -> Result<Listener, Busy> {
        let mut watched = self.0.watched.lock();
        watched.listeners.retain(|listener| !listener.is_closed());
        if watched.listeners.len() >= LISTENERS_MAX {
            return Err(Busy);
        }
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        if let Some(shown) = &watched.shown {
            let _ = sender.try_send(self.snapshot(shown));
        }
        watched.listeners.push(sender);
        if !std::mem::replace(&mut watched.looking, true) {
            self.0.tasks.spawn(self.clone().run());
        }
        Ok(Listener { events })
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.0.watched.lock().listeners.iter().filter(|listener| !listener.is_closed()).count()
    }

    async fn run(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.0.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let look = tokio::time::timeout(LOOK_MAX, self.0.look.look());
            let Some(view) = self.0.stop.run_until_cancelled(look).await else { break };
            if !self.tell(view.ok()) {
                return;
            }
        }
        *self.0.watched.lock() = Watched::default();
    }

    /// Tells what has changed. Whether anybody is still there.
    fn tell(&self, view: Option<View>) -> bool {
        let mut watched = self.0.watched.lock();
        watched.listeners.retain(|listener| !listener.is_closed());
        if watched.listeners.is_empty() {
            *watched = Watched::default();
            return false;
        }
        let Some(view) = view else { return true };
        let event = match &mut watched.shown {
            Some(shown) => shown.advance(view).map(|change| event("change", &change)),
            nothing => Some(self.snapshot(nothing.insert(Shown::new(view)))),
        };
        if let Some(event) = event {
            watched.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
        }
        true
    }

    fn snapshot(&self, shown: &Shown) -> Bytes {
        event("snapshot", &shown.snapshot(self.0.history.lock().moments()))
    }
}

/// One who listens.
pub struct Listener {
    events: mpsc::Receiver<Bytes>,
}

impl Listener {
    /// The next event as it goes over the wire, or a sign of life. `None` when the agent ends, and for one that was dropped.
    pub async fn next(&mut self) -> Option<Bytes> {
        match tokio::time::timeout(BEAT_EVERY, self.events.recv()).await {
            Ok(event) => event,
            Err(_) => Some(Bytes::from_static(b": still here\n\n")),
        }
    }
}

/// An event of `text/event-stream`. JSON has no line breaks of its own.
fn event(name: &str, data: &impl serde::Serialize) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    serde_json::to_writer(&mut text, data).expect("every event has a JSON form");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
        .unwrap_or(u64::MAX)
}
