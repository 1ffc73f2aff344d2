//! `registries.yaml` of k3s and RKE2: lines are put in, so that comments stay, and what comes of it is read again and
//! compared with what it has to say. A file in a form that lines cannot be put into is refused.

use serde_json::{Map, Value, json};

use super::{MergeError, without_scheme};
use crate::runtime::rancher;

const FORM: MergeError = MergeError::Form("its mirrors and endpoints are not each on a line of their own");

pub(super) fn add(text: &str, mirror: &str, registries: &[String]) -> Result<String, MergeError> {
    let mut text = text.to_owned();
    for registry in registries {
        text = add_one(&text, mirror, registry)?;
    }
    Ok(text)
}

fn add_one(text: &str, mirror: &str, registry: &str) -> Result<String, MergeError> {
    let document = rancher::parse(text).map_err(MergeError::Unreadable)?;
    let known = endpoints(&document, registry);
    if known.first().is_some_and(|first| is_at(first, mirror)) {
        return Ok(text.to_owned());
    }
    let text = remove_one(text, mirror, registry)?;
    let lines = Lines::new(&text);
    let merged = match lines.find(&[], "mirrors") {
        None => lines.with(lines.all.len(), &["mirrors:".into(), entry(registry, "  "), item(mirror, "  ")]),
        Some(mirrors) if !lines.has_value(mirrors) => match lines.find(&["mirrors"], registry) {
            None => {
                let indent = lines.child_indent(mirrors).unwrap_or_else(|| "  ".into());
                lines.with(mirrors + 1, &[entry(registry, &indent), item(mirror, &indent)])
            }
            Some(at) if !lines.has_value(at) => match lines.find(&["mirrors", registry], "endpoint") {
                None => {
                    let indent = lines.child_indent(at).unwrap_or_else(|| lines.indent(at).to_owned() + "  ");
                    let list = format!("{indent}endpoint:");
                    lines.with(at + 1, &[list, format!("{indent}  - {}", quoted(mirror))])
                }
                Some(list) if !lines.has_value(list) => {
                    let indent =
                        lines.child_indent(list).unwrap_or_else(|| lines.indent(list).to_owned() + "  ");
                    lines.with(list + 1, &[format!("{indent}- {}", quoted(mirror))])
                }
                Some(_) => return Err(FORM),
            },
            Some(_) => return Err(FORM),
        },
        Some(_) => return Err(FORM),
    };
    check(&merged, expected(document, mirror, registry))?;
    Ok(merged)
}

pub(super) fn remove(text: &str, mirror: &str) -> Result<String, MergeError> {
    let document = rancher::parse(text).map_err(MergeError::Unreadable)?;
    let registries: Vec<String> = document
        .get("mirrors")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    registries.iter().try_fold(text.to_owned(), |text, registry| remove_one(&text, mirror, registry))
}

/// Takes the agent's line out, and the lines above it that are empty then.
fn remove_one(text: &str, mirror: &str, registry: &str) -> Result<String, MergeError> {
    let document = rancher::parse(text).map_err(MergeError::Unreadable)?;
    if !endpoints(&document, registry).iter().any(|endpoint| is_at(endpoint, mirror)) {
        return Ok(text.to_owned());
    }
    let mut lines = Lines::new(text);
    let list = lines.find(&["mirrors", registry], "endpoint").ok_or(FORM)?;
    let is_ours = |line: &str| {
        let item = line.trim_start().strip_prefix("- ").map(str::trim);
        item.is_some_and(|item| is_at(item.trim_matches(['"', '\'']), mirror))
    };
    let at = (list + 1..lines.end(list)).find(|at| is_ours(lines.all[*at])).ok_or(FORM)?;
    lines.all.remove(at);
    for path in [&["mirrors", registry, "endpoint"][..], &["mirrors", registry], &["mirrors"]] {
        let (name, above) = path.split_last().ok_or(FORM)?;
        let at = lines.find(above, name).ok_or(FORM)?;
        if lines.end(at) > at + 1 {
            break;
        }
        lines.all.remove(at);
    }
    let text = lines.all.concat();
    rancher::parse(&text).map_err(|_| FORM)?;
    Ok(text)
}

