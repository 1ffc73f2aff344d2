//! containerd's folder of hosts: one folder for each registry, with a `hosts.toml` or certificates in it.
//!
//! What holds there (`contract.md` 2.1): of `<host>_<port>_` and `<host>:<port>` the first that exists is taken; `_default`
//! stands for every registry without a folder; without `hosts.toml` the certificates are for the registry itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shoal_engine::Registry;

use super::hosts_toml::{self, add_ca, add_client};
use super::{ClientFiles, Import, Place};

/// The file in a registry's folder.
pub(crate) const HOSTS_FILE: &str = "hosts.toml";
/// The folder of every registry without one of its own.
pub(crate) const DEFAULT_FOLDER: &str = "_default";

pub(super) fn read(import: &mut Import, root: &Path) {
    let mut folders: BTreeMap<Registry, PathBuf> = BTreeMap::new();
    // Sorted backwards, `_` stands before `:`, and the first is taken.
    for folder in import.entries(root).into_iter().rev().filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == DEFAULT_FOLDER {
            if let Some((path, text)) = hosts_file(import, &folder) {
                hosts_toml::read_default(import, &path, &text);
            }
            continue;
        }
        let registry: Registry = match registry_name(&name).parse() {
            Ok(registry) => registry,
            Err(error) => {
                import.note(Place::whole(&folder), format!("is no registry's folder: {error}"));
                continue;
            }
        };
        match folders.get(&registry) {
            Some(first) => {
                let text = format!("is for the same registry as {}, which goes before it", first.display());
                import.note(Place::whole(&folder), text);
            }
            None => drop(folders.insert(registry, folder)),
        }
    }
    for (registry, folder) in folders {
        match hosts_file(import, &folder) {
            Some((path, text)) => hosts_toml::read(import, &path, &registry, &text),
            None => certificates(import, &registry, &folder),
        }
    }
}

/// The registry that a folder is for: a colon may be written as `_`, with another `_` at the end.
pub(crate) fn registry_name(folder: &str) -> String {
    let with_port = folder.strip_suffix('_').and_then(|name| name.rsplit_once('_'));
    match with_port {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}:{port}")
        }
        _ => folder.to_owned(),
    }
}

/// The file of hosts, if there is one with something in it.
fn hosts_file(import: &mut Import, folder: &Path) -> Option<(PathBuf, String)> {
    let path = folder.join(HOSTS_FILE);
    if !path.exists() {
        return None;
    }
    let text = import.read(&path)?;
    (!text.is_empty()).then_some((path, text))
}

/// Docker's layout: `*.crt` are CAs, `*.cert` with `*.key` are client certificates.
fn certificates(import: &mut Import, registry: &Registry, folder: &Path) {
    let files = import.entries(folder);
    let with = |extension: &str| {
        files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .cloned()
            .collect::<Vec<_>>()
    };
    for ca in with("crt") {
        add_ca(import, registry, ca, Place::whole(folder));
    }
    for certificate in with("cert") {
        let key = certificate.with_extension("key");
        // A certificate without a key beside it has the key in the same file.
        let key = if key.exists() { key } else { certificate.clone() };
        add_client(import, registry, ClientFiles { certificate, key }, Place::whole(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_their_registries() {
        for (folder, registry) in [
            ("docker.io", "docker.io"),
            ("m.test_5000_", "m.test:5000"),
            ("m.test:5000", "m.test:5000"),
            ("my_host", "my_host"),
            ("my_host_", "my_host_"),
            ("_default", "_default"),
        ] {
            assert_eq!(registry_name(folder), registry);
        }
    }
}
