//! Which crate may depend on what. The direction is the architecture: a heavy dependency stays behind one crate's
//! interface, and the engine stays a pure function.

use std::path::Path;

/// A dependency and the only packages that may name it.
const ONLY_IN: [(&str, &[&str]); 14] = [
    ("rocksdb", &["shoal-store"]),
    ("libp2p", &["shoal-net"]),
    ("hickory-resolver", &["shoal-net"]),
    ("axum", &["shoal-agent", "shoal-tests"]),
    ("reqwest", &["shoal-agent", "shoal-tests"]),
    ("object_store", &["shoal-agent"]),
    ("hyper", &["shoal-agent", "shoal-tests"]),
    ("hyper-util", &["shoal-agent", "shoal-tests"]),
    ("tokio", &["shoal-agent", "shoal-net", "shoal-tests"]),
    ("clap", &["shoal-agent", "shoal-tests", "shoal-simulations"]),
    ("shoal-store", &["shoal-agent", "shoal-tests"]),
    ("shoal-net", &["shoal-agent", "shoal-tests"]),
    ("shoal-agent", &["shoal-tests", "shoal-fuzz"]),
    ("shoal-tests", &[]),
];

/// All that the engine may use outside its tests: nothing with a clock, a socket or a file in it.
const ENGINE_MAY_USE: [&str; 11] = [
    "bytes",
    "thiserror",
    "serde",
    "bincode",
    "foca",
    "url",
    "oci-spec",
    "rand",
    "rand_core",
    "rand_chacha",
    "shoal-engine",
];

/// What no package may use, and why.
const BANNED: [(&str, &str); 2] = [("openssl", "TLS is rustls"), ("native-tls", "TLS is rustls")];

/// Reports what is wrong with one `Cargo.toml`.
pub fn check(file: &Path, text: &str, findings: &mut Vec<String>) {
    let package = package_name(text);
    for (section, dependency) in dependencies(text) {
        let mut report = |why: &str| {
            findings.push(format!("{}: `{dependency}` in [{section}]: {why}", file.display()));
        };
        if let Some((_, why)) = BANNED.iter().find(|(name, _)| *name == dependency) {
            report(why);
        }
        let Some(package) = package else { continue };
        // libp2p comes as a family of crates.
        let family = if dependency.starts_with("libp2p") { "libp2p" } else { dependency };
        if let Some((_, allowed)) = ONLY_IN.iter().find(|(name, _)| *name == family)
            && !allowed.contains(&package)
        {
            report(&format!(
                "may only be used by {}",
                if allowed.is_empty() { "nobody".into() } else { allowed.join(", ") }
            ));
        }
        if package == "shoal-engine" && section == "dependencies" && !ENGINE_MAY_USE.contains(&dependency) {
            report("is not among what the engine may use (xtask/src/tidy/crates.rs)");
        }
    }
}

fn package_name(text: &str) -> Option<&str> {
    let package = text.split_once("[package]")?.1;
    let line = package
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with('['))
        .find(|l| l.starts_with("name"))?;
    line.split('"').nth(1)
}

/// Every dependency with the section it stands in. Sections are read as cargo formats them: one line each.
fn dependencies(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = header;
            // `[dependencies.name]`
            if let Some((kind, name)) = header.split_once("dependencies.") {
                found.push((&header[..kind.len() + "dependencies".len()], name));
            }
        } else if section.ends_with("dependencies")
            && section != "workspace.dependencies"
            && !line.starts_with('#')
        {
            let name = line.split(['=', '.', ' ']).next().unwrap_or("").trim_matches('"');
            if !name.is_empty() {
                found.push((section, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check, dependencies};

    fn findings(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(Path::new("Cargo.toml"), text, &mut findings);
        findings
    }

    #[test]
    fn dependencies_are_read_in_every_spelling() {
        let text = "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\nc = \"1\"\n# d = \"1\"\n\
                    [dev-dependencies]\ne = { version = \"1\" }\n[dependencies.f]\nversion = \"1\"\n";
        let expected =
            [("dependencies", "b"), ("dependencies", "c"), ("dev-dependencies", "e"), ("dependencies", "f")];
        assert_eq!(dependencies(text), expected);
    }

    #[test]
    fn the_direction_is_enforced() {
        assert!(
            findings("[package]\nname = \"shoal-store\"\n[dependencies]\nrocksdb.workspace = true\n")
                .is_empty()
        );
        assert_eq!(
            findings("[package]\nname = \"shoal-agent\"\n[dependencies]\nrocksdb.workspace = true\n").len(),
            1
        );
        assert_eq!(
            findings("[package]\nname = \"shoal-store\"\n[dependencies]\nshoal-agent.workspace = true\n")
                .len(),
            1
        );
        for package in ["shoal-agent", "shoal-net"] {
            let text =
                format!("[package]\nname = \"{package}\"\n[dependencies]\nlibp2p-swarm.workspace = true\n");
            assert_eq!(findings(&text).len(), usize::from(package != "shoal-net"), "{package}");
        }
        // Once as a crate that belongs elsewhere, once as something impure.
        assert_eq!(
            findings("[package]\nname = \"shoal-engine\"\n[dependencies]\ntokio.workspace = true\n").len(),
            2
        );
    }
}
