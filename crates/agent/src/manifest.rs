//! What a manifest that passes says about other blobs: their digests, sizes and platforms.
//!
//! The answer only ever saves time (sizes are known before they are asked for, layers start early). A manifest that
//! cannot be read is served all the same, byte for byte; the caller logs the error and forgets it. So this module
//! reads strictly, and gives nothing away from a document that is ambiguous or out of bounds.

use std::fmt;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shoal_engine::Digest;
use shoal_store::{Blob, Content};

/// Longest manifest that is read, bytes: what containerd accepts (`MaxManifestSize`).
pub const MANIFEST_BYTES_MAX: usize = 4_393_216;
/// Most layers or children of one manifest. Runtimes stop at about 127 layers, and the largest indexes known have
/// some hundred entries.
pub const DESCRIPTORS_MAX: usize = 4096;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Whatever the client sent: what is stored must serve every client. `*/*` alone would not do, as the reference
/// implementation then hides OCI types; it is last, for artifacts of types nobody has listed.
pub(crate) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// Whether a media type is one of a manifest that names blobs.
pub(crate) fn names_blobs(media_type: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type)
}

/// What kind of document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One image or artifact: a config and layers.
    Image,
    /// Several images, by platform.
    Index,
    /// Neither; nothing is read from it.
    Other,
}

/// A blob named by a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, as the manifest says.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Whether clients fetch it from elsewhere (`urls`, or a type that is not distributed). Never fetched ahead.
    pub is_foreign: bool,
}

/// What an image runs on, in the words of its index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system: `linux`.
    pub os: String,
    /// Processor: `amd64`.
    pub architecture: String,
    /// Processor variant: `v7`.
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// A manifest, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it is.
    pub kind: Kind,
    /// Config of an image.
    pub config: Option<Descriptor>,
    /// Layers of an image, lowest first.
    pub layers: Vec<Descriptor>,
    /// Manifests of an index.
    pub children: Vec<(Descriptor, Option<Platform>)>,
}

impl Parsed {
    const OTHER: Parsed =
        Parsed { kind: Kind::Other, config: None, layers: Vec::new(), children: Vec::new() };

    /// Every blob it names.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers).chain(self.children.iter().map(|(child, _)| child))
    }
}

/// Why nothing was read from a manifest. Whoever made it is to blame; it is served as it is.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is longer than any client accepts.
    #[error("a manifest of {0} bytes is longer than {MANIFEST_BYTES_MAX}")]
    TooLong(usize),
    /// It names more blobs than any image has.
    #[error("a manifest with {0} entries has more than {DESCRIPTORS_MAX}")]
    TooManyEntries(usize),
    /// It is not the JSON that its media type promises.
    #[error("it does not have the form of {media_type}")]
    Form {
        /// Media type it was sent as.
        media_type: &'static str,
        /// What the parser says.
        #[source]
        error: serde_json::Error,
    },
    /// It is image and index at once, or claims another type than it was sent as: two clients could take it for two
    /// different things (CVE-2021-41190).
    #[error("it was sent as {media_type} and has the fields of another type")]
    Ambiguous {
        /// Media type it was sent as.
        media_type: &'static str,
    },
}

/// The fields that tell an image from an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// Reads a manifest that was sent as `media_type` (parameters are ignored). Another type is [`Kind::Other`], not an
/// error.
///
/// # Errors
/// See [`ManifestError`].
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Parsed, ManifestError> {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    let (is_index, media_type) = match bare {
        OCI_MANIFEST => (false, OCI_MANIFEST),
        DOCKER_MANIFEST => (false, DOCKER_MANIFEST),
        OCI_INDEX => (true, OCI_INDEX),
        DOCKER_LIST => (true, DOCKER_LIST),
        _ => return Ok(Parsed::OTHER),
    };
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong(bytes.len()));
    }
    let form = |error| ManifestError::Form { media_type, error };
    let shape: Shape = serde_json::from_slice(bytes).map_err(form)?;
    let is_other_kind =
        if is_index { shape.config.is_some() || shape.layers.is_some() } else { shape.manifests.is_some() };
    if is_other_kind || shape.media_type.is_some_and(|claimed| claimed != media_type) {
        return Err(ManifestError::Ambiguous { media_type });
    }
    if is_index {
        index(&serde_json::from_slice(bytes).map_err(form)?)
    } else {
        image(&serde_json::from_slice(bytes).map_err(form)?)
    }
}

