//! Holding back: blobs that nobody waits for are received slowly where the operator wants that.

use super::Exchange;
use crate::time::Time;

/// Who holds back, and for whom nobody may.
#[derive(Default)]
pub(super) struct Restraint {
    /// This node receives slowly on purpose.
    pub held: bool,
    /// Until when feeds are excused that do.
    pub excused_until: Option<Time>,
    /// Somebody waits for the blob, here or behind this node.
    pub hurried: bool,
}

impl Exchange {
    /// Whether somebody waits for the blob, here or behind this node.
    pub fn is_hurried(&self) -> bool {
        self.restraint.hurried
    }

    /// Whether a feed has said that it holds back.
    pub fn is_excused(&self) -> bool {
        self.restraint.excused_until.is_some()
    }

    /// Somebody waits for the blob from now on.
    pub fn set_hurried(&mut self) {
        self.restraint.hurried = true;
    }

    /// Whether this node receives slowly on purpose.
    pub fn set_held(&mut self, held: bool) {
        self.restraint.held = held;
    }

    /// A feed has said that it holds back.
    pub fn excuse(&mut self, until: Time) {
        self.restraint.excused_until = Some(until);
    }
}
