//! Succession: what a home does that takes a book over, and when nobody knows any more where the pieces are.
//!
//! Question: what does a home need to go on where the one before it ended? Answer: from its members, within
//! [`CENSUS_TIME`], who has what, who works on which lease and who feeds whom; and from a few of them the hashes of what
//! they have. Streams go on meanwhile. Prevents: pieces that are fetched twice because nobody told of them, members that
//! wait for good for hashes that died with a home, and a forest that is planted anew.

use std::collections::{BTreeMap, BTreeSet};

use super::forest::{Forest, Node, Parent};
use super::{Book, EPOCH_BEFORE, Home, Mail};
use crate::ids::Digest;
use crate::limits::{CENSUS_FEEDS_MAX, CENSUS_TIME, HASH_WAIT, HOLDERS_PER_BLOB_MAX, HOME_RECOVERY};
use crate::peer::{PeerId, Roster};
use crate::swarm::pieces::PieceSet;
use crate::time::Time;
use crate::wire::{ClassFeeds, Feed, LeaseId, Message, Run};

/// What members have, as they tell it, until everybody has had time to.
pub(super) struct Census {
    pub(super) until: Time,
    haves: BTreeMap<PeerId, PieceSet>,
    /// Who feeds them, while the forest is held.
    feeds: BTreeMap<(Node, u8), Vec<Feed>>,
}

impl Home {
    /// This node does not keep a book any more: the next home is told what it could not know, and members where to go.
    pub fn hand_over(&mut self, digest: &Digest, home: PeerId, mail: &mut Mail) {
        let Some(book) = self.books.get(digest) else { return };
        let (digest, size) = (*digest, book.size);
        let mut holders: Vec<_> = book.forest.seeds().collect();
        holders.truncate(HOLDERS_PER_BLOB_MAX);
        if !holders.is_empty() {
            mail.push_back((home, Message::Holders { digest, size, holders }));
        }
        let members = book.forest.receivers().map(|node| book.forest.peer(node)).chain(book.waiting());
        mail.extend(members.map(|member| (member, Message::NotHome { digest, home })));
        self.close(&digest);
    }

    /// See [`Message::Holders`].
    pub fn handle_holders(&mut self, digest: Digest, size: u64, holders: &[PeerId], roster: &Roster) {
        for holder in holders.iter().take(HOLDERS_PER_BLOB_MAX).filter(|holder| roster.contains(holder)) {
            self.announce(*holder, digest, size);
        }
    }
}

impl Book {
    /// This home takes over from one before: members have some time to tell.
    pub(super) fn succeed(&mut self, now: Time) {
        self.leases.wait_until(now + HOME_RECOVERY);
        self.forest.hold();
        self.begin_census(now);
    }

    fn begin_census(&mut self, now: Time) {
        let (haves, feeds) = (BTreeMap::new(), BTreeMap::new());
        self.census = Some(Census { until: now + CENSUS_TIME, haves, feeds });
    }

    /// Whether nobody is known to bring what is missing.
    fn is_stuck(&self) -> bool {
        self.leases.active().next().is_none() && !self.forest.has_seeds()
    }

    /// Whether there is nothing more to wait for: everybody has had time to tell, or somebody who has the blob is known and nobody is
    /// fed yet whose feeds the others would have to tell of.
    pub(super) fn is_told(&self, now: Time) -> bool {
        let is_told = |census: &Census| {
            let is_fresh = census.feeds.is_empty() && census.haves.values().all(|have| have.count() == 0);
            census.until <= now || self.forest.has_seeds() && is_fresh
        };
        self.census.as_ref().is_some_and(is_told)
    }

    /// A member that was in a book before joins: after another home, or because nothing comes any more. If nobody knows
    /// where the pieces are, everybody's answer is waited for.
    pub(super) fn take_census(&mut self, now: Time, from: PeerId, have: &[Run]) {
        if self.census.is_none() && (self.is_stuck() || self.forest.is_held()) {
            self.begin_census(now);
        }
        let Some(census) = &mut self.census else { return };
        let mut set = PieceSet::new(self.pieces);
        have.iter().for_each(|run| set.insert_run(*run));
        census.haves.insert(from, set);
    }

