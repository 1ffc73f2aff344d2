//! Traces: where they go, and whether this program can send them at all.

use std::net::SocketAddr;
use std::path::Path;

use url::Url;

use super::registries::{certificates, endpoint, readable};
use super::{Findings, quoted};
use crate::config::schema;
use crate::trace::{self, TraceSettings};

/// What a collector's address looks like.
const COLLECTOR: &str = "http://collector.example.com:4318";

/// `None` where nobody takes traces. `can_export` says whether the program has what it needs for that.
pub(super) fn resolve(
    file: &schema::File,
    listener: Option<SocketAddr>,
    can_export: bool,
    found: &mut Findings<'_, '_>,
) -> Option<TraceSettings> {
    let traces = &file.traces;
    if !can_export {
        refuse(traces, found);
        return None;
    }
    let written = traces.endpoint.as_deref();
    let url = written.map(|text| endpoint("traces.endpoint", text, COLLECTOR, "traces.headers_file", found));
    ratio(traces.ratio, found);
    let headers_file = traces.headers_file.as_deref();
    if let Some(path) = headers_file {
        headers(path, found);
    }
    let ca = traces.ca.as_deref().and_then(|path| certificates("traces.ca", path, found));
    if url.is_none() {
        for (key, value) in set(traces) {
            found.add(key, value, "is for the collector that traces.endpoint names, which is missing");
        }
    }
    Some(TraceSettings {
        endpoint: plain_needs_no_ca(url??, traces, found),
        ratio: traces.ratio,
        headers_file: traces.headers_file.clone(),
        ca,
        instance: listener.map(|address| address.to_string()).unwrap_or_default(),
        zone: file.swarm.zone.clone(),
    })
}

/// The keys that have a value, and those values that may be shown.
fn set(traces: &schema::Traces) -> impl Iterator<Item = (&'static str, Option<String>)> {
    let path = |path: &Path| Some(quoted(&path.to_string_lossy()));
    let keys = [
        traces.endpoint.as_ref().map(|_| ("traces.endpoint", None)),
        traces.ratio.map(|ratio| ("traces.ratio", Some(ratio.to_string()))),
        traces.headers_file.as_deref().map(|file| ("traces.headers_file", path(file))),
        traces.ca.as_deref().map(|file| ("traces.ca", path(file))),
    ];
    keys.into_iter().flatten()
}

fn refuse(traces: &schema::Traces, found: &mut Findings<'_, '_>) {
    for (key, value) in set(traces) {
        let remedy = format!(
            "this program was built without the feature {:?} and cannot export traces; use one that was built with it, or remove the key",
            trace::FEATURE
        );
        found.add(key, value, remedy);
    }
}

fn ratio(ratio: Option<f64>, found: &mut Findings<'_, '_>) {
    if let Some(ratio) = ratio.filter(|ratio| !(0.0..=1.0).contains(ratio)) {
        found.add("traces.ratio", Some(ratio.to_string()), "must be from 0 (no pull) to 1 (all of them)");
    }
}

fn headers(path: &Path, found: &mut Findings<'_, '_>) {
    const KEY: &str = "traces.headers_file";
    let before = found.problems.len();
    readable(KEY, path, found);
    if found.problems.len() == before
        && let Err(error) = trace::read_headers(path)
    {
        found.add(KEY, Some(quoted(&path.to_string_lossy())), error.to_string());
    }
}

fn plain_needs_no_ca(url: Url, traces: &schema::Traces, found: &mut Findings<'_, '_>) -> Url {
    if url.scheme() == "http" && traces.ca.is_some() {
        found.add(
            "traces.ca",
            None,
            "has no meaning for an http:// endpoint; make it https:// or remove the key",
        );
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeFacts;

    #[test]
    fn a_program_that_cannot_export_says_what_it_lacks() {
        let mut file = schema::File::default();
        let facts = NodeFacts::default();
        let mut nothing = Findings { document: None, facts: &facts, problems: Vec::new() };
        assert!(resolve(&file, None, false, &mut nothing).is_none());
        assert_eq!(nothing.problems, [], "who wants no traces is told nothing");
        file.traces.endpoint = Some("http://user:secret@collector.test:4318".into());
        file.traces.ratio = Some(0.5);
        let mut refused = Findings { document: None, facts: &facts, problems: Vec::new() };
        assert!(resolve(&file, None, false, &mut refused).is_none());
        let told: Vec<String> = refused.problems.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        traces.endpoint: this program was built without the feature "otlp" and cannot export traces; use one that was built with it, or remove the key
        traces.ratio = 0.5: this program was built without the feature "otlp" and cannot export traces; use one that was built with it, or remove the key
        "#);
    }
}
