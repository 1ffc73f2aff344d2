//! Does the store take what it is given, and if not, why?
//!
//! Answer: the last error says why; a success takes an error of the disk back, and room for a blob of that size, or some
//! minutes without another refusal, take back that the store is full: a small blob that fits proves nothing for a large one.
//! Prevents: an operator who replaces a good disk because `store.capacity` is too small, and a log that says the same for
//! every request.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shoal_store::{FullCause, Store, StoreError};
use tokio::time::Instant;

use crate::causes::chain;
use crate::metrics::Metrics;

/// How long a store counts as full after it has last refused a blob.
const FULL_FOR: Duration = Duration::from_secs(10 * 60);
/// Pause between two lines of the log that give the same reason.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why the store does not take a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `store.capacity` is taken by what is pinned or in use, or is less than the blob needs.
    Capacity,
    /// The file system has no space left, or no more than `store.disk_free_min`.
    DiskFull,
    /// The disk or the index answers with errors.
    DiskError,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 3] = [Reason::Capacity, Reason::DiskFull, Reason::DiskError];

    /// The word for it, in metrics and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Capacity => "capacity",
            Reason::DiskFull => "disk-full",
            Reason::DiskError => "disk-error",
        }
    }
}

/// Why blobs go past the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreTrouble {
    /// Why.
    pub reason: Reason,
    /// What the store said, in one line.
    pub error: String,
    /// Bytes that were needed, where there was no room.
    #[serde(default)]
    pub needed: Option<u64>,
    /// When that was last so, seconds ago.
    pub seconds_ago: u64,
}

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct StoreHealth(Arc<Inner>);

struct Inner {
    store: Store,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    /// For each reason: when it was last logged, and how often it was not since.
    logged: [Option<(Instant, u64)>; Reason::ALL.len()],
}

struct Trouble {
    reason: Reason,
    error: String,
    needed: Option<u64>,
    at: Instant,
}

impl StoreHealth {
    /// Of a store of which nothing bad is known.
    pub fn new(store: Store, metrics: Arc<Metrics>) -> Self {
        metrics.store_degraded(None);
        StoreHealth(Arc::new(Inner { store, metrics, state: Mutex::default() }))
    }

    /// Runs a call of the store on a thread that may wait for the disk. `None` stands for a store that cannot be used; that is
    /// noted here, and said as often as anything else of it.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => None,
        }
    }

    /// The disk did what it was asked.
    pub fn works(&self) {
        self.recover(|trouble| trouble.reason == Reason::DiskError);
    }

    /// There was room for a blob of so many bytes.
    pub fn has_room(&self, bytes: u64) {
        self.recover(|trouble| trouble.needed.is_none_or(|needed| needed <= bytes));
    }

    /// The store said no.
    pub fn failed(&self, error: &StoreError) {
        let (reason, needed) = why(error);
        self.fails(reason, needed, chain(error));
    }

    /// What was written cannot be read.
    pub fn unreadable(&self, error: &dyn Error) {
        self.fails(Reason::DiskError, None, chain(error));
    }

    /// Why blobs go past the store, if they do.
    pub fn trouble(&self) -> Option<StoreTrouble> {
        let now = Instant::now();
        self.recover(|trouble| trouble.reason != Reason::DiskError && now - trouble.at >= FULL_FOR);
        let state = self.0.state.lock();
        state.trouble.as_ref().map(|trouble| StoreTrouble {
            reason: trouble.reason,
            error: trouble.error.clone(),
            needed: trouble.needed,
            seconds_ago: (now - trouble.at).as_secs(),
        })
    }

    fn recover(&self, is_over: impl FnOnce(&Trouble) -> bool) {
        let mut state = self.0.state.lock();
        if state.trouble.take_if(|trouble| is_over(trouble)).is_some() {
            self.0.metrics.store_degraded(None);
        }
    }

    fn fails(&self, reason: Reason, needed: Option<u64>, error: String) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        self.0.metrics.store_degraded(Some(reason));
        // The largest that found no room decides when there is room again.
        let before = state.trouble.take().filter(|before| before.reason == reason);
        let most = before.and_then(|before| before.needed).max(needed);
        state.trouble = Some(Trouble { reason, error: error.clone(), needed: most, at: now });
        let logged = &mut state.logged[reason as usize];
        match logged {
            Some((at, unsaid)) if now - *at < LOG_EVERY => *unsaid += 1,
            _ => {
                let unsaid = logged.map_or(0, |(_, unsaid)| unsaid);
                *logged = Some((now, 0));
                drop(state);
                self.log(reason, needed, error, unsaid);
            }
        }
    }

    /// Says it with the figures that tell what to do; they are read from the disk, which may take its time.
    fn log(&self, reason: Reason, needed: Option<u64>, error: String, unsaid: u64) {
        let store = self.0.store.clone();
        let say = move || {
            if reason == Reason::DiskError {
                return tracing::error!(%error, unsaid, "the store cannot be used; pulls go straight upstream");
            }
            let usage = store.usage().unwrap_or_default();
            let (used, pinned) = (usage.bytes(), usage.pinned_bytes);
            let (capacity, disk_free) = (usage.capacity, usage.disk_free);
            tracing::error!(
                reason = reason.word(), needed, used, pinned, capacity, disk_free, %error, unsaid,
                "the store is full; what finds no room goes straight upstream"
            );
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(say)),
            Err(_) => say(),
        }
    }
}

