//! Every bound of the object store's client: a name, a unit and a reason.

use std::time::Duration;

/// Bytes of a marker: three short fields. What is longer was not written by an agent.
pub(super) const MARKER_BYTES_MAX: u64 = 1 << 10;

/// Bytes sent in one request. S3 wants at least 5 MiB for every part but the last; larger ones cost memory, of which
/// each upload holds one part.
pub(super) const PART_BYTES: u64 = 8 << 20;

/// Parts of one object: S3 takes 10,000. Objects of more than 80 GB are sent in larger parts.
pub(super) const PARTS_MAX: u64 = 9_000;

/// Offers that wait for an upload or are uploaded, at a time. Each holds a descriptor, and the disk space of a blob that
/// was evicted meanwhile: the layers of a few images.
pub(super) const OFFERS_MAX: usize = 64;

/// Bytes of offers that are held in memory because they have no file (manifests, small blobs).
pub(super) const OFFERED_BYTES_MAX: usize = 16 << 20;

/// Times one upload is tried: another node that misses the same blob will offer it again.
pub(super) const UPLOAD_ATTEMPTS_MAX: u32 = 3;

/// How long an upload waits for a store that has failed before it is dropped.
pub(super) const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// How long an upload waits while another one finds out whether the store is back: about what one request takes.
pub(super) const PROBE_WAIT: Duration = Duration::from_secs(1);

/// An upload's request may take its length at this rate, in bytes a second, besides the usual deadlines. Parts are of
/// bounded length, so this stands for an idle timeout.
pub(super) const UPLOAD_RATE_MIN: u64 = 128 << 10;

/// How long the parts of an upload that is given up may take to be thrown away.
pub(super) const ABORT_WAIT: Duration = Duration::from_secs(2);

/// Blobs that were found a moment ago, so that the ranges of one transfer do not each read the markers again.
pub(super) const SEEN_MAX: u64 = 4096;

/// How long such a finding is used: shorter than anybody could wonder about a right that was taken away.
pub(super) const SEEN_LIFETIME: Duration = Duration::from_secs(60);

/// Blobs whose object did not match its digest; they are left alone until they have been replaced.
pub(super) const DISTRUSTED_MAX: u64 = 1024;

/// How long such a blob is left alone where this agent does not replace it: another one may have.
pub(super) const DISTRUST_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How long a blob is left alone whose transfer broke off here: longer than the pull, not much longer.
pub(super) const BREAK_MEMORY: Duration = Duration::from_secs(60);

/// Bytes read from a file at a time.
pub(super) const FILE_CHUNK_BYTES: u64 = 256 << 10;

/// How often the file with the credentials is looked at.
pub(super) const CREDENTIALS_CHECK: Duration = Duration::from_secs(10);

/// Bytes of a file with credentials: a service account's key has 2.4 KiB.
pub(super) const CREDENTIALS_BYTES_MAX: u64 = 64 << 10;

/// Bytes read of an error's body.
pub(super) const ERROR_BYTES_MAX: usize = 16 << 10;

/// Characters of a cause that are passed on.
pub(super) const CAUSE_CHARS_MAX: usize = 200;

/// Pause before the one repetition inside a request: the server closed a connection that had been idle, mostly.
pub(super) const REPEAT_PAUSE: Duration = Duration::from_millis(50);

/// Idle connections kept for each host.
pub(super) const IDLE_CONNECTIONS_PER_HOST: usize = 8;

/// Idle connections are closed before the 60 s after which common load balancers drop them silently.
pub(super) const IDLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(45);

/// Characters of the prefix of a bucket: with the longest names and digest, a key stays below S3's 1,024 bytes.
pub const PREFIX_CHARS_MAX: usize = 256;
