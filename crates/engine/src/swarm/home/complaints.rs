//! Complaints: what a home does when a member is of no use to another one.
//!
//! Question: who is at fault when pieces do not come? Answer: the feed that is complained about, unless nothing comes from
//! upstream, or the forest is being taken over, or so many say they are slow that something else must be; one that says so
//! of itself feeds nobody. Prevents: innocent members that lose their places because something above them stands still.

use std::time::Duration;

use super::forest::{Node, Parent};
use super::{Book, Home, Mail};
use crate::ids::Digest;
use crate::limits::{
    ACCUSERS_MIN, DRY_MAX, FEED_SILENCE_MAX, RUNS_PER_MESSAGE_MAX, SLOW_MEMBERS_SHARE_MIN, SOURCE_SILENCE_MAX,
};
use crate::peer::PeerId;
use crate::time::Time;
use crate::wire::{Complaint, Message, Run, are_fit};

impl Home {
    /// Other members that were told to fetch something of which nothing has come yet, with the blobs.
    pub fn holders_that_have_not_begun(&self) -> impl Iterator<Item = (Digest, PeerId)> + '_ {
        self.books.values().flat_map(|book| {
            let waited_for = book.leases.active().filter(|(_, a)| !a.has_begun() && a.holder != self.me);
            waited_for.map(|(_, active)| (book.digest, active.holder))
        })
    }

    /// This node is late itself, or others answer late: lease holders, which may be as busy, get so much more time.
    pub fn excuse(&mut self, by: Duration) {
        self.books.values_mut().for_each(|book| book.leases.excuse(by));
    }

    /// Members say nothing while others speak: somebody else fetches what they were to begin with, and nobody waits for them before
    /// anything is granted in their place.
    pub fn unheard(&mut self, now: Time, members: &[PeerId], mail: &mut Mail) {
        for book in self.books.values_mut() {
            let ended: Vec<_> = members.iter().flat_map(|member| book.leases.take_unbegun(member)).collect();
            let stands_in = book.stands_in.as_ref().is_some_and(|stand_in| members.contains(&stand_in.first));
            if stands_in && book.leases.granted() == 0 {
                book.leases.wait_no_more();
            }
            if stands_in || !ended.is_empty() {
                ended.into_iter().for_each(|action| book.carry_out(action, mail));
                book.advance(now, mail);
            }
        }
    }
}

impl Book {
    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn complain(
        &mut self,
        now: Time,
        from: PeerId,
        class: u8,
        about: PeerId,
        why: Complaint,
        missing: &[Run],
        mail: &mut Mail,
    ) {
        let Some(node) = self.forest.find(&from).filter(|_| class < self.forest.classes()) else { return };
        if !are_fit(missing, self.size, RUNS_PER_MESSAGE_MAX) {
            return;
        }
        let accused = self.forest.find(&about);
        let is_late = matches!(why, Complaint::Slow | Complaint::Silent);
        if self.forest.is_held() && about != from && why != Complaint::Wrong {
            if !is_late {
                self.forget_feed(node, class);
            }
            return;
        }
        if about == from
            && SLOW_MEMBERS_SHARE_MIN * self.forest.slow_count() >= self.forest.receiver_count().max(8)
        {
            // So many cannot be slower than the others.
            return;
        }
        if about == from {
            self.forest.demote(node);
            for action in self.leases.take_from(&from) {
                self.carry_out(action, mail);
            }
            return;
        }
        if why == Complaint::Wrong && accused.is_some() {
            let accusers = self.accusers.entry(about).or_default();
            accusers.insert(from);
            if accusers.len() >= ACCUSERS_MIN {
                self.distrust(now, about, mail);
                self.lose(&about);
            }
        }
        if is_late {
            self.hearings.note(now, (node, class));
        }
        // While nothing comes from upstream, everybody is silent and nobody is at fault; not for ever, because what is
        // missing may be lost between members.
        let quiet = now - self.reported;
        let dry = !self.leases.is_there() && quiet >= FEED_SILENCE_MAX && quiet < DRY_MAX;
        match self.forest.parent(node, class) {
            Parent::Member(parent) if why == Complaint::Silent && dry && !self.forest.is_whole(parent) => {}
            Parent::Member(parent) if Some(parent) == accused => {
                let is_whole = self.forest.is_whole(parent);
                match is_late && !is_whole {
                    true => self.hearings.file(now, (node, class), parent),
                    false => self.forest.replace(node, class, is_late),
                }
                // Whoever has it all owes nothing to anybody above it.
                let is_mute = is_whole
                    && why == Complaint::Silent
                    && !self.waits_for_source(now, (node, class), missing);
                if is_mute && self.is_mute_for_all(node, parent) {
                    return self.lose(&about);
                }
                if !is_late || is_mute {
                    self.refetch_unsendable(now, (node, class), parent, missing);
                }
            }
            Parent::Source => {
                if matches!(why, Complaint::Lost | Complaint::Refused | Complaint::Wrong) {
                    self.take_leases(now, &about, mail);
                }
                if why == Complaint::Wrong {
                    self.refetches += 1;
                }
                let waits = why == Complaint::Silent && self.waits_for_source(now, (node, class), missing);
                if why != Complaint::Slow && !waits {
                    let lost = self.unleased(missing);
                    if self.forest.has_seeds() {
                        self.forest.replace(node, class, false);
                    }
                    if self.forest.parent(node, class) == Parent::Source {
                        self.leases.misses(now, &lost);
                    }
                }
            }
            Parent::None => {
                self.forest.attach_all(node);
                // Those who have the blob are gone or of no use, and so is what they were counted for.
                if self.forest.parent(node, class) == Parent::None {
                    self.leases.misses(now, missing);
                }
            }
            // It has been given another one in the meantime.
            Parent::Member(_) => {
                self.tell_feeds([(node, class)].into_iter(), mail);
            }
        }
    }