    /// A member that is new to this book is fed already.
    pub(super) fn resume_feeds(&mut self, node: Node, feeds: Vec<ClassFeeds>) {
        let classes = self.forest.classes();
        for ClassFeeds { class, feeds } in feeds.into_iter().filter(|f| f.class < classes) {
            match self.census.as_mut().filter(|_| self.forest.is_held()) {
                Some(census) => _ = census.feeds.insert((node, class), feeds),
                None => {
                    let parent = self.told_parent(&feeds);
                    self.forest.resume(node, class, parent);
                }
            }
        }
    }

    /// A feed is of no use to a member, which says so before the forest is settled.
    pub(super) fn forget_feed(&mut self, node: Node, class: u8) {
        if let Some(census) = &mut self.census {
            census.feeds.remove(&(node, class));
        }
    }

    /// What feeds a member, by its own word. A member feeds another one with all pieces, a lease holder with those of its
    /// leases.
    fn told_parent(&self, feeds: &[Feed]) -> Parent {
        let fetches = |feed: &Feed| {
            self.leases.active().any(|(_, active)| active.holder == feed.peer && active.run == feed.run)
        };
        match feeds {
            [] => Parent::None,
            [feed] if feed.run == self.all() && !fetches(feed) => {
                self.forest.find(&feed.peer).map_or(Parent::None, Parent::Member)
            }
            _ if self.leases.active().next().is_some() => Parent::Source,
            _ => Parent::None,
        }
    }

    /// Everybody has had time to tell.
    pub(super) fn finish_census(&mut self, now: Time, mail: &mut Mail) {
        let Some(census) = self.census.take() else { return };
        let stuck = self.is_stuck();
        let mut everything = PieceSet::new(self.pieces);
        census.haves.values().for_each(|set| everything.add(set));
        if stuck {
            // What somebody has is there, and nothing else. One that has fetched something and is silent has it: it need not ask
            // whether its home lives, as those do who wait for it on a busy link.
            self.add_what_was_fetched(&census.haves, &mut everything);
            self.leases.set_there(everything.clone());
            self.brought.retain(|lease, _| lease.epoch != EPOCH_BEFORE);
        }
        if self.forest.is_held() || stuck {
            self.feed_roots_from(&census.haves, everything.clone());
        }
        if self.forest.is_held() {
            self.behind = behind(&census.haves);
            self.settle_forest(&census, mail);
        }
        self.ask_for_hashes(now, &census.haves, everything, mail);
        let roots: Vec<_> = self.forest.fed_by_source().collect();
        self.tell_feeds(roots.into_iter(), mail);
    }

    fn add_what_was_fetched(&self, haves: &BTreeMap<PeerId, PieceSet>, everything: &mut PieceSet) {
        let is_here = |peer: &PeerId| self.forest.find(peer).is_some_and(|node| !self.forest.is_gone(node));
        let silent = |feed: &&Feed| !haves.contains_key(&feed.peer) && is_here(&feed.peer);
        self.brought.values().filter(silent).for_each(|feed| everything.insert_run(feed.run));
    }

    /// The roots are fed what no lease holder brings by a few members that have it all between them.
    fn feed_roots_from(&mut self, haves: &BTreeMap<PeerId, PieceSet>, mut rest: PieceSet) {
        for feed in self.brought.values() {
            (feed.run.first..feed.run.end.min(self.pieces)).for_each(|piece| _ = rest.remove(piece));
        }
        let mut number = 0;
        for (peer, part) in cover(haves, rest) {
            for run in part.runs(self.all(), true, usize::MAX) {
                self.brought.insert(LeaseId { epoch: EPOCH_BEFORE, number }, Feed { peer, run });
                number += 1;
            }
        }
    }

    fn settle_forest(&mut self, census: &Census, mail: &mut Mail) {
        let told: Vec<_> = census
            .feeds
            .iter()
            .map(|((node, class), feeds)| (*node, *class, self.told_parent(feeds)))
            .collect();
        let leases = &self.leases;
        let wants = |forest: &Forest, node: Node| {
            let peer = forest.peer(node);
            !leases.holds(&peer) || !leases.is_covered_by(&peer)
        };
        self.forest.settle(&told, wants);
        if !self.lists_directly() {
            return;
        }
        for node in self.forest.receivers() {
            // What a member has it needs no hash of.
            let peer = self.forest.peer(node);
            let have = census.haves.get(&peer);
            let lacks = |piece: &u32| have.is_none_or(|have| !have.contains(*piece));
            self.send_entries(peer, &self.list.entries((0..self.pieces).filter(lacks)), mail);
        }
    }

