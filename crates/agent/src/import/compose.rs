//! From what was found to what is written: without the agent itself, in sets that do not contradict each other, and with
//! everything told that was lost on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use shoal_engine::mirrors::{MIRRORS_PER_SET_MAX, MirrorSet, Mirrors, Serves, SourceScope, TagOrder};
use shoal_engine::{Location, Registry};

use super::{FoundMirror, FoundSet, Import, ImportError, Imported, Note, Place, write};

/// A set as it is written, and where it comes from.
pub(super) struct WrittenSet {
    pub set: MirrorSet,
    pub place: Place,
}

pub(super) fn finish(mut import: Import, own: &[SocketAddr]) -> Result<Imported, ImportError> {
    if !import.problems.is_empty() {
        return Err(ImportError(import.problems));
    }
    let found = std::mem::take(&mut import.sets);
    let mut sets: Vec<FoundSet> = found.into_iter().filter_map(|set| tidy(&mut import, set, own)).collect();
    // Older objects first, as everybody reads them; the order changes nothing.
    sets.sort_by_key(|set| !set.is_superseded_kind);
    note_default(&mut import, own);
    let written = split(sets);
    let conflicts = conflicts(&written);
    if !conflicts.is_empty() {
        return Err(ImportError(conflicts));
    }
    import.registries.retain(|registry, _| !is_own(registry, own));
    plain_or_not(&mut import);
    let text = write::text(&import.files, &written, &import.registries);
    let mut told = BTreeSet::new();
    let notes = import.notes.into_iter().filter(|note| told.insert(note.clone())).collect();
    Ok(Imported { text, notes, sets: written.len() })
}

/// Whether a registry is the agent that all this is for.
fn is_own(registry: &Registry, own: &[SocketAddr]) -> bool {
    let Some((host, port)) = registry.as_str().rsplit_once(':') else { return false };
    let Ok(port) = port.parse::<u16>() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = host.parse().ok();
    let is_loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    own.iter().filter(|own| own.port() == port).any(|own| {
        address == Some(own.ip()) || (is_loopback && (own.ip().is_loopback() || own.ip().is_unspecified()))
    })
}

/// A set without what cannot be in it; none if nothing is left.
fn tidy(import: &mut Import, mut set: FoundSet, own: &[SocketAddr]) -> Option<FoundSet> {
    let mut mirrors: Vec<FoundMirror> = Vec::new();
    allow_what_only_the_agent_asks(import, &mut set, own);
    for mirror in std::mem::take(&mut set.mirrors) {
        let location = &mirror.location;
        let why = if is_own(&location.registry, own) {
            Some(format!("{location}: is this agent itself (--own); left out"))
        } else if set.never_contact_source && set.source.is_at(location) {
            Some(format!(
                "{location}: is the source of set {}, which must not be contacted; left out",
                set.name
            ))
        } else if mirrors.iter().any(|known| known.location == *location) {
            Some(format!("{location}: is in the list of {} already; left out", set.name))
        } else if mirrors.len() == MIRRORS_PER_SET_MAX {
            Some(format!(
                "{location}: set {} has more than {MIRRORS_PER_SET_MAX} mirrors; left out",
                set.name
            ))
        } else {
            None
        };
        match why {
            Some(why) => import.note(mirror.place, why),
            None => mirrors.push(mirror),
        }
    }
    let has_mirrors = mirrors.iter().any(|mirror| !set.source.is_at(&mirror.location));
    has_mirrors.then_some(FoundSet { mirrors, ..set })
}

/// A runtime that must not ask the source itself, and may ask this agent, gets from it what the source has. So the agent
/// has to ask the source, unless the source's content is somewhere else anyway.
fn allow_what_only_the_agent_asks(import: &mut Import, set: &mut FoundSet, own: &[SocketAddr]) {
    let is_agent = |mirror: &FoundMirror| is_own(&mirror.location.registry, own);
    let is_elsewhere = set.ends_at_substitute && set.mirrors.last().is_some_and(|last| !is_agent(last));
    if set.never_contact_source && set.mirrors.iter().any(is_agent) && !is_elsewhere {
        set.never_contact_source = false;
        let text = format!(
            "{} was to be asked through this agent and by nobody else; the agent has to ask it, so it is not forbidden here",
            set.source
        );
        import.note(set.place.clone(), text);
    }
}

