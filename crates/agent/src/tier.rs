//! The shared object store: a second tier between this node and the origin, in a bucket or a directory that several
//! nodes or regions share. The one node that fetched from the origin writes; everybody reads (row L6).
//!
//! It is a cache that may lose anything at any time, and it is nobody: nothing that comes out of it is believed before
//! its digest has been checked by whoever asked, and no failure of it is worse than a miss. What lies where is said in
//! `layout`. Invariants: a blob is given out only to a repository that it was pulled through, or when it was pulled
//! anonymously by somebody (a digest alone opens nobody's private content); a marker is written after its blob; every
//! wait has a deadline; a store that has failed is left alone; no error, log line or metric holds a credential.

mod backend;
mod credentials;
mod error;
mod gate;
mod layout;
mod limits;
mod look;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use shoal_engine::{Digest, Scope};
use shoal_store::Content;
use url::Url;

use crate::metrics::Metrics;

pub use credentials::BucketCredentials;
pub use error::{TierError, TierFault};
pub use limits::PREFIX_CHARS_MAX;
pub use stream::TierStream;

use backend::Backend;
use gate::Gate;
use layout::Layout;
use limits::{BREAK_MEMORY, DISTRUST_LIFETIME, DISTRUSTED_MAX, SEEN_LIFETIME, SEEN_MAX};
use upload::Uploads;

/// How the store is reached, resolved from the configuration.
#[derive(Clone, Debug)]
pub struct TierSettings {
    /// Where it is.
    pub bucket: Bucket,
    /// Everything lies below this, without slashes around it; may be empty.
    pub prefix: String,
    /// How the agent identifies itself.
    pub credentials: BucketCredentials,
    /// CA certificates (PEM), trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// Longest time for a connection: name look-up, TCP, TLS.
    pub connect_timeout: Duration,
    /// Longest time from the connection to the response headers.
    pub header_timeout: Duration,
    /// Longest time between two pieces of a body. There is no limit for the whole.
    pub idle_timeout: Duration,
    /// Whether what was fetched from an origin is uploaded.
    pub write: bool,
    /// Uploads at a time. Each holds one part (8 MiB) in memory.
    pub uploads_max: usize,
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// S3, and what speaks like it.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Its region, which is part of every signature.
        region: String,
        /// Where to ask instead of Amazon.
        endpoint: Option<Url>,
        /// Whether the bucket's name stands in the path instead of the host.
        path_style: bool,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// Where to ask instead of Microsoft.
        endpoint: Option<Url>,
    },
    /// Google Cloud Storage.
    Google {
        /// The bucket's name.
        bucket: String,
        /// Where to ask instead of Google.
        endpoint: Option<Url>,
    },
    /// A directory, on a file system that the nodes share.
    Directory {
        /// Its absolute path. It is never made.
        path: PathBuf,
    },
}

/// Why the store cannot be used at all. The operator has to act; nothing has been asked.
#[derive(Debug, thiserror::Error)]
pub enum TierSettingsError {
    /// The CA cannot be used.
    #[error("object_store.ca: {0}")]
    Ca(String),
    /// The TLS library refuses the settings.
    #[error("the object store's TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client refuses the settings.
    #[error(
        "no HTTP client for the object store can be made; check upstream.user_agent and the proxy variables"
    )]
    Client(#[source] reqwest::Error),
    /// The credentials are none.
    #[error("object_store.credentials: {0}")]
    Credentials(String),
}

/// How a blob was pulled from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// With credentials: for this repository only.
    Private,
    /// Anonymously: anybody could have it from the registry, so anybody may have it from here.
    Public,
}

/// What the store says of a blob. A hint: the size is checked when the bytes come, the digest by whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierBlob {
    /// Size in bytes.
    pub size: u64,
    /// How it was pulled, by whoever pulled it most openly.
    pub visibility: Visibility,
}

/// Verified content that may be written to the store.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The repository it was pulled through.
    pub scope: Scope,
    /// Its name. The content has been checked against it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it was pulled.
    pub visibility: Visibility,
    /// The bytes, or the file that holds exactly them.
    pub content: Content,
}

/// The shared object store. Cheap to clone.
#[derive(Clone)]
pub struct Tier {
    inner: Arc<Inner>,
    uploads: Arc<Uploads>,
}

/// What reading and writing share.
struct Inner {
    settings: TierSettings,
    layout: Layout,
    backend: Backend,
    metrics: Arc<Metrics>,
    reads: Gate,
    writes: Gate,
    /// What was found a moment ago.
    seen: Cache<(Scope, Digest), TierBlob>,
    /// Blobs whose object has sent wrong bytes.
    distrusted: Cache<Digest, ()>,
    /// Blobs whose transfer broke off: others are asked first.
    broken: Cache<Digest, ()>,
}

