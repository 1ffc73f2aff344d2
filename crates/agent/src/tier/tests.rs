use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use shoal_engine::{Algorithm, Digest, Scope};
use shoal_store::Content;

use super::*;

mod faults;
mod faulty;
mod server;
mod sharing;
mod uploads;

use faulty::Faulty;

fn scope(name: &str) -> Scope {
    let (registry, repository) = name.split_once('/').unwrap();
    Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Bytes that differ from place to place.
fn noise(length: usize) -> Bytes {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn settings(bucket: Bucket) -> TierSettings {
    TierSettings {
        bucket,
        prefix: "cache".into(),
        credentials: BucketCredentials::Anonymous,
        ca: None,
        user_agent: "shoal/test".into(),
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(15),
        write: true,
        uploads_max: 2,
    }
}

/// Several agents over one store in memory that fails as it is told.
struct Stand {
    store: Arc<Faulty>,
    settings: TierSettings,
}

/// One agent's view of it.
struct Agent {
    tier: Tier,
    metrics: Arc<Metrics>,
}

impl Stand {
    fn new() -> Self {
        let settings = settings(Bucket::Directory { path: "/nowhere".into() });
        Stand { store: Arc::new(Faulty::over(InMemory::new())), settings }
    }

    fn agent(&self) -> Agent {
        let metrics = Metrics::new();
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        let backend = Backend::of(&self.settings, store);
        Agent { tier: Tier::over(&self.settings, backend, Arc::clone(&metrics)), metrics }
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.settings.prefix)
    }

    async fn put(&self, path: &Path, bytes: impl Into<Bytes>) {
        self.store.inner.put(path, PutPayload::from(bytes.into())).await.unwrap();
    }

    async fn bytes(&self, path: &Path) -> Option<Bytes> {
        match self.store.inner.get(path).await {
            Ok(got) => Some(got.bytes().await.unwrap()),
            Err(_) => None,
        }
    }

    async fn remove(&self, path: &Path) {
        self.store.inner.delete(path).await.unwrap();
    }
}

impl Agent {
    /// Offers and waits until nothing is under way; the tier takes no offers afterwards.
    async fn upload(self, offer: Offer) {
        self.tier.offer(offer);
        self.tier.drain(Duration::from_secs(300)).await;
    }

    async fn read(&self, scope: &Scope, digest: &Digest) -> Option<Bytes> {
        let mut stream = self.tier.open(scope, digest, 0, None).await.unwrap()?;
        let mut all = BytesMut::new();
        while let Some(bytes) = stream.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        Some(all.freeze())
    }

    /// Value of a sample, as the metrics' text has it.
    fn metric(&self, sample: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    fn uploads(&self, outcome: &str) -> u64 {
        self.metric(&format!("shoal_tier_requests_total{{operation=\"upload\",outcome=\"{outcome}\"}}"))
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!("shoal_tier_uploads_dropped_total{{reason=\"{reason}\"}}"))
    }
}

fn offer(scope: &Scope, bytes: &Bytes, visibility: Visibility) -> Offer {
    let content = Content::Inline(bytes.clone());
    Offer { scope: scope.clone(), digest: digest_of(bytes), size: bytes.len() as u64, visibility, content }
}

fn file_offer(scope: &Scope, bytes: &Bytes, visibility: Visibility) -> Offer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Offer { content: Content::File(Arc::new(file)), ..offer(scope, bytes, visibility) }
}
