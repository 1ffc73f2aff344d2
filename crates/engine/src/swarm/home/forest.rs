//! The forest: who feeds whom, in each class, for one blob.
//!
//! Question: from which member does a joiner get the pieces of each class? Answer: in every zone each class has one tree.
//! Its root is fed by the source (the lease holders) or by a member of another zone, so one copy enters a zone. A quarter
//! of the members, another quarter for each group of classes, feed others in a class; they take the places near the
//! root, and the rest become leaves below them. A member that joins later and feeds in a class takes the place of a leaf,
//! which becomes its own. Members that have everything feed first. Prevents: chains, hot spots, more than one copy over
//! the links between zones.
//!
//! Invariant: the edges of a class form trees (no member is its own ancestor), and `used` of a member is the number of
//! its edges over all classes.

mod relief;
mod resume;
mod seeds;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::{FOREST_DEPTH_MAX, FOREST_SEARCH_MAX};
use crate::peer::PeerId;
use crate::swarm::classes::{FANOUT, group_count, nominal_slots};

/// Index of a member in the forest.
pub type Node = u32;

/// What feeds a member in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it does not need the class (any more), or nobody can feed it.
    None,
    /// The lease holders.
    Source,
    /// A member.
    Member(Node),
}

struct Entry {
    peer: PeerId,
    zone: u16,
    group: u8,
    /// Edges to children.
    used: u32,
    /// Edges that it should have at most.
    slots: u32,
    /// It has everything.
    whole: bool,
    /// It is a lease holder or has left: feeds nobody new.
    closed: bool,
    /// It has left.
    gone: bool,
    /// It receives slowly.
    slow: bool,
    parents: Box<[Parent]>,
    /// For each class, its children.
    children: Box<[Vec<Node>]>,
}

/// Members of one zone that may take more children in one class.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    /// Feeding members in order of depth, and before them those that have everything and feed a leaf: the first that still has a
    /// leaf or room takes the next feeding member.
    tops: VecDeque<Node>,
    /// Feeding members with room, shallowest first.
    room: VecDeque<Node>,
    /// Members that are fed, for want of room, by one that does not feed in this class.
    overflow: Vec<Node>,
}

/// See the module's head.
pub struct Forest {
    classes: u8,
    nodes: Vec<Entry>,
    by_peer: BTreeMap<PeerId, Node>,
    zones: Vec<Box<str>>,
    /// For each zone and class.
    trees: Vec<Vec<Tree>>,
    /// For each zone, members that have everything, the least busy first.
    seeds: Vec<BTreeSet<(u32, Node)>>,
    /// For each zone, how many members have everything.
    whole: Vec<u32>,
    /// For each zone, members that may feed more; those that are full by now are among them.
    spare: Vec<BTreeSet<Node>>,
    /// The zone in which the source feeds.
    source_zone: Option<u16>,
    /// For each zone, how many members have come. They are dealt to groups in turn in each zone by itself: members of two zones that
    /// come alternately would leave each zone without half of the groups.
    joined: Vec<u32>,
    /// Members that do not have everything and have not left.
    receiving: usize,
    slow: usize,
    /// Members that the source feeds, with the class.
    by_source: BTreeSet<(Node, u8)>,
    /// Edges that have changed since they were last asked for.
    changed: BTreeSet<(Node, u8)>,
    /// Nobody is given a feed yet, see [`hold`](Self::hold).
    held: bool,
}

