//! How fast bytes may pass: one throttle for all transfers of a direction together, and a pace for some of them that may
//! change while they wait.
//!
//! Invariant: over any time the bytes that pass are at most the rate's share of it and one chunk; those who wait pass in
//! the order in which they came; bytes that are given up cost nothing. Whether somebody waits is counted, so that a person
//! can be told what makes a pull slow.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Waiting less than this costs more in wake-ups than it evens out.
const GRAIN: Duration = Duration::from_millis(1);

/// Seconds for which it is remembered how much of each somebody waited.
const REMEMBERED: usize = 60;

/// Lets bytes pass at a rate. Cheap to clone; clones share the rate.
#[derive(Clone, Debug, Default)]
pub struct Throttle(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    bytes_per_second: u64,
    pace: Pace,
    waits: Mutex<Waits>,
}

/// How a limit is met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Whether somebody waits for it now.
    pub waits: bool,
    /// Part of the last minute in which somebody waited for it, percent.
    pub waited_percent: u8,
    /// Time in which somebody has waited for it, since the start.
    pub waited: Duration,
}

/// When somebody waited.
#[derive(Debug)]
struct Waits {
    origin: Instant,
    waiting: usize,
    /// Until when waiting is counted below.
    counted: Instant,
    /// For each of the last seconds, its number and how much of it somebody waited.
    seconds: [(u64, Duration); REMEMBERED],
    all: Duration,
}

impl Waits {
    fn new(now: Instant) -> Self {
        Waits {
            origin: now,
            waiting: 0,
            counted: now,
            seconds: [(0, Duration::ZERO); REMEMBERED],
            all: Duration::ZERO,
        }
    }

    /// Counts the time since the last count, if somebody waited in it.
    fn count(&mut self, now: Instant) {
        let from = std::mem::replace(&mut self.counted, now);
        if self.waiting == 0 || now <= from {
            return;
        }
        self.all += now - from;
        let last = (now - self.origin).as_secs();
        let first = (from - self.origin).as_secs().max(last.saturating_sub(REMEMBERED as u64 - 1));
        for second in first..=last {
            let begin = self.origin + Duration::from_secs(second);
            let within = now.min(begin + Duration::from_secs(1)).saturating_duration_since(from.max(begin));
            let slot = &mut self.seconds[second as usize % REMEMBERED];
            let before = if slot.0 == second { slot.1 } else { Duration::ZERO };
            *slot = (second, before + within);
        }
    }

    /// Of the last minute, or of the time since the start if that is shorter.
    fn percent(&self, now: Instant) -> u8 {
        let age = now - self.origin;
        let over = age.min(Duration::from_secs(REMEMBERED as u64));
        let oldest = age.as_secs().saturating_sub(REMEMBERED as u64 - 1);
        let waited: Duration =
            self.seconds.iter().filter(|(second, _)| *second >= oldest).map(|(_, of)| *of).sum();
        let share = waited.as_secs_f64() / over.as_secs_f64().max(f64::MIN_POSITIVE);
        (share * 100.0).clamp(0.0, 100.0) as u8
    }
}

/// Somebody waits, until it is dropped: whoever waits may be given up.
struct Waiting<'w>(&'w Mutex<Waits>);

impl<'w> Waiting<'w> {
    fn begin(waits: &'w Mutex<Waits>, now: Instant) -> Self {
        let mut of = waits.lock();
        of.count(now);
        of.waiting += 1;
        Waiting(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut of = self.0.lock();
        of.count(Instant::now());
        of.waiting -= 1;
    }
}

impl Throttle {
    /// At most so many bytes a second; `None` and 0 for as many as come.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let limited = bytes_per_second.filter(|rate| *rate > 0);
        Throttle(limited.map(|bytes_per_second| {
            let (pace, waits) = (Pace::default(), Mutex::new(Waits::new(Instant::now())));
            pace.set(Some(bytes_per_second));
            Arc::new(Inner { bytes_per_second, pace, waits })
        }))
    }

    /// Waits until so many bytes may pass, which they do then.
    pub async fn pass(&self, bytes: usize) {
        self.admit(bytes).await.passed();
    }

