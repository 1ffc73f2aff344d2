//! `shoal pull`: pulls an image through the agent as a runtime would, keeps nothing, and tells where the time went.

mod text;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::{Output, terminal_width};
use super::{AgentSocket, Failure, mirror_url};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::status::{LimitStatus, Status};
use crate::config::Whereabouts;
use crate::driver::BlobStory;
use crate::image::Image;
use crate::loopback;
use crate::pull::{self, Patience, Plan, Progress, PullError, Pulled, Step, What};
use crate::warm::Platforms;
use crate::watch::now_ms;

/// A limit that something waited for during less of a pull, percent, did not make it slow.
const HELD_PERCENT_MIN: u8 = 30;
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  shoal pull redis:7   how long a pull takes on this node, and why
  shoal pull redis:7 --json | jq '.steps[] | select(.what == \"layer\")'

The image is pulled from the agent's own port with the requests a runtime
makes, hashed, and thrown away; the agent keeps it as for any client.
Unpacking, which often takes longer, is not in it.

Exit status: 0 pulled; 1 not; 2 the command line or the image's name is wrong;
4 no agent answers.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PullArgs {
    /// The image as users write it: redis:7 is docker.io/library/redis:7.
    image: String,
    /// The platform, os/architecture[/variant]. Without it: the one of this machine.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Where the agent listens for runtimes: http://127.0.0.1:5000, or the address alone. Without it: the first address in the configuration.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Blobs at a time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentSocket,
}

/// What a pull was like.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    mirror: String,
    /// Bytes of all bodies.
    bytes: u64,
    seconds: f64,
    /// Limits of this node that held the pull back.
    limits: Vec<Held>,
    /// Why the store took nothing of it, if that is so.
    store: Option<String>,
    /// What the operator should know of the image.
    note: Option<String>,
    steps: Vec<Sourced>,
}

/// A limit that held a pull back.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Held {
    /// The key of the configuration, and its value.
    limit: String,
    /// Part of the pull's time in which something waited for it.
    percent: u8,
}

/// A request, and who had what it asked for.
#[derive(Debug, Serialize)]
struct Sourced {
    #[serde(flatten)]
    step: Step,
    from: Vec<Share>,
}

/// What one source brought.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Share {
    /// `store`, a member's name, or a registry or mirror.
    source: String,
    is_member: bool,
    bytes: u64,
}

