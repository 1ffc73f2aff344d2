//! The boundary of membership, on one screen.

use std::sync::Arc;
use std::time::Duration;

use crate::membership::details::MemberFault;
use crate::membership::wire::PacketFault;
use crate::peer::{Member, PeerId, Roster};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// There is a connection to somebody who proved to belong to the cluster: join through it.
    Contact {
        /// Its name.
        peer: PeerId,
    },
    /// A packet has arrived.
    Packet {
        /// Whose connection it came by.
        from: PeerId,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// The connection to a member broke, or none can be opened. A hint: the member is asked for a sign of life at once.
    Unreachable {
        /// Its name.
        peer: PeerId,
    },
    /// The details of this node have changed. Its name stays, and its generation grows by itself if it has to.
    Update(Member),
    /// Time has passed ([`Membership::next_wakeup`](crate::Membership::next_wakeup)).
    Wakeup,
    /// This node goes. The others are told; afterwards nothing is taken in any more.
    Leave,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a packet, over a connection that exists or that is opened for it. It may be lost; it must not be delayed by
    /// more than the network delays it, so a queue before a dead connection drops its oldest.
    Packet {
        /// The member. Where only its name is known (a contact), the rest is empty.
        to: Arc<Member>,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// The list of members is another one from now on.
    Roster(Arc<Roster>),
    /// A member has answered a probe: how far away it is.
    Answered {
        /// The member.
        peer: PeerId,
        /// Time from the probe to its answer.
        after: Duration,
    },
    /// A member is there, as others say, and has answered nothing on its connection for long: it is to be connected to anew.
    Reconnect {
        /// The member.
        peer: PeerId,
    },
    /// Something to write into the log.
    Event(Event),
}

/// What an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is on the list.
    Up(Arc<Member>),
    /// A member does not answer, or somebody says so; it has some seconds to object.
    Suspected(PeerId),
    /// A member left, or died.
    Down(Arc<Member>),
    /// A member has other details, restarted unnoticed, or objected to being called dead.
    Changed(Arc<Member>),
    /// This node was called dead, or somebody knew of a later life, and it came back with this generation.
    Renewed {
        /// The new generation.
        generation: u64,
    },
    /// Nobody else is alive.
    Alone,
    /// A packet was refused.
    Refused {
        /// Who sent it.
        from: PeerId,
        /// Why.
        fault: PacketFault,
    },
    /// The new details of this node were refused, the old ones stay.
    UpdateRefused(MemberFault),
}
