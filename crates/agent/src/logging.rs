//! Logs: one line per event on standard error, for people or for machines.
//!
//! Invariant: a log that nobody takes away never holds up a pull. Lines go through a bounded queue to a thread of their
//! own; when the queue is full they are counted and dropped, and the count is logged when there is room again.

mod writer;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr as _;
use std::time::SystemTime;

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;
use crate::trace::{self, SpanLayer};

pub use writer::Flush;

/// What is logged: a level for everything, and levels for single targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Targets);

/// What libraries say that concerns nobody who runs an agent, and from which level on they are heard: libp2p's own spelling of
/// the agent's name, which no command shows, and connections on which the other side was the first to go.
const QUIET: [(&str, LevelFilter); 2] =
    [("libp2p_swarm", LevelFilter::WARN), ("yamux::connection", LevelFilter::ERROR)];

impl Default for Filter {
    fn default() -> Self {
        Filter::new(Targets::new().with_default(Level::INFO))
    }
}

impl Filter {
    /// With [`QUIET`], but for what the filter names itself. Who asks for more than is usual wants to see all of it, and who asks
    /// for less gets no more.
    fn new(targets: Targets) -> Self {
        let usual = [Some(LevelFilter::INFO), Some(LevelFilter::WARN)];
        let is_usual = usual.contains(&targets.default_level());
        let is_named = |quiet: &str| {
            targets.iter().any(|(named, _)| named.starts_with(quiet) || quiet.starts_with(named))
        };
        let quiet: Vec<_> = QUIET.into_iter().filter(|(target, _)| is_usual && !is_named(target)).collect();
        Filter(targets.with_targets(quiet))
    }
}

/// How the agent logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are.
    pub filter: Filter,
}

/// The filter is not one. Whoever wrote it is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wrong:?} is not a level; write error, warn, info, debug, trace or off, or a list such as \"info,shoal::request=warn\""
)]
pub struct FilterError {
    wrong: String,
}

/// Reads a filter: levels and `target=level`, separated by commas. A word that is no level is an error here, although it
/// could name a target: it is more often a level that was misspelt, and would silence everything.
///
/// # Errors
/// The first part that is neither.
pub fn filter(text: &str) -> Result<Filter, FilterError> {
    let level = |name: &str| {
        ["error", "warn", "info", "debug", "trace", "off"].contains(&name.to_ascii_lowercase().as_str())
    };
    for part in text.split(',').map(str::trim) {
        let is_right = match part.split_once('=') {
            Some((target, name)) => !target.trim().is_empty() && level(name.trim()),
            None => level(part),
        };
        if !is_right {
            return Err(FilterError { wrong: part.chars().take(40).collect() });
        }
    }
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    Targets::from_str(&compact)
        .map(Filter::new)
        .map_err(|_| FilterError { wrong: text.chars().take(40).collect() })
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It has been before. The program is at fault.
    #[error("logging is set up already")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    /// The system gives no thread for it.
    #[error("cannot start the log's thread")]
    Thread(#[source] io::Error),
}

/// Sets logging up for the process, and takes the spans of pulls to where traces go, if that is somewhere. What was logged is
/// written out when the returned value is dropped.
///
/// # Errors
/// If it was set up before, or the system is out of threads.
pub fn init(settings: &Settings, traces: Option<SpanLayer>) -> Result<Flush, InitError> {
    let notice: fn(u64) -> String = match settings.format {
        LogFormat::Text => |lost| format!("({lost} log lines were lost: nobody took them away in time)"),
        LogFormat::Json => |lost| {
            format!(
                r#"{{"level":"WARN","message":"log lines were lost: nobody took them away in time","lost":{lost}}}"#
            )
        },
    };
    let (lines, flush) = writer::start(io::stderr(), notice).map_err(InitError::Thread)?;
    let lines = move || lines.clone();
    let format = tracing_subscriber::fmt::layer().with_timer(Utc).with_writer(lines);
    // Spans are for traces. A log that took them would pay for each of them, and have longer lines.
    let filter = settings.filter.0.clone().with_target(trace::TARGET, LevelFilter::OFF);
    let layer = match settings.format {
        LogFormat::Text => format.compact().with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            format.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    tracing_subscriber::registry().with(traces).with(layer.with_filter(filter)).try_init()?;
    Ok(flush)
}

/// RFC 3339 in UTC with milliseconds: lines of many nodes are read side by side.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::{Filter, filter};

    #[test]
    fn filters() {
        for good in ["info", "WARN", "off", "info, shoal::request=warn", "error,hyper=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "infoo", "info,", "info,=warn", "shoal::request", "a=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        assert_eq!(filter("info").unwrap(), Filter::default());
        let mixed = filter("info, shoal::request=warn").unwrap();
        assert!(!mixed.0.would_enable("shoal::request", &Level::INFO));
        assert!(mixed.0.would_enable("shoal_agent", &Level::INFO));
    }

    #[test]
    fn what_libraries_say_of_themselves() {
        let swarm = ("libp2p_swarm", Level::INFO);
        let swarm_warns = ("libp2p_swarm", Level::WARN);
        let yamux = ("yamux::connection", Level::WARN);
        let yamux_fails = ("yamux::connection", Level::ERROR);
        // What the filter is, what is heard, and what is not.
        let table: [(&str, &[(&str, Level)], &[(&str, Level)]); 7] = [
            ("info", &[swarm_warns, yamux_fails], &[swarm, yamux]),
            ("info,shoal::request=warn", &[swarm_warns, yamux_fails], &[swarm, yamux]),
            ("warn", &[swarm_warns, yamux_fails], &[swarm, yamux]),
            ("info,yamux=warn", &[yamux], &[swarm]),
            ("info,libp2p_swarm=info", &[swarm], &[yamux]),
            ("debug", &[swarm, yamux], &[]),
            ("error", &[yamux_fails], &[swarm_warns, yamux]),
        ];
        for (text, heard, unheard) in table {
            let filter = filter(text).unwrap();
            for (target, level) in heard {
                assert!(filter.0.would_enable(target, level), "{text}: {target} {level}");
            }
            for (target, level) in unheard {
                assert!(!filter.0.would_enable(target, level), "{text}: {target} {level}");
            }
        }
        assert!(!filter("off").unwrap().0.would_enable("yamux::connection", &Level::ERROR));
    }
}