/// Whether a blob is the configuration of an image, which says what it runs on; artifacts have others.
pub(crate) fn is_config(blob: &Descriptor) -> bool {
    [OCI_CONFIG, DOCKER_CONFIG].contains(&&*blob.media_type)
}

/// What an image runs on, by its configuration. `None` if that does not say.
pub(crate) fn platform_of(config: &[u8]) -> Option<Platform> {
    #[derive(Deserialize)]
    struct Config {
        os: String,
        architecture: String,
        variant: Option<String>,
    }
    let Config { os, architecture, variant } = serde_json::from_slice(config).ok()?;
    let variant = variant.filter(|variant| !variant.is_empty());
    Some(Platform { os, architecture, variant }).filter(|of| !of.os.is_empty() && !of.architecture.is_empty())
}

/// The media type of a manifest by its own text: the field, or else the form that the OCI image specification gives
/// documents without one. `None` if it is no manifest.
pub(crate) fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u8,
        media_type: Option<String>,
        layers: Option<IgnoredAny>,
        manifests: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    if shape.schema_version != 2 {
        return None;
    }
    let by_form = match (&shape.layers, &shape.manifests) {
        (Some(_), None) => Some(OCI_MANIFEST.to_owned()),
        (None, Some(_)) => Some(OCI_INDEX.to_owned()),
        _ => None,
    };
    shape.media_type.or(by_form)
}

/// A stored manifest's bytes; `None` if it is too large to be one or cannot be read. Reads the disk.
pub(crate) fn stored_bytes(blob: &Blob) -> Option<Bytes> {
    if blob.size > MANIFEST_BYTES_MAX as u64 {
        return None;
    }
    match &blob.content {
        Content::Inline(bytes) => Some(bytes.clone()),
        Content::File(file) => {
            let mut bytes = vec![0; usize::try_from(blob.size).ok()?];
            file.read_exact_at(&mut bytes, 0).ok()?;
            Some(Bytes::from(bytes))
        }
    }
}

fn image(manifest: &ImageManifest) -> Result<Parsed, ManifestError> {
    bounded(manifest.layers().len())?;
    Ok(Parsed {
        kind: Kind::Image,
        config: descriptor(manifest.config()),
        layers: manifest.layers().iter().filter_map(descriptor).collect(),
        children: Vec::new(),
    })
}

fn index(index: &ImageIndex) -> Result<Parsed, ManifestError> {
    bounded(index.manifests().len())?;
    let child = |child: &oci_spec::image::Descriptor| {
        let platform = child.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        });
        Some((descriptor(child)?, platform))
    };
    Ok(Parsed {
        kind: Kind::Index,
        config: None,
        layers: Vec::new(),
        children: index.manifests().iter().filter_map(child).collect(),
    })
}

fn bounded(entries: usize) -> Result<(), ManifestError> {
    if entries > DESCRIPTORS_MAX { Err(ManifestError::TooManyEntries(entries)) } else { Ok(()) }
}

/// One entry; `None` if its digest is of an algorithm that this node cannot check, and so never serves.
fn descriptor(entry: &oci_spec::image::Descriptor) -> Option<Descriptor> {
    let media_type = entry.media_type().to_string();
    let has_urls = entry.urls().as_ref().is_some_and(|urls| !urls.is_empty());
    let is_foreign =
        has_urls || media_type.contains(".foreign.") || media_type.contains(".nondistributable.");
    Some(Descriptor {
        digest: entry.digest().as_ref().parse().ok()?,
        size: entry.size(),
        media_type,
        is_foreign,
    })
}

#[cfg(test)]
mod tests;
