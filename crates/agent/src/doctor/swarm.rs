//! Does this node find the others, do they let it in, and can pieces pass?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use shoal_net::discovery::{Discovery, Pace, SystemResolver};
use tokio::net::TcpStream;

use super::finding::{Group, Outcome, kinds};
use super::neighbour;
use crate::admin::peers::Peers;
use crate::config::Config;
use crate::swarm::{Lately, MemberStatus, Rejected, Rejection, SwarmSettings};

kinds! {
    OFF: "swarm-off", Swarm, Hint,
        "This node gets everything from upstream; nothing is shared with other nodes.",
        "Set swarm.secret_file and swarm.join, the same on all nodes.";
    JOIN: "join-missing", Swarm, Warning,
        "There is a secret, but no place to look for others: they are met only if they look for this node.",
        "Set swarm.join to a name with an address for each node, such as a headless Service.";
    DISCOVERY: "discovery-failed", Swarm, Problem,
        "Others cannot be looked for there.",
        "Correct swarm.join; for a headless Service look at its selector and at the cluster's DNS.";
    ALONE: "peers-none", Swarm, Warning,
        "No other member is known: everything comes from upstream.",
        "If there are other agents, look at the findings beside this one, at port 5001/tcp between nodes, and at swarm.join.";
    REFUSED: "peer-refused", Swarm, Problem,
        "There are agents with another secret: the two groups do not share anything.",
        "Give all agents the same swarm.secret_file; change a secret in three rounds.";
    STRANGER: "peer-stranger", Swarm, Warning,
        "Somebody answers at an address of swarm.join who does not prove to be an agent.",
        "Correct swarm.join or the port there; look at what answers.";
    SILENT: "peer-unreachable", Swarm, Warning,
        "A node that should be there cannot be reached at the port for control messages.",
        "Open swarm.port (5001/tcp) between all nodes; look whether the agent there runs.";
    PIECES: "pieces-unreachable", Swarm, Problem,
        "Members are known, but blobs cannot come from them: pulls lose time and go upstream.",
        "Open swarm.data_port (5002/tcp) between all nodes.";
    VERSIONS: "peer-versions", Swarm, Warning,
        "Agents of several versions work together during an upgrade; it should end some day.",
        "Finish the upgrade on the nodes that are behind: shoal peers.";
    FLAPPING: "peers-flapping", Swarm, Warning,
        "Members come and go: what they held is fetched again, from others or from upstream.",
        "Look for restarts of agents, and for a network that loses packets.";
    TAKEN_FOR_GONE: "node-unsteady", Swarm, Warning,
        "Others took this node for gone: it does not answer in time.",
        "Look at this node's load and at its network; give the agent enough CPU.";
    ZONE: "zone-unset", Swarm, Warning,
        "Others have zones and this node has none: it fetches across zones, which costs money and time.",
        "Set swarm.zone on every node.";
    CLOCK: "peer-clock", Swarm, Warning,
        "This node and other members do not agree what time it is.",
        "Set the clocks and keep them so: chrony or systemd-timesyncd.";
}

/// Members that are connected to: enough to see whether it is one or all.
const MEMBERS_MAX: usize = 32;
/// Connections at a time.
const AT_A_TIME: usize = 16;
/// Longest time for a connection to a neighbour.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Longest time for all look-ups: names and services are each looked up in at most 8 s.
const LOOKUPS_MAX: Duration = Duration::from_secs(10);
/// Names of members that are told; of more, the number.
const NAMES_MAX: usize = 4;
/// So many members gone lately are a restart; more, and more than a tenth of all, are none.
const GONE_MIN: usize = 3;
/// Clocks that differ by more, seconds.
const CLOCK_MAX: u64 = 30;

/// What was found out.
#[derive(Debug, Default)]
struct Facts {
    /// Whether there is any place to look at.
    looks: bool,
    /// Where others may be.
    found: BTreeSet<SocketAddr>,
    /// Places that could not be looked up, and why.
    problems: Vec<(String, String)>,
    /// Of those where others may be, who does not take connections; looked at only where the agent does not know better.
    closed: Vec<SocketAddr>,
    /// What the agent knows; none if it cannot be asked.
    peers: Option<Peers>,
    /// For members: whether pieces could come, and how far their clock is ahead of ours.
    members: BTreeMap<String, neighbour::Reached>,
    zone: String,
}

