//! Members that work on leases of other homes.
//!
//! Question: a member says that another home has granted it a lease, which nobody else may know; is it to go on? Answer: yes, until it
//! has been silent. What it says is no piece: if none comes it is believed a few times, and not again once a lease of it has stood
//! still. Prevents: a member that keeps a blob from everybody with leases that it makes up.

use std::collections::BTreeMap;

use crate::limits::{LEASES_ADOPTED_IN_VAIN_MAX, LEASES_ADOPTED_MAX};
use crate::peer::PeerId;

/// For each of them, the leases that it was left since a piece has come of one.
#[derive(Default)]
pub(super) struct Adopters(BTreeMap<PeerId, u32>);

impl Adopters {
    /// Whether one more of a member's leases goes on.
    pub fn admit(&mut self, holder: PeerId) -> bool {
        if !self.has_room(&holder) {
            return false;
        }
        let leases = self.0.entry(holder).or_default();
        if *leases >= LEASES_ADOPTED_IN_VAIN_MAX {
            return false;
        }
        *leases += 1;
        true
    }

    /// A piece has come of a member's lease.
    pub fn has_brought(&mut self, holder: &PeerId) {
        self.0.remove(holder);
    }

    /// A member's lease has stood still. Whether it was believed until then.
    pub fn was_silent(&mut self, holder: PeerId) -> bool {
        let most = LEASES_ADOPTED_IN_VAIN_MAX;
        !self.has_room(&holder) || self.0.insert(holder, most) != Some(most)
    }

    fn has_room(&self, holder: &PeerId) -> bool {
        self.0.len() < LEASES_ADOPTED_MAX || self.0.contains_key(holder)
    }
}
