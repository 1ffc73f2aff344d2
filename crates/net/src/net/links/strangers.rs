//! How often strangers are reported: a port scan, or a health check that only connects, must not fill the log.

use std::time::{Duration, Instant};

/// Reports in each window.
const REPORTS_MAX: u32 = 10;

/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Strangers {
    window: Option<Instant>,
    reported: u32,
}

impl Strangers {
    /// Whether one more is to be reported.
    pub fn report(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|start| now.duration_since(start) >= WINDOW) {
            self.window = Some(now);
            self.reported = 0;
        }
        self.reported += 1;
        self.reported <= REPORTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_in_each_window() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| strangers.report(start)).count(), 10);
        assert!(strangers.report(start + WINDOW));
    }
}
