//! `shoal peers`: the members of the swarm.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::output::{Align, Output, Table, count, member_name, seconds};
use super::{AgentSocket, Failure};
use crate::admin::peers::Peers;
use crate::swarm::{MemberState, MemberStatus};

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
        out.line(format_args!("{}", sum(&peers)))?;
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
        ("STATE", Align::Left),
        ("LATENCY", Align::Right),
        ("VERSION", Align::Left),
    ]);
    for member in peers.members.iter().chain(&peers.gone) {
        let labels: Vec<String> = member.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let latency = match (member.is_self, member.latency_ms) {
            (true, _) => "-".to_owned(),
            (false, Some(latency)) => format!("{latency:.1} ms"),
            (false, None) => "-".to_owned(),
        };
        table.row([
            member_name(&member.peer),
            member.addresses.first().map_or_else(|| "-".to_owned(), ToString::to_string),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
            state(member),
            latency,
            member.version.clone(),
        ]);
    }
    table
}

fn state(member: &MemberStatus) -> String {
    match (member.is_self, member.state, member.gone_seconds) {
        (true, ..) => "this one".to_owned(),
        (_, MemberState::Gone, Some(ago)) => format!("gone for {}", seconds(ago)),
        (_, MemberState::Gone, None) => "gone".to_owned(),
        (_, MemberState::Suspected, _) => "suspected".to_owned(),
        (_, MemberState::Unreachable, _) => "unreachable".to_owned(),
        (_, MemberState::Alive, _) => "alive".to_owned(),
    }
}

fn sum(peers: &Peers) -> String {
    let others = peers.members.len().saturating_sub(1);
    let mut text = format!("{}, {others} beside this one", count(peers.members.len() as u64, "member"));
    let number =
        |state| peers.members.iter().filter(|member| member.state == state && !member.is_self).count();
    let parts = [
        (number(MemberState::Suspected), "suspected to be gone"),
        (number(MemberState::Unreachable), "whose port for pieces cannot be reached"),
        (peers.gone.len(), "gone within the last hour"),
    ];
    for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(text, "; {number} {what}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_how_they_stand() {
        let member = |number: u8, state, latency_ms: Option<f64>| MemberStatus {
            peer: format!("{number:02x}").repeat(32),
            addresses: vec![([10, 0, 0, number], 5001).into()],
            data_port: 5002,
            zone: if number < 3 { "a".to_owned() } else { String::new() },
            labels: (number == 2).then(|| ("gpu".to_owned(), "yes".to_owned())).into_iter().collect(),
            version: "1.0.0".to_owned(),
            state,
            gone_seconds: (state == MemberState::Gone).then_some(42),
            latency_ms,
            is_self: number == 1,
        };
        let peers = Peers {
            enabled: true,
            members: vec![
                member(1, MemberState::Alive, None),
                member(2, MemberState::Alive, Some(0.42)),
                member(3, MemberState::Suspected, Some(12.0)),
                member(4, MemberState::Unreachable, None),
            ],
            gone: vec![member(5, MemberState::Gone, None)],
            lately: Default::default(),
        };
        insta::assert_snapshot!(format!("{}{}\n", table(&peers), sum(&peers)));
    }
}
