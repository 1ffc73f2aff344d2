//! When the agent's entries are in the runtimes' configuration, and when they are better out of it: judged by looks at the agent.
//!
//! Invariants: the first good look writes them. They are taken away only when no look has been good for a while, several in a
//! row, and come back only when every look has been good for a while; and they come back only so often in an hour, so that an agent
//! that comes and goes does not have the runtimes' files rewritten for ever. Taking away is never held up: without an entry a pull
//! costs what it costs without the agent. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bad looks in a row without which nothing is taken away: a machine that slept has one behind it when it wakes up.
const BAD_LOOKS_MIN: u32 = 3;
/// What `restores_per_hour_max` counts in.
const HOUR: Duration = Duration::from_secs(3600);

/// How long is long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a good look for so long, the agent is unable to serve.
    pub unable_after: Duration,
    /// With good looks alone for so long, it is able again.
    pub able_after: Duration,
    /// How often entries come back within an hour.
    pub restores_per_hour_max: usize,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Write the entries, and say so with [`Hold::written`].
    Write,
    /// Take them away, and say so with [`Hold::taken_away`].
    TakeAway,
    /// Nothing yet: they would come back, but have done so too often lately.
    HeldBack {
        /// When they may.
        until: Instant,
    },
}

/// Where the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// As whoever was here before has left them.
    Unknown,
    /// Written.
    There,
    /// Taken away.
    Away,
}

/// What has been seen of the agent, and where its entries are.
#[derive(Debug)]
pub struct Hold {
    patience: Patience,
    entries: Entries,
    /// The last good look, or the beginning.
    last_good: Instant,
    /// Bad looks since then.
    bad_looks: u32,
    /// The first of the good looks since the last bad one.
    good_since: Option<Instant>,
    /// When entries came back, at most an hour ago.
    restores: VecDeque<Instant>,
}

impl Hold {
    /// Nothing has been seen yet.
    pub fn new(patience: Patience, now: Instant) -> Self {
        Hold {
            patience,
            entries: Entries::Unknown,
            last_good: now,
            bad_looks: 0,
            good_since: None,
            restores: VecDeque::new(),
        }
    }

    /// What a look has shown: whether the agent serves.
    pub fn look(&mut self, now: Instant, serves: bool) -> Step {
        if serves {
            self.last_good = now;
            self.bad_looks = 0;
        } else {
            self.bad_looks = self.bad_looks.saturating_add(1);
            self.good_since = None;
        }
        match (self.entries, serves) {
            (Entries::Unknown, true) => Step::Write,
            (Entries::Unknown | Entries::There, false) if self.is_unable(now) => Step::TakeAway,
            (Entries::Away, true) => self.back(now),
            _ => Step::Stay,
        }
    }

    /// The entries are written.
    pub fn written(&mut self, now: Instant) {
        if self.entries == Entries::Away {
            self.restores.push_back(now);
        }
        self.entries = Entries::There;
    }

    /// The entries are away.
    pub fn taken_away(&mut self) {
        self.entries = Entries::Away;
    }

    /// Whether the entries are there because this says so.
    pub fn is_written(&self) -> bool {
        self.entries == Entries::There
    }

    /// Whether the entries are away because this says so.
    pub fn is_away(&self) -> bool {
        self.entries == Entries::Away
    }

    fn is_unable(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.last_good);
        self.bad_looks >= BAD_LOOKS_MIN && since >= self.patience.unable_after
    }

    fn back(&mut self, now: Instant) -> Step {
        let since = *self.good_since.get_or_insert(now);
        if now.saturating_duration_since(since) < self.patience.able_after {
            return Step::Stay;
        }
        while self.restores.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
            self.restores.pop_front();
        }
        match self.restores.front() {
            Some(oldest) if self.restores.len() >= self.patience.restores_per_hour_max => {
                Step::HeldBack { until: *oldest + HOUR }
            }
            _ => Step::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    fn patience() -> Patience {
        Patience {
            unable_after: Duration::from_secs(60),
            able_after: Duration::from_secs(30),
            restores_per_hour_max: 2,
        }
    }

    /// A look every five seconds: `+` is good, `-` bad. What was done is `W` for written and `T` for taken away, `h` for held back,
    /// each at its look; everything else is `.`.
    fn run(looks: &str) -> String {
        let start = Instant::now();
        let mut hold = Hold::new(patience(), start);
        let mut now = start;
        let step = |look| {
            now += EVERY;
            match hold.look(now, look == '+') {
                Step::Stay => '.',
                Step::HeldBack { until } => {
                    assert!(until > now && until <= now + HOUR);
                    'h'
                }
                Step::Write => {
                    hold.written(now);
                    'W'
                }
                Step::TakeAway => {
                    hold.taken_away();
                    'T'
                }
            }
        };
        looks.chars().map(step).collect()
    }

    #[test]
    fn entries_come_and_go() {
        for (story, looks, steps) in [
            ("an agent that starts late", "---+++", "...W.."),
            ("a restart", "+---++++", "W......."),
            ("gone for good", "+-------------", "W...........T."),
            ("one good answer begins the time anew", "+-----------+-----------", "W......................."),
            ("never there: what an earlier process left is taken away", "-------------", "...........T."),
            ("back, for a while", "+------------+++++++", "W...........T......W"),
            ("back, but not for long enough", "+------------++++++-+++++++", "W...........T.............W"),
        ] {
            assert_eq!(run(looks), steps, "{story}");
        }
    }

    #[test]
    fn an_agent_that_comes_and_goes_gets_its_entries_back_so_often_and_no_more() {
        let once = format!("{}{}", "-".repeat(12), "+".repeat(8));
        let steps = run(&format!("+{}", once.repeat(5)));
        assert_eq!(steps.matches('W').count(), 3, "{steps}");
        assert_eq!(steps.matches('T').count(), 3, "{steps}");
        // An hour after they first came back, they may once more.
        let steps = run(&format!("+{}{}", once.repeat(3), "+".repeat(720)));
        assert_eq!(steps.matches('W').count(), 4, "{steps}");
        assert!(steps.contains("hW"), "{steps}");
    }

    #[test]
    fn a_machine_that_slept_is_not_an_agent_that_failed() {
        let start = Instant::now();
        let mut hold = Hold::new(patience(), start);
        assert_eq!(hold.look(start, true), Step::Write);
        hold.written(start);
        let morning = start + 8 * HOUR;
        assert_eq!(hold.look(morning, false), Step::Stay);
        assert_eq!(hold.look(morning + EVERY, true), Step::Stay);
    }

    /// What could not be written or taken away is asked for again.
    #[test]
    fn what_was_not_done_is_said_again() {
        let start = Instant::now();
        let mut hold = Hold::new(patience(), start);
        assert_eq!(hold.look(start, true), Step::Write);
        assert_eq!(hold.look(start, true), Step::Write);
        hold.written(start);
        let late = start + HOUR;
        let steps = [0; 4].map(|_| hold.look(late, false));
        assert_eq!(steps, [Step::Stay, Step::Stay, Step::TakeAway, Step::TakeAway]);
    }
}
