//! Taking a forest over: members tell who feeds them, and it is put together again as it stands.
//!
//! Question: a home has died; who feeds whom from now on? Answer: whoever did before. The next home gives nobody a feed
//! until its members have had time to tell; then it takes over the edges between those who live, and finds feeds only
//! for those who hung on the dead. Prevents: that all streams stop and start again, and that what was learned of slow
//! members is learned once more.

use std::cmp::Reverse;

use super::{Forest, Node, Parent};
use crate::swarm::classes::group_count;

impl Forest {
    /// Nobody is given a feed until the forest is [settled](Self::settle).
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Whether it waits to be settled.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// A member is fed like this already. False if that cannot be, or cannot go on.
    pub fn resume(&mut self, node: Node, class: u8, parent: Parent) -> bool {
        let entry = &self.nodes[node as usize];
        if entry.gone || entry.whole || self.parent(node, class) != Parent::None {
            return false;
        }
        let fits = match parent {
            Parent::None => false,
            Parent::Source => true,
            Parent::Member(feed) => !self.nodes[feed as usize].gone && !self.is_below(feed, node, class),
        };
        if fits {
            self.link(node, class, parent);
        }
        fits
    }

    /// All have told who feeds them: the edges are taken over, and members that `wants` a feed and have none get one,
    /// those first below which others hang.
    pub fn settle(&mut self, told: &[(Node, u8, Parent)], wants: impl Fn(&Self, Node) -> bool) {
        self.held = false;
        for &(node, class, parent) in told {
            self.resume(node, class, parent);
        }
        self.regroup();
        self.rebuild_trees();
        let mut orphans: Vec<_> = self.receivers().filter(|n| wants(self, *n)).collect();
        orphans.retain(|n| self.lacks_a_feed(*n));
        let mut places: Vec<(Node, u8)> =
            orphans.into_iter().flat_map(|node| (0..self.classes).map(move |class| (node, class))).collect();
        places.sort_by_key(|(n, c)| Reverse(self.nodes[*n as usize].children[usize::from(*c)].len()));
        for (node, class) in places {
            if self.parent(node, class) != Parent::None {
                continue;
            }
            self.attach(node, class);
            if self.feeds_in(node, class) && self.has_room(node, class) {
                let zone = usize::from(self.nodes[node as usize].zone);
                self.trees[zone][usize::from(class)].room.push_back(node);
            }
        }
    }

    fn lacks_a_feed(&self, node: Node) -> bool {
        self.nodes[node as usize].parents.contains(&Parent::None)
    }

    /// Members are of the group in whose classes they feed most; those who feed nobody go where few are.
    fn regroup(&mut self) {
        let groups = usize::from(group_count(self.classes));
        let mut members = vec![0; groups];
        let mut idle = Vec::new();
        for node in 0..self.nodes.len() {
            let mut fed = vec![0; groups];
            for (class, children) in self.nodes[node].children.iter().enumerate() {
                fed[class % groups] += children.len();
            }
            let (group, most) = (0..groups).zip(fed).max_by_key(|(g, n)| (*n, Reverse(*g))).unwrap_or((0, 0));
            if most == 0 {
                idle.push(node);
            } else {
                self.nodes[node].group = group as u8;
                members[group] += 1;
            }
        }
        for node in idle {
            let group = (0..groups).min_by_key(|g| members[*g]).unwrap_or(0);
            self.nodes[node].group = group as u8;
            members[group] += 1;
        }
    }

    /// The roots, and the members with room in order of depth, follow from the edges.
    fn rebuild_trees(&mut self) {
        for class in 0..self.classes {
            let c = usize::from(class);
            let mut order: Vec<_> =
                (0..self.nodes.len() as Node).map(|n| (self.depth(n, class), n)).collect();
            order.sort_unstable();
            for (_, node) in order {
                let entry = &self.nodes[node as usize];
                let zone = usize::from(entry.zone);
                let (is_top, is_fed) = match entry.parents[c] {
                    Parent::Source => (true, true),
                    Parent::Member(parent) => (self.nodes[parent as usize].zone != entry.zone, true),
                    Parent::None => (false, false),
                };
                let children = entry.children[c].len();
                if is_top {
                    let root = self.trees[zone][c].root;
                    if root.is_none_or(|r| self.nodes[r as usize].children[c].len() < children) {
                        self.trees[zone][c].root = Some(node);
                    }
                }
                if (is_fed || children > 0) && !entry.whole && self.feeds_in(node, class) {
                    self.open_tops(node, class);
                }
            }
        }
    }
}
