//! The `hosts.toml` of one registry.
//!
//! What holds there (`contract.md` 2.1): hosts are asked in the order of the text, `server` after them; without it, the
//! registry itself. A tag needs `pull` and `resolve`, a digest only `pull`.

use std::path::{Path, PathBuf};

use shoal_engine::mirrors::SourceScope;
use shoal_engine::{Location, Registry};
use toml::de::DeValue;

use super::document::{Source, Table, Text};
use super::endpoint::{default_endpoint, take_apart};
use super::{ClientFiles, FoundMirror, FoundSet, Import, Note, Place};

const HOST_KEYS: [&str; 7] =
    ["capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"];

/// What a host may be asked for.
#[derive(Clone, Copy)]
struct Capabilities {
    pull: bool,
    resolve: bool,
}

/// Reads the file of one registry.
pub(super) fn read(import: &mut Import, path: &Path, registry: &Registry, text: &str) {
    let source = Source { path, text };
    let set = source.parse().and_then(|table| {
        let file = Table { source, table: &table };
        let mirrors = hosts(import, file)?;
        server(import, file, registry, mirrors)
    });
    match set {
        Ok(Some(set)) => import.sets.push(set),
        Ok(None) => {}
        Err(problem) => import.problems.push(problem),
    }
}

/// Reads the file that is for every registry without one of its own.
pub(super) fn read_default(import: &mut Import, path: &Path, text: &str) {
    let source = Source { path, text };
    let hosts = source.parse().and_then(|table| hosts(import, Table { source, table: &table }));
    match hosts {
        Ok(hosts) => import.of_every_registry.extend(hosts),
        Err(problem) => import.problems.push(problem),
    }
}

/// The `[host."..."]` tables.
fn hosts(import: &mut Import, file: Table<'_>) -> Result<Vec<FoundMirror>, Note> {
    let known: Vec<&str> = HOST_KEYS.into_iter().chain(["server", "host"]).collect();
    for key in file.others(&known) {
        import.note(key.place, format!("{}: unknown here; not carried over", key.text));
    }
    let mut mirrors = Vec::new();
    for (name, table) in file.named_tables("host")? {
        for key in table.others(&HOST_KEYS) {
            import.note(key.place, format!("{}: unknown here; not carried over", key.text));
        }
        mirrors.extend(host(import, &name, table)?);
    }
    Ok(mirrors)
}

/// One host, if it can be a mirror here.
fn host(import: &mut Import, name: &Text<'_>, table: Table<'_>) -> Result<Option<FoundMirror>, Note> {
    let reached = match take_apart(name.text, table.truth("override_path")?) {
        Ok(reached) => reached,
        Err(why) => {
            import.note(name.place.clone(), format!("a host that {why}; left out"));
            return Ok(None);
        }
    };
    let capabilities = capabilities(import, table)?;
    if !capabilities.pull {
        let text = format!("{}: is not there to pull from; left out", reached.location);
        import.note(name.place.clone(), text);
        return Ok(None);
    }
    if !import.reach(&reached.location.registry, &reached.endpoint, &name.place) {
        return Ok(None);
    }
    settings(import, &reached.location.registry, table)?;
    Ok(Some(FoundMirror {
        location: reached.location,
        digests: true,
        tags: capabilities.resolve,
        place: name.place.clone(),
    }))
}

/// What comes after the hosts.
fn server(
    import: &mut Import,
    file: Table<'_>,
    registry: &Registry,
    mut mirrors: Vec<FoundMirror>,
) -> Result<Option<FoundSet>, Note> {
    let place = Place::whole(file.source.path);
    let source: SourceScope = registry
        .as_str()
        .parse()
        .map_err(|error| Note { place: place.clone(), text: format!("is for no registry: {error}") })?;
    let own = || (Location { registry: registry.clone(), prefix: None }, default_endpoint(registry));
    let server = file.text("server")?.filter(|server| !server.text.is_empty());
    let (location, endpoint) = match &server {
        None => own(),
        Some(server) => match take_apart(server.text, file.truth("override_path")?) {
            Ok(reached) => (reached.location, reached.endpoint),
            Err(why) => {
                let text = format!("a server that {why}; {registry} itself is asked instead");
                import.note(server.place.clone(), text);
                own()
            }
        },
    };
    let place_of_server = server.as_ref().map_or_else(|| place.clone(), |server| server.place.clone());
    settings(import, &location.registry, file)?;
    let is_elsewhere = location.registry != *registry || location.prefix.is_some();
    if server.is_some() && import.reach(&location.registry, &endpoint, &place_of_server) && is_elsewhere {
        // The registry is asked there and not at its own name: the last of the mirrors, and nobody after it.
        mirrors.push(FoundMirror { location, digests: true, tags: true, place: place_of_server });
    }
    Ok((!mirrors.is_empty()).then(|| FoundSet {
        name: registry.to_string(),
        source,
        mirrors,
        never_contact_source: is_elsewhere,
        ends_at_substitute: is_elsewhere,
        is_superseded_kind: false,
        place,
    }))
}

