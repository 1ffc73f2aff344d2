//! Small answers that the swarm's routing needs: living homes, bytes received, bytes thrown away.

use std::collections::{BTreeSet, VecDeque};

use super::exchange::Exchange;
use super::pieces::PieceSet;
use crate::homes::homes;
use crate::ids::Digest;
use crate::io::Output;
use crate::peer::{PeerId, Roster};
use crate::pieces::piece_len;

/// The homes of a blob, without those that cannot be reached: as the list of members will say when it has noticed.
pub(super) fn living_homes(digest: &Digest, roster: &Roster, gone: &BTreeSet<PeerId>) -> Vec<PeerId> {
    let listed: Vec<_> = homes(digest, roster).iter().filter(|home| !gone.contains(home)).collect();
    if !listed.is_empty() || gone.is_empty() {
        return listed;
    }
    let living = Roster::new(roster.iter().filter(|m| !gone.contains(&m.peer)).cloned());
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
