//! A drop-in of `registries.conf` that is ours as a whole. A table there replaces the one for the same prefix in earlier
//! files, so it says all that the earlier one said, and the agent before the mirrors.

use toml::{Table, Value};
use toml_edit::DocumentMut;

use super::{MergeError, without_scheme};

const HEAD: &str = "# Written by `shoal runtime install`, taken away by `shoal runtime uninstall`. Each table says what the files before this one\n# say about its prefix, and the agent before their mirrors.\n\n";

pub(super) fn add(text: &str, mirror: &str, tables: &[Table]) -> Result<String, MergeError> {
    if !text.is_empty() {
        return Err(MergeError::Foreign);
    }
    let tables = tables.iter().map(|table| Value::Table(with(table, mirror))).collect();
    let document = Table::from_iter([("registry".to_owned(), Value::Array(tables))]);
    let text = toml::to_string(&document).map_err(|error| MergeError::Unreadable(error.to_string()))?;
    Ok(format!("{HEAD}{text}"))
}

fn with(table: &Table, mirror: &str) -> Table {
    let mut table = table.clone();
    let text = |key: &str| table.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    // The content is where the location says; the prefix is only what users write.
    let content = text("location").or_else(|| text("prefix")).unwrap_or_default().to_owned();
    let location = format!("{}/{}", without_scheme(mirror), as_path(&content));
    let mut ours = Table::new();
    ours.insert("location".into(), location.into());
    ours.insert("insecure".into(), mirror.starts_with("http://").into());
    let others = table.remove("mirror").and_then(|mirrors| mirrors.as_array().cloned()).unwrap_or_default();
    let is_ours =
        |other: &Value| other.get("location").and_then(Value::as_str).is_some_and(|at| is_at(at, mirror));
    let others = others.into_iter().filter(|other| !is_ours(other));
    table.insert("mirror".into(), Value::Array([Value::Table(ours)].into_iter().chain(others).collect()));
    table
}

/// A location as the first components of a path: image references allow no colon there.
fn as_path(location: &str) -> String {
    let (registry, rest) =
        location.split_once('/').map_or((location, None), |(head, rest)| (head, Some(rest)));
    let registry = registry.replace(':', "__");
    rest.map_or_else(|| registry.clone(), |rest| format!("{registry}/{rest}"))
}

fn is_at(location: &str, mirror: &str) -> bool {
    location.strip_prefix(without_scheme(mirror)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn remove(text: &str, mirror: &str) -> Result<String, MergeError> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| MergeError::Unreadable(error.message().to_owned()))?;
    let registries = document.get_mut("registry").and_then(|item| item.as_array_of_tables_mut());
    for table in registries.into_iter().flat_map(|tables| tables.iter_mut()) {
        let mirrors = table.get_mut("mirror").and_then(|item| item.as_array_of_tables_mut());
        if let Some(mirrors) = mirrors {
            let location = |mirror: &toml_edit::Table| mirror.get("location")?.as_str().map(str::to_owned);
            mirrors.retain(|other| !location(other).is_some_and(|at| is_at(&at, mirror)));
        }
    }
    Ok(document.to_string())
}
