//! `shoal-sim`: runs scenarios from a terminal.
//!
//! Standard output has the result and nothing else; progress goes to standard error, and only to a terminal.

use std::cell::Cell;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use shoal_simulations::document::{self, Chapter};
use shoal_simulations::oracle;
use shoal_simulations::outcome::Outcome;
use shoal_simulations::report::{self, Figures, plots};
use shoal_simulations::scenario::{LIBRARY, Override, Scenario};
use shoal_simulations::systems::{self, BASELINES, System, Watch};

mod memory;

#[global_allocator]
static HEAP: memory::Counting = memory::Counting::new();

/// Every run has its engines weighed.
const WATCH: Watch<'_> = Watch { record: None, log: None, live_bytes: Some(|| HEAP.live_bytes()) };

/// Steps of the progress bar.
const STEPS: u64 = 1000;

/// Runs shoal's engine on thousands of simulated nodes.
#[derive(Parser)]
#[command(name = "shoal-sim", version)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["scenario", "all", "list", "replay"]))]
struct Args {
    /// A scenario that comes with the program (see --list), or the path of a TOML file.
    scenario: Option<String>,
    /// Seed of all chance.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs every seed from A up to B, B excluded, and prints those that break a rule: a ticket that fails, a node that
    /// does not finish, more copies from upstream than the goal allows, or an invariant. The exit code is 1 if there is one.
    #[arg(long, value_name = "A..B", value_parser = seeds, requires = "scenario",
        conflicts_with_all = ["seed", "json", "baselines", "plots", "record", "log", "system"])]
    seeds: Option<Range<u64>>,
    /// Number of nodes.
    #[arg(long)]
    nodes: Option<u64>,
    /// Sets a key of the scenario, such as link.up=25Gbit/s or faults.slow.share=0.1. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// Prints one JSON object for each run instead of a table.
    #[arg(long, conflicts_with_all = ["baselines", "all", "list", "replay"])]
    json: bool,
    /// Runs this system instead of shoal.
    #[arg(long, value_enum, default_value = "shoal")]
    system: System,
    /// Runs the other systems as well.
    #[arg(long, conflicts_with = "system")]
    baselines: bool,
    /// Draws the runs into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Writes the inputs of one engine of the run to this file.
    #[arg(long, value_name = "FILE", requires = "scenario", conflicts_with = "baselines")]
    record: Option<PathBuf>,
    /// Writes a line to this file for each message, upload, request to the origin, failed client and broken rule: time in
    /// seconds, node, what. Large: some gigabytes for a thousand nodes and 1 GiB.
    #[arg(long, value_name = "FILE", requires = "scenario", conflicts_with_all = ["baselines", "all"])]
    log: Option<PathBuf>,
    /// Feeds recorded inputs, of a simulated or of a real agent, to an engine.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Runs every scenario and writes SIMULATION.md with its plots.
    #[arg(long, conflicts_with_all = ["system", "plots", "record"])]
    all: bool,
    /// Where --all writes to.
    #[arg(long, value_name = "DIR", default_value = "docs", requires = "all")]
    out: PathBuf,
    /// Lists the scenarios that come with the program.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("shoal-sim: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked. `false` if a ticket failed or a rule was broken that always holds; goals that are missed are no
/// failure, they are a figure.
fn run(args: &Args) -> anyhow::Result<bool> {
    if args.list {
        return list();
    }
    if let Some(file) = &args.replay {
        let said = with_progress("replay", |progress| systems::replay(file, progress))?;
        return print(&format!("{said}\n")).map(|()| true);
    }
    if args.all {
        return all(args);
    }
    let name = args.scenario.as_deref().context("no scenario")?;
    let mut is_good = true;
    let scenarios = Scenario::load(name, &overrides(args))?;
    if let Some(seeds) = &args.seeds {
        return hunt(scenarios, seeds);
    }
    anyhow::ensure!(
        args.record.is_none() && args.log.is_none() || scenarios.len() == 1,
        "{name} is {} runs, and a recording or a log is of one; choose one with --set",
        scenarios.len()
    );
    let watch = Watch { record: args.record.as_deref(), log: args.log.as_deref(), ..WATCH };
    for scenario in scenarios {
        let outcomes = outcomes(&scenario, args.system, watch, args.baselines)?;
        let runs: Vec<Figures> = outcomes.iter().map(Figures::of).collect();
        is_good &= runs.first().is_none_or(is_sound);
        print(&if args.json { json(&runs)? } else { shown(&scenario, &runs) })?;
        if let Some(folder) = &args.plots {
            draw(folder, &scenario, &outcomes)?;
        }
    }
    Ok(is_good)
}

/// `--seed` and `--nodes` are said last, so they win over `--set`.
fn overrides(args: &Args) -> Vec<Override> {
    let mut overrides = args.set.clone();
    overrides.extend(args.seed.map(|seed| Override::number("seed", seed)));
    overrides.extend(args.nodes.map(|nodes| Override::number("nodes", nodes)));
    overrides
}

