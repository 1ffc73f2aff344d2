//! Dashboard, alert rules and their manual: they speak of nothing that an agent does not export, of each other, and Prometheus
//! understands them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shoal_agent::metrics::{Metrics, Served};
use shoal_tests::agent::Agent;
use shoal_tests::helm;
use shoal_tests::image::Blob;
use shoal_tests::origin::Origin;
use shoal_tests::place;
use shoal_tests::process::run;

/// Labels that Prometheus adds to what it scrapes.
const OF_PROMETHEUS: &[&str] = &["instance", "job"];

fn monitoring(file: &str) -> PathBuf {
    helm::deploy().join("monitoring").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(monitoring(file)).expect("it is there")
}

/// Names of samples with the names of their labels.
type Samples = BTreeMap<String, BTreeSet<String>>;

/// What an exposition has.
fn samples(exposition: &str) -> Samples {
    let mut found = Samples::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let (head, _) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once("=\""));
        found.entry(name.to_owned()).or_default().extend(labels.map(|(label, _)| label.to_owned()));
    }
    found
}

/// The exposition of an agent to which everything has happened: metrics with labels are there from the first time on.
fn everything() -> String {
    let metrics = Metrics::new();
    metrics.store_degraded(None);
    metrics.served(Served::Store, 1);
    metrics.request("blob", 200, 0.1);
    metrics.upstream_request("r.test", "blob-get", "ok");
    metrics.upstream_bytes("r.test").inc();
    metrics.upstream_resume("r.test");
    metrics.upstream_retry("r.test");
    metrics.on_its_own("silence");
    metrics.hit(Served::Store);
    metrics.tier_request("get", "hit");
    metrics.tier_upload_dropped("no-room");
    metrics.quarantined("r.test");
    metrics.source_down("r.test").set(1);
    metrics.upstream_rate_limit("r.test", 100, 7);
    metrics.encode()
}

/// The metrics of an expression and the labels that it selects or sums by.
fn used(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(at) = rest.find("shoal_") {
        let name: String = rest[at..].chars().take_while(|c| is_word(*c)).collect();
        rest = &rest[at + name.len()..];
        if let Some((matchers, _)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            let matcher = |m: &str| m.split(['=', '!']).next().unwrap_or_default().trim().to_owned();
            labels.extend(matchers.split(',').map(matcher));
        }
        names.insert(name);
    }
    for part in expression.split(" by (").skip(1) {
        let (list, _) = part.split_once(')').expect("a list ends");
        labels.extend(list.split(',').map(|label| label.trim().to_owned()));
    }
    (names, labels)
}

/// Fails unless an agent exports what the expression speaks of. Returns the metrics.
fn expect_exported(place: &str, expression: &str, shown: &[String], exported: &Samples) -> BTreeSet<String> {
    let (names, labels) = used(expression);
    let mut known: BTreeSet<&str> = OF_PROMETHEUS.iter().copied().collect();
    for name in &names {
        let of_this =
            exported.get(name).unwrap_or_else(|| panic!("{place}: no agent exports {name}: {expression}"));
        known.extend(of_this.iter().map(String::as_str));
    }
    for label in labels.iter().chain(shown) {
        assert!(known.contains(label.as_str()), "{place}: no label {label} on {names:?}: {expression}");
    }
    names
}

/// The expressions of a dashboard with the labels that their legends show.
fn expressions(dashboard: &Value) -> Vec<(String, String, Vec<String>)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |key: &str| target[key].as_str().expect("text").to_owned();
            let legend = text("legendFormat");
            let shown = legend.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
            let shown = shown.map(|(label, _)| label.trim().to_owned()).collect();
            found.push((panel["title"].as_str().expect("a title").to_owned(), text("expr"), shown));
        }
    }
    found
}

fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read("alerts.yaml")).expect("it is YAML");
    let groups = file["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn what_the_dashboard_shows_is_exported_and_what_is_exported_is_shown() {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("it is JSON");
    let exported = samples(&everything());
    let mut shown = BTreeSet::new();
    for (title, expression, legend) in expressions(&dashboard) {
        shown.extend(expect_exported(&title, &expression, &legend, &exported));
    }
    // A histogram is shown by its buckets.
    let is_shown = |name: &String| {
        let histogram = name.trim_end_matches("_sum").trim_end_matches("_count");
        shown.contains(name) || shown.contains(&format!("{histogram}_bucket"))
    };
    let hidden: Vec<_> = exported.keys().filter(|name| !is_shown(name)).collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
    let ids: Vec<_> =
        dashboard["panels"].as_array().expect("panels").iter().map(|panel| &panel["id"]).collect();
    assert_eq!(
        ids.iter().map(|id| id.to_string()).collect::<BTreeSet<_>>().len(),
        ids.len(),
        "ids are unique"
    );
}

#[test]
fn what_the_alerts_look_at_is_exported() {
    let exported = samples(&everything());
    let rules = rules();
    assert!(rules.len() >= 7);
    for rule in &rules {
        let name = rule["alert"].as_str().expect("a name");
        let annotations = rule["annotations"].to_string();
        let told = annotations.split("$labels.").skip(1);
        let told: Vec<String> = told
            .map(|part| part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
            .collect();
        let expression = rule["expr"].as_str().expect("text");
        let names = expect_exported(name, expression, &told, &exported);
        assert!(!names.is_empty() || expression.starts_with("up{"), "{name}");
    }
}

/// A real agent exports what the list above has, with these labels, and says of each metric what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_exports_what_is_compared_with() {
    let origin = Origin::start().await;
    let blob = Blob::noise(41, 100_000);
    origin.add_blob(&blob);
    let agent = Agent::start(&origin.url()).await;
    for _ in 0..2 {
        agent.get_blob("team/app", &blob.digest).await.expect(200, &blob.bytes);
        agent.until_idle().await;
    }
    let exposition = agent.metrics().await;
    let (real, all) = (samples(&exposition), samples(&everything()));
    for (name, labels) in &real {
        assert_eq!(Some(labels), all.get(name), "{name}");
    }
    for name in all.iter().filter(|(_, labels)| labels.is_empty()).map(|(name, _)| name) {
        assert!(real.contains_key(name), "a real agent does not export {name}");
    }
    for name in
        ["shoal_served_bytes_total", "shoal_upstream_bytes_total", "shoal_requests_total", "shoal_build_info"]
    {
        assert!(real.contains_key(name), "{name}: {exposition}");
    }
    assert!(agent.metric("store_capacity_bytes", &[]).await > agent.metric("store_bytes", &[]).await);
    for line in everything().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, _) = line.split_once(' ').expect("a name and a type");
        let help = format!("# HELP {name} ");
        let text = everything().lines().find_map(|line| line.strip_prefix(&help).map(str::to_owned));
        assert!(text.is_some_and(|text| text.len() > 10), "{name} has no help text");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_understands_the_alerts() {
    let promtool = place::program("promtool", "prometheus");
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let mut command = Command::new(&promtool);
        command.args(args).current_dir(monitoring("."));
        run(&mut command, Duration::from_secs(60)).await.expect_ok(&args.join(" "));
    }
    // Each fires in a test of its own.
    let tests: Value = serde_saphyr::from_str(&read("alerts_test.yaml")).expect("it is YAML");
    let cases = tests["tests"].as_array().expect("tests").iter();
    let checks: Vec<&Value> =
        cases.flat_map(|case| case["alert_rule_test"].as_array().expect("checks")).collect();
    for rule in rules() {
        let fires = |check: &&&Value| {
            check["alertname"] == rule["alert"]
                && check["exp_alerts"].as_array().is_some_and(|fired| !fired.is_empty())
        };
        assert!(checks.iter().any(|check| fires(&check)), "no test in which {} fires", rule["alert"]);
    }
}

/// The manual's table has every alert, in the order of the rules, with its severity, what it means and what to do.
#[test]
fn the_manual_has_every_alert() {
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `Shoal"));
    let rows: Vec<Vec<&str>> =
        rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect();
    let told: Vec<(String, &str)> = rows.iter().map(|row| (format!("Shoal{}", row[0]), row[1])).collect();
    let rules = rules();
    let known = rules.iter().map(|rule| {
        (
            rule["alert"].as_str().expect("a name").to_owned(),
            rule["labels"]["severity"].as_str().expect("a severity"),
        )
    });
    assert_eq!(told, known.collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row[2].len() > 20 && row[3].len() > 20));
}
