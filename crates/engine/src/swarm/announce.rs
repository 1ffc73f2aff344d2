//! Announcements: blobs that the homes shall know of, gathered for each home.

use std::collections::BTreeMap;

use crate::ids::Digest;
use crate::limits::{ANNOUNCE_AGE_MAX, ANNOUNCE_BLOBS_MAX};
use crate::peer::PeerId;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::Message;

/// What is to be told to whom.
#[derive(Default)]
pub struct Announcements {
    waiting: BTreeMap<PeerId, Vec<(Digest, u64)>>,
    flush_at: Option<Time>,
}

impl Announcements {
    /// When [`flush`](Self::flush) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.flush_at
    }

    /// These homes shall know of a blob.
    pub fn add(&mut self, now: Time, homes: impl Iterator<Item = PeerId>, digest: Digest, size: u64) {
        for home in homes {
            self.waiting.entry(home).or_default().push((digest, size));
            self.flush_at.get_or_insert(now + ANNOUNCE_AGE_MAX);
        }
    }

    /// A blob that is no longer there is not announced.
    pub fn forget(&mut self, digest: &Digest) {
        self.waiting.values_mut().for_each(|blobs| blobs.retain(|(waiting, _)| waiting != digest));
        self.waiting.retain(|_, blobs| !blobs.is_empty());
    }

    /// Tells what is due.
    pub fn flush(&mut self, now: Time, mail: &mut Mail) {
        if self.flush_at.is_none_or(|at| at > now) {
            return;
        }
        self.flush_at = None;
        for (home, blobs) in std::mem::take(&mut self.waiting) {
            for blobs in blobs.chunks(ANNOUNCE_BLOBS_MAX) {
                mail.push_back((home, Message::Announce { blobs: blobs.to_vec() }));
            }
        }
    }
}