/// Looks and judges. `peers` is what the agent says.
pub(super) async fn check(config: &Config, peers: Option<Peers>) -> Vec<Outcome> {
    let Some(settings) = config.swarm_settings() else {
        return vec![OFF.found("this agent works alone (no swarm.secret_file)").into()];
    };
    let (looked, members) = tokio::join!(look(settings, peers.is_some()), reach(peers.as_ref()));
    judge(&Facts { peers, members, ..looked })
}

async fn look(settings: &SwarmSettings, knows_better: bool) -> Facts {
    let own: Vec<SocketAddr> =
        settings.advertise.iter().map(|ip| SocketAddr::new(*ip, settings.port)).collect();
    let mut facts = Facts {
        looks: !settings.join.is_empty() || settings.mdns,
        zone: settings.zone.clone(),
        ..Facts::default()
    };
    if settings.join.is_empty() {
        return facts;
    }
    let mut discovery = Discovery::new(settings.join.clone(), &own, SystemResolver::new());
    match tokio::time::timeout(LOOKUPS_MAX, discovery.next(Pace::Alone)).await {
        Ok(found) => {
            facts.found = found.addresses.into_iter().collect();
            let told = found.problems.into_iter();
            facts.problems = told.map(|(target, error)| (target.to_string(), error.to_string())).collect();
        }
        Err(_) => {
            let why = format!("not looked up within {} s", LOOKUPS_MAX.as_secs());
            facts.problems.push(("swarm.join".into(), why));
        }
    }
    if !knows_better {
        let all = facts.found.iter().take(MEMBERS_MAX).copied();
        let tried = futures_util::stream::iter(all.map(|address| async move {
            let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await;
            (address, matches!(connected, Ok(Ok(_))))
        }));
        let tried: Vec<_> = tried.buffered(AT_A_TIME).collect().await;
        facts.closed =
            tried.into_iter().filter(|(_, is_open)| !is_open).map(|(address, _)| address).collect();
    }
    facts
}

async fn reach(peers: Option<&Peers>) -> BTreeMap<String, neighbour::Reached> {
    let others = peers.iter().flat_map(|peers| &peers.members).filter(|member| !member.is_self);
    let reached = futures_util::stream::iter(
        others
            .take(MEMBERS_MAX)
            .map(|member| async move { (member.peer.clone(), neighbour::reach(member, CONNECT_MAX).await) }),
    );
    reached.buffered(AT_A_TIME).collect().await
}

fn judge(facts: &Facts) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let others = facts.peers.as_ref().map_or(0, |peers| peers.members.iter().filter(|m| !m.is_self).count());
    for (target, why) in &facts.problems {
        outcomes.push(DISCOVERY.found(format!("{target}: {why}")).into());
    }
    if !facts.looks && others == 0 {
        outcomes.push(JOIN.found("swarm.join is empty and swarm.mdns is off").into());
    }
    match &facts.peers {
        Some(peers) => {
            judge_lately(&peers.lately, &facts.found, others, &mut outcomes);
            judge_members(facts, &peers.members, &mut outcomes);
        }
        None if !facts.closed.is_empty() => {
            let what = format!("no connection to {}", list(facts.closed.iter().map(ToString::to_string)));
            outcomes.push(SILENT.found(what).into());
        }
        None if !facts.found.is_empty() => {
            let what = format!("addresses where others are and take connections: {}", facts.found.len());
            outcomes.push(Outcome::well(Group::Swarm, what));
        }
        None => {}
    }
    outcomes
}

