//! What a world does to one blob: what is on disk, what the sources say, what breaks.

use std::collections::{BTreeMap, VecDeque};

use shoal_engine::{ByteRanges, LocalFault, SourceFault};

/// A small seeded generator (SplitMix64), so that a run can be repeated from one number.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

/// The effects that the disk carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Look,
    Size,
    Prepare,
    Checkpoint,
    Verify,
    Commit,
    Shut,
}

/// What lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    Absent,
    Whole,
    Partial {
        size: u64,
        have: ByteRanges,
        /// The bytes are not those of the digest.
        bad: bool,
    },
}

/// What a source says of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    Truth,
    Nothing,
    Lie(u64),
}

/// Faults by chance, in per mille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    /// Of the effects of the disk, and of the steps of a transfer.
    pub local: u32,
    /// Of the requests to a source.
    pub source: u32,
    /// Of the steps of a transfer: it breaks there.
    pub breaks: u32,
    /// Of the steps of a transfer: it stalls until the idle timeout.
    pub stalls: u32,
    /// Of the places that are prepared: the bytes that will be written there are wrong.
    pub wrong: u32,
}

/// See the module's head. The default is a cold blob of a healthy source.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The true size in bytes.
    pub size: u64,
    pub disk: Disk,
    /// What the source says when it is asked for the size.
    pub size_told: Tells,
    /// What the source says in the head of a transfer.
    pub total_told: Tells,
    /// What the first requests for the size get.
    pub size_faults: VecDeque<SourceFault>,
    /// What the first transfers get instead of a body.
    pub open_faults: VecDeque<SourceFault>,
    /// What these scopes (by number) get, always.
    pub scope_faults: BTreeMap<usize, SourceFault>,
    /// A transfer breaks after this many bytes.
    pub breaks_every: Option<u64>,
    /// A transfer that comes to this offset says nothing more until it is cancelled.
    pub stalls_at: Option<u64>,
    /// The bytes written to the first places that are prepared are wrong.
    pub wrong_places: u32,
    /// Effects that fail, always.
    pub local_faults: BTreeMap<Effect, LocalFault>,
    /// The disk is full when this many bytes of the blob are there.
    pub full_at: Option<u64>,
    pub chaos: Chaos,
}

impl Plan {
    pub fn cold(size: u64) -> Plan {
        Plan {
            size,
            disk: Disk::Absent,
            size_told: Tells::Truth,
            total_told: Tells::Truth,
            size_faults: VecDeque::new(),
            open_faults: VecDeque::new(),
            scope_faults: BTreeMap::new(),
            breaks_every: None,
            stalls_at: None,
            wrong_places: 0,
            local_faults: BTreeMap::new(),
            full_at: None,
            chaos: Chaos::default(),
        }
    }

    /// Whether nothing in this plan can go wrong.
    pub fn is_healthy(&self) -> bool {
        let disk = !matches!(&self.disk, Disk::Partial { size, bad, .. } if *bad || *size != self.size);
        disk && self.size_told == Tells::Truth
            && matches!(self.total_told, Tells::Truth | Tells::Nothing)
            && self.size_faults.is_empty()
            && self.open_faults.is_empty()
            && self.scope_faults.is_empty()
            && self.stalls_at.is_none()
            && self.wrong_places == 0
            && self.local_faults.is_empty()
            && self.full_at.is_none()
            && self.chaos == Chaos::default()
    }
}

/// What a source answers by chance.
pub fn any_source_fault(rng: &mut Rng) -> SourceFault {
    match rng.below(8) {
        0 => SourceFault::Missing,
        1 => SourceFault::Denied { status: 403 },
        2 => SourceFault::RateLimited { retry_after: Some(std::time::Duration::from_secs(rng.below(20))) },
        3 => SourceFault::RateLimited { retry_after: None },
        4 => SourceFault::Protocol,
        5 => SourceFault::Interrupted,
        _ => SourceFault::Transient,
    }
}

/// What the disk answers by chance.
pub fn any_local_fault(rng: &mut Rng) -> LocalFault {
    if rng.chance(500) { LocalFault::StoreFull } else { LocalFault::StoreBroken }
}
