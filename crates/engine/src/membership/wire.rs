//! Packets of the membership protocol. Invariant: what decodes is within every bound, and encodes to a packet that
//! decodes to the same.
//!
//! Numbers are big-endian. A packet is
//!
//! ```text
//! packet  = version u8, view u64, header, [count u16, update * count]
//! header  = kind u8, probe u8, incarnation u16, sender member, receiver name, [third name]
//! update  = incarnation u16, state u8, member
//! member  = name, length u16, details
//! name    = peer 32 bytes, generation u64
//! details = addresses, data port, zone, labels, version      (bincode 2, standard configuration)
//! ```
//!
//! The view is a fingerprint of the sender's list of living members. The receiver knows itself and a third party is
//! only written to, so names are enough for both. An update can be passed over without taking its details apart.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use foca::{Header, Message, State};

use crate::limits::{MEMBER_DETAILS_BYTES_MAX, MEMBERSHIP_PACKET_BYTES_MAX};
use crate::membership::details::{self, MemberFault};
use crate::membership::identity::Identity;
use crate::peer::{Member, PeerId};

/// Version of the packets. A member of another version is not understood, and refused.
pub(super) const VERSION: u8 = 1;

/// Bytes before the header.
pub(super) const ENVELOPE_BYTES: usize = 1 + 8;

/// Number of the header's kind that asks for a sign of life.
pub(super) const KIND_PING: u8 = 1;

/// Number of the header's kind that asks for help with a probe.
pub(super) const KIND_PING_REQ: u8 = 3;

/// Number of the header's kind that carries a list of members.
pub(super) const KIND_FEED: u8 = 8;

/// Number of the header's kind that carries news.
pub(super) const KIND_GOSSIP: u8 = 9;

/// Why a packet is refused. The peer that sent it is at fault; nothing was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketFault {
    /// It is longer than any packet may be.
    #[error("a membership packet has at most {MEMBERSHIP_PACKET_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// It is of a version that this software does not speak.
    #[error("membership packets have version {VERSION} here, this one has {0}")]
    Version(u8),
    /// It ends too early or too late, or has a number that stands for nothing.
    #[error("the packet is malformed")]
    Malformed,
    /// It names another sender than the connection it came by, or a receiver that is not this node.
    #[error("the packet names somebody else as its sender or receiver")]
    Misdirected,
    /// It speaks of a member whose details are beyond their bounds.
    #[error("a member in the packet: {0}")]
    Member(#[from] MemberFault),
    /// There are as many members as this node can remember.
    #[error("too many members")]
    Full,
}

// ---- encoding ----

/// Begins a packet.
pub(super) fn put_envelope(view: u64, bytes: &mut Vec<u8>) {
    bytes.put_u8(VERSION);
    bytes.put_u64(view);
}

/// Packets without their envelopes that carry news of this node's own making: as many as it takes, and at least one.
pub(super) fn compose(
    kind: u8,
    sender: &Member,
    receiver: &Identity,
    news: &[foca::Member<Identity>],
) -> Vec<Vec<u8>> {
    let mut header = vec![kind, 0, 0, 0];
    // A member whose details are out of bounds is neither taken in nor, being this node, started.
    if put_member(sender, &mut header).is_err() {
        return Vec::new();
    }
    put_name(receiver, &mut header);
    let room = MEMBERSHIP_PACKET_BYTES_MAX - ENVELOPE_BYTES;
    let mut packets = Vec::new();
    let (mut packet, mut count) = (begun(&header), 0u16);
    for update in news.iter().filter_map(|member| encode_update(member).ok()) {
        if packet.len() + update.len() > room {
            packets.push(finished(packet, header.len(), count));
            (packet, count) = (begun(&header), 0);
        }
        packet.extend_from_slice(&update);
        count += 1;
    }
    packets.push(finished(packet, header.len(), count));
    packets
}

fn begun(header: &[u8]) -> Vec<u8> {
    [header, &[0, 0]].concat()
}