impl Tier {
    /// A store that has not been asked anything yet.
    ///
    /// # Errors
    /// Settings that can never work.
    pub fn new(settings: &TierSettings, metrics: Arc<Metrics>) -> Result<Self, TierSettingsError> {
        Ok(Tier::over(settings, Backend::new(settings)?, metrics))
    }

    fn over(settings: &TierSettings, backend: Backend, metrics: Arc<Metrics>) -> Self {
        let uploads = Arc::new(Uploads::new(settings.uploads_max));
        let inner = Inner {
            settings: settings.clone(),
            layout: Layout::new(&settings.prefix),
            backend,
            metrics,
            reads: Gate::new(),
            writes: Gate::new(),
            seen: Cache::builder().max_capacity(SEEN_MAX).time_to_live(SEEN_LIFETIME).build(),
            broken: Cache::builder().max_capacity(DISTRUSTED_MAX).time_to_live(BREAK_MEMORY).build(),
            distrusted: Cache::builder().max_capacity(DISTRUSTED_MAX).time_to_live(DISTRUST_LIFETIME).build(),
        };
        Tier { inner: Arc::new(inner), uploads }
    }

    /// What the store has for a repository; `None` is a miss, also when the blob behind the marker has vanished.
    ///
    /// # Errors
    /// The store did not answer, is left alone because it did not lately, or holds something of another size.
    pub async fn stat(&self, scope: &Scope, digest: &Digest) -> Result<Option<TierBlob>, TierError> {
        let found = self.inner.find(scope, digest).await;
        self.inner.answered("stat", digest, found)
    }

    /// Opens a blob at `start`, up to `end` or its own end; `None` is a miss. The bytes are unverified.
    ///
    /// # Errors
    /// As [`Tier::stat`], or the range lies outside the blob.
    pub async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<Option<TierStream>, TierError> {
        assert!(end.is_none_or(|end| start < end), "an empty range needs no transfer");
        let opened = self.open_counted(scope, digest, start, end).await;
        self.inner.answered("open", digest, opened)
    }

    /// A whole small blob, such as a manifest; `None` is a miss. The bytes are unverified.
    ///
    /// # Errors
    /// As [`Tier::open`], or the blob has more than `max` bytes.
    pub async fn get_small(
        &self,
        scope: &Scope,
        digest: &Digest,
        max: u64,
    ) -> Result<Option<Bytes>, TierError> {
        let got = self.small(scope, digest, max).await;
        self.inner.answered("get", digest, got)
    }

    /// The bytes that came for a blob did not match its digest. The object is left alone until it has been replaced,
    /// which the next offer of the blob does.
    pub async fn distrust(&self, digest: &Digest) {
        tracing::warn!(%digest, "the object store holds wrong bytes for a blob; they are not used again");
        self.inner.distrusted.insert(*digest, ()).await;
    }

    /// Uploads verified content in the background, if the store is written to and has it not. Returns at once; an offer
    /// that finds no room is dropped and counted.
    pub fn offer(&self, offer: Offer) {
        if self.inner.settings.write {
            self.uploads.take(&self.inner, offer);
        }
    }

    /// Takes no more offers and waits for the uploads under way, at most until the deadline; the others are given up.
    pub async fn drain(&self, deadline: Duration) {
        self.uploads.drain(deadline).await;
    }

    async fn open_counted(
        &self,
        scope: &Scope,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<Option<TierStream>, TierFault> {
        let Some(blob) = self.inner.find(scope, digest).await? else { return Ok(None) };
        let end = end.unwrap_or(blob.size);
        if end > blob.size || start > end {
            return Err(TierFault::OutOfRange { size: blob.size, start, end });
        }
        let opened = TierStream::open(&self.inner, digest, blob.size, start..end).await;
        if !matches!(opened, Ok(Some(_))) {
            self.inner.seen.invalidate(&(scope.clone(), *digest)).await;
        }
        opened
    }

    async fn small(&self, scope: &Scope, digest: &Digest, max: u64) -> Result<Option<Bytes>, TierFault> {
        let Some(mut stream) = self.open_counted(scope, digest, 0, None).await? else { return Ok(None) };
        let size = stream.total();
        if size > max {
            return Err(TierFault::TooLarge { size, limit: max });
        }
        let mut all = BytesMut::new();
        while let Some(bytes) = stream.chunk().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(Some(all.freeze()))
    }
}

impl Inner {
    /// Counts how a question was answered, and says what it was about where that went wrong.
    fn answered<T>(
        &self,
        operation: &'static str,
        digest: &Digest,
        answer: Result<Option<T>, TierFault>,
    ) -> Result<Option<T>, TierError> {
        let outcome = match &answer {
            Ok(Some(_)) => "hit",
            Ok(None) => "miss",
            Err(TierFault::LeftAlone { .. }) => "left-alone",
            Err(_) => "failed",
        };
        self.metrics.tier_request(operation, outcome);
        answer.map_err(|fault| TierError::new(operation, digest, fault))
    }
}