/// `1..20`.
fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    parsed.filter(|seeds| !seeds.is_empty()).ok_or_else(|| "two numbers, such as 1..20".into())
}

/// Runs every seed and prints those that break a rule. `true` if none does.
fn hunt(scenarios: Vec<Scenario>, seeds: &Range<u64>) -> anyhow::Result<bool> {
    let mut bad = 0u64;
    for scenario in &scenarios {
        for seed in seeds.clone() {
            let scenario = Scenario { seed, ..scenario.clone() };
            let title = format!("{}, seed {seed}", scenario.name);
            let outcome = with_progress(&title, |progress| {
                systems::run(&scenario, System::Shoal, Watch::default(), progress)
            })?;
            let broken = oracle::broken(&scenario, &outcome);
            bad += u64::from(!broken.is_empty());
            for what in broken {
                print(&format!("{title}: {what}\n"))?;
            }
        }
    }
    let runs = scenarios.len() as u64 * (seeds.end - seeds.start);
    print(&format!("{runs} runs, {bad} of them break a rule\n"))?;
    Ok(bad == 0)
}

fn list() -> anyhow::Result<bool> {
    let width = LIBRARY.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, _) in LIBRARY {
        let runs = Scenario::load(name, &[])?;
        let description = runs.first().map_or("", |run| run.description.as_str());
        text.push_str(&format!("{name:<width$}  {description}\n"));
    }
    print(&text).map(|()| true)
}

fn all(args: &Args) -> anyhow::Result<bool> {
    let mut chapters = Vec::new();
    for (name, _) in LIBRARY {
        for scenario in Scenario::load(name, &overrides(args))? {
            let outcomes = outcomes(&scenario, System::Shoal, WATCH, args.baselines || scenario.baselines)?;
            let runs: Vec<Figures> = outcomes.iter().map(Figures::of).collect();
            print(&shown(&scenario, &runs))?;
            chapters.push(Chapter { scenario, outcomes });
            // After each, so that a run that is stopped leaves what it has found.
            write_document(&args.out, &chapters)?;
        }
    }
    Ok(chapters
        .iter()
        .filter_map(|chapter| chapter.outcomes.first())
        .all(|outcome| is_sound(&Figures::of(outcome))))
}

fn write_document(out: &Path, chapters: &[Chapter]) -> anyhow::Result<()> {
    let document = document::render(chapters)?;
    let folder = out.join(document::PLOTS);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (file, svg) in &document.plots {
        write(&folder.join(file), svg)?;
    }
    write(&out.join("SIMULATION.md"), &document.markdown)
}

/// One system, or shoal and all others.
fn outcomes(
    scenario: &Scenario,
    system: System,
    watch: Watch<'_>,
    with_baselines: bool,
) -> anyhow::Result<Vec<Outcome>> {
    let others = BASELINES.into_iter().filter(|_| with_baselines);
    let run = |system: System| {
        let title = format!("{}, {system}", scenario.name);
        with_progress(&title, |progress| systems::run(scenario, system, watch, progress))
            .with_context(|| format!("cannot run {}", scenario.name))
    };
    std::iter::once(system).chain(others).map(run).collect()
}

fn is_sound(run: &Figures) -> bool {
    run.summary.failed == 0 && run.violations.is_empty()
}

fn json(runs: &[Figures]) -> anyhow::Result<String> {
    let mut text = String::new();
    for run in runs {
        text.push_str(&serde_json::to_string(&run.summary)?);
        text.push('\n');
    }
    Ok(text)
}

/// The table, and below it the goals of the first system.
fn shown(scenario: &Scenario, runs: &[Figures]) -> String {
    let mut text = report::table(runs);
    let Some(first) = runs.first().filter(|run| run.system == System::Shoal.name()) else { return text };
    for verdict in report::judge(&scenario.goals, first) {
        let mark = if verdict.is_reached { "reached" } else { "MISSED " };
        text.push_str(&format!("  {mark} {} {}: {}\n", verdict.figure, verdict.goal, verdict.found));
    }
    text.push('\n');
    text
}

fn draw(folder: &Path, scenario: &Scenario, outcomes: &[Outcome]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = |rest: &str| folder.join(format!("{}-{rest}.svg", scenario.name));
    write(&file("completion"), &plots::completion(outcomes)?)?;
    for outcome in outcomes {
        write(&file(&format!("{}-traffic", outcome.system)), &plots::traffic(outcome)?)?;
        write(&file(&format!("{}-progress", outcome.system)), &plots::progress(outcome)?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// To standard output; somebody who has stopped reading is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Runs something with a bar on standard error, if that is a terminal.
fn with_progress<T>(title: &str, work: impl FnOnce(&dyn Fn(f64)) -> T) -> T {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(5),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(STEPS), target);
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent} % {elapsed}, {eta} to go");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(title.to_owned());
    let reached = Cell::new(0);
    let done = work(&|share| {
        let step = (share.clamp(0.0, 1.0) * STEPS as f64) as u64;
        if step > reached.replace(step) {
            bar.set_position(step);
        }
    });
    bar.finish_and_clear();
    done
}
