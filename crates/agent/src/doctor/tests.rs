//! What holds for all findings together.

use std::collections::BTreeSet;

use super::*;

/// The table of the operator's manual, as it has to be.
fn table() -> String {
    let rows = kinds().into_iter().map(|kind| {
        format!("| `{}` | {} | {} | {} |\n", kind.id, kind.level.word(), kind.means, kind.remedy)
    });
    format!(
        "| identifier | level | means | remedy |\n| --- | --- | --- | --- |\n{}",
        rows.collect::<String>()
    )
}

#[test]
fn the_manual_lists_every_finding() {
    let manual = include_str!("../../../../docs/OPERATING.md");
    let (_, rest) = manual.split_once("<!-- doctor -->\n").expect("the manual has the table");
    let (written, _) = rest.split_once("<!-- /doctor -->").expect("the table ends");
    assert!(written == table(), "docs/OPERATING.md, between the marks, must be:\n{}", table());
}

#[test]
fn identifiers_are_unique_words() {
    let all = kinds();
    let ids: BTreeSet<&str> = all.iter().map(|kind| kind.id).collect();
    assert_eq!(ids.len(), all.len());
    for kind in all {
        let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(kind.id.chars().all(is_word), "{}", kind.id);
        for text in [kind.means, kind.remedy] {
            assert!(text.ends_with('.') && text.len() < 260 && !text.contains('|'), "{}: {text}", kind.id);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_told() {
    let outcomes = in_time("the moon", std::future::pending()).await;
    let [Outcome::Found(finding)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(finding.kind.id, "check-late");
    assert!(finding.what.contains("the moon"));
}
