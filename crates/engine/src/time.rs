//! Time as an argument.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the driver's monotonic clock: nanoseconds since an origin that the driver chose. In tests and in the
/// simulator it is virtual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// The moment `since_origin` after the origin. Saturates after 584 years.
    pub fn from_origin(since_origin: Duration) -> Self {
        Time(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time passed since the origin.
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, later: Duration) -> Time {
        Time::from_origin(self.since_origin().saturating_add(later))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// Zero if `earlier` is later than `self`: a clock that went backwards must not panic a driver.
    fn sub(self, earlier: Time) -> Duration {
        self.since_origin().saturating_sub(earlier.since_origin())
    }
}
