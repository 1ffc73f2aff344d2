//! How `foca` is set. Nothing depends on the size of the cluster, so no node has to know it.

use std::num::{NonZeroU8, NonZeroUsize};

use foca::PeriodicParams;

use crate::limits::{
    GOSSIP_COPIES, GOSSIP_FANOUT, GOSSIP_PAUSE, MEMBERSHIP_PACKET_BYTES_MAX, PROBE_ANSWER_MAX, PROBE_HELPERS,
    PROBE_PERIOD, SUSPICION,
};
use crate::membership::wire::ENVELOPE_BYTES;

/// The settings.
pub(super) fn config() -> foca::Config {
    let some = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ANSWER_MAX,
        num_indirect_probes: some(PROBE_HELPERS),
        max_transmissions: NonZeroU8::new(GOSSIP_COPIES).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION,
        // The book says when.
        remove_down_after: None,
        max_packet_size: some(MEMBERSHIP_PACKET_BYTES_MAX - ENVELOPE_BYTES),
        notify_down_members: true,
        // Comparing views finds what is missing sooner, and costs nothing while nothing is.
        periodic_announce: None,
        // Stops when a node is alone, which is when it is needed most; see `reach`.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_PAUSE, num_members: some(GOSSIP_FANOUT) }),
    }
}
