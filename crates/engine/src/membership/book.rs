//! What this node believes of every member. Invariant: never stronger than what `foca` believes, so that whatever is no
//! news here is no news there.
//!
//! `foca` finds a member by walking over all of them. Most of what packets say is known already, and is recognised here
//! by a look-up instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use foca::State;

use crate::homes::mix;
use crate::limits::{LIST_PAUSE, LOST_MAX, LOST_REMEMBERED, MEMBERS_MAX};
use crate::membership::identity::Identity;
use crate::membership::wire::{PacketFault, Update};
use crate::peer::{Member, PeerId, Roster};
use crate::time::Time;

/// One member.
pub(super) struct Entry {
    /// Its newest life.
    pub member: Arc<Member>,
    /// Whether it is on the list. Suspected members are.
    pub living: bool,
    incarnation: u16,
    state: State,
    /// Since when it is, or is not.
    since: Time,
    /// When it was last sent the whole list, in this life.
    listed: Option<Time>,
}

impl Entry {
    /// Its newest life, for `foca`.
    pub fn identity(&self) -> Identity {
        Identity::new(Arc::clone(&self.member))
    }
}

/// All members but this one, and this one.
pub(super) struct Book {
    me: Arc<Member>,
    entries: BTreeMap<PeerId, Entry>,
    living: usize,
    view: u64,
}

impl Book {
    /// Only this node.
    pub fn new(me: Arc<Member>) -> Self {
        let view = fingerprint(&me);
        Book { me, entries: BTreeMap::new(), living: 0, view }
    }

    // ---- getters ----

    /// This node.
    pub fn me(&self) -> &Arc<Member> {
        &self.me
    }

    /// What is believed of another.
    pub fn get(&self, peer: &PeerId) -> Option<&Entry> {
        self.entries.get(peer)
    }

    /// Whether another is believed to be alive.
    pub fn is_living(&self, peer: &PeerId) -> bool {
        self.get(peer).is_some_and(|entry| entry.living)
    }

    /// The others that are alive, ascending by name.
    pub fn living_peers(&self) -> impl Iterator<Item = PeerId> + Clone {
        self.entries.iter().filter(|(_, entry)| entry.living).map(|(peer, _)| *peer)
    }

    /// Number of the others that are alive.
    pub fn living(&self) -> usize {
        self.living
    }

    /// Number of those that are gone and not forgotten.
    pub fn lost_count(&self) -> usize {
        self.entries.len() - self.living
    }

    /// Those that are gone and not forgotten, ascending by name.
    pub fn lost(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.lost_since().map(|(member, _)| member)
    }

    /// The same with the time since when.
    pub fn lost_since(&self) -> impl Iterator<Item = (&Arc<Member>, Time)> {
        self.entries.values().filter(|entry| !entry.living).map(|entry| (&entry.member, entry.since))
    }

    /// Fingerprint of the list: equal lists have equal ones.
    pub fn view(&self) -> u64 {
        self.view
    }

    /// The list, this node included.
    pub fn roster(&self) -> Roster {
        let others = self.entries.values().filter(|entry| entry.living).map(|entry| &entry.member);
        Roster::new(others.chain([&self.me]).cloned())
    }