pub(super) async fn run(args: &PullArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let image: Image = args.image.parse()?;
    let wanted: Vec<String> = args.platform.iter().cloned().collect();
    let platforms = Platforms::parse(&wanted).map_err(Failure::NoPlatform)?;
    let mirror = match &args.mirror {
        Some(given) => mirror_url(given)?,
        None => mirror_of(args)?,
    };
    let (parallel, patience) = (usize::from(args.parallel), patience(args)?);
    let plan = Plan { image, platforms, mirror, parallel, patience };
    let admin = args.agent.client()?;
    let begun_ms = now_ms();
    let before = match admin.status().await {
        // It hangs, and so would the pull. An address that was named may be that of another agent.
        Err(late @ ClientError::Late { .. }) if args.mirror.is_none() => return Err(late.into()),
        // Without its socket the pull is measured all the same.
        asked => asked.ok(),
    };
    let (Pulled { steps, note }, seconds) = measure(&plan).await?;
    let after = admin.status().await.ok();
    let report = Report {
        limits: held(before.as_ref(), after.as_ref(), seconds),
        store: after.as_ref().and_then(|after| refused(after, seconds)),
        note,
        image: plan.image.to_string(),
        mirror: plan.mirror,
        bytes: steps.iter().map(|step| step.bytes).sum(),
        seconds,
        steps: with_sources(steps, begun_ms, &admin).await,
    };
    if args.json {
        out.json(&report)?;
    } else {
        out.bytes(text::of(&report, terminal_width()).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mirror_of(args: &PullArgs) -> Result<String, Failure> {
    let places = args.agent.config.whereabouts()?;
    // The defaults name one, and a configuration without any is refused.
    let address = places.listeners().first().map(|listener| listener.address);
    let address = loopback::reachable(address.ok_or(Failure::NoListener)?);
    Ok(format!("http://{address}"))
}

/// How long this agent may say nothing; one of which nothing is known, as long as by default.
fn patience(args: &PullArgs) -> Result<Patience, Failure> {
    let places = args.agent.config.whereabouts().or_else(|_| Whereabouts::load(None))?;
    let (answer_timeout, body_idle_timeout) = places.deadlines();
    Ok(Patience::with(answer_timeout, body_idle_timeout))
}

async fn measure(plan: &Plan) -> Result<(Pulled, f64), PullError> {
    let progress = Arc::new(Progress::default());
    let shown = std::io::stderr().is_terminal().then(|| tokio::spawn(show(Arc::clone(&progress))));
    let begun = Instant::now();
    let pulled = pull::pull(plan, &progress).await;
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(shown) = shown {
        shown.abort();
        // Its bar is taken away when it is dropped.
        let _ = shown.await;
    }
    Ok((pulled?, seconds))
}

/// Says what is waited for until bytes come, then how many have come.
async fn show(progress: Arc<Progress>) {
    let mut ticks = tokio::time::interval(TICK);
    let waiting = shown_as(ProgressBar::new_spinner(), "{spinner} {elapsed} {wide_msg}");
    while progress.bytes.load(Ordering::Relaxed) == 0 {
        waiting.0.set_message(format!("waiting for the agent: {}", progress.asked()));
        waiting.0.tick();
        ticks.tick().await;
    }
    drop(waiting);
    let bar = shown_as(
        ProgressBar::new(0),
        "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
    );
    loop {
        ticks.tick().await;
        bar.0.set_length(progress.of.load(Ordering::Relaxed));
        bar.0.set_position(progress.bytes.load(Ordering::Relaxed));
    }
}

fn shown_as(bar: ProgressBar, template: &str) -> Cleared {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    Cleared(bar)
}

struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Those limits that something waited for during most of the pull.
fn held(before: Option<&Status>, after: Option<&Status>, seconds: f64) -> Vec<Held> {
    let waited_before = |key: &str| {
        let limits = before.iter().flat_map(|status| &status.limits);
        limits.filter(|limit| limit.key == key).map(|limit| limit.waited_seconds).sum::<f64>()
    };
    let of = |limit: &LimitStatus| {
        let waited = limit.waited_seconds - waited_before(&limit.key);
        let percent = (waited / seconds.max(f64::MIN_POSITIVE) * 100.0).clamp(0.0, 100.0) as u8;
        Held { limit: limit.in_words(), percent }
    };
    // What is sent to others makes no pull of this node slow.
    let own = after.iter().flat_map(|status| &status.limits).filter(|limit| limit.key != "swarm.upload_rate");
    own.map(of).filter(|held| held.percent >= HELD_PERCENT_MIN).collect()
}

/// What the store said, if it has refused something during the pull.
fn refused(status: &Status, seconds: f64) -> Option<String> {
    let trouble =
        status.store.trouble.as_ref().filter(|trouble| trouble.seconds_ago as f64 <= seconds + 1.0)?;
    Some(super::status::in_trouble(&status.store, trouble))
}

/// Asks the agent who sent what since `begun_ms` (Unix). What it does not say stays unknown: the pull has succeeded all the same.
async fn with_sources(steps: Vec<Step>, begun_ms: u64, admin: &AdminClient) -> Vec<Sourced> {
    let mut sourced: Vec<_> = steps.into_iter().map(|step| Sourced { step, from: Vec::new() }).collect();
    for Sourced { step, from } in &mut sourced {
        if !matches!(step.what, What::Config | What::Layer) {
            continue;
        }
        match admin.explain(&step.digest).await {
            Ok(story) => *from = shares(&story, step.bytes, begun_ms),
            Err(ClientError::Refused { .. }) => {}
            // Another user's socket, say, or an agent that hangs: the next question would go the same way.
            Err(_) => break,
        }
    }
    sourced
}

/// What came before the pull was in the store when it began.
fn shares(story: &BlobStory, size: u64, begun_ms: u64) -> Vec<Share> {
    let came = story.sources.iter().filter(|share| share.last_at_ms >= begun_ms);
    let came: Vec<_> = came
        .map(|share| Share { source: share.source.clone(), is_member: share.is_member, bytes: share.bytes })
        .collect();
    if came.is_empty() { vec![Share { source: "store".into(), is_member: false, bytes: size }] } else { came }
}

#[cfg(test)]
mod tests;
