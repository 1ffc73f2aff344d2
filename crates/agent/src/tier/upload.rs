//! Uploads in the background: bounded in number, in bytes held and in how long they try. Nobody who pulls waits for one.
//!
//! Invariants: the blob is written before the markers that speak of it, so a crash leaves no marker without a blob; an
//! offer that is dropped costs another node a fetch from the origin, never a wrong byte.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use parking_lot::Mutex;
use shoal_engine::{Digest, Scope};
use shoal_store::Content;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{TierFault, fault_of};
use super::layout::Marker;
use super::limits::{
    ABORT_WAIT, OFFERED_BYTES_MAX, OFFERS_MAX, PART_BYTES, PARTS_MAX, PROBE_WAIT, UPLOAD_ATTEMPTS_MAX,
    UPLOAD_PATIENCE, UPLOAD_RATE_MIN,
};
use super::stream::read_at;
use super::{Inner, Offer, TierError, Visibility};

/// The offers that were taken.
pub(super) struct Uploads {
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// What waits or is uploaded: the same blob is not uploaded twice at a time.
    under_way: Arc<Mutex<HashSet<(Scope, Digest)>>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// What an offer holds while it waits and is uploaded.
struct Held {
    key: (Scope, Digest),
    under_way: Arc<Mutex<HashSet<(Scope, Digest)>>>,
    _place: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

impl Uploads {
    pub fn new(uploads_max: usize) -> Self {
        Uploads {
            places: Arc::new(Semaphore::new(OFFERS_MAX)),
            bytes: Arc::new(Semaphore::new(OFFERED_BYTES_MAX)),
            running: Arc::new(Semaphore::new(uploads_max)),
            under_way: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Takes an offer if there is room.
    pub fn take(&self, inner: &Arc<Inner>, offer: Offer) {
        let key = (offer.scope.clone(), offer.digest);
        if self.tasks.is_closed() || !self.under_way.lock().insert(key.clone()) {
            return;
        }
        let bytes = match &offer.content {
            Content::File(_) => Ok(None),
            Content::Inline(bytes) => {
                let wanted = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                Arc::clone(&self.bytes).try_acquire_many_owned(wanted).map(Some)
            }
        };
        let (Ok(place), Ok(bytes)) = (Arc::clone(&self.places).try_acquire_owned(), bytes) else {
            self.under_way.lock().remove(&key);
            inner.metrics.tier_upload_dropped("no-room");
            return;
        };
        let held = Held { key, under_way: Arc::clone(&self.under_way), _place: place, _bytes: bytes };
        let (inner, running, stopping) =
            (Arc::clone(inner), Arc::clone(&self.running), self.stopping.clone());
        self.tasks.spawn(async move {
            let _held = held;
            let upload = async {
                let _turn = running.acquire().await;
                inner.upload(&offer).await;
            };
            if stopping.run_until_cancelled(upload).await.is_none() {
                inner.metrics.tier_upload_dropped("stopped");
            }
        });
    }

    /// Waits for what was taken; gives up at the deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            self.stopping.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Inner {
    /// Tries until it is done, or has cost enough. A store that has failed is waited for, for a while.
    async fn upload(&self, offer: &Offer) {
        let patience_ends = Instant::now() + UPLOAD_PATIENCE;
        let mut attempts = 0;
        loop {
            if let Err(left) = self.writes.admit() {
                let pause = left.max(PROBE_WAIT);
                if Instant::now() + pause > patience_ends {
                    self.metrics.tier_upload_dropped("left-alone");
                    return;
                }
                tokio::time::sleep(pause).await;
                continue;
            }
            attempts += 1;
            let done = self.attempt(offer).await;
            self.writes.settle(done.as_ref().err());
            match done {
                Ok(outcome) => {
                    self.metrics.tier_request("upload", outcome);
                    return;
                }
                Err(fault) => {
                    self.metrics.tier_request("upload", "failed");
                    let is_hopeless = fault.failure().is_none() || attempts == UPLOAD_ATTEMPTS_MAX;
                    let error = TierError::new("upload", offer.digest, fault);
                    if is_hopeless {
                        tracing::warn!(%error, scope = %offer.scope, "a blob was not uploaded to the object store");
                        self.metrics.tier_upload_dropped("failed");
                        return;
                    }
                    tracing::debug!(%error, attempts, "an upload will be tried again");
                }
            }
        }
    }

    /// Writes what is missing: first the blob, then the markers. Returns the outcome for the metric.
    async fn attempt(&self, offer: &Offer) -> Result<&'static str, TierFault> {
        let Offer { scope, digest, size, visibility, .. } = offer;
        let look = self.look(scope, digest).await?;
        let is_wrong = self.distrusted.contains_key(digest);
        let is_missing = look.stored != Some(*size) || is_wrong;
        if is_missing {
            self.put_blob(offer).await?;
            self.distrusted.invalidate(digest).await;
        }
        let marker = Marker { size: *size, visibility: *visibility };
        // What was once public stays so: whoever has credentials now could have had it without.
        let is_linked = look.link.is_some_and(|link| link.size == *size && link.visibility >= *visibility);
        if !is_linked {
            self.put_small(&self.layout.link(scope, digest), marker.encode().into()).await?;
        }
        let is_public = look.public.is_some_and(|public| public.size == *size);
        if *visibility == Visibility::Public && !is_public {
            self.put_small(&self.layout.public(digest), marker.encode().into()).await?;
        }
        Ok(if is_missing { "stored" } else { "present" })
    }

    async fn put_blob(&self, offer: &Offer) -> Result<(), TierFault> {
        let path = self.layout.blob(&offer.digest);
        if offer.size <= PART_BYTES {
            let bytes = part_of(offer, 0, offer.size).await?;
            return self.put_small(&path, bytes).await;
        }
        let begin =
            async { self.backend.store().await?.put_multipart(&path).await.map_err(|error| written(&error)) };
        let mut upload = self.in_time(begin).await?;
        let sent = self.put_parts(offer, &mut *upload).await;
        if sent.is_err() {
            // Parts that nobody throws away are kept and paid for; a bucket should have a rule for those that remain.
            let _ = tokio::time::timeout(ABORT_WAIT, upload.abort()).await;
        }
        sent
    }

    async fn put_parts(&self, offer: &Offer, upload: &mut dyn MultipartUpload) -> Result<(), TierFault> {
        let part = PART_BYTES.max(offer.size.div_ceil(PARTS_MAX));
        let mut at = 0;
        while at < offer.size {
            let bytes = part_of(offer, at, part.min(offer.size - at)).await?;
            let length = bytes.len() as u64;
            self.send(length, upload.put_part(PutPayload::from(bytes))).await?;
            at += length;
        }
        self.send(0, upload.complete()).await.map(drop)
    }

    async fn put_small(&self, path: &Path, bytes: Bytes) -> Result<(), TierFault> {
        let length = bytes.len() as u64;
        let store = self.in_time(self.backend.store()).await?;
        self.send(length, store.put(path, PutPayload::from(bytes))).await.map(drop)
    }

    /// Waits for a request with a body of so many bytes.
    async fn send<T>(
        &self,
        length: u64,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TierFault> {
        let limit = self.settings.connect_timeout
            + self.settings.header_timeout
            + Duration::from_secs(length / UPLOAD_RATE_MIN);
        let sent = tokio::time::timeout(limit, request).await.map_err(|_| TierFault::Late(limit))?;
        let answer = sent.map_err(|error| written(&error))?;
        self.metrics.tier_sent_bytes.inc_by(length);
        Ok(answer)
    }
}

/// What an error means for somebody who writes: a missing object is a missing bucket.
fn written(error: &object_store::Error) -> TierFault {
    fault_of(error).unwrap_or_else(|| TierFault::Failed("there is no such bucket".into()))
}

/// Exactly `length` bytes of the offered content.
async fn part_of(offer: &Offer, at: u64, length: u64) -> Result<Bytes, TierFault> {
    let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    match &offer.content {
        Content::File(file) => {
            let bytes = read_at(Arc::clone(file), at, length).await.map_err(TierFault::Content)?;
            if bytes.len() as u64 == length { Ok(bytes) } else { Err(TierFault::Content(ended())) }
        }
        Content::Inline(bytes) => {
            let range = usize::try_from(at).ok().zip(usize::try_from(at + length).ok());
            let part =
                range.filter(|(_, end)| *end <= bytes.len()).map(|(start, end)| bytes.slice(start..end));
            part.ok_or_else(|| TierFault::Content(ended()))
        }
    }
}
