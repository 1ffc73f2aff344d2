//! What one simulated run has measured: the raw figures, of every system alike. What is made of them is in
//! [`report`](crate::report).

/// How one node fared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeOutcome {
    /// Index of its zone.
    pub zone: usize,
    /// When its client asked, seconds since the beginning of the run.
    pub asked_s: f64,
    /// When its client had the first byte, seconds since the beginning; `None` if it never had one.
    pub first_byte_s: Option<f64>,
    /// When its client had everything, verified, seconds since the beginning; `None` if it never had.
    pub whole_s: Option<f64>,
    /// Whether faults were planned for this very node (slow, killed, lying, silent): such nodes are not in the
    /// percentiles of the healthy.
    pub faulty: bool,
    /// Whether the run expects it to end: a node that was killed for good is not expected.
    pub expected: bool,
    /// Bytes that it received from the origin.
    pub from_origin: u64,
    /// Bytes that it received from members of its own zone.
    pub from_zone: u64,
    /// Bytes that it received from members of other zones.
    pub from_afar: u64,
    /// Bytes of blobs that it sent to members.
    pub sent: u64,
    /// Bytes of control messages that it sent.
    pub control: u64,
    /// Those of them that it sent while members got to know each other, see [`Outcome::joining_s`].
    pub control_joining: u64,
    /// Bytes that it received and had already, or that were wrong.
    pub wasted: u64,
    /// Members from each of which it received at least a hundredth of what it wants.
    pub sources: u32,
}

/// Progress of all nodes at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Seconds since the beginning of the run.
    pub at_s: f64,
    /// For each node, how much of all it wants it has, 0 (nothing) to 255 (everything).
    pub progress: Vec<u8>,
}

/// One run of one system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Which system ran: `shoal`, `upstream`, `spegel`, `dragonfly`, `kraken`.
    pub system: String,
    /// Seed of all chance.
    pub seed: u64,
    /// Bytes that every node wants.
    pub bytes: u64,
    /// The bound for one node's time from asking to whole, seconds (see the document's derivation).
    pub bound_s: f64,
    /// How every node fared.
    pub nodes: Vec<NodeOutcome>,
    /// Bytes of blobs that the origin sent.
    pub upstream_bytes: u64,
    /// Requests for blobs that the origin saw.
    pub upstream_requests: u64,
    /// Share of the time from the first request to the last upstream byte in which the origin's link was busy, 0 to 1.
    pub origin_busy: f64,
    /// Bytes of blobs that crossed into each zone from another zone or from the origin.
    pub into_zone: Vec<u64>,
    /// Tickets that ended without their bytes.
    pub failed: u64,
    /// Progress over time, some two hundred samples.
    pub samples: Vec<Sample>,
    /// What broke a rule that always holds; empty in a good run.
    pub violations: Vec<String>,
    /// Hash over everything that happened, in order: equal for equal seeds. Hexadecimal.
    pub trace: String,
    /// Events handled.
    pub events: u64,
    /// Simulated seconds.
    pub simulated_s: f64,
    /// Real seconds.
    pub real_s: f64,
    /// Largest memory of one node's engine and membership at the end, bytes of heap, counted by the allocator; 0 where
    /// there is no engine or nobody counts.
    pub engine_bytes: u64,
    /// Time from the beginning in which members get to know each other and announce what they have, seconds; 0 where the
    /// run does not simulate it.
    pub joining_s: f64,
}