fn endpoints(document: &Value, registry: &str) -> Vec<String> {
    let list = document.get("mirrors").and_then(|mirrors| mirrors.get(registry)?.get("endpoint")?.as_array());
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn is_at(endpoint: &str, mirror: &str) -> bool {
    without_scheme(endpoint) == without_scheme(mirror)
}

/// What the document has to say.
fn expected(mut document: Value, mirror: &str, registry: &str) -> Option<Value> {
    let mut all = endpoints(&document, registry);
    all.retain(|endpoint| !is_at(endpoint, mirror));
    all.insert(0, mirror.to_owned());
    let empty = || Value::Object(Map::new());
    let mirrors = document.as_object_mut()?.entry("mirrors").or_insert_with(empty);
    if mirrors.is_null() {
        *mirrors = empty();
    }
    let settings = mirrors.as_object_mut()?.entry(registry).or_insert_with(empty);
    if settings.is_null() {
        *settings = empty();
    }
    settings.as_object_mut()?.insert("endpoint".into(), json!(all));
    Some(document)
}

fn check(text: &str, expected: Option<Value>) -> Result<(), MergeError> {
    let found = rancher::parse(text).map_err(|_| FORM)?;
    if Some(found) == expected { Ok(()) } else { Err(FORM) }
}

fn entry(registry: &str, indent: &str) -> String {
    format!("{indent}{}:", quoted(registry))
}

fn item(mirror: &str, indent: &str) -> String {
    format!("{indent}  endpoint:\n{indent}    - {}", quoted(mirror))
}

/// A text as YAML takes it, whatever is in it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The lines of a document in block style, each with its end.
struct Lines<'t> {
    all: Vec<&'t str>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        Lines { all: text.split_inclusive('\n').collect() }
    }

    /// The line of a key below a path of keys.
    fn find(&self, above: &[&str], name: &str) -> Option<usize> {
        let (mut from, mut end, mut indent) = (0, self.all.len(), Some(String::new()));
        for key in above {
            let at = self.key_in(from, end, indent.as_deref()?, key)?;
            (from, end, indent) = (at + 1, self.end(at), self.child_indent(at));
        }
        self.key_in(from, end, indent.as_deref()?, name)
    }

    fn key_in(&self, from: usize, end: usize, indent: &str, name: &str) -> Option<usize> {
        (from..end).find(|at| {
            let line = self.all[*at];
            let Some((key, _)) = line.trim().rsplit_once(": ").or_else(|| line.trim().rsplit_once(':'))
            else {
                return false;
            };
            self.is_content(*at) && self.indent(*at) == indent && key.trim_matches(['"', '\'']) == name
        })
    }

    /// Whether something stands behind a line's key.
    fn has_value(&self, at: usize) -> bool {
        let line = self.all[at].trim();
        let value = line.rsplit_once(": ").map_or("", |(_, value)| value.trim());
        !value.is_empty() && !value.starts_with('#')
    }

    fn is_content(&self, at: usize) -> bool {
        let line = self.all[at].trim();
        !line.is_empty() && !line.starts_with('#')
    }

    fn indent(&self, at: usize) -> &'t str {
        let line = self.all[at];
        &line[..line.len() - line.trim_start_matches(' ').len()]
    }

    /// How deep the lines below a key are; none if there are none.
    fn child_indent(&self, at: usize) -> Option<String> {
        (at + 1..self.end(at)).find(|at| self.is_content(*at)).map(|at| self.indent(at).to_owned())
    }

    /// The line after all that belongs to a key. A list may be as deep as its key.
    fn end(&self, at: usize) -> usize {
        let depth = self.indent(at).len();
        let belongs = |next: &usize| {
            let is_item = self.all[*next].trim_start().starts_with("- ");
            !self.is_content(*next)
                || self.indent(*next).len() > depth
                || self.indent(*next).len() == depth && is_item
        };
        let last = (at + 1..self.all.len()).take_while(belongs).filter(|next| self.is_content(*next)).last();
        last.map_or(at + 1, |last| last + 1)
    }

    /// The text with other lines before a line.
    fn with(&self, at: usize, lines: &[String]) -> String {
        let mut text: String = self.all[..at].concat();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text + &self.all[at..].concat()
    }
}
