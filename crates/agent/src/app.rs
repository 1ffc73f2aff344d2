//! The agent's life: configuration -> build -> spawn -> drain.
//!
//! Invariant: everything that can be refused is refused in [`App::build`], before a client can connect; from
//! [`App::spawn`] on the agent answers, whatever breaks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use shoal_store::{OpenReport, Store};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::remote::{self, Material, MaterialError, RemoteSettings};
use crate::admin::{self, AdminState, ObserveState, Readiness};
use crate::config::Config;
use crate::driver;
use crate::listing::{ListingSettings, Listings};
use crate::metrics::Metrics;
use crate::node::{Node, Parts};
use crate::page;
use crate::registry::listen::{self, BindError};
use crate::registry::proof::{Proofs, proof_router};
use crate::registry::{self, FrontSettings};
use crate::sources::Sources;
use crate::store_health::StoreHealth;
use crate::swarm::{self, Bound, Swarm, SwarmError};
use crate::tier::{Tier, TierSettingsError};
use crate::upstream::{SettingsError, Upstream};
use crate::warm::Warmer;
use crate::watch::{self, AgentLook, Feed};

/// How long the end waits for those who watch the agent or have asked it for something, and for a sweep of the store. What was
/// learned has to reach the disk before a service manager loses its patience.
const CALLERS_END_MAX: Duration = Duration::from_secs(3);

