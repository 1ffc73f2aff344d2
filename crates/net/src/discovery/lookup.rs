//! Lookups: each name once at a time, and few names at a time.
//!
//! The C library's resolver has a thread for each name until it has answered, and goes on when nobody waits any more. These
//! are the threads that read and write blobs as well.
//!
//! Invariants: a name is not looked up again before the resolver has answered for it; names that it has not answered for are
//! [`LOOKUPS_MAX`] at most, however late they are; nobody waits for longer than [`LOOKUP_TIMEOUT`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::{LOOKUP_TIMEOUT, LOOKUPS_MAX, LookupError, Resolver};

/// What is said of a name, once it is.
type Answer = Option<Result<Vec<IpAddr>, LookupError>>;

type UnderWay = Mutex<BTreeMap<String, watch::Receiver<Answer>>>;

/// A resolver, and what it is at.
pub(super) struct Lookups<R> {
    resolver: Arc<R>,
    /// By name.
    under_way: Arc<UnderWay>,
    places: Arc<Semaphore>,
}

impl<R: Resolver> Lookups<R> {
    pub(super) fn new(resolver: R) -> Self {
        Lookups {
            resolver: Arc::new(resolver),
            under_way: Arc::default(),
            places: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// The hosts and ports of the service `name`.
    pub(super) async fn service(&self, name: &str) -> Result<Vec<(String, u16)>, LookupError> {
        timeout(LOOKUP_TIMEOUT, self.resolver.service(name)).await.unwrap_or(Err(LookupError::Late))
    }

    /// The addresses of `name`. Whoever gives up earlier ends nothing: the next one waits for the same answer.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let answered = async {
            let mut answer = self.ask(name).await;
            let answer = answer.wait_for(Option::is_some).await;
            // Without an answer the runtime is ending, or the resolver has panicked.
            answer.ok().and_then(|answer| answer.clone()).unwrap_or(Err(LookupError::Late))
        };
        timeout(LOOKUP_TIMEOUT, answered).await.unwrap_or(Err(LookupError::Late))
    }

    /// Where the answer for `name` will be: asks for it as soon as there is a place, unless that is under way.
    async fn ask(&self, name: &str) -> watch::Receiver<Answer> {
        let asked = self.under_way.lock().get(name).cloned();
        if let Some(answer) = asked {
            return answer;
        }
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let mut under_way = self.under_way.lock();
        // Somebody else may have asked while this one waited for its place.
        under_way.entry(name.to_owned()).or_insert_with(|| self.begin(name, place)).clone()
    }

    /// Asks on a task of its own, which ends with the resolver's answer alone.
    fn begin(&self, name: &str, place: OwnedSemaphorePermit) -> watch::Receiver<Answer> {
        let (told, answer) = watch::channel(None);
        let resolver = Arc::clone(&self.resolver);
        let lookup = Lookup { name: name.to_owned(), under_way: Arc::clone(&self.under_way), _place: place };
        tokio::spawn(async move {
            let answer = resolver.addresses(&lookup.name).await;
            drop(lookup);
            // Nobody waits for one that is late.
            let _ = told.send(Some(answer));
        });
        answer
    }
}

/// A lookup under way. Ends with the resolver's answer, whoever has stopped to wait for it meanwhile.
struct Lookup {
    name: String,
    under_way: Arc<UnderWay>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.name);
    }
}