fn finished(mut packet: Vec<u8>, count_at: usize, count: u16) -> Vec<u8> {
    packet[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
    packet
}

/// What is said of one member.
fn encode_update(update: &foca::Member<Identity>) -> Result<Vec<u8>, MemberFault> {
    let mut bytes = Vec::new();
    bytes.put_u16(update.incarnation());
    bytes.put_u8(match update.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    put_member(update.id().member(), &mut bytes)?;
    Ok(bytes)
}

fn encode_header(header: &Header<Identity>) -> Result<Vec<u8>, MemberFault> {
    let (kind, probe, third) = match &header.message {
        Message::Ping(probe) => (KIND_PING, *probe, None),
        Message::Ack(probe) => (2, *probe, None),
        Message::PingReq { target, probe_number } => (KIND_PING_REQ, *probe_number, Some(target)),
        Message::IndirectPing { origin, probe_number } => (4, *probe_number, Some(origin)),
        Message::IndirectAck { target, probe_number } => (5, *probe_number, Some(target)),
        Message::ForwardedAck { origin, probe_number } => (6, *probe_number, Some(origin)),
        Message::Announce => (7, 0, None),
        Message::Feed => (KIND_FEED, 0, None),
        Message::Gossip => (KIND_GOSSIP, 0, None),
        Message::TurnUndead => (10, 0, None),
        Message::Broadcast => (11, 0, None),
    };
    let mut bytes = vec![kind, probe];
    bytes.put_u16(header.src_incarnation);
    put_member(header.src.member(), &mut bytes)?;
    put_name(&header.dst, &mut bytes);
    third.into_iter().for_each(|third| put_name(third, &mut bytes));
    Ok(bytes)
}

/// A packet without its envelope, for another receiver; nothing if that is the third party, who cannot help to probe itself.
pub(super) fn readdress(packet: &[u8], to: &Identity) -> Option<Vec<u8>> {
    let mut rest = packet;
    let header = decode_header(&mut rest).ok()?;
    let third = match &header.message {
        Message::PingReq { target, .. } => Some(target.peer()),
        _ => None,
    };
    let header = Header { dst: to.clone(), ..header };
    let header = (third != Some(to.peer())).then(|| encode_header(&header).ok()).flatten()?;
    Some([&header, rest].concat())
}

fn put_name(identity: &Identity, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&identity.peer().0);
    bytes.put_u64(identity.generation());
}

fn put_member(member: &Member, bytes: &mut Vec<u8>) -> Result<(), MemberFault> {
    let details = details::encode(member)?;
    bytes.extend_from_slice(&member.peer.0);
    bytes.put_u64(member.generation);
    bytes.put_u16(u16::try_from(details.len()).map_err(|_| MemberFault::Total)?);
    bytes.extend_from_slice(&details);
    Ok(())
}

// ---- decoding ----

/// A packet, taken apart as far as needed to judge it.
pub(super) struct Packet<'a> {
    /// Fingerprint of the sender's list.
    pub view: u64,
    /// The header.
    pub header: Header<Identity>,
    /// The same, in bytes.
    pub header_bytes: &'a [u8],
    /// What it says of members.
    pub updates: Vec<Update<'a>>,
}

/// What a packet says of a member.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    /// Its name.
    pub peer: PeerId,
    /// Which of its lives.
    pub generation: u64,
    /// Its own counter of objections to being called dead.
    pub incarnation: u16,
    /// How it is.
    pub state: State,
    details: &'a [u8],
}

impl Update<'_> {
    /// All that is said of the member.
    pub fn member(&self) -> Result<Member, PacketFault> {
        decode_member(self.peer, self.generation, self.details)
    }
}

/// Takes a packet apart.
pub(super) fn decode(bytes: &[u8]) -> Result<Packet<'_>, PacketFault> {
    if bytes.len() > MEMBERSHIP_PACKET_BYTES_MAX {
        return Err(PacketFault::TooLong(bytes.len()));
    }
    let mut rest = bytes;
    let version = rest.try_get_u8().map_err(malformed)?;
    if version != VERSION {
        return Err(PacketFault::Version(version));
    }
    let view = rest.try_get_u64().map_err(malformed)?;
    let from_header = rest;
    let header = decode_header(&mut rest)?;
    let header_bytes = &from_header[..from_header.len() - rest.len()];
    let mut updates = Vec::new();
    if !rest.is_empty() {
        for _ in 0..rest.try_get_u16().map_err(malformed)? {
            updates.push(decode_update(&mut rest)?);
        }
    }
    if rest.is_empty() {
        Ok(Packet { view, header, header_bytes, updates })
    } else {
        Err(PacketFault::Malformed)
    }
}