fn judge_members(facts: &Facts, members: &[MemberStatus], outcomes: &mut Vec<Outcome>) {
    let others: Vec<&MemberStatus> = members.iter().filter(|member| !member.is_self).collect();
    if others.is_empty() {
        return outcomes.push(ALONE.found("no other member is known").into());
    }
    let name = |member: &&MemberStatus| -> String {
        let at = member.addresses.first().map_or_else(String::new, |address| format!(" ({})", address.ip()));
        format!("{}{at}", crate::cli::member_name(&member.peer))
    };
    let is_shut =
        |member: &&&MemberStatus| facts.members.get(&member.peer).is_some_and(|reached| !reached.is_open);
    let shut: Vec<String> = others.iter().filter(is_shut).map(name).collect();
    if shut.is_empty() {
        outcomes
            .push(Outcome::well(Group::Swarm, format!("other members: {}, pieces can pass", others.len())));
    } else {
        let what =
            format!("no connection for pieces to {} of {} members: {}", shut.len(), others.len(), list(shut));
        outcomes.push(PIECES.found(what).into());
    }
    let me = members.iter().find(|member| member.is_self);
    let behind = others.iter().filter(|member| me.is_some_and(|me| me.version != member.version));
    let behind: Vec<String> =
        behind.map(|member| format!("{} is {}", name(member), member.version)).collect();
    if let Some(me) = me.filter(|_| !behind.is_empty()) {
        outcomes.push(VERSIONS.found(format!("this node is {}, {}", me.version, list(behind))).into());
    }
    let zones: BTreeSet<&str> =
        others.iter().map(|member| &*member.zone).filter(|zone| !zone.is_empty()).collect();
    if facts.zone.is_empty() && !zones.is_empty() {
        let zones = list(zones.into_iter().map(str::to_owned));
        outcomes.push(ZONE.found(format!("swarm.zone is empty, others are in {zones}")).into());
    }
    let off = |member: &&&MemberStatus| {
        let ahead = facts.members.get(&member.peer).and_then(|reached| reached.clock_ahead);
        ahead.is_some_and(|ahead| ahead.unsigned_abs() > CLOCK_MAX)
    };
    let off: Vec<String> = others.iter().filter(off).map(name).collect();
    if !off.is_empty() {
        outcomes.push(CLOCK.found(format!("by more than {CLOCK_MAX} s: {}", list(off))).into());
    }
}

fn judge_lately(
    lately: &Lately,
    expected: &BTreeSet<SocketAddr>,
    others: usize,
    outcomes: &mut Vec<Outcome>,
) {
    let of_kind = |kind| lately.rejected.iter().filter(move |rejection| rejection.kind == kind);
    let refused: Vec<String> = lately.other_secrets().iter().map(ToString::to_string).collect();
    if !refused.is_empty() {
        outcomes.push(REFUSED.found(format!("another secret: {}", list(refused))).into());
    }
    // Whoever calls from somewhere, such as a port scan, is of no interest here.
    let at_home = |kind| of_kind(kind).filter(|rejection| expected.contains(&rejection.address));
    for (kind, finding) in [(Rejected::Stranger, &STRANGER), (Rejected::Silent, &SILENT)] {
        let told: Vec<String> = at_home(kind).map(shown).collect();
        if !told.is_empty() {
            outcomes.push(finding.found(list(told)).into());
        }
    }
    if lately.gone >= GONE_MIN && lately.gone * 10 > others {
        let what = format!(
            "members taken for gone in the last ten minutes: {}, others there: {others}",
            lately.gone
        );
        outcomes.push(FLAPPING.found(what).into());
    }
    if lately.renewed > 0 {
        let what =
            format!("times that others took this node for gone in the last ten minutes: {}", lately.renewed);
        outcomes.push(TAKEN_FOR_GONE.found(what).into());
    }
}

/// The address, and what was wrong there, which may begin with the address.
fn shown(rejection: &Rejection) -> String {
    let Rejection { address, why, .. } = rejection;
    let why = why.strip_prefix(&format!("{address}: ")).unwrap_or(why);
    format!("{address} ({why})")
}

