//! The images of Kubernetes objects: of pods, and of everything that has the template of a pod where the known kinds have
//! it, so that custom kinds which follow them (Argo's Rollout, Knative's Service) are understood too.
//!
//! What has no pod in it is skipped: a chart has services and config maps beside its deployments.

use serde_json::Value;

/// Deepest nesting of lists of objects: `kubectl get` makes one.
const LISTS_DEPTH_MAX: usize = 4;

/// Where the specification of a pod stands: in a Pod; in a Deployment, StatefulSet, DaemonSet, ReplicaSet,
/// ReplicationController or Job; in a CronJob; in a PodTemplate.
const POD_SPECS: [&str; 4] =
    ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec", "/template/spec"];

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The images that a file's objects name, each with the object that does, in their order.
///
/// # Errors
/// Why the file cannot be read.
pub(super) fn images(text: &str) -> Result<Vec<(String, String)>, String> {
    // Snippets of the file could show what stands beside the error, which in such files may be a Secret.
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple_with_options(text, options);
    let documents = documents.map_err(|error| {
        let error = error.without_snippet();
        let rendered = if text.contains("{{") {
            "; it looks like a template: render it first (helm template)"
        } else {
            ""
        };
        format!("cannot be read as Kubernetes objects: {error}{rendered}")
    })?;
    let mut found = Vec::new();
    documents.iter().for_each(|document| object(document, 0, &mut found));
    Ok(found)
}

fn object(object: &Value, depth: usize, found: &mut Vec<(String, String)>) {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if let Some(items) = object.get("items").and_then(Value::as_array)
        && depth < LISTS_DEPTH_MAX
    {
        items.iter().for_each(|item| self::object(item, depth + 1, found));
        return;
    }
    let name = format!("{} {}", word("/kind"), word("/metadata/name"));
    for spec in POD_SPECS.iter().filter_map(|pointer| object.pointer(pointer)) {
        let listed = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
        let containers = CONTAINERS.iter().flat_map(|key| listed(key)).filter_map(|c| c.get("image"));
        let volumes = listed("volumes").filter_map(|volume| volume.pointer("/image/reference"));
        let images =
            containers.chain(volumes).filter_map(Value::as_str).filter(|image| !image.trim().is_empty());
        found.extend(images.map(|image| (name.trim().to_owned(), image.trim().to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        images(text).unwrap().into_iter().map(|(_, image)| image).collect()
    }

    #[test]
    fn every_kind_with_a_pod_in_it() {
        let pod = "{containers: [{name: a, image: one}, {image: two}], initContainers: [{image: zero}], \
                   ephemeralContainers: [{image: debug}]}";
        let expected = ["zero", "one", "two", "debug"];
        assert_eq!(found(&format!("kind: Pod\nspec: {pod}")), expected);
        assert_eq!(found(&format!("kind: PodTemplate\ntemplate: {{spec: {pod}}}")), expected);
        for kind in [
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ReplicaSet",
            "ReplicationController",
            "Job",
            "Rollout",
        ] {
            assert_eq!(
                found(&format!("kind: {kind}\nspec: {{template: {{spec: {pod}}}}}")),
                expected,
                "{kind}"
            );
        }
        let cron = format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {{spec: {pod}}}}}}}}}");
        assert_eq!(found(&cron), expected);
        let list = format!(
            "kind: List\nitems: [{{kind: Pod, spec: {pod}}}, {{kind: PodList, items: [{{spec: {pod}}}]}}]"
        );
        assert_eq!(found(&list), [expected, expected].concat());
    }

    /// What `helm template` prints: documents with comments, some of them empty, and much that has no image.
    #[test]
    fn a_rendered_chart() {
        let text = "\
---
# Source: app/templates/config.yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  image: not-this-one
  text: |
    containers:
    - image: nor-this-one
---
# Source: app/templates/empty.yaml
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      containers:
      - name: web
        image: \"registry.example.com/web:1.2\"
        imagePullPolicy: IfNotPresent
      volumes:
      - name: model
        image: {reference: registry.example.com/model:7, pullPolicy: IfNotPresent}
      - name: config
        configMap: {name: settings}
";
        let found = images(text).unwrap();
        assert_eq!(
            found,
            [
                ("Deployment web".to_owned(), "registry.example.com/web:1.2".to_owned()),
                ("Deployment web".to_owned(), "registry.example.com/model:7".to_owned()),
            ]
        );
    }

    #[test]
    fn json_is_read_too() {
        let text = r#"{"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"image": "redis:7", "args": ["{{"]}]}}]}"#;
        assert_eq!(images(text).unwrap(), [("Pod a".to_owned(), "redis:7".to_owned())]);
    }

    #[test]
    fn what_is_no_object() {
        for nothing in ["", "---\n---\n", "just text", "[1, 2]", "kind: Service\nspec: {ports: []}"] {
            assert_eq!(found(nothing), Vec::<String>::new(), "{nothing:?}");
        }
        let error = images("kind: Pod\nspec: {{ .Values.spec }}\n  x: [").unwrap_err();
        assert!(error.contains("helm template"), "{error}");
    }
}