    /// Waits until so many bytes may pass.
    pub async fn admit(&self, bytes: usize) -> Passage {
        let Some(inner) = &self.0 else { return Passage::default() };
        let _waiting = inner.pace.is_busy().then(|| Waiting::begin(&inner.waits, Instant::now()));
        inner.pace.admit(bytes).await
    }

    /// How the limit is met; `None` where there is none.
    pub fn pressure(&self) -> Option<Pressure> {
        let inner = self.0.as_ref()?;
        let now = Instant::now();
        let mut waits = inner.waits.lock();
        waits.count(now);
        Some(Pressure {
            bytes_per_second: inner.bytes_per_second,
            waits: waits.waiting > 0,
            waited_percent: waits.percent(now),
            waited: waits.all,
        })
    }
}

/// Lets bytes pass at a rate that may change, or fall away, while they wait. Cheap to clone; clones share the rate.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Paced>);

#[derive(Debug, Default)]
struct Paced {
    gauge: Mutex<Gauge>,
    /// Held by the first of those who wait.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Gauge {
    /// Bytes per second; `None` for as many as come.
    rate: Option<u64>,
    /// Up to when `owed` is reckoned.
    at: Option<Instant>,
    /// Bytes that have passed and for which there has been no time yet. Negative where those who wait come late to their turn.
    owed: f64,
    /// Bytes that wait.
    waiting: u64,
}

impl Gauge {
    /// What there has been time for until now. Time in which nobody waits is not saved up.
    fn reckon(&mut self, now: Instant) {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.owed = match self.rate {
            Some(rate) => (self.owed - rate as f64 * since.as_secs_f64()).max(-(self.waiting as f64)),
            None => 0.0,
        };
    }

    /// How long the next bytes have to wait; `None` if not at all.
    fn wait(&self) -> Option<Duration> {
        let wait = Duration::from_secs_f64(self.owed.max(0.0) / self.rate? as f64);
        (wait >= GRAIN).then_some(wait)
    }
}

/// Bytes that wait, until it is dropped.
struct Queued<'g> {
    gauge: &'g Mutex<Gauge>,
    bytes: u64,
}

impl<'g> Queued<'g> {
    fn begin(gauge: &'g Mutex<Gauge>, bytes: u64) -> Self {
        let mut of = gauge.lock();
        of.reckon(Instant::now());
        of.waiting += bytes;
        Queued { gauge, bytes }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut of = self.gauge.lock();
        of.reckon(Instant::now());
        of.waiting -= self.bytes;
    }
}

