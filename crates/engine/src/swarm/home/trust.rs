//! Whose reports make up the list of a blob, and what becomes of those that others contradict.
//!
//! Question: two members report different hashes of one piece, or everything fits the list and the whole is wrong; whom
//! to believe? Answer: the later one, for it was asked because the bytes of the first did not fit, and nobody whose report
//! was contradicted is asked again about this blob. A liar that contradicts an honest member is itself contradicted by
//! the next, so with one of them two lists are wrong at most. Each time the list begins anew, under a new number, with
//! what the others have reported; after [`LIST_REPAIRS_MAX`] times everybody has to see for itself. Prevents: a member
//! that blocks a blob with wrong hashes, and pieces that are fetched without end because none fits.
//!
//! Invariant: the numbers of a home's lists grow, also over its lives. Members keep what an earlier life has signed, and believe nothing
//! that has a smaller number.

use std::collections::BTreeSet;

use super::{Book, Home, Mail};
use crate::ids::Digest;
use crate::limits::{ACCUSERS_MIN, DISTRUST_TIME, DISTRUSTS_MAX, LIST_REPAIRS_MAX, WRONG_REFETCHES_MAX};
use crate::peer::PeerId;
use crate::swarm::list::{PieceList, Via};
use crate::time::Time;
use crate::wire::{Entry, LeaseId, Message, Run};

/// Generations are in milliseconds, numbers in nanoseconds.
const NANOS_PER_MILLISECOND: u64 = 1_000_000;

/// Where numbers begin at most: the rest is for what a life of 292 years adds. A generation stands for that many nanoseconds in the year
/// 2262.
const LIFE_MAX: u64 = u64::MAX / 2;

/// The number of what begins now in a life: the driver's clock begins anew with each.
pub(super) fn number(now: Time, life: u64) -> u64 {
    life.saturating_add(now.since_origin().as_nanos() as u64)
}

/// What a home remembers of a blob when its book is closed.
pub(super) struct Distrust {
    members: BTreeSet<PeerId>,
    repairs: u32,
    refetches: u32,
    until: Time,
}

impl Home {
    /// The list of members names this node with this generation, in milliseconds. Books that were opened before it was known begin
    /// their lists anew.
    pub fn begin_life(&mut self, now: Time, generation: u64, mail: &mut Mail) {
        let life = generation.saturating_mul(NANOS_PER_MILLISECOND).min(LIFE_MAX);
        if life <= self.life {
            return;
        }
        let was_unknown = self.life == 0;
        self.life = life;
        for book in self.books.values_mut() {
            book.life = life;
            if was_unknown {
                book.renumber_list(now);
                book.spread_all(mail);
            }
        }
    }

    /// Ends a book. Who has told something wrong is remembered for a while.
    pub(super) fn close(&mut self, digest: &Digest) {
        let Some(book) = self.books.remove(digest) else { return };
        let Some(at) = book.distrusted_at else { return };
        if self.distrusts.len() >= DISTRUSTS_MAX
            && let Some(oldest) = self.distrusts.iter().min_by_key(|(_, d)| d.until).map(|(d, _)| *d)
        {
            self.distrusts.remove(&oldest);
        }
        let (members, repairs, refetches) = (book.distrusted, book.repairs, book.refetches);
        self.distrusts.insert(*digest, Distrust { members, repairs, refetches, until: at + DISTRUST_TIME });
    }
}

impl Book {
    /// What was known when the last book of the blob was closed.
    pub(super) fn remember(&mut self, now: Time, distrust: Distrust) {
        if now < distrust.until {
            self.distrusted = distrust.members;
            (self.repairs, self.refetches) = (distrust.repairs, distrust.refetches);
            self.distrusted_at = Some(now);
        }
    }

    /// Whether the list has been wrong so often that nobody shall wait for a right one.
    pub(super) fn is_hopeless(&self) -> bool {
        self.repairs > LIST_REPAIRS_MAX || self.refetches > WRONG_REFETCHES_MAX
    }