fn decode_header(rest: &mut &[u8]) -> Result<Header<Identity>, PacketFault> {
    let kind = rest.try_get_u8().map_err(malformed)?;
    let probe_number = rest.try_get_u8().map_err(malformed)?;
    let src_incarnation = rest.try_get_u16().map_err(malformed)?;
    let (peer, generation) = take_name(rest)?;
    let details = take_details(rest)?;
    let src = Identity::new(Arc::new(decode_member(peer, generation, details)?));
    let dst = take_bare(rest)?;
    let message = match kind {
        KIND_PING => Message::Ping(probe_number),
        2 => Message::Ack(probe_number),
        KIND_PING_REQ => Message::PingReq { target: take_bare(rest)?, probe_number },
        4 => Message::IndirectPing { origin: take_bare(rest)?, probe_number },
        5 => Message::IndirectAck { target: take_bare(rest)?, probe_number },
        6 => Message::ForwardedAck { origin: take_bare(rest)?, probe_number },
        7 => Message::Announce,
        KIND_FEED => Message::Feed,
        KIND_GOSSIP => Message::Gossip,
        10 => Message::TurnUndead,
        // 11 would be foca's broadcasts, which nobody sends here.
        _ => return Err(PacketFault::Malformed),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn decode_update<'a>(rest: &mut &'a [u8]) -> Result<Update<'a>, PacketFault> {
    let incarnation = rest.try_get_u16().map_err(malformed)?;
    let state = match rest.try_get_u8().map_err(malformed)? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(PacketFault::Malformed),
    };
    let (peer, generation) = take_name(rest)?;
    Ok(Update { peer, generation, incarnation, state, details: take_details(rest)? })
}

fn decode_member(peer: PeerId, generation: u64, bytes: &[u8]) -> Result<Member, PacketFault> {
    details::decode(peer, generation, bytes)?.ok_or(PacketFault::Malformed)
}

fn take_details<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PacketFault> {
    let length = usize::from(rest.try_get_u16().map_err(malformed)?);
    if length > MEMBER_DETAILS_BYTES_MAX {
        return Err(MemberFault::Total.into());
    }
    let (details, after) = rest.split_at_checked(length).ok_or(PacketFault::Malformed)?;
    *rest = after;
    Ok(details)
}

fn take_name(rest: &mut &[u8]) -> Result<(PeerId, u64), PacketFault> {
    let mut key = [0; 32];
    rest.try_copy_to_slice(&mut key).map_err(malformed)?;
    Ok((PeerId(key), rest.try_get_u64().map_err(malformed)?))
}

fn take_bare(rest: &mut &[u8]) -> Result<Identity, PacketFault> {
    take_name(rest).map(|(peer, generation)| Identity::bare(peer, generation))
}

fn malformed<E>(_: E) -> PacketFault {
    PacketFault::Malformed
}

// ---- what foca calls ----

/// The codec for `foca`. The envelope is not its business.
pub(super) struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = PacketFault;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), PacketFault> {
        put(&encode_header(header)?, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, PacketFault> {
        let before = buf.chunk();
        let mut rest = before;
        let header = decode_header(&mut rest)?;
        let used = before.len() - rest.len();
        buf.advance(used);
        Ok(header)
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), PacketFault> {
        put(&encode_update(member)?, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Identity>, PacketFault> {
        let before = buf.chunk();
        let mut rest = before;
        let update = decode_update(&mut rest)?;
        let identity = Identity::new(Arc::new(update.member()?));
        let member = foca::Member::new(identity, update.incarnation, update.state);
        let used = before.len() - rest.len();
        buf.advance(used);
        Ok(member)
    }
}

/// All of it or, where there is no room, nothing.
fn put(bytes: &[u8], mut buf: impl BufMut) -> Result<(), PacketFault> {
    if buf.remaining_mut() < bytes.len() {
        return Err(PacketFault::TooLong(bytes.len()));
    }
    buf.put_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests;
