//! The docker engine: `registry-mirrors` of `daemon.json`, which are for Docker Hub alone (`contract.md` 3.2).

use serde_json::Value;

use super::{Finding, Mirrored, Own, Root, Runtime, Trap};

pub(super) const HUB: &str = "docker.io";
pub(super) const KEY: &str = "registry-mirrors";

pub(super) fn inspect(root: &Root, own: &Own, runtime: &mut Runtime) {
    let file = runtime.config.clone();
    let document = match root.read(&file) {
        Ok(None) => return,
        Ok(Some(text)) if text.trim().is_empty() => return,
        Ok(Some(text)) => serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let document = match document {
        Ok(document) => document,
        Err(why) => return runtime.findings.push(Finding::new(&file, Trap::Unreadable { why })),
    };
    let list = document.get(KEY).and_then(Value::as_array).into_iter().flatten();
    let hosts: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    if hosts.is_empty() {
        return;
    }
    let place = hosts.iter().position(|host| own.has(host));
    if place.is_some_and(|place| place > 0) {
        runtime.findings.push(Finding::new(&file, Trap::NotFirst { before: hosts[0].clone() }));
    }
    runtime.mirrors.push(Mirrored { registry: HUB.into(), file, hosts, own: place });
}
