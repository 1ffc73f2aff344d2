//! Names of images, as users write them for a runtime.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution;
use shoal_engine::{Digest, Reference, Registry, Repository, Scope, Tag};

/// Longest part of what was given that an error repeats.
const SHOWN_MAX: usize = 120;

/// An image by name. `redis` is `docker.io/library/redis:latest`, as everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Registry and repository.
    pub scope: Scope,
    /// The tag that was given; `latest` where neither tag nor digest was.
    pub tag: Option<Tag>,
    /// The digest that was given.
    pub digest: Option<Digest>,
}

/// What was given names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{image:?} is no image: {reason}")]
pub struct ImageError {
    /// What was given.
    pub image: String,
    /// Why.
    pub reason: String,
}

impl Image {
    /// What is asked for: the digest, which says more than the tag beside it.
    pub fn reference(&self) -> Option<Reference> {
        let tag = || self.tag.clone().map(Reference::Tag);
        self.digest.map(Reference::Digest).or_else(tag)
    }
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let wrong = |reason: &dyn fmt::Display| ImageError {
            image: text.chars().take(SHOWN_MAX).collect(),
            reason: reason.to_string(),
        };
        // It would be a tag of docker.io/library/sha256, which nobody means.
        if text.starts_with("sha256:") || text.starts_with("sha512:") {
            return Err(wrong(&"it is a digest, of which nothing says where it is; write IMAGE@sha256:..."));
        }
        let parsed = text.parse::<distribution::Reference>().map_err(|error| wrong(&error))?;
        let scope = Scope {
            registry: parsed.registry().parse::<Registry>().map_err(|error| wrong(&error))?,
            repository: parsed.repository().parse::<Repository>().map_err(|error| wrong(&error))?,
        };
        let tag = parsed.tag().map(Tag::from_str).transpose().map_err(|error| wrong(&error))?;
        let digest = parsed.digest().map(Digest::from_str).transpose().map_err(|error| wrong(&error))?;
        Ok(Image { scope, tag, digest })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.scope, f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}