    /// The hashes of what is there and not listed are asked of a few members that have it all between them.
    fn ask_for_hashes(
        &mut self,
        now: Time,
        haves: &BTreeMap<PeerId, PieceSet>,
        mut rest: PieceSet,
        mail: &mut Mail,
    ) {
        rest.subtract(self.list.known());
        for (peer, _) in cover(haves, rest) {
            self.ask_to_list(now, peer, mail);
        }
    }

    fn ask_to_list(&mut self, now: Time, peer: PeerId, mail: &mut Mail) {
        self.reporters_of_lists.insert(peer);
        self.asked_for_hashes = Some(now);
        mail.push_back((peer, Message::List { digest: self.digest }));
    }

    /// Somebody misses hashes that this home never had: one receiver after the other is asked for those that it has.
    pub(super) fn ask_somebody_for_hashes(&mut self, now: Time, from: PeerId, mail: &mut Mail) {
        let paused = self.asked_for_hashes.is_some_and(|at| now < at + HASH_WAIT);
        if paused || self.forest.has_seeds() || self.census.is_some() {
            return;
        }
        let fit = |peer: &PeerId| *peer != from && !self.distrusted.contains(peer);
        let others: BTreeSet<_> = self.forest.receivers().map(|n| self.forest.peer(n)).filter(fit).collect();
        let next = self.asked_last.and_then(|last| others.range(last..).find(|peer| **peer != last));
        if let Some(peer) = next.or(others.first()).copied() {
            self.asked_last = Some(peer);
            self.ask_to_list(now, peer, mail);
        }
    }
}

/// The half of the members that has least: whoever fetches upstream should not have to catch up beside it.
fn behind(haves: &BTreeMap<PeerId, PieceSet>) -> BTreeSet<PeerId> {
    let mut counts: Vec<_> = haves.values().map(PieceSet::count).collect();
    counts.sort_unstable();
    let median = counts.get(counts.len() / 2).copied().unwrap_or(0);
    haves.iter().filter(|(_, set)| set.count() < median).map(|(peer, _)| *peer).collect()
}

