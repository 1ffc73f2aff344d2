//! Does the store take what it is given, and if not, why?
//!
//! Answer: the last error says why; a success takes an error of the disk back, and room for a blob of that size, or some
//! minutes without another refusal, take back that the store is full: a small blob that fits proves nothing for a large one.
//! A disk that does not answer counts as one with errors, until it has answered all that it was asked. What becomes of single
//! blobs that cannot be read is for `files.rs` to say.
//! Prevents: an operator who replaces a good disk because `store.capacity` is too small, a log that says the same for
//! every request, and pulls and threads that wait for a disk that hangs.

mod files;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use shoal_engine::LocalFault;
use shoal_store::{BrokenCause, FullCause, Store, StoreError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::causes::chain;
use crate::metrics::Metrics;

pub(crate) use files::{StoredFile, overdue};

/// How long a store counts as full after it has last refused a blob.
const FULL_FOR: Duration = Duration::from_secs(10 * 60);
/// Pause between two lines of the log that give the same reason.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// How long the disk may take. One under load takes seconds; what has waited longer would have no time left to come from upstream
/// within `registry.answer_timeout`.
const DISK_ANSWER_MAX: Duration = Duration::from_secs(10);
/// What a disk reads or takes of one blob while others want it as well, bytes per second; a slower one counts as one that hangs.
/// What `fsync` waits for grows with the blob: a bound for all sizes would make a large one on a slow disk an outage.
const DISK_BYTES_PER_SECOND_MIN: u64 = 8 << 20;
/// Calls that wait for the disk at a time: half of the threads that may, so that a disk that hangs leaves some for all else.
const DISK_CALLS_MAX: usize = 64;
/// Reads of stored files that wait for the disk at a time: a quarter of these threads, beside the calls.
const DISK_READS_MAX: usize = 32;

/// Why the store does not take a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `store.capacity` is taken by what is pinned or in use, or is less than the blob needs.
    Capacity,
    /// The file system has no space left, or no more than `store.disk_free_min`.
    DiskFull,
    /// The disk or the index answers with errors, or not at all.
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

/// Why work on this node's disk failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading back what was written.
    #[error("cannot read back what was received: {0}")]
    ReadBack(#[from] std::io::Error),
}

/// How long the disk may take for work that may have to read so many bytes or to bring them onto it.
pub(crate) fn patience_with_disk(bytes: u64) -> Duration {
    DISK_ANSWER_MAX + Duration::from_secs(bytes / DISK_BYTES_PER_SECOND_MIN)
}

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct StoreHealth(Arc<Inner>);

struct Inner {
    store: Store,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Places for calls that wait for the disk.
    places: Arc<Semaphore>,
    /// The same for reads of stored files.
    reads: Arc<Semaphore>,
    doubts: files::Doubts,
}

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    /// Calls of the store under way by when they are due, the first one first, each with a number of its own and with how long
    /// it may take.
    calls: BTreeMap<(Instant, u64), Duration>,
    calls_begun: u64,
    /// For each reason: when it was last logged, and how often it was not since.
    logged: [Option<(Instant, u64)>; Reason::ALL.len()],
}

impl State {
    /// How long something was to wait for the disk at most that has waited for longer, and still does.
    fn overdue(&self, now: Instant) -> Option<Duration> {
        let ((due_at, _), patience) = self.calls.first_key_value()?;
        (now >= *due_at).then_some(*patience)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.overdue(now).is_some()
    }
}

struct Trouble {
    reason: Reason,
    error: String,
    needed: Option<u64>,
    at: Instant,
}

/// A call of the store under way. Ends with the call, whoever has stopped to wait for it meanwhile.
struct Call {
    health: StoreHealth,
    key: (Instant, u64),
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.health.0.state.lock();
        let was_overdue = state.is_overdue(Instant::now());
        state.calls.remove(&self.key);
        if was_overdue {
            // It may answer again. If it does so with an error, that is noted next.
            self.health.recover_in(&mut state, |trouble| trouble.reason == Reason::DiskError);
        }
    }
}

impl StoreHealth {
    /// Of a store of which nothing bad is known.
    pub fn new(store: Store, metrics: Arc<Metrics>) -> Self {
        metrics.store_degraded(None);
        let (places, reads) =
            (Arc::new(Semaphore::new(DISK_CALLS_MAX)), Arc::new(Semaphore::new(DISK_READS_MAX)));
        let (state, doubts) = (Mutex::default(), files::Doubts::default());
        StoreHealth(Arc::new(Inner { store, metrics, state, places, reads, doubts }))
    }

