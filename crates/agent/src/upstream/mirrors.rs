//! How mirrors are asked: plain data, resolved from the configuration.

use std::time::Duration;

use shoal_engine::mirrors::{Mirrors, OnDenied};

/// Which mirrors there are, and what they may cost.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// The composed sets.
    pub mirrors: Mirrors,
    /// What a walk does when a mirror refuses.
    pub on_denied: OnDenied,
    /// Longest time for a connection to a mirror while another source is left.
    pub connect_timeout: Duration,
    /// The same, from the connection to the response headers.
    pub header_timeout: Duration,
    /// Time that failing sources may cost one walk before what is left of it is cut short.
    pub walk_budget: Duration,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        MirrorSettings {
            mirrors: Mirrors::default(),
            on_denied: OnDenied::default(),
            connect_timeout: Duration::from_secs(2),
            header_timeout: Duration::from_secs(5),
            walk_budget: Duration::from_secs(10),
        }
    }
}