/// A few members that have all of `rest` between them, and which part of it is whose: nothing is meant to be sent twice.
fn cover(haves: &BTreeMap<PeerId, PieceSet>, mut rest: PieceSet) -> Vec<(PeerId, PieceSet)> {
    let mut chosen = Vec::new();
    while chosen.len() < CENSUS_FEEDS_MAX {
        let best = haves.iter().max_by_key(|(_, set)| rest.common(set));
        let Some((peer, set)) = best.filter(|(_, set)| rest.common(set) > 0) else { break };
        let mut part = rest.clone();
        rest.subtract(set);
        part.subtract(&rest);
        chosen.push((*peer, part));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;
    use crate::limits::{FEEDS_PER_CLASS_MAX, HOME_RECOVERY};
    use crate::swarm::home::Joining;
    use crate::wire::{Entry, LeaseEnd, PieceHash};

    /// All that is missing at the end of a blob is on its way between members.
    #[test]
    fn one_that_waits_for_long_does_not_make_fetched_pieces_lost() {
        let (me, first, second) = (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]));
        let (digest, roster) = (Digest::new(Algorithm::Sha256, &[7; 32]), Roster::default());
        let granted_after = |fetcher_leaves: bool| {
            let (mut home, mut mail) = (Home::new(me), Mail::new());
            home.join(Time::ZERO, first, digest, Joining::fresh(), &roster, &mut mail);
            home.join(Time::ZERO, second, digest, Joining::fresh(), &roster, &mut mail);
            let granted = |mail: &Mail| {
                mail.iter().find_map(|(to, message)| match message {
                    Message::Lease { lease, run, .. } => Some((*to, *lease, *run)),
                    _ => None,
                })
            };
            let mut now = Time::ZERO;
            let (fetcher, lease, run) = loop {
                if let Some(granted) = granted(&mail) {
                    break granted;
                }
                now = home.next_wakeup().unwrap();
                home.advance(now, &mut mail);
            };
            let entry = |piece| Entry { piece, hash: PieceHash([piece as u8; 32]) };
            let entries = (run.first..run.end).map(entry).collect();
            home.report(now, fetcher, digest, (lease, entries, false), &mut mail);
            let end = LeaseEnd::Done;
            home.over(now, fetcher, digest, (lease, run.end, end), &mut mail);
            if fetcher_leaves {
                home.lost(now, &fetcher, &mut mail);
            }
            mail.clear();
            let waiting = if fetcher == first { second } else { first };
            let joining = Joining { have: vec![Run { first: 0, end: 1 }], again: true, ..Joining::fresh() };
            home.join(now, waiting, digest, joining, &roster, &mut mail);
            while let Some(at) = home.next_wakeup().filter(|at| *at <= now + 2 * CENSUS_TIME) {
                home.advance(at, &mut mail);
            }
            granted(&mail).map(|(.., run)| run)
        };
        assert_eq!(granted_after(false), None);
        assert_eq!(granted_after(true), Some(Run { first: 1, end: 4 }), "with the fetcher they are");
    }

    /// One that was restarted comes first, and was in no book before; the others come a moment later.
    #[test]
    fn nothing_is_granted_to_the_first_who_lost_a_home_before_the_others_have_told() {
        let (me, first, second) = (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]));
        let (digest, roster) = (Digest::new(Algorithm::Sha256, &[7; 32]), Roster::default());
        let (mut home, mut mail) = (Home::new(me), Mail::new());
        let joining = |end, again| Joining {
            have: vec![Run { first: 0, end }],
            again,
            insists: true,
            ..Joining::fresh()
        };
        home.join(Time::ZERO, first, digest, joining(1, false), &roster, &mut mail);
        home.join(Time::ZERO, second, digest, joining(3, true), &roster, &mut mail);
        let is_lease = |(_, message): &(PeerId, Message)| matches!(message, Message::Lease { .. });
        assert!(!mail.iter().any(is_lease), "{mail:?}");
        while let Some(at) = home.next_wakeup().filter(|at| *at <= Time::ZERO + HOME_RECOVERY) {
            home.advance(at, &mut mail);
        }
        let leases: Vec<_> = mail.iter().filter(|m| is_lease(m)).map(|(_, message)| message).collect();
        let [Message::Lease { run, .. }] = leases[..] else { panic!("{leases:?}") };
        assert_eq!(*run, Run { first: 3, end: 4 });
    }

    /// They have fetched what came in turns when their home died.
    #[test]
    fn members_with_many_gaps_feed_all_that_they_have() {
        let (me, even, odd, fresh) = (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]), PeerId([4; 32]));
        let (digest, roster) = (Digest::new(Algorithm::Sha256, &[7; 32]), Roster::default());
        let (mut home, mut mail) = (Home::new(me), Mail::new());
        let size = 400 << 18;
        let every_second =
            |first: u32| (first..400).step_by(2).map(|first| Run { first, end: first + 1 }).collect();
        for (peer, have) in [(even, every_second(0)), (odd, every_second(1)), (fresh, vec![])] {
            let joining = Joining { size, have, again: true, insists: true, ..Joining::fresh() };
            home.join(Time::ZERO, peer, digest, joining, &roster, &mut mail);
        }
        while let Some(at) = home.next_wakeup().filter(|at| *at <= Time::ZERO + HOME_RECOVERY) {
            home.advance(at, &mut mail);
        }
        let mut told = BTreeMap::new();
        for (to, message) in &mail {
            let (Message::Welcome { feeds, .. } | Message::Feeds { feeds, .. }) = message else { continue };
            told.extend(feeds.iter().map(|class| ((*to, class.class), &class.feeds)));
        }
        let is_fed_by = |feeds: &[Feed], peer, piece| {
            feeds.iter().any(|feed| feed.peer == peer && feed.run.first <= piece && piece < feed.run.end)
        };
        let mut roots = 0;
        for ((to, class), feeds) in told {
            assert!(feeds.len() <= FEEDS_PER_CLASS_MAX, "{} feeds of class {class}", feeds.len());
            if feeds.iter().all(|feed| feed.run == Run { first: 0, end: 400 }) {
                // Not a root.
                continue;
            }
            roots += 1;
            for piece in 0..400 {
                let holder = if piece % 2 == 0 { even } else { odd };
                assert!(
                    to == holder || is_fed_by(feeds, holder, piece),
                    "{piece} of class {class} to {to:?}"
                );
            }
        }
        assert!(roots > 0, "nobody is told who has what");
    }
}
