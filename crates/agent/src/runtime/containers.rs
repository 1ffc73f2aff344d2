//! CRI-O, podman, buildah and skopeo: `registries.conf` and its drop-ins (`contract.md` 3.1). The longest prefix decides
//! alone, and a later file replaces an earlier one's table for the same prefix.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Finding, Mirrored, Own, Root, Runtime, Trap};

const MAIN: &str = "/etc/containers/registries.conf";
const DROP_INS: &str = "/etc/containers/registries.conf.d";

/// What is said about one prefix, and where.
pub(super) type Tables = BTreeMap<String, (PathBuf, Table)>;

/// The tables of the files that are wanted, and the files that cannot be read.
pub(super) fn read(root: &Root, is_wanted: &dyn Fn(&Path) -> bool) -> (Tables, Vec<Finding>) {
    let (mut tables, mut findings) = (Tables::new(), Vec::new());
    let is_drop_in = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    let drop_ins = root.entries(Path::new(DROP_INS)).into_iter().filter(is_drop_in);
    for path in [PathBuf::from(MAIN)].into_iter().chain(drop_ins).filter(|path| is_wanted(path)) {
        match root.read(&path).map(|text| text.map(|text| text.parse::<Table>())) {
            Ok(None) => {}
            Ok(Some(Ok(file))) => tables_of(&path, &file, &mut tables),
            Ok(Some(Err(error))) => {
                findings.push(Finding::new(&path, Trap::Unreadable { why: error.message().to_owned() }));
            }
            Err(error) => findings.push(Finding::new(&path, Trap::Unreadable { why: error.to_string() })),
        }
    }
    (tables, findings)
}

fn tables_of(path: &Path, file: &Table, into: &mut Tables) {
    let list = file.get("registry").and_then(Value::as_array).into_iter().flatten();
    for table in list.filter_map(Value::as_table) {
        let text = |key: &str| table.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(prefix) = text("prefix").or_else(|| text("location")) else { continue };
        // In one file, the first of two is the one that is found.
        let is_second = into.get(prefix).is_some_and(|(known, _)| known == path);
        if !is_second {
            into.insert(prefix.to_owned(), (path.to_owned(), table.clone()));
        }
    }
}

/// The mirrors of a table, in their order.
pub(super) fn mirrors(table: &Table) -> Vec<String> {
    let list = table.get("mirror").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|mirror| mirror.get("location")?.as_str()).map(str::to_owned).collect()
}

pub(super) fn inspect(root: &Root, own: &Own, runtime: &mut Runtime) {
    let (tables, findings) = read(root, &|_| true);
    runtime.findings = findings;
    for (prefix, (file, table)) in &tables {
        let hosts = mirrors(table);
        let place = hosts.iter().position(|host| own.has(host));
        if place.is_some_and(|place| place > 0) {
            runtime.findings.push(Finding::new(file, Trap::NotFirst { before: hosts[0].clone() }));
        }
        runtime.mirrors.push(Mirrored { registry: prefix.clone(), file: file.clone(), hosts, own: place });
    }
    let ours: Vec<&Mirrored> = runtime.mirrors.iter().filter(|mirrored| mirrored.own.is_some()).collect();
    let hidden = runtime.mirrors.iter().filter(|mirrored| mirrored.own.is_none()).filter_map(|mirrored| {
        let is_around = |around: &&&Mirrored| {
            mirrored.registry.strip_prefix(&around.registry).is_some_and(|rest| rest.starts_with('/'))
        };
        let around = ours.iter().find(is_around)?;
        let (prefix, registry) = (mirrored.registry.clone(), around.registry.clone());
        Some(Finding::new(&mirrored.file, Trap::HidesRegistry { prefix, registry }))
    });
    let hidden: Vec<Finding> = hidden.collect();
    runtime.findings.extend(hidden);
}