    pub(super) fn report(
        &mut self,
        now: Time,
        from: PeerId,
        lease: LeaseId,
        entries: Vec<Entry>,
        mail: &mut Mail,
    ) {
        let listed = self.listing == Some(from);
        let asked = listed || self.reporters_of_lists.contains(&from);
        if !asked && !self.reporters.contains(&from) {
            return;
        }
        self.reported = now;
        // That a holder has everything is known, and may be of no use by now: nobody can have it from there.
        if !(listed && self.forest.find(&from).is_some_and(|node| self.forest.is_whole(node))) {
            self.leases.report(now, lease, &from, entries.iter().map(|e| e.piece));
        }
        // What somebody has received it has by the word of a home before: only what it was to take itself contradicts.
        let fetches = self.brought.get(&lease).filter(|f| f.peer == from).map(|f| f.run);
        let takes = |entry: &&Entry| listed || fetches.is_some_and(|run| run.contains(entry.piece));
        if let Some(feed) = self.brought.get_mut(&lease).filter(|f| f.peer == from) {
            let end = entries.iter().map(|e| e.piece.saturating_add(1)).max().unwrap_or(0);
            feed.run.end = feed.run.end.max(end.min(self.pieces));
        }
        let before = self.list_number;
        let authors: BTreeSet<_> =
            entries.iter().filter(takes).filter_map(|e| self.list.contradicted(e)).collect();
        for author in authors.into_iter().filter(|author| *author != from) {
            self.distrust(now, author, mail);
        }
        let news: Vec<_> = entries.into_iter().filter(|e| self.list.set(*e, Via::Other(from))).collect();
        if self.list_number != before {
            // What the list said before is void for everybody.
            return self.spread_all(mail);
        }
        match listed {
            true => self.pass_on(&news, mail),
            false => self.spread(news, mail),
        }
    }

    /// The word of a member about this blob is not taken any more; what it has reported is void, and is fetched again
    /// where nobody else has it.
    pub(super) fn distrust(&mut self, now: Time, peer: PeerId, mail: &mut Mail) {
        self.distrusted.insert(peer);
        self.distrusted_at = Some(now);
        self.reporters.remove(&peer);
        self.reporters_of_lists.remove(&peer);
        self.take_leases(now, &peer, mail);
        let void = self.list.forget(&peer);
        if self.listing == Some(peer) {
            self.listing = None;
        }
        if void.is_empty() {
            return;
        }
        self.renew_list(now);
        if self.forest.find(&peer).is_some_and(|node| self.forest.is_whole(node)) {
            self.lose(&peer);
        }
        match self.forest.has_seeds() {
            true => self.wait_for_list(),
            false => {
                let runs: Vec<_> = void.iter().map(|piece| Run { first: *piece, end: piece + 1 }).collect();
                self.leases.misses(now, &runs);
            }
        }
    }

    /// The whole digest does not match although all pieces do: somebody who reported has lied, or its source has.
    /// Everything starts over without them.
    pub(super) fn mismatch(&mut self, now: Time, from: PeerId, mail: &mut Mail) {
        let by_receiver = self.forest.find(&from).is_some_and(|n| !self.forest.is_whole(n));
        // Its exchange has ended; if it tries again, it joins again, and finds no lease from before.
        self.take_leases(now, &from, mail);
        self.lose(&from);
        // One report for each life of the list: the others say the same.
        if !by_receiver || !self.list.is_complete() {
            return;
        }
        self.mismatched.insert(from);
        // Somebody has seen that the list is right; then one that says otherwise may itself be broken.
        if self.attested && self.mismatched.len() < ACCUSERS_MIN {
            return;
        }
        self.list = PieceList::new(self.pieces);
        let reporters = std::mem::take(&mut self.reporters);
        let seeds: Vec<_> = self.forest.seeds().filter(|seed| reporters.contains(seed)).collect();
        seeds.iter().for_each(|seed| self.lose(seed));
        self.distrusted.extend(reporters);
        self.distrusted_at = Some(now);
        self.brought.clear();
        self.leases.restart(number(now, self.life));
        if self.forest.has_seeds() {
            self.leases.has(&[self.all()]);
            self.wait_for_list();
        }
        self.renew_list(now);
        for node in self.forest.receivers() {
            mail.push_back((self.forest.peer(node), Message::Restart { digest: self.digest }));
        }
    }

