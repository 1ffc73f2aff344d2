//! What this node receives, from members and from upstream together.

use std::ops::Range;

use crate::limits::{BUSY_SHARE_MIN, RECEIVED_WINDOW};
use crate::time::Time;

/// A rate, measured window by window.
pub struct Received {
    /// What the link can receive, bytes per second, if that is known.
    link: Option<f64>,
    since: Time,
    bytes: u64,
    /// Bytes per second of the last full window.
    rate: f64,
}

impl Received {
    /// Nothing yet.
    pub fn new(link: Option<f64>) -> Self {
        Received { link, since: Time::ZERO, bytes: 0, rate: 0.0 }
    }

    /// Bytes have come.
    pub fn add(&mut self, now: Time, bytes: Range<u64>) {
        self.bytes += bytes.end - bytes.start;
        let time = now - self.since;
        if time >= RECEIVED_WINDOW {
            self.rate = self.bytes as f64 / time.as_secs_f64();
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// Whether the link has little room left. Unknown links always have.
    pub fn is_busy(&self) -> bool {
        self.link.is_some_and(|link| self.rate >= BUSY_SHARE_MIN * link)
    }
}
