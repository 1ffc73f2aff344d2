//! Checks of the sources that no compiler makes: which crate may depend on what, how long a file may be, what may not
//! be written at all. All findings are reported at once, each with its place.

mod crates;
mod links;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, place};

/// Runs every check over the checkout.
pub fn check() -> Result {
    let files = sources(&place::root())?;
    let mut findings = Vec::new();
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("rs") => text::check(file, &read(file)?, &mut findings),
            Some("md") => links::check(&place::root(), file, &read(file)?, &mut findings),
            Some("toml") if file.ends_with("Cargo.toml") => crates::check(file, &read(file)?, &mut findings),
            _ => {}
        }
    }
    eprintln!("tidy: {} files, {} findings", files.len(), findings.len());
    if findings.is_empty() { Ok(()) } else { Err(format!("not tidy:\n  {}", findings.join("\n  "))) }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(place::root().join(file)).map_err(|e| format!("cannot read {}: {e}", file.display()))
}

/// Every file below `root`, relative to it, sorted; without hidden and target folders.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder));
        for entry in entries.map_err(|e| format!("cannot read {}: {e}", folder.display()))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !name.starts_with('.') && name != "target" => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