    /// A member has lost its feed, which is there all the same. Where nobody else can send what is missing it is fetched again.
    fn refetch_unsendable(&mut self, now: Time, (node, class): (Node, u8), lost: Node, missing: &[Run]) {
        if self.forest.parent(node, class) == Parent::Member(lost) {
            self.forest.feed_from_source(node, class);
        }
        let useless = [self.forest.peer(node), self.forest.peer(lost)];
        let is_lost = match self.forest.parent(node, class) {
            // There is nobody else.
            Parent::None => true,
            Parent::Source => self.brought.values().all(|feed| useless.contains(&feed.peer)),
            Parent::Member(_) => false,
        };
        if is_lost {
            let lost = self.unleased(missing);
            self.leases.misses(now, &lost);
        }
    }

    /// Whether one that has everything and has sent a member nothing for long is of no use to anybody, as far as is known.
    fn is_mute_for_all(&mut self, node: Node, whole: Node) -> bool {
        let accusers = self.mute.entry(whole).or_default();
        accusers.insert(node);
        accusers.len() >= ACCUSERS_MIN.min(self.forest.receiver_count())
    }

    /// Those that nobody is fetching.
    fn unleased(&self, missing: &[Run]) -> Vec<Run> {
        let is_leased = |run: &Run| self.leases.active().any(|(_, active)| active.run.contains(run.first));
        missing.iter().copied().filter(|run| !is_leased(run)).collect()
    }

    /// Feeds about which complaints are upheld are replaced.
    pub(super) fn hear_complaints(&mut self, now: Time) {
        for (node, class, accused) in self.hearings.hear(now) {
            if self.forest.parent(node, class) == Parent::Member(accused) {
                self.forest.replace(node, class, true);
            }
        }
    }

    /// Whether a member is to be patient with those that feed it: they have what it waits for, and on a link that many blobs share its
    /// turn comes late. As long as it waits for one piece after the other nothing is lost.
    fn waits_for_source(&mut self, now: Time, waiting: (Node, u8), missing: &[Run]) -> bool {
        let Some(first) = missing.first().map(|run| run.first) else { return false };
        let (piece, since) = self.silences.entry(waiting).or_insert((first, now));
        if *piece != first {
            (*piece, *since) = (first, now);
        }
        now < *since + SOURCE_SILENCE_MAX + self.leases.excused()
    }

    /// Holders whose time is up fetch no more. Only time takes their leases: what they have said comes first.
    pub(super) fn take_stalled(&mut self, now: Time, mail: &mut Mail) {
        for action in self.leases.take_stalled(now) {
            self.carry_out(action, mail);
        }
    }

    /// A member is not to fetch any more, which it is told in case it lives.
    pub(super) fn take_leases(&mut self, now: Time, holder: &PeerId, mail: &mut Mail) {
        for (lease, _) in self.leases.active().filter(|(_, active)| active.holder == *holder) {
            mail.push_back((*holder, Message::Trim { digest: self.digest, lease: *lease, end: 0 }));
        }
        self.brought.retain(|_, feed| feed.peer != *holder);
        self.leases.useless(now, holder);
    }
}
