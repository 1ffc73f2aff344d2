//! Attempts to receive a blob from members that ended with wrong bytes.

use std::collections::BTreeMap;

use crate::ids::Digest;
use crate::limits::{SPOILED_BLOBS_MAX, SPOILED_MAX, SPOILED_TIME};
use crate::time::Time;

/// How many there were of each blob, and until when that counts.
#[derive(Default)]
pub(super) struct Spoiled(BTreeMap<Digest, (u32, Time)>);

impl Spoiled {
    /// One more.
    pub fn add(&mut self, now: Time, digest: Digest) {
        self.0.retain(|_, (_, until)| now < *until);
        if self.0.len() >= SPOILED_BLOBS_MAX
            && !self.0.contains_key(&digest)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(d, _)| *d)
        {
            self.0.remove(&oldest);
        }
        let entry = self.0.entry(digest).or_insert((0, now));
        *entry = (entry.0 + 1, now + SPOILED_TIME);
    }

    /// Whether this node fetches the blob itself from now on.
    pub fn is_alone(&self, now: Time, digest: &Digest) -> bool {
        self.0.get(digest).is_some_and(|(times, until)| *times >= SPOILED_MAX && now < *until)
    }
}
