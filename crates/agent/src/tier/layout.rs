//! Where things lie in the bucket, and what a marker says.
//!
//! ```text
//! blobs/<algorithm>/<first 2 digits>/<hex>                the bytes, once for all repositories
//! public/<algorithm>/<first 2 digits>/<hex>               marker: pulled anonymously by somebody
//! links/<registry>/<repository>/_/<algorithm>/<hex>       marker: pulled through this repository
//! ```
//!
//! Invariants: different names have different keys (no component of a repository begins with `_`, so what belongs to
//! one repository lies under no other one's key); a marker is written after the blob that it speaks of. What a marker
//! does not say right is a miss, never an error: somebody else may write to the bucket.

use object_store::path::{Path, PathPart};
use serde::{Deserialize, Serialize};
use shoal_engine::{Digest, Scope};

use super::Visibility;

/// The layout's version, in every marker. A reader takes no other one.
const VERSION: u32 = 1;

/// Keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: Path,
}

impl Layout {
    /// Everything lies below `prefix`, which may be empty.
    pub fn new(prefix: &str) -> Self {
        Layout { prefix: Path::from(prefix) }
    }

    /// The blob itself.
    pub fn blob(&self, digest: &Digest) -> Path {
        self.by_digest("blobs", digest)
    }

    /// The marker of a blob that is public.
    pub fn public(&self, digest: &Digest) -> Path {
        self.by_digest("public", digest)
    }

    /// The marker of a blob in a repository.
    pub fn link(&self, scope: &Scope, digest: &Digest) -> Path {
        let hex = digest.hex();
        let mut parts = vec!["links", scope.registry.as_str()];
        parts.extend(scope.repository.as_str().split('/'));
        parts.extend(["_", digest.algorithm().as_str(), &hex]);
        self.key(&parts)
    }

    fn by_digest(&self, kind: &str, digest: &Digest) -> Path {
        let hex = digest.hex();
        self.key(&[kind, digest.algorithm().as_str(), &hex[..2], &hex])
    }

    fn key(&self, parts: &[&str]) -> Path {
        // Encodes what object stores would rather not have in a key: the brackets of an IPv6 address.
        let parts = parts.iter().map(|part| PathPart::from(*part));
        Path::from_iter(self.prefix.parts().chain(parts))
    }
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// Size of the blob in bytes.
    pub size: u64,
    /// How it was pulled.
    pub visibility: Visibility,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    size: u64,
    visibility: Visibility,
}

impl Marker {
    /// As it is stored.
    pub fn encode(self) -> Vec<u8> {
        let Marker { size, visibility } = self;
        let written = Written { version: VERSION, size, visibility };
        serde_json::to_vec(&written).expect("a number and two words have a JSON form")
    }

    /// From what is stored; `None` if that is no marker of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let Written { version, size, visibility } = serde_json::from_slice(bytes).ok()?;
        (version == VERSION).then_some(Marker { size, visibility })
    }
}

#[cfg(test)]
mod tests {
    use shoal_engine::Algorithm;

    use super::*;

    fn scope(registry: &str, repository: &str) -> Scope {
        Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() }
    }

    #[test]
    fn keys() {
        let digest = Digest::new(Algorithm::Sha256, &[0xab; 32]);
        let hex = "ab".repeat(32);
        let layout = Layout::new("cache/one");
        assert_eq!(layout.blob(&digest).as_ref(), format!("cache/one/blobs/sha256/ab/{hex}"));
        assert_eq!(layout.public(&digest).as_ref(), format!("cache/one/public/sha256/ab/{hex}"));
        let table = [
            ("docker.io", "library/redis", "links/docker.io/library/redis/_/sha256"),
            ("registry.test:5000", "a", "links/registry.test:5000/a/_/sha256"),
            ("[::1]:5000", "a", "links/%5B::1%5D:5000/a/_/sha256"),
        ];
        for (registry, repository, folder) in table {
            let key = Layout::new("").link(&scope(registry, repository), &digest);
            assert_eq!(key.as_ref(), format!("{folder}/{hex}"));
        }
    }

    #[test]
    fn no_repository_lies_in_another() {
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        let inner = format!("a/sha256/{}", digest.hex());
        let (a, b) = (scope("r.test", "a"), scope("r.test", &inner));
        let (a, b) = (Layout::new("").link(&a, &digest), Layout::new("").link(&b, &digest));
        assert!(!b.as_ref().starts_with(a.as_ref()), "{b} lies below {a}");
    }

    /// Buckets outlive agents: what one version has written, every later one has to understand.
    #[test]
    fn the_bytes_of_a_marker() {
        let table = [
            (Visibility::Public, r#"{"version":1,"size":7,"visibility":"public"}"#),
            (Visibility::Private, r#"{"version":1,"size":7,"visibility":"private"}"#),
        ];
        for (visibility, text) in table {
            let marker = Marker { size: 7, visibility };
            assert_eq!(String::from_utf8(marker.encode()).unwrap(), text);
            assert_eq!(Marker::decode(text.as_bytes()), Some(marker));
        }
        for other in [
            "",
            "null",
            r#"{"version":2,"size":7,"visibility":"public"}"#,
            r#"{"version":1,"size":-7,"visibility":"public"}"#,
            r#"{"version":1,"size":7,"visibility":"secret"}"#,
            r#"{"version":1,"size":7}"#,
        ] {
            assert_eq!(Marker::decode(other.as_bytes()), None, "{other}");
        }
    }
}
