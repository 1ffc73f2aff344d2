//! Announcements: which members shall know of the blobs that are in this node's store?
//!
//! Question: the homes of a blob change as members come and go; who is told, and when? Answer: a new blob is told to its
//! homes of the moment. When the list of members has changed and been calm for a while, all blobs are looked through, a
//! bounded number at a time, and each is told to those of its homes that were not told before, or that have forgotten: because
//! they have been started again, because the connection broke, which strikes this node off their books, or because this node
//! was taken for gone and has begun another life. Nodes begin at different moments. Prevents: blobs that nobody finds because they were
//! announced before the cluster had formed, and a storm of announcements with each member that comes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::homes::{homes, mix};
use crate::ids::Digest;
use crate::limits::{
    ANNOUNCE_AGE_MAX, ANNOUNCE_BLOBS_MAX, SWEEP_AFTER, SWEEP_AFTER_MAX, SWEEP_BLOBS_MAX, SWEEP_JITTER_MAX,
    SWEEP_PAUSE, SWEEP_WEIGHTS_MAX,
};
use crate::peer::{PeerId, Roster};
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::Message;

/// What is stored, and what is to be told to whom.
pub struct Announcements {
    me: PeerId,
    stored: BTreeMap<Digest, u64>,
    waiting: BTreeMap<PeerId, Vec<(Digest, u64)>>,
    flush_at: Option<Time>,
    /// The list of members by which everything that is stored has been told.
    told: Arc<Roster>,
    /// Members of it to which the connection has broken since.
    doubted: BTreeSet<PeerId>,
    /// When the list first changed, or a connection broke, since the last sweep began, and when the next one begins.
    changed: Option<(Time, Time)>,
    sweep: Option<Sweep>,
}

/// A look through all that is stored.
struct Sweep {
    roster: Arc<Roster>,
    doubted: BTreeSet<PeerId>,
    /// The last blob that was looked at.
    after: Option<Digest>,
    at: Time,
}

impl Announcements {
    /// The announcements of `me`: none yet.
    pub fn new(me: PeerId) -> Self {
        Announcements {
            me,
            stored: BTreeMap::new(),
            waiting: BTreeMap::new(),
            flush_at: None,
            told: Arc::default(),
            doubted: BTreeSet::new(),
            changed: None,
            sweep: None,
        }
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        let begins = self.changed.map(|(_, begins)| begins);
        let sweep = self.sweep.as_ref().map_or(begins, |sweep| Some(sweep.at));
        self.flush_at.into_iter().chain(sweep).min()
    }

    /// A blob is in the store: its homes shall know. Whether this node is one of them itself.
    pub fn add(&mut self, now: Time, roster: &Roster, digest: Digest, size: u64) -> bool {
        self.stored.insert(digest, size);
        let homes = homes(&digest, roster);
        homes.iter().for_each(|home| self.tell(now, home, digest, size));
        homes.contains(&self.me)
    }

    /// Size of a blob, if it is stored.
    pub fn stored(&self, digest: &Digest) -> Option<u64> {
        self.stored.get(digest).copied()
    }

    /// A blob that is no longer there is not announced.
    pub fn forget(&mut self, digest: &Digest) {
        self.stored.remove(digest);
        self.waiting.values_mut().for_each(|blobs| blobs.retain(|(waiting, _)| waiting != digest));
        self.waiting.retain(|_, blobs| !blobs.is_empty());
    }

    /// The list of members has changed.
    pub fn roster_changed(&mut self, now: Time, roster: &Arc<Roster>) {
        if self.stored.is_empty() {
            // Whatever comes is told by a list that is no older.
            (self.told, self.changed, self.sweep) = (Arc::clone(roster), None, None);
            self.doubted.clear();
            return;
        }
        self.look_later(now);
    }

    /// The connection to a member of the list broke: it counts this node no more among those who have something.
    pub fn lost(&mut self, now: Time, peer: PeerId) {
        if !self.stored.is_empty() {
            self.doubted.insert(peer);
            self.look_later(now);
        }
    }

    fn look_later(&mut self, now: Time) {
        let first = self.changed.map_or(now, |(first, _)| first);
        let part = (mix(self.me.prefix()) % 1024) as f64 / 1024.0;
        let calm = (now + SWEEP_AFTER).min(first + SWEEP_AFTER_MAX);
        self.changed = Some((first, calm + SWEEP_JITTER_MAX.mul_f64(part)));
    }

    /// Tells what is due. Answers blobs of which this node has become a home itself.
    pub fn advance(&mut self, now: Time, roster: &Arc<Roster>, mail: &mut Mail) -> Vec<(Digest, u64)> {
        if self.sweep.is_none() && self.changed.is_some_and(|(_, begins)| begins <= now) {
            self.changed = None;
            let doubted = std::mem::take(&mut self.doubted);
            self.sweep = Some(Sweep { roster: Arc::clone(roster), doubted, after: None, at: now });
        }
        let mine = match self.sweep.take() {
            Some(sweep) if sweep.at <= now => self.look_on(now, sweep),
            sweep => {
                self.sweep = sweep;
                Vec::new()
            }
        };
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush(mail);
        }
        mine
    }

    fn look_on(&mut self, now: Time, sweep: Sweep) -> Vec<(Digest, u64)> {
        let Sweep { roster, doubted, after, .. } = sweep;
        let most = (SWEEP_WEIGHTS_MAX / roster.len().max(1)).clamp(1, SWEEP_BLOBS_MAX);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let part: Vec<_> =
            self.stored.range((from, Bound::Unbounded)).take(most).map(|(d, size)| (*d, *size)).collect();
        let generation = |roster: &Roster, peer: &PeerId| roster.get(peer).map(|member| member.generation);
        let lives_on = |peer: &PeerId| generation(&self.told, peer) == generation(&roster, peer);
        let has_begun_anew = !lives_on(&self.me);
        let mut mine = Vec::new();
        let mut tell = Vec::new();
        for &(digest, size) in &part {
            let before = homes(&digest, &self.told);
            for home in homes(&digest, &roster).iter() {
                let has_forgotten = has_begun_anew || doubted.contains(&home) || !lives_on(&home);
                if before.contains(&home) && !has_forgotten {
                    continue;
                }
                match home == self.me {
                    true => mine.push((digest, size)),
                    false => tell.push((home, digest, size)),
                }
            }
        }
        tell.into_iter().for_each(|(home, digest, size)| self.tell(now, home, digest, size));
        match part.last().filter(|_| part.len() == most) {
            Some((last, _)) => {
                self.sweep = Some(Sweep { roster, doubted, after: Some(*last), at: now + SWEEP_PAUSE });
            }
            None => self.told = roster,
        }
        mine
    }

    fn tell(&mut self, now: Time, home: PeerId, digest: Digest, size: u64) {
        if home != self.me {
            self.waiting.entry(home).or_default().push((digest, size));
            self.flush_at.get_or_insert(now + ANNOUNCE_AGE_MAX);
        }
    }

    /// Tells all that waits, without gathering more.
    pub fn flush(&mut self, mail: &mut Mail) {
        self.flush_at = None;
        for (home, blobs) in std::mem::take(&mut self.waiting) {
            for blobs in blobs.chunks(ANNOUNCE_BLOBS_MAX) {
                mail.push_back((home, Message::Announce { blobs: blobs.to_vec() }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
