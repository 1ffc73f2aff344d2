//! How far a request is, while it runs, on standard error: bars on a terminal, lines elsewhere.
//!
//! Invariant: on something that is no terminal a line is written only when there is something new to say, and not more often
//! than each [`LINE_PAUSE`], but for the beginning and for nodes that fail.

use std::collections::VecDeque;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::text;
use crate::warm::WarmStatus;

/// Time over which the rate is taken, milliseconds.
const RATE_OVER_MS: u64 = 10_000;

/// Least time between two lines, milliseconds.
const LINE_PAUSE_MS: u64 = 5_000;

/// Lines of zones, and of nodes that are still at it, on a terminal.
const LINES_MAX: usize = 8;

/// See the module's head.
pub(super) struct Progress {
    rate: Rate,
    view: View,
}

enum View {
    Bars(Box<Bars>),
    Lines { last_ms: Option<u64>, last: String },
}

struct Bars {
    all: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
}

impl Progress {
    /// Says what begins.
    pub fn new(status: &WarmStatus) -> Self {
        let view = if std::io::stderr().is_terminal() {
            View::Bars(Box::new(Bars::new()))
        } else {
            View::Lines { last_ms: None, last: String::new() }
        };
        let progress = Progress { rate: Rate::default(), view };
        progress.say(&text::beginning(status));
        progress
    }

    /// Shows what is new.
    pub fn show(&mut self, status: &WarmStatus) {
        let rate = self.rate.update(status.elapsed_ms, status.bytes);
        match &mut self.view {
            View::Bars(bars) => bars.show(status, rate),
            View::Lines { last_ms, last } => {
                // What moves in each of them (time, bytes, rate) is no news by itself.
                let news = text::counts(status);
                let pause = last_ms.map_or(u64::MAX, |last| status.elapsed_ms.saturating_sub(last));
                if pause >= LINE_PAUSE_MS && (*last != news || pause >= 2 * LINE_PAUSE_MS) {
                    (*last_ms, *last) = (Some(status.elapsed_ms), news);
                    eprintln!("{}", text::line(status, rate));
                }
            }
        }
    }

    /// Says something beside it.
    pub fn say(&self, line: &str) {
        match &self.view {
            View::Bars(bars) => drop(bars.all.println(line)),
            View::Lines { .. } => eprintln!("{line}"),
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("{wide_bar}\n  {msg}").expect("the template is right");
        bar.set_style(style);
        Bars { all, bar, lines: Vec::new() }
    }

    fn show(&mut self, status: &WarmStatus, rate: u64) {
        self.bar.set_length(status.bytes_of.max(1));
        self.bar.set_position(status.bytes);
        self.bar.set_message(text::line(status, rate));
        let lines = text::details(status, LINES_MAX);
        while self.lines.len() < lines.len() {
            let line = self.all.add(ProgressBar::new_spinner());
            line.set_style(ProgressStyle::with_template("  {msg}").expect("the template is right"));
            self.lines.push(line);
        }
        for (at, line) in self.lines.iter().enumerate() {
            line.set_message(lines.get(at).cloned().unwrap_or_default());
            line.tick();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

/// Bytes per second over the last while.
#[derive(Default)]
struct Rate(VecDeque<(u64, u64)>);

impl Rate {
    fn update(&mut self, now_ms: u64, bytes: u64) -> u64 {
        self.0.push_back((now_ms, bytes));
        // One older than the span stays, so that the span is covered.
        while self.0.len() > 2 && self.0[1].0 + RATE_OVER_MS <= now_ms {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        bytes.saturating_sub(before) * 1000 / now_ms.saturating_sub(since).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn the_rate_is_that_of_the_last_while() {
        let mut rate = Rate::default();
        let table =
            [(0, 0, 0), (1000, 500, 500), (2000, 3000, 1500), (12_000, 3000, 0), (13_000, 14_000, 1000)];
        for (now, bytes, expected) in table {
            assert_eq!(rate.update(now, bytes), expected, "at {now} ms");
        }
        assert_eq!(rate.update(14_000, 100), 0, "what is there may turn out to be less");
    }
}
