//! What a registry tells when something was pushed: which images are new, whatever registry it is.
//!
//! Two forms are understood: the notifications of Docker Distribution (an envelope of events), and Harbor's webhook in its
//! own form and as CloudEvents. Other events (pulls, deletions, scans) name nothing.

use serde::Deserialize;

use crate::image::Image;
use crate::manifest;

/// Events of one notification, and images of one event, that are looked at.
const EVENTS_MAX: usize = 100;

/// Why a notification says nothing. Whoever configured the registry has to act.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is neither form.
    #[error("this is neither a notification of Docker Distribution nor one of Harbor: {0}")]
    Form(String),
    /// It names what is no image.
    #[error("the notification names {name:?}: {reason}")]
    Name {
        /// What it names.
        name: String,
        /// Why that is none.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Notification {
    /// Docker Distribution.
    #[serde(default)]
    events: Vec<Event>,
    /// Harbor: `PUSH_ARTIFACT`, or `harbor.artifact.pushed` as a CloudEvent.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(alias = "data")]
    event_data: Option<HarborData>,
}

#[derive(Deserialize)]
struct Event {
    action: String,
    target: Target,
    request: Option<RequestOf>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    repository: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
}

#[derive(Deserialize)]
struct RequestOf {
    host: Option<String>,
}

#[derive(Deserialize)]
struct HarborData {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    resource_url: String,
    digest: Option<String>,
}

/// The images that were pushed. `registry` is their registry's name where it is known better than by what the registry
/// itself believes: it may have been pushed to under another name than the nodes pull from.
///
/// # Errors
/// See [`PushError`].
pub fn pushed(body: &[u8], registry: Option<&str>) -> Result<Vec<Image>, PushError> {
    let told: Notification =
        serde_json::from_slice(body).map_err(|error| PushError::Form(error.to_string()))?;
    if told.events.is_empty() && told.event_data.is_none() {
        return Err(PushError::Form("it has neither events nor event_data".into()));
    }
    let of_distribution = told.events.iter().take(EVENTS_MAX).filter_map(|event| event.name(registry));
    let is_push = told
        .kind
        .as_deref()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("PUSH_ARTIFACT") || kind == "harbor.artifact.pushed");
    let resources = told.event_data.iter().filter(|_| is_push).flat_map(|data| &data.resources);
    let of_harbor = resources.take(EVENTS_MAX).map(|resource| resource.name(registry));
    let mut images: Vec<Image> = Vec::new();
    for name in of_distribution.chain(of_harbor) {
        let image = name.parse::<Image>();
        let image =
            image.map_err(|error| PushError::Name { name: error.image.clone(), reason: error.reason })?;
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(images)
}

impl Event {
    /// The image, if it is one that was pushed: layers are events of their own, and images by digest alone are parts of an
    /// index whose event follows.
    fn name(&self, registry: Option<&str>) -> Option<String> {
        let is_manifest = self.target.media_type.as_deref().is_some_and(manifest::names_blobs);
        let host = registry.or(self.request.as_ref().and_then(|request| request.host.as_deref()))?;
        match (&self.target.repository, &self.target.tag) {
            (Some(repository), Some(tag)) if self.action == "push" && is_manifest => {
                Some(named(&format!("{host}/{repository}:{tag}"), self.target.digest.as_deref()))
            }
            _ => None,
        }
    }
}

impl Resource {
    fn name(&self, registry: Option<&str>) -> String {
        let url = &self.resource_url;
        let url = match (registry, url.split_once('/')) {
            (Some(registry), Some((_, rest))) => format!("{registry}/{rest}"),
            _ => url.clone(),
        };
        // An artifact without a tag is named by its digest alone.
        if url.contains('@') { url } else { named(&url, self.digest.as_deref()) }
    }
}

fn named(tagged: &str, digest: Option<&str>) -> String {
    digest.map_or_else(|| tagged.to_owned(), |digest| format!("{tagged}@{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn names(body: &serde_json::Value, registry: Option<&str>) -> Vec<String> {
        let images = pushed(body.to_string().as_bytes(), registry).unwrap();
        images.iter().map(ToString::to_string).collect()
    }

    fn event(action: &str, media_type: &str, tag: Option<&str>) -> serde_json::Value {
        serde_json::json!({
            "id": "1", "action": action,
            "target": {"mediaType": media_type, "repository": "team/app", "tag": tag, "digest": DIGEST, "size": 7},
            "request": {"host": "registry.internal:5000", "method": "PUT"},
        })
    }

    #[test]
    fn of_docker_distribution() {
        let body = serde_json::json!({"events": [
            event("push", "application/octet-stream", None),
            event("push", MANIFEST, None),
            event("push", MANIFEST, Some("v1")),
            event("push", MANIFEST, Some("v1")),
            event("pull", MANIFEST, Some("v2")),
        ]});
        assert_eq!(names(&body, None), [format!("registry.internal:5000/team/app:v1@{DIGEST}")]);
        let outside = Some("registry.example.com");
        assert_eq!(names(&body, outside), [format!("registry.example.com/team/app:v1@{DIGEST}")]);
    }

    #[test]
    fn of_harbor() {
        let resource = |url: &str| serde_json::json!({"digest": DIGEST, "tag": "v1", "resource_url": url});
        let own = |kind: &str, url: &str| serde_json::json!({"type": kind, "occur_at": 1, "operator": "admin", "event_data": {"resources": [resource(url)]}});
        let tagged = "harbor.example.com/proj/app:v1";
        let expected = [format!("{tagged}@{DIGEST}")];
        assert_eq!(names(&own("PUSH_ARTIFACT", tagged), None), expected);
        let by_digest = format!("harbor.example.com/proj/app@{DIGEST}");
        assert_eq!(names(&own("PUSH_ARTIFACT", &by_digest), None), [&*by_digest]);
        assert_eq!(names(&own("DELETE_ARTIFACT", tagged), None), [""; 0]);
        let cloud = serde_json::json!({
            "specversion": "1.0", "type": "harbor.artifact.pushed", "source": "/projects/1", "data": {"resources": [resource(tagged)]},
        });
        assert_eq!(names(&cloud, None), expected);
        assert_eq!(
            names(&cloud, Some("mirror.example.com")),
            [format!("mirror.example.com/proj/app:v1@{DIGEST}")]
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        for body in ["", "[]", "{}", r#"{"events":[]}"#, r#"{"type":"PUSH_ARTIFACT"}"#] {
            assert!(matches!(pushed(body.as_bytes(), None), Err(PushError::Form(_))), "{body}");
        }
        let body = serde_json::json!({"events": [event("push", MANIFEST, Some("-"))]}).to_string();
        assert!(matches!(pushed(body.as_bytes(), None), Err(PushError::Name { .. })));
    }
}
