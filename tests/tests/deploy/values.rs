//! The chart's values: each is explained where it stands, in the README's table, and known to the schema.

use std::collections::BTreeSet;

use serde_json::Value;
use shoal_agent::config::SAMPLE;
use shoal_tests::helm;

use super::expect_file;

const BEGIN: &str = "writes it -->\n";
const END: &str = "<!-- values end -->";

/// A value with the explanation above it.
struct Explained {
    path: Vec<String>,
    text: String,
}

/// Reads `values.yaml` by its lines: what a comment stands right above is explained by it, with all that is in it.
fn explained(yaml: &str) -> Vec<Explained> {
    let (mut found, mut comment) = (Vec::new(), Vec::new());
    let mut around: Vec<(usize, String)> = Vec::new();
    let mut inside: Option<usize> = None;
    for line in yaml.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            comment.push(words.strip_prefix(' ').unwrap_or(words).to_owned());
            continue;
        }
        let key = text.split_once(':').map(|(key, _)| key).filter(|_| !text.starts_with('-'));
        let is_inside = inside.is_some_and(|outer| indent > outer);
        if let (Some(key), false) = (key, is_inside) {
            around.retain(|(outer, _)| *outer < indent);
            around.push((indent, key.to_owned()));
            inside = None;
            if !comment.is_empty() {
                let path = around.iter().map(|(_, key)| key.clone()).collect();
                found.push(Explained { path, text: prose(&comment) });
                inside = Some(indent);
            }
        }
        comment.clear();
    }
    found
}

/// The sentences of a comment; examples, which are indented, are for those who read the file.
fn prose(comment: &[String]) -> String {
    let sentences: Vec<&str> =
        comment.iter().filter(|line| !line.starts_with(' ')).map(|line| line.trim()).collect();
    sentences.join(" ").trim_end_matches(" For example:").to_owned()
}

/// Every value that nothing explains.
fn unexplained(value: &Value, path: &mut Vec<String>, explained: &[Explained], found: &mut Vec<String>) {
    if explained.iter().any(|entry| entry.path == *path) {
        return;
    }
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                path.push(key.clone());
                unexplained(value, path, explained, found);
                path.pop();
            }
        }
        _ => found.push(path.join(".")),
    }
}

/// Every value is known to the schema by name.
fn unknown(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let (Some(table), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (key, value) in table {
        match properties.get(key) {
            Some(schema) => unknown(value, schema, &format!("{path}{key}."), found),
            None => found.push(format!("{path}{key}")),
        }
    }
}

fn schema() -> Value {
    let text = std::fs::read_to_string(helm::chart().join("values.schema.json")).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// What the agent can be told, the chart can be told: for all nodes, and for those of a pool.
#[test]
fn every_table_of_the_configuration_is_a_value() {
    let schema = schema();
    let names = schema["definitions"]["config"]["propertyNames"]["enum"].as_array().expect("a list").iter();
    let known: BTreeSet<&str> = names.map(|name| name.as_str().expect("text")).collect();
    let sample: toml::Table = SAMPLE.parse().expect("it is TOML");
    let tables: BTreeSet<&str> = sample.keys().map(String::as_str).collect();
    assert_eq!(known, tables, "values.schema.json and config/shoal.toml");
    let pools = &schema["properties"]["pools"]["additionalProperties"]["properties"]["config"];
    for place in [&schema["properties"]["config"], pools] {
        assert_eq!(place["$ref"], "#/definitions/config");
    }
}

#[test]
fn values_are_explained() {
    let yaml = std::fs::read_to_string(helm::chart().join("values.yaml")).expect("it is there");
    let values: Value = serde_saphyr::from_str(&yaml).expect("it is YAML");
    let explained = explained(&yaml);
    assert!(explained.len() > 50, "{}", explained.len());
    let mut found = Vec::new();
    unexplained(&values, &mut Vec::new(), &explained, &mut found);
    assert!(found.is_empty(), "not explained in values.yaml: {found:?}");

    let mut found = Vec::new();
    unknown(&values, &schema(), "", &mut found);
    assert!(found.is_empty(), "not in values.schema.json: {found:?}");

    let mut table = String::from("| value | default | |\n| --- | --- | --- |\n");
    for Explained { path, text } in &explained {
        let default = path.iter().fold(&values, |value, key| &value[key]);
        let default = match default {
            Value::String(text) if text.is_empty() => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        table += &format!("| `{}` | {default} | {} |\n", path.join("."), text.replace('|', "\\|"));
    }
    let file = helm::chart().join("README.md");
    let readme = std::fs::read_to_string(&file).expect("it is there");
    let (before, rest) = readme.split_once(BEGIN).expect("the table begins");
    let (_, after) = rest.split_once(END).expect("the table ends");
    expect_file(&file, &format!("{before}{BEGIN}{table}{END}{after}"));
}
