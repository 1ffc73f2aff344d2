//! Relief: members that feed others badly, or have something else to send, feed fewer or nobody.

use super::{Forest, Node, Parent};
use crate::limits::FOREST_SEARCH_MAX;
use crate::swarm::classes::nominal_slots;

impl Forest {
    /// A member receives more slowly than the others do: it feeds nobody any more.
    pub fn demote(&mut self, node: Node) {
        let known = std::mem::replace(&mut self.nodes[node as usize].slow, true);
        self.slow += usize::from(!known);
        self.nodes[node as usize].slots = 0;
        self.relieve(node);
    }

    /// A member has something else to send: those that it feeds get other feeds.
    pub fn relieve(&mut self, node: Node) {
        for class in 0..self.classes {
            let above = self.parent(node, class);
            let is_root = self.root_of(node, class) == Some(node);
            let mut children = self.nodes[node as usize].children[usize::from(class)].clone();
            if is_root && !children.is_empty() {
                // The rest of the tree is below one of its children, which becomes the root.
                let heir = children.remove(0);
                self.detach(node, class);
                self.unlink(heir, class);
                let zone = usize::from(self.nodes[heir as usize].zone);
                self.trees[zone][usize::from(class)].root = Some(heir);
                self.link(heir, class, above);
                self.changed.insert((heir, class));
                self.open_tops(heir, class);
            }
            for child in children {
                self.detach(child, class);
                self.attach_except(child, class, Parent::Member(node));
            }
            if self.parent(node, class) == Parent::None && above != Parent::None {
                self.attach(node, class);
            }
        }
    }

    /// Those that feed more than they receive, because nobody else had room, hand leaves to those that have some by now. One
    /// child too many slows all that is below.
    pub fn level(&mut self) {
        let nominal = nominal_slots(self.classes);
        for node in 0..self.nodes.len() as Node {
            // Those that are to feed less have been told so for a reason, and are dealt with where it is known.
            while self.nodes[node as usize].slots == nominal && self.nodes[node as usize].used > nominal {
                let Some((child, class, taker)) = self.movable(node) else { break };
                self.adopt(taker, child, class);
            }
        }
    }

    /// A leaf of a member that feeds too many, its class, and who can take it.
    fn movable(&self, node: Node) -> Option<(Node, u8, Node)> {
        let entry = &self.nodes[node as usize];
        let spare = &self.spare[usize::from(entry.zone)];
        (0u8..).zip(&entry.children).find_map(|(class, children)| {
            let is_leaf = |n: &&Node| self.nodes[**n as usize].children[usize::from(class)].is_empty();
            let child = *children.iter().rev().find(is_leaf)?;
            let fits = |n: &Node| {
                let entry = &self.nodes[*n as usize];
                let attached = entry.whole || entry.parents[usize::from(class)] != Parent::None;
                *n != child && attached && !entry.closed && entry.used < entry.slots
            };
            let takers = spare.iter().copied().filter(fits).take(FOREST_SEARCH_MAX);
            let taker = takers.min_by_key(|n| (self.nodes[*n as usize].used, self.depth(*n, class)))?;
            Some((child, class, taker))
        })
    }

    /// A member's feed in a class is of no use to it: finds another one. `slow` says that the feed works and has more
    /// children than it can serve.
    pub fn replace(&mut self, node: Node, class: u8, slow: bool) {
        if let Parent::Member(parent) = self.parent(node, class) {
            let slots = if slow { self.nodes[parent as usize].used.saturating_sub(1) } else { 0 };
            let before = self.nodes[parent as usize].used;
            let limit = self.nodes[parent as usize].slots.min(slots);
            self.nodes[parent as usize].slots = limit;
            self.reseat_seed(parent, before);
        }
        let before = self.parent(node, class);
        self.detach(node, class);
        self.attach_except(node, class, before);
    }
}
