//! Can every registry and mirror be asked: name, connection, certificate, credentials, limits, and is the clock right?
//!
//! They are looked at with the agent's own client, many at once; what the running agent knows of them is taken into account.
//! Clients make up names: what nothing has ever come from is not looked at where it is more than a slip of somebody's pen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use shoal_engine::mirrors::{Asking, CandidateKind, OnDenied};
use shoal_engine::{Registry, Scope};
use tokio::time::Instant;

use super::finding::{Finding, Group, Kind, Level, Outcome, kinds};
use crate::admin::status::{OTHER, RateLimit, Status};
use crate::config::Config;
use crate::upstream::{self, AccessMode, Sight, SourceState, SourceStatus, Trouble, Upstream};

kinds! {
    NAME: "name-unresolved", Registries, Problem,
        "Its name has no address here, so nothing can be fetched from it.",
        "Look at /etc/resolv.conf and the DNS server; correct the name or its endpoint in [upstream.registries].";
    CONNECT: "connect-failed", Registries, Problem,
        "Nobody answers at its address, so nothing can be fetched from it.",
        "Look at firewalls, routes and proxy variables between this node and the registry, and at the port of its endpoint.";
    LATE: "answer-late", Registries, Problem,
        "Connections hang: each pull waits for it before something else is tried.",
        "Look at firewalls that drop packets, and at the registry's load.";
    UNTRUSTED: "tls-untrusted", Registries, Problem,
        "Its certificate is from an authority that is not trusted here, so it is not asked at all.",
        "Name its authority's certificate with ca in its table; a proxy that opens TLS needs its own there.";
    EXPIRED: "tls-expired", Registries, Problem,
        "Its certificate is out of date, so it is not asked at all.",
        "Renew the registry's certificate. If it is good, this node's clock is wrong.";
    TLS: "tls-failed", Registries, Problem,
        "No encrypted connection can be made, so it is not asked at all.",
        "The endpoint must have a name that stands in the certificate, and https:// only where TLS is spoken.";
    LOOP: "upstream-loop", Registries, Problem,
        "The endpoint is this agent's own address: requests would go round in circles, and are refused.",
        "Let endpoint name the registry itself.";
    NO_REGISTRY: "not-a-registry", Registries, Problem,
        "Somebody answers there who does not speak the registry protocol: a captive portal, a proxy, a wrong path.",
        "Correct the endpoint: what follows it is /v2/. Look for a proxy in between.";
    REFUSED: "credentials-refused", Registries, Problem,
        "The registry does not accept the agent's credentials: private images cannot be fetched, and public ones may be refused, too.",
        "Write the present password into password_file, or log in again for docker_config.";
    UNAVAILABLE: "credentials-unavailable", Registries, Problem,
        "Credentials are configured and cannot be had; the registry is asked anonymously.",
        "Correct the file, or let the credential helper run as the agent's user.";
    ANONYMOUS: "credentials-missing", Registries, Warning,
        "It gives nothing without credentials, and the agent has none.",
        "Configure username and password_file, or docker_config, or the mode `verify`.";
    REALM: "token-realm", Registries, Problem,
        "Its tokens come from another domain, to which credentials are not shown: it cannot be asked.",
        "If that host is right, list it in trusted_realms.";
    TOKEN: "token-server", Registries, Problem,
        "Its token server does not give tokens, so nothing can be fetched.",
        "Look whether this node reaches the token server, and at its state.";
    LIMITED: "rate-limited", Registries, Problem,
        "The registry has had too many requests from this address: pulls fail until the window is over.",
        "Use an account with a higher limit, a mirror or the swarm; wait for the end of the window.";
    LIMIT_LOW: "rate-limit-low", Registries, Warning,
        "Few pulls are left in the registry's window; then it refuses them.",
        "Use an account with a higher limit, a mirror or the swarm.";
    SICK: "registry-failing", Registries, Problem,
        "It answers with errors of its own.",
        "Look at the registry's state; pulls go on from other sources where there are any.";
    LEFT_ALONE: "source-left-alone", Registries, Warning,
        "It failed lately: the agent asks others and tries it again when the pause is over.",
        "Look at what was found about it here, and at the agent's log.";
    PROXY: "proxy-unreachable", Registries, Problem,
        "Requests go through the proxy that the environment names, and nobody answers there.",
        "Correct HTTPS_PROXY and HTTP_PROXY in the agent's environment, or name exceptions in NO_PROXY.";
    PROXY_DIFFERS: "proxy-differs", Registries, Warning,
        "The agent was started with other proxy variables than this command: it takes other ways than those that were checked.",
        "Run this command with the agent's variables, or restart the agent with the right ones.";
    CLOCK: "clock-wrong", Registries, Problem,
        "With a wrong clock certificates and tokens are refused, and what expires does so at the wrong time.",
        "Set the clock and keep it so: chrony or systemd-timesyncd.";
    NOTHING: "no-registry", Registries, Hint,
        "No registry is configured, and none has been asked since the agent's start: there was nothing to look at.",
        "Run this again after a pull, or configure the registries that matter.";
    UNPROVEN: "names-without-content", Registries, Hint,
        "Clients have named registries from which nothing has come since the agent's start, misspelt or made-up ones as a rule. They were not looked at.",
        "If one of them is real, give it a table in [upstream.registries]; the agent's log names the clients.";
}