impl Forest {
    /// A forest of no members.
    pub fn new(classes: u8) -> Self {
        Forest {
            classes,
            nodes: Vec::new(),
            by_peer: BTreeMap::new(),
            zones: Vec::new(),
            trees: Vec::new(),
            seeds: Vec::new(),
            whole: Vec::new(),
            spare: Vec::new(),
            source_zone: None,
            joined: Vec::new(),
            receiving: 0,
            slow: 0,
            by_source: BTreeSet::new(),
            changed: BTreeSet::new(),
            held: false,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> u8 {
        self.classes
    }

    /// Members that were ever here.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody was ever here.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A member by name.
    pub fn find(&self, peer: &PeerId) -> Option<Node> {
        self.by_peer.get(peer).copied()
    }

    /// Name of a member.
    pub fn peer(&self, node: Node) -> PeerId {
        self.nodes[node as usize].peer
    }

    /// Whether it has everything.
    pub fn is_whole(&self, node: Node) -> bool {
        self.nodes[node as usize].whole
    }

    /// Whether it has left.
    pub fn is_gone(&self, node: Node) -> bool {
        self.nodes[node as usize].gone
    }

    /// Members that have everything and have not left.
    pub fn seeds(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.nodes.iter().filter(|n| n.whole && !n.closed).map(|n| n.peer)
    }

    /// Whether somebody has everything, busy or not, and was not found to be of no use.
    pub fn has_seeds(&self) -> bool {
        self.whole_anywhere() && self.nodes.iter().any(|n| n.whole && n.slots > 0)
    }

    /// Members that do not have everything and have not left; those that fetch upstream are among them.
    pub fn receivers(&self) -> impl Iterator<Item = Node> + '_ {
        (0..self.nodes.len() as Node).filter(|n| {
            let entry = &self.nodes[*n as usize];
            !entry.whole && !entry.gone
        })
    }

    /// How many [receivers](Self::receivers) there are.
    pub fn receiver_count(&self) -> usize {
        self.receiving
    }

    /// Whether a member has said that it receives slowly.
    pub fn is_slow(&self, node: Node) -> bool {
        self.nodes[node as usize].slow
    }

    /// How many have said so.
    pub fn slow_count(&self) -> usize {
        self.slow
    }

    /// For finding the member that has the least to do: how much it feeds, and among those that feed alike an order that
    /// differs from blob to blob, so that the layers of an image are not all fetched by one.
    pub fn busyness(&self, node: Node, salt: u64) -> (u32, u64) {
        let mixed = (u64::from(node) ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (self.nodes[node as usize].used.div_ceil(FANOUT as u32), mixed.rotate_left(23))
    }

    /// What feeds a member in a class.
    pub fn parent(&self, node: Node, class: u8) -> Parent {
        self.nodes[node as usize].parents[usize::from(class)]
    }

    /// The members that the source feeds, with the class.
    pub fn fed_by_source(&self) -> impl Iterator<Item = (Node, u8)> + '_ {
        self.by_source.iter().copied()
    }

    /// The edges that have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<(Node, u8)> {
        std::mem::take(&mut self.changed)
    }

    // ---- mutators ----

    /// Takes a member in, without any edge.
    pub fn add(&mut self, peer: PeerId, zone: &str) -> Node {
        if let Some(node) = self.find(&peer) {
            let entry = &mut self.nodes[node as usize];
            if entry.gone {
                (entry.gone, entry.closed, entry.slots) = (false, false, nominal_slots(self.classes));
                self.receiving += 1;
            }
            return node;
        }
        let zone = match self.zones.iter().position(|z| **z == *zone) {
            Some(at) => at,
            None => {
                self.zones.push(zone.into());
                self.trees.push((0..self.classes).map(|_| Tree::default()).collect());
                self.joined.push(0);
                self.seeds.push(BTreeSet::new());
                self.whole.push(0);
                self.spare.push(BTreeSet::new());
                self.zones.len() - 1
            }
        } as u16;
        let node = self.nodes.len() as Node;
        self.nodes.push(Entry {
            peer,
            zone,
            group: (self.joined[usize::from(zone)] % u32::from(group_count(self.classes))) as u8,
            used: 0,
            slots: nominal_slots(self.classes),
            whole: false,
            closed: false,
            gone: false,
            slow: false,
            parents: vec![Parent::None; usize::from(self.classes)].into(),
            children: vec![Vec::new(); usize::from(self.classes)].into(),
        });
        self.joined[usize::from(zone)] += 1;
        self.receiving += 1;
        self.by_peer.insert(peer, node);
        self.spare[usize::from(zone)].insert(node);
        node
    }

