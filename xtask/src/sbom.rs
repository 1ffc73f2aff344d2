//! `cargo xtask sbom`: what the program is made of, as a CycloneDX document.
//!
//! Asks cargo for the packages that are linked into the agent, which is fewer than the lock file has, and takes their checksums
//! from there. The same checkout gives the same document: it has no time and no random number in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::{Result, place, process};

const PACKAGE: &str = "shoal-agent";

/// A package that is linked in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Component {
    name: String,
    version: String,
    /// An SPDX expression.
    license: String,
}

/// Writes the document to standard output. The only argument is a target, such as `aarch64-unknown-linux-gnu`.
pub fn run(args: &[String]) -> Result {
    let mut tree = process::cargo("tree")?;
    tree.args([
        "--locked",
        "--package",
        PACKAGE,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]);
    match args {
        [] => {}
        [target] => drop(tree.args(["--target", target])),
        _ => return Err("cargo xtask sbom [TARGET]".into()),
    }
    let listed = process::output(&mut tree)?;
    let lock = place::root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).map_err(|e| format!("cannot read {}: {e}", lock.display()))?;
    print!("{}", document(&components(&listed), &checksums(&lock))?);
    Ok(())
}

/// `serde v1.0.1 (proc-macro)|MIT OR Apache-2.0`, each perhaps several times.
fn components(listed: &str) -> Vec<Component> {
    let mut found: Vec<Component> = listed
        .lines()
        .filter_map(|line| {
            let (package, license) = line.trim_end_matches(" (*)").split_once('|')?;
            let mut words = package.split(' ');
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            // `MIT/Apache-2.0` is how it was written before SPDX.
            let license = license.trim_end_matches(" (*)").replace('/', " OR ");
            Some(Component { name: name.into(), version: version.into(), license })
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// SHA-256 of the sources of each package, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    let found = packages.filter_map(|package| {
        let field = |name: &str| {
            let mut lines = package.lines();
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
                .map(str::to_owned)
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    found.collect()
}

fn document(components: &[Component], checksums: &BTreeMap<(String, String), String>) -> Result<String> {
    let own = components.iter().find(|component| component.name == PACKAGE);
    let own = own.ok_or_else(|| format!("cargo does not list {PACKAGE}"))?;
    let mut text = format!(
        "{{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.5\",\n  \"version\": 1,\n  \"metadata\": {{\n    \
         \"component\": {{ \"type\": \"application\", \"bom-ref\": \"shoal\", \"name\": \"shoal\", \"version\": {} }}\n  }},\n  \
         \"components\": [",
        quoted(&own.version)
    );
    for (index, component) in components.iter().filter(|component| component.name != PACKAGE).enumerate() {
        let Component { name, version, license } = component;
        let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
        let separator = if index == 0 { "" } else { "," };
        let _ = write!(
            text,
            "{separator}\n    {{ \"type\": \"library\", \"bom-ref\": {purl}, \"name\": {}, \"version\": {}, \"purl\": {purl}",
            quoted(name),
            quoted(version),
            purl = quoted(&purl),
        );
        if !license.is_empty() {
            let _ = write!(text, ", \"licenses\": [{{ \"expression\": {} }}]", quoted(license));
        }
        if let Some(checksum) = checksums.get(&(name.clone(), version.clone())) {
            let _ =
                write!(text, ", \"hashes\": [{{ \"alg\": \"SHA-256\", \"content\": {} }}]", quoted(checksum));
        }
        text.push_str(" }");
    }
    text.push_str("\n  ]\n}\n");
    Ok(text)
}

/// A JSON string. Names, versions and licences have no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::{checksums, components, document};

    #[test]
    fn each_package_is_listed_once_with_its_checksum() {
        let listed = "shoal-agent v0.1.0 (/src/crates/agent)|Apache-2.0\nb v2.0.0+3|MIT/Apache-2.0\na v1.0.0 (proc-macro)|MIT\n\
                      b v2.0.0+3|MIT/Apache-2.0 (*)\n";
        let lock = "version = 4\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0+3\"\nsource = \"registry\"\nchecksum = \"abcd\"\n";
        let text = document(&components(listed), &checksums(lock)).expect("the agent is listed");
        assert_eq!(text.matches("\"name\": \"b\"").count(), 1, "{text}");
        assert!(text.contains("pkg:cargo/b@2.0.0%2B3") && text.contains("\"content\": \"abcd\""), "{text}");
        assert!(text.contains("MIT OR Apache-2.0") && text.contains("\"version\": \"0.1.0\" }"), "{text}");
        assert!(document(&[], &checksums(lock)).is_err());
    }
}