/// Registries that are looked at.
const SOURCES_MAX: usize = 64;
/// Those at the same time: a resolver that answers one after the other still answers each in time, and two rounds of registries that
/// hang are over in time.
const LOOKS_AT_ONCE: usize = 32;
/// Longest time for one of them, all its requests together.
const SOURCE_MAX: Duration = Duration::from_secs(12);
/// Longest time for all, so that what was seen is told before this part of the node counts as late.
const LOOKS_MAX: Duration = Duration::from_secs(13);
/// Names that clients have used and nothing has come from, up to which they are looked at: with the first pull of a node that
/// cannot reach its registry there is no other.
const UNPROVEN_MAX: usize = 4;
/// Names that stand in one line.
const LISTED_MAX: usize = 5;
/// Longest time for a connection, and then for an answer: doctors do not wait like pulls.
const PATIENCE: Duration = Duration::from_secs(4);
/// A clock that differs by more makes tokens fail; by more than this, certificates of clusters, which begin at once.
const CLOCK_WARNING: i64 = 30;
const CLOCK_PROBLEM: i64 = 300;
/// With less of the window left, it is nearly used up.
const LIMIT_LOW_PERCENT: u64 = 15;

/// Proxy variables, in the spellings that are read.
pub const PROXY_VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What a registry is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Configured, and without another source for some of its content.
    Registry,
    /// A mirror; others are asked when it fails, unless it refuses and that stops a pull.
    Mirror { refusal_stops: bool },
    /// Some client has named it.
    Named,
}

/// What is known of one of them.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    role: Role,
    /// None if it took too long.
    sight: Option<Sight>,
    state: Option<SourceState>,
    limit: Option<RateLimit>,
    /// Who gets its content, of one that is configured.
    mode: Option<AccessMode>,
}

/// Who is looked at, and whom clients have named without anything's having come.
#[derive(Debug, Default)]
struct Wanted {
    looked_at: BTreeMap<Registry, Role>,
    unproven: Vec<String>,
}

/// Proxies as this command and the agent were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    pub ours: BTreeMap<String, String>,
    /// None if it is not known.
    pub agents: Option<BTreeMap<String, String>>,
}

impl Proxies {
    fn are_used(&self) -> bool {
        self.ours.keys().any(|name| !name.eq_ignore_ascii_case("NO_PROXY"))
    }

    /// `host:port` of each.
    fn addresses(&self) -> BTreeSet<String> {
        let urls = self.ours.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("NO_PROXY"));
        urls.filter_map(|(_, text)| {
            let text = if text.contains("://") { text.clone() } else { format!("http://{text}") };
            let url = url::Url::parse(&text).ok()?;
            Some(format!("{}:{}", url.host_str()?, url.port_or_known_default().unwrap_or(80)))
        })
        .collect()
    }
}

/// The client that the agent would have, only less patient.
///
/// # Errors
/// The agent does not start with these settings.
pub(super) fn client(config: &Config) -> Result<Upstream, upstream::SettingsError> {
    let mut settings = config.upstream_settings();
    settings.connect_timeout = settings.connect_timeout.min(PATIENCE);
    settings.header_timeout = settings.header_timeout.min(PATIENCE);
    Upstream::new(settings, crate::metrics::Metrics::new())
}

