//! One piece of work per key at a time, for everybody who asks meanwhile.
//!
//! Invariants: the work is done by a task of its own, so a client that leaves never cancels what others wait for; a
//! result is handed to exactly those who were waiting when it came; nothing is remembered afterwards (D1).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument as _;

/// Times a waiter leads after leaders before it have failed.
const LEADS_MAX: usize = 3;

/// A result, and whether nobody but the leader waited for it.
type Told<V> = Option<(V, bool)>;
type Waiting<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Told<V>>>>>;

/// See the module's head.
pub(super) struct Single<K, V>(Waiting<K, V>);

/// Whether the caller's own work was done or it joined another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It was its own.
    Leader {
        /// Whether nobody else waited when the result came.
        alone: bool,
    },
    /// It was another's.
    Waiter,
}

impl<K, V> Single<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub fn new() -> Self {
        Single(Arc::default())
    }

    /// Does `work`, or waits for the same key's work that is under way. `None` if the work panicked. Where results are remembered, the
    /// work begins with a look at them: another's may have ended between the caller's own look and its turn.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> (Role, Option<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (leads, mut receiver) = {
            let mut waiting = self.0.lock();
            match waiting.get(&key) {
                Some(receiver) => (false, receiver.clone()),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    waiting.insert(key.clone(), receiver.clone());
                    let entry = Entry { waiting: Arc::clone(&self.0), key };
                    let work = work();
                    let done = async move {
                        let value = work.await;
                        // Removed before the result is told: who comes now begins anew.
                        drop(entry);
                        let alone = sender.receiver_count() <= 1;
                        let _ = sender.send(Some((value, alone)));
                    };
                    tokio::spawn(done.in_current_span());
                    (true, receiver)
                }
            }
        };
        let told = receiver.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        let (value, alone) = told.map_or((None, true), |(value, alone)| (Some(value), alone));
        (if leads { Role::Leader { alone } } else { Role::Waiter }, value)
    }
}

impl<K, T, E> Single<K, Result<T, E>>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Does what `work` makes, or waits for the same key's work that is under way, until it is done. A failure is not
    /// handed to those who waited: if `is_worth_a_retry`, the next one leads. `None` if nothing came of it at all.
    pub async fn run_until_done<F>(
        &self,
        key: K,
        work: impl Fn() -> F,
        is_worth_a_retry: impl Fn(&E) -> bool,
    ) -> Result<T, Option<E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut last = None;
        for _ in 0..LEADS_MAX {
            let (role, value) = self.run(key.clone(), &work).await;
            match (role, value) {
                (_, Some(Ok(done))) => return Ok(done),
                // With nobody else waiting one request is all that a sick source is asked (F10).
                (Role::Leader { alone: true }, Some(Err(error))) => return Err(Some(error)),
                (_, Some(Err(error))) if !is_worth_a_retry(&error) => return Err(Some(error)),
                (_, Some(Err(error))) => last = Some(error),
                (_, None) => {}
            }
        }
        Err(last)
    }
}

/// Removes the key, also when the work panics.
struct Entry<K: Eq + Hash, V> {
    waiting: Waiting<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn twenty_callers_are_one_piece_of_work() {
        let single = Arc::new(Single::<u8, usize>::new());
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = |single: Arc<Single<u8, usize>>| {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let work = || async move {
                    gate.notified().await;
                    runs.fetch_add(1, Ordering::SeqCst)
                };
                single.run(1, work).await
            }
        };
        let calls: Vec<_> = (0..20).map(|_| tokio::spawn(call(Arc::clone(&single)))).collect();
        while Arc::strong_count(&runs) < 2 {
            tokio::task::yield_now().await;
        }
        // The leader may leave; its work goes on for the others.
        gate.notify_one();
        let mut leaders = 0;
        for call in calls {
            let (role, value) = call.await.unwrap();
            assert_eq!(value, Some(0));
            leaders += usize::from(role == Role::Leader { alone: false });
        }
        assert_eq!((leaders, runs.load(Ordering::SeqCst)), (1, 1));
        assert!(single.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_does_not_take_the_work_along() {
        let single = Arc::new(Single::<u8, u8>::new());
        let gate = Arc::new(Notify::new());
        let leader = {
            let (single, gate) = (Arc::clone(&single), Arc::clone(&gate));
            tokio::spawn(async move {
                let work = move || async move {
                    gate.notified().await;
                    7
                };
                single.run(1, work).await
            })
        };
        while single.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        leader.abort();
        let _ = leader.await;
        gate.notify_one();
        let (role, value) =
            single.run(1, || async { unreachable!("the first work is still under way") }).await;
        assert_eq!((role, value), (Role::Waiter, Some(7)));
    }

    #[tokio::test]
    async fn a_panic_is_nobodys_hang() {
        let single = Single::<u8, u8>::new();
        let (_, value) = single.run(1, || async { panic!("as wanted") }).await;
        assert_eq!(value, None);
        assert_eq!(single.run(1, || async { 3 }).await.1, Some(3));
    }
}
