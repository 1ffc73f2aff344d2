//! `shoal peers`: the members of the swarm.

use std::process::ExitCode;

use clap::Args;

use super::output::{Align, Output, Table, count, member_name};
use super::{AgentSocket, Failure};
use crate::admin::peers::Peers;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  shoal peers --json | jq '.members | group_by(.zone) | map(length)'")]
pub(super) struct PeersArgs {
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &PeersArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let peers = args.agent.client()?.peers().await?;
    if args.json {
        out.json(&peers)?;
    } else if !peers.enabled {
        out.line(format_args!(
            "this agent works alone: the configuration has no swarm.secret_file, which lets it join others"
        ))?;
    } else {
        out.table(&table(&peers))?;
        let others = peers.members.len().saturating_sub(1);
        let all = count(peers.members.len() as u64, "member");
        out.line(format_args!("{all}, {others} beside this one"))?;
        for at in peers.lately.other_secrets() {
            out.line(format_args!(
                "not joined: whoever is at {at} has another secret (swarm.secret_file must be the same for all)"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(peers: &Peers) -> Table {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left),
        ("ADDRESS", Align::Left),
        ("ZONE", Align::Left),
        ("LABELS", Align::Left),
        ("LATENCY", Align::Right),
        ("VERSION", Align::Left),
    ]);
    for member in &peers.members {
        let labels: Vec<String> = member.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let latency = match (member.is_self, member.latency_ms) {
            (true, _) => "this one".to_owned(),
            (false, Some(latency)) => format!("{latency:.1} ms"),
            (false, None) => "-".to_owned(),
        };
        table.row([
            member_name(&member.peer),
            member.addresses.first().map_or_else(|| "-".to_owned(), ToString::to_string),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
            latency,
            member.version.clone(),
        ]);
    }
    table
}
