//! Which blobs is an image made of? Answer: those that its manifests name, as far as these are on this node; nobody else is
//! asked, so a question sets nothing in motion.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use shoal_engine::Digest;
use shoal_engine::limits::WARM_BLOBS_MAX;
use shoal_store::{Store, StoreError};

use super::{Name, read, root};
use crate::admin::openapi::DigestText;
use crate::manifest::Kind;

/// What an image is made of, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Contents {
    /// What the name stands for here; unset if that is not known.
    #[schema(value_type = Option<DigestText>)]
    pub digest: Option<Digest>,
    /// Its blobs, manifests first; empty if its manifest is not here.
    pub parts: Vec<Part>,
}

/// A blob of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Part {
    /// `index`, `manifest`, `config` or `layer`.
    pub what: String,
    /// The blob.
    #[schema(value_type = DigestText)]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Looks into the store. Of an index only the images are followed whose manifests are here. Reads the disk.
///
/// # Errors
/// The store failed.
pub fn contents(store: &Store, name: &Name) -> Result<Contents, StoreError> {
    let Some(digest) = root(store, name)? else { return Ok(Contents::default()) };
    let mut contents = Contents { digest: Some(digest), parts: Vec::new() };
    let (mut waiting, mut seen) = (VecDeque::from([digest]), BTreeSet::new());
    let mut blobs = Vec::new();
    while let Some(digest) = waiting.pop_front() {
        let Some(blob) = store.look(&digest)? else { continue };
        let Some(parsed) = read(&blob).filter(|_| seen.insert(digest) && seen.len() <= WARM_BLOBS_MAX) else {
            continue;
        };
        let what = if parsed.kind == Kind::Index { "index" } else { "manifest" };
        contents.parts.push(Part { what: what.into(), digest, size: blob.size });
        waiting.extend(parsed.children.iter().map(|(child, _)| child.digest));
        let configs = parsed.config.iter().map(|config| ("config", config));
        let layers = parsed.layers.iter().map(|layer| ("layer", layer));
        for (what, named) in configs.chain(layers).filter(|(_, named)| !named.is_foreign) {
            if seen.insert(named.digest) {
                blobs.push(Part { what: what.into(), digest: named.digest, size: named.size });
            }
        }
    }
    contents.parts.append(&mut blobs);
    Ok(contents)
}
