//! The outcome, as a person would have written it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use shoal_engine::Registry;
use shoal_engine::mirrors::Serves;

use super::compose::WrittenSet;
use super::endpoint::default_endpoint;
use super::{ClientFiles, FoundRegistry};

/// Tables for a configuration file.
pub(super) fn text(
    files: &[PathBuf],
    sets: &[WrittenSet],
    registries: &BTreeMap<Registry, FoundRegistry>,
) -> String {
    let mut text = String::from("# Made by `shoal config import`: tables for a configuration file.\n");
    for file in files {
        comment(&mut text, &format!("  from {}", file.display()));
    }
    if sets.is_empty() {
        comment(&mut text, "No mirror is left that could be asked.");
    } else {
        text.push_str("# `shoal mirrors explain IMAGE` shows who is asked in which order.\n\n[mirrors]\n");
        comment(&mut text, "As the runtimes do: whatever a mirror answers, the next source is asked.");
        text.push_str("on_denied = \"continue\"\n");
    }
    sets.iter().for_each(|written| set(&mut text, written));
    for (registry, found) in registries {
        self::registry(&mut text, registry, found);
    }
    text
}

/// A line that is not read. Paths come from outside and may have anything in them.
fn comment(text: &mut String, line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    line_of(text, format_args!("# {line}"));
}

fn line_of(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all that is written");
}

/// A value as TOML writes it.
fn value(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn path_value(path: &Path) -> String {
    value(&path.to_string_lossy())
}

fn set(text: &mut String, written: &WrittenSet) {
    let set = &written.set;
    text.push('\n');
    comment(text, &written.place.to_string());
    text.push_str("[[mirrors.sets]]\n");
    line_of(text, format_args!("name = {}", value(&set.name)));
    line_of(text, format_args!("source = {}", value(&set.source.to_string())));
    let mirrors: Vec<String> = set.mirrors.iter().map(|mirror| value(&mirror.to_string())).collect();
    line_of(text, format_args!("mirrors = [{}]", mirrors.join(", ")));
    if set.serves != Serves::Digests {
        comment(text, "Asked for tags as well, as before: whoever writes them there decides what runs.");
    }
    line_of(text, format_args!("serves = {}", value(&set.serves.to_string())));
    if let Some(order) = set.tag_order {
        line_of(text, format_args!("tag_order = {}", value(&order.to_string())));
    }
    if set.never_contact_source {
        text.push_str("never_contact_source = true\n");
    }
}

fn registry(text: &mut String, registry: &Registry, found: &FoundRegistry) {
    let endpoint = found.endpoint.as_ref().filter(|endpoint| **endpoint != default_endpoint(registry));
    // Over plain http there is nothing to verify.
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let (ca, client) = if is_plain { (&None, &None) } else { (&found.ca, &found.client) };
    let is_open = found.insecure.is_some() && found.endpoint.is_none() && ca.is_none();
    if endpoint.is_none() && ca.is_none() && client.is_none() && !is_open {
        return;
    }
    line_of(text, format_args!("\n[upstream.registries.{}]", value(registry.as_str())));
    if let Some(endpoint) = endpoint {
        line_of(text, format_args!("endpoint = {}", value(endpoint)));
    }
    if is_open {
        comment(
            text,
            "It was insecure before. One of these, if it speaks plain http or has a certificate of its own:",
        );
        line_of(text, format_args!("#endpoint = {}", value(&format!("http://{registry}"))));
        text.push_str("#ca = \"/etc/shoal/ca.pem\"\n");
    }
    if let Some(ca) = ca {
        line_of(text, format_args!("ca = {}", path_value(ca)));
    }
    if let Some(ClientFiles { certificate, key }) = client {
        line_of(text, format_args!("client_certificate = {}", path_value(certificate)));
        line_of(text, format_args!("client_key = {}", path_value(key)));
    }
}
