//! Standing orders: images that are pinned, for nodes that come later.
//!
//! Question: a node joins while an image is pinned on all nodes like it; who brings the image there? Answer: the agent that was
//! asked keeps the request on its disk until the pins end, and asks for the same for each member that appears and that the
//! request would have meant. Prevents: that a cluster which scales out is warm everywhere but where it has grown.
//!
//! What it does *not* do: another agent does not take over when this one's node is gone for good. A request for some of the
//! nodes (a number, a part) is complete with these, and is not kept.
//!
//! Invariants: what is kept is bounded in number and in time; in one life of the agent a member is asked for once; it has been
//! there for a while then, so that one that comes and goes causes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shoal_engine::peer::{Member, PeerId};

use super::select::Selection;
use super::{WarmRequest, Warmer};
use crate::swarm::name;

/// Orders that are kept. Beyond, the one whose pins end first gives way.
const ORDERS_MAX: usize = 64;
/// Pause between two looks at the list of members; who has been there for one of them is there.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is kept of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    request: WarmRequest,
    /// When its pins end, in Unix seconds.
    until: u64,
    /// Members that it was for, or that have been asked for since; not kept on disk: to ask again costs nothing there.
    #[serde(skip)]
    served: BTreeSet<PeerId>,
}

/// See the module's head.
pub(super) struct Standing {
    /// `None` where nothing is to be kept.
    file: Option<PathBuf>,
    orders: Mutex<Vec<Order>>,
}

impl Standing {
    /// Reads what an earlier life of the agent has kept.
    pub fn open(file: Option<PathBuf>) -> Self {
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let orders = file.as_ref().map_or(Ok(Vec::new()), read).unwrap_or_else(|error| {
            tracing::warn!(?file, %error, "pinned requests cannot be read; nodes that join later are not warmed for them");
            Vec::new()
        });
        Standing { file, orders: Mutex::new(orders) }
    }

    /// Keeps a request whose blobs are pinned until then, and which has begun for these members.
    pub fn remember(&self, request: &WarmRequest, until: u64, targets: &[Arc<Member>]) {
        if self.file.is_none() || request.nodes.count.is_some() || request.nodes.percent.is_some() {
            return;
        }
        let mut orders = self.orders.lock();
        orders.retain(|order| !is_same(&order.request, request));
        if orders.len() >= ORDERS_MAX
            && let Some(first) = (0..orders.len()).min_by_key(|at| orders[*at].until)
        {
            orders.remove(first);
        }
        let served = targets.iter().map(|member| member.peer).collect();
        orders.push(Order { request: request.clone(), until, served });
        drop(orders);
        self.save();
    }

    /// Nobody wants it any more.
    pub fn forget(&self, request: &WarmRequest) {
        self.orders.lock().retain(|order| !is_same(&order.request, request));
        self.save();
    }

    /// What is to be asked for now that these members are there.
    fn due(&self, members: &[Arc<Member>], now: u64) -> Vec<WarmRequest> {
        let mut due = Vec::new();
        let mut orders = self.orders.lock();
        let known = orders.len();
        orders.retain(|order| order.until > now);
        for order in orders.iter_mut() {
            let is_new = |member: &&Arc<Member>| {
                !order.served.contains(&member.peer) && order.request.nodes.fits(member)
            };
            let new: Vec<PeerId> = members.iter().filter(is_new).map(|member| member.peer).collect();
            if new.is_empty() {
                continue;
            }
            due.push(WarmRequest {
                nodes: Selection { names: new.iter().map(name).collect(), ..Selection::default() },
                pin_seconds: Some(order.until - now),
                ..order.request.clone()
            });
            order.served.extend(new);
        }
        let has_ended = orders.len() < known;
        drop(orders);
        if has_ended {
            self.save();
        }
        due
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        let saved = serde_json::to_vec(&*self.orders.lock()).map_err(io::Error::other);
        if let Err(error) = saved.and_then(|bytes| replace(file, &bytes)) {
            tracing::warn!(file = %file.display(), %error, "a pinned request cannot be kept; after a restart, nodes that join are not warmed for it");
        }
    }
}

/// The same images for the same nodes, however long.
fn is_same(one: &WarmRequest, other: &WarmRequest) -> bool {
    (&one.images, &one.platforms, &one.nodes) == (&other.images, &other.platforms, &other.nodes)
}

/// Some kilobytes, written seldom: the caller waits for it.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, file)
}

impl Warmer {
    /// Sees to members that join later; ends when the agent does.
    pub(super) async fn see_to_newcomers(self) {
        let mut seen = BTreeSet::new();
        let look = || async { tokio::time::sleep(LOOK_EVERY).await };
        while self.0.stop.run_until_cancelled(look()).await.is_some() {
            let members = self.members();
            let there: Vec<_> =
                members.iter().filter(|member| seen.contains(&member.peer)).cloned().collect();
            seen = members.iter().map(|member| member.peer).collect();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            for request in self.0.standing.due(&there, now) {
                tracing::info!(nodes = ?request.nodes.names, "nodes have joined for which images are pinned");
                if let Err(error) = self.start(&request) {
                    tracing::warn!(%error, "nodes that have joined are not warmed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::tests::{members, request};

    #[test]
    fn who_joins_is_asked_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = || Some(folder.path().join("prewarm.json"));
        let standing = Standing::open(file());
        let members = members();
        let in_a = request("zone=a");
        standing.remember(&in_a, 1000, &members[..2]);
        standing.remember(&request("count=2"), 1000, &members[..2]);
        assert_eq!(standing.due(&members[..2], 10), [], "they have been asked for");
        let due = standing.due(&members, 400);
        assert_eq!(due.len(), 1, "the third of zone a has come; two of all nodes are two");
        assert_eq!(due[0].nodes.names, [name(&members[2].peer)]);
        assert_eq!((due[0].pin_seconds, &due[0].images), (Some(600), &in_a.images));
        assert_eq!(standing.due(&members, 410), []);

        let again = Standing::open(file());
        assert_eq!(again.due(&members, 500)[0].nodes.names.len(), 3, "all of them, after a restart");
        again.forget(&WarmRequest { pin_seconds: Some(7), ..in_a.clone() });
        assert_eq!(Standing::open(file()).due(&members, 500), []);
        again.remember(&in_a, 1000, &[]);
        assert_eq!(again.due(&members, 1000), [], "its pins have ended");
        assert!(again.orders.lock().is_empty());
    }
}