    /// Everybody is told the list when one of those who have the blob has reported it.
    fn wait_for_list(&mut self) {
        self.unlisted.extend(self.forest.receivers().map(|node| (self.forest.peer(node), false)));
    }

    fn renew_list(&mut self, now: Time) {
        self.repairs += 1;
        self.renumber_list(now);
        (self.attested, self.mismatched) = (false, BTreeSet::new());
        // Pieces may have been right, and the list wrong.
        self.accusers.clear();
    }

    fn renumber_list(&mut self, now: Time) {
        self.list_number = number(now, self.life).max(self.list_number + 1);
        // They know another list.
        self.unlisted.values_mut().for_each(|follows| *follows = false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::ids::Algorithm;
    use crate::peer::{Member, Roster};
    use crate::swarm::home::Joining;

    const JOINER: PeerId = PeerId([2; 32]);

    /// Numbers of the list and of the first lease of a book that is opened then. The list of members names the home with this
    /// generation; before, or when the book is open already.
    fn numbers(opened: Time, generation: u64, is_known: bool) -> (u64, u64) {
        let (me, digest) = (PeerId([1; 32]), Digest::new(Algorithm::Sha256, &[7; 32]));
        let (mut home, mut mail) = (Home::new(me), Mail::new());
        if is_known {
            home.begin_life(opened, generation, &mut mail);
        }
        // A book that is taken over lets everybody in at once.
        let joining = Joining { insists: true, ..Joining::fresh() };
        home.join(opened, JOINER, digest, joining, &roster(generation), &mut mail);
        home.begin_life(opened, generation, &mut mail);
        let list = home.books[&digest].list_number;
        loop {
            let lease = mail.iter().find_map(|(_, message)| match message {
                Message::Lease { lease, .. } => Some(lease.epoch),
                _ => None,
            });
            if let Some(epoch) = lease {
                return (list, epoch);
            }
            let at = home.next_wakeup().expect("a lease is to be granted");
            home.advance(at, &mut mail);
        }
    }

    fn roster(generation: u64) -> Roster {
        let member = |number| Member {
            peer: PeerId([number; 32]),
            generation,
            addresses: Box::default(),
            data_port: 1,
            zone: "".into(),
            labels: Box::default(),
            version: "".into(),
        };
        Roster::new([1, 2].map(|number| Arc::new(member(number))))
    }

    #[test]
    fn a_home_that_was_started_again_numbers_its_lists_higher() {
        let (hour, start) = (Duration::from_secs(3600), 1_700_000_000_000);
        let first = numbers(Time::ZERO + hour, start, true);
        // Its clock begins anew, and the node was down for a second.
        let (again, soon) = (start + hour.as_millis() as u64 + 1000, Time::ZERO + Duration::from_secs(3));
        let second = numbers(soon, again, true);
        assert!(second.0 > first.0, "lists: {first:?}, {second:?}");
        assert!(second.1 != first.1, "leases: {first:?}, {second:?}");
        let late = numbers(soon, again, false);
        assert!(late.0 > first.0, "it learns when the book is open which life it is: {first:?}, {late:?}");
        // A generation that is no time leaves room for what follows.
        let absurd = numbers(soon, u64::MAX, true);
        assert!(absurd.0 > second.0 && number(Time::ZERO + 2 * hour, LIFE_MAX) > absurd.0, "{absurd:?}");
    }
}
