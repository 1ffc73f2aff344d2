//! How far away members are, by what they answer to the membership's probes.
//!
//! Question: how long does a packet to a member and back take, these minutes? Answer: as long as the quicker one of the last
//! two probes, each of which comes when it is the member's turn: with 200 members every two and a half minutes. Prevents: a
//! number that is of the one probe for which a connection had to be made.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use shoal_engine::peer::PeerId;

/// The last two of each member.
#[derive(Debug, Default)]
pub struct RoundTrips(Mutex<HashMap<PeerId, [Duration; 2]>>);

impl RoundTrips {
    /// A member has answered after this long.
    pub fn add(&self, peer: PeerId, after: Duration) {
        self.0
            .lock()
            .entry(peer)
            .and_modify(|[last, before]| (*before, *last) = (*last, after))
            .or_insert([after; 2]);
    }

    /// How long a packet to a member and back takes; `None` while it has not been probed.
    pub fn of(&self, peer: &PeerId) -> Option<Duration> {
        self.0.lock().get(peer).map(|[last, before]| *last.min(before))
    }

    /// Forgets those that are not there any more.
    pub fn retain(&self, is_member: impl Fn(&PeerId) -> bool) {
        self.0.lock().retain(|peer, _| is_member(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_is_not_the_distance() {
        let (trips, peer) = (RoundTrips::default(), PeerId([1; 32]));
        assert_eq!(trips.of(&peer), None);
        for (after, shown) in [(9, 9), (2, 2), (30, 2), (31, 30), (1, 1)] {
            trips.add(peer, Duration::from_millis(after));
            assert_eq!(trips.of(&peer), Some(Duration::from_millis(shown)));
        }
        trips.retain(|_| false);
        assert_eq!(trips.of(&peer), None);
    }
}
