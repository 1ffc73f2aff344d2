//! The spans of flights, and of the leases within them.
//!
//! Invariants: where traces are taken away, every flight has a span, and it ends with the flight; otherwise there is nothing
//! here. The engine knows of none of it.

use std::collections::HashMap;
use std::ops::Range;

use shoal_engine::Digest;
use shoal_engine::swarm::exchange::Exchange;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::wire::LeaseId;
use tracing::{Span, field};

use crate::trace::{self, TARGET};

/// See the module's head.
#[derive(Default)]
pub(super) struct Traces(HashMap<Digest, Traced>);

struct Traced {
    flight: Span,
    leases: Vec<(LeaseId, Span)>,
}

impl Drop for Traced {
    fn drop(&mut self) {
        trace::end(&self.flight);
    }
}

impl Traces {
    /// A request wants a blob: its flight is a part of it, or another request's that it waits for.
    pub fn wanted(&mut self, digest: Digest, request: &Span) {
        if request.is_disabled() {
            return;
        }
        match self.0.get(&digest) {
            Some(traced) => trace::link(request, &traced.flight),
            None => self.begin(digest, request),
        }
    }

    /// A flight has begun, perhaps at nobody's request here.
    pub fn begun(&mut self, digest: Digest) {
        if !self.0.contains_key(&digest) {
            self.begin(digest, &Span::none());
        }
    }

    fn begin(&mut self, digest: Digest, cause: &Span) {
        let flight = tracing::info_span!(
            target: TARGET, parent: cause, "flight", shoal.digest = %digest, shoal.outcome = field::Empty
        );
        if !flight.is_disabled() {
            self.0.insert(digest, Traced { flight, leases: Vec::new() });
        }
    }

    /// The span of a blob's flight; one that does nothing, if there is none.
    pub fn flight(&self, digest: &Digest) -> Span {
        self.0.get(digest).map_or_else(Span::none, |traced| traced.flight.clone())
    }

    /// The span that a transfer from upstream belongs to: that of the lease that it is for, or the flight's.
    pub fn of_fetch(&mut self, digest: &Digest, start: u64, exchange: Option<&Exchange>) -> Span {
        let Some(traced) = self.0.get_mut(digest) else { return Span::none() };
        let Some((lease, bytes)) = exchange.and_then(|exchange| lease_at(exchange, start)) else {
            return traced.flight.clone();
        };
        if let Some((_, span)) = traced.leases.iter().find(|(of, _)| *of == lease) {
            return span.clone();
        }
        let span = tracing::info_span!(
            target: TARGET, parent: &traced.flight, "lease", shoal.start = bytes.start, shoal.end = bytes.end
        );
        traced.leases.push((lease, span.clone()));
        span
    }

    /// A transfer has ended, and perhaps the lease that it was for.
    pub fn fetched(&mut self, digest: &Digest, exchange: Option<&Exchange>) {
        if let Some(traced) = self.0.get_mut(digest) {
            let leases = exchange.into_iter().flat_map(|exchange| exchange.leases().map(|(lease, _)| *lease));
            let leases: Vec<LeaseId> = leases.collect();
            traced.leases.retain(|(lease, _)| leases.contains(lease));
        }
    }

    /// How a flight ends.
    pub fn ends(&self, digest: &Digest, outcome: &'static str) {
        if let Some(traced) = self.0.get(digest) {
            traced.flight.record("shoal.outcome", outcome);
        }
    }

    /// Ends the spans of flights that are over. `flights` is how many there are.
    pub fn sweep(&mut self, flights: usize, is_under_way: impl Fn(&Digest) -> bool) {
        if self.0.len() > flights {
            self.0.retain(|digest, _| is_under_way(digest));
        }
    }
}

/// The lease that a byte belongs to, and its bytes.
fn lease_at(exchange: &Exchange, at: u64) -> Option<(LeaseId, Range<u64>)> {
    let bytes = |first, end: u32| {
        let last = piece_bytes(exchange.size(), end.saturating_sub(1));
        piece_bytes(exchange.size(), first).start..last.end
    };
    let leases = exchange.leases().map(|(lease, work)| (*lease, bytes(work.run.first, work.run.end)));
    leases.into_iter().find(|(_, bytes)| bytes.contains(&at))
}
