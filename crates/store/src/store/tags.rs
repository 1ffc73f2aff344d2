//! Tags, and which repositories a blob was obtained through.

use shoal_engine::{Digest, Scope, Tag};

use super::Store;
use crate::blob::{TagRecord, Visibility};
use crate::error::StoreError;
use crate::index::{Change, Durability};
use crate::record::{self, MEDIA_TYPE_BYTES_MAX};

impl Store {
    /// What a tag was last seen to point to. That its manifest is still stored is not said.
    pub fn tag(&self, scope: &Scope, tag: &Tag) -> Result<Option<TagRecord>, StoreError> {
        self.inner.index.tag(scope, tag).map_err(|fault| self.inner.index_fault("read a tag", fault))
    }

    /// Remembers what a tag points to. Survives the death of the process; after a loss of power the tag may be as it was
    /// some seconds before, which is then older than it need be and is asked for sooner. A record whose media type is
    /// longer than any can be is not kept.
    pub fn put_tag(&self, scope: &Scope, tag: &Tag, record: &TagRecord) -> Result<(), StoreError> {
        if record.media_type.len() > MEDIA_TYPE_BYTES_MAX {
            tracing::debug!(%scope, %tag, "a tag whose media type is too long is not kept");
            return self.remove_tag(scope, tag);
        }
        self.change(&Change::PutTag(scope, tag, record), "remember a tag")
    }

    /// Forgets a tag.
    pub fn remove_tag(&self, scope: &Scope, tag: &Tag) -> Result<(), StoreError> {
        self.change(&Change::DeleteTag(&record::tag_key(scope, tag)), "forget a tag")
    }

    /// Remembers that a digest was obtained through a repository, until the blob is removed. What is public stays so.
    /// Costs a write only where that is news.
    pub fn link(&self, scope: &Scope, digest: &Digest, visibility: Visibility) -> Result<(), StoreError> {
        if self.linked(scope, digest)?.is_some_and(|known| known >= visibility) {
            return Ok(());
        }
        self.change(&Change::PutLink(digest, scope, visibility), "link a blob to its repository")
    }

    /// How a digest was obtained through a repository, if it was.
    pub fn linked(&self, scope: &Scope, digest: &Digest) -> Result<Option<Visibility>, StoreError> {
        let found = self.inner.index.link(digest, scope);
        found.map_err(|fault| self.inner.index_fault("look for the link of a blob", fault))
    }

    /// The repositories a digest was obtained through, and how.
    pub fn links(&self, digest: &Digest) -> Result<Vec<(Scope, Visibility)>, StoreError> {
        self.inner
            .index
            .links(digest)
            .map_err(|fault| self.inner.index_fault("list the links of a blob", fault))
    }

    fn change(&self, change: &Change<'_>, operation: &'static str) -> Result<(), StoreError> {
        self.inner
            .index
            .apply(std::slice::from_ref(change), Durability::Kernel, || ())
            .map_err(|fault| self.inner.index_fault(operation, fault))
    }
}
