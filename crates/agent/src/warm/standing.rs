//! Standing orders: what one agent has been asked for, and others go on with when it is gone.
//!
//! Questions: a node joins while an image is pinned on all nodes like it; who brings the image there? And who sees to a request
//! whose agent dies? Answer: the agent that was asked owns the order. It keeps it on its disk, asks for each member that appears and that
//! the request would have meant, and gives a copy to the order's heirs: the members that would be homes of its name ([`tag_homes`]).
//! An heir whose owner has been no member for a while becomes the owner, the best of them first, and the others hear of it.
//! A request for certain nodes, or without a pin, is an order for as long as it is under way. Prevents: that a cluster which
//! scales out is warm everywhere but where it has grown, and that a request ends with the node that was asked.
//!
//! Two owners are no harm: they ask for the same sets. So there is no vote, and of two copies the later word counts.
//!
//! Invariants: what is kept is bounded in number and in time; in one life of the agent a member is asked for once for an order; it has been
//! there for a while then, so that one that comes and goes causes nothing; time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shoal_engine::homes::tag_homes;
use shoal_engine::peer::{Member, PeerId, Roster};

use super::{KEEP_MAX, WarmRequest};
use crate::driver::brief_name;
use crate::swarm::{name, peer_named};

/// Of the file with them: what the agent's umask leaves.
const FILE_MODE: u32 = 0o666;
/// Orders that an agent owns. Beyond, the one that ends first gives way.
const OWNED_MAX: usize = 64;
/// Orders of others of which it has copies, and of its own that are over. Beyond, the one that ends first gives way.
const COPIES_MAX: usize = 256;
/// Time for which an owner has been no member when its best heir takes over: agents that are replaced are back sooner.
pub(super) const TAKEOVER_AFTER: Duration = Duration::from_secs(20);
/// How much longer each further heir waits: the one before it has told it by then.
pub(super) const TAKEOVER_STEP: Duration = Duration::from_secs(10);

/// How often heirs are told again: two owners of one order that have told different heirs hear of each other by the next time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// One request, as it is kept and as heirs get it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The request's name.
    #[serde(default)]
    id: String,
    request: WarmRequest,
    /// When it ends by itself, in Unix seconds: with the pins, or at the deadline.
    until: u64,
    /// The beginnings of the names of the members that it is for, if these are certain ones: it is over with the request then.
    #[serde(default)]
    members: Option<BTreeSet<String>>,
    /// Who sees to it.
    #[serde(default)]
    owner: String,
    /// When that was decided, Unix milliseconds. Of two copies the later counts.
    #[serde(default)]
    stamp: u64,
    /// Nobody wants it any more. A copy of that stays until the end, in case an owner comes back who has not heard.
    #[serde(default)]
    is_over: bool,
    /// Members that it was for, or that have been asked for since; not kept on disk: to ask again costs nothing there.
    #[serde(skip)]
    served: BTreeSet<PeerId>,
    /// Heirs that have the latest copy, each in its present life, and since when.
    #[serde(skip)]
    told: BTreeMap<(PeerId, u64), Duration>,
    /// Who saw to it before, where that is not who ended it: it has to hear.
    #[serde(skip)]
    last_owner: Option<String>,
    /// Since when the owner is no member.
    #[serde(skip)]
    orphan_since: Option<Duration>,
}

/// A request that others go on with if the agent that was asked for it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StandingOrder {
    /// The request's name.
    pub id: String,
    /// The images.
    pub images: Vec<String>,
    /// When it ends by itself, in Unix seconds.
    pub until: u64,
    /// Whether it is for nodes that join later, too. Otherwise it is over with the request.
    pub for_newcomers: bool,
    /// Name of the agent that sees to it.
    pub owner: String,
    /// Whether that is the agent that was asked for this list.
    pub is_own: bool,
}

/// What is to be asked for.
#[derive(Debug)]
pub(super) struct Due {
    /// The order's name.
    pub id: String,
    /// The request; its nodes are those of the order.
    pub request: WarmRequest,
    /// Whom it is for now.
    pub targets: Vec<Arc<Member>>,
}

