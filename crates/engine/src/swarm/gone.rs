//! Members that could not be reached a moment ago.
//!
//! Question: whom does a node not ask, that the list of members still names? Answer: those whom it could not reach, until
//! they say something, the list names another life of them or none, or some time has passed: a link that was down for a second
//! must not take a node out of the swarm for good.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::GONE_REMEMBERED;
use crate::peer::PeerId;
use crate::time::Time;

/// See the module's head.
#[derive(Default)]
pub struct Gone {
    absent: BTreeMap<PeerId, Absence>,
    /// When members spoke again, the last ones.
    returned: BTreeMap<PeerId, Time>,
}

struct Absence {
    until: Time,
    /// Whether nothing is known but that it says nothing.
    is_silence: bool,
}

impl Gone {
    /// A member cannot be reached.
    pub fn lost(&mut self, now: Time, peer: PeerId) {
        self.add(now, peer, false);
    }

    /// A member says nothing while others speak.
    pub fn silent(&mut self, now: Time, peer: PeerId) {
        self.add(now, peer, true);
    }

    fn add(&mut self, now: Time, peer: PeerId, is_silence: bool) {
        self.absent.retain(|_, absence| absence.until > now);
        self.returned.retain(|_, at| *at + GONE_REMEMBERED > now);
        self.absent.insert(peer, Absence { until: now + GONE_REMEMBERED, is_silence });
    }

    /// A member lives.
    pub fn heard(&mut self, now: Time, peer: &PeerId) {
        if self.absent.remove(peer).is_some() {
            self.returned.insert(*peer, now);
        }
    }

    /// Whether a member could not be reached for some of the time that its answer took, which has come now.
    pub fn was_away(&self, peer: &PeerId, now: Time, took: Duration) -> bool {
        self.contains(now, peer) || self.returned.get(peer).is_some_and(|at| now < *at + took)
    }

    /// The list of members has changed: nothing is known of those who do not live on.
    pub fn retain(&mut self, lives_on: impl Fn(&PeerId) -> bool) {
        self.absent.retain(|peer, _| lives_on(peer));
    }

    /// Whether a member is not to be asked.
    pub fn contains(&self, now: Time, peer: &PeerId) -> bool {
        self.absence(now, peer).is_some()
    }

    /// Whether a member is known to be unreachable: it does not only say nothing.
    pub fn is_lost(&self, now: Time, peer: &PeerId) -> bool {
        self.absence(now, peer).is_some_and(|absence| !absence.is_silence)
    }

    /// Whether nothing is known of a member but that it says nothing.
    pub fn is_silent(&self, now: Time, peer: &PeerId) -> bool {
        self.absence(now, peer).is_some_and(|absence| absence.is_silence)
    }

    fn absence(&self, now: Time, peer: &PeerId) -> Option<&Absence> {
        self.absent.get(peer).filter(|absence| absence.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_gone_for_good() {
        let (peer, start, mut gone) = (PeerId([1; 32]), Time::ZERO, Gone::default());
        gone.lost(start, peer);
        assert!(gone.contains(start, &peer) && !gone.contains(start, &PeerId([2; 32])));
        assert!(gone.contains(start + (GONE_REMEMBERED - Duration::from_millis(1)), &peer));
        assert!(!gone.contains(start + GONE_REMEMBERED, &peer), "time passes");
        gone.silent(start, peer);
        assert!(gone.contains(start, &peer) && !gone.is_lost(start, &peer));
        gone.lost(start, peer);
        assert!(gone.is_lost(start, &peer));
        let (back, took) = (start + Duration::from_secs(3), Duration::from_secs(2));
        assert!(gone.was_away(&peer, back, took));
        gone.heard(back, &peer);
        assert!(!gone.contains(back, &peer), "it lives");
        assert!(gone.was_away(&peer, back, took), "what it was asked before took so long because of that");
        assert!(!gone.was_away(&peer, back + took, took), "and what it was asked after that did not");
        gone.lost(start, peer);
        gone.retain(|_| true);
        assert!(gone.contains(start, &peer), "others come and go");
        gone.retain(|_| false);
        assert!(!gone.contains(start, &peer), "it begins another life");
    }
}
