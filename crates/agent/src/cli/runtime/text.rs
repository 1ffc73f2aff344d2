//! What `shoal runtime` says to people.

use std::fmt::Write as _;

use super::super::Failure;
use super::super::output::{Align, Output, Table};
use super::{Report, Standing};
use crate::runtime::{Advice, Change, Done, FileDone, FileStatus, Mirrored, Runtime, State};

pub(super) fn report(report: &Report, out: &mut Output) -> Result<(), Failure> {
    if report.runtimes.is_empty() {
        return out.line(format_args!("nothing is written on this node"));
    }
    let mut text = String::new();
    for done in &report.runtimes {
        let _ = writeln!(text, "{}", done.runtime);
        for file in &done.files {
            text.push_str(&file_line(file, report.dry_run));
        }
        done.advice.iter().for_each(|advice| text.push_str(&advised(advice)));
        text.push_str(&restart(done, report.dry_run));
    }
    if !report.changed {
        text.push_str("nothing to change\n");
    }
    out.bytes(text.as_bytes())
}

fn file_line(file: &FileDone, dry_run: bool) -> String {
    let would = |done: &'static str, rehearsed: &'static str| if dry_run { rehearsed } else { done };
    let what = match &file.change {
        Change::Created => would("written", "would be written"),
        Change::Changed => would("added to", "would be added to"),
        Change::Unchanged => "has the agent first already",
        Change::PutBack => "as it was written",
        Change::Restored => would("as it was before", "would be as it was before"),
        Change::TakenOut => would(
            "changed by somebody since: only the agent was taken out",
            "changed by somebody since: only the agent would be taken out",
        ),
        Change::NothingLeft => "nothing of the agent is left there",
        Change::Refused { why } => return format!("  {}: left as it is: {why}\n", file.path.display()),
    };
    let mut text = format!("  {}: {what}\n", file.path.display());
    if dry_run {
        for line in &file.added {
            let _ = writeln!(text, "    + {line}");
        }
    }
    text
}

fn advised(advice: &Advice) -> String {
    let mut text = format!("  to do: {}\n", advice.text);
    for line in advice.snippet.as_deref().unwrap_or_default().lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn restart(done: &Done, dry_run: bool) -> String {
    let after = if dry_run { "afterwards" } else { "now" };
    done.restart.map_or_else(String::new, |command| format!("  {after}: {command}\n"))
}

pub(super) fn standing(standing: &Standing, out: &mut Output) -> Result<(), Failure> {
    if standing.survey.runtimes.is_empty() {
        out.line(format_args!("no container runtime is found"))?;
    }
    if let Some(platform) = standing.survey.platform {
        out.line(format_args!("platform: {platform}"))?;
    }
    for runtime in &standing.survey.runtimes {
        out.bytes(headline(runtime).as_bytes())?;
        let table = mirrors(&runtime.mirrors);
        if !table.is_empty() {
            out.table(&table)?;
        }
        for finding in &runtime.findings {
            out.line(format_args!("  ! {finding}"))?;
        }
    }
    standing.written.iter().try_for_each(|file| match written(file) {
        Some(line) => out.line(format_args!("{line}")),
        None => Ok(()),
    })
}

/// What has become of a file, if there is something to say.
fn written(file: &FileStatus) -> Option<String> {
    let path = file.path.display();
    match (file.state, &file.away) {
        (State::AsWritten, _) => None,
        (_, Some(away)) => Some(format!("{path}: {away}")),
        (State::Gone, _) => Some(format!("{path}: removed by somebody since `shoal runtime install`")),
        (State::Changed | State::Away, _) => {
            Some(format!("{path}: changed by somebody since `shoal runtime install`"))
        }
    }
}

fn headline(runtime: &Runtime) -> String {
    let version = runtime.version.map_or_else(String::new, |version| format!(" {version}"));
    let state = match (runtime.uses_agent(), runtime.mirrors.iter().any(|mirrored| mirrored.own.is_some())) {
        (true, _) => "asks the agent",
        (false, true) => "is pointed at the agent and does not ask it",
        (false, false) => "does not ask the agent",
    };
    format!("{}{version}: {state}\n", runtime.kind)
}

fn mirrors(mirrors: &[Mirrored]) -> Table {
    let mut table = Table::new(&[
        (" ", Align::Left),
        ("REGISTRY", Align::Left),
        ("AGENT", Align::Left),
        ("ASKED IN THIS ORDER", Align::Left),
        ("FILE", Align::Left),
    ]);
    for mirrored in mirrors {
        let place = match mirrored.own {
            Some(0) => "first".to_owned(),
            Some(place) => format!("place {}", place + 1),
            None => "no".to_owned(),
        };
        table.row([
            String::new(),
            mirrored.registry.clone(),
            place,
            mirrored.hosts.join(", "),
            mirrored.file.display().to_string(),
        ]);
    }
    table
}
