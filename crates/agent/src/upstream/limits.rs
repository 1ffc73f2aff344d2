//! Every bound of the upstream client: a name, a unit and a reason.

use std::time::Duration;

/// Agents that a request may have passed through before this one refuses it (C17). One agent behind another (a
/// site's behind a node's) is meant, a third may be a mistake that still works; a circle ends here.
pub const HOPS_MAX: u32 = 4;

/// Redirects followed for one request (the number browsers and Go's client agree on).
pub(super) const REDIRECTS_MAX: usize = 10;

/// Bytes of a manifest. The specification demands that 4 MiB work; containerd and containers/image refuse more than
/// that, so twice as much serves every client there is and still bounds the memory of a hostile answer.
pub const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Bytes of a tags or referrers listing: 100,000 tags of 40 characters are 4.3 MB.
pub const LIST_BYTES_MAX: u64 = 8 << 20;

/// Bytes of a token endpoint's answer; tokens themselves must fit a request header.
pub(super) const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// Bytes read of an error's body for its message, and of a body nobody wants so that the connection stays usable.
pub(super) const ERROR_BYTES_MAX: u64 = 16 << 10;

/// Time spent on reading such a body: a new connection costs about as much.
pub(super) const ERROR_BODY_WAIT: Duration = Duration::from_secs(1);

/// Characters of a registry's error message that are passed on; the rest is of no help and may be hostile.
pub(super) const MESSAGE_CHARS_MAX: usize = 200;

/// Longest pause a registry can impose by `Retry-After`. Docker Hub's window is six hours, but it slides: asking
/// once in a quarter of an hour notices when it has opened again, and an absurd value cannot shut a source off.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);

/// Longest time a tag may be kept on upstream's word: a year, the value that servers use for "for ever".
pub const MAX_AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Manifests above this are hashed on a blocking thread: 256 KiB take a millisecond without hardware support.
pub(super) const HASH_INLINE_BYTES_MAX: usize = 256 << 10;

/// Bytes of a client's `Authorization` that is looked at: tokens with hundreds of group names have 8 KiB, and the heads of
/// requests are bounded at little more.
pub(super) const CLIENT_TOKEN_BYTES_MAX: usize = 16 << 10;

/// Scopes of one token: a registry that names more in its challenge is broken.
pub(super) const SCOPES_MAX: usize = 16;

/// Lifetime of a token whose answer names none, and the least one may have (distribution, token specification).
pub(super) const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_secs(60);

/// Lifetime of a token at most: rights that were taken away are noticed within a day.
pub(super) const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token is renewed this long before it expires, so that clocks and slow redirects do not make it fail on the way.
pub(super) const TOKEN_SKEW: Duration = Duration::from_secs(10);

/// How long a repository's challenge is remembered, which saves the 401 before each request.
pub(super) const CHALLENGE_LIFETIME: Duration = Duration::from_secs(3600);

/// Bytes of a Docker `config.json`, a password file and a credential helper's answer.
pub(super) const CREDENTIALS_BYTES_MAX: u64 = 1 << 20;

/// A credential helper that has not answered by then is ended. Helpers ask a cloud's API; most take under a second.
pub(super) const HELPER_TIMEOUT: Duration = Duration::from_secs(5);

/// Credentials that could not be read, or that a registry refused, are looked up again after this time at the
/// earliest: a helper that hangs must not delay every request, one that works must not be run for each.
pub(super) const CREDENTIALS_RETRY: Duration = Duration::from_secs(30);

/// How long a helper's answer is used before it is asked again: well under ECR's twelve hours and any rotation.
pub(super) const HELPER_ANSWER_LIFETIME: Duration = Duration::from_secs(300);

/// Registries that are not configured but were asked for by clients, and are remembered with their health and credentials,
/// about 2 KiB each. Clients choose these names, so there must be a bound; beyond it the one goes that was asked for the
/// longest ago.
pub(super) const UNCONFIGURED_REGISTRIES_MAX: usize = 256;

/// Those of them with a metric label of their own. A label stays for as long as the agent runs, so these are the first ones;
/// all others share the label `other`.
pub(super) const LABELLED_REGISTRIES_MAX: usize = 64;

/// Idle connections kept for each host: as many as a node pulls blobs at once on a bad day.
pub(super) const IDLE_CONNECTIONS_PER_HOST: usize = 8;

/// Idle connections are closed before the 60 s after which common load balancers drop them silently (L1).
pub(super) const IDLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(45);

/// HTTP/2 bytes under way for one stream: 4 MiB fill 300 Mbit/s at 100 ms.
pub(super) const H2_STREAM_WINDOW: u32 = 4 << 20;

/// HTTP/2 bytes under way for one connection: the memory that readers who do not read can hold.
pub(super) const H2_CONNECTION_WINDOW: u32 = 16 << 20;

/// An HTTP/2 connection with open streams is asked for a sign of life this often; without one, new requests would
/// go on being put onto a dead connection.
pub(super) const H2_PING_INTERVAL: Duration = Duration::from_secs(10);

/// Largest zstd window accepted, as a power of two: the 8 MiB that RFC 9659 allows for the content coding.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Decoded bytes handed on at a time.
pub(super) const DECODED_CHUNK_BYTES: usize = 64 << 10;