    /// Whether nobody more can be remembered.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MEMBERS_MAX
    }

    /// The members that went too long ago, or first of too many.
    pub fn overdue(&self, now: Time) -> Vec<Arc<Member>> {
        let mut lost: Vec<_> = self.entries.values().filter(|entry| !entry.living).collect();
        lost.sort_by_key(|entry| entry.since);
        let surplus = lost.len().saturating_sub(LOST_MAX);
        let is_old = |entry: &Entry| entry.since + LOST_REMEMBERED <= now;
        let overdue = lost.into_iter().enumerate().filter(|(at, entry)| *at < surplus || is_old(entry));
        overdue.map(|(_, entry)| Arc::clone(&entry.member)).collect()
    }

    /// What of a packet is news, with the details taken apart. What concerns this node is not judged here.
    pub fn news(&self, updates: &[Update<'_>]) -> Result<Vec<foca::Member<Identity>>, PacketFault> {
        let mut news = Vec::new();
        for update in updates.iter().filter(|u| u.peer != self.me.peer && self.is_news(u)) {
            let member = match self.get(&update.peer) {
                Some(entry) if entry.member.generation == update.generation => Arc::clone(&entry.member),
                _ => Arc::new(update.member()?),
            };
            news.push(foca::Member::new(Identity::new(member), update.incarnation, update.state));
        }
        Ok(news)
    }

    /// The precedence of SWIM ("SWIM: Scalable Weakly-consistent Infection-style Process Group Membership Protocol",
    /// 2002, section 4.2), within one life; a later life beats everything.
    fn is_news(&self, update: &Update<'_>) -> bool {
        let Some(entry) = self.get(&update.peer) else { return !self.is_full() };
        if update.generation != entry.member.generation {
            return update.generation > entry.member.generation;
        }
        match (entry.state, update.state) {
            (State::Down, _) => false,
            (_, State::Down) => true,
            (State::Alive, State::Suspect) => update.incarnation >= entry.incarnation,
            (_, State::Alive | State::Suspect) => update.incarnation > entry.incarnation,
        }
    }

    // ---- mutators ----

    /// This node has other details, or another life.
    pub fn set_me(&mut self, me: Arc<Member>) {
        self.view ^= fingerprint(&self.me) ^ fingerprint(&me);
        self.me = me;
    }

    /// `foca` has been given this piece of news.
    pub fn note(&mut self, news: &foca::Member<Identity>, now: Time) {
        let member = news.id().member();
        let (incarnation, state) = (news.incarnation(), news.state());
        let entry = self.entry(member, now);
        if entry.member.generation == member.generation {
            (entry.incarnation, entry.state) = (incarnation, state);
        }
    }

    /// A member is on the list from now on.
    pub fn rise(&mut self, member: &Arc<Member>, now: Time) {
        let entry = self.entry(member, now);
        if !entry.living {
            entry.living = true;
            entry.since = now;
            self.living += 1;
            self.view ^= fingerprint(member);
        }
    }

    fn entry(&mut self, member: &Arc<Member>, now: Time) -> &mut Entry {
        self.entries.entry(member.peer).or_insert_with(|| Entry {
            member: Arc::clone(member),
            living: false,
            incarnation: 0,
            state: State::Alive,
            since: now,
            listed: None,
        })
    }

    /// Whether a member is sent the whole list now.
    pub fn may_list(&mut self, peer: &PeerId, now: Time) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else { return false };
        let may = entry.listed.is_none_or(|last| last + LIST_PAUSE <= now);
        if may {
            entry.listed = Some(now);
        }
        may
    }

    /// A member is on the list no more.
    pub fn fall(&mut self, peer: &PeerId, now: Time) {
        if let Some(entry) = self.entries.get_mut(peer)
            && entry.living
        {
            (entry.living, entry.state, entry.since) = (false, State::Down, now);
            self.living -= 1;
            self.view ^= fingerprint(&entry.member);
        }
    }

    /// A member has begun another life; on the list or not, it stays what it was.
    pub fn rename(&mut self, member: &Arc<Member>) {
        if let Some(entry) = self.entries.get_mut(&member.peer) {
            if entry.living {
                self.view ^= fingerprint(&entry.member) ^ fingerprint(member);
            }
            entry.member = Arc::clone(member);
            (entry.incarnation, entry.state, entry.listed) = (0, State::Alive, None);
        }
    }

    /// A member that is gone is not remembered any longer.
    pub fn forget(&mut self, peer: &PeerId) {
        if self.get(peer).is_some_and(|entry| !entry.living) {
            self.entries.remove(peer);
        }
    }
}

fn fingerprint(member: &Member) -> u64 {
    mix(member.peer.prefix() ^ mix(member.generation))
}

#[cfg(test)]
mod tests;