    /// Finds feeds for a member in all classes in which it has none.
    pub fn attach_all(&mut self, node: Node) {
        for class in 0..self.classes {
            if self.parent(node, class) == Parent::None {
                self.attach(node, class);
            }
        }
    }

    /// A member has everything: it needs no feed and can feed in every class.
    pub fn set_whole(&mut self, node: Node) {
        if self.nodes[node as usize].whole {
            return;
        }
        for class in 0..self.classes {
            self.detach(node, class);
        }
        let entry = &mut self.nodes[node as usize];
        self.whole[usize::from(entry.zone)] += 1;
        self.receiving -= usize::from(!entry.gone);
        entry.whole = true;
        (entry.closed, entry.gone) = (false, false);
        self.changed.retain(|(n, _)| *n != node);
        self.offer_seed(node);
    }

    /// A member is, or is no more, a lease holder: as long as it is, it feeds the roots and nobody new.
    pub fn set_source(&mut self, node: Node) {
        self.nodes[node as usize].closed = true;
        self.source_zone.get_or_insert(self.nodes[node as usize].zone);
    }

    /// A lease holder has nothing more to fetch.
    pub fn unset_source(&mut self, node: Node) {
        self.nodes[node as usize].closed = self.nodes[node as usize].gone;
        self.offer_seed(node);
    }

    /// A member has left or died: its children need other feeds, which is done here.
    pub fn remove(&mut self, node: Node) {
        for class in 0..self.classes {
            self.detach(node, class);
        }
        let zone = usize::from(self.nodes[node as usize].zone);
        let entry = &mut self.nodes[node as usize];
        self.seeds[zone].remove(&(entry.used, node));
        self.receiving -= usize::from(!entry.gone && !entry.whole);
        (entry.closed, entry.gone) = (true, true);
        self.whole[zone] -= u32::from(std::mem::take(&mut entry.whole));
        let mut orphans = Vec::new();
        for class in 0..self.classes {
            let children = std::mem::take(&mut self.nodes[node as usize].children[usize::from(class)]);
            orphans.extend(children.into_iter().map(|child| (child, class)));
        }
        self.nodes[node as usize].used = 0;
        for &(child, class) in &orphans {
            self.nodes[child as usize].parents[usize::from(class)] = Parent::None;
            self.by_source.remove(&(child, class));
        }
        for (child, class) in orphans {
            if self.parent(child, class) == Parent::None {
                self.attach(child, class);
            }
        }
        self.changed.retain(|(n, _)| *n != node);
    }

    fn root_of(&self, node: Node, class: u8) -> Option<Node> {
        self.trees[usize::from(self.nodes[node as usize].zone)][usize::from(class)].root
    }

    // ---- edges ----

    fn attach(&mut self, node: Node, class: u8) {
        self.attach_except(node, class, Parent::None);
    }

    fn attach_except(&mut self, node: Node, class: u8, not: Parent) {
        if self.held {
            return;
        }
        let seed = self.seed_for(node, not);
        if let Some(seed) = seed {
            self.grow_from(seed, node, class);
        }
        let parent = seed
            .map(Parent::Member)
            .or_else(|| self.place_in_zone(node, class, not))
            .or_else(|| self.root_of_zone(node, class, not))
            .or_else(|| self.least_busy(node, class, not));
        if let Some(parent) = parent {
            self.link(node, class, parent);
        }
        self.changed.insert((node, class));
        if self.feeds_in(node, class) {
            self.take_in(node, class);
        }
    }

    /// A place in the tree of the zone. A member that feeds in this class displaces a leaf if it must.
    fn place_in_zone(&mut self, node: Node, class: u8, not: Parent) -> Option<Parent> {
        let (zone, c) = (usize::from(self.nodes[node as usize].zone), usize::from(class));
        let tree = &self.trees[zone][c];
        if tree.root.is_none() && tree.tops.is_empty() && tree.room.is_empty() {
            return None;
        }
        let orphan = !self.nodes[node as usize].children[c].is_empty();
        if self.feeds_in(node, class) && !orphan && not == Parent::None {
            let place = self.place_of_leaf(node, class)?;
            self.open_tops(node, class);
            return Some(place);
        }
        let mut at = 0;
        while let Some(&candidate) = self.trees[zone][c].room.get(at) {
            if !self.has_room(candidate, class) {
                self.trees[zone][c].room.remove(at);
            } else if Parent::Member(candidate) != not && !self.is_below(candidate, node, class) {
                return Some(Parent::Member(candidate));
            } else {
                at += 1;
            }
            if at > FOREST_SEARCH_MAX {
                return None;
            }
        }
        None
    }

