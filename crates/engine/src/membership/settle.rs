//! What `foca` wants done: timers, notifications, packets. Invariant: after [`Membership::settle`] nothing is left undone,
//! and the book agrees with `foca` about who is on the list.

use std::sync::Arc;
use std::time::Duration;

use foca::{OwnedNotification, Timer};

use crate::limits::{FORGET_PAUSE, LOST_MAX};
use crate::membership::Membership;
use crate::membership::book::Entry;
use crate::membership::identity::Identity;
use crate::membership::io::{Event, Output};
use crate::membership::wire::{self, ENVELOPE_BYTES, KIND_FEED, KIND_GOSSIP, KIND_PING, KIND_PING_REQ};
use crate::peer::PeerId;
use crate::time::Time;

impl Membership {
    /// Does what `foca` wants done; `from` is whose packet made it want it.
    pub(super) fn settle(&mut self, now: Time, from: Option<PeerId>) {
        while let Some((after, timer)) = self.wishes.to_schedule() {
            self.set_timer(now, after, timer);
        }
        let mut renewed = false;
        while let Some(notification) = self.wishes.to_notify() {
            renewed |= self.settle_notification(now, notification);
        }
        while let Some((to, data)) = self.wishes.to_send() {
            match data.first() {
                Some(&KIND_FEED) => self.send_list(now, &to),
                Some(&(KIND_GOSSIP | KIND_PING_REQ)) => self.send_to_partner(now, &to, &data),
                _ => self.send(now, &to, &data),
            }
        }
        if renewed {
            // Whoever said that we are dead is the first who must hear of the next life.
            let _ = self.foca.apply_many(std::iter::empty(), false, &mut self.wishes);
            if let Some(from) = from {
                self.announce(now, from);
            } else {
                self.settle(now, None);
            }
        }
        self.forget_lost(now);
    }

    /// Whoever is suspected from now on is told, whatever made this node suspect it.
    pub(super) fn set_timer(&mut self, now: Time, after: Duration, timer: Timer<Identity>) {
        if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
            self.suspects.begin(now, member_id.clone(), *incarnation);
            self.out.push_back(Output::Event(Event::Suspected(member_id.peer())));
        }
        self.timers.set(now, after, timer);
    }

    /// Whether this node has begun another life.
    fn settle_notification(&mut self, now: Time, notification: OwnedNotification<Identity>) -> bool {
        let event = match notification {
            OwnedNotification::MemberUp(id) => {
                self.book.rise(id.member(), now);
                Event::Up(Arc::clone(id.member()))
            }
            OwnedNotification::MemberDown(id) => {
                self.book.fall(&id.peer(), now);
                self.doubts.dispel(&id.peer());
                self.suspects.end(&id.peer());
                self.partners.end(&id.peer());
                self.acquaintances.end(&id.peer());
                Event::Down(Arc::clone(id.member()))
            }
            OwnedNotification::Rename(_, id) => {
                self.book.rename(id.member());
                if !self.book.is_living(&id.peer()) {
                    return false;
                }
                Event::Changed(Arc::clone(id.member()))
            }
            OwnedNotification::Rejoin(id) => {
                self.book.set_me(Arc::clone(id.member()));
                Event::Renewed { generation: id.generation() }
            }
            OwnedNotification::Idle => Event::Alone,
            OwnedNotification::Active | OwnedNotification::Defunct => return false,
        };
        let renewed = matches!(event, Event::Renewed { .. });
        if event != Event::Alone {
            self.mark_changed(now);
        }
        self.out.push_back(Output::Event(event));
        renewed
    }

    fn forget_lost(&mut self, now: Time) {
        if now < self.forget_due && self.book.lost_count() <= LOST_MAX {
            return;
        }
        self.forget_due = now + FORGET_PAUSE;
        for member in self.book.overdue(now) {
            // Cannot fail: it only looks for the member.
            let _ = self
                .foca
                .handle_timer(Timer::RemoveDown(Identity::new(Arc::clone(&member))), &mut self.wishes);
            self.book.forget(&member.peer);
        }
    }

    // ---- output ----

    /// The answer to somebody who joins or compares: everybody, and who is gone, so that it holds nobody for alive who is
    /// not. `foca`'s own answer is one packet of whom it picks at random.
    fn send_list(&mut self, now: Time, to: &Identity) {
        if !self.book.may_list(&to.peer(), now) {
            return;
        }
        let everybody: Vec<_> = self
            .foca
            .iter_membership_state()
            .filter(|member| member.id().peer() != to.peer())
            .cloned()
            .collect();
        self.compose(now, KIND_FEED, to, &everybody);
    }

    /// Sends what any member may get to a partner instead of the one that `foca` has chosen.
    fn send_to_partner(&mut self, now: Time, chosen: &Identity, data: &[u8]) {
        let partner = self.partners.instead_of(chosen.peer());
        let entry = self.book.get(&partner).filter(|_| partner != chosen.peer());
        match entry.map(Entry::identity).and_then(|to| Some((wire::readdress(data, &to)?, to))) {
            Some((data, to)) => self.send(now, &to, &data),
            None => self.send(now, chosen, data),
        }
    }

    /// Sends packets of this node's own making.
    pub(super) fn compose(&mut self, now: Time, kind: u8, to: &Identity, news: &[foca::Member<Identity>]) {
        for packet in wire::compose(kind, self.book.me(), to, news) {
            self.send(now, to, &packet);
        }
    }

    fn send(&mut self, now: Time, to: &Identity, data: &[u8]) {
        if let [KIND_PING, number, ..] = data {
            self.probes.sent(now, to.peer(), *number);
        }
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + data.len());
        wire::put_envelope(self.view(), &mut bytes);
        bytes.extend_from_slice(data);
        // A third party comes as a name; the book knows its addresses.
        let known = self.book.get(&to.peer()).map(|entry| &entry.member);
        let to = Arc::clone(known.unwrap_or_else(|| to.member()));
        self.out.push_back(Output::Packet { to, bytes });
    }
}
