//! `registries.conf`, version 2, of CRI-O, podman, skopeo and buildah, with its drop-ins.
//!
//! What holds there (`contract.md` 3.1): the longest prefix picks one table, and only that; its mirrors are asked in their
//! order, for tags as well unless it says otherwise, then the table's own location. A later file replaces the tables
//! of the same prefix. Whatever a mirror answers that is no success, the next one is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shoal_engine::Location;
use shoal_engine::mirrors::SourceScope;

use super::document::{Source, Table, Text};
use super::{FoundMirror, FoundSet, Import, Note, Place};

/// Keys of the whole file that say nothing about mirrors.
const OTHER_KEYS: &[(&str, &str)] = &[
    ("unqualified-search-registries", "image names without a registry are the runtime's affair"),
    ("short-name-mode", "image names without a registry are the runtime's affair"),
    ("aliases", "image names without a registry are the runtime's affair"),
    ("credential-helpers", "put them into a Docker config.json and name that in upstream.docker_config"),
    ("additional-layer-store-auth-helper", "layer stores are the runtime's affair"),
];

/// A table as it was read.
struct Entry {
    source: SourceScope,
    /// Where the source is, if that is not where its name says.
    location: Option<(Location, Place)>,
    mirrors: Vec<FoundMirror>,
    is_blocked: bool,
    place: Place,
    /// What was insecure, the source itself or a mirror.
    insecure: Vec<(Location, Place)>,
}

pub(super) fn read(import: &mut Import, path: &Path) {
    let mut paths = vec![path.to_owned()];
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    paths.extend(drop_ins(import, Path::new(&folder)));
    let texts: Vec<(PathBuf, String)> =
        paths.into_iter().filter_map(|path| Some((path.clone(), import.read(&path)?))).collect();
    read_texts(import, &texts);
}

/// The `.conf` files of the folder, if there is one, in lexical order.
fn drop_ins(import: &mut Import, folder: &Path) -> Vec<PathBuf> {
    let is_drop_in =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf") && path.is_file();
    if folder.exists() { import.entries(folder).into_iter().filter(is_drop_in).collect() } else { Vec::new() }
}

pub(super) fn read_texts(import: &mut Import, files: &[(PathBuf, String)]) {
    // The place in the list of files decides, not the place in a file: the formats' own order has no meaning.
    let mut entries: BTreeMap<SourceScope, Entry> = BTreeMap::new();
    for (path, text) in files {
        let source = Source { path, text };
        let file = match source.parse() {
            Ok(file) => file,
            Err(problem) => {
                import.problems.push(problem);
                continue;
            }
        };
        let file = Table { source, table: &file };
        note_other_keys(import, file);
        let tables = file.tables("registry").unwrap_or_else(|problem| {
            import.problems.push(problem);
            Vec::new()
        });
        for table in tables {
            match entry(import, table) {
                Ok(entry) => replace(import, &mut entries, entry),
                Err(problem) => import.problems.push(problem),
            }
        }
    }
    note_unmirrored_parts(import, &entries);
    for entry in entries.into_values() {
        add(import, entry);
    }
}

fn note_other_keys(import: &mut Import, file: Table<'_>) {
    for key in file.others(&["registry"]) {
        if key.text == "registries" {
            // `[registries.search]`, `[registries.insecure]`, `[registries.block]`.
            import.problem(
                key.place,
                "is of version 1 of the format, which has no mirrors; write [[registry]] tables",
            );
            continue;
        }
        let why = OTHER_KEYS.iter().find(|(known, _)| *known == key.text).map(|(_, why)| *why);
        import.note(key.place, format!("{}: {}", key.text, why.unwrap_or("unknown here; not carried over")));
    }
}

/// A later file replaces the table; in one file, the first of two is the one that is found.
fn replace(import: &mut Import, entries: &mut BTreeMap<SourceScope, Entry>, entry: Entry) {
    let is_second = entries.get(&entry.source).is_some_and(|known| known.place.file == entry.place.file);
    if is_second {
        let text = format!("is a second table for {} in the same file; the first counts", entry.source);
        import.note(entry.place, text);
    } else {
        entries.insert(entry.source.clone(), entry);
    }
}

fn entry(import: &mut Import, table: Table<'_>) -> Result<Entry, Note> {
    const KEYS: [&str; 6] = ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror"];
    for key in table.others(&KEYS) {
        import.note(key.place, format!("{}: unknown here; not carried over", key.text));
    }
    let location = table.text("location")?;
    let prefix = match (table.text("prefix")?.filter(|prefix| !prefix.text.is_empty()), &location) {
        (Some(prefix), _) => prefix,
        (None, Some(location)) => location.clone(),
        (None, None) => {
            let place = table.others(&[]).into_iter().next().map(|key| key.place);
            let place = place.unwrap_or_else(|| Place::whole(table.source.path));
            return Err(Note { place, text: "the table has neither prefix nor location".into() });
        }
    };
    let source: SourceScope = prefix.text.trim_end_matches('/').parse().map_err(|error| Note {
        place: prefix.place.clone(),
        text: format!("is no source of images: {error}"),
    })?;
    let location = location.map(|text| Ok::<_, Note>((parse_location(&text)?, text.place))).transpose()?;
    let location = location.filter(|(location, _)| !source.is_at(location));
    let mut insecure = Vec::new();
    if table.truth("insecure")?
        && let Some(at) = location.clone().or_else(|| source_location(&source, &prefix.place))
    {
        insecure.push(at);
    }
    let digests_only = table.truth("mirror-by-digest-only")?;
    let mut mirrors = Vec::new();
    for table in table.tables("mirror")? {
        let mirror = mirror(import, table, digests_only)?;
        if table.truth("insecure")? {
            insecure.push((mirror.location.clone(), mirror.place.clone()));
        }
        mirrors.push(mirror);
    }
    let is_blocked = table.truth("blocked")?;
    Ok(Entry { source, location, mirrors, is_blocked, place: prefix.place, insecure })
}

