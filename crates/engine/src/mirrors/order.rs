//! One order out of several.
//!
//! Question: sets (B, C) and (A, B) name mirrors of one source; in which order are A, B and C asked? Answer: a
//! topological order of "stands before", by Kahn's algorithm with a queue, nodes that become ready together in the
//! order of their names (M2 of `contract.md` 1c). Where the sets contradict each other, the loop is broken at its first
//! name, but never at the source while a mirror is left: a contradiction between mirrors must not switch all of them
//! off. Prevents: two nodes that ask in different orders because they read the same sets in another order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What stands before what.
pub(super) struct Precedence<'n> {
    source: &'n str,
    nodes: BTreeMap<&'n str, Node<'n>>,
}

#[derive(Default)]
struct Node<'n> {
    before: BTreeSet<&'n str>,
    after: BTreeSet<&'n str>,
    is_used: bool,
}

impl<'n> Precedence<'n> {
    /// Nothing but the source.
    pub fn new(source: &'n str) -> Self {
        Precedence { source, nodes: BTreeMap::from([(source, Node::default())]) }
    }

    /// Adds a set's order. A set that does not list the source has it last.
    pub fn add(&mut self, mirrors: &[&'n str]) {
        let mut order = mirrors.to_vec();
        if !order.contains(&self.source) {
            order.push(self.source);
        }
        for pair in order.windows(2) {
            self.stands_before(pair[0], pair[1]);
        }
    }

    fn stands_before(&mut self, first: &'n str, second: &'n str) {
        // A name that is repeated stands once.
        if first != second {
            self.nodes.entry(first).or_default().after.insert(second);
            self.nodes.entry(second).or_default().before.insert(first);
        }
    }

    /// Every name once, the source among them.
    pub fn sorted(mut self) -> Vec<&'n str> {
        let mut ready: VecDeque<&str> =
            self.nodes.iter().filter(|(_, node)| node.before.is_empty()).map(|(name, _)| *name).collect();
        let mut sorted = Vec::with_capacity(self.nodes.len());
        while let Some(name) = ready.pop_front().or_else(|| self.break_loop()) {
            sorted.push(name);
            ready.extend(self.take(name));
        }
        sorted
    }

    /// The first name of those that stand in each other's way; the source only if nothing else is left.
    fn break_loop(&self) -> Option<&'n str> {
        let mut unused = self.nodes.iter().filter(|(_, node)| !node.is_used).map(|(name, _)| *name);
        let first = unused.next()?;
        if first == self.source { unused.next().or(Some(first)) } else { Some(first) }
    }

    /// Takes a name out; gives those that nothing stands before any more, in the order of their names.
    fn take(&mut self, name: &'n str) -> Vec<&'n str> {
        let node = self.nodes.get_mut(name).expect("a name that was handed out is a node");
        node.is_used = true;
        let after = std::mem::take(&mut node.after);
        let mut ready = Vec::new();
        for next in after {
            let node = self.nodes.get_mut(next).expect("both ends of an edge are nodes");
            node.before.remove(name);
            // One that a loop was broken at is used already.
            if node.before.is_empty() && !node.is_used {
                ready.push(next);
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"AB"` is a set with the mirrors A and B. Without its `S` the source stands last.
    fn order(sets: &[&str]) -> String {
        let letters: Vec<Vec<String>> =
            sets.iter().map(|set| set.chars().map(String::from).collect()).collect();
        let mut precedence = Precedence::new("S");
        for set in &letters {
            precedence.add(&set.iter().map(String::as_str).collect::<Vec<_>>());
        }
        precedence.sorted().concat()
    }

    #[test]
    fn orders() {
        let table: &[(&[&str], &str)] = &[
            (&[], "S"),
            (&["A"], "AS"),
            (&["BC", "AB"], "ABCS"),
            (&["AC", "BC"], "ABCS"),
            // Ready together: by name. Ready later: behind, whatever the name.
            (&["XB", "YA"], "XYBAS"),
            (&["AB", "BC", "CD", "DA"], "ABCDS"),
            (&["AB", "BC", "CD", "DB", "DE"], "ABCDES"),
            (&["AB", "BA"], "ABS"),
            (&["AB", "BC", "CA"], "ABCS"),
            // Opposite orders of one pair, with a third before both.
            (&["MN", "LNM"], "LMNS"),
            // The source where it is listed.
            (&["ZSY", "SYX"], "ZSYX"),
            (&["SA"], "SA"),
            // It does not break a loop, though its name comes first.
            (&["XY", "YX"], "XYS"),
            (&["TU", "US", "ST"], "TUS"),
            // A name that is repeated.
            (&["ZZB"], "ZBS"),
        ];
        for (sets, expected) in table {
            assert_eq!(order(sets), *expected, "{sets:?}");
        }
    }
}