/// Looks at all of them and judges.
pub(super) async fn check(
    config: &Config,
    upstream: &Upstream,
    status: Option<&Status>,
    proxies: &Proxies,
) -> Vec<Outcome> {
    let Wanted { looked_at, unproven } = wanted(config, status);
    let mut unseen: BTreeSet<String> = looked_at.keys().map(ToString::to_string).collect();
    let looks = looked_at.into_iter().map(|(registry, role)| look(registry, role, upstream, status, proxies));
    let looks: Vec<_> = looks.collect();
    let gathered = async {
        let mut sources = Vec::new();
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        let until = Instant::now() + LOOKS_MAX;
        while let Ok(Some(source)) = tokio::time::timeout_at(until, looks.next()).await {
            sources.push(source);
        }
        sources.sort_by(|one: &Source, other| one.name.cmp(&other.name));
        sources
    };
    let (sources, mut outcomes) = tokio::join!(gathered, check_proxies(proxies));
    unseen.retain(|name| sources.iter().all(|source| source.name != *name));
    if sources.is_empty() && unseen.is_empty() && unproven.is_empty() {
        outcomes.push(NOTHING.found("no registry is known yet").into());
    }
    if !unseen.is_empty() {
        let unseen: Vec<String> = unseen.into_iter().collect();
        let what = format!("registries: {} not looked at within {} s", listed(&unseen), LOOKS_MAX.as_secs());
        outcomes.push(super::LATE.found(what).into());
    }
    outcomes.extend(sources.iter().flat_map(judge));
    outcomes.extend(judge_access(&sources));
    if !unproven.is_empty() {
        outcomes.push(UNPROVEN.found(format!("nothing has come from {}", listed(&unproven))).into());
    }
    let clocks: Vec<i64> = sources.iter().filter_map(|source| source.sight.as_ref()?.clock_ahead).collect();
    outcomes.extend(judge_clock(clocks));
    outcomes
}

async fn look(
    registry: Registry,
    role: Role,
    upstream: &Upstream,
    status: Option<&Status>,
    proxies: &Proxies,
) -> Source {
    let name = registry.to_string();
    let until = Instant::now() + SOURCE_MAX;
    let mode = match upstream.is_configured(&registry) {
        true => tokio::time::timeout_at(until, upstream.policy(&registry)).await.ok(),
        false => None,
    };
    let looked = tokio::time::timeout_at(until, upstream.look_at(&registry, !proxies.are_used())).await;
    let state = status.and_then(|status| status.sources.iter().find(|source| source.name == name));
    Source {
        role,
        sight: looked.ok().and_then(Result::ok),
        state: state.map(|source| source.state),
        limit: status.and_then(|status| status.rate_limits.get(&name)).copied(),
        mode: mode.map(|policy| policy.mode),
        name,
    }
}

/// Who is looked at: what is configured, and whom the agent has been asked for, unless it must not be contacted.
fn wanted(config: &Config, status: Option<&Status>) -> Wanted {
    let settings = config.upstream_settings();
    let mirrors = &settings.mirrors.mirrors;
    let refusal_stops = settings.mirrors.on_denied == OnDenied::Stop;
    let at_mirrors: BTreeSet<Registry> =
        mirrors.locations().map(|location| location.registry.clone()).collect();
    let mut looked_at: BTreeMap<Registry, Role> =
        settings.registries.keys().map(|registry| (registry.clone(), Role::Registry)).collect();
    looked_at.extend(at_mirrors.into_iter().map(|registry| (registry, Role::Mirror { refusal_stops })));
    let mut unproven = Vec::new();
    if let Some(status) = status {
        let others: Vec<&SourceStatus> = status
            .sources
            .iter()
            .filter(|source| !looked_at.keys().any(|registry| registry.as_str() == source.name))
            .collect();
        let (named, rest) = worth_a_look(&others, &status.upstream_bytes);
        looked_at.extend(named.into_iter().map(|registry| (registry, Role::Named)));
        unproven = rest;
    }
    looked_at.retain(|registry, role| matches!(role, Role::Mirror { .. }) || may_contact(mirrors, registry));
    while looked_at.len() > SOURCES_MAX {
        looked_at.pop_last();
    }
    Wanted { looked_at, unproven }
}