fn source_location(source: &SourceScope, place: &Place) -> Option<(Location, Place)> {
    let registry = source.registry()?.clone();
    Some((Location { registry, prefix: source.prefix().cloned() }, place.clone()))
}

fn parse_location(text: &Text<'_>) -> Result<Location, Note> {
    text.text
        .trim_end_matches('/')
        .parse()
        .map_err(|error| Note { place: text.place.clone(), text: format!("is no location: {error}") })
}

fn mirror(import: &mut Import, table: Table<'_>, digests_only: bool) -> Result<FoundMirror, Note> {
    for key in table.others(&["location", "insecure", "pull-from-mirror"]) {
        import.note(key.place, format!("{}: unknown here; not carried over", key.text));
    }
    let Some(text) = table.text("location")? else {
        let place = table.others(&[]).into_iter().next().map(|key| key.place);
        let place = place.unwrap_or_else(|| Place::whole(table.source.path));
        return Err(Note { place, text: "the mirror has no location".into() });
    };
    let location = parse_location(&text)?;
    let pull = table.text("pull-from-mirror")?;
    let (digests, tags) = match pull.as_ref().map(|pull| pull.text) {
        Some(_) if digests_only => {
            return Err(Note {
                place: table.place_of("pull-from-mirror"),
                text: "cannot stand beside mirror-by-digest-only; the runtime refuses the file, too".into(),
            });
        }
        None | Some("") => (true, !digests_only),
        Some("all") => (true, true),
        Some("digest-only") => (true, false),
        Some("tag-only") => (false, true),
        Some(other) => {
            return Err(Note {
                place: table.place_of("pull-from-mirror"),
                text: format!("{other:?} is none of \"all\", \"digest-only\" and \"tag-only\""),
            });
        }
    };
    Ok(FoundMirror { location, digests, tags, place: text.place })
}

/// There, a table without mirrors switches off those of the table around it; here, it would inherit them.
fn note_unmirrored_parts(import: &mut Import, entries: &BTreeMap<SourceScope, Entry>) {
    let mirrored: Vec<&Entry> = entries.values().filter(|entry| !entry.mirrors.is_empty()).collect();
    for entry in entries.values().filter(|entry| entry.mirrors.is_empty() && !entry.is_blocked) {
        let around = mirrored.iter().find(|other| lies_in(&entry.source, &other.source));
        if let Some(around) = around {
            let text = format!(
                "{} has no mirrors of its own there, and is asked without any; here, those of {} apply",
                entry.source, around.source
            );
            import.note(entry.place.clone(), text);
        }
    }
}

fn lies_in(part: &SourceScope, whole: &SourceScope) -> bool {
    let Some(registry) = part.registry() else { return false };
    // Any repository below the part stands for it.
    let prefix = part.prefix().map_or_else(|| "x".to_owned(), |prefix| format!("{prefix}/x"));
    prefix.parse().is_ok_and(|repository| {
        whole != part && whole.covers(&shoal_engine::Scope { registry: registry.clone(), repository })
    })
}

fn add(import: &mut Import, entry: Entry) {
    for (location, place) in entry.insecure {
        import.registries.entry(location.registry).or_default().insecure.get_or_insert(place);
    }
    let mut never_contact_source = entry.is_blocked;
    let mut ends_at_substitute = false;
    let mut mirrors = entry.mirrors;
    if entry.is_blocked && mirrors.is_empty() {
        let text = format!(
            "blocked = true: not carried over, as it is no mirror; write [[access.rules]] match = \"{}/**\", action = \"deny\"",
            entry.source
        );
        import.note(entry.place, text);
        return;
    }
    if let Some((location, place)) = entry.location.filter(|_| !entry.is_blocked) {
        // The name of the source is only a name: its content is at the location, and nowhere else.
        mirrors.push(FoundMirror { location, digests: true, tags: true, place });
        (never_contact_source, ends_at_substitute) = (true, true);
    }
    if !mirrors.is_empty() {
        import.sets.push(FoundSet {
            name: entry.source.to_string(),
            source: entry.source,
            mirrors,
            never_contact_source,
            ends_at_substitute,
            is_superseded_kind: false,
            place: entry.place,
        });
    }
}
