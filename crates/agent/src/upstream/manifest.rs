//! Manifests: always asked for with every media type we know (a registry may say "unknown" for the others), bounded,
//! and passed on only after their bytes have been hashed. What type they are is their own word, not their server's.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shoal_engine::{Algorithm, Digest, Reference};
use shoal_store::Visibility;

use super::error::{Reason, UpstreamError};
use super::exchange::{Exchange, Question};
use super::headers;
use super::limits::{HASH_INLINE_BYTES_MAX, MANIFEST_BYTES_MAX};
use super::place::Place;
use crate::manifest::{ACCEPT, OCI_INDEX, OCI_MANIFEST};

/// What a HEAD told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestHead {
    /// The manifest is still the one that was known.
    NotModified {
        /// How long the answer may be used, if the source said.
        max_age: Option<Duration>,
        /// Who else would have been told.
        visibility: Visibility,
    },
    /// The source has it. What it did not tell has to be learned by a GET.
    Found {
        /// Digest, if the source told.
        digest: Option<Digest>,
        /// Media type without parameters, if the source told.
        media_type: Option<String>,
        /// Bytes, if the source told.
        size: Option<u64>,
        /// How long the answer may be used, if the source said.
        max_age: Option<Duration>,
        /// Who else would have been told.
        visibility: Visibility,
    },
}

/// What a GET brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestGet {
    /// The manifest is still the one that was known.
    NotModified {
        /// How long the answer may be used, if the source said.
        max_age: Option<Duration>,
        /// Who else would have been told.
        visibility: Visibility,
    },
    /// The manifest.
    Found {
        /// The bytes as the source sent them.
        bytes: Bytes,
        /// Media type without parameters.
        media_type: String,
        /// What the bytes hash to: in the algorithm asked for, else in the source's, else SHA-256.
        digest: Digest,
        /// How long the answer may be used, if the source said.
        max_age: Option<Duration>,
        /// Who else would have been told.
        visibility: Visibility,
    },
}

impl Exchange {
    /// Asks whether a manifest is there and what it is.
    pub async fn head_manifest(
        &self,
        place: &Place,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, UpstreamError> {
        let question = question(place, Method::HEAD, "manifest-head", reference, known)?;
        let answer = match self.ask(&question).await {
            // HEAD is not supported there; a GET will tell.
            Err(error) if error.is_method_refused() => {
                return Ok(ManifestHead::Found {
                    digest: None,
                    media_type: None,
                    size: None,
                    max_age: None,
                    visibility: Visibility::Private,
                });
            }
            other => other?,
        };
        let (max_age, visibility) = (headers::max_age(answer.headers()), answer.visibility);
        if answer.status() == 304 {
            return Ok(ManifestHead::NotModified { max_age, visibility });
        }
        let digest = headers::digest(answer.headers());
        if let (Reference::Digest(expected), Some(found)) = (reference, digest)
            && found.algorithm() == expected.algorithm()
            && found != *expected
        {
            return Err(UpstreamError::new(&answer.url, Reason::WrongDigest { expected: *expected, found }));
        }
        let media_type = headers::media_type(answer.headers()).filter(|text| !is_generic(text));
        let size = headers::length(answer.headers());
        Ok(ManifestHead::Found { digest, media_type, size, max_age, visibility })
    }

    /// Fetches a manifest and checks it.
    pub async fn get_manifest(
        &self,
        place: &Place,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestGet, UpstreamError> {
        let question = question(place, Method::GET, "manifest-get", reference, known)?;
        let answer = self.ask(&question).await?;
        let (max_age, visibility) = (headers::max_age(answer.headers()), answer.visibility);
        if answer.status() == 304 {
            return Ok(ManifestGet::NotModified { max_age, visibility });
        }
        let named = match reference {
            Reference::Digest(digest) => Some(*digest),
            // An object store's headers are not the registry's word.
            Reference::Tag(_) if answer.at_home => headers::digest(answer.headers()),
            Reference::Tag(_) => None,
        };
        let media_type = headers::media_type(answer.headers());
        let url = answer.url;
        let bytes = self.transport.read(&url, answer.response, MANIFEST_BYTES_MAX).await?;
        place.source.bytes.inc_by(bytes.len() as u64);
        let found = hash(named.map_or(Algorithm::Sha256, |digest| digest.algorithm()), &bytes).await;
        if let Some(expected) = named.filter(|expected| *expected != found) {
            return Err(UpstreamError::new(&url, Reason::WrongDigest { expected, found }));
        }
        let media_type = own_type(&bytes).or(media_type).unwrap_or_else(|| OCI_MANIFEST.to_owned());
        Ok(ManifestGet::Found { bytes, media_type, digest: found, max_age, visibility })
    }
}

fn question<'a>(
    place: &'a Place,
    method: Method,
    kind: &'static str,
    reference: &Reference,
    known: Option<&Digest>,
) -> Result<Question<'a>, UpstreamError> {
    let url = place.url(&format!("manifests/{reference}"))?;
    let if_none_match =
        known.map(|digest| HeaderValue::try_from(format!("\"{digest}\"")).expect("a digest is plain ASCII"));
    // 304 answers nothing that was not asked.
    let statuses: &'static [u16] = if known.is_some() { &[200, 304] } else { &[200] };
    Ok(Question { place, kind, method, url, accept: ACCEPT, range: None, if_none_match, statuses })
}

