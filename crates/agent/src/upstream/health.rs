//! The health of one source: whether it is worth asking, by what it has done lately.
//!
//! Two memories that never mix: the circuit breaker (it does not answer) and its own wish to be left alone for a while
//! (429 with `Retry-After`). The wish is kept for manifests and for everything else apart, because Docker Hub limits the
//! former alone.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use shoal_engine::breaker::{Admission, Breaker, Failure};
use shoal_engine::{SourceFault, Time};
use tokio::time::Instant;

use super::error::{Reason, UpstreamError};

/// What a request is counted as by registries that limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A GET of a manifest: a pull.
    Pull,
    /// Everything else.
    Free,
}

/// Whether a source may be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    Well,
    /// It did not answer; somebody may find out whether it does now.
    Probe,
    /// It did not answer, and is left alone for that long.
    LeftAlone(Duration),
    /// It wants to be left alone for that long.
    Limited(Duration),
}

/// One source, for a person who looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceStatus {
    /// The registry or mirror, by its name in the configuration.
    pub name: String,
    /// Where it is asked.
    pub endpoint: String,
    /// Whether it is asked at all.
    #[serde(flatten)]
    pub state: SourceState,
}

/// Whether a source is asked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SourceState {
    /// It is.
    Well,
    /// It did not answer, and is left alone for so many seconds.
    LeftAlone {
        /// Rounded up.
        seconds: u64,
    },
    /// It wants to be left alone for so many seconds.
    Limited {
        /// Rounded up.
        seconds: u64,
    },
}

/// See the module's head.
pub(super) struct Health {
    origin: Instant,
    state: Mutex<State>,
    /// 1 while the source is left alone.
    down: Gauge,
}

#[derive(Default)]
struct State {
    breaker: Breaker,
    limited_until: [Option<Time>; 2],
}

impl Health {
    /// A source of which nothing bad is known.
    pub fn new(down: Gauge) -> Self {
        Health { origin: Instant::now(), state: Mutex::default(), down }
    }

    /// Whether the source may be asked; `is_last` says that nobody else can be. Whoever gets [`Standing::Probe`] has to [`note`](Self::note) how it went.
    pub fn standing(&self, weight: Weight, is_last: bool) -> Standing {
        let now = self.now();
        let mut state = self.state.lock();
        if let Some(until) = state.limited_until[weight as usize].filter(|until| now < *until) {
            return Standing::Limited(until - now);
        }
        match state.breaker.admit(now, is_last) {
            Admission::Yes => Standing::Well,
            Admission::Probe => Standing::Probe,
            Admission::No => Standing::LeftAlone(state.breaker.pause_left(now)),
        }
    }

    /// What [`standing`](Self::standing) would say, for a person who looks: nobody is admitted by it.
    pub fn look(&self) -> SourceState {
        let now = self.now();
        let state = self.state.lock();
        if state.breaker.is_open() {
            return SourceState::LeftAlone { seconds: seconds(state.breaker.pause_left(now)) };
        }
        let limited = state.limited_until.iter().flatten().filter(|until| now < **until).max();
        limited.map_or(SourceState::Well, |until| SourceState::Limited { seconds: seconds(*until - now) })
    }

    /// Whether the source is left alone, and not merely to be spared for a while.
    pub fn is_left_alone(&self) -> bool {
        self.state.lock().breaker.is_open()
    }

    /// Takes in how a request ended. `is_mirror`: a registry itself is left alone only when it lets clients wait, since
    /// there may be nobody to ask instead and a quick error costs nothing.
    pub fn note<T>(&self, weight: Weight, is_mirror: bool, result: &Result<T, UpstreamError>) {
        let now = self.now();
        let mut state = self.state.lock();
        let fault = match result {
            Ok(_) => None,
            Err(error) => Some((error, error.fault())),
        };
        match fault {
            Some((_, SourceFault::RateLimited { retry_after })) => {
                state.limited_until[weight as usize] = retry_after.map(|pause| now + pause);
                state.breaker.succeeded();
            }
            Some((error, SourceFault::Transient)) => match failure(error, is_mirror) {
                Some(failure) => state.breaker.failed(now, failure),
                None => state.breaker.undecided(),
            },
            // A mirror that breaks off in every body is as good as none.
            Some((error, SourceFault::Interrupted)) if is_mirror && error.is_broken_body() => {
                state.breaker.failed(now, Failure::Error);
            }
            // A token server that cannot be asked, a body that cannot be read: nothing is known of the source itself.
            Some((_, SourceFault::Interrupted)) => state.breaker.undecided(),
            // It has answered; what it said concerns one request.
            None | Some(_) => state.breaker.succeeded(),
        }
        self.down.set(i64::from(state.breaker.is_open()));
    }

    fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // The gauge outlives the source. One that is not asked for any more is not left alone either.
        if self.state.get_mut().breaker.is_open() {
            self.down.set(0);
        }
    }
}

fn seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}

fn failure(error: &UpstreamError, is_mirror: bool) -> Option<Failure> {
    match error.reason() {
        Reason::HeadersLate(_) => Some(Failure::Absent),
        Reason::Connect(error) if is_mirror || error.is_timeout() => Some(Failure::Absent),
        _ if is_mirror => Some(Failure::Error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(reason: Reason) -> Result<(), UpstreamError> {
        Err(UpstreamError::new(&"https://mirror.test/v2/".parse().unwrap(), reason))
    }

    fn status(status: u16, retry_after: Option<Duration>) -> Result<(), UpstreamError> {
        error(Reason::Status { status, message: None, retry_after })
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_concerns_what_is_limited() {
        let health = Health::new(Gauge::default());
        health.note(Weight::Pull, true, &status(429, Some(Duration::from_secs(30))));
        assert_eq!(health.standing(Weight::Pull, false), Standing::Limited(Duration::from_secs(30)));
        assert_eq!(health.standing(Weight::Free, false), Standing::Well);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(health.standing(Weight::Pull, false), Standing::Well);
        health.note(Weight::Pull, true, &status(429, None));
        assert_eq!(health.standing(Weight::Pull, false), Standing::Well, "it did not say how long");
    }

    #[tokio::test(start_paused = true)]
    async fn who_lets_us_wait_is_left_alone() {
        let late = || error(Reason::HeadersLate(Duration::from_secs(5)));
        for is_mirror in [true, false] {
            let gauge = Gauge::default();
            let health = Health::new(gauge.clone());
            health.note(Weight::Free, is_mirror, &late());
            assert!(matches!(health.standing(Weight::Free, false), Standing::LeftAlone(_)));
            assert_eq!(gauge.get(), 1);
            tokio::time::advance(Duration::from_secs(3600)).await;
            assert_eq!(health.standing(Weight::Free, false), Standing::Probe);
            health.note(Weight::Free, is_mirror, &status(404, None));
            assert_eq!(
                (health.standing(Weight::Free, false), gauge.get()),
                (Standing::Well, 0),
                "a 404 is an answer"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_registry_itself_may_say_500() {
        let (mirror, registry) = (Health::new(Gauge::default()), Health::new(Gauge::default()));
        for _ in 0..100 {
            mirror.note(Weight::Free, true, &status(500, None));
            registry.note(Weight::Free, false, &status(500, None));
        }
        assert_eq!(mirror.look(), SourceState::LeftAlone { seconds: 10 });
        assert_eq!(registry.look(), SourceState::Well);
    }
}