impl Pace {
    /// At most so many bytes a second from now on, also for those who wait; `None` and 0 for as many as come.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let mut gauge = self.0.gauge.lock();
        gauge.reckon(Instant::now());
        gauge.rate = bytes_per_second.filter(|rate| *rate > 0);
        drop(gauge);
        self.0.changed.notify_waiters();
    }

    /// Waits until so many bytes may pass.
    pub async fn admit(&self, bytes: usize) -> Passage {
        let _queued = Queued::begin(&self.0.gauge, bytes as u64);
        let _turn = self.0.turn.lock().await;
        loop {
            let changed = self.0.changed.notified();
            let due = {
                let mut gauge = self.0.gauge.lock();
                let now = Instant::now();
                gauge.reckon(now);
                match gauge.wait() {
                    Some(wait) => now + wait,
                    None => {
                        gauge.owed += bytes as f64;
                        return Passage(Some((self.clone(), bytes)));
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = changed => {}
            }
        }
    }

    /// Whether bytes that come now have to wait.
    fn is_busy(&self) -> bool {
        let mut gauge = self.0.gauge.lock();
        gauge.reckon(Instant::now());
        gauge.waiting > 0 || gauge.wait().is_some()
    }
}

/// Bytes that may pass. Dropped, they have not, and those behind them go in their place.
#[derive(Debug, Default)]
#[must_use = "bytes that pass count only if that is said"]
pub struct Passage(Option<(Pace, usize)>);

impl Passage {
    /// They have passed.
    pub fn passed(mut self) {
        self.0 = None;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let Some((pace, bytes)) = self.0.take() else { return };
        let mut gauge = pace.0.gauge.lock();
        gauge.reckon(Instant::now());
        // Time that has gone by is not given back.
        gauge.owed = gauge.owed.min((gauge.owed - bytes as f64).max(0.0));
        drop(gauge);
        pace.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes 40 times 25 kB on two tasks, and tells when it was done.
    async fn a_million(pace: &Pace) -> Duration {
        let begun = Instant::now();
        let pass = || async {
            for _ in 0..20 {
                pace.admit(25_000).await.passed();
            }
        };
        tokio::join!(pass(), pass());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_may_change_while_bytes_wait() {
        let pace = Pace::default();
        assert_eq!(a_million(&pace).await, Duration::ZERO, "there is none yet");
        // Seconds after which the rate becomes another, and how long all of it takes: the last chunk is not waited for.
        let table =
            [(0.0, Some(250_000), 3.9), (2.0, Some(1_000_000), 2.475), (1.0, None, 1.0), (1.0, Some(0), 1.0)];
        for (after, rate, takes) in table {
            pace.set(Some(250_000));
            let change = async {
                tokio::time::sleep(Duration::from_secs_f64(after)).await;
                pace.set(rate);
            };
            let (taken, ()) = tokio::join!(a_million(&pace), change);
            let taken = taken.as_secs_f64();
            assert!((takes - 0.03..=takes + 0.03).contains(&taken), "{rate:?} after {after} s: {taken} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_saves_no_idle_time_up() {
        let pace = Pace::default();
        pace.set(Some(1000));
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..3 {
            pace.admit(1000).await.passed();
        }
        assert!((1.99..2.01).contains(&begun.elapsed().as_secs_f64()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_the_rate() {
        let throttle = Throttle::new(Some(1_000_000));
        let begun = Instant::now();
        let passing: Vec<_> = (0..4)
            .map(|_| {
                let throttle = throttle.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        throttle.pass(10_000).await;
                    }
                })
            })
            .collect();
        for one in passing {
            one.await.unwrap();
        }
        // Two million bytes, the last chunk of which has passed without being waited for.
        let taken = begun.elapsed().as_secs_f64();
        assert!((1.97..=2.0).contains(&taken), "{taken} s");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_not_saved_up() {
        let throttle = Throttle::new(Some(1000));
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..3 {
            throttle.pass(1000).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_costs_the_others_nothing() {
        let throttle = Throttle::new(Some(1000));
        let begun = Instant::now();
        throttle.pass(1000).await;
        let mut first = Box::pin(throttle.pass(60_000));
        let mut second = Box::pin(throttle.pass(1000));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        second.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "one that waited was given up");

        let admitted = throttle.admit(60_000).await;
        let third = throttle.pass(1000);
        let given_up = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(admitted);
        };
        tokio::join!(third, given_up);
        assert_eq!(begun.elapsed(), Duration::from_secs(5), "one that did not pass when it could");
        throttle.pass(1000).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(6), "and that made nobody pass too soon");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stood_still_makes_up_for_no_more_than_what_waited() {
        let throttle = Throttle::new(Some(1000));
        throttle.pass(1000).await;
        let mut waiting = Box::pin(throttle.pass(1000));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        tokio::time::advance(Duration::from_secs(60)).await;
        waiting.await;
        let begun = Instant::now();
        for _ in 0..3 {
            throttle.pass(1000).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn how_much_of_a_minute_somebody_waited() {
        let throttle = Throttle::new(Some(1000));
        let told = || throttle.pressure().map(|p| (p.waits, p.waited_percent, p.waited.as_secs())).unwrap();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(told(), (false, 0, 0));
        throttle.pass(15_000).await;
        // Two that wait at the same time are one time in which somebody waits.
        let waiting = tokio::join!(throttle.pass(0), throttle.pass(15_000));
        assert_eq!((waiting, told()), (((), ()), (false, 25, 15)));
        {
            let mut given_up = std::pin::pin!(throttle.pass(1));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending());
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(told(), (true, 35, 21));
        }
        assert_eq!(told(), (false, 35, 21));
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(told(), (false, 0, 21));
        assert_eq!(Throttle::default().pressure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let begun = Instant::now();
        for unlimited in [Throttle::new(None), Throttle::new(Some(0)), Throttle::default()] {
            unlimited.pass(usize::MAX).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
