//! containerd's folders of hosts as they are: who is asked for a registry, in which order, and what makes containerd pass a
//! file by without a word.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::{EVERY_REGISTRY, Finding, Mirrored, Own, Root, Trap, Version};
use crate::import::document::{Source, Table};
use crate::import::hosts_dir::{DEFAULT_FOLDER, HOSTS_FILE, registry_name};

const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];

/// What a folder of folders says.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    pub mirrored: Vec<Mirrored>,
    pub findings: Vec<Finding>,
}

/// Reads all folders in `dir`.
pub(super) fn read(root: &Root, dir: &Path, own: &Own, version: Option<Version>) -> Hosts {
    let mut hosts = Hosts::default();
    for folder in root.entries(dir).into_iter().filter(|path| root.is_dir(path)) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let registry =
            if name == DEFAULT_FOLDER { EVERY_REGISTRY.to_owned() } else { registry_name(&name).to_owned() };
        folder_of(root, &folder, registry, own, version, &mut hosts);
    }
    // A folder of its own hides what is said for every registry.
    let default_is_ours = hosts.mirrored.iter().any(|m| m.registry == EVERY_REGISTRY && m.own.is_some());
    if default_is_ours {
        for mirrored in hosts.mirrored.iter().filter(|mirrored| mirrored.own.is_none()) {
            hosts.findings.push(Finding::new(
                &mirrored.file,
                Trap::HidesDefault { registry: mirrored.registry.clone() },
            ));
        }
    }
    hosts
}

fn folder_of(
    root: &Root,
    folder: &Path,
    registry: String,
    own: &Own,
    version: Option<Version>,
    into: &mut Hosts,
) {
    let file = folder.join(HOSTS_FILE);
    let mut found = Mirrored { registry, file: file.clone(), hosts: Vec::new(), own: None };
    match root.read(&file) {
        // An empty file is as good as none.
        Ok(text) if text.as_deref().unwrap_or_default().is_empty() => found.file = folder.to_owned(),
        Ok(text) => match entries(&file, &text.unwrap_or_default(), version) {
            Ok(entries) => {
                into.findings.extend(entries.iter().filter_map(|entry| entry.tls_on_http(&file)));
                found.own = entries.iter().position(|entry| own.has(&entry.host));
                if let Some(place) = found.own {
                    into.findings.extend(entries[place].lacks(&file));
                    if place > 0 {
                        let before = entries[0].host.clone();
                        into.findings.push(Finding::new(&file, Trap::NotFirst { before }));
                    }
                }
                found.hosts = entries.into_iter().map(|entry| entry.host).collect();
            }
            Err(trap) => into.findings.push(Finding::new(&file, trap)),
        },
        Err(error) => into.findings.push(Finding::new(&file, Trap::Unreadable { why: error.to_string() })),
    }
    into.mirrored.push(found);
}

/// A host of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// As it is written.
    pub host: String,
    /// None are all.
    pub capabilities: Option<Vec<String>>,
    has_tls_settings: bool,
}

impl Host {
    /// Whether it can be asked for tags and digests.
    pub fn is_whole_mirror(&self) -> bool {
        let has =
            |wanted: &str| self.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == wanted));
        has("pull") && has("resolve")
    }

    fn lacks(&self, file: &Path) -> Option<Finding> {
        let host = self.host.clone();
        (!self.is_whole_mirror()).then(|| Finding::new(file, Trap::LacksCapability { host }))
    }

    fn tls_on_http(&self, file: &Path) -> Option<Finding> {
        let is_trap = self.has_tls_settings && self.host.starts_with("http://");
        is_trap.then(|| Finding::new(file, Trap::TlsOnHttp { host: self.host.clone() }))
    }
}

/// The hosts of a file in the order in which they are asked; the registry itself comes after them.
pub(super) fn entries(path: &Path, text: &str, version: Option<Version>) -> Result<Vec<Host>, Trap> {
    let source = Source { path, text };
    let unreadable =
        |note: crate::import::Note| Trap::Unreadable { why: format!("{}: {}", place(&note), note.text) };
    let table = source.parse().map_err(unreadable)?;
    let file = Table { source, table: &table };
    known_capabilities(file, version)?;
    let mut hosts = Vec::new();
    for (name, table) in file.named_tables("host").map_err(unreadable)? {
        let capabilities = known_capabilities(table, version)?;
        let is_set =
            |key: &str| table.value(key).is_some_and(|(value, _)| !matches!(value, DeValue::Boolean(false)));
        let has_tls_settings = ["skip_verify", "ca", "client"].into_iter().any(is_set);
        hosts.push(Host { host: name.text.to_owned(), capabilities, has_tls_settings });
    }
    Ok(hosts)
}

/// The capabilities of a table; an unknown one makes containerd pass by the whole file.
fn known_capabilities(table: Table<'_>, version: Option<Version>) -> Result<Option<Vec<String>>, Trap> {
    if table.value("capabilities").is_none() {
        return Ok(None);
    }
    let wrong =
        |note: crate::import::Note| Trap::Unreadable { why: format!("{}: {}", place(&note), note.text) };
    let said = table.texts("capabilities").map_err(wrong)?;
    for capability in &said {
        let is_newer = capability.text == "referrers";
        let is_known = CAPABILITIES.contains(&capability.text)
            || is_newer && version.is_none_or(|version| version >= Version::LIST_BY_DEFAULT);
        if !is_known {
            return Err(Trap::UnknownCapability { capability: capability.text.to_owned() });
        }
    }
    Ok(Some(said.into_iter().map(|text| text.text.to_owned()).collect()))
}

fn place(note: &crate::import::Note) -> String {
    note.place.at.map_or_else(|| "the file".into(), |(line, column)| format!("line {line}, column {column}"))
}

/// The folder of a registry in `dir`: one that is there, in the order in which containerd looks, or the one to make.
pub(super) fn folder_for(root: &Root, dir: &Path, registry: &str) -> PathBuf {
    if registry == EVERY_REGISTRY {
        return dir.join(DEFAULT_FOLDER);
    }
    let written = registry.rsplit_once(':').map(|(host, port)| dir.join(format!("{host}_{port}_")));
    written.filter(|written| root.is_dir(written)).unwrap_or_else(|| dir.join(registry))
}