/// A few of them, and how many more there are.
fn list(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    let mut text = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::MemberState;

    fn member(name: &str, zone: &str, version: &str) -> MemberStatus {
        MemberStatus {
            peer: name.into(),
            addresses: vec![at(1)],
            data_port: 5002,
            zone: zone.into(),
            labels: BTreeMap::new(),
            version: version.into(),
            state: MemberState::Alive,
            gone_seconds: None,
            latency_ms: None,
            is_self: name == "me",
        }
    }

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 5001))
    }

    fn known(members: &[(&str, &str, &str)], lately: Lately) -> Facts {
        let members = members.iter().map(|(name, zone, version)| member(name, zone, version)).collect();
        let found = BTreeSet::from([at(1), at(2)]);
        Facts {
            looks: true,
            found,
            peers: Some(Peers { enabled: true, members, gone: Vec::new(), lately }),
            ..Facts::default()
        }
    }

    fn ids(facts: &Facts) -> Vec<&'static str> {
        let id = |outcome| match outcome {
            Outcome::Well { .. } => None,
            Outcome::Found(finding) => Some(finding.kind.id),
        };
        judge(facts).into_iter().filter_map(id).collect()
    }

    #[test]
    fn members() {
        let two = [("me", "", "1"), ("a", "", "1")];
        let reached = |is_open, clock_ahead| {
            BTreeMap::from([("a".to_owned(), neighbour::Reached { is_open, clock_ahead })])
        };
        let table: Vec<(Facts, &[&str])> = vec![
            (known(&two, Lately::default()), &[]),
            (known(&two[..1], Lately::default()), &["peers-none"]),
            (known(&[("me", "", "1"), ("a", "", "2")], Lately::default()), &["peer-versions"]),
            (known(&[("me", "", "1"), ("a", "z", "1")], Lately::default()), &["zone-unset"]),
            (
                Facts { members: reached(false, None), ..known(&two, Lately::default()) },
                &["pieces-unreachable"],
            ),
            (Facts { members: reached(true, Some(-31)), ..known(&two, Lately::default()) }, &["peer-clock"]),
            (Facts { members: reached(true, Some(5)), ..known(&two, Lately::default()) }, &[]),
        ];
        for (facts, expected) in table {
            assert_eq!(ids(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_happened_lately() {
        let rejected = |kind, address| {
            let rejected = vec![Rejection { address, why: "why".into(), kind, seconds_ago: 1 }];
            Lately { rejected, ..Lately::default() }
        };
        let table: Vec<(Lately, &[&str])> = vec![
            (rejected(Rejected::OtherSecret, at(9)), &["peer-refused"]),
            (rejected(Rejected::Stranger, at(1)), &["peer-stranger"]),
            (rejected(Rejected::Stranger, at(9)), &[]),
            (rejected(Rejected::Silent, at(2)), &["peer-unreachable"]),
            (Lately { gone: 2, ..Lately::default() }, &[]),
            (Lately { gone: 3, ..Lately::default() }, &["peers-flapping"]),
            (Lately { renewed: 1, ..Lately::default() }, &["node-unsteady"]),
        ];
        for (lately, expected) in table {
            let facts = known(&[("me", "", "1"), ("a", "", "1")], lately);
            assert_eq!(ids(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn without_an_agent() {
        let found = BTreeSet::from([at(1)]);
        let table: Vec<(Facts, &[&str])> = vec![
            (Facts { looks: true, found: found.clone(), ..Facts::default() }, &[]),
            (Facts { looks: true, found, closed: vec![at(1)], ..Facts::default() }, &["peer-unreachable"]),
            (Facts::default(), &["join-missing"]),
            (
                Facts { looks: true, problems: vec![("x.test".into(), "no".into())], ..Facts::default() },
                &["discovery-failed"],
            ),
        ];
        for (facts, expected) in table {
            assert_eq!(ids(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_is_wrong_at_an_address() {
        for why in ["10.0.0.1:5001: Connection refused", "Connection refused"] {
            let rejection =
                Rejection { address: at(1), why: why.into(), kind: Rejected::Silent, seconds_ago: 1 };
            assert_eq!(shown(&rejection), "10.0.0.1:5001 (Connection refused)");
        }
    }

    #[test]
    fn lists() {
        let names = |n: usize| list((0..n).map(|i| i.to_string()));
        assert_eq!([names(1), names(4), names(6)], ["0", "0, 1, 2, 3", "0, 1, 2, 3 and 2 more"]);
    }
}
