//! `shoal runtime install --hold`: the runtimes ask the agent as long as it serves and this runs, and not a moment longer.
//!
//! For a container or a unit beside the agent's: it starts before the agent answers and outlives it. So a failure is told and
//! tried again. It looks at the agent all the time ([`Hold`] says what follows from that), takes the entries away when the
//! agent is unable to serve for long, puts them back when it is able again, and takes them away at the end. A process that is
//! killed leaves its files, as a node that loses power does: a port where nobody answers costs a pull nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::taint::{TaintArgs, Untaint};
use super::{InstallArgs, Report, install, plan, tell, wish};
use crate::admin::client::AdminClient;
use crate::causes::chain;
use crate::cli::Failure;
use crate::cli::failure::explain;
use crate::cli::output::Output;
use crate::runtime::{Hold, Patience, ProofError, Step, Wish, prove};

/// Longest that one look may take, if `--unable-after` is not shorter still: the agent answers in a millisecond when it is well.
const LOOK_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// Stay: write it as soon as the agent answers, take it away while the agent cannot serve, and on SIGTERM.
    ///
    /// For a container or a unit beside the agent's. A file that somebody else changes meanwhile stays theirs.
    #[arg(long, conflicts_with_all = ["dry_run", "unchecked"])]
    pub hold: bool,
    /// Time between two looks at the agent.
    #[arg(long, value_name = "DURATION", requires = "hold", default_value = "5s", value_parser = humantime::parse_duration)]
    check_every: Duration,
    /// Without a good look for so long, the entries are taken away.
    #[arg(long, value_name = "DURATION", requires = "hold", default_value = "1m", value_parser = humantime::parse_duration)]
    unable_after: Duration,
    /// With good looks alone for so long, they are put back.
    #[arg(long, value_name = "DURATION", requires = "hold", default_value = "30s", value_parser = humantime::parse_duration)]
    able_after: Duration,
    /// How often they are put back within an hour, at most.
    #[arg(long, value_name = "N", requires = "hold", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    restores_per_hour: u16,
    #[command(flatten)]
    taint: TaintArgs,
}

impl HoldArgs {
    fn patience(&self) -> Patience {
        Patience {
            unable_after: self.unable_after,
            able_after: self.able_after,
            restores_per_hour_max: usize::from(self.restores_per_hour),
        }
    }
}

