//! `shoal prewarm`: images onto nodes before anybody asks for them.
//!
//! Invariants: what comes of it is on standard output, how far it is on standard error; a second start of the same command
//! goes on where the first one was, on whichever node; the command never ends before it has said which nodes are not ready.

mod images;
mod kubernetes;
mod progress;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use http::StatusCode;
use shoal_engine::limits::WARM_DEADLINE_MAX;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::Output;
use super::{AgentSocket, Failure};
use crate::admin::client::{AdminClient, ClientError, WarmEvents};
use crate::config::Rate;
use crate::warm::select::{Selection, labelled, term};
use crate::warm::{KEEP_MAX, Phase, WarmRequest, WarmStatus};

use progress::Progress;

/// How long the last news may take after the request has been cancelled.
const LAST_NEWS_MAX: Duration = Duration::from_secs(15);

/// What a shell expects of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// Somebody else has cancelled the request: neither a failure nor a success of its nodes.
const CANCELLED: u8 = 6;

/// How alike a word has to be to a subcommand to be taken for one that is mistyped.
const LIKENESS_MIN: f64 = 0.7;

const EXAMPLES: &str = "\
Examples:
  shoal prewarm redis:7                               onto every node
  shoal prewarm redis:7 --select zone=eu-1a,pool=gpu --pin 24h
  shoal prewarm -f images.txt --percent 10 --dry-run  what would be done
  helm template ./chart | shoal prewarm --from-manifest -
  kubectl get deploy,sts,ds -A -o yaml | shoal prewarm --from-manifest -
  shoal prewarm ls                                    what is under way here

Any agent can be asked: it tells the others, which get each blob once from
upstream and all else from each other. Give the command again, here or on
another node, and it goes on where it was. The images are then in the agents'
stores and not in the runtimes: the first pod pulls from its own node.

A node that is away for a while (its agent restarts, its link is down) is
waited for: until the deadline if --deadline is given, else for a minute after
all others are decided (--grace).

Exit status:
  0    every node has every image
  1    some are missing; they are listed, with the reason
  2    no node has any; or the command line, an image's name or the choice of
       nodes is wrong
  4    no agent answers, or it ended: give the same command to the agent of
       another node
  5    status, cancel: no agent that answers knows a request of that name
  6    somebody else has cancelled it (shoal prewarm cancel); what has come
       stays
  130  interrupted (Ctrl-C, SIGTERM): cancelled on all nodes, what has come
       stays
With --dry-run: 0 all can be warmed, 1 some can not or have no room, 2 no
image can. With cancel: 0 cancelled, 1 it had ended before.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct PrewarmArgs {
    #[command(subcommand)]
    command: Option<PrewarmCommand>,
    #[command(flatten)]
    warm: WarmArgs,
}

