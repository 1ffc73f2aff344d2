//! Links between the documents: what a page points at has to be there.

use std::path::Path;

/// Reports links of one Markdown file to files that do not exist.
pub fn check(root: &Path, file: &Path, text: &str, findings: &mut Vec<String>) {
    let folder = file.parent().unwrap_or(Path::new(""));
    for (number, line) in text.lines().enumerate() {
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or("");
            if !path.is_empty() && !root.join(folder).join(path).exists() {
                findings.push(format!("{}:{}: there is no `{path}`", file.display(), number + 1));
            }
        }
    }
}

/// The relative link targets of a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn relative_links_are_found() {
        let line = "See [a](a.md#b), [c](https://c.test/) and [d](../d.md).";
        assert_eq!(targets(line).collect::<Vec<_>>(), ["a.md#b", "../d.md"]);
    }
}
