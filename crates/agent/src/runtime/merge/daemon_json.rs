//! docker's `daemon.json`: the agent first in `registry-mirrors`, every other key in its place.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{MergeError, without_scheme};
use crate::runtime::docker::KEY;

pub(super) fn add(text: &str, mirror: &str) -> Result<String, MergeError> {
    let mut document = parse(text)?;
    let mut mirrors = mirrors(&document)?;
    if mirrors.first().is_some_and(|first| is_at(first, mirror)) {
        return Ok(text.to_owned());
    }
    mirrors.retain(|other| !is_at(other, mirror));
    mirrors.insert(0, mirror.into());
    let mirrors = Value::Array(mirrors);
    match document.0.iter_mut().find(|(key, _)| key == KEY) {
        Some((_, value)) => *value = mirrors,
        None => document.0.push((KEY.into(), mirrors)),
    }
    print(&document)
}

pub(super) fn remove(text: &str, mirror: &str) -> Result<String, MergeError> {
    let mut document = parse(text)?;
    let mut mirrors = mirrors(&document)?;
    let count = mirrors.len();
    mirrors.retain(|other| !is_at(other, mirror));
    if mirrors.len() == count {
        return Ok(text.to_owned());
    }
    let place = document.0.iter().position(|(key, _)| key == KEY);
    match place {
        Some(place) if mirrors.is_empty() => drop(document.0.remove(place)),
        Some(place) => document.0[place].1 = Value::Array(mirrors),
        None => {}
    }
    print(&document)
}

fn is_at(value: &Value, mirror: &str) -> bool {
    value.as_str().is_some_and(|text| without_scheme(text) == without_scheme(mirror))
}

fn mirrors(document: &Document) -> Result<Vec<Value>, MergeError> {
    match document.0.iter().find(|(key, _)| key == KEY) {
        None => Ok(Vec::new()),
        Some((_, Value::Array(mirrors))) => Ok(mirrors.clone()),
        Some(_) => Err(MergeError::Form("registry-mirrors is no list")),
    }
}

fn parse(text: &str) -> Result<Document, MergeError> {
    if text.trim().is_empty() {
        return Ok(Document(Vec::new()));
    }
    serde_json::from_str(text).map_err(|error| MergeError::Unreadable(error.to_string()))
}

fn print(document: &Document) -> Result<String, MergeError> {
    let text = serde_json::to_string_pretty(document);
    text.map(|text| text + "\n").map_err(|error| MergeError::Unreadable(error.to_string()))
}

/// An object whose keys stay in their order.
struct Document(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
