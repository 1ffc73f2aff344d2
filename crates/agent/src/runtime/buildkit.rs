//! buildkitd: the `mirrors` of each registry in `buildkitd.toml` (`contract.md` 3.3).

use toml::{Table, Value};

use super::{Finding, Mirrored, Own, Root, Runtime, Trap};

pub(super) fn inspect(root: &Root, own: &Own, runtime: &mut Runtime) {
    let file = runtime.config.clone();
    let document = match root.read(&file).map(|text| text.map(|text| text.parse::<Table>())) {
        Ok(None) => return,
        Ok(Some(Ok(document))) => document,
        Ok(Some(Err(error))) => {
            let why = error.message().to_owned();
            return runtime.findings.push(Finding::new(&file, Trap::Unreadable { why }));
        }
        Err(error) => {
            let why = error.to_string();
            return runtime.findings.push(Finding::new(&file, Trap::Unreadable { why }));
        }
    };
    let registries = document.get("registry").and_then(Value::as_table).into_iter().flatten();
    for (registry, settings) in registries {
        let list = settings.get("mirrors").and_then(Value::as_array).into_iter().flatten();
        let hosts: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
        if hosts.is_empty() {
            continue;
        }
        let place = hosts.iter().position(|host| own.has(host));
        if place.is_some_and(|place| place > 0) {
            runtime.findings.push(Finding::new(&file, Trap::NotFirst { before: hosts[0].clone() }));
        }
        runtime.mirrors.push(Mirrored { registry: registry.clone(), file: file.clone(), hosts, own: place });
    }
}
