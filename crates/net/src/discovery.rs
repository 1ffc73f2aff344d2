//! Where the others may be: fixed addresses, DNS names with an address for each node, DNS services.
//!
//! This says only where somebody *may* be; who is there is found out by connecting
//! ([`NetHandle::contact`](crate::NetHandle::contact)). Names are looked up again and again, because the nodes behind them
//! change: often while we are alone, more and more rarely once we know others, and each node at another time.
//!
//! Invariants: a lookup ends in time; what one name brings is bounded; a name that cannot be looked up brings what it
//! brought last, so a broken DNS server costs news and nothing else.

mod dns;
mod target;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout};

pub use dns::SystemResolver;
pub use target::{Target, TargetError};

/// Between two rounds while nobody else is known.
const PAUSE_ALONE: Duration = Duration::from_secs(2);

/// Longest pause between two rounds otherwise: for the day on which a cluster has fallen into two halves. The pauses before
/// it begin with [`PAUSE_ALONE`] and double: whoever was met first may be as lost as we were.
const PAUSE_SETTLED_MAX: Duration = Duration::from_secs(60);

/// A name that takes longer has failed. Longer than a resolver that tries its second server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);

/// Lookups at a time: a service has a name for each of its nodes.
const LOOKUPS_MAX: usize = 16;

/// Addresses of one name, and nodes of one service, that are used. More nodes than that need not be called to meet one.
const ANSWERS_MAX: usize = 1024;

/// Looks up names.
pub trait Resolver: Send + Sync + 'static {
    /// The IPv4 and IPv6 addresses of `name`.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>>;

    /// The hosts and ports of the service `name`, such as `_shoal._tcp.example.org`.
    fn service<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<(String, u16)>, LookupError>>;
}

/// Why a name was not looked up. Nobody's fault before the network is; tried again in the next round.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The resolver says so.
    #[error("{0}")]
    Failed(String),
    /// It says nothing.
    #[error("no answer within {} s", LOOKUP_TIMEOUT.as_secs())]
    Late,
    /// It has no addresses.
    #[error("there is no such name, or nobody behind it")]
    Nobody,
}

/// How urgent it is to find somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// We know nobody: every two seconds.
    Alone,
    /// We know others: after two seconds, then four, and so on up to every minute. From the beginning after a round alone.
    Settled,
}

/// What one round has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Where others may be: each once, our own left out, in random order.
    pub addresses: Vec<SocketAddr>,
    /// What could not be looked up, for the log.
    pub problems: Vec<(Target, LookupError)>,
}

/// Looks for others, round by round.
#[derive(Debug)]
pub struct Discovery<R> {
    resolver: Arc<R>,
    places: Vec<Place>,
    own: BTreeSet<SocketAddr>,
    last: Option<Instant>,
    /// Before the last round, if we knew others then.
    paused: Duration,
    /// Of the pause, so that nodes that were started together do not ask together.
    jitter: f64,
}

#[derive(Debug)]
struct Place {
    target: Target,
    /// What it brought last.
    addresses: Vec<SocketAddr>,
}

impl<R: Resolver> Discovery<R> {
    /// Will look at `targets`. `own` are the addresses at which we listen and under which we are announced.
    pub fn new(targets: Vec<Target>, own: &[SocketAddr], resolver: R) -> Self {
        Self {
            resolver: Arc::new(resolver),
            places: targets.into_iter().map(|target| Place { target, addresses: Vec::new() }).collect(),
            own: own.iter().copied().collect(),
            last: None,
            paused: Duration::ZERO,
            jitter: 1.0,
        }
    }

    /// Waits until it is time for a round (the first one is at once), and looks at all places. Safe to drop and to call
    /// again with another pace; without any place it never returns.
    pub async fn next(&mut self, pace: Pace) -> Found {
        if self.places.is_empty() {
            std::future::pending::<()>().await;
        }
        let pause = match pace {
            Pace::Alone => PAUSE_ALONE,
            Pace::Settled => (2 * self.paused).clamp(PAUSE_ALONE, PAUSE_SETTLED_MAX),
        };
        if let Some(last) = self.last {
            sleep_until(last + pause.mul_f64(self.jitter)).await;
        }
        let found = self.round().await;
        let has_waited = self.last.replace(Instant::now()).is_some();
        self.paused = if has_waited && pace == Pace::Settled { pause } else { Duration::ZERO };
        self.jitter = rand::rng().random_range(0.75..1.25);
        found
    }

    async fn round(&mut self) -> Found {
        let resolver = &*self.resolver;
        let lookups: Vec<_> = self
            .places
            .iter_mut()
            .map(|place| async move {
                match look(resolver, &place.target).await {
                    Ok(addresses) => {
                        place.addresses = addresses;
                        (&place.addresses, None)
                    }
                    Err(error) => (&place.addresses, Some((place.target.clone(), error))),
                }
            })
            .collect();
        let mut addresses = BTreeSet::new();
        let mut problems = Vec::new();
        let mut results = stream::iter(lookups).buffer_unordered(LOOKUPS_MAX);
        while let Some((found, problem)) = results.next().await {
            addresses.extend(found.iter().copied());
            problems.extend(problem);
        }
        let mut addresses: Vec<_> = addresses.difference(&self.own).copied().collect();
        // A thousand nodes that start together do not all call the same one first.
        rand::seq::SliceRandom::shuffle(&mut addresses[..], &mut rand::rng());
        Found { addresses, problems }
    }
}

/// The addresses behind one target.
async fn look<R: Resolver>(resolver: &R, target: &Target) -> Result<Vec<SocketAddr>, LookupError> {
    let addresses = match target {
        Target::Address(address) => vec![*address],
        Target::Name { name, port } => named(resolver, name, *port).await?,
        Target::Service(service) => {
            let nodes = in_time(resolver.service(service)).await?;
            let lookups = nodes.iter().take(ANSWERS_MAX).map(|(name, port)| named(resolver, name, *port));
            let found: Vec<_> = stream::iter(lookups.collect::<Vec<_>>())
                .buffer_unordered(LOOKUPS_MAX)
                // A node of a service may be gone by now.
                .filter_map(|found| async { found.ok() })
                .collect()
                .await;
            found.concat()
        }
    };
    if addresses.is_empty() { Err(LookupError::Nobody) } else { Ok(addresses) }
}

async fn named<R: Resolver>(resolver: &R, name: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let ips = in_time(resolver.addresses(name)).await?;
    Ok(ips.into_iter().take(ANSWERS_MAX).map(|ip| SocketAddr::new(ip.to_canonical(), port)).collect())
}

async fn in_time<T>(lookup: BoxFuture<'_, Result<T, LookupError>>) -> Result<T, LookupError> {
    timeout(LOOKUP_TIMEOUT, lookup).await.unwrap_or(Err(LookupError::Late))
}

#[cfg(test)]
mod tests;