#[derive(Debug, Subcommand)]
enum PrewarmCommand {
    /// List what this agent was asked to warm since it started, newest first; with --cluster, what all were.
    Ls(ListArgs),
    /// Show how far one request is, image by image and zone by zone.
    Status(OneArgs),
    /// Cancel one request. What has come stays on the nodes.
    ///
    /// Any agent can be told. One that has ended is left as it is; if it is pinned, nodes that join later are not warmed for it
    /// any more.
    ///
    /// An image that others are warming at the same time through other agents is begun again there.
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Also what the agents of other nodes were asked for: all that is under way, and the latest that is over.
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Its name, as `shoal prewarm ls` shows it.
    id: String,
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CancelArgs {
    /// Its name, as `shoal prewarm ls` shows it.
    id: String,
    #[command(flatten)]
    agent: AgentSocket,
}

#[derive(Debug, Args)]
struct WarmArgs {
    /// Images, as for a runtime: redis:7, quay.io/team/app@sha256:...
    ///
    /// An image named `ls`, `status` or `cancel` is written in full: docker.io/library/ls.
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// File with one image a line; `#` begins a comment, `-` is standard input.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Vec<PathBuf>,
    /// File with Kubernetes objects, YAML or JSON, whose containers' images are taken; `-` is standard input.
    ///
    /// Init containers, ephemeral containers and image volumes count as well. What has no pod in it is skipped.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    from_manifest: Vec<PathBuf>,
    /// Platforms of images that are for several, or `all`. Without it: what the agent that is asked runs on.
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<String>,
    /// Which nodes: `all`, IP addresses, or the beginnings of names as `shoal peers` shows them (at least 6 digits).
    #[arg(long, value_name = "NODES", value_delimiter = ',', default_value = "all")]
    nodes: Vec<String>,
    /// Only nodes whose agents have these labels; `zone` is their zone. One key twice: either value.
    ///
    /// The labels of swarm.labels and SHOAL_LABELS, as `shoal peers` shows them; those of Kubernetes' nodes are others.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = term)]
    select: Vec<(String, String)>,
    /// At most so many of them, spread over the zones; the same ones each time.
    #[arg(long, value_name = "N", conflicts_with = "percent")]
    count: Option<usize>,
    /// So many of a hundred of them, rounded up, spread over the zones; the same ones each time.
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: Option<u8>,
    /// Keep the blobs from eviction on every one of these nodes, for so long from now: 24h, 7days.
    ///
    /// As long, nodes that join and are meant by --nodes or --select become warm, too (not with --count or --percent).
    #[arg(long, value_name = "DURATION", value_parser = keep_time)]
    pin: Option<Duration>,
    /// Time after which whoever is not ready has failed; at most 24h. What has come until then stays. [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = deadline)]
    deadline: Option<Duration>,
    /// How long nodes that are away are waited for once all others are decided. [default: 1m; with --deadline, until it]
    #[arg(long, value_name = "DURATION", value_parser = deadline)]
    grace: Option<Duration>,
    /// At most so much a second from upstream, all nodes together: 200MB/s.
    ///
    /// What a client of some node waits for is not held back. Given again with another rate, the new one holds.
    #[arg(long, value_name = "RATE")]
    max_upstream: Option<Rate>,
    /// At most so much a second into each node, from upstream and from other nodes: 100MB/s.
    ///
    /// What a client of the node waits for is not held back, nor what comes for other images.
    #[arg(long, value_name = "RATE")]
    max_per_node: Option<Rate>,
    /// Only tell what each node has, what it would receive and has no room for, and what nobody has.
    ///
    /// Nothing moves but manifests and, with --platform, configurations of images.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait: print the request's name, for `shoal prewarm status`.
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    /// An option of `ls`, for somebody who has written others before that word.
    #[arg(long, hide = true)]
    cluster: bool,
    #[command(flatten)]
    agent: AgentSocket,
}

pub(super) async fn run(args: &PrewarmArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    match &args.command {
        None => warm(&args.warm, out).await,
        Some(PrewarmCommand::Ls(args)) => {
            let list = args.agent.client()?.warm_list(args.cluster).await?;
            if args.json {
                out.json(&list)?;
            } else {
                match list.requests.is_empty() {
                    true => out.line(format_args!(
                        "{} been asked to warm anything since it started",
                        if args.cluster { "no agent that answers has" } else { "this agent has not" }
                    ))?,
                    false => out.table(&text::list(&list.requests, args.cluster))?,
                }
                if !list.standing.is_empty() {
                    out.line(format_args!(""))?;
                    out.table(&text::standing(&list.standing))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(PrewarmCommand::Status(args)) => {
            let status = args.agent.client()?.warm_status(&args.id).await?;
            if args.json {
                out.json(&status)?;
            } else {
                out.bytes(text::report(&status).as_bytes())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(PrewarmCommand::Cancel(args)) => cancel(args, out).await,
    }
}

impl WarmArgs {
    fn request(&self) -> Result<WarmRequest, Failure> {
        let is_all = self.nodes.iter().any(|name| name == "all");
        let names = if is_all { Vec::new() } else { self.nodes.clone() };
        Ok(WarmRequest {
            images: images::gather(&self.images, &self.file, &self.from_manifest)?,
            platforms: self.platform.clone(),
            nodes: Selection {
                names,
                labels: labelled(self.select.iter().cloned()),
                count: self.count,
                percent: self.percent,
            },
            pin_seconds: self.pin.map(|pin| pin.as_secs()),
            deadline_seconds: self.deadline.map(|deadline| deadline.as_secs()),
            grace_seconds: self.grace.map(|grace| grace.as_secs()),
            max_upstream_bytes_per_second: self.max_upstream.map(|rate| rate.0),
            max_per_node_bytes_per_second: self.max_per_node.map(|rate| rate.0),
            dry_run: self.dry_run,
        })
    }
}

async fn cancel(args: &CancelArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let client = args.agent.client()?;
    // Of a request that only stands, and is seen to elsewhere, nothing more is known here.
    let before = client.warm_status(&args.id).await.ok();
    client.cancel_warm(&args.id).await?;
    let id = &args.id;
    match before.is_some_and(|status| status.phase != Phase::Warming) {
        true => {
            out.line(format_args!("{id} had ended; nodes that join later are not warmed for it any more"))?
        }
        false => out.line(format_args!("{id} is cancelled; what has come stays on the nodes"))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn warm(args: &WarmArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    if let Some(meant) = args.images.first().and_then(|word| mistyped(word)) {
        return Err(Failure::Mistyped { word: args.images[0].clone(), meant });
    }
    if args.cluster {
        return Err(Failure::NotForWarming);
    }
    let request = args.request()?;
    let client = args.agent.client()?;
    note_if_alone(&client).await?;
    if args.dry_run {
        let plan = client.plan_warm(&request).await?;
        match args.json {
            true => out.json(&plan)?,
            false => out.bytes(text::plan(&plan).as_bytes())?,
        }
        return Ok(ExitCode::from(match () {
            () if plan.is_complete() => 0,
            () if plan.is_any() => 1,
            () => 2,
        }));
    }
    // Before anything is begun: a signal that comes in between must end it, too.
    let signals = Signals::new()?;
    let begun = client.warm(&request).await.map_err(|error| match error {
        // It may have begun, and nobody knows under which name: what to do is the same as later.
        ClientError::Broken { .. } => Failure::WarmLost { source: Some(error) },
        error => error.into(),
    })?;
    if args.detach {
        match args.json {
            true => out.json(&begun)?,
            false => out.line(format_args!("{}", begun.id))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (status, interrupted) = follow(&client, begun, signals).await?;
    match args.json {
        true => out.json(&status)?,
        false => out.bytes(text::report(&status).as_bytes())?,
    }
    Ok(exit_code(&status, interrupted))
}

fn exit_code(status: &WarmStatus, interrupted: bool) -> ExitCode {
    ExitCode::from(match () {
        () if interrupted => INTERRUPTED,
        () if status.phase == Phase::Cancelled => CANCELLED,
        () if status.is_complete() => 0,
        () if status.is_any() => 1,
        () => 2,
    })
}

/// The subcommand that a word is likely to be meant for: an image of that name would be looked for at a registry.
fn mistyped(word: &str) -> Option<&'static str> {
    let likeness = |command: &str| strsim::normalized_damerau_levenshtein(word, command);
    match word {
        _ if word.contains(['/', ':', '@', '.']) => None,
        "ls" | "list" => Some("ls"),
        _ => ["status", "cancel"].into_iter().find(|command| likeness(command) >= LIKENESS_MIN),
    }
}

/// As [`super::some_time`], and no longer than anything is kept.
fn keep_time(text: &str) -> Result<Duration, String> {
    let time = super::some_time(text)?;
    if time > KEEP_MAX {
        return Err(format!("{text} is more than {} days", KEEP_MAX.as_secs() / (24 * 60 * 60)));
    }
    Ok(time)
}

/// As [`super::duration`], and no longer than anything may be waited for.
fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = super::duration(text)?;
    if deadline > WARM_DEADLINE_MAX {
        return Err(format!("{text} is more than {}", humantime::format_duration(WARM_DEADLINE_MAX)));
    }
    Ok(deadline)
}

/// Tells somebody who wants all nodes that there is only this one.
async fn note_if_alone(client: &AdminClient) -> Result<(), Failure> {
    let peers = client.peers().await?;
    if peers.enabled && peers.members.len() <= 1 {
        let refused = peers.lately.other_secrets().into_iter().map(|ip| format!("; {ip} has another secret"));
        let refused: String = refused.collect();
        eprintln!(
            "note: no other member is known, so only this node is meant{refused} (shoal doctor tells more)"
        );
    }
    Ok(())
}

/// What may end the command early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|source| Failure::System { operation: "wait for signals", source });
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Shows how far it is until it is over. A signal cancels it.
async fn follow(
    client: &AdminClient,
    begun: WarmStatus,
    mut signals: Signals,
) -> Result<(WarmStatus, bool), Failure> {
    let id = begun.id.clone();
    let lost = |source: Option<ClientError>| Failure::WarmLost { source };
    let mut events = client.warm_events(&id).await.map_err(|error| lost(Some(error)))?;
    let mut progress = Progress::new(&begun);
    let news = async {
        let mut last = begun;
        while last.phase == Phase::Warming {
            last = events.next().await.map_err(|error| lost(Some(error)))?.ok_or_else(|| lost(None))?;
            progress.show(&last);
        }
        Ok::<_, Failure>(last)
    };
    tokio::select! {
        last = news => {
            let last = last?;
            if last.phase == Phase::Cancelled {
                progress.say("somebody else has cancelled it: the nodes have been told to stop");
            }
            return Ok((last, false));
        }
        () = signals.any() => {}
    }
    progress.say("interrupted: the nodes are told to stop; what has come stays there");
    let (last, interrupted) = stop(client, &id).await?;
    if !interrupted {
        progress.say("all was decided already, so nothing is cancelled");
    }
    Ok((last, interrupted))
}

/// Cancels it. How it has ended, and whether that is because of this.
async fn stop(client: &AdminClient, id: &str) -> Result<(WarmStatus, bool), Failure> {
    let lost = |source: Option<ClientError>| Failure::WarmLost { source };
    let interrupted = match client.cancel_warm(id).await {
        Ok(()) => true,
        // All is decided, and the last figures are on their way.
        Err(ClientError::Refused { status, .. }) if status == StatusCode::CONFLICT => false,
        Err(error) => return Err(lost(Some(error))),
    };
    match tokio::time::timeout(LAST_NEWS_MAX, last_of(client.warm_events(id).await?)).await {
        Ok(Ok(Some(status))) => Ok((status, interrupted)),
        Ok(Err(error)) => Err(lost(Some(error))),
        Ok(Ok(None)) | Err(_) => Err(lost(None)),
    }
}

async fn last_of(mut events: WarmEvents) -> Result<Option<WarmStatus>, ClientError> {
    while let Some(status) = events.next().await? {
        if status.phase != Phase::Warming {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::{Answer, FakeAgent};

    /// A request that is over, or about to be, is not lost because it cannot be cancelled.
    #[tokio::test]
    async fn a_signal_that_comes_too_late() {
        let news = |phase| {
            let status = WarmStatus { id: "0a1b2c3d".into(), phase, ..WarmStatus::default() };
            format!("{}\n", serde_json::to_string(&status).unwrap())
        };
        let table = [(204, "", Phase::Cancelled, true), (409, "{\"error\":\"\"}", Phase::Done, false)];
        for (code, body, phase, expected) in table {
            let news = format!("{}{}", news(Phase::Warming), news(phase));
            let agent = FakeAgent::start(move |asked| match asked {
                "DELETE /v1/warm/0a1b2c3d" => Answer::new(code, body.into()),
                "GET /v1/warm/0a1b2c3d/events" => Answer::new(200, news.clone()),
                other => panic!("{other}"),
            });
            let (last, interrupted) = stop(&agent.client(), "0a1b2c3d").await.unwrap();
            assert_eq!((last.phase, interrupted), (phase, expected), "{code}");
        }
    }

    #[test]
    fn words_that_are_no_images() {
        for (word, meant) in [("statu", "status"), ("stats", "status"), ("cancell", "cancel"), ("list", "ls")]
        {
            assert_eq!(mistyped(word), Some(meant), "{word}");
        }
        let images = [
            "redis",
            "nginx",
            "consul",
            "haproxy",
            "traefik",
            "l",
            "lua",
            "docker.io/library/statu",
            "stats:1",
        ];
        for image in images {
            assert_eq!(mistyped(image), None, "{image}");
        }
    }
}
