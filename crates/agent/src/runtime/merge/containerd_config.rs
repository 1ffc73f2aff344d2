//! containerd's own configuration: `config_path` of the plugin that pulls for CRI.

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::MergeError;
use crate::runtime::containerd::section;

const KEY: &str = "config_path";

pub(super) fn add(text: &str, format: i64, hosts_dir: &str) -> Result<String, MergeError> {
    let mut document = parse(text)?;
    if text.trim().is_empty() && format > 1 {
        document.insert("version", value(format));
    }
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in path(format) {
        let made = || {
            let mut table = Table::new();
            table.set_implicit(name != "registry");
            Item::Table(table)
        };
        let next = table.entry(name).or_insert_with(made).as_table_like_mut();
        table = next.ok_or(MergeError::Form("a section of the plugin is no table"))?;
    }
    if table.get(KEY).and_then(Item::as_str) == Some(hosts_dir) {
        return Ok(text.to_owned());
    }
    match table.get_mut(KEY).and_then(Item::as_value_mut) {
        // What stands around the value, as a comment behind it, stays.
        Some(known) => {
            let around = known.decor().clone();
            *known = hosts_dir.into();
            *known.decor_mut() = around;
        }
        None => drop(table.insert(KEY, value(hosts_dir))),
    }
    Ok(document.to_string())
}

pub(super) fn remove(text: &str, before: &str) -> Result<String, MergeError> {
    let (mut document, earlier) = (parse(text)?, parse(before)?);
    let format = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    let names: Vec<&str> = path(format).collect();
    let known = names.iter().try_fold(earlier.as_item(), |item, name| item.get(*name));
    let known = known.and_then(|table| table.get(KEY)?.as_str()).map(str::to_owned);
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in names {
        let Some(next) = table.get_mut(name).and_then(Item::as_table_like_mut) else {
            return Ok(text.to_owned());
        };
        table = next;
    }
    match known {
        Some(known) => drop(table.insert(KEY, value(known))),
        None => drop(table.remove(KEY)),
    }
    Ok(document.to_string())
}

fn path(format: i64) -> impl Iterator<Item = &'static str> {
    section(format).iter().copied().chain(["registry"])
}

fn parse(text: &str) -> Result<DocumentMut, MergeError> {
    text.parse().map_err(|error: toml_edit::TomlError| MergeError::Unreadable(error.message().to_owned()))
}
