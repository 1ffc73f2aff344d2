//! Seeds: members that have everything, and the trees below them.
//!
//! Question: one member has a blob, and a thousand ask for it at once; who feeds whom? Answer: the seed feeds as many as it can send
//! the whole blob to, in every class the first that come; below those the others grow into trees as they do below a source. Where a
//! seed is busy with members of other zones, for want of a tree in its own, those move below the root of that tree as soon as there is
//! one. Prevents: chains, which make the last of a thousand wait for hundreds of hops, and zones that nobody feeds.

use super::{Forest, Node, Parent};
use crate::limits::FOREST_SEARCH_MAX;

impl Forest {
    /// Somebody of the same zone who has everything and is not busy.
    pub(super) fn seed_for(&self, node: Node, not: Parent) -> Option<Node> {
        let zone = usize::from(self.nodes[node as usize].zone);
        self.seeds[zone].iter().map(|(_, seed)| *seed).find(|seed| Parent::Member(*seed) != not)
    }

    /// A member that is fed by a seed: others find a place below it, or, if it does not feed in this class, those that do take its.
    pub(super) fn grow_from(&mut self, seed: Node, node: Node, class: u8) {
        let feeds = self.feeds_in(node, class);
        let tree = &mut self.trees[usize::from(self.nodes[node as usize].zone)][usize::from(class)];
        tree.root.get_or_insert(node);
        if feeds {
            tree.tops.push_front(node);
            tree.room.push_front(node);
        } else {
            tree.tops.push_front(seed);
        }
    }

    /// Those of the zone that have everything are busy, with members of other zones perhaps: those were fed from here for want of a
    /// tree, and move below its root.
    pub(super) fn root_below_busy_seed(&mut self, node: Node, class: u8, not: Parent) -> Option<Parent> {
        let (zone, c) = (self.nodes[node as usize].zone, usize::from(class));
        let fits = |n: &Node| {
            let entry = &self.nodes[*n as usize];
            entry.whole && !entry.closed && entry.slots > 0 && entry.zone == zone && Parent::Member(*n) != not
        };
        let stranger = |seed: Node| {
            let mut fed = self.nodes[seed as usize].children[c].iter().copied();
            fed.find(|n| self.nodes[*n as usize].zone != zone && !self.is_below(node, *n, class))
        };
        let seeds = (0..self.nodes.len() as Node).filter(fits).take(FOREST_SEARCH_MAX);
        let seed = seeds.min_by_key(|n| (stranger(*n).is_none(), self.nodes[*n as usize].used))?;
        let moves = stranger(seed);
        self.trees[usize::from(zone)][c].root = Some(node);
        self.open_tops(node, class);
        if let Some(moves) = moves {
            self.adopt(node, moves, class);
        }
        Some(Parent::Member(seed))
    }

    /// Whether a member of the zone has everything, busy or not.
    pub(super) fn whole_in(&self, zone: u16) -> bool {
        self.whole[usize::from(zone)] > 0
    }

    /// Whether a member of any zone has.
    pub(super) fn whole_anywhere(&self) -> bool {
        self.whole.iter().any(|whole| *whole > 0)
    }

    pub(super) fn offer_seed(&mut self, node: Node) {
        let entry = &self.nodes[node as usize];
        if entry.closed || entry.used >= entry.slots {
            return;
        }
        match entry.whole {
            true => _ = self.seeds[usize::from(entry.zone)].insert((entry.used, node)),
            false => _ = self.spare[usize::from(entry.zone)].insert(node),
        }
    }

    pub(super) fn reseat_seed(&mut self, node: Node, used_before: u32) {
        let zone = usize::from(self.nodes[node as usize].zone);
        self.seeds[zone].remove(&(used_before, node));
        self.offer_seed(node);
    }
}
