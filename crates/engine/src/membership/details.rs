//! What is told of a member beside its name. Invariant: whatever is encoded or decoded is within its bounds.
//!
//! Addresses, zone, labels and version, in this order, in the standard configuration of bincode 2.

use std::net::SocketAddr;

use bincode::{Decode, Encode};

use crate::limits::{
    ADDRESSES_MAX, LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, MEMBER_DETAILS_BYTES_MAX,
    VERSION_BYTES_MAX, ZONE_BYTES_MAX,
};
use crate::peer::{Member, PeerId};

/// Bytes that decoding the details of one member may claim in memory; each address takes four times as many as on the
/// wire.
const CLAIM_BYTES_MAX: usize = 4 * MEMBER_DETAILS_BYTES_MAX;

/// Why details of a member are refused: whoever wrote its configuration is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberFault {
    /// Addresses.
    #[error("more than {ADDRESSES_MAX} addresses")]
    Addresses,
    /// The zone.
    #[error("the zone's name is longer than {ZONE_BYTES_MAX} bytes")]
    Zone,
    /// Labels.
    #[error(
        "more than {LABELS_MAX} labels, a key of more than {LABEL_KEY_BYTES_MAX} bytes, or a value of more than \
         {LABEL_VALUE_BYTES_MAX}"
    )]
    Labels,
    /// The version.
    #[error("the version is longer than {VERSION_BYTES_MAX} bytes")]
    Version,
    /// All of it.
    #[error("addresses, zone, labels and version have more than {MEMBER_DETAILS_BYTES_MAX} bytes together")]
    Total,
}

/// What is encoded of a member beside its name.
#[derive(Encode, Decode)]
struct Details {
    addresses: Box<[SocketAddr]>,
    data_port: u16,
    zone: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    version: Box<str>,
}

/// The same, borrowed.
#[derive(Encode)]
struct DetailsRef<'a> {
    addresses: &'a [SocketAddr],
    data_port: u16,
    zone: &'a str,
    labels: &'a [(Box<str>, Box<str>)],
    version: &'a str,
}

const fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>()
}

/// Whether a member's details are within their bounds.
pub(super) fn check(member: &Member) -> Result<(), MemberFault> {
    encode(member).map(drop)
}

/// The details in bytes.
pub(super) fn encode(member: &Member) -> Result<Vec<u8>, MemberFault> {
    check_bounds(member)?;
    let Member { addresses, data_port, zone, labels, version, .. } = member;
    let details = DetailsRef { addresses, data_port: *data_port, zone, labels, version };
    let encoded = bincode::encode_to_vec(details, config());
    encoded.ok().filter(|bytes| bytes.len() <= MEMBER_DETAILS_BYTES_MAX).ok_or(MemberFault::Total)
}

fn check_bounds(member: &Member) -> Result<(), MemberFault> {
    let label_fits = |(key, value): &(Box<str>, Box<str>)| {
        key.len() <= LABEL_KEY_BYTES_MAX && value.len() <= LABEL_VALUE_BYTES_MAX
    };
    if member.addresses.len() > ADDRESSES_MAX {
        Err(MemberFault::Addresses)
    } else if member.zone.len() > ZONE_BYTES_MAX {
        Err(MemberFault::Zone)
    } else if member.labels.len() > LABELS_MAX || !member.labels.iter().all(label_fits) {
        Err(MemberFault::Labels)
    } else if member.version.len() > VERSION_BYTES_MAX {
        Err(MemberFault::Version)
    } else {
        Ok(())
    }
}

/// A member from its name and its details; `None` if the bytes are no details.
pub(super) fn decode(peer: PeerId, generation: u64, bytes: &[u8]) -> Result<Option<Member>, MemberFault> {
    let decoded = bincode::decode_from_slice(bytes, config()).ok();
    let Some((Details { addresses, data_port, zone, labels, version }, _)) =
        decoded.filter(|(_, used)| *used == bytes.len())
    else {
        return Ok(None);
    };
    let member = Member { peer, generation, addresses, data_port, zone, labels, version };
    check_bounds(&member)?;
    Ok(Some(member))
}
