//! Rivals: several members that believe to be home of one blob, because their lists of members differ or have changed.
//!
//! Question: what may a home grant that cannot be sure to be the only one? Answer: when it opens a book and knows nobody
//! who has the blob, it asks those that would be home without it, and lets nobody in before they have answered or
//! [`HOME_RECOVERY`] has passed, or more where answers take long. The asked one tells who has the blob and names the heaviest home
//! that it has heard of. If that is the asker, its own receivers go there and bring their leases and feeds along; if not, the asker asks
//! the named one, and its receivers go there as soon as that one says itself that it is home. Prevents: a copy from upstream
//! for each home that a growing cluster has had, and for each view of it; and a member that sends others to a home that is
//! none.
//!
//! Invariant: a book goes only to a heavier member, so nothing goes round in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Book, Home, Joining, Mail};
use crate::homes::{first_of, homes, outranks};
use crate::ids::Digest;
use crate::limits::{
    BEHIND_WAIT, BETTER_REMEMBERED, BOOKS_MAX, DEPARTED_MAX, GIVES_WAY_MAX, HOLDERS_ENOUGH,
    HOLDERS_PER_BLOB_MAX, HOLDERS_WAIT, HOME_RECOVERY, RIVALS_ASKED_MAX, RIVALS_NAMED_MAX, STAND_IN_PAUSE,
};
use crate::peer::{PeerId, Roster};
use crate::time::Time;
use crate::wire::{Message, Run};

/// What a home remembers of others.
#[derive(Default)]
pub(super) struct Rivals {
    /// Homes that have made themselves known and that the list of members may lack.
    better: BTreeMap<Digest, Better>,
    /// Members that have gone, the last ones.
    departed: VecDeque<PeerId>,
}

/// A home that has made itself known.
struct Better {
    peer: PeerId,
    until: Time,
    /// How often this node has given way to it.
    times: u32,
}

/// Those that a book waits for before it lets anybody in.
pub(super) struct Asked {
    rivals: BTreeSet<PeerId>,
    until: Time,
    /// Whether this node's list of members is behind that of those who join: whom to ask, it does not know yet.
    behind: bool,
    /// Members that have joined meanwhile, in order, with their zones.
    joined: Vec<(PeerId, Box<str>, Joining)>,
}

/// Whose place a book is kept in, who does not answer.
pub(super) struct StandIn {
    pub(super) first: PeerId,
    /// When it is asked next whether it is back.
    pub(super) ask_at: Time,
}

/// What an asked rival knows, see [`Message::Known`].
pub struct Told {
    /// Size of the blob; 0 if nobody has it.
    pub size: u64,
    /// Members that have it.
    pub holders: Vec<PeerId>,
    /// Whether members that receive it are on their way here.
    pub receiving: bool,
    /// A home that is better than the asker.
    pub better: Option<PeerId>,
}

impl Home {
    /// The home of a blob: by the list of members, or one that has made itself known and that the list may lack.
    pub fn first(&self, now: Time, digest: &Digest, roster: &Roster) -> Option<PeerId> {
        let listed = homes(digest, roster).first();
        let better = self.rivals.better.get(digest).filter(|better| now < better.until).map(|b| b.peer);
        match (listed, better) {
            (Some(listed), Some(better)) if outranks(digest, &listed, &better) => Some(listed),
            (listed, better) => better.or(listed),
        }
    }

    /// A book has been opened for `from`: those that would be home without this node may know more. One that is not on the
    /// list of members shows that this node has just come and does not know yet whom to ask.
    pub(super) fn ask_rivals(
        &mut self,
        now: Time,
        digest: &Digest,
        from: &PeerId,
        roster: &Roster,
        mail: &mut Mail,
    ) {
        // One that was asked because others did not answer must not wait for those others.
        if homes(digest, roster).first().is_some_and(|first| first != self.me) {
            return;
        }
        let behind = *from != self.me && !roster.contains(from);
        let rivals = self.rivals_of(digest, roster);
        let fresh = |book: &&mut Book| !book.forest.has_seeds() && !book.forest.is_held();
        let Some(book) = self.books.get_mut(digest).filter(fresh) else { return };
        if !rivals.is_empty() || behind {
            mail.extend(rivals.iter().map(|rival| (*rival, Message::Inquire { digest: *digest })));
            let until = now + if behind { BEHIND_WAIT } else { HOME_RECOVERY };
            book.asked = Some(Asked { rivals, until, behind, joined: Vec::new() });
        }
    }