fn capabilities(import: &mut Import, table: Table<'_>) -> Result<Capabilities, Note> {
    let texts = table.texts("capabilities")?;
    if texts.is_empty() {
        return Ok(Capabilities { pull: true, resolve: true });
    }
    let mut found = Capabilities { pull: false, resolve: false };
    for text in texts {
        match text.text.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            // Nothing is pushed through an agent, and who has the referrers follows from who has the tags.
            "push" | "referrers" => {}
            _ => import.note(
                text.place,
                format!("capability {:?}: unknown; containerd ignores a file with such a word", text.text),
            ),
        }
    }
    Ok(found)
}

/// How a host is reached, besides its URL.
fn settings(import: &mut Import, registry: &Registry, table: Table<'_>) -> Result<(), Note> {
    for ca in table.texts("ca")? {
        add_ca(import, registry, beside(table, ca.text), ca.place);
    }
    for client in clients(table)? {
        add_client(import, registry, client, table.place_of("client"));
    }
    if table.truth("skip_verify")? {
        let text = format!("skip_verify: certificates are always verified here; name the CA of {registry}");
        import.note(table.place_of("skip_verify"), text);
    }
    if table.value("header").is_some() {
        let text = format!("headers of {registry}: none can be added to requests here");
        import.note(table.place_of("header"), text);
    }
    if table.value("dial_timeout").is_some() {
        import.note(
            table.place_of("dial_timeout"),
            "dial_timeout: mirrors.connect_timeout is for all mirrors alike; it is not changed",
        );
    }
    Ok(())
}

/// Client certificates: one file, a list of files, or a list of pairs.
fn clients(table: Table<'_>) -> Result<Vec<ClientFiles>, Note> {
    let Some((value, place)) = table.value("client") else { return Ok(Vec::new()) };
    let clients = match value {
        DeValue::Array(list) => list.iter().map(|value| client(table, value.get_ref())).collect(),
        _ => client(table, value).map(|client| vec![client]),
    };
    let text = "client must be a file, a list of files, or a list of pairs of files";
    clients.ok_or_else(|| Note { place, text: text.into() })
}

fn client(table: Table<'_>, value: &DeValue<'_>) -> Option<ClientFiles> {
    let (certificate, key) = match value {
        DeValue::Array(pair) if pair.len() == 2 => (pair[0].get_ref().as_str()?, pair[1].get_ref().as_str()?),
        _ => (value.as_str()?, value.as_str()?),
    };
    Some(ClientFiles { certificate: beside(table, certificate), key: beside(table, key) })
}

/// A file that is named in another one, whose folder it is looked for in.
fn beside(table: Table<'_>, path: &str) -> PathBuf {
    let path = table.source.path.with_file_name(path);
    std::path::absolute(&path).unwrap_or(path)
}

/// A registry has one file of CAs here; the first is taken.
pub(super) fn add_ca(import: &mut Import, registry: &Registry, path: PathBuf, place: Place) {
    let known = &mut import.registries.entry(registry.clone()).or_default().ca;
    match known {
        Some(first) if *first != path => {
            let text = format!(
                "{}: {registry} has {} already; put all certificates into one file",
                path.display(),
                first.display()
            );
            import.note(place, text);
        }
        _ => *known = Some(path),
    }
}

/// A registry has one client certificate here; the first is taken.
pub(super) fn add_client(import: &mut Import, registry: &Registry, files: ClientFiles, place: Place) {
    let known = &mut import.registries.entry(registry.clone()).or_default().client;
    match known {
        Some(first) if *first != files => {
            let text = format!(
                "{}: {registry} has the client certificate {} already, and can have one",
                files.certificate.display(),
                first.certificate.display()
            );
            import.note(place, text);
        }
        _ => *known = Some(files),
    }
}
