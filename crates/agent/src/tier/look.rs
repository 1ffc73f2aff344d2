//! What the store has of a blob, and for whom.
//!
//! Question: may this repository use that blob from here? Answer: if a marker says that it was pulled through this very
//! repository, or one next to the blob that it was pulled anonymously; and the object is there with the size that the
//! marker gives. Prevents: that a digest opens what somebody else's credentials have pulled.

use object_store::path::Path;
use object_store::{GetOptions, ObjectStoreExt as _};
use shoal_engine::{Digest, Scope};

use super::error::{TierFault, fault_of};
use super::layout::Marker;
use super::limits::MARKER_BYTES_MAX;
use super::{Inner, TierBlob, Visibility};

/// All that the store has of one blob for one repository, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The marker of the repository.
    pub link: Option<Marker>,
    /// The marker next to the blob.
    pub public: Option<Marker>,
    /// Size of the object.
    pub stored: Option<u64>,
}

impl Look {
    /// The answer for the repository; `None` is a miss.
    pub fn blob(&self) -> Result<Option<TierBlob>, TierFault> {
        let visibility = match (self.link, self.public) {
            (None, None) => return Ok(None),
            (_, Some(_)) => Visibility::Public,
            (Some(link), None) => link.visibility,
        };
        // The blob is written before its markers: one that is not there has been removed.
        let Some(size) = self.stored else { return Ok(None) };
        let mut told = [self.link, self.public].into_iter().flatten().map(|marker| marker.size);
        let expected = told.clone().next().unwrap_or(size);
        if !told.any(|told| told == size) {
            return Err(TierFault::WrongSize { expected, found: size });
        }
        Ok(Some(TierBlob { size, visibility }))
    }
}

impl Inner {
    /// What the store has for a repository, asked now or a moment ago.
    pub(super) async fn find(&self, scope: &Scope, digest: &Digest) -> Result<Option<TierBlob>, TierFault> {
        if self.distrusted.contains_key(digest) || self.broken.contains_key(digest) {
            return Ok(None);
        }
        let key = (scope.clone(), *digest);
        if let Some(blob) = self.seen.get(&key).await {
            return Ok(Some(blob));
        }
        self.reads.admit().map_err(|left| TierFault::LeftAlone { left })?;
        let look = self.look(scope, digest).await;
        self.reads.settle(look.as_ref().err());
        let blob = look?.blob()?;
        if let Some(blob) = blob {
            self.seen.insert(key, blob).await;
        }
        Ok(blob)
    }

    /// Asks for the two markers and the object at once: the wait is that of one question.
    pub(super) async fn look(&self, scope: &Scope, digest: &Digest) -> Result<Look, TierFault> {
        let (link, public, blob) =
            (self.layout.link(scope, digest), self.layout.public(digest), self.layout.blob(digest));
        let (link, public, stored) =
            tokio::try_join!(self.marker(&link), self.marker(&public), self.size(&blob))?;
        // Next to the blob only what is public has a marker; whatever else stands there was not written by an agent.
        let public = public.filter(|marker| marker.visibility == Visibility::Public);
        Ok(Look { link, public, stored })
    }

    async fn marker(&self, path: &Path) -> Result<Option<Marker>, TierFault> {
        let ask = async {
            let store = self.backend.store().await?;
            let got = match store.get_opts(path, GetOptions::default()).await {
                // Too long for a marker: whatever it is, it is not read.
                Ok(got) if got.meta.size > MARKER_BYTES_MAX => return Ok(None),
                Ok(got) => got.bytes().await,
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) => Ok(Marker::decode(&bytes)),
                Err(error) => fault_of(&error).map_or(Ok(None), Err),
            }
        };
        self.in_time(ask).await
    }

    /// Size of an object in bytes; `None` if it is not there.
    async fn size(&self, path: &Path) -> Result<Option<u64>, TierFault> {
        let ask = async {
            match self.backend.store().await?.head(path).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(error) => fault_of(&error).map_or(Ok(None), Err),
            }
        };
        self.in_time(ask).await
    }

    /// The answer to a question, or that it did not come in time.
    pub(super) async fn in_time<T>(
        &self,
        ask: impl Future<Output = Result<T, TierFault>>,
    ) -> Result<T, TierFault> {
        let limit = self.settings.connect_timeout + self.settings.header_timeout;
        tokio::time::timeout(limit, ask).await.unwrap_or(Err(TierFault::Late(limit)))
    }
}
