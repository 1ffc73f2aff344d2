//! `hosts.toml`: the order of the text is the order of asking, so the agent's table goes before all others, as a block
//! between two comments. The rest of the text is not touched.

use std::fmt::Write as _;
use std::path::Path;

use toml_edit::DocumentMut;

use super::{MergeError, without_scheme};
use crate::import::document::{Source, Table};
use crate::runtime::hosts::{Host, entries};

const BEGIN: &str = "# shoal begin: this node's mirror agent; taken out by `shoal runtime uninstall`\n";
const END: &str = "# shoal end\n";

/// The registry itself, as a file that is not there yet has to name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its URL; none where the file is for every registry.
    pub url: Option<String>,
    /// Certificates that lie in the folder, which count only as long as there is no file.
    pub ca: Vec<String>,
    /// Client certificates there, each with its key.
    pub client: Vec<(String, String)>,
}

impl Server {
    fn head(&self) -> String {
        let mut head = String::new();
        if let Some(url) = &self.url {
            let _ = writeln!(head, "server = {}", quoted(url));
        }
        if !self.ca.is_empty() {
            let all: Vec<String> = self.ca.iter().map(|path| quoted(path)).collect();
            let _ = writeln!(head, "ca = [{}]", all.join(", "));
        }
        if !self.client.is_empty() {
            let pair =
                |(certificate, key): &(String, String)| format!("[{}, {}]", quoted(certificate), quoted(key));
            let all: Vec<String> = self.client.iter().map(pair).collect();
            let _ = writeln!(head, "client = [{}]", all.join(", "));
        }
        if !head.is_empty() {
            head.push('\n');
        }
        head
    }
}

/// The agent's table. An agent that is not there costs no longer than the deadline; older versions pass the key by.
fn block(mirror: &str) -> String {
    format!(
        "{BEGIN}[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"2s\"\n{END}",
        quoted(mirror)
    )
}

pub(super) fn add(text: &str, mirror: &str, server: &Server) -> Result<String, MergeError> {
    if text.trim().is_empty() {
        return Ok(format!("{}{}", server.head(), block(mirror)));
    }
    let known = hosts(text)?;
    if known.first().is_some_and(|host| is_at(host, mirror) && host.is_whole_mirror()) {
        return Ok(text.to_owned());
    }
    let others = without_table(text, mirror)?;
    let at = first_table(&others)?;
    let (before, after) = others.split_at(at.unwrap_or(others.len()));
    let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let merged = format!("{before}{newline}{}{after}", block(mirror));
    let mut expected: Vec<String> = vec![mirror.to_owned()];
    expected.extend(known.into_iter().filter(|host| !is_at(host, mirror)).map(|host| host.host));
    let found = hosts(&merged).map_err(|_| MergeError::Form("its hosts are no [host.\"...\"] tables"))?;
    let found: Vec<String> = found.into_iter().map(|host| host.host).collect();
    if found == expected {
        Ok(merged)
    } else {
        Err(MergeError::Form("its hosts are no [host.\"...\"] tables"))
    }
}

pub(super) fn remove(text: &str, mirror: &str) -> Result<String, MergeError> {
    let between =
        text.find(BEGIN).and_then(|begin| Some((begin, begin + text[begin..].find(END)? + END.len())));
    match between {
        // Only if nobody has written anything else between the two.
        Some((begin, end)) if text[begin..end] == block(mirror) => {
            Ok(format!("{}{}", &text[..begin], &text[end..]))
        }
        _ => without_table(text, mirror),
    }
}

fn hosts(text: &str) -> Result<Vec<Host>, MergeError> {
    // Which capabilities are known depends on the version, and is not what matters here.
    entries(Path::new("hosts.toml"), text, None).map_err(|trap| MergeError::Unreadable(trap.to_string()))
}

fn is_at(host: &Host, mirror: &str) -> bool {
    without_scheme(&host.host) == without_scheme(mirror)
}

/// The text without tables for the agent.
fn without_table(text: &str, mirror: &str) -> Result<String, MergeError> {
    let ours: Vec<String> =
        hosts(text)?.into_iter().filter(|host| is_at(host, mirror)).map(|host| host.host).collect();
    if ours.is_empty() {
        return Ok(text.to_owned());
    }
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| MergeError::Unreadable(error.message().to_owned()))?;
    let tables = document.get_mut("host").and_then(|item| item.as_table_like_mut());
    if let Some(tables) = tables {
        ours.iter().for_each(|name| drop(tables.remove(name)));
    }
    Ok(document.to_string())
}

/// Where the first host's table begins, with the comments above it.
fn first_table(text: &str) -> Result<Option<usize>, MergeError> {
    let source = Source { path: Path::new("hosts.toml"), text };
    let unreadable = |note: crate::import::Note| MergeError::Unreadable(note.text);
    let table = source.parse().map_err(unreadable)?;
    let named = Table { source, table: &table }.named_tables("host").map_err(unreadable)?;
    let Some((line, _)) = named.first().and_then(|(name, _)| name.place.at) else { return Ok(None) };
    let starts: Vec<usize> = [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut index = line - 1;
    while index > 0 && text[starts[index - 1]..].trim_start_matches([' ', '\t']).starts_with('#') {
        index -= 1;
    }
    Ok(starts.get(index).copied())
}

/// A text as TOML.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