fn note_default(import: &mut Import, own: &[SocketAddr]) {
    for mirror in std::mem::take(&mut import.of_every_registry) {
        let location = mirror.location;
        let text = if is_own(&location.registry, own) {
            format!("{location}: is this agent itself (--own); left out")
        } else {
            format!(
                "{location}: mirrors every registry without a folder (_default); a source has to be named here, so write a [[mirrors.sets]] for each registry that is meant"
            )
        };
        import.note(mirror.place, text);
    }
}

/// Sets as we have them: each for digests, tags or all, and for one source either all or parts (M4).
fn split(found: Vec<FoundSet>) -> Vec<WrittenSet> {
    let mut is_whole: BTreeMap<SourceScope, bool> = BTreeMap::new();
    for set in &found {
        let whole = set.mirrors.iter().all(|mirror| mirror.digests && mirror.tags);
        is_whole.entry(set.source.clone()).and_modify(|known| *known &= whole).or_insert(whole);
    }
    let mut names = BTreeSet::new();
    let mut written = Vec::new();
    for found in found {
        let all = |_: &FoundMirror| true;
        let parts: Vec<(Serves, &str, Vec<Location>)> = if is_whole.get(&found.source) == Some(&true) {
            vec![(Serves::All, "", locations(&found, all))]
        } else {
            let (digests, tags) =
                (locations(&found, |mirror| mirror.digests), locations(&found, |mirror| mirror.tags));
            let (of_digests, of_tags) =
                if tags.is_empty() || digests.is_empty() { ("", "") } else { (" digests", " tags") };
            vec![(Serves::Digests, of_digests, digests), (Serves::Tags, of_tags, tags)]
        };
        for (serves, suffix, mirrors) in parts.into_iter().filter(|(_, _, mirrors)| !mirrors.is_empty()) {
            let set = MirrorSet {
                name: unused_name(&format!("{}{suffix}", found.name), &mut names),
                source: found.source.clone(),
                mirrors,
                serves,
                // So it is with everybody that is read here.
                tag_order: (serves != Serves::Digests).then_some(TagOrder::MirrorFirst),
                never_contact_source: found.never_contact_source,
            };
            written.push(WrittenSet { set, place: found.place.clone() });
        }
    }
    written
}

fn locations(set: &FoundSet, wanted: impl Fn(&FoundMirror) -> bool) -> Vec<Location> {
    set.mirrors.iter().filter(|mirror| wanted(mirror)).map(|mirror| mirror.location.clone()).collect()
}

/// The name, with a number if it is taken.
fn unused_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let name = if name.trim().is_empty() { "imported" } else { name };
    let numbered = (2..).map(|number| format!("{name} {number}"));
    let unused = std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken.contains(name));
    let unused = unused.expect("numbers do not end");
    taken.insert(unused.clone());
    unused
}

/// What the files say against each other. Only a person can tell which of them is right.
fn conflicts(written: &[WrittenSet]) -> Vec<Note> {
    let sets = written.iter().map(|written| written.set.clone()).collect();
    let Err(conflicts) = Mirrors::new(sets) else { return Vec::new() };
    let place = |name: &str| {
        written.iter().find(|written| written.set.name == name).map(|written| written.place.clone())
    };
    conflicts
        .iter()
        .map(|conflict| {
            let mut places: Vec<Place> = conflict.sets().into_iter().filter_map(place).collect();
            places.sort();
            let last = places.pop().unwrap_or_else(|| Place { file: "the import".into(), at: None });
            let also: Vec<String> = places.iter().map(|place| format!(" (and {place})")).collect();
            Note { place: last, text: format!("{conflict}{}", also.concat()) }
        })
        .collect()
}

/// `insecure = true` leaves open whether a registry speaks plain http or has a certificate that nobody knows.
fn plain_or_not(import: &mut Import) {
    let mut notes = Vec::new();
    for (registry, found) in &mut import.registries {
        let Some(place) = found.insecure.clone().filter(|_| found.endpoint.is_none()) else { continue };
        let name = registry.as_str();
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        let is_loopback = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        let text = if is_loopback {
            found.endpoint = Some(format!("http://{name}"));
            format!(
                "insecure: {name} is on this machine, and taken for plain http; correct its endpoint otherwise"
            )
        } else {
            format!(
                "insecure: {name} is asked over https, and its certificate is verified; if it speaks plain http, set endpoint = \"http://{name}\" in its table, otherwise name its CA there"
            )
        };
        notes.push(Note { place, text });
    }
    import.notes.extend(notes);
}
