//! The walk over the places where content may be had: mirrors first, the registry itself last (`contract.md` 1a).
//!
//! Invariants: one walk per repository at a time, and whoever waits for it begins where it ended (F7, F8); a walk never
//! goes back (F6); a source that is known to be sick costs nothing (F14); what content by digest is asked for is the
//! same at every place, so nothing but the content is fetched again (F9). What follows a failure is decided by
//! `shoal_engine::walk`; here it is carried out.

mod image;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use shoal_engine::mirrors::OnDenied;
use shoal_engine::walk::{self, Step, View};
use shoal_engine::{Digest, Scope, SourceFault};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field};

use super::auth::carries_clients_token;
use super::error::{Reason, UpstreamError};
use super::exchange::Exchange;
use super::health::{Standing, Weight};
use super::mirrors::MirrorSettings;
use super::place::Place;
use super::source::Source;
use super::trouble::{Trouble, Troubles};
use crate::trace::{self, TARGET};
use image::Image;

/// Repositories whose discovered source is remembered.
const IMAGES_MAX: u64 = 4096;

/// Least time that a source is given to answer when the walk's budget is used up: a quick one is still found.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// What is asked for, as far as the walk is concerned.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// Content by digest; `None` for tags and lists, which every request asks anew.
    pub digest: Option<&'a Digest>,
    /// What the request costs at a registry that limits.
    pub weight: Weight,
}

/// All walks of an agent.
pub(super) struct Walker {
    settings: MirrorSettings,
    exchange: Arc<Exchange>,
    images: Cache<Scope, Arc<Image>>,
    pub troubles: Troubles,
}

/// Why an attempt brought nothing.
struct Failed {
    fault: SourceFault,
    /// Whether it would bring nothing either if it was repeated at once: the source was not even asked, or it would not
    /// be asked again.
    is_final: bool,
}

impl Walker {
    pub fn new(settings: MirrorSettings, exchange: Arc<Exchange>) -> Self {
        let images = Cache::builder().max_capacity(IMAGES_MAX).time_to_idle(2 * image::MEMORY).build();
        Walker { settings, exchange, images, troubles: Troubles::new() }
    }

    /// Asks the places in order until one answers. `scope` is the repository that is meant, whatever it is called there.
    ///
    /// # Errors
    /// What all places said that were asked.
    pub async fn run<T, F, Fut>(
        &self,
        scope: &Scope,
        places: &[Place],
        subject: Subject<'_>,
        ask: F,
    ) -> Result<(T, Place), UpstreamError>
    where
        F: Fn(Place) -> Fut,
        Fut: Future<Output = Result<T, UpstreamError>>,
    {
        let mut walk = Walk { walker: self, places, subject, ask, began: Instant::now(), errors: Vec::new() };
        let found = match subject.digest {
            Some(_) if places.len() > 1 => {
                let image = self.images.get_with_by_ref(scope, async { Arc::default() }).await;
                walk.with_others(&image).await
            }
            _ => walk.alone().await,
        };
        match found {
            Some((at, value)) => Ok((value, places[at].clone())),
            None => Err(UpstreamError::walked(scope, walk.errors)),
        }
    }

    /// Finds out whether a source is back, so that no client has to.
    fn probe(&self, place: &Place, weight: Weight) {
        let (exchange, source, is_mirror) =
            (Arc::clone(&self.exchange), Arc::clone(&place.source), place.is_mirror);
        tokio::spawn(async move {
            let result = exchange.ping(&source).await;
            source.health.note(weight, is_mirror, &result);
            match result {
                Ok(()) => tracing::info!(source = %source.endpoint, "the source answers again"),
                Err(error) => tracing::debug!(%error, "the source is still left alone"),
            }
        });
    }
}

/// One walk.
struct Walk<'w, F> {
    walker: &'w Walker,
    places: &'w [Place],
    subject: Subject<'w>,
    ask: F,
    began: Instant,
    /// What the places said, with whether each is a mirror.
    errors: Vec<(bool, UpstreamError)>,
}