    fn place_of_leaf(&mut self, node: Node, class: u8) -> Option<Parent> {
        let (zone, c) = (usize::from(self.nodes[node as usize].zone), usize::from(class));
        // The root's own place goes to the first that feeds in this class.
        if let Some(root) = self.trees[zone][c].root
            && !self.feeds_in(root, class)
        {
            let above = self.parent(root, class);
            self.detach(root, class);
            self.trees[zone][c].root = Some(node);
            // It fed in a class that is not its own for want of somebody else; its children move up with it.
            let moving: Vec<_> =
                self.nodes[root as usize].children[c].iter().copied().take(FANOUT - 1).collect();
            for moving in moving.into_iter().chain([root]) {
                self.adopt(node, moving, class);
            }
            self.trees[zone][c].tops.retain(|n| *n != root);
            self.trees[zone][c].room.retain(|n| *n != root);
            return Some(above);
        }
        while let Some(&top) = self.trees[zone][c].tops.front() {
            if self.has_room(top, class) {
                return Some(Parent::Member(top));
            }
            if !self.nodes[top as usize].closed && self.take_leaf(top, node, class) {
                return Some(Parent::Member(top));
            }
            self.trees[zone][c].tops.pop_front();
        }
        None
    }

    /// Moves a leaf from `top` to `node`, which takes its place. False if it has none.
    fn take_leaf(&mut self, top: Node, node: Node, class: u8) -> bool {
        let children = &self.nodes[top as usize].children[usize::from(class)];
        let Some(leaf) = children.iter().copied().find(|n| !self.feeds_in(*n, class)) else { return false };
        self.adopt(node, leaf, class);
        true
    }

    /// A member that begins to feed in a class takes over the leaves that found no place in its tree before.
    fn take_in(&mut self, node: Node, class: u8) {
        let (zone, c) = (usize::from(self.nodes[node as usize].zone), usize::from(class));
        let mut at = 0;
        while let Some(&leaf) = self.trees[zone][c].overflow.get(at) {
            let entry = &self.nodes[node as usize];
            if entry.closed || entry.children[c].len() >= FANOUT || entry.used >= entry.slots {
                return;
            }
            let placed = match self.parent(leaf, class) {
                Parent::Member(parent) => {
                    let entry = &self.nodes[parent as usize];
                    let fits = self.feeds_in(parent, class) && entry.children[c].len() <= FANOUT;
                    (entry.whole && entry.used <= entry.slots) || fits
                }
                Parent::None | Parent::Source => true,
            };
            if placed || leaf == node {
                self.trees[zone][c].overflow.remove(at);
            } else if self.is_below(node, leaf, class) {
                at += 1;
            } else {
                self.trees[zone][c].overflow.remove(at);
                self.adopt(node, leaf, class);
            }
        }
    }

    /// A child of somebody else becomes one of `node`.
    fn adopt(&mut self, node: Node, child: Node, class: u8) {
        self.unlink(child, class);
        self.link(child, class, Parent::Member(node));
        self.changed.insert((child, class));
    }

    /// The zone has no tree yet, or has lost its root: this member becomes it.
    fn root_of_zone(&mut self, node: Node, class: u8, not: Parent) -> Option<Parent> {
        let (zone, c) = (self.nodes[node as usize].zone, usize::from(class));
        if self.trees[usize::from(zone)][c].root.is_some() {
            return None;
        }
        if self.whole_in(zone) {
            return self.root_below_busy_seed(node, class, not);
        }
        let parent = self.afar(node, class, not).or_else(|| {
            // Where somebody has everything nobody fetches.
            let fetched = self.source_zone.is_some() || !self.whole_anywhere();
            let first = fetched && self.source_zone.is_none_or(|source| source == zone);
            let lost = self.source_zone.is_some_and(|s| self.trees[usize::from(s)][c].root.is_none());
            (first || lost).then_some(Parent::Source)
        })?;
        self.trees[usize::from(zone)][c].root = Some(node);
        self.open_tops(node, class);
        if parent == Parent::Source && self.source_zone == Some(zone) {
            self.leave_source(node, class);
        }
        Some(parent)
    }

