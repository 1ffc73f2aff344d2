//! Warming without a swarm: this node alone, blob by blob, as if a client that throws everything away had asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use futures_util::{TryStreamExt as _, stream};
use shoal_engine::swarm::warm::blobs::Standing;
use shoal_engine::wire::WarmFault;
use tokio::time::Instant;

use super::job::Job;
use super::resolve::Resolved;
use crate::node::Node;
use crate::store_health::{Reason, StoreTrouble};

/// Blobs that are received at a time: as many as a runtime asks for.
const BLOBS_AT_ONCE: usize = 3;

impl Job {
    /// Until all blobs are here, or one does not come. Why the node has failed if it is not decided then.
    pub(super) async fn alone(&self, at: usize, node: &Node, resolved: &Resolved) -> WarmFault {
        let begun = Instant::now();
        let digests: Vec<_> = resolved.blobs.iter().map(|(digest, _)| *digest).collect();
        let here = node.held(digests.clone(), Duration::ZERO).await.here;
        let mut missing = Vec::new();
        for (index, (digest, size)) in resolved.blobs.iter().enumerate() {
            match here.get(index) {
                Some(true) => self.progress(at, *size),
                _ => missing.push(*digest),
            }
        }
        let received = stream::iter(missing.into_iter().map(Ok))
            .try_for_each_concurrent(BLOBS_AT_ONCE, |digest| async move {
                node.warm_blob(&resolved.scope, digest, |bytes| self.progress(at, bytes)).await
            })
            .await;
        match received {
            Ok(()) => {
                if self.keep_until() > 0 {
                    let until: SystemTime = UNIX_EPOCH + Duration::from_secs(self.keep_until());
                    node.keep(digests, until).await;
                }
                self.decide(at, Standing::Ready, None);
            }
            Err(error) => {
                // What the store has refused meanwhile says more than that something did not come.
                let trouble = node.driver().store_health().trouble();
                let refused = trouble.filter(|trouble| trouble.seconds_ago <= begun.elapsed().as_secs());
                let why = match refused {
                    Some(trouble) => format!("{} ({error})", in_words(&trouble)),
                    None => error.to_string(),
                };
                self.decide(at, Standing::Failed(WarmFault::Exhausted), Some(why));
            }
        }
        WarmFault::Exhausted
    }
}

/// Why the store does not keep what came, and what to do about it.
fn in_words(trouble: &StoreTrouble) -> String {
    let blob = trouble.needed.map_or_else(
        || "a blob".to_owned(),
        |needed| format!("a blob of {}", ByteSize(needed).display().si()),
    );
    match trouble.reason {
        Reason::Capacity => format!(
            "{blob} finds no room in this node's store: raise store.capacity, or unpin what need not stay"
        ),
        Reason::DiskFull => {
            format!("{blob} finds no room on this node's disk: free space, or lower store.disk_free_min")
        }
        Reason::DiskError => format!("this node's store cannot be used: {}", trouble.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_store_refuses() {
        let trouble = |reason, needed| StoreTrouble { reason, error: "EIO".into(), needed, seconds_ago: 1 };
        let table = [
            (
                trouble(Reason::Capacity, Some(150_000_000)),
                "a blob of 150.0 MB finds no room in this node's store",
            ),
            (trouble(Reason::DiskFull, None), "a blob finds no room on this node's disk"),
            (trouble(Reason::DiskError, None), "cannot be used: EIO"),
        ];
        for (trouble, expected) in table {
            assert!(in_words(&trouble).contains(expected), "{}", in_words(&trouble));
        }
    }
}