fn why(error: &StoreError) -> (Reason, Option<u64>) {
    match error {
        StoreError::Full { cause: FullCause::Capacity { needed, .. }, .. } => {
            (Reason::Capacity, Some(*needed))
        }
        StoreError::Full { cause: FullCause::DiskFree { needed, .. }, .. } => {
            (Reason::DiskFull, Some(*needed))
        }
        StoreError::Full { .. } => (Reason::DiskFull, None),
        StoreError::Broken { .. } => (Reason::DiskError, None),
    }
}

#[cfg(test)]
mod tests {
    use shoal_store::Options;

    use super::*;

    fn full(needed: u64) -> StoreError {
        let cause = FullCause::Capacity { needed, stored: 50, capacity: 100 };
        StoreError::Full { operation: "make a partial blob", path: "/data".into(), cause }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_a_trouble_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let metrics = Metrics::new();
        let health = StoreHealth::new(store, Arc::clone(&metrics));
        let gauge = |reason: &str| {
            let wanted = format!("shoal_store_degraded{{reason=\"{reason}\"}} ");
            let text = metrics.encode();
            text.lines().find_map(|line| line.strip_prefix(&wanted).map(str::to_owned)).unwrap()
        };
        let reason = || health.trouble().map(|trouble| trouble.reason);
        assert_eq!((reason(), gauge("capacity")), (None, "0".into()));

        // What fits proves nothing for what is larger.
        health.failed(&full(80));
        health.failed(&full(60));
        health.works();
        health.has_room(79);
        assert_eq!((reason(), gauge("capacity")), (Some(Reason::Capacity), "1".into()));
        assert!(health.trouble().unwrap().error.contains("60 bytes are needed, 50 of 100"));
        health.has_room(80);
        assert_eq!((reason(), gauge("capacity")), (None, "0".into()));

        health.failed(&full(80));
        tokio::time::advance(FULL_FOR).await;
        assert_eq!((reason(), gauge("capacity")), (None, "0".into()));

        health.failed(&full(80));
        health.unreadable(&std::io::Error::from_raw_os_error(libc::EIO));
        assert_eq!((gauge("capacity"), gauge("disk-error")), ("0".into(), "1".into()));
        tokio::time::advance(FULL_FOR).await;
        assert_eq!(reason(), Some(Reason::DiskError));
        health.works();
        assert_eq!((reason(), gauge("disk-error")), (None, "0".into()));
    }
    #[tokio::test]
    async fn a_call_that_fails_is_noted_and_costs_its_caller_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let health = StoreHealth::new(store, Metrics::new());
        assert_eq!(health.on_disk(|store| Ok(store.usage()?.blobs)).await, Some(0));
        assert!(health.trouble().is_none());
        assert_eq!(health.on_disk(|_| Err::<(), _>(full(80))).await, None);
        assert_eq!(health.trouble().unwrap().needed, Some(80));
    }
}