impl<T, F, Fut> Walk<'_, F>
where
    F: Fn(Place) -> Fut,
    Fut: Future<Output = Result<T, UpstreamError>>,
{
    /// From the first place on, for nobody else.
    async fn alone(&mut self) -> Option<(usize, T)> {
        if self.places.is_empty() {
            return None;
        }
        match self.attempt(0).await {
            Ok(value) => Some((0, value)),
            Err(failed) => self.go_on(0, failed).await,
        }
    }

    /// From the place on that the repository's last walk has found. Whose request fails there walks; the others wait
    /// and go on from where that walk ended.
    async fn with_others(&mut self, image: &Image) -> Option<(usize, T)> {
        let mut from = image.active().await;
        // Each round begins where another's walk has ended, which is further on or found to be well again.
        for _ in 0..=self.places.len() {
            let at = from.at.min(self.places.len() - 1);
            let failed = match self.attempt(at).await {
                Ok(value) => return Some((at, value)),
                Err(failed) => failed,
            };
            if self.step(at, &failed, false) == Step::Stop {
                return None;
            }
            let mut active = image.walk().await;
            if active.walks() != from.walks && active.now().at >= at {
                from = active.now();
                continue;
            }
            let found = self.go_on(at, failed).await;
            if let Some((at, _)) = &found {
                active.found(*at);
            }
            return found;
        }
        None
    }

    /// What follows after the place `at` has failed.
    async fn go_on(&mut self, mut at: usize, mut failed: Failed) -> Option<(usize, T)> {
        let mut retried = false;
        loop {
            match self.step(at, &failed, retried) {
                Step::Again(pause) => {
                    retried = true;
                    tokio::time::sleep(pause).await;
                }
                Step::Next => {
                    retried = false;
                    at += 1;
                }
                Step::Stop => return None,
            }
            if at >= self.places.len() {
                return None;
            }
            failed = match self.attempt(at).await {
                Ok(value) => return Some((at, value)),
                Err(failed) => failed,
            };
        }
    }

    fn step(&self, at: usize, failed: &Failed, retried: bool) -> Step {
        let place = &self.places[at];
        // Who is left alone by now, be it for this very failure, would not be asked again after a pause.
        let is_final = failed.is_final || place.source.health.is_left_alone();
        walk::after_fault(
            &failed.fault,
            View {
                is_mirror: place.is_mirror,
                has_alternatives: self.places.len() > 1,
                retried: retried || is_final,
                budget_left: self.budget_left(),
                denial_stops: self.walker.settings.on_denied == OnDenied::Stop,
                jitter: rand::random(),
            },
        )
    }

    fn budget_left(&self) -> Duration {
        self.walker.settings.walk_budget.saturating_sub(self.began.elapsed())
    }

    /// Asks one place, if it is worth asking.
    async fn attempt(&mut self, at: usize) -> Result<T, Failed> {
        let place = &self.places[at];
        let is_last = at + 1 == self.places.len();
        if let Some(reason) = self.objection(place, is_last) {
            let error = UpstreamError::new(&place.source.endpoint, reason);
            return Err(self.failed(at, error, true));
        }
        let span = source_span(place);
        let asked = (self.ask)(place.clone()).instrument(span.clone());
        let result = if is_last {
            asked.await
        } else {
            let settings = &self.walker.settings;
            let limit = (settings.connect_timeout + settings.header_timeout).min(self.budget_left());
            let limit = limit.max(ATTEMPT_MIN);
            let late = |_| Err(UpstreamError::new(&place.source.endpoint, Reason::HeadersLate(limit)));
            tokio::time::timeout(limit, asked).await.unwrap_or_else(late)
        };
        let is_limited =
            result.as_ref().is_err_and(|error| matches!(error.fault(), SourceFault::RateLimited { .. }));
        // A limit of the client's account says nothing of what others may ask for; but the source has answered.
        let (weight, is_mirror) = (self.subject.weight, place.is_mirror);
        match is_limited && carries_clients_token(place).await {
            true => place.source.health.note::<()>(weight, is_mirror, &Ok(())),
            false => place.source.health.note(weight, is_mirror, &result),
        }
        trace::outcome(&span, result.as_ref().map(|_| "answered"));
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if let (Some(digest), true, SourceFault::WrongContent) =
                    (self.subject.digest, place.is_mirror, error.fault())
                {
                    self.walker.quarantine(digest, &place.source).await;
                }
                if let (Some(digest), true) = (self.subject.digest, error.is_broken_body()) {
                    self.walker.troubles.broke(digest, &place.source.registry).await;
                }
                Err(self.failed(at, error, false))
            }
        }
    }

    fn failed(&mut self, at: usize, error: UpstreamError, skipped: bool) -> Failed {
        let place = &self.places[at];
        let fault = error.fault();
        if !skipped && self.places.len() > 1 {
            tracing::warn!(source = %place.source.endpoint, scope = %place.asked.scope, %error, "a source failed");
        }
        // A body that broke goes on elsewhere at once.
        let is_final = skipped || error.is_broken_body();
        self.errors.push((place.is_mirror, error));
        Failed { fault, is_final }
    }

    /// Why a place is not asked now.
    fn objection(&self, place: &Place, is_last: bool) -> Option<Reason> {
        let trouble = self.subject.digest.and_then(|d| self.walker.troubles.of(d, &place.source.registry));
        match trouble {
            Some(Trouble::Lied) if place.is_mirror => return Some(Reason::Quarantined),
            // Where nobody else is left, asking again is all that can be done.
            Some(Trouble::Broke) if !is_last => return Some(Reason::BrokeOff),
            Some(_) | None => {}
        }
        match place.source.health.standing(self.subject.weight, is_last) {
            Standing::Well => None,
            Standing::Probe if is_last => None,
            Standing::Probe => {
                self.walker.probe(place, self.subject.weight);
                Some(Reason::LeftAlone(Duration::ZERO))
            }
            Standing::LeftAlone(pause) => Some(Reason::LeftAlone(pause)),
            Standing::Limited(pause) => Some(Reason::Limited(pause)),
        }
    }
}

/// One source's answer, without its body.
fn source_span(place: &Place) -> Span {
    tracing::info_span!(
        target: TARGET,
        "source",
        otel.kind = "client",
        shoal.source = if place.is_mirror { "mirror" } else { "registry" },
        shoal.source.name = %place.source.registry,
        shoal.outcome = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty
    )
}

impl Walker {
    /// A mirror has sent other bytes than a digest names: it is not asked for them again, and the operator is told.
    pub async fn quarantine(&self, digest: &Digest, source: &Source) {
        self.troubles.lied(digest, &source.registry).await;
        self.exchange.metrics.quarantined(&source.label);
        tracing::error!(
            mirror = %source.endpoint, %digest,
            "a mirror has sent bytes that do not match their digest; it is not asked for them again"
        );
    }
}