/// What follows from a look at the members.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// What is to be asked for.
    pub due: Vec<Due>,
    /// Who is to get which copy.
    pub tell: Vec<(Arc<Member>, Order)>,
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since the agent started.
    pub running: Duration,
    /// Unix milliseconds.
    pub unix_ms: u64,
}

impl Now {
    fn unix(self) -> u64 {
        self.unix_ms / 1000
    }
}

/// See the module's head.
pub(super) struct Standing {
    /// `None` where nothing is to be kept.
    file: Option<PathBuf>,
    peer: Option<PeerId>,
    /// Its name; empty where there is none.
    me: String,
    orders: Mutex<Vec<Order>>,
    /// What this life of the agent has written to the file. Held from the look at the orders until that is written, so that the
    /// last word on the disk is the latest.
    kept: Mutex<Vec<u8>>,
}

impl Order {
    /// The request's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether another copy counts more than this one.
    fn is_older_than(&self, other: &Order) -> bool {
        (self.stamp, self.is_over) < (other.stamp, other.is_over)
    }

    fn is_for(&self, member: &Member) -> bool {
        match &self.members {
            Some(names) => names.contains(&brief_name(&member.peer)),
            None => self.request.nodes.fits(member),
        }
    }

    fn heirs(&self, roster: &Roster) -> Vec<PeerId> {
        tag_homes(&self.id, roster).iter().collect()
    }

    /// It changes hands, or ends: copies of what was before count no more.
    fn decide(&mut self, unix_ms: u64) {
        self.stamp = unix_ms.max(self.stamp + 1);
        self.told.clear();
    }
}

impl Standing {
    /// Reads what an earlier life of the agent has kept. Without a file, and without a name, nothing is kept.
    pub fn open(peer: Option<PeerId>, file: Option<PathBuf>) -> Self {
        let (me, file) = peer.map_or((String::new(), None), |me| (name(&me), file));
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let mut orders: Vec<Order> = file.as_ref().map_or(Ok(Vec::new()), read).unwrap_or_else(|error| {
            tracing::warn!(?file, %error, "pinned requests cannot be read; nodes that join later are not warmed for them");
            Vec::new()
        });
        for order in &mut orders {
            // As an older version has kept it.
            order.owner.clone_from(&me);
            if order.id.is_empty() {
                order.id = super::job::new_id();
            }
        }
        Standing { file, peer, me, orders: Mutex::new(orders), kept: Mutex::default() }
    }

    /// Owns a request that has begun for these members. It ends at `until`, in Unix seconds.
    pub fn remember(&self, id: &str, request: &WarmRequest, until: u64, targets: &[Arc<Member>], now: Now) {
        if self.file.is_none() {
            return;
        }
        let is_for_all_alike = request.nodes.count.is_none() && request.nodes.percent.is_none();
        let stays = request.pin_seconds.is_some() && is_for_all_alike;
        let mut orders = self.orders.lock();
        // What was pinned before, for however long, is pinned by this from now on.
        let before = |order: &&mut Order| {
            stays && order.owner == self.me && order.members.is_none() && is_same(&order.request, request)
        };
        for order in orders.iter_mut().filter(before) {
            order.is_over = true;
            order.decide(now.unix_ms);
        }
        let order = Order {
            id: id.to_owned(),
            request: request.clone(),
            until,
            members: (!stays).then(|| targets.iter().map(|member| brief_name(&member.peer)).collect()),
            owner: self.me.clone(),
            stamp: now.unix_ms,
            is_over: false,
            served: targets.iter().map(|member| member.peer).collect(),
            told: BTreeMap::new(),
            last_owner: None,
            orphan_since: None,
        };
        make_room(&mut orders, |order| order.owner == self.me && !order.is_over, OWNED_MAX);
        orders.push(order);
        drop(orders);
        self.save();
    }

    /// A request has ended. What is pinned for members that join later goes on.
    pub fn ended(&self, id: &str, now: Now) {
        self.end(id, now, |order| order.members.is_some());
    }

    /// Nobody wants it any more. Whether it was known.
    pub fn forget(&self, id: &str, now: Now) -> bool {
        self.end(id, now, |_| true)
    }