/// Of the registries that clients have named: those that something has come from, or all as long as they are few; and the names
/// of the others. `received` are bytes by name.
fn worth_a_look(named: &[&SourceStatus], received: &BTreeMap<String, u64>) -> (Vec<Registry>, Vec<String>) {
    // Agents of older versions call by the name for all others what is somewhere else.
    let names: BTreeSet<&str> =
        named.iter().map(|source| source.name.as_str()).filter(|name| *name != OTHER).collect();
    let is_proven = |name: &str| received.get(name).is_some_and(|bytes| *bytes > 0);
    let (mut looked_at, mut unproven): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| is_proven(name));
    if unproven.len() <= UNPROVEN_MAX {
        looked_at.append(&mut unproven);
    }
    (
        looked_at.into_iter().filter_map(|name| name.parse().ok()).collect(),
        unproven.into_iter().map(str::to_owned).collect(),
    )
}

/// Names in one line: the first of them, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED_MAX)].join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether a registry itself is asked for anything.
fn may_contact(mirrors: &shoal_engine::mirrors::Mirrors, registry: &Registry) -> bool {
    // A repository that no set is likely to name: what applies to it applies to the registry.
    let Ok(repository) = "a/b".parse() else { return true };
    let plan = mirrors.candidates(&Scope { registry: registry.clone(), repository }, Asking::Digest);
    plan.candidates.iter().any(|candidate| !matches!(candidate.kind, CandidateKind::Mirror(_)))
}

fn judge(source: &Source) -> Vec<Outcome> {
    let name = &source.name;
    let mut outcomes: Vec<Outcome> = Vec::new();
    match &source.sight {
        None => {
            let finding = LATE.found(format!("{name}: no answer within {} s", SOURCE_MAX.as_secs()));
            outcomes.push(milder(finding, source.role).into());
        }
        Some(sight) => {
            if let Some(why) = &sight.no_credentials {
                outcomes.push(UNAVAILABLE.found(format!("{name}: {why}")).into());
            }
            match &sight.trouble {
                Some(trouble) => outcomes.push(judge_trouble(name, sight, trouble, source.role).into()),
                None => outcomes.push(Outcome::well(Group::Registries, greeting(name, sight))),
            }
        }
    }
    match source.state {
        Some(SourceState::LeftAlone { seconds }) => {
            outcomes.push(LEFT_ALONE.found(format!("{name} is left alone for another {seconds} s")).into());
        }
        Some(SourceState::Limited { seconds }) => {
            let finding = LIMITED.found(format!("{name} limits this node for another {seconds} s"));
            outcomes.push(milder(finding, source.role).into());
        }
        Some(SourceState::Well) | None => {}
    }
    if let Some(RateLimit { limit, remaining }) = source.limit
        && remaining.saturating_mul(100) < limit.saturating_mul(LIMIT_LOW_PERCENT)
    {
        outcomes.push(LIMIT_LOW.found(format!("{name}: {remaining} of {limit} pulls left")).into());
    }
    outcomes
}

/// Who gets what, as it is in force: without `access` it follows from the credentials that there are.
fn judge_access(sources: &[Source]) -> Vec<Outcome> {
    let of = |mode: AccessMode, whose: &str| {
        let names = sources.iter().filter(|source| source.mode == Some(mode)).map(|source| &*source.name);
        let names: Vec<&str> = names.collect();
        let what = format!("{whose}: {}", names.join(", "));
        (!names.is_empty()).then(|| Outcome::well(Group::Registries, what))
    };
    let modes = [
        (AccessMode::Open, "access = \"open\", whoever reaches the port has everything"),
        (AccessMode::PublicOnly, "access = \"public-only\", whoever reaches the port has what is public"),
        (AccessMode::Verify, "access = \"verify\", who shows a token that the registry accepts"),
    ];
    modes.into_iter().filter_map(|(mode, whose)| of(mode, whose)).collect()
}

