//! Small answers that the swarm's routing needs: living homes, bytes received, bytes thrown away.

use std::collections::VecDeque;
use std::sync::Arc;

use super::exchange::Exchange;
use super::gone::Gone;
use super::home::Mail;
use super::pieces::PieceSet;
use crate::homes::homes;
use crate::ids::Digest;
use crate::io::Output;
use crate::limits::{ENTRIES_PER_FRAME_MAX, FORMER_HOMES_MAX};
use crate::peer::{Member, PeerId, Roster};
use crate::pieces::piece_len;
use crate::time::Time;
use crate::wire::{Entry, LeaseId, Message};

/// The homes of a blob, without those that cannot be reached: as the list of members will say when it has noticed.
pub(super) fn living_homes(now: Time, digest: &Digest, roster: &Roster, gone: &Gone) -> Vec<PeerId> {
    let listed = homes(digest, roster);
    let living: Vec<_> = listed.iter().filter(|home| !gone.contains(now, home)).collect();
    if !living.is_empty() || listed.iter().next().is_none() {
        return living;
    }
    let living = Roster::new(roster.iter().filter(|m| !gone.contains(now, &m.peer)).cloned());
    homes(digest, &living).iter().collect()
}

/// Bytes of the pieces that are there; the last piece counts as a whole one.
pub(super) fn received(have: &PieceSet, size: u64) -> u64 {
    (u64::from(have.count()) * piece_len(size)).min(size)
}

/// Bytes that are kept aside for nothing go.
pub(super) fn discard(digest: Digest, exchange: &mut Exchange, effects: &mut VecDeque<Output>) {
    let useless = exchange.take_useless().into_iter();
    effects.extend(useless.map(|(piece, from)| Output::Discard { digest, piece, from }));
}

/// Members that have left, the last ones.
#[derive(Default)]
pub(super) struct FormerMembers(VecDeque<Arc<Member>>);

impl FormerMembers {
    /// The list of members has changed.
    pub(super) fn changed(&mut self, before: &Roster, now: &Roster) {
        self.0.retain(|member| !now.contains(&member.peer));
        for member in before.iter().filter(|member| !now.contains(&member.peer)) {
            if self.0.len() == FORMER_HOMES_MAX {
                self.0.pop_front();
            }
            self.0.push_back(Arc::clone(member));
        }
    }
}

/// Whether a member is one of a blob's homes, or was before it left. Names that no list of members has had are strangers:
/// anybody can make a key that would be home of anything.
pub(super) fn may_be_home(digest: &Digest, peer: &PeerId, roster: &Roster, former: &FormerMembers) -> bool {
    match former.0.iter().find(|member| member.peer == *peer) {
        None => homes(digest, roster).contains(peer),
        Some(left) => {
            let with_it = Roster::new(roster.iter().chain([left]).cloned());
            homes(digest, &with_it).contains(peer)
        }
    }
}

/// Tells a home hashes that it has asked for, in as many frames as they need.
pub(super) fn send_report(to: PeerId, digest: Digest, entries: &[Entry], mail: &mut Mail) {
    let lease = LeaseId { epoch: 0, number: 0 };
    for entries in entries.chunks(ENTRIES_PER_FRAME_MAX) {
        mail.push_back((to, Message::Report { digest, lease, entries: entries.to_vec(), busy: false }));
    }
}
