//! What is said on the command line on top of a file, and the combinations of a sweep.
//!
//! Invariant: an override wins over the file and over the file's sweep of that key.

use std::fmt;
use std::str::FromStr;

use toml::{Table, Value};

use super::problem::Problem;

/// Most runs of one file's sweep.
const VARIANTS_MAX: usize = 100;

/// `key=value`, where the key may be dotted (`link.up`, `zones.0.uplink`). The value is TOML; what is not is a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Value,
}

impl Override {
    /// Sets a key to a number.
    pub fn number(key: &str, value: u64) -> Self {
        Override { key: key.into(), value: Value::Integer(value.try_into().unwrap_or(i64::MAX)) }
    }
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            format!("`{text}` has no `=`; write a key and its value, such as link.up=25Gbit/s")
        })?;
        let (key, value) = (key.trim(), value.trim());
        if key.split('.').any(str::is_empty) {
            return Err(format!("`{key}` is not a key; write one such as link.up"));
        }
        let parsed =
            format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        match parsed {
            Some(value) => Ok(Override { key: key.into(), value }),
            None if value.starts_with(['[', '{']) => {
                Err(format!("`{value}` is not TOML; texts in lists and tables need quotes: '[\"1GiB\"]'"))
            }
            None => Ok(Override { key: key.into(), value: Value::String(value.into()) }),
        }
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// The tables of all runs, each with what is appended to the scenario's name.
pub(super) fn variants(text: &str, overrides: &[Override]) -> Result<Vec<(String, Table)>, Vec<Problem>> {
    let syntax = |error: toml::de::Error| vec![Problem::new("", "", format!("not TOML: {error}"))];
    let mut table: Table = text.parse().map_err(syntax)?;
    let mut problems = Vec::new();
    let mut sweep = match table.remove("sweep") {
        None => Table::new(),
        Some(Value::Table(sweep)) => sweep,
        Some(_) => {
            problems.push(Problem::new("sweep", "", "expected a table of keys with lists of values"));
            Table::new()
        }
    };
    for Override { key, value } in overrides {
        sweep.remove(key);
        if let Err(problem) = set(&mut table, key, value.clone()) {
            problems.push(problem);
        }
    }
    let mut runs = vec![(String::new(), table)];
    for (key, values) in &sweep {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            problems.push(Problem::new(&format!("sweep.{key}"), values, "expected a list of values"));
            continue;
        };
        if runs.len() * values.len() > VARIANTS_MAX {
            problems.push(Problem::new(
                "sweep",
                "",
                format!("must have at most {VARIANTS_MAX} combinations"),
            ));
            break;
        }
        let mut more = Vec::new();
        for (suffix, table) in &runs {
            for value in values {
                let mut table = table.clone();
                if let Err(problem) = set(&mut table, key, value.clone()) {
                    problems.push(problem);
                }
                more.push((format!("{suffix}-{}", short(value)), table));
            }
        }
        runs = more;
    }
    problems.dedup();
    if problems.is_empty() { Ok(runs) } else { Err(problems) }
}

/// Sets a dotted key; tables that are not there are made, elements of lists are named by their index.
fn set(table: &mut Table, key: &str, value: Value) -> Result<(), Problem> {
    let mut steps = key.split('.');
    let first = steps.next().unwrap_or(key);
    let wrong = |remedy: String| Problem::new(key, &value, remedy);
    let mut place = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    for step in steps {
        place = match place {
            Value::Table(inner) => inner.entry(step).or_insert_with(|| Value::Table(Table::new())),
            Value::Array(list) => {
                let count = list.len();
                let index: Option<usize> = step.parse().ok();
                let element = index.and_then(|index| list.get_mut(index));
                element.ok_or_else(|| wrong(format!("`{step}` must be an index below {count}")))?
            }
            _ => return Err(wrong(format!("there is nothing below `{first}` that could be set"))),
        };
    }
    *place = value;
    Ok(())
}

/// A swept value as part of a name.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(short).collect::<Vec<_>>().join("+"),
        Value::Table(table) => table.values().map(short).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    };
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.')).collect()
}