    /// A book was opened in the place of a home that does not answer, and that may live: it is asked, and nothing is granted before
    /// it has had this time to say so. Those who come back after that have their reasons. Whoever else would
    /// be home may have the blob, and is asked as well; nobody waits for that.
    pub fn ask_first(
        &mut self,
        now: Time,
        digest: &Digest,
        (first, wait): (PeerId, Duration),
        roster: &Roster,
        mail: &mut Mail,
    ) {
        if self.gave_way(now, digest, &first) >= GIVES_WAY_MAX {
            return;
        }
        let rivals = self.rivals_of(digest, roster);
        let Some(book) = self.books.get_mut(digest) else { return };
        if book.ask_named(first, mail) {
            let others = rivals.iter().filter(|rival| **rival != first);
            mail.extend(others.map(|rival| (*rival, Message::Inquire { digest: *digest })));
            if !wait.is_zero() {
                book.leases.wait_until(now + wait);
            }
            book.stands_in = Some(StandIn { first, ask_at: now + STAND_IN_PAUSE });
        }
    }

    /// Those that would be home of a blob without this node.
    fn rivals_of(&self, digest: &Digest, roster: &Roster) -> BTreeSet<PeerId> {
        let others =
            roster.iter().map(|m| m.peer).filter(|p| *p != self.me && !self.rivals.departed.contains(p));
        first_of(digest, others, RIVALS_ASKED_MAX).into_iter().collect()
    }

    /// The list of members has changed: books that waited for it know now whom to ask.
    pub fn roster_changed(&mut self, now: Time, roster: &Roster, mail: &mut Mail) {
        let waits = |book: &Book| book.asked.as_ref().is_some_and(|asked| asked.behind);
        let waiting: Vec<_> =
            self.books.values().filter(|book| waits(book)).map(|book| book.digest).collect();
        for digest in waiting {
            let rivals = self.rivals_of(&digest, roster);
            let Some(asked) = self.books.get_mut(&digest).and_then(|book| book.asked.as_mut()) else {
                continue;
            };
            if asked.joined.iter().any(|(peer, _, _)| *peer != self.me && !roster.contains(peer)) {
                continue;
            }
            mail.extend(rivals.iter().map(|rival| (*rival, Message::Inquire { digest })));
            (asked.behind, asked.rivals, asked.until) = (false, rivals, now + HOME_RECOVERY);
        }
    }

    /// See [`Message::Inquire`]. `own` is the size of the blob if this node has it.
    pub fn inquired(
        &mut self,
        now: Time,
        from: PeerId,
        (digest, own): (Digest, Option<u64>),
        roster: &Roster,
        mail: &mut Mail,
    ) {
        self.rivals.departed.retain(|peer| *peer != from);
        let first = self.first(now, &digest, roster);
        let better = first.filter(|first| outranks(&digest, first, &from));
        let receiving = better.is_none() && self.books.contains_key(&digest);
        let known = self.known.get(&digest).map(|known| (known.size, known.holders.clone()));
        let (mut size, mut holders) = known.unwrap_or_default();
        // The home that was told may be gone, and the next one is told later.
        if let Some(own) = own
            && !holders.contains(&self.me)
            && (holders.is_empty() || size == own)
        {
            size = own;
            holders.insert(0, self.me);
        }
        mail.push_back((from, Message::Known { digest, size, holders, receiving, better }));
        if better.is_some() {
            return;
        }
        // Another one that has asked before, or that the list names, keeps a book in vain.
        if let Some(other) = first.filter(|first| *first != self.me && *first != from) {
            let (holders, better) = (Vec::new(), Some(from));
            mail.push_back((other, Message::Known { digest, size: 0, holders, receiving: false, better }));
        }
        self.give_way(now, digest, from, mail);
    }

    /// See [`Message::Known`].
    pub fn told(
        &mut self,
        now: Time,
        from: PeerId,
        digest: Digest,
        told: Told,
        roster: &Roster,
        mail: &mut Mail,
    ) {
        self.rivals.departed.retain(|peer| *peer != from);
        let holders: Vec<_> = told.holders.into_iter().take(HOLDERS_PER_BLOB_MAX).collect();
        let holders: Vec<_> = holders.into_iter().filter(|holder| roster.contains(holder)).collect();
        holders.iter().for_each(|holder| self.announce(*holder, digest, told.size));
        let credible =
            |peer: &PeerId| outranks(&digest, peer, &self.me) && !self.rivals.departed.contains(peer);
        let better = told.better.filter(credible);
        if better == Some(from) {
            return self.give_way(now, digest, from, mail);
        }
        let Some(book) = self.books.get_mut(&digest) else { return };
        if let Some(better) = better {
            book.ask_named(better, mail);
        }
        if told.size == book.size {
            for holder in holders {
                // It has got the blob elsewhere since it joined.
                book.waits_no_more(&holder);
                if book.forest.find(&holder).is_none() && !book.distrusted.contains(&holder) {
                    book.admit_seed(holder, roster);
                }
            }
        }
        book.answered(now, from, told.receiving, mail);
        book.advance(now, mail);
        self.close_if_done(&digest);
    }

