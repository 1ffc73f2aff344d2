//! Keeping count of what happens, and telling those who watch.

use shoal_engine::engine::Settings;
use shoal_engine::{Input, Output, Time};

use super::{Happening, NodeId, SAMPLES, VIOLATIONS_MAX, World};
use crate::bound::Bound;
use crate::outcome::Sample;
use crate::queue::{Nanos, SECOND, nanos};

/// What happens to the engine of node 0.
#[derive(Debug)]
pub enum Seen<'a> {
    /// It is made: once for each start of the agent.
    Begun(Settings),
    /// It is handed an input.
    Input(Time, &'a Input),
    /// It says what to do.
    Output(Time, &'a Output),
}

/// Is told what happens to the engine of node 0.
pub type SeesEngine<'a> = Box<dyn FnMut(Seen<'_>) + 'a>;

/// Is told a line.
pub type TakesLine<'a> = Box<dyn FnMut(&str) + 'a>;

/// Those who watch a run. They change nothing of it.
#[derive(Default)]
pub struct Watchers<'a> {
    /// Is told all that happens to the engine of node 0.
    pub engine: Option<SeesEngine<'a>>,
    /// Is told a line for each message, upload, request, complaint of a client and broken rule: time in seconds, node, what.
    pub log: Option<TakesLine<'a>>,
    /// Tells the bytes of the heap that are in use.
    pub live_bytes: Option<fn() -> u64>,
}

impl World<'_> {
    pub(super) fn log(&mut self, now: Nanos, node: NodeId, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.watchers.log {
            log(&format!("{:.6} {node} {}", now as f64 / SECOND, what()));
        }
    }

    pub(super) fn show(&mut self, node: NodeId, seen: Seen<'_>) {
        if node == 0
            && let Some(engine) = &mut self.watchers.engine
        {
            engine(seen);
        }
    }

    /// FNV-1a over everything that happens.
    pub(super) fn trace(&mut self, what: &[u64]) {
        for word in what {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(super) fn violate(&mut self, now: Nanos, what: String) {
        if let Some(log) = &mut self.watchers.log {
            log(&format!("{:.6} - breaks a rule: {what}", now as f64 / SECOND));
        }
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("{:.6} s: {what}", now as f64 / SECOND));
        }
    }

    pub(super) fn share_done(&self) -> f64 {
        let (mut have, mut want) = (0u64, 0u64);
        for node in self.nodes.iter().filter(|n| !n.holds) {
            have += node.blobs.iter().map(|b| b.received()).sum::<u64>();
            want += self.scenario.bytes();
        }
        if want == 0 { 1.0 } else { have as f64 / want as f64 }
    }

    pub(super) fn sample(&mut self, now: Nanos) {
        let total = self.scenario.bytes().max(1);
        let progress = self.nodes.iter().map(|node| {
            let have: u64 = node.blobs.iter().map(|b| b.received()).sum();
            (have * 255 / total) as u8
        });
        self.samples.push(Sample { at_s: now as f64 / SECOND, progress: progress.collect() });
        // Twice the bound is seen in full; a run that takes longer is sampled coarser and coarser.
        let step = nanos(Bound::of(self.scenario).total_s().max(0.05) * 2.0) / SAMPLES;
        let step = step.max(now / SAMPLES);
        self.queue.plan(now + step.max(1_000_000), Happening::Sample);
    }
}
