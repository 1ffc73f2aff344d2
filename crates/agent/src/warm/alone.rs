//! Warming without a swarm: this node alone, blob by blob, as if a client that throws everything away had asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{TryStreamExt as _, stream};
use shoal_engine::swarm::warm::blobs::Standing;
use shoal_engine::wire::WarmFault;

use super::job::Job;
use super::resolve::Resolved;
use crate::node::Node;

/// Blobs that are received at a time: as many as a runtime asks for.
const BLOBS_AT_ONCE: usize = 3;

impl Job {
    /// Until all blobs are here, or one does not come. Why the node has failed if it is not decided then.
    pub(super) async fn alone(&self, at: usize, node: &Node, resolved: &Resolved) -> WarmFault {
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
                self.decide(at, Standing::Failed(WarmFault::Exhausted), Some(error.to_string()));
            }
        }
        WarmFault::Exhausted
    }
}