    fn end(&self, id: &str, now: Now, ends: impl Fn(&Order) -> bool) -> bool {
        let mut orders = self.orders.lock();
        let mut is_known = false;
        for order in orders.iter_mut().filter(|order| order.id == id && !order.is_over && ends(order)) {
            (order.is_over, is_known) = (true, true);
            let owner = std::mem::replace(&mut order.owner, self.me.clone());
            order.last_owner = Some(owner).filter(|owner| *owner != self.me);
            order.decide(now.unix_ms);
        }
        make_room(&mut orders, |order| order.owner != self.me || order.is_over, COPIES_MAX);
        drop(orders);
        if is_known {
            self.save();
        }
        is_known
    }

    /// The orders that are not over, by their ends.
    pub fn list(&self) -> Vec<StandingOrder> {
        let orders = self.orders.lock();
        let told = |order: &Order| StandingOrder {
            id: order.id.clone(),
            images: order.request.images.clone(),
            until: order.until,
            for_newcomers: order.members.is_none(),
            owner: order.owner.clone(),
            is_own: order.owner == self.me,
        };
        let mut list: Vec<_> = orders.iter().filter(|order| !order.is_over).map(told).collect();
        list.sort_by(|one, other| (one.until, &one.id).cmp(&(other.until, &other.id)));
        list
    }

    /// Takes in another member's copy. What is known better here, and whether the request is over that is named so.
    pub fn hear(&self, told: Order, now: Now) -> (Option<Order>, bool) {
        let latest = now.unix().saturating_add(KEEP_MAX.as_secs());
        if self.file.is_none() || told.until <= now.unix() || told.until > latest {
            return (None, false);
        }
        let mut orders = self.orders.lock();
        let ends = told.is_over;
        match orders.iter_mut().find(|order| order.id == told.id) {
            Some(known) if told.is_older_than(known) => return (Some(known.clone()), false),
            Some(known) if known.is_older_than(&told) => *known = told,
            Some(_) => return (None, false),
            None => {
                make_room(&mut orders, |order| order.owner != self.me || order.is_over, COPIES_MAX);
                orders.push(told);
            }
        }
        drop(orders);
        self.save();
        (None, ends)
    }

    /// What was due could not be begun yet.
    pub fn put_off(&self, id: &str) {
        self.orders.lock().iter_mut().filter(|order| order.id == id).for_each(|order| order.served.clear());
    }

    /// An heir has the copy.
    pub fn has_heard(&self, heir: &Member, copy: &Order, now: Now) {
        let mut orders = self.orders.lock();
        for order in orders.iter_mut().filter(|order| order.id == copy.id && order.stamp == copy.stamp) {
            order.told.insert((heir.peer, heir.generation), now.running);
        }
    }

    /// What is to be done now that these are the members. `settled` are those that have been there for a while.
    pub fn look(&self, now: Now, roster: &Roster, settled: &[Arc<Member>]) -> Look {
        let mut look = Look::default();
        let mut orders = self.orders.lock();
        let known = orders.len();
        orders.retain(|order| order.until > now.unix() && !self.is_spare(order, roster));
        let mut changes = orders.len() < known;
        for order in orders.iter_mut() {
            changes |= self.take_over(order, now, roster);
            if order.owner != self.me {
                continue;
            }
            order.told.retain(|_, since| now.running.saturating_sub(*since) < TELL_AGAIN);
            let untold = |heir: &&Arc<Member>| !order.told.contains_key(&(heir.peer, heir.generation));
            let heirs = order.heirs(roster);
            let last_owner = order.last_owner.as_deref().and_then(peer_named);
            let is_to_hear =
                |member: &&Arc<Member>| heirs.contains(&member.peer) || last_owner == Some(member.peer);
            let others = roster.iter().filter(|member| Some(member.peer) != self.peer);
            let tell: Vec<_> = others.filter(is_to_hear).filter(untold).cloned().collect();
            look.tell.extend(tell.into_iter().map(|member| (member, order.clone())));
            look.due.extend(due(order, settled, now));
        }
        drop(orders);
        if changes {
            self.save();
        }
        look
    }

