//! Mirror sets: each for itself, then all of them together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use shoal_engine::mirrors::{
    MIRRORS_PER_SET_MAX, MirrorConflict, MirrorSet, Mirrors, SETS_MAX, Serves, SourceScope,
};
use shoal_engine::{Location, Registry};

use super::{Findings, TIMEOUT_MAX, quoted};
use crate::config::document::key;
use crate::config::schema;
use crate::upstream::MirrorSettings;

/// Shortest deadline of a mirror: less than a handshake over a continent would fail every mirror there.
const DEADLINE_MIN: Duration = Duration::from_millis(100);

pub(super) fn resolve(file: &schema::File, found: &mut Findings<'_, '_>) -> MirrorSettings {
    let mirrors = &file.mirrors;
    found.period("mirrors.connect_timeout", mirrors.connect_timeout, DEADLINE_MIN, TIMEOUT_MAX);
    found.period("mirrors.header_timeout", mirrors.header_timeout, DEADLINE_MIN, TIMEOUT_MAX);
    found.period("mirrors.walk_budget", mirrors.walk_budget, DEADLINE_MIN, TIMEOUT_MAX);
    MirrorSettings {
        mirrors: sets(file, found),
        on_denied: mirrors.on_denied,
        connect_timeout: mirrors.connect_timeout.0,
        header_timeout: mirrors.header_timeout.0,
        walk_budget: mirrors.walk_budget.0,
    }
}

fn sets(file: &schema::File, found: &mut Findings<'_, '_>) -> Mirrors {
    let written = &file.mirrors.sets;
    if written.len() > SETS_MAX {
        let remedy = format!("has {} sets; at most {SETS_MAX} are possible", written.len());
        found.add("mirrors.sets", None, remedy);
        return Mirrors::default();
    }
    let mut places = BTreeMap::new();
    let mut sets = Vec::new();
    for (index, set) in written.iter().enumerate() {
        let place = format!("mirrors.sets[{index}]");
        let name = set.name.clone().unwrap_or_else(|| place.clone());
        if name.trim().is_empty() {
            found.add(
                &format!("{place}.name"),
                Some(quoted(&name)),
                "must not be empty; leave it out for its place",
            );
        } else if let Some(other) = places.insert(name.clone(), index) {
            let remedy =
                format!("is the name of mirrors.sets[{other}], too; messages could not tell them apart");
            found.add(&format!("{place}.name"), Some(quoted(&name)), remedy);
        }
        sets.extend(resolve_set(file, &place, name, set, found));
    }
    Mirrors::new(sets).unwrap_or_else(|conflicts| {
        conflicts.iter().for_each(|conflict| add_conflict(conflict, &places, found));
        Mirrors::default()
    })
}

/// A conflict stands at the later of its sets: that is the one that was added to what worked.
fn add_conflict(conflict: &MirrorConflict, places: &BTreeMap<String, usize>, found: &mut Findings<'_, '_>) {
    let later = conflict.sets().into_iter().filter_map(|name| places.get(name)).max();
    let place = later.map_or_else(|| "mirrors.sets".to_owned(), |index| format!("mirrors.sets[{index}]"));
    found.add(&place, None, conflict.to_string());
}

/// A set, if its source and all its mirrors are right.
fn resolve_set(
    file: &schema::File,
    place: &str,
    name: String,
    set: &schema::MirrorSet,
    found: &mut Findings<'_, '_>,
) -> Option<MirrorSet> {
    let key = |name: &str| format!("{place}.{name}");
    let source = source(&key("source"), set.source.as_deref(), found);
    let mirrors = mirrors(file, &key("mirrors"), set, found);
    if let Some(order) = set.tag_order.filter(|_| set.serves == Serves::Digests) {
        found.add(
            &key("tag_order"),
            Some(quoted(&order.to_string())),
            "has no meaning for mirrors that serve digests only; add serves = \"all\" or \"tags\", or remove it",
        );
    }
    Some(MirrorSet {
        name,
        source: source?,
        mirrors: mirrors?,
        serves: set.serves,
        tag_order: set.tag_order,
        never_contact_source: set.never_contact_source,
    })
}

