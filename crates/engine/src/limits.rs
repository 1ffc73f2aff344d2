//! Every bound of the engine: a name, a unit and a reason.

use std::time::Duration;

/// Flights at a time. A flight holds two file descriptors and a few hundred bytes here; a node that is asked for more
/// blobs at once passes the rest through.
pub const FLIGHTS_MAX: usize = 4096;

/// Tickets at a time, over all flights: more than any runtime opens connections for.
pub const TICKETS_MAX: usize = 65_536;

/// Upstream transfers of one flight. One carries a blob that is read in order; a jump far ahead and the gap it leaves
/// need one each, and a lazy reader's jumps should not wait for each other.
pub const FETCHES_PER_FLIGHT_MAX: usize = 4;

/// Upstream transfers of the node at a time, unless configured otherwise: enough to fill any link, few enough that
/// registries do not take the node for an attacker.
pub const FETCHES_MAX: usize = 32;

/// Transfers that nobody waits for yet. Clients that do wait always find free places.
pub const PREFETCH_FETCHES_MAX: usize = 6;

/// Repositories through which one blob may be asked for. A base layer is shared by hundreds of repositories, and one
/// that denies must not end the walk, but neither must it become one request per repository.
pub const SCOPES_PER_FLIGHT_MAX: usize = 4;

/// Sizes remembered from manifests: 56 bytes each, some 3,000 images.
pub const SIZES_MAX: usize = 65_536;

/// A reader that is at most this far ahead of a transfer waits for it instead of opening its own: containerd's
/// parallel fetch opens several tails of a blob at once, all of which one transfer will reach. At 100 MB/s this is
/// two thirds of a second.
pub const FOLLOW_BYTES_MAX: u64 = 64 << 20;

/// The same for a reader of a bounded range, which wants these bytes and no others: a lazy snapshotter sits in a
/// page fault.
pub const FOLLOW_BOUNDED_BYTES_MAX: u64 = 4 << 20;

/// A bounded range of at most this many bytes is answered without the rest of the blob: the footer or the table of
/// contents that lazy readers begin with.
pub const TAIL_BYTES_MAX: u64 = 4 << 20;

/// Attempts to open a transfer before any byte has come, at most; one for each client that waits (D5), so a single
/// client costs a sick source a single request (F10).
pub const OPEN_ATTEMPTS_MAX: u32 = 3;

/// Attempts to go on in the middle of a blob without a byte of progress. Clients have received a part by then, and
/// cutting them costs more than asking again.
pub const RESUME_ATTEMPTS_MAX: u32 = 6;

/// First pause before a transfer that brought no progress is tried again; doubles each time.
pub const RESUME_PAUSE_FIRST: Duration = Duration::from_millis(250);

/// Longest pause between two attempts, jitter aside: containerd 1.7 gives up a pull after minutes without a byte.
pub const RESUME_PAUSE_MAX: Duration = Duration::from_secs(8);

/// Times a flight starts over after its bytes did not match the digest.
pub const RESTARTS_MAX: u32 = 1;

/// Bytes received since the last checkpoint that make the next one due: what a `kill -9` or a power cut may cost. The
/// data has to reach the disk before the blob is whole in any case, so small steps cost little.
pub const CHECKPOINT_BYTES: u64 = 16 << 20;

/// Age of the oldest byte that is in no checkpoint that makes the next one due, for slow transfers.
pub const CHECKPOINT_AGE: Duration = Duration::from_secs(1);

/// Bytes that a transfer must have brought to count as progress: a source that breaks off after every packet would
/// otherwise be asked again without end.
pub const PROGRESS_BYTES_MIN: u64 = 64 << 10;

/// Flights that nobody waits for, at a time: the layers of a few images.
pub const PREFETCH_FLIGHTS_MAX: usize = 256;

/// Pause before a source that failed is asked once more, when there are others (`contract.md` F10).
pub const SAME_SOURCE_PAUSE: Duration = Duration::from_secs(1);

/// What is added to it at most, so that nodes that failed together do not ask together.
pub const SAME_SOURCE_JITTER_MAX: Duration = Duration::from_millis(500);

/// Errors in a row after which a source is left alone. A registry in proxy mode answers 500 for a manifest it does not
/// find, so one error says little.
pub const BREAKER_ERRORS_MAX: u32 = 5;

/// How long a source is left alone at first: about what a restart of a registry takes.
pub const BREAKER_PAUSE_FIRST: Duration = Duration::from_secs(10);

/// How long it is left alone at most: a mirror that has come back is used again within this time.
pub const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
