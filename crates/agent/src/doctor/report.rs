//! Everything that was found, in order, for people and machines.

use serde::Serialize;

use super::finding::{Group, Level, Outcome};

/// What the checks have come to: by group, in each the worst first and what is well at the end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
}

/// One line of the report, for machines.
#[derive(Debug, Serialize)]
struct Line<'r> {
    /// Identifier; none for what is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'static str>,
    group: Group,
    /// `ok`, `hint`, `warning` or `problem`.
    level: &'static str,
    what: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    means: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'r str>,
}

impl Report {
    /// Puts them in order. What was found twice is told once.
    pub fn new(mut outcomes: Vec<Outcome>) -> Self {
        let rank =
            |outcome: &Outcome| (outcome.group(), outcome.level().map_or(u8::MAX, |level| level as u8));
        outcomes.sort_by_key(rank);
        outcomes.dedup();
        Report { outcomes }
    }

    /// The same without some parts of the node.
    #[must_use]
    pub fn without(mut self, groups: &[Group]) -> Self {
        self.outcomes.retain(|outcome| !groups.contains(&outcome.group()));
        self
    }

    /// What belongs to a group, in order.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |outcome| outcome.group() == group)
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.level() == Some(level)).count()
    }

    /// The whole, for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let lines: Vec<Line<'_>> = self.outcomes.iter().map(line).collect();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "problems": self.count(Level::Problem),
            "warnings": self.count(Level::Warning),
            "hints": self.count(Level::Hint),
            "checks": lines,
        })
    }
}

fn line(outcome: &Outcome) -> Line<'_> {
    match outcome {
        Outcome::Well { group, what } => {
            Line { id: None, group: *group, level: "ok", what, means: None, remedy: None }
        }
        Outcome::Found(finding) => Line {
            id: Some(finding.kind.id),
            group: finding.kind.group,
            level: finding.level.word(),
            what: &finding.what,
            means: Some(finding.kind.means),
            remedy: Some(finding.what_to_do()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Kind;
    use super::*;

    static BAD: Kind = Kind {
        id: "bad",
        group: Group::Store,
        level: Level::Problem,
        means: "it is bad",
        remedy: "make it good",
    };

    #[test]
    fn the_worst_stands_first_in_its_group() {
        let report = Report::new(vec![
            Outcome::well(Group::Swarm, "others"),
            Outcome::well(Group::Store, "disk"),
            BAD.found("a").at_most(Level::Hint).into(),
            BAD.found("b").into(),
            BAD.found("b").into(),
            BAD.found("c").at_most(Level::Warning).remedy("leave it").into(),
        ]);
        let json = report.to_json();
        let read = |name: &str| -> Vec<&str> {
            json["checks"].as_array().unwrap().iter().filter_map(|line| line[name].as_str()).collect()
        };
        assert_eq!(read("what"), ["b", "c", "a", "disk", "others"]);
        assert_eq!(read("level"), ["problem", "warning", "hint", "ok", "ok"]);
        assert_eq!(read("remedy"), ["make it good", "leave it", "make it good"]);
        assert_eq!((&json["problems"], &json["warnings"], &json["hints"]), (&1.into(), &1.into(), &1.into()));
    }
}
