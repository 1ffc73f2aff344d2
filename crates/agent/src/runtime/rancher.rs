//! k3s and RKE2: `registries.yaml`, from which folders of hosts for their containerd are made at each start. What counts is
//! what has been made.

use std::path::PathBuf;

use serde_json::Value;

use super::{EVERY_REGISTRY, Finding, Kind, Mirrored, Own, Root, Runtime, Trap, hosts};

/// Where the service keeps what it has made.
fn made(kind: Kind) -> PathBuf {
    PathBuf::from(format!("/var/lib/rancher/{kind}/agent/etc/containerd/certs.d"))
}

/// The document as it is; an empty one is an empty table.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(if value.is_null() { Value::Object(serde_json::Map::new()) } else { value })
}

pub(super) fn inspect(root: &Root, own: &Own, runtime: &mut Runtime) {
    let file = runtime.config.clone();
    let document = match root.read(&file) {
        Ok(None) => return,
        Ok(Some(text)) => parse(&text),
        Err(error) => Err(error.to_string()),
    };
    let document = match document {
        Ok(document) => document,
        Err(why) => return runtime.findings.push(Finding::new(&file, Trap::Unreadable { why })),
    };
    let mirrors = document.get("mirrors").and_then(Value::as_object).into_iter().flatten();
    for (registry, settings) in mirrors {
        let list = settings.get("endpoint").and_then(Value::as_array).into_iter().flatten();
        let hosts: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
        let place = hosts.iter().position(|host| own.has(host));
        if place.is_some_and(|place| place > 0) {
            runtime.findings.push(Finding::new(&file, Trap::NotFirst { before: hosts[0].clone() }));
        }
        runtime.mirrors.push(Mirrored { registry: registry.clone(), file: file.clone(), hosts, own: place });
    }
    let by_default = runtime.mirrors.iter().any(|m| m.registry == EVERY_REGISTRY && m.own.is_some());
    for mirrored in runtime.mirrors.iter().filter(|mirrored| by_default && mirrored.own.is_none()) {
        let registry = mirrored.registry.clone();
        runtime.findings.push(Finding::new(&file, Trap::HidesDefault { registry }));
    }
    note_what_is_not_applied(root, own, runtime);
}

/// Whether what has been made has the agent where the file has it, and only there.
fn note_what_is_not_applied(root: &Root, own: &Own, runtime: &mut Runtime) {
    let folder = made(runtime.kind);
    if !root.is_dir(&folder) {
        return;
    }
    let of = |mirrored: &[Mirrored]| -> Vec<String> {
        let ours = mirrored.iter().filter(|mirrored| mirrored.own.is_some());
        let mut registries: Vec<String> = ours.map(|mirrored| mirrored.registry.clone()).collect();
        registries.sort();
        registries
    };
    if of(&hosts::read(root, &folder, own, None).mirrored) != of(&runtime.mirrors) {
        let service = runtime.kind.to_string();
        runtime.findings.push(Finding::new(&runtime.config, Trap::NotApplied { service }));
    }
}