fn source(key: &str, text: Option<&str>, found: &mut Findings<'_, '_>) -> Option<SourceScope> {
    const FORM: &str =
        "a registry (\"docker.io\"), a part of one (\"docker.io/library\"), or a domain (\"*.example.com\")";
    let Some(text) = text else {
        found.add(key, None, format!("is missing; it is {FORM}"));
        return None;
    };
    let parsed = text.parse::<SourceScope>();
    if let Err(error) = &parsed {
        let remedy = without_scheme(text).unwrap_or_else(|| format!("must be {FORM}: {error}"));
        found.add(key, Some(quoted(text)), remedy);
    }
    parsed.ok()
}

fn mirrors(
    file: &schema::File,
    key: &str,
    set: &schema::MirrorSet,
    found: &mut Findings<'_, '_>,
) -> Option<Vec<Location>> {
    if set.mirrors.is_empty() && !set.never_contact_source {
        found.add(
            key,
            None,
            "is empty, so the set does nothing; name a mirror, such as [\"mirror.example.com/hub\"]",
        );
        return None;
    }
    if set.mirrors.len() > MIRRORS_PER_SET_MAX {
        let remedy = format!("has {} mirrors; at most {MIRRORS_PER_SET_MAX} are possible", set.mirrors.len());
        found.add(key, None, remedy);
        return None;
    }
    let mut locations: Vec<Location> = Vec::new();
    for (index, text) in set.mirrors.iter().enumerate() {
        let key = format!("{key}[{index}]");
        match mirror(file, text) {
            Ok(location) if locations.contains(&location) => {
                found.add(&key, Some(quoted(text)), "is in this list already; remove one of them");
            }
            Ok(location) => locations.push(location),
            Err(remedy) => found.add(&key, Some(quoted(text)), remedy),
        }
    }
    (locations.len() == set.mirrors.len()).then_some(locations)
}

fn mirror(file: &schema::File, text: &str) -> Result<Location, String> {
    let location: Location = text.parse().map_err(|error| {
        without_scheme(text).unwrap_or_else(|| {
            format!("must be host[:port][/prefix], such as \"mirror.example.com/hub\": {error}")
        })
    })?;
    // A registry with an endpoint is asked there, whatever its name looks like.
    let has_endpoint = file.upstream.registries.iter().any(|(name, registry)| {
        registry.endpoint.is_some() && name.parse::<Registry>().is_ok_and(|name| location.registry == name)
    });
    let address: Option<SocketAddr> = location.registry.as_str().parse().ok();
    let own = file.registry.listeners.iter().filter_map(|listener| listener.address.as_deref()?.parse().ok());
    if !has_endpoint && address.is_some_and(|address| own.into_iter().any(|own: SocketAddr| own == address)) {
        return Err("is this agent itself (registry.listeners); name the mirror that it shall ask".to_owned());
    }
    Ok(location)
}

/// What to write where somebody has written a URL.
fn without_scheme(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let rest = rest.trim_end_matches('/');
    let host = rest.split('/').next().filter(|host| host.parse::<Registry>().is_ok())?;
    let mut remedy = format!("must have no scheme; write {}", quoted(rest));
    if scheme.eq_ignore_ascii_case("http") {
        remedy.push_str(&format!(
            ", and [upstream.registries.{}] endpoint = {}",
            key_in_quotes(host),
            quoted(&format!("http://{host}"))
        ));
    }
    Some(remedy)
}

/// A table's name as the sample writes it: always in quotes, because most hosts need them.
fn key_in_quotes(host: &str) -> String {
    let written = key(host);
    if written.starts_with('"') { written } else { quoted(host) }
}
