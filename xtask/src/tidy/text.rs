//! What a Rust file may not contain, and how long it may be.

use std::path::Path;

/// Lines of a file. Longer ones hold more than one idea and are split.
const LINES_MAX: usize = 700;

/// What may not be written anywhere, and why. In halves, so that this list does not find itself.
const NOWHERE: [(&str, &str, &str); 6] = [
    ("todo", "!(", "unfinished code is not committed"),
    ("unimplemented", "!(", "unfinished code is not committed"),
    ("dbg", "!(", "left over from a search for a bug"),
    ("#[ign", "ore]", "a test that does not run tests nothing"),
    ("\"/ro", "ot/", "a path of one machine"),
    ("\"/wo", "rk/", "a path of one machine"),
];

/// What the engine may not use: it would no longer be a function of its inputs.
const NOT_IN_ENGINE: [(&str, &str); 7] = [
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("HashMap", "its order is random; use BTreeMap"),
    ("HashSet", "its order is random; use BTreeSet"),
    ("std::fs", "the engine touches no file"),
    ("std::net::Tcp", "the engine touches no socket"),
    ("std::thread", "the engine starts nothing"),
];

/// Reports what is wrong with one file.
pub fn check(file: &Path, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{}: {lines} lines, more than {LINES_MAX}: split it", file.display()));
    }
    // A module's tests are about that module; its own first lines say what that is.
    if !text.starts_with("//!") && !file.ends_with("tests.rs") {
        findings.push(format!("{}:1: does not begin by saying what it is for (`//!`)", file.display()));
    }
    let engine = file.starts_with("crates/engine/src");
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let mut report = |what: &str, why: &str| {
            findings.push(format!("{}:{}: `{what}`: {why}", file.display(), number + 1));
        };
        for (head, tail, why) in NOWHERE {
            let what = format!("{head}{tail}");
            if code.contains(&what) {
                report(&what, why);
            }
        }
        for (what, why) in NOT_IN_ENGINE.iter().filter(|_| engine) {
            if code.contains(what) {
                report(what, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LINES_MAX, check};

    fn findings(file: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(Path::new(file), text, &mut findings);
        findings
    }

    #[test]
    fn a_tidy_file_has_no_findings() {
        assert!(findings("crates/agent/src/a.rs", "//! A.\nuse std::collections::HashMap;\n").is_empty());
    }

    #[test]
    fn the_engine_is_kept_pure() {
        let found = findings("crates/engine/src/a.rs", "//! A.\n// not a HashMap\nlet t = Instant::now();\n");
        assert_eq!(found, ["crates/engine/src/a.rs:3: `Instant::now`: time is an argument"]);
    }

    #[test]
    fn unfinished_long_and_unexplained_files_are_found() {
        assert_eq!(findings("a.rs", &format!("//! A.\n{}", "\n".repeat(LINES_MAX))).len(), 1);
        assert_eq!(findings("a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(findings("a.rs", concat!("//! A.\nfn a() { tod", "o!() }\n")).len(), 1);
    }
}