    /// What a member needs in a class has to be fetched: nobody who has it can send it there.
    pub fn feed_from_source(&mut self, node: Node, class: u8) {
        self.detach(node, class);
        let zone = usize::from(self.nodes[node as usize].zone);
        self.trees[zone][usize::from(class)].root.get_or_insert(node);
        self.link(node, class, Parent::Source);
        self.changed.insert((node, class));
    }

    /// The roots of other zones were fed by the source for want of this one; now it feeds them.
    fn leave_source(&mut self, root: Node, class: u8) {
        let others: Vec<_> =
            self.fed_by_source().filter(|(n, c)| *c == class && *n != root).map(|(n, _)| n).collect();
        for other in others {
            self.unlink(other, class);
            self.link(other, class, Parent::Member(root));
            self.changed.insert((other, class));
        }
    }

    /// Somebody of another zone.
    fn afar(&self, node: Node, class: u8, not: Parent) -> Option<Parent> {
        let zone = self.nodes[node as usize].zone;
        let seed = self
            .seeds
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != usize::from(zone))
            .flat_map(|(_, seeds)| seeds.iter().take(2))
            .filter(|(_, seed)| Parent::Member(*seed) != not)
            .min();
        if let Some((_, seed)) = seed {
            return Some(Parent::Member(*seed));
        }
        let is_elsewhere = |at: &u16| *at != zone && self.source_zone.is_none_or(|source| source == *at);
        let zones = (0..self.zones.len() as u16).filter(is_elsewhere);
        let roots = zones.filter_map(|at| self.trees[usize::from(at)][usize::from(class)].root);
        // A root itself is the freshest; its children are nearly as fresh and less busy.
        let near = roots.flat_map(|root| {
            self.nodes[root as usize].children[usize::from(class)].iter().copied().chain([root])
        });
        near.filter(|n| Parent::Member(*n) != not && !self.is_below(*n, node, class))
            .filter(|n| !self.nodes[*n as usize].closed)
            .min_by_key(|n| (self.nodes[*n as usize].used, *n))
            .map(Parent::Member)
    }

    /// Nobody has room: whoever has the least to do, of some members of the zone.
    fn least_busy(&mut self, node: Node, class: u8, not: Parent) -> Option<Parent> {
        let zone = self.nodes[node as usize].zone;
        let count = self.nodes.len() as u32;
        let nodes = &self.nodes;
        self.spare[usize::from(zone)].retain(|n| nodes[*n as usize].used < nodes[*n as usize].slots);
        // Begins at a place that depends on who asks, so that not everybody lands on the same member.
        let start = node.wrapping_mul(0x9E37_79B1) % count.max(1);
        let usable = |n: &Node| {
            let entry = &self.nodes[*n as usize];
            let attached = entry.whole || entry.parents[usize::from(class)] != Parent::None;
            !entry.closed && *n != node && entry.slots > 0 && attached && Parent::Member(*n) != not
        };
        let pick = |same_zone: bool| {
            let fits = |n: &Node| {
                let there = !same_zone || self.nodes[*n as usize].zone == zone;
                there && usable(n) && !self.is_below(*n, node, class)
            };
            // Those that came last feed few yet, and are far from the roots.
            let last = (0..count).rev().filter(fits).take(FOREST_SEARCH_MAX / 2);
            let some = (0..count).map(|i| (start + i) % count).filter(fits).take(FOREST_SEARCH_MAX / 2);
            // Those that have lost somebody whom they fed.
            let spare = &self.spare[usize::from(zone)];
            let spare = spare.range(start..).chain(spare.range(..start)).copied();
            let spare = spare.take(2 * FOREST_SEARCH_MAX).filter(fits);
            last.chain(some).chain(spare).min_by_key(|n| {
                let entry = &self.nodes[*n as usize];
                // Where all are full, one that has everything feeds the roots, and all below them wait for it.
                let beyond = i64::from(entry.used) - i64::from(entry.slots);
                (beyond, beyond >= 0 && entry.whole, self.depth(*n, class))
            })
        };
        let found = pick(true).or_else(|| pick(false)).map(Parent::Member);
        if found.is_some() {
            self.trees[usize::from(zone)][usize::from(class)].overflow.push(node);
        }
        // A feed that is slow is better than none.
        let kept =
            |p: &Parent| matches!(p, Parent::Member(n) if self.nodes[*n as usize].whole && !self.is_gone(*n));
        found.or_else(|| self.source_zone.map(|_| Parent::Source)).or_else(|| Some(not).filter(kept))
    }

    fn link(&mut self, node: Node, class: u8, parent: Parent) {
        let c = usize::from(class);
        self.nodes[node as usize].parents[c] = parent;
        if parent == Parent::Source {
            self.by_source.insert((node, class));
        }
        if let Parent::Member(parent) = parent {
            let before = self.nodes[parent as usize].used;
            self.nodes[parent as usize].children[c].push(node);
            self.nodes[parent as usize].used += 1;
            self.reseat_seed(parent, before);
        }
    }

    fn detach(&mut self, node: Node, class: u8) {
        let root = &mut self.trees[usize::from(self.nodes[node as usize].zone)][usize::from(class)].root;
        root.take_if(|root| *root == node);
        self.unlink(node, class);
    }

    fn unlink(&mut self, node: Node, class: u8) {
        let c = usize::from(class);
        let parent = std::mem::replace(&mut self.nodes[node as usize].parents[c], Parent::None);
        self.by_source.remove(&(node, class));
        let Parent::Member(parent) = parent else { return };
        let before = self.nodes[parent as usize].used;
        let entry = &mut self.nodes[parent as usize];
        entry.children[c].retain(|n| *n != node);
        entry.used -= 1;
        let entry = &self.nodes[parent as usize];
        let offers = !entry.closed && !entry.whole && self.feeds_in(parent, class);
        let zone = usize::from(entry.zone);
        if offers && self.has_room(parent, class) && self.trees[zone][c].room.len() < self.nodes.len() {
            self.trees[zone][c].room.push_back(parent);
        }
        self.reseat_seed(parent, before);
    }

    fn open_tops(&mut self, node: Node, class: u8) {
        let zone = usize::from(self.nodes[node as usize].zone);
        let tree = &mut self.trees[zone][usize::from(class)];
        tree.tops.push_back(node);
        tree.room.push_back(node);
    }

    // ---- questions ----

    fn feeds_in(&self, node: Node, class: u8) -> bool {
        class % group_count(self.classes) == self.nodes[node as usize].group
    }

    fn has_room(&self, node: Node, class: u8) -> bool {
        let entry = &self.nodes[node as usize];
        let here = entry.children[usize::from(class)].len();
        let attached = entry.parents[usize::from(class)] != Parent::None;
        !entry.closed && !entry.whole && attached && here < FANOUT && entry.used < entry.slots
    }

    /// Whether `candidate` is `node` or is fed by it, directly or not.
    fn is_below(&self, candidate: Node, node: Node, class: u8) -> bool {
        let mut at = candidate;
        for _ in 0..FOREST_DEPTH_MAX {
            if at == node {
                return true;
            }
            match self.parent(at, class) {
                Parent::Member(parent) => at = parent,
                Parent::None | Parent::Source => return false,
            }
        }
        true
    }

    fn depth(&self, node: Node, class: u8) -> u32 {
        let (mut at, mut depth) = (node, 0);
        while let Parent::Member(parent) = self.parent(at, class)
            && depth < FOREST_DEPTH_MAX
        {
            (at, depth) = (parent, depth + 1);
        }
        depth
    }
}

#[cfg(test)]
mod tests;
