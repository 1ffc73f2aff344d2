//! `buildkitd.toml`: the agent first in `mirrors` of each registry, and `http` for a registry that speaks nothing else.

use std::collections::BTreeSet;

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::{MergeError, without_scheme};

const HTTP: &str = "http";

pub(super) fn add(
    text: &str,
    mirror: &str,
    registries: &[String],
    plain: &BTreeSet<String>,
) -> Result<String, MergeError> {
    let mut document = parse(text)?;
    let own = without_scheme(mirror);
    for registry in registries {
        let settings = table(&mut document, registry)?;
        if plain.contains(registry) && !is_here(registry) && !settings.contains_key(HTTP) {
            settings.insert(HTTP, true.into());
        }
        let mirrors = settings.entry("mirrors").or_insert_with(|| Array::new().into());
        let mirrors = mirrors.as_array_mut().ok_or(MergeError::Form("mirrors is no list"))?;
        if mirrors.get(0).is_some_and(|first| is_at(first, own)) {
            continue;
        }
        mirrors.retain(|other| !is_at(other, own));
        if let Some(second) = mirrors.get_mut(0).map(Value::decor_mut)
            && second.prefix().and_then(toml_edit::RawString::as_str).unwrap_or_default().is_empty()
        {
            second.set_prefix(" ");
        }
        mirrors.insert(0, own);
    }
    if mirror.starts_with("http://") && !is_here(own) {
        table(&mut document, own)?.insert(HTTP, true.into());
    }
    Ok(document.to_string())
}

pub(super) fn remove(text: &str, mirror: &str, before: &str) -> Result<String, MergeError> {
    let (mut document, before) = (parse(text)?, parse(before)?);
    let own = without_scheme(mirror);
    let Some(registries) = document.get_mut("registry").and_then(Item::as_table_like_mut) else {
        return Ok(text.to_owned());
    };
    let mut emptied = vec![own.to_owned()];
    for (name, settings) in registries.iter_mut() {
        let Some(settings) = settings.as_table_like_mut() else { continue };
        let Some(mirrors) = settings.get_mut("mirrors").and_then(Item::as_array_mut) else { continue };
        let count = mirrors.len();
        mirrors.retain(|other| !is_at(other, own));
        if mirrors.is_empty() && count > 0 {
            settings.remove("mirrors");
            // Alone, and not there before the agent came: it is ours.
            let had = before.get("registry").and_then(|all| all.get(name.get())?.get(HTTP));
            if had.is_none() && settings.len() == 1 {
                settings.remove(HTTP);
            }
            if settings.is_empty() {
                emptied.push(name.get().to_owned());
            }
        }
    }
    emptied.iter().for_each(|name| drop(registries.remove(name)));
    Ok(document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, MergeError> {
    text.parse().map_err(|error: toml_edit::TomlError| MergeError::Unreadable(error.message().to_owned()))
}

/// The table of a registry; made if it is not there.
fn table<'d>(document: &'d mut DocumentMut, registry: &str) -> Result<&'d mut dyn TableLike, MergeError> {
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let registries = document.entry("registry").or_insert_with(implicit);
    let registries = registries.as_table_like_mut().ok_or(MergeError::Form("registry is no table"))?;
    let settings = registries.entry(registry).or_insert_with(|| Item::Table(Table::new()));
    settings.as_table_like_mut().ok_or(MergeError::Form("a registry is no table"))
}

/// Whether buildkit speaks plain HTTP to a host without being told: one on this machine.
fn is_here(host: &str) -> bool {
    host.starts_with("127.") || host == "localhost" || host.starts_with("localhost:")
}

fn is_at(value: &Value, own: &str) -> bool {
    value.as_str().is_some_and(|text| without_scheme(text) == own)
}
