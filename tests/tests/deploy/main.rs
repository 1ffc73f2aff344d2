//! What is shipped for running the agent: the Helm chart and the manifests, alert rules and dashboard, the image, the unit.
//! Each is put through the program that will read it, and what one file says of another is compared.

mod chart;
mod image;
mod matrix;
mod monitoring;
mod package;
mod unit;
mod values;

use std::path::Path;

/// Compares a file of the checkout with what it has to be. With `SHOAL_WRITE` set, writes it instead.
#[track_caller]
fn expect_file(path: &Path, expected: &str) {
    if std::env::var_os("SHOAL_WRITE").is_some() {
        std::fs::write(path, expected).expect("the checkout can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found == expected {
        return;
    }
    let first = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = first.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
    panic!(
        "{} is not up to date from line {} on: it has {:?}, and should have {:?}. Run this test with SHOAL_WRITE=1 and look at the \
         difference",
        path.display(),
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        expected.lines().nth(line).unwrap_or_default(),
    );
}
