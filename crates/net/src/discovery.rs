//! Where the others may be: fixed addresses, DNS names with an address for each node, DNS services.
//!
//! This says only where somebody *may* be; who is there is found out by connecting
//! ([`NetHandle::contact`](crate::NetHandle::contact)). Names are looked up again and again, because the nodes behind them
//! change: often while we are alone, more and more rarely once we know others, and each node at another time.
//!
//! Invariants: a lookup is waited for for a bounded time, and a round that has begun goes on to its end, whoever stops to
//! wait for it meanwhile; lookups that are not answered are few, and of different names; what one name brings is bounded; a
//! name that cannot be looked up brings what it brought last, so a broken DNS server costs news and nothing else.

mod dns;
mod lookup;
mod target;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use rand::Rng;
use tokio::time::{Instant, sleep_until};

pub use dns::SystemResolver;
use lookup::Lookups;
pub use target::{Target, TargetError};

/// Between two rounds while nobody else is known.
const PAUSE_ALONE: Duration = Duration::from_secs(2);

/// Longest pause between two rounds otherwise: for the day on which a cluster has fallen into two halves. The pauses before
/// it begin with [`PAUSE_ALONE`] and double: whoever was met first may be as lost as we were.
const PAUSE_SETTLED_MAX: Duration = Duration::from_secs(60);

/// A name that takes longer has failed. Longer than a resolver that tries its second server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);

/// Lookups at a time: a service has a name for each of its nodes. One that is late counts until it is answered: it may still
/// have a thread, and most of these are for the disk.
const LOOKUPS_MAX: usize = 16;

/// Addresses of one name, and nodes of one service, that are used. More nodes than that need not be called to meet one.
const ANSWERS_MAX: usize = 1024;

/// Looks up names.
pub trait Resolver: Send + Sync + 'static {
    /// The IPv4 and IPv6 addresses of `name`. Waited for to its end, on a task of its own: dropping it may not end what it has
    /// begun.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>>;

    /// The hosts and ports of the service `name`, such as `_shoal._tcp.example.org`. Dropped when it is late.
    fn service<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<(String, u16)>, LookupError>>;
}

/// Why a name was not looked up. Nobody's fault before the network is; tried again in the next round.
#[derive(Clone, Debug, thiserror::Error)]
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

/// What each place has brought in one round, by its number.
type Brought = Vec<(usize, Result<Vec<SocketAddr>, LookupError>)>;

/// Looks for others, round by round.
pub struct Discovery<R> {
    lookups: Arc<Lookups<R>>,
    places: Vec<Place>,
    own: BTreeSet<SocketAddr>,
    /// The round under way. Kept here, so that whoever waits for it next goes on with it.
    round: Option<BoxFuture<'static, Brought>>,
    /// When the last round ended.
    last: Option<Instant>,
    /// Before the last round that has begun, if we knew others then.
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

impl<R> fmt::Debug for Discovery<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("places", &self.places).finish_non_exhaustive()
    }
}

impl<R: Resolver> Discovery<R> {
    /// Will look at `targets`. `own` are the addresses at which we listen and under which we are announced.
    pub fn new(targets: Vec<Target>, own: &[SocketAddr], resolver: R) -> Self {
        Self {
            lookups: Arc::new(Lookups::new(resolver)),
            places: targets.into_iter().map(|target| Place { target, addresses: Vec::new() }).collect(),
            own: own.iter().copied().collect(),
            round: None,
            last: None,
            paused: Duration::ZERO,
            jitter: 1.0,
        }
    }

    /// Waits until it is time for a round (the first one is at once), and looks at all places. Safe to drop and to call
    /// again with another pace: a round that has begun then goes on, and its end is what the pause after it is counted from.
    /// Without any place it never returns.
    pub async fn next(&mut self, pace: Pace) -> Found {
        if self.places.is_empty() {
            std::future::pending::<()>().await;
        }
        if self.round.is_none() {
            let pause = match pace {
                Pace::Alone => PAUSE_ALONE,
                Pace::Settled => (2 * self.paused).clamp(PAUSE_ALONE, PAUSE_SETTLED_MAX),
            };
            if let Some(last) = self.last {
                sleep_until(last + pause.mul_f64(self.jitter)).await;
            }
            let has_waited = self.last.is_some();
            self.paused = if has_waited && pace == Pace::Settled { pause } else { Duration::ZERO };
        }
        let round = self.round.get_or_insert_with(|| {
            let targets = self.places.iter().map(|place| place.target.clone()).collect();
            look_everywhere(Arc::clone(&self.lookups), targets).boxed()
        });
        let brought = round.await;
        // From here on nothing is waited for: a round that has ended cannot be lost.
        self.round = None;
        self.last = Some(Instant::now());
        self.jitter = rand::rng().random_range(0.75..1.25);
        self.found(brought)
    }

    /// Remembers what a round has brought, and puts it together.
    fn found(&mut self, brought: Brought) -> Found {
        let mut problems = Vec::new();
        for (place, outcome) in brought {
            let place = &mut self.places[place];
            match outcome {
                Ok(addresses) => place.addresses = addresses,
                Err(error) => problems.push((place.target.clone(), error)),
            }
        }
        let addresses: BTreeSet<_> =
            self.places.iter().flat_map(|place| place.addresses.iter().copied()).collect();
        let mut addresses: Vec<_> = addresses.difference(&self.own).copied().collect();
        // A thousand nodes that start together do not all call the same one first.
        rand::seq::SliceRandom::shuffle(&mut addresses[..], &mut rand::rng());
        Found { addresses, problems }
    }
}

/// What is behind all targets.
async fn look_everywhere<R: Resolver>(lookups: Arc<Lookups<R>>, targets: Vec<Target>) -> Brought {
    let looks = targets.into_iter().enumerate().map(|(place, target)| {
        let lookups = Arc::clone(&lookups);
        async move { (place, look(&lookups, &target).await) }
    });
    stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKUPS_MAX).collect().await
}

/// The addresses behind one target.
async fn look<R: Resolver>(lookups: &Lookups<R>, target: &Target) -> Result<Vec<SocketAddr>, LookupError> {
    let addresses = match target {
        Target::Address(address) => vec![*address],
        Target::Name { name, port } => named(lookups, name, *port).await?,
        Target::Service(service) => {
            let nodes = lookups.service(service).await?;
            let looks = nodes.iter().take(ANSWERS_MAX).map(|(name, port)| named(lookups, name, *port));
            let found: Vec<_> = stream::iter(looks.collect::<Vec<_>>())
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

async fn named<R: Resolver>(
    lookups: &Lookups<R>,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, LookupError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let ips = lookups.addresses(name).await?;
    Ok(ips.into_iter().take(ANSWERS_MAX).map(|ip| SocketAddr::new(ip.to_canonical(), port)).collect())
}

#[cfg(test)]
mod tests;