pub(super) async fn hold(args: &InstallArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let no_signals = |source| Failure::System { operation: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut holder = Holder {
        args,
        agent: None,
        hold: Hold::new(args.hold.patience(), Instant::now()),
        untaint: args.hold.taint.wanted()?,
        trouble: None,
    };
    tokio::select! {
        never = holder.run(out) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let done = args.node.site().uninstall(&args.node.runtime, false)?;
    tell(&Report::new(false, done), args.node.json, out)
}

struct Holder<'a> {
    args: &'a InstallArgs,
    /// The agent and what it is called, once the configuration has said so: a file that is broken later is no fault of the agent.
    agent: Option<(AdminClient, Wish)>,
    hold: Hold,
    untaint: Option<Untaint>,
    /// What was said last of what is wrong: the same is said once.
    trouble: Option<String>,
}

/// There is no value of it.
enum Never {}

impl Holder<'_> {
    async fn run(&mut self, out: &mut Output) -> Never {
        loop {
            if let Err(failure) = self.turn(out).await {
                self.complain(&failure);
            }
            if self.hold.is_written()
                && let Some(untaint) = &mut self.untaint
                && untaint.attempt(self.args).await
            {
                self.untaint = None;
            }
            tokio::time::sleep(self.args.hold.check_every).await;
        }
    }

    /// One look, and what follows from it.
    async fn turn(&mut self, out: &mut Output) -> Result<(), Failure> {
        let look = self.look().await;
        match (self.hold.look(Instant::now(), look.is_ok()), look) {
            (Step::TakeAway, Err(failure)) => self.take_away(&failure, out),
            (Step::Write, Ok(())) => self.write(out).await,
            (Step::HeldBack { until }, Ok(())) => {
                self.hold_back(until);
                Ok(())
            }
            (_, Ok(())) => {
                self.be_relieved();
                Ok(())
            }
            (_, Err(failure)) => Err(failure),
        }
    }

    /// Whether the agent serves where the runtimes ask it.
    async fn look(&mut self) -> Result<(), Failure> {
        if self.agent.is_none() {
            let config = self.args.agent.config.load()?;
            self.agent = Some((self.args.agent.client()?, wish(self.args, &config)?));
        }
        let Some((agent, wish)) = &self.agent else { return Ok(()) };
        let look_max = LOOK_MAX.min(self.args.hold.unable_after);
        let late = || {
            let source = format!("no answer within {look_max:?}").into();
            Failure::Proof(ProofError::NoAnswer { url: wish.mirror.clone(), source })
        };
        let proofs = async {
            for mirror in self.mirrors(wish) {
                prove(agent, mirror).await?;
            }
            Ok(())
        };
        timeout(look_max, proofs).await.unwrap_or_else(|_| Err(late()))
    }

    /// The agent's addresses that stand in files of the node; the one for docker only where docker is.
    fn mirrors<'w>(&self, wish: &'w Wish) -> Vec<&'w str> {
        let written = self.args.node.site().written().unwrap_or_default();
        let hub = wish.hub_mirror.iter().filter(|hub| written.iter().any(|file| file.mirror == **hub));
        let mut mirrors = vec![wish.mirror.as_str()];
        mirrors.extend(hub.map(String::as_str).filter(|hub| *hub != wish.mirror));
        mirrors
    }

    async fn write(&mut self, out: &mut Output) -> Result<(), Failure> {
        let Some((_, wish)) = &self.agent else { return Ok(()) };
        let back = self.args.node.site().resume(&self.args.node.runtime, &self.mirrors(wish))?;
        let is_back = !back.is_empty();
        if is_back {
            eprintln!("the agent serves: it is in the configuration again");
            tell(&Report::new(false, back), self.args.node.json, out)?;
        }
        if !is_back || plan(self.args)?.report.changed {
            match install(self.args, out).await {
                // Some files were left as they are, which was told, and will be the next time.
                Ok(_) | Err(Failure::FilesLeft { .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.hold.written(Instant::now());
        self.trouble = None;
        Ok(())
    }

    fn take_away(&mut self, failure: &Failure, out: &mut Output) -> Result<(), Failure> {
        let HoldArgs { unable_after, able_after, .. } = &self.args.hold;
        let why = chain(failure);
        let done = self.args.node.site().pause(&self.args.node.runtime, &why)?;
        if done.is_empty() {
            return Ok(());
        }
        self.hold.taken_away();
        eprintln!(
            "the agent has not served for {unable_after:?}: {why}\nits entries are taken away, and come back when it has served for {able_after:?}"
        );
        self.trouble = Some(why);
        match tell(&Report::new(false, done), self.args.node.json, out) {
            Ok(_) | Err(Failure::FilesLeft { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn hold_back(&mut self, until: Instant) {
        let minutes = until.saturating_duration_since(Instant::now()).as_secs().div_ceil(60);
        let trouble = format!(
            "its entries have come back {} times within an hour, and stay away for now",
            self.args.hold.restores_per_hour
        );
        if self.trouble.as_ref() != Some(&trouble) {
            eprintln!("the agent serves, but {trouble}: {minutes} min");
            self.trouble = Some(trouble);
        }
    }

    fn be_relieved(&mut self) {
        if self.trouble.take().is_some() {
            eprintln!("the agent serves again");
        }
    }

    fn complain(&mut self, failure: &Failure) {
        let HoldArgs { unable_after, check_every, .. } = &self.args.hold;
        // What a command would have to do differently is of use only as long as nothing has come of this one.
        let trouble = if self.hold.is_written() {
            format!("{}\nif that lasts {unable_after:?}, the agent's entries are taken away", chain(failure))
        } else if self.hold.is_away() {
            // What follows from it was said when they were taken away.
            chain(failure)
        } else {
            format!("{}\ntrying again every {check_every:?}", explain(failure, false).0)
        };
        if self.trouble.as_ref() != Some(&trouble) {
            eprintln!("{trouble}");
            self.trouble = Some(trouble);
        }
    }
}
