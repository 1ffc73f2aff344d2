//! OpenShift's objects: ImageDigestMirrorSet, ImageTagMirrorSet, and ImageContentSourcePolicy, which came before them and
//! is honoured as long as it is there (M6).

use std::path::Path;

use serde::Deserialize;
use serde_saphyr::Spanned;
use shoal_engine::Location;
use shoal_engine::mirrors::SourceScope;

use super::{FoundMirror, FoundSet, Import, Note, Place};

/// Deepest nesting of lists of objects: `kubectl get` makes one.
const LISTS_DEPTH_MAX: usize = 4;

/// A Kubernetes object, as far as it may matter. Everything else in it is skipped.
#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    items: Option<Vec<Object>>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    image_digest_mirrors: Option<Vec<Entry>>,
    #[serde(default)]
    image_tag_mirrors: Option<Vec<Entry>>,
    #[serde(default)]
    repository_digest_mirrors: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    source: Spanned<String>,
    #[serde(default)]
    mirrors: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    mirror_source_policy: Option<Spanned<String>>,
}

/// What the mirrors of an object are there for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digests,
    Tags,
    /// As `Digests`; of the kind that came before.
    ContentSourcePolicy,
}

pub(super) fn read(import: &mut Import, path: &Path, text: &str) {
    // Snippets of the file could show what stands beside the error, which in such files may be a Secret.
    let options = serde_saphyr::options! { with_snippet: false };
    let objects: Result<Vec<Object>, _> = serde_saphyr::from_multiple_with_options(text, options);
    match objects {
        Ok(objects) => objects.into_iter().for_each(|object| self::object(import, path, object, 0)),
        Err(error) => {
            let error = error.without_snippet();
            let at = error.location().map(|location| place(path, location));
            import.problem(
                at.unwrap_or_else(|| Place::whole(path)),
                format!("cannot be read as Kubernetes objects: {error}"),
            );
        }
    }
}

fn place(path: &Path, location: serde_saphyr::Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place { file: path.to_owned(), at: Some((number(location.line()), number(location.column()))) }
}

fn object(import: &mut Import, path: &Path, object: Object, depth: usize) {
    if let Some(items) = object.items.filter(|_| object.kind.ends_with("List") && depth < LISTS_DEPTH_MAX) {
        items.into_iter().for_each(|item| self::object(import, path, item, depth + 1));
        return;
    }
    let spec = object.spec.unwrap_or_default();
    let (kind, entries) = match object.kind.as_str() {
        "ImageDigestMirrorSet" => (Kind::Digests, spec.image_digest_mirrors),
        "ImageTagMirrorSet" => (Kind::Tags, spec.image_tag_mirrors),
        "ImageContentSourcePolicy" => (Kind::ContentSourcePolicy, spec.repository_digest_mirrors),
        other => {
            let text = format!("{} {:?}: is not about mirrors", kind_name(other), object.metadata.name);
            import.note(Place::whole(path), text);
            return;
        }
    };
    let entries = entries.unwrap_or_default();
    let is_one = entries.len() == 1;
    for (index, entry) in entries.into_iter().enumerate() {
        let name =
            if is_one { object.metadata.name.clone() } else { format!("{}[{index}]", object.metadata.name) };
        match set(path, name, kind, entry) {
            Ok(set) if set.mirrors.is_empty() => {
                let text = format!("set {}: has no mirrors, and does nothing there either", set.name);
                import.note(set.place, text);
            }
            Ok(set) => import.sets.push(set),
            Err(problem) => import.problems.push(problem),
        }
    }
}

fn kind_name(kind: &str) -> &str {
    if kind.is_empty() { "an object without a kind" } else { kind }
}

fn set(path: &Path, name: String, kind: Kind, entry: Entry) -> Result<FoundSet, Note> {
    let wrong = |value: &Spanned<String>, what: &str, error: &dyn std::fmt::Display| Note {
        place: place(path, value.referenced),
        text: format!("{what} of {name}: {error}"),
    };
    let source =
        entry.source.value.parse::<SourceScope>().map_err(|error| wrong(&entry.source, "source", &error))?;
    let policy = entry.mirror_source_policy.as_ref();
    let never_contact_source = match policy.map(|policy| (policy, policy.value.as_str())) {
        None | Some((_, "" | "AllowContactingSource")) => false,
        Some((_, "NeverContactSource")) => true,
        Some((policy, _)) => {
            let expected = "must be NeverContactSource or AllowContactingSource";
            return Err(wrong(policy, "mirrorSourcePolicy", &expected));
        }
    };
    let mut mirrors = Vec::new();
    for mirror in entry.mirrors.unwrap_or_default() {
        let location = mirror.value.parse::<Location>().map_err(|error| wrong(&mirror, "mirror", &error))?;
        mirrors.push(FoundMirror {
            location,
            digests: kind != Kind::Tags,
            tags: kind == Kind::Tags,
            place: place(path, mirror.referenced),
        });
    }
    Ok(FoundSet {
        source,
        mirrors,
        never_contact_source,
        ends_at_substitute: false,
        is_superseded_kind: kind == Kind::ContentSourcePolicy,
        place: place(path, entry.source.referenced),
        name,
    })
}
