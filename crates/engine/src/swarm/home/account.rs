//! What a home can tell a person of a blob: who has it, who receives it, and who fetches which part of it.

use std::ops::Range;

use super::Home;
use super::forest::Node;
use crate::ids::Digest;
use crate::peer::PeerId;
use crate::swarm::pieces::piece_bytes;

/// The book of a blob at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Size of the blob, bytes.
    pub size: u64,
    /// Members that have all of it.
    pub holders: Vec<PeerId>,
    /// Members that receive it.
    pub receivers: Vec<PeerId>,
    /// Those of them that receive slowly, by what they or others have said.
    pub slow: Vec<PeerId>,
    /// Who fetches which bytes from upstream.
    pub leases: Vec<(PeerId, Range<u64>)>,
    /// Leases that were given out since the book was opened.
    pub leases_granted: u32,
}

impl Home {
    /// The blobs that most members are receiving by this node's books, most first, at most `max`.
    pub fn busiest(&self, max: usize) -> Vec<Digest> {
        let mut all: Vec<_> =
            self.books.iter().map(|(digest, book)| (book.forest.receiver_count(), *digest)).collect();
        all.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        all.truncate(max);
        all.into_iter().map(|(_, digest)| digest).collect()
    }

    /// The book of a blob; `None` if nobody is known to have it or to receive it.
    pub fn account(&self, digest: &Digest) -> Option<Account> {
        let Some(book) = self.books.get(digest) else {
            let known = self.known.get(digest)?;
            return Some(Account { size: known.size, holders: known.holders.clone(), ..Account::default() });
        };
        let bytes = |first: u32, end: u32| {
            let last = end.max(first + 1) - 1;
            piece_bytes(book.size, first).start..piece_bytes(book.size, last).end
        };
        let named =
            |nodes: &mut dyn Iterator<Item = Node>| nodes.map(|node| book.forest.peer(node)).collect();
        Some(Account {
            size: book.size,
            holders: book.forest.seeds().collect(),
            receivers: named(&mut book.forest.receivers()),
            slow: named(&mut book.forest.receivers().filter(|node| book.forest.is_slow(*node))),
            leases: book
                .leases
                .active()
                .map(|(_, active)| (active.holder, bytes(active.run.first, active.run.end)))
                .collect(),
            leases_granted: book.leases.granted(),
        })
    }
}
