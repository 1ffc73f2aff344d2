//! Replay: an engine goes through what another one, of a simulated or of a real agent, was handed.
//!
//! Nothing is carried out: the recording has the answers. The same software gives the same outputs, so the fingerprint of
//! a replay is that of the run; where the software has changed, it shows whether that changed what the node did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use shoal_engine::io::{Found, Outcome};
use shoal_engine::record::{Fingerprint, RecordError, Recorded, Recording};
use shoal_engine::{Engine, Input, Output, Time};

use crate::report::count;

/// Frames between two reports of progress.
const PROGRESS_FRAMES: u64 = 4096;

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Engines that were made: one, and one more for each restart of the agent.
    pub engines: u64,
    /// Inputs.
    pub inputs: u64,
    /// From the first input to the last.
    pub span: Duration,
    /// Outputs by kind.
    pub outputs: BTreeMap<&'static str, u64>,
    /// Tickets that were opened.
    pub opened: u64,
    /// Tickets that the engine ended, by how.
    pub ended: BTreeMap<String, u64>,
    /// Tickets that their clients closed, or that a restart cut off.
    pub given_up: u64,
    /// Flights that began.
    pub flights: u64,
    /// Flights that found their blob in the store.
    pub found: u64,
    /// Flights that brought their blob into the store.
    pub stored: u64,
    /// Flights under way at the end.
    pub under_way: usize,
    /// Whether the recorder had to stop before the agent did.
    pub is_cut: bool,
    /// Hash over all outputs.
    pub fingerprint: Fingerprint,
}

/// Goes through a recording.
pub fn replay(bytes: &[u8], progress: &dyn Fn(f64)) -> Result<Replayed, RecordError> {
    let mut recording = Recording::open(bytes)?;
    let mut replayed = Replayed::default();
    let (mut engine, mut first, mut frames) = (None, None, 0);
    while let Some(recorded) = recording.next() {
        match recorded? {
            Recorded::Begun(settings) => {
                replayed.engines += 1;
                engine = Some(Engine::new(settings));
            }
            Recorded::Input(now, input) => {
                replayed.span = now - *first.get_or_insert(now);
                if let Some(engine) = &mut engine {
                    replayed.step(engine, now, input);
                }
            }
            Recorded::Full => replayed.is_cut = true,
        }
        frames += 1;
        if u64::is_multiple_of(frames, PROGRESS_FRAMES) {
            progress(recording.share_read());
        }
    }
    replayed.under_way = engine.map_or(0, |engine| engine.flights().count());
    replayed.given_up = replayed.opened - replayed.ended.values().sum::<u64>();
    Ok(replayed)
}

impl Replayed {
    fn step(&mut self, engine: &mut Engine, now: Time, input: Input) {
        self.inputs += 1;
        match &input {
            Input::Open { .. } => self.opened += 1,
            Input::Committed { result: Ok(()), .. } => self.stored += 1,
            Input::Looked { found: Found::Whole, .. } => self.found += 1,
            _ => {}
        }
        engine.handle(now, input);
        while let Some(output) = engine.poll_output() {
            self.fingerprint.add(now, &output);
            *self.outputs.entry(kind(&output)).or_default() += 1;
            match output {
                Output::Look { .. } => self.flights += 1,
                Output::End { outcome, .. } => *self.ended.entry(ending(outcome)).or_default() += 1,
                _ => {}
            }
        }
    }
}

fn ending(outcome: Outcome) -> String {
    match outcome {
        Outcome::Delivered => "delivered".into(),
        Outcome::Stored => "left to the store".into(),
        Outcome::PassThrough => "passed through".into(),
        Outcome::Unsatisfiable { .. } => "unsatisfiable".into(),
        Outcome::Failed(fault) => format!("failed: {fault:?}"),
    }
}

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Look { .. } => "look",
        Output::Size { .. } => "size",
        Output::Prepare { .. } => "prepare",
        Output::Fetch { .. } => "fetch",
        Output::Trim { .. } => "trim",
        Output::Cancel { .. } => "cancel",
        Output::Checkpoint { .. } => "checkpoint",
        Output::Verify { .. } => "verify",
        Output::Commit { .. } => "commit",
        Output::Shut { .. } => "shut",
        Output::Tell { .. } => "tell",
        Output::Place { .. } => "place",
        Output::Discard { .. } => "discard",
        Output::Upload(_) => "upload",
        Output::Inspect { .. } => "inspect",
        Output::List { .. } => "list",
        Output::Serve { .. } => "serve",
        Output::Ready { .. } => "ready",
        Output::Keep { .. } => "keep",
        Output::Pace { .. } => "pace",
        Output::Warming { .. } => "warming",
        Output::Warmed { .. } => "warmed",
        Output::End { .. } => "end",
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.span.as_secs_f64();
        let engines = if self.engines == 1 { "engine" } else { "engines" };
        writeln!(f, "{} {engines}, {} inputs in {span:.3} s", self.engines, count(self.inputs))?;
        if self.is_cut {
            writeln!(f, "the recording was full before the agent ended")?;
        }
        writeln!(
            f,
            "flights: {} began, {} found their blob in the store, {} stored it, {} under way at the end",
            count(self.flights),
            count(self.found),
            count(self.stored),
            self.under_way
        )?;
        writeln!(f, "tickets: {} opened", count(self.opened))?;
        for (how, number) in &self.ended {
            writeln!(f, "  {:>10}  {how}", count(*number))?;
        }
        if self.given_up > 0 {
            writeln!(f, "  {:>10}  given up by clients, cut off, or open at the end", count(self.given_up))?;
        }
        writeln!(f, "outputs: {}", count(self.outputs.values().sum()))?;
        for (kind, number) in &self.outputs {
            writeln!(f, "  {:>10}  {kind}", count(*number))?;
        }
        write!(f, "hash of all outputs: {}", self.fingerprint)
    }
}