/// Why the agent does not start. Each error names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] shoal_store::OpenError),
    /// The upstream settings cannot be used.
    #[error(transparent)]
    Upstream(#[from] SettingsError),
    /// The object store's settings cannot be used.
    #[error(transparent)]
    Tier(#[from] TierSettingsError),
    /// The agent cannot be a member.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// A port cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin socket cannot be listened on.
    #[error(transparent)]
    Admin(#[from] admin::SocketError),
    /// The admin API cannot be served to other machines.
    #[error(transparent)]
    Remote(#[from] MaterialError),
    /// The store's thread ended before the store was open.
    #[error("opening the store at {} was interrupted", path.display())]
    Interrupted {
        /// The data directory.
        path: PathBuf,
    },
}

/// An agent that holds everything it needs and does nothing yet.
pub struct App {
    config: Config,
    metrics: Arc<Metrics>,
    store: Store,
    report: OpenReport,
    upstream: Upstream,
    tier: Option<Tier>,
    swarm: Option<Bound>,
    registry: Vec<(TcpListener, FrontSettings)>,
    ports: Ports,
}

impl App {
    /// Opens the store, binds the ports, reads the credentials.
    ///
    /// # Errors
    /// Whatever keeps the agent from starting.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let upstream = Upstream::new(config.upstream_settings(), Arc::clone(&metrics))?;
        let tier =
            config.tier_settings().map(|settings| Tier::new(settings, Arc::clone(&metrics))).transpose()?;
        let options = config.store_options();
        let path = options.path.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
        let opened = opened.map_err(|_| StartError::Interrupted { path })??;
        let swarm = match config.swarm_settings() {
            Some(settings) => Some(Bound::bind(settings.clone()).await?),
            None => None,
        };
        let mut registry = Vec::new();
        for listener in config.listeners() {
            let instance = upstream.instance().to_owned();
            let front = FrontSettings { default_registry: listener.default_registry.clone(), instance };
            registry.push((listen::bind(listener.address)?, front));
        }
        let observe = listen::bind(config.observe_address())?;
        let admin = admin::bind(config.admin_socket()).await?;
        let remote = match config.remote_settings().cloned() {
            Some(settings) => {
                Some((listen::bind(settings.address)?, settings.clone(), Material::read(&settings)?))
            }
            None => None,
        };
        Ok(App {
            config,
            metrics,
            store: opened.store,
            report: opened.report,
            upstream,
            tier,
            swarm,
            registry,
            ports: Ports { observe, admin, remote },
        })
    }

    /// Starts to answer.
    pub fn spawn(self) -> Running {
        let App { config, metrics, store, report, upstream, tier, swarm, registry, ports } = self;
        tracing::info!(
            blobs = report.blobs,
            bytes = report.bytes,
            partials = report.partials,
            adopted = report.adopted,
            index = ?report.index,
            "store opened"
        );
        let sources = Sources::new(upstream.clone(), tier.clone());
        let bound = swarm;
        let swarm = bound.as_ref().map(|bound| Swarm::new(bound, store.clone(), Arc::clone(&metrics)));
        let driver = driver::spawn(
            config.driver_settings(),
            store.clone(),
            sources.clone(),
            Arc::clone(&metrics),
            swarm.clone(),
        );
        let (swarming, leaving) = (TaskTracker::new(), CancellationToken::new());
        let listings = Listings::new(upstream.clone(), ListingSettings::from(config.node_settings().tags));
        let parts = Parts {
            store: store.clone(),
            sources,
            driver: driver.clone(),
            swarm: swarm.clone(),
            listings,
            metrics: Arc::clone(&metrics),
        };
        let node = Node::new(parts, config.node_settings());
        let orders = config.store_options().path.join("prewarm.json");
        let warmer = Warmer::new(node.clone(), swarm.clone(), Some(orders));
        if let (Some(swarm), Some(bound)) = (&swarm, bound) {
            let routes = swarm::router(node.clone(), driver.clone(), warmer.clone());
            swarm.spawn(bound, &driver, routes, &swarming, &leaving);
        }
        let (serving, stopping) = (TaskTracker::new(), CancellationToken::new());
        let (mut addresses, proofs) = (Vec::new(), Proofs::default());
        for (listener, front) in registry {
            addresses.extend(listener.local_addr());
            let app = registry::router(node.clone(), front, Arc::clone(&metrics));
            let app = app.merge(proof_router(proofs.clone()));
            let limits = config.connection_limits();
            serving.spawn(listen::serve(listener, app, limits, Arc::clone(&metrics), stopping.clone()));
        }
        let disk_free_min = config.store_options().disk_free_min;
        let health = driver.store_health().clone();
        let gauges = Gauges { store: store.clone(), metrics: Arc::clone(&metrics), health, disk_free_min };
        let background = CancellationToken::new();
        let readiness = Readiness::new();
        let observe_address = ports.observe.local_addr().ok();
        let observing = ObserveState::new(Arc::clone(&metrics), readiness.clone(), {
            let gauges = gauges.clone();
            move || gauges.refresh()
        });
        let watched = TaskTracker::new();
        warmer.spawn();
        let started = Instant::now();
        let look = AgentLook::new(watch::Parts {
            store: store.clone(),
            driver: driver.clone(),
            upstream: upstream.clone(),
            swarm: swarm.clone(),
            warmer: warmer.clone(),
            metrics: Arc::clone(&metrics),
            started,
        });
        let feed = Feed::new(look, &watched, &background);
        feed.spawn();
        let me = swarm.as_ref().and_then(|swarm| swarm.roster().get(&swarm.me()).cloned());
        let state = AdminState {
            store: store.clone(),
            driver: driver.clone(),
            upstream,
            swarm,
            node,
            warmer: warmer.clone(),
            feed,
            metrics: Arc::clone(&metrics),
            started,
            listeners: addresses.clone(),
            proofs,
        };
        ports.spawn(&config, state, observing, &watched, &background);
        watched.spawn(sweep(gauges, config.sweep_interval(), background.clone()));
        tracing::info!(
            member = me.as_ref().map(|me| driver::brief_name(&me.peer)),
            registry = ?addresses,
            observe = ?observe_address,
            admin = %config.admin_socket().display(),
            swarm = me.as_ref().map(|me| tracing::field::debug(me.addresses.clone())),
            data_port = me.as_ref().map(|me| me.data_port),
            "ready"
        );
        readiness.ready();
        Running {
            config,
            driver,
            store,
            tier,
            warmer,
            swarming,
            leaving,
            serving,
            stopping,
            watched,
            background,
            readiness,
            addresses,
        }
    }
}

/// Where the agent is watched, and told what to do.
struct Ports {
    observe: TcpListener,
    admin: UnixListener,
    remote: Option<(TcpListener, RemoteSettings, Material)>,
}

impl Ports {
    /// Starts to answer there, until `stop` is cancelled.
    fn spawn(
        self,
        config: &Config,
        state: AdminState,
        observing: ObserveState,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let observing = if config.observe_page() {
            let local_only = config.observe_address().ip().is_loopback();
            let stories = admin::stories(state.clone());
            observing.with_page(page::router(state.feed.clone(), stories, local_only))
        } else {
            observing
        };
        tasks.spawn(admin::serve_observe(self.observe, observing, stop.clone()));
        if let Some((listener, settings, material)) = self.remote {
            let router = admin::admin_router(state.clone());
            tasks.spawn(remote::serve(listener, settings, material, router, stop.clone()));
        }
        tasks.spawn(admin::serve(self.admin, state, stop.clone()));
    }
}

/// An agent that answers.
pub struct Running {
    config: Config,
    driver: driver::Handle,
    store: Store,
    tier: Option<Tier>,
    warmer: Warmer,
    swarming: TaskTracker,
    leaving: CancellationToken,
    serving: TaskTracker,
    stopping: CancellationToken,
    watched: TaskTracker,
    background: CancellationToken,
    readiness: Readiness,
    addresses: Vec<SocketAddr>,
}

impl Running {
    /// Where clients connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends: ports closed, requests under way finished or cut at the deadline, half-received blobs put down, the
    /// index written.
    pub async fn drain(self) {
        let deadline = self.config.drain_deadline();
        tracing::info!(?deadline, "draining");
        self.readiness.not_ready("the agent is shutting down");
        self.stopping.cancel();
        self.serving.close();
        self.warmer.stop().await;
        // Clients first: what they wait for must still arrive. Both ends have the same deadline.
        let begun = Instant::now();
        tokio::join!(self.serving.wait(), self.driver.drain(deadline));
        // Others may still have been receiving from here; now they turn to somebody else.
        self.leaving.cancel();
        self.swarming.close();
        self.swarming.wait().await;
        if let Some(tier) = &self.tier {
            tier.drain(deadline.saturating_sub(begun.elapsed())).await;
        }
        self.background.cancel();
        self.watched.close();
        if tokio::time::timeout(CALLERS_END_MAX, self.watched.wait()).await.is_err() {
            tracing::info!("what callers or a sweep of the store are still at is not waited for any longer");
        }
        let store = self.store;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.flush()).await {
            tracing::warn!(%error, "the last uses of blobs could not be written down");
        }
        tracing::info!("ended");
    }
}

/// Brings the gauges of the store up to date.
#[derive(Clone)]
struct Gauges {
    store: Store,
    metrics: Arc<Metrics>,
    health: StoreHealth,
    /// Bytes that the store leaves free on the file system.
    disk_free_min: u64,
}

impl Gauges {
    /// Reads sums that the store keeps; cheap enough for every scrape.
    fn refresh(&self) {
        // What is over by now has to be looked at to be seen.
        let _ = self.health.trouble();
        let Ok(usage) = self.store.usage() else { return };
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.store_bytes.set(gauge(usage.file_bytes + usage.inline_bytes));
        self.metrics.store_blobs.set(gauge(usage.blobs));
        // Without a capacity of its own, the store may take what is free now and what it has already.
        let room = || usage.bytes().saturating_add(usage.disk_free).saturating_sub(self.disk_free_min);
        self.metrics.store_capacity_bytes.set(gauge(usage.capacity.unwrap_or_else(room)));
        self.metrics.store_partial_bytes.set(gauge(usage.partial_bytes));
        let (gone, gone_bytes) = (usage.evicted + usage.expired, usage.evicted_bytes + usage.expired_bytes);
        self.metrics.evictions.inc_by(gone.saturating_sub(self.metrics.evictions.get()));
        self.metrics.evicted_bytes.inc_by(gone_bytes.saturating_sub(self.metrics.evicted_bytes.get()));
    }
}

/// Expiry, eviction and adoption, from time to time.
async fn sweep(gauges: Gauges, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let work = gauges.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let swept = work.store.sweep(SystemTime::now());
            work.refresh();
            swept
        });
        match swept.await {
            Ok(Ok(swept)) if swept == shoal_store::Swept::default() => {}
            Ok(Ok(swept)) => tracing::info!(
                expired = swept.expired.count,
                evicted = swept.evicted.count,
                evicted_bytes = swept.evicted.bytes,
                partials = swept.partials.count,
                adopted = swept.adopted,
                index = ?swept.index,
                "store swept"
            ),
            Ok(Err(error)) => {
                gauges.health.failed(&error);
            }
            Err(error) => tracing::error!(%error, "the sweep ended"),
        }
    }
}