    /// Whether a copy is one too many: others have become heirs, and the owner sees to it that they have one. Nobody would tell
    /// this agent when the order ends.
    fn is_spare(&self, order: &Order, roster: &Roster) -> bool {
        let is_owned = peer_named(&order.owner).is_some_and(|owner| roster.contains(&owner));
        let is_heir = || order.heirs(roster).iter().any(|heir| Some(*heir) == self.peer);
        order.owner != self.me && is_owned && !is_heir()
    }

    /// Whether an order has become this agent's, whose owner is gone. An agent that sees nobody is the one that is gone.
    fn take_over(&self, order: &mut Order, now: Now, roster: &Roster) -> bool {
        let is_there = peer_named(&order.owner).is_some_and(|owner| roster.contains(&owner));
        if is_there || order.is_over || roster.len() < 2 {
            order.orphan_since = None;
            return false;
        }
        let since = *order.orphan_since.get_or_insert(now.running);
        let heirs = order.heirs(roster);
        let rank = heirs.iter().position(|heir| Some(*heir) == self.peer).unwrap_or(heirs.len());
        let patience = TAKEOVER_AFTER + TAKEOVER_STEP * u32::try_from(rank).unwrap_or(u32::MAX);
        if now.running.saturating_sub(since) < patience {
            return false;
        }
        tracing::info!(
            id = order.id,
            owner = order.owner,
            "the agent that was asked to warm images is gone; this one takes over"
        );
        order.owner.clone_from(&self.me);
        order.served.clear();
        order.decide(now.unix_ms);
        true
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        // A disk that is busy takes its time to sync; what else this thread has to do goes on elsewhere.
        if let Err(error) = tokio::task::block_in_place(|| self.write(file)) {
            tracing::warn!(file = %file.display(), %error, "a pinned request cannot be kept; after a restart, nodes that join are not warmed for it");
        }
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let mut kept = self.kept.lock();
        let own: Vec<_> = {
            let orders = self.orders.lock();
            orders.iter().filter(|order| order.owner == self.me && !order.is_over).cloned().collect()
        };
        let bytes = serde_json::to_vec(&own).map_err(io::Error::other)?;
        // Copies of others come again and again, and are not kept here.
        if *kept != bytes {
            // Some kilobytes, written seldom: the caller waits for it.
            shoal_net::write_whole(file, &bytes, FILE_MODE)?;
            *kept = bytes;
        }
        Ok(())
    }
}

/// What is to be asked for, for members that nobody has been asked for yet.
fn due(order: &mut Order, settled: &[Arc<Member>], now: Now) -> Option<Due> {
    let is_new = |member: &&Arc<Member>| !order.served.contains(&member.peer) && order.is_for(member);
    let targets: Vec<_> = settled.iter().filter(is_new).cloned().collect();
    if order.is_over || targets.is_empty() {
        return None;
    }
    order.served.extend(targets.iter().map(|member| member.peer));
    let left = order.until - now.unix();
    let grace_seconds = Some(order.request.grace().as_secs());
    let request = match order.request.pin_seconds {
        Some(_) => WarmRequest { pin_seconds: Some(left), ..order.request.clone() },
        None => WarmRequest { deadline_seconds: Some(left), grace_seconds, ..order.request.clone() },
    };
    Some(Due { id: order.id.clone(), request, targets })
}

/// Lets the first to end of a kind go, if there are as many as may be.
fn make_room(orders: &mut Vec<Order>, kind: impl Fn(&Order) -> bool, most: usize) {
    let of_kind = || (0..orders.len()).filter(|at| kind(&orders[*at]));
    if of_kind().count() >= most
        && let Some(first) = of_kind().min_by_key(|at| orders[*at].until)
    {
        orders.remove(first);
    }
}

/// The same images for the same nodes, however long.
fn is_same(one: &WarmRequest, other: &WarmRequest) -> bool {
    (&one.images, &one.platforms, &one.nodes) == (&other.images, &other.platforms, &other.nodes)
}

#[cfg(test)]
mod tests;