    /// Runs a call of the store on a thread that may wait for the disk. `None` stands for a store that cannot be used, or does
    /// not answer in time; that is noted here, and said as often as anything else of it. While something waits for a disk that
    /// hangs, nothing else is asked of it.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        self.on_disk_by_size(0, move |store| Ok(work(store)?)).await.ok()
    }

    /// The same for work that may have to read so many bytes or to bring them onto the disk, and gets the time for that. An
    /// error is what a flight is told.
    pub(crate) async fn on_disk_by_size<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce(&Store) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, LocalFault> {
        if self.hangs() {
            return Err(LocalFault::StoreBroken);
        }
        let patience = patience_with_disk(bytes);
        let due_at = Instant::now() + patience;
        let answered = async {
            let place = Arc::clone(&self.0.places).acquire_owned().await;
            let place = place.map_err(|_| LocalFault::StoreBroken)?;
            let call = self.begin(due_at, patience);
            let working = tokio::task::spawn_blocking(move || {
                let done = work(&call.health.0.store);
                let health = call.health.clone();
                drop((call, place));
                // Noted here and not where it is waited for: whoever asked may have given up.
                done.map_err(|error| health.fault_of(&error))
            });
            // An error means that it panicked.
            working.await.unwrap_or(Err(LocalFault::StoreBroken))
        };
        match tokio::time::timeout_at(due_at, answered).await {
            Ok(answer) => answer,
            Err(_) => {
                // Unless it was too busy with others, and answers these.
                self.hangs();
                Err(LocalFault::StoreBroken)
            }
        }
    }

    fn begin(&self, due_at: Instant, patience: Duration) -> Call {
        let mut state = self.0.state.lock();
        state.calls_begun += 1;
        let key = (due_at, state.calls_begun);
        state.calls.insert(key, patience);
        Call { health: self.clone(), key }
    }

    /// Whether the disk does not answer; that is noted. Whoever would have to wait for it goes past it.
    pub fn hangs(&self) -> bool {
        let state = self.0.state.lock();
        let Some(patience) = state.overdue(Instant::now()) else { return false };
        let error = format!("the disk has not answered for {} s", patience.as_secs());
        self.note(state, Reason::DiskError, None, error);
        true
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
        if let StoreError::Broken { cause: BrokenCause::Closed(_), .. } = error {
            // Another writer has come before this one, which no disk is to blame for.
            return tracing::debug!(%error, "a partial blob belongs to somebody else by now");
        }
        let (reason, needed) = why(error);
        self.note(self.0.state.lock(), reason, needed, chain(error));
    }

    /// What a flight is told of work that failed. Why it did is noted.
    fn fault_of(&self, error: &DiskError) -> LocalFault {
        match error {
            DiskError::Store(error) => {
                self.failed(error);
                error.fault()
            }
            DiskError::ReadBack(_) => {
                self.unreadable(error);
                LocalFault::StoreBroken
            }
        }
    }

    /// What was written, or is stored, cannot be read.
    pub fn unreadable(&self, error: &dyn Error) {
        self.note(self.0.state.lock(), Reason::DiskError, None, chain(error));
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
        self.recover_in(&mut self.0.state.lock(), is_over);
    }

    fn recover_in(&self, state: &mut State, is_over: impl FnOnce(&Trouble) -> bool) {
        // That it has answered somebody says nothing about those who still wait for it.
        if state.is_overdue(Instant::now()) {
            return;
        }
        if state.trouble.take_if(|trouble| is_over(trouble)).is_some() {
            self.0.metrics.store_degraded(None);
        }
    }

    fn note(&self, mut state: MutexGuard<'_, State>, reason: Reason, needed: Option<u64>, error: String) {
        let now = Instant::now();
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
pub(crate) mod tests {
    use std::sync::mpsc;

    use shoal_store::Options;
    use tempfile::TempDir;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// Of a store that is empty.
    pub(crate) fn healthy() -> (TempDir, StoreHealth) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        (folder, StoreHealth::new(store, Metrics::new()))
    }

    /// A call of the store that has begun, and does not return before the sender is dropped.
    pub(crate) async fn hang(health: &StoreHealth) -> (mpsc::Sender<()>, JoinHandle<Option<()>>) {
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let health = health.clone();
        let asked = tokio::spawn(async move {
            let answer = health.on_disk(move |_| {
                let _ = begin.send(());
                let _ = ended.recv();
                Ok(())
            });
            answer.await
        });
        begun.await.unwrap();
        (end, asked)
    }

    /// How long a disk that hangs counts as one.
    pub(crate) async fn pass_the_deadline() {
        tokio::time::advance(DISK_ANSWER_MAX).await;
    }

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
        let (_folder, health) = healthy();
        assert_eq!(health.on_disk(|store| Ok(store.usage()?.blobs)).await, Some(0));
        assert!(health.trouble().is_none());
        assert_eq!(health.on_disk(|_| Err::<(), _>(full(80))).await, None);
        assert_eq!(health.trouble().unwrap().needed, Some(80));
    }

    #[tokio::test]
    async fn what_a_flight_is_told_of_work_that_fails() {
        let (_folder, health) = healthy();
        let told = health.on_disk_by_size(1, |_| Err::<(), _>(full(80).into())).await;
        let reason = || health.trouble().unwrap().reason;
        assert_eq!((told, reason()), (Err(LocalFault::StoreFull), Reason::Capacity));
        let unread = std::io::Error::from_raw_os_error(libc::EIO);
        let told = health.on_disk_by_size(1, move |_| Err::<(), _>(unread.into())).await;
        assert_eq!((told, reason()), (Err(LocalFault::StoreBroken), Reason::DiskError));
        assert!(health.trouble().unwrap().error.contains("cannot read back"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_blob_takes_its_time_and_not_for_ever() {
        let (_folder, health) = healthy();
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let asked = tokio::spawn({
            let health = health.clone();
            async move {
                let work = move |_: &Store| {
                    let _ = begin.send(());
                    let _ = ended.recv();
                    Ok(())
                };
                health.on_disk_by_size(5 * DISK_BYTES_PER_SECOND_MIN, work).await
            }
        });
        begun.await.unwrap();
        pass_the_deadline().await;
        assert!(!health.hangs(), "it has no more time than a small one");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(health.hangs());
        assert_eq!(asked.await.unwrap(), Err(LocalFault::StoreBroken));
        drop(end);
    }

    /// Two that receive one blob are no fault of the disk.
    #[test]
    fn a_partial_that_belongs_to_somebody_else_is_no_trouble() {
        let (_folder, health) = healthy();
        let cause = BrokenCause::Closed("taken over by another writer");
        health.failed(&StoreError::Broken { operation: "write a partial blob", path: "/data".into(), cause });
        assert!(health.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_waited_for_once() {
        let (_folder, health) = healthy();
        for gives_up in [false, true] {
            let (end, asked) = hang(&health).await;
            assert!(!health.hangs() && health.trouble().is_none());
            if gives_up {
                asked.abort();
            }
            pass_the_deadline().await;
            assert_eq!(asked.await.ok(), (!gives_up).then_some(None));
            // Nobody waits for it any more.
            assert_eq!(health.on_disk(|_| Ok(())).await, None);
            let trouble = health.trouble().unwrap();
            let told = (trouble.reason, trouble.error.as_str());
            assert_eq!(told, (Reason::DiskError, "the disk has not answered for 10 s"));
            health.works();
            assert!(health.trouble().is_some(), "it has answered somebody else");

            drop(end);
            let patience = std::time::Instant::now() + Duration::from_secs(30);
            while health.hangs() {
                assert!(std::time::Instant::now() < patience, "it has returned, and counts all the same");
                std::thread::yield_now();
            }
            assert!(health.trouble().is_none());
            assert_eq!(health.on_disk(|_| Ok(())).await, Some(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_does_not_get_all_threads() {
        let (_folder, health) = healthy();
        let mut hanging = Vec::new();
        for _ in 0..DISK_CALLS_MAX {
            hanging.push(hang(&health).await);
        }
        let one_more = tokio::spawn({
            let health = health.clone();
            async move { health.on_disk(|_| Ok(())).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(health.0.state.lock().calls.len(), DISK_CALLS_MAX);
        // As soon as one of them returns it has its turn.
        drop(hanging.pop());
        assert_eq!(one_more.await.unwrap(), Some(()));
    }
}
