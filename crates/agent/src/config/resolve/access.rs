//! The access rules: each by itself, then all against each other.

use shoal_engine::Location;
use shoal_engine::access::{Action, Pattern, Rule, Rules};

use super::{Findings, quoted};
use crate::config::schema::{Access, AccessAction, AccessRule};

pub(super) fn resolve(access: &Access, found: &mut Findings<'_, '_>) -> Rules {
    // With the place in the file: a rule that was refused is missing among the others.
    let rules: Vec<(usize, Rule)> = access
        .rules
        .iter()
        .enumerate()
        .filter_map(|(index, written)| Some((index, rule(index, written, found)?)))
        .collect();
    let place: Vec<usize> = rules.iter().map(|(index, _)| *index).collect();
    match Rules::new(rules.into_iter().map(|(_, rule)| rule).collect()) {
        Ok(rules) => rules,
        Err(conflicts) => {
            for conflict in conflicts {
                let (first, second) = (place[conflict.first], place[conflict.second]);
                found.add(
                    &format!("access.rules[{second}].match"),
                    Some(quoted(&access.rules[second].pattern)),
                    format!(
                        "is about the same as access.rules[{first}], which says {}; put both into one",
                        quoted(&access.rules[first].pattern)
                    ),
                );
            }
            Rules::default()
        }
    }
}

fn rule(index: usize, written: &AccessRule, found: &mut Findings<'_, '_>) -> Option<Rule> {
    let key = |name: &str| format!("access.rules[{index}].{name}");
    let pattern = match written.pattern.parse::<Pattern>() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            found.add(&key("match"), Some(quoted(&written.pattern)), error.to_string());
            None
        }
    };
    let action = match written.action {
        AccessAction::Allow => Action::Allow,
        AccessAction::Deny => Action::Deny,
        AccessAction::LocalOnly => Action::LocalOnly,
    };
    let upstream = match written.upstream.as_deref().map(str::parse::<Location>) {
        None => None,
        Some(Ok(_)) if action != Action::Allow => {
            found.add(
                &key("upstream"),
                None,
                "has no meaning where nobody is asked; only with action = \"allow\"",
            );
            None
        }
        Some(Ok(location)) => Some(location),
        Some(Err(error)) => {
            // The error names the value itself.
            found.add(
                &key("upstream"),
                None,
                format!("must be host[:port][/prefix], such as \"prod.example.com/team\": {error}"),
            );
            None
        }
    };
    Some(Rule { pattern: pattern?, action, upstream })
}