/// Types that servers send when they do not know.
fn is_generic(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/octet-stream" | "binary/octet-stream" | "text/plain" | "application/json"
    )
}

/// The type that a manifest gives itself, or else the one of its form; `None` where it states nothing, as Docker's first
/// schema does, and only who sends it can tell. The bytes are the same at every registry, and stored for all of them: a
/// `Content-Type` that contradicts them is one server's mistake or malice.
pub(crate) fn own_type(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u64>,
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    // A type that no header can carry is no type, and a page for a browser no manifest.
    let stated = shape.media_type.filter(|text| {
        text.starts_with("application/") && !is_generic(text) && HeaderValue::try_from(text.as_str()).is_ok()
    });
    let (is_index, is_image) = (shape.manifests.is_some(), shape.config.is_some() || shape.layers.is_some());
    let by_form = match (shape.schema_version, is_index, is_image) {
        (Some(2), true, false) => Some(OCI_INDEX),
        (Some(2), false, true) => Some(OCI_MANIFEST),
        _ => None,
    };
    stated.or_else(|| by_form.map(str::to_owned))
}

async fn hash(algorithm: Algorithm, bytes: &Bytes) -> Digest {
    if bytes.len() <= HASH_INLINE_BYTES_MAX {
        return hash_now(algorithm, bytes);
    }
    let bytes = bytes.clone();
    match tokio::task::spawn_blocking(move || hash_now(algorithm, &bytes)).await {
        Ok(digest) => digest,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn hash_now(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let function = match algorithm {
        Algorithm::Sha256 => &ring::digest::SHA256,
        Algorithm::Sha512 => &ring::digest::SHA512,
    };
    Digest::new(algorithm, ring::digest::digest(function, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST};

    #[test]
    fn types_from_the_content() {
        let table = [
            (format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#), Some(DOCKER_LIST)),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}"}}"#), Some(OCI_MANIFEST)),
            (r#"{"mediaType":"application/vnd.other+json"}"#.into(), Some("application/vnd.other+json")),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), Some(OCI_INDEX)),
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#.into(), Some(OCI_MANIFEST)),
            (r#"{"schemaVersion":2,"mediaType":"text/html","config":{}}"#.into(), Some(OCI_MANIFEST)),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.x\u000a","manifests":[]}"#.into(),
                Some(OCI_INDEX),
            ),
            // It could be taken for both.
            (r#"{"schemaVersion":2,"config":{},"manifests":[]}"#.into(), None),
            // Docker's first schema, and an image's configuration.
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.into(), None),
            (r#"{"architecture":"amd64","config":{}}"#.into(), None),
            ("{}".into(), None),
            ("[]".into(), None),
            ("<html>".into(), None),
        ];
        for (text, expected) in table {
            assert_eq!(own_type(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn every_known_type_is_asked_for() {
        for media_type in [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"] {
            assert!(ACCEPT.split(", ").any(|entry| entry == media_type), "{media_type}");
        }
    }
}
