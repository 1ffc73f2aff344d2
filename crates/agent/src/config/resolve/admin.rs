//! The admin API: where it is, and what it needs to be served to other machines. The files are read here, so that an agent
//! that could not serve it does not start.

use std::path::{Path, PathBuf};

use super::ports::Ports;
use super::{Findings, quoted, socket};
use crate::admin::remote::{Material, RemoteSettings};
use crate::config::schema;

/// `None` where it is not served to others. `ports` are all others of this agent.
pub(super) fn resolve(
    admin: &schema::Admin,
    ports: &mut Ports,
    found: &mut Findings<'_, '_>,
) -> Option<RemoteSettings> {
    socket(&admin.socket, found);
    let files = [
        ("admin.certificate", &admin.certificate),
        ("admin.key", &admin.key),
        ("admin.token_file", &admin.token_file),
    ];
    let Some(text) = &admin.address else {
        for (key, path) in files {
            if let Some(path) = path {
                let remedy = "is for the port that admin.address names, which is missing";
                found.add(key, Some(quoted(&path.to_string_lossy())), remedy);
            }
        }
        return None;
    };
    let address = found.address("admin.address", Some(text));
    if let Some(address) = address {
        ports.take("admin.address", address, found);
    }
    let [certificate, key, token_file] = files.map(|(key, path)| named(key, path.as_deref(), found));
    let settings =
        RemoteSettings { address: address?, certificate: certificate?, key: key?, token_file: token_file? };
    match Material::read(&settings) {
        Ok(_) => Some(settings),
        Err(error) => {
            found.add(error.key, Some(quoted(&error.path.to_string_lossy())), error.reason);
            None
        }
    }
}

fn named(key: &'static str, path: Option<&Path>, found: &mut Findings<'_, '_>) -> Option<PathBuf> {
    match path {
        Some(path) => found.absolute(key, path).then(|| path.to_owned()),
        None => {
            let remedy = "is missing; the admin API is served to others only with TLS and a token";
            found.add(key, None, remedy);
            None
        }
    }
}
