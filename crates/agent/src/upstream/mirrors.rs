//! How mirrors are asked.

use std::time::Duration;

use shoal_engine::mirrors::{Mirrors, OnDenied};

/// See `[mirrors]` in the sample configuration.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// Which mirrors there are.
    pub mirrors: Mirrors,
    /// What a mirror's denial means for the walk.
    pub on_denied: OnDenied,
    /// Longest time for a connection to a mirror, while another source is left.
    pub connect_timeout: Duration,
    /// Longest time from there to its response headers.
    pub header_timeout: Duration,
    /// What failing sources may cost one walk before the rest is given only a second each.
    pub walk_budget: Duration,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        MirrorSettings {
            mirrors: Mirrors::default(),
            on_denied: OnDenied::Stop,
            connect_timeout: Duration::from_secs(2),
            header_timeout: Duration::from_secs(5),
            walk_budget: Duration::from_secs(10),
        }
    }
}
