//! Feeds: who is told whom its pieces come from.
//!
//! Question: pieces lie with those that fetched them, in many runs after a home has died in the middle; how is a root told of all of
//! them in one message that every member takes? Answer: runs of one member are bridged where the gap is shortest. It sends what lies
//! in the gap once it has it, which costs a piece that comes twice. Prevents: pieces that a root never hears of and misses until it
//! complains.

use std::collections::{BTreeMap, BTreeSet};

use super::forest::{Node, Parent};
use super::{Book, Mail};
use crate::limits::FEEDS_PER_CLASS_MAX;
use crate::swarm::classes::RELAY;
use crate::wire::{ClassFeeds, Feed, Message};

impl Book {
    pub(super) fn tell_feeds(&mut self, changed: impl Iterator<Item = (Node, u8)>, mail: &mut Mail) {
        let mut by_node: BTreeMap<Node, Vec<ClassFeeds>> = BTreeMap::new();
        for (node, class) in changed {
            if self.forest.is_whole(node) {
                continue;
            }
            by_node.entry(node).or_default().extend(self.feeds(node, class));
            if class == RELAY && self.forest.parent(node, class) == Parent::Source && !self.lists_directly() {
                // A new root has to learn what the one before it was told.
                self.send_list(self.forest.peer(node), mail);
            }
        }
        for (node, feeds) in by_node {
            mail.push_back((self.forest.peer(node), Message::Feeds { digest: self.digest, feeds }));
        }
    }

    /// Who feeds a member in a class, in the words of the wire; `None` if it needs none.
    pub(super) fn feeds(&self, node: Node, class: u8) -> Option<ClassFeeds> {
        let feeds = match self.forest.parent(node, class) {
            Parent::None => return None,
            Parent::Member(parent) => vec![Feed { peer: self.forest.peer(parent), run: self.all() }],
            Parent::Source => {
                let me = self.forest.peer(node);
                let feeds = self.brought.values().copied().filter(|feed| feed.peer != me).collect();
                bridged(feeds, FEEDS_PER_CLASS_MAX)
            }
        };
        Some(ClassFeeds { class, feeds })
    }
}

/// The same pieces from the same members in at most `max` feeds, and as few others as that takes. More members than that are left out.
fn bridged(mut feeds: Vec<Feed>, max: usize) -> Vec<Feed> {
    if feeds.len() <= max {
        return feeds;
    }
    feeds.sort_unstable_by_key(|feed| (feed.peer, feed.run.first));
    let gap = |pair: &[Feed]| {
        (pair[0].peer == pair[1].peer).then(|| pair[1].run.first.saturating_sub(pair[0].run.end))
    };
    let mut gaps: Vec<_> =
        (1..).zip(feeds.windows(2)).filter_map(|(at, pair)| Some((gap(pair)?, at))).collect();
    gaps.sort_unstable();
    let bridges: BTreeSet<usize> = gaps.into_iter().take(feeds.len() - max).map(|(_, at)| at).collect();
    let mut coarse: Vec<Feed> = Vec::with_capacity(max);
    for (at, feed) in feeds.into_iter().enumerate() {
        match coarse.last_mut().filter(|_| bridges.contains(&at)) {
            Some(last) => last.run.end = last.run.end.max(feed.run.end),
            None => coarse.push(feed),
        }
    }
    coarse.truncate(max);
    coarse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerId;
    use crate::wire::Run;

    fn feed(peer: u8, first: u32, end: u32) -> Feed {
        Feed { peer: PeerId([peer; 32]), run: Run { first, end } }
    }

    #[test]
    fn the_shortest_gaps_are_bridged() {
        let feeds =
            vec![feed(1, 0, 4), feed(2, 4, 5), feed(1, 10, 12), feed(1, 5, 6), feed(2, 7, 9), feed(1, 2, 4)];
        for (max, expected) in [
            (6, feeds.clone()),
            (5, vec![feed(1, 0, 4), feed(1, 5, 6), feed(1, 10, 12), feed(2, 4, 5), feed(2, 7, 9)]),
            (3, vec![feed(1, 0, 6), feed(1, 10, 12), feed(2, 4, 9)]),
            (2, vec![feed(1, 0, 12), feed(2, 4, 9)]),
            (1, vec![feed(1, 0, 12)]),
        ] {
            assert_eq!(bridged(feeds.clone(), max), expected, "{max} feeds");
        }
    }
}
