//! The swarm: its secrets are read here, so that an agent that could not join does not start.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use shoal_engine::limits::{LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, ZONE_BYTES_MAX};
use shoal_net::discovery::Target;
use shoal_net::{Admission, Secret};

use super::{Findings, quoted};
use crate::config::{regular, schema};
use crate::rate::Throttle;
use crate::swarm::SwarmSettings;

/// File in the data directory with the agent's key.
const IDENTITY_FILE: &str = "identity.pem";
/// Most bytes that are read of a secret's file: more is not a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// `None` for an agent that works alone.
pub(super) fn resolve(file: &schema::File, found: &mut Findings<'_, '_>) -> Option<SwarmSettings> {
    let swarm = &file.swarm;
    let listen = addresses("swarm.listen", &swarm.listen, found);
    let advertise = addresses("swarm.advertise", &swarm.advertise, found);
    if swarm.listen.is_empty() {
        let remedy = "without an address no other agent can connect; leave the key out for 0.0.0.0";
        found.add("swarm.listen", Some("[]".into()), remedy);
    }
    if swarm.port == swarm.data_port && swarm.port != 0 {
        let remedy = "must differ from swarm.port: the two are ports of their own";
        found.add("swarm.data_port", Some(swarm.data_port.to_string()), remedy);
    }
    let join = join(swarm, found);
    labels(swarm, found);
    found.rate("swarm.upload_rate", swarm.upload_rate);
    found.rate("swarm.download_rate", swarm.download_rate);
    let Some(path) = &swarm.secret_file else {
        if !swarm.join.is_empty() || swarm.mdns || swarm.other_secret_file.is_some() {
            let remedy = "is missing: agents talk only to those that have the cluster's secret; make one with \
                `openssl rand -hex 32`, the same for all";
            found.add("swarm.secret_file", None, remedy);
        }
        return None;
    };
    let first = secret("swarm.secret_file", path, found);
    let other = swarm.other_secret_file.as_deref();
    let other = other.map(|path| secret("swarm.other_secret_file", path, found));
    let admission = match (first?, other) {
        (_, Some(None)) => return None,
        (first, Some(Some(other))) => Admission::new(first, Some(other)),
        (first, None) => Admission::new(first, None),
    };
    Some(SwarmSettings {
        identity: file.store.path.join(IDENTITY_FILE),
        admission: Arc::new(admission),
        secret_file: path.clone(),
        listen,
        port: swarm.port,
        data_port: swarm.data_port,
        advertise,
        join,
        mdns: swarm.mdns,
        zone: swarm.zone.clone(),
        labels: swarm.labels.clone(),
        upload: Throttle::new(swarm.upload_rate.map(|rate| rate.0)),
        download: Throttle::new(swarm.download_rate.map(|rate| rate.0)),
    })
}

fn secret(key: &str, path: &Path, found: &mut Findings<'_, '_>) -> Option<Secret> {
    if !found.absolute(key, path) {
        return None;
    }
    let shown = quoted(&path.to_string_lossy());
    let content = match regular::read(path, SECRET_BYTES_MAX) {
        Ok(content) => content,
        Err(error) => {
            found.add(key, Some(shown), format!("cannot be read: {error}"));
            return None;
        }
    };
    match Secret::new(&content) {
        Ok(secret) => Some(secret),
        Err(error) => {
            found.add(key, Some(shown), error.to_string());
            None
        }
    }
}

fn addresses(key: &str, written: &[String], found: &mut Findings<'_, '_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                let remedy = "must be an IP address without a port, such as \"10.0.0.7\" or \"fd00::7\"";
                found.add(&format!("{key}[{index}]"), Some(quoted(text)), remedy);
            }
        }
    }
    addresses
}

fn join(swarm: &schema::Swarm, found: &mut Findings<'_, '_>) -> Vec<Target> {
    let default_port = if swarm.port == 0 { schema::Swarm::default().port } else { swarm.port };
    let mut targets = Vec::new();
    for (index, text) in swarm.join.iter().enumerate() {
        match Target::parse(text, default_port) {
            Ok(target) => targets.push(target),
            Err(error) => {
                found.add(&format!("swarm.join[{index}]"), Some(quoted(text)), error.to_string());
            }
        }
    }
    targets
}

fn labels(swarm: &schema::Swarm, found: &mut Findings<'_, '_>) {
    if swarm.zone.len() > ZONE_BYTES_MAX {
        let remedy = format!("must have at most {ZONE_BYTES_MAX} bytes");
        found.add("swarm.zone", Some(quoted(&swarm.zone)), remedy);
    }
    if swarm.labels.len() > LABELS_MAX {
        let remedy = format!("must be at most {LABELS_MAX}");
        found.add("swarm.labels", Some(swarm.labels.len().to_string()), remedy);
    }
    for (key, value) in &swarm.labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX || value.len() > LABEL_VALUE_BYTES_MAX {
            let remedy = format!(
                "a key must have 1 to {LABEL_KEY_BYTES_MAX} bytes, a value at most {LABEL_VALUE_BYTES_MAX}"
            );
            found.add(&format!("swarm.labels.{key}"), Some(quoted(value)), remedy);
        }
    }
}