    /// Another one is the better home.
    fn give_way(&mut self, now: Time, digest: Digest, better: PeerId, mail: &mut Mail) {
        if self.rivals.better.len() >= BOOKS_MAX {
            self.rivals.better.retain(|_, better| now < better.until);
        }
        if self.rivals.better.len() < BOOKS_MAX {
            let times = 1 + self.gave_way(now, &digest, &better);
            self.rivals.better.insert(digest, Better { peer: better, until: now + BETTER_REMEMBERED, times });
        }
        self.hand_over(&digest, better, mail);
    }

    fn gave_way(&self, now: Time, digest: &Digest, to: &PeerId) -> u32 {
        let known = self.rivals.better.get(digest).filter(|better| better.peer == *to && now < better.until);
        known.map_or(0, |better| better.times)
    }

    /// A member that is gone is not believed to be a better home: others have not noticed yet.
    pub(super) fn has_departed(&mut self, peer: PeerId) {
        self.rivals.better.retain(|_, better| better.peer != peer);
        if self.rivals.departed.len() == DEPARTED_MAX {
            self.rivals.departed.pop_front();
        }
        self.rivals.departed.push_back(peer);
        for book in self.books.values_mut() {
            book.stands_in.take_if(|stand_in| stand_in.first == peer);
        }
    }
}

impl Book {
    /// A member joins; answers nothing if it has to wait. One that was in a book before brings that book along.
    pub(super) fn wait_for_rivals(
        &mut self,
        now: Time,
        from: PeerId,
        joining: Joining,
        roster: &Roster,
        mail: &mut Mail,
    ) -> Option<Joining> {
        if let Some(asked) = self.asked.as_mut().filter(|_| !joining.again) {
            asked.joined.retain(|(peer, _, _)| *peer != from);
            asked.joined.push((from, roster.zone(&from).into(), joining));
            return None;
        }
        if self.asked.is_some() {
            self.succeed(now);
            self.begin(now, mail);
        }
        Some(joining)
    }

    /// There may be a better home, which has to say so itself. False if it was asked before.
    fn ask_named(&mut self, better: PeerId, mail: &mut Mail) -> bool {
        let is_new = self.named.len() < RIVALS_NAMED_MAX && self.named.insert(better);
        if is_new {
            mail.push_back((better, Message::Inquire { digest: self.digest }));
            if let Some(asked) = &mut self.asked {
                asked.rivals.insert(better);
            }
        }
        is_new
    }

    /// The home in whose place this book is kept may be back: two books of one blob are two copies.
    pub(super) fn ask_first_again(&mut self, now: Time, mail: &mut Mail) {
        if let Some(stand_in) = self.stands_in.as_mut().filter(|stand_in| stand_in.ask_at <= now) {
            stand_in.ask_at = now + STAND_IN_PAUSE;
            mail.push_back((stand_in.first, Message::Inquire { digest: self.digest }));
        }
    }

    /// Whether what a lease of another home is for is there already: this home was cut off from that one, and has gone on.
    pub(super) fn has_elsewhere(&self, run: Run) -> bool {
        !self.forest.is_held() && self.leases.first_missing(run) >= run.end
    }

    /// Until when those that were asked are waited for: longer where answers take long or this node is late itself, as two books of one
    /// blob are two copies, and no longer than is known to be bearable for those who join.
    pub(super) fn rivals_waited_for(&self) -> Option<Time> {
        let excuse = self.leases.excused().min(BEHIND_WAIT - HOME_RECOVERY);
        self.asked.as_ref().map(|asked| asked.until + excuse)
    }

    /// Members that wait to be let in.
    pub(super) fn waiting(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.asked.iter().flat_map(|asked| asked.joined.iter().map(|(peer, _, _)| *peer))
    }

    /// A member does not want the blob any more, or is gone.
    pub(super) fn waits_no_more(&mut self, peer: &PeerId) {
        if let Some(asked) = &mut self.asked {
            asked.joined.retain(|(waiting, _, _)| waiting != peer);
        }
    }

    /// A rival has answered. If its receivers are on their way the book is taken over like one whose home has died.
    fn answered(&mut self, now: Time, from: PeerId, receiving: bool, mail: &mut Mail) {
        let Some(asked) = &mut self.asked else { return };
        if !asked.rivals.remove(&from) {
            return;
        }
        let all = asked.rivals.is_empty() && !asked.behind;
        if receiving {
            self.succeed(now);
        }
        if receiving || all || self.forest.seeds().count() >= HOLDERS_ENOUGH {
            self.begin(now, mail);
        } else if self.forest.has_seeds()
            && let Some(asked) = &mut self.asked
        {
            // The other answers are on their way: one holder alone would have to feed every class.
            asked.until = asked.until.min(now + HOLDERS_WAIT);
        }
    }

    /// Nobody is waited for any more: all may join.
    pub(super) fn begin(&mut self, now: Time, mail: &mut Mail) {
        let Some(asked) = self.asked.take() else { return };
        for (peer, zone, joining) in asked.joined {
            self.join(now, peer, joining, &zone, mail);
        }
    }
}

#[cfg(test)]
mod tests;
