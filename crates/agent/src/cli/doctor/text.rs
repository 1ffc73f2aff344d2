//! The report for people: by group, the worst first, what is well in one line each.

use std::fmt::Write as _;

use crate::doctor::{Finding, Group, Level, Outcome, Report};

/// Columns before the text: two of margin, the word, two between.
const MARGIN: &str = "  ";
const WORD_WIDTH: usize = 7;
const INDENT: usize = MARGIN.len() + WORD_WIDTH + 2;

/// How it is written.
pub(super) struct Text {
    /// Columns.
    pub width: usize,
    /// Whether the terminal shows colours.
    pub colours: bool,
}

/// A terminal's way to show something (ECMA-48, SGR).
#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Red,
    Yellow,
    Cyan,
    Green,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "1;31",
            Style::Yellow => "1;33",
            Style::Cyan => "1;36",
            Style::Green => "32",
        }
    }
}

impl Text {
    /// The whole report.
    pub fn of(&self, report: &Report) -> String {
        let mut text = String::new();
        for group in Group::ALL {
            let mut outcomes = report.of(group).peekable();
            if outcomes.peek().is_none() {
                continue;
            }
            let _ = writeln!(text, "{}", self.styled(group.title(), Style::Bold));
            while let Some(outcome) = outcomes.next() {
                // What several have in common is said once, under the last of them.
                let has_more = outcomes.peek().is_some_and(|next| say_the_same(outcome, next));
                self.outcome(outcome, has_more, &mut text);
            }
            text.push('\n');
        }
        let _ = writeln!(text, "{}", self.styled(&closing(report), Style::Bold));
        text
    }

    fn outcome(&self, outcome: &Outcome, has_more: bool, text: &mut String) {
        match outcome {
            Outcome::Well { what, .. } => self.entry("ok", Style::Green, what, None, text),
            Outcome::Found(finding) => self.finding(finding, has_more, text),
        }
    }

    fn finding(&self, finding: &Finding, has_more: bool, text: &mut String) {
        let (word, style) = match finding.level {
            Level::Problem => ("PROBLEM", Style::Red),
            Level::Warning => ("WARNING", Style::Yellow),
            Level::Hint => ("hint", Style::Cyan),
        };
        self.entry(word, style, &finding.what, Some(finding.kind.id), text);
        if has_more {
            return;
        }
        self.paragraph("", finding.kind.means, text);
        self.paragraph("-> ", finding.what_to_do(), text);
    }

    /// A word in the margin, and what it is about; with an identifier behind it.
    fn entry(&self, word: &str, style: Style, what: &str, id: Option<&str>, text: &mut String) {
        let id = id.map_or_else(String::new, |id| format!("[{id}]"));
        let lines = wrapped(&format!("{what} {id}"), self.width - INDENT);
        for (number, line) in lines.iter().enumerate() {
            let margin = if number == 0 { word } else { "" };
            let margin = self.styled(&format!("{margin:<WORD_WIDTH$}"), style);
            let line = match line.strip_suffix(&id).filter(|_| !id.is_empty()) {
                Some(rest) => format!("{rest}{}", self.styled(&id, Style::Dim)),
                None => line.clone(),
            };
            let _ = writeln!(text, "{}", format!("{MARGIN}{margin}  {line}").trim_end());
        }
    }

    /// Lines under what was found; the sign stands before the first one.
    fn paragraph(&self, sign: &str, what: &str, text: &mut String) {
        for (number, line) in wrapped(what, self.width - INDENT).iter().enumerate() {
            let sign = if number == 0 { sign } else { "" };
            let _ = writeln!(text, "{sign:>INDENT$}{line}");
        }
    }

    fn styled(&self, what: &str, style: Style) -> String {
        if self.colours { format!("\x1b[{}m{what}\x1b[0m", style.code()) } else { what.to_owned() }
    }
}

fn say_the_same(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Found(one), Outcome::Found(other)) => {
            one.kind == other.kind && one.what_to_do() == other.what_to_do()
        }
        _ => false,
    }
}

fn closing(report: &Report) -> String {
    let counted = |level: Level| {
        let count = report.count(level);
        format!("{count} {}{}", level.word(), if count == 1 { "" } else { "s" })
    };
    let mut text = format!("{}, {}", counted(Level::Problem), counted(Level::Warning));
    if report.count(Level::Hint) > 0 {
        let _ = write!(text, ", {}", counted(Level::Hint));
    }
    text
}

/// Lines of at most so many characters, broken between words; a longer word stands alone.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Kind;

    static TAKEN: Kind = Kind {
        id: "port-taken",
        group: Group::Agent,
        level: Level::Problem,
        means: "The agent cannot listen there, and runtimes that are pointed at the port ask somebody else.",
        remedy: "Stop the other process.",
    };

    fn report() -> Report {
        let found = TAKEN.found("127.0.0.1:5000 is taken by process 812 (nginx)");
        Report::new(vec![
            Outcome::well(Group::Store, "41.2 GB free"),
            Outcome::well(Group::Agent, "answers"),
            found.into(),
        ])
    }

    #[test]
    fn a_report_to_read() {
        let expected = "\
Agent
  PROBLEM  127.0.0.1:5000 is taken by process 812 (nginx) [port-taken]
           The agent cannot listen there, and runtimes that are pointed at
           the port ask somebody else.
        -> Stop the other process.
  ok       answers

Store
  ok       41.2 GB free

1 problem, 0 warnings
";
        assert_eq!(Text { width: 76, colours: false }.of(&report()), expected);
    }

    #[test]
    fn what_several_have_in_common_is_said_once() {
        let found = |port: u16| TAKEN.found(format!("127.0.0.1:{port} is taken")).into();
        let text = Text { width: 76, colours: false }.of(&Report::new(vec![found(1), found(2), found(3)]));
        assert_eq!(text.matches("[port-taken]").count(), 3);
        assert_eq!(text.matches("-> Stop the other process.").count(), 1);
    }

    #[test]
    fn colours_change_no_word() {
        let coloured = Text { width: 76, colours: true }.of(&report());
        let mut plain = String::new();
        let mut parts = coloured.split('\x1b');
        plain.push_str(parts.next().unwrap_or_default());
        parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
        let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
        let expected = Text { width: 76, colours: false }.of(&report());
        assert_eq!(trimmed, expected.lines().collect::<Vec<_>>());
        assert!(coloured.contains("\x1b[1;31mPROBLEM"));
    }

    #[test]
    fn long_words_stand_alone() {
        assert_eq!(wrapped("a bb /a/very/long/path c", 6), ["a bb", "/a/very/long/path", "c"]);
    }
}
