//! The origin registry: which requests it takes, which wait and which it turns away.
//!
//! Invariant: never more than `connections_max` answers at a time; a request that waits is answered in the order in which
//! it came, and every request ends in bytes, a wait or a refusal.

use std::collections::VecDeque;

use crate::net::Place;
use crate::queue::{Nanos, SECOND};
use crate::scenario::Origin;

use super::world::Load;

/// What a client waits after a 429 that does not say how long, seconds.
pub(super) const THROTTLED_PAUSE_S: f64 = 1.0;

/// 429s in a row after which a client gives up (containerd's default).
const THROTTLED_MAX: u32 = 5;

/// A request for a blob, or for a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    /// Who asks.
    pub to: Place,
    /// Its life: one that has died since gets nothing.
    pub life: u32,
    /// What for.
    pub load: Load,
    /// How much is sent.
    pub bytes: u64,
    /// 429s so far.
    pub throttled: u32,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A connection is taken; the first byte is on its way.
    Answered,
    /// All connections are in use.
    Waits,
    /// 429.
    Throttled,
    /// Nothing answers, or there were too many 429s.
    Refused,
}

/// The registry.
pub(super) struct Registry {
    origin: Origin,
    open: usize,
    waiting: VecDeque<Fetch>,
    tokens: f64,
    refilled: Nanos,
    /// Requests that it has seen.
    pub requests: u64,
    /// Bytes that have arrived from it.
    pub bytes: u64,
    /// When the first request came.
    first: Option<Nanos>,
    /// When its last byte arrived.
    last: Nanos,
}

impl Registry {
    /// One that nobody has asked yet.
    pub fn new(origin: &Origin) -> Registry {
        let tokens = burst(origin);
        Registry {
            origin: origin.clone(),
            open: 0,
            waiting: VecDeque::new(),
            tokens,
            refilled: 0,
            requests: 0,
            bytes: 0,
            first: None,
            last: 0,
        }
    }

    /// A request comes in.
    pub fn ask(&mut self, now: Nanos, fetch: &mut Fetch) -> Verdict {
        self.requests += 1;
        self.first.get_or_insert(now);
        if self.is_down(now) {
            return Verdict::Refused;
        }
        if !self.take_token(now) {
            fetch.throttled += 1;
            return if fetch.throttled > THROTTLED_MAX { Verdict::Refused } else { Verdict::Throttled };
        }
        if self.origin.connections_max.is_some_and(|most| self.open >= most) {
            self.waiting.push_back(*fetch);
            return Verdict::Waits;
        }
        self.open += 1;
        Verdict::Answered
    }

    /// An answer has ended. Answers the request that has the connection now.
    pub fn release(&mut self) -> Option<Fetch> {
        debug_assert!(self.open > 0, "an answer ended that never began");
        self.open -= 1;
        let next = self.waiting.pop_front()?;
        self.open += 1;
        Some(next)
    }

    /// Forgets all that waits; `broken` answers have ended.
    pub fn fail(&mut self, broken: usize) -> Vec<Fetch> {
        self.open -= broken;
        self.waiting.drain(..).collect()
    }

    /// Bytes of it have arrived.
    pub fn sent(&mut self, now: Nanos, bytes: u64) {
        self.bytes += bytes;
        self.last = now;
    }

    /// Whether it is in an outage.
    pub fn is_down(&self, now: Nanos) -> bool {
        let now = now as f64 / SECOND;
        self.origin.outages.iter().any(|outage| (outage.from..outage.until).contains(&now))
    }

    /// Share of the time from the first request to its last byte in which its link was busy.
    pub fn busy(&self) -> f64 {
        let time = self.last.saturating_sub(self.first.unwrap_or(0)) as f64 / SECOND;
        if time > 0.0 { (self.bytes as f64 / self.origin.bandwidth / time).min(1.0) } else { 0.0 }
    }

    /// A second's worth of requests may come at once.
    fn take_token(&mut self, now: Nanos) -> bool {
        let rate = self.origin.requests_per_s;
        if rate.is_infinite() {
            return true;
        }
        let passed = (now - self.refilled) as f64 / SECOND;
        self.tokens = (self.tokens + passed * rate).min(burst(&self.origin));
        self.refilled = now;
        let has_one = self.tokens >= 1.0;
        self.tokens -= if has_one { 1.0 } else { 0.0 };
        has_one
    }
}

fn burst(origin: &Origin) -> f64 {
    origin.requests_per_s.max(1.0)
}