fn greeting(name: &str, sight: &Sight) -> String {
    let who = if sight.identified { "with credentials" } else { "without credentials" };
    let took = sight.took.map_or_else(String::new, |took| format!(" in {} ms", took.as_millis()));
    let at = sight.endpoint.trim_end_matches('/');
    if at.ends_with(&format!("//{name}")) {
        return format!("{name} answers{took}, {who}");
    }
    format!("{name} answers at {at}{took}, {who}")
}

fn judge_trouble(name: &str, sight: &Sight, trouble: &Trouble, role: Role) -> Finding {
    let (kind, text): (&'static Kind, &str) = match trouble {
        Trouble::Name(text) => (&NAME, text),
        Trouble::Connect(text) => (&CONNECT, text),
        Trouble::Late(text) => (&LATE, text),
        Trouble::Untrusted(text) => (&UNTRUSTED, text),
        Trouble::Expired(text) => (&EXPIRED, text),
        Trouble::Tls(text) => (&TLS, text),
        Trouble::Loop => (&LOOP, &sight.endpoint),
        Trouble::NoRegistry(text) => (&NO_REGISTRY, text),
        Trouble::Refused(text) => (&REFUSED, text),
        Trouble::Anonymous(text) => (&ANONYMOUS, text),
        Trouble::Realm(text) => (&REALM, text),
        Trouble::TokenServer(text) => (&TOKEN, text),
        Trouble::Limited(text) => (&LIMITED, text),
        Trouble::Sick(text) => (&SICK, text),
    };
    let finding = kind.found(format!("{name}: {text}"));
    match (role, trouble) {
        (Role::Mirror { refusal_stops: true }, Trouble::Refused(_) | Trouble::Anonymous(_)) => finding,
        _ => milder(finding, role),
    }
}

/// What a mirror cannot do, others can; what a client has named may not even exist.
fn milder(finding: Finding, role: Role) -> Finding {
    match role {
        Role::Registry => finding,
        Role::Mirror { .. } | Role::Named => finding.at_most(Level::Warning),
    }
}

/// The middle one of what the registries say: one that is wrong itself does not make ours wrong.
fn judge_clock(mut ahead: Vec<i64>) -> Option<Outcome> {
    ahead.sort_unstable();
    let middle = *ahead.get(ahead.len() / 2)?;
    let (off, direction) = (middle.abs(), if middle > 0 { "behind" } else { "ahead of" });
    if off <= CLOCK_WARNING {
        let what = format!("the clock agrees with theirs (to {} s)", off.max(1));
        return Some(Outcome::well(Group::Registries, what));
    }
    let level = if off <= CLOCK_PROBLEM { Level::Warning } else { Level::Problem };
    let what = format!("this node's clock is {off} s {direction} the registries'");
    Some(CLOCK.found(what).at_most(level).into())
}

async fn check_proxies(proxies: &Proxies) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for address in proxies.addresses() {
        let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(&*address)).await;
        match connected {
            Ok(Ok(_)) => {
                outcomes
                    .push(Outcome::well(Group::Registries, format!("the proxy {address} can be reached")));
            }
            Ok(Err(error)) => outcomes.push(PROXY.found(format!("{address}: {error}")).into()),
            Err(_) => {
                let what = format!("{address}: no answer within {} s", PATIENCE.as_secs());
                outcomes.push(PROXY.found(what).into());
            }
        }
    }
    outcomes.extend(judge_proxies(proxies));
    outcomes
}

fn judge_proxies(proxies: &Proxies) -> Option<Outcome> {
    let agents = proxies.agents.as_ref()?;
    // The spelling of a name does not matter; a value may hold a password and is not shown.
    let upper = |variables: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| (name.to_uppercase(), value.clone())).collect()
    };
    let (ours, agents) = (upper(&proxies.ours), upper(agents));
    let names: BTreeSet<&String> = ours.keys().chain(agents.keys()).collect();
    let differing: Vec<&str> =
        names.into_iter().filter(|name| ours.get(*name) != agents.get(*name)).map(String::as_str).collect();
    let what = format!("other values for the agent and for this command: {}", differing.join(", "));
    (!differing.is_empty()).then(|| PROXY_DIFFERS.found(what).into())
}

#[cfg(test)]
mod tests;
