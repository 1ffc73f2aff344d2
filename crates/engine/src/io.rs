//! The boundary of the engine, on one screen.
//!
//! The driver turns what happens into an [`Input`], and carries out each [`Output`]. Every output marked *effect* is
//! answered by exactly one input, whatever happens (I4); a ticket ends by exactly one [`Output::End`] unless the
//! driver ends it with [`Input::Close`] before.

use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};

use crate::demand::Part;
use crate::fault::{LocalFault, SourceFault};
use crate::ids::{Digest, FetchId, TicketId, WarmSetId};
use crate::name::Scope;
use crate::peer::{PeerId, Roster};
use crate::ranges::ByteRanges;
use crate::swarm::upload::{Send, UploadId};
use crate::wire::{Message, Pace, PieceHash, WarmFault};

/// Something that happened.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Input {
    /// A client wants a blob, or a part of it, that was not in the store a moment ago.
    Open {
        /// New name of this request.
        ticket: TicketId,
        /// The blob.
        digest: Digest,
        /// Where upstream may be asked for it.
        scope: Scope,
        /// The bytes that are wanted.
        part: Part,
    },
    /// The client has gone. Never cancels what others wait for.
    Close {
        /// The request that ends.
        ticket: TicketId,
    },
    /// A manifest named a blob: its size is known from now on, and with `scope` it should start to move before it is
    /// asked for.
    Described {
        /// The blob.
        digest: Digest,
        /// Size in bytes, as the manifest has it. A hint: the source's word counts more.
        size: u64,
        /// Where to fetch it; `None` when only the size should be remembered.
        prefetch: Option<Scope>,
    },
    /// Answers [`Output::Look`].
    Looked {
        /// The blob.
        digest: Digest,
        /// What was found.
        found: Found,
    },
    /// Answers [`Output::Size`].
    Sized {
        /// The blob.
        digest: Digest,
        /// Size in bytes; `None` if the source sends it without telling.
        result: Result<Option<u64>, SourceFault>,
    },
    /// Answers [`Output::Prepare`].
    Prepared {
        /// The blob.
        digest: Digest,
        /// Whether there is a place for its bytes now.
        result: Result<(), LocalFault>,
    },
    /// The source answered; its body follows. At most once for a fetch, before any progress.
    FetchOpened {
        /// The transfer.
        fetch: FetchId,
        /// Size of the whole blob in bytes, if the source told.
        total: Option<u64>,
    },
    /// All bytes of the transfer up to `to` can be read by clients.
    Progress {
        /// The transfer.
        fetch: FetchId,
        /// Offset in the blob, exclusive.
        to: u64,
    },
    /// Answers [`Output::Fetch`]: the transfer has ended and writes no more.
    FetchEnded {
        /// The transfer.
        fetch: FetchId,
        /// `Ok` when it brought all that was asked.
        result: Result<(), FetchFault>,
    },
    /// Answers [`Output::Checkpoint`].
    Checkpointed {
        /// The blob.
        digest: Digest,
        /// Whether the checkpoint is on disk.
        result: Result<(), LocalFault>,
    },
    /// Answers [`Output::Verify`].
    Verified {
        /// The blob.
        digest: Digest,
        /// Whether the bytes hash to the digest.
        result: Result<bool, LocalFault>,
    },
    /// Answers [`Output::Commit`].
    Committed {
        /// The blob.
        digest: Digest,
        /// Whether it is in the store now.
        result: Result<(), LocalFault>,
    },
    /// Answers [`Output::Shut`].
    Shut {
        /// The blob.
        digest: Digest,
    },
    /// The list of members has changed. Until the first one, and with nobody else on it, the node works alone.
    Roster(Arc<Roster>),
    /// A member has said something.
    Heard {
        /// Who; the driver vouches for it.
        from: PeerId,
        /// What.
        message: Message,
    },
    /// The connections to a member broke, or none could be made.
    PeerLost {
        /// The member.
        peer: PeerId,
    },
    /// A piece has come from a member. Its bytes are kept aside until [`Output::Place`] or [`Output::Discard`] says what
    /// becomes of them.
    Arrived {
        /// From whom.
        from: PeerId,
        /// The blob.
        digest: Digest,
        /// The piece.
        piece: u32,
        /// Hash of the bytes that came.
        hash: PieceHash,
        /// Pieces that wait behind it, as the sender said ([`Send::backlog`]).
        backlog: u32,
    },
    /// A piece that was fetched upstream lies in its place in full. Told after the [`Input::Progress`] that completed it.
    Hashed {
        /// The blob.
        digest: Digest,
        /// The piece.
        piece: u32,
        /// Hash of its bytes.
        hash: PieceHash,
    },
    /// Answers [`Output::Upload`]: the piece has left, or the stream is gone.
    Uploaded {
        /// Which.
        upload: UploadId,
    },
    /// Answers [`Output::Inspect`].
    Inspected {
        /// The blob.
        digest: Digest,
        /// Its size in bytes if it is in the store, whole.
        size: Option<u64>,
    },
    /// Answers [`Output::List`], perhaps after some [`Input::Listing`].
    Listed {
        /// The blob.
        digest: Digest,
        /// Its size in bytes, and the hashes of its pieces in order; `None` if it is not in the store or cannot be read.
        found: Option<(u64, Vec<PieceHash>)>,
    },
    /// The store has this blob: told for each when the agent starts.
    Stored {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob has left the store.
    Evicted {
        /// The blob.
        digest: Digest,
    },
    /// These members shall have these blobs. Ends with one [`Output::Warmed`]. Told again of a set that is under way, the
    /// new targets are added and what has failed is tried again; of one that is over, it begins again where it was.
    Warm {
        /// The set. Whoever takes over from another node gives the same name for the same blobs and targets.
        set: WarmSetId,
        /// The blobs, with their sizes in bytes; at most [`WARM_BLOBS_MAX`](crate::limits::WARM_BLOBS_MAX).
        blobs: Vec<(Digest, u64)>,
        /// Where they may be fetched.
        scope: Scope,
        /// The members, this node only if it is named.
        targets: Vec<PeerId>,
        /// Time after which whoever is not ready has failed; at most
        /// [`WARM_DEADLINE_MAX`](crate::limits::WARM_DEADLINE_MAX).
        deadline: Duration,
        /// Until when each of them shall keep the blobs, in seconds since 1970; 0: as long as any other blob. The engine
        /// compares it with other such times only.
        keep_until: u64,
        /// How fast it may come. Told again, the latest word counts.
        pace: Pace,
    },
    /// Nobody wants the set any more. What has come stays on disk.
    WarmCancel {
        /// The set.
        set: WarmSetId,
    },
    /// Time has passed ([`Engine::next_wakeup`](crate::Engine::next_wakeup)).
    Wakeup,
    /// The agent ends: nothing new is begun, what nobody waits for is put down.
    Drain,
    /// The deadline of the drain: everybody is cut off, progress is kept.
    Stop,
    /// A piece that came from a member could not be kept on this node's disk.
    Unkept {
        /// The blob.
        digest: Digest,
        /// Why.
        fault: LocalFault,
    },
    /// No stream could be opened at a member: its port for pieces cannot be reached. Its messages are another matter.
    PortClosed {
        /// The member.
        peer: PeerId,
    },
    /// A member has answered a probe of the membership: see [`membership::Output::Answered`](crate::membership::Output::Answered).
    Answered {
        /// The member.
        peer: PeerId,
        /// Time from the probe to its answer.
        after: Duration,
    },
    /// A member was asked something beside the engine, and has not answered at once. Whether it still lives,
    /// [`Swarm::says_nothing`](crate::swarm::Swarm::says_nothing) tells.
    Awaited {
        /// The member.
        peer: PeerId,
        /// What it was asked about: a manifest, or what stands for a tag.
        about: Digest,
    },
    /// A part of what [`Output::List`] asks for, [`LISTED_AT_ONCE`](crate::limits::LISTED_AT_ONCE) hashes or less, while the rest is still
    /// being taken. Parts come in order, and [`Input::Listed`] has all of them.
    Listing {
        /// The blob.
        digest: Digest,
        /// Number of the first piece.
        first: u32,
        /// The hashes of it and of those after it.
        hashes: Vec<PieceHash>,
    },
}

/// What the store has of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Found {
    /// All of it, verified.
    Whole,
    /// A part of it; the driver has opened it for writing.
    Partial {
        /// Size of the whole blob in bytes.
        size: u64,
        /// The bytes that are on disk.
        have: ByteRanges,
    },
    /// Nothing.
    Absent,
    /// The store cannot tell.
    Broken(LocalFault),
}

/// Who is to blame for a transfer's end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FetchFault {
    /// The source.
    Source(SourceFault),
    /// This node's disk.
    Local(LocalFault),
    /// Nobody: the engine cancelled it.
    Cancelled,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
pub enum Output {
    /// Effect: look the blob up in the store, and open what there is of it.
    Look {
        /// The blob.
        digest: Digest,
    },
    /// Effect: ask upstream how big the blob is.
    Size {
        /// The blob.
        digest: Digest,
        /// Where to ask.
        scope: Scope,
    },
    /// Effect: make a place for the bytes.
    Prepare {
        /// The blob.
        digest: Digest,
        /// Size in bytes; `None` if only the end of the transfer will tell.
        size: Option<u64>,
    },
    /// Effect: fetch bytes from upstream and write them to their place, in order.
    Fetch {
        /// New name of this transfer.
        fetch: FetchId,
        /// The blob.
        digest: Digest,
        /// Where to ask.
        scope: Scope,
        /// First byte.
        start: u64,
        /// End, exclusive; `None` for a blob of unknown size.
        end: Option<u64>,
        /// Why it is sent: counted, and said in the log.
        reason: FetchReason,
    },
    /// Let a running transfer end earlier: somebody else brings the rest.
    Trim {
        /// The transfer.
        fetch: FetchId,
        /// New end, exclusive.
        end: u64,
    },
    /// End a running transfer now; it still answers with [`Input::FetchEnded`].
    Cancel {
        /// The transfer.
        fetch: FetchId,
    },
    /// Effect: make what has been received survive a power cut.
    Checkpoint {
        /// The blob.
        digest: Digest,
        /// The bytes to vouch for.
        have: ByteRanges,
    },
    /// Effect: compare the hash of all bytes with the digest.
    Verify {
        /// The blob.
        digest: Digest,
    },
    /// Effect: put the verified blob into the store.
    Commit {
        /// The blob.
        digest: Digest,
    },
    /// Effect: close the blob's files. With `keep`, the bytes stay for a later flight; otherwise they go.
    Shut {
        /// The blob.
        digest: Digest,
        /// Bytes to vouch for.
        keep: Option<ByteRanges>,
    },
    /// Tell a member something. Lost messages are made up for by time; a member that cannot be reached is told of by
    /// [`Input::PeerLost`].
    Tell {
        /// Whom.
        to: PeerId,
        /// What.
        message: Message,
    },
    /// Put the bytes of a piece that came from a member into their place: they may be read from now on.
    Place {
        /// The blob.
        digest: Digest,
        /// The piece.
        piece: u32,
        /// Whose bytes.
        from: PeerId,
    },
    /// Throw the bytes of a piece that came from a member away: they are wrong, or there already.
    Discard {
        /// The blob.
        digest: Digest,
        /// The piece.
        piece: u32,
        /// Whose bytes.
        from: PeerId,
    },
    /// Effect: send a piece on the stream that a member has opened with [`Message::Subscribe`].
    Upload(Send),
    /// Effect: is this blob in the store, whole?
    Inspect {
        /// The blob.
        digest: Digest,
    },
    /// Effect: the hashes of the pieces of a blob in the store, which keeps them beside it or takes them now.
    List {
        /// The blob.
        digest: Digest,
    },
    /// The first bytes for a ticket are there (or its range is empty): answer the client.
    Serve {
        /// The request.
        ticket: TicketId,
        /// Size of the whole blob in bytes.
        size: u64,
        /// First byte of the answer.
        start: u64,
        /// End of the answer, exclusive.
        end: u64,
    },
    /// The ticket's bytes up to `to` may be sent.
    Ready {
        /// The request.
        ticket: TicketId,
        /// Offset in the blob, exclusive.
        to: u64,
    },
    /// The ticket ends; the engine forgets it.
    End {
        /// The request.
        ticket: TicketId,
        /// How.
        outcome: Outcome,
    },
    /// A blob of a warm set is in the store, and shall stay there for a while. Told of each that this node itself was
    /// asked to have, and again when it shall stay longer.
    Keep {
        /// The blob.
        digest: Digest,
        /// Until when, in seconds since 1970.
        until: u64,
    },
    /// How fast the bytes of a blob may come from now on. Told of flights that nothing but warm sets wants, each time it
    /// changes; without a pace, as fast as they come.
    Pace {
        /// The blob.
        digest: Digest,
        /// The set, whose blobs share [`Pace::per_node`] on this node, and the pace; its [`Pace::upstream`] is what this
        /// blob may take of the set's.
        pace: Option<(WarmSetId, Pace)>,
    },
    /// A set that this node was told to warm moves on. Not more often than each
    /// [`WARM_REPORT_PAUSE`](crate::limits::WARM_REPORT_PAUSE).
    Warming {
        /// The set.
        set: WarmSetId,
        /// How far it is.
        tally: WarmTally,
    },
    /// Answers [`Input::Warm`]: every member is ready or has failed.
    Warmed {
        /// The set.
        set: WarmSetId,
        /// How it ended.
        tally: WarmTally,
    },
}

/// How far a warm set is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode)]
pub struct WarmTally {
    /// Members that have all blobs.
    pub ready: usize,
    /// Members that were asked for.
    pub of: usize,
    /// Members that are not going to be ready.
    pub failed: usize,
    /// Some of them and why, by name; at most [`WARM_FAILURES_MAX`](crate::limits::WARM_FAILURES_MAX).
    pub failures: Vec<(PeerId, WarmFault)>,
    /// Bytes that are there, on all members together. An estimate until the end.
    pub bytes: u64,
    /// Bytes of all blobs on all members.
    pub bytes_of: u64,
}

/// Why a transfer is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum FetchReason {
    /// The first for these bytes.
    First,
    /// An earlier one failed before it brought anything.
    Retry,
    /// An earlier one broke in the middle.
    Resume,
}

/// How a ticket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum Outcome {
    /// All its bytes are ready.
    Delivered,
    /// The whole blob is in the store: read it there.
    Stored,
    /// The store cannot be used: go on straight from upstream, from the last byte that was ready.
    PassThrough,
    /// The range lies outside the blob.
    Unsatisfiable {
        /// Size of the blob in bytes.
        size: u64,
    },
    /// It cannot be had.
    Failed(PullFault),
}

/// Why a blob cannot be had, after everything has been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode)]
pub enum PullFault {
    /// No source has it.
    Unknown,
    /// The sources that were asked deny access.
    Denied,
    /// Sources failed, were rate limited or broke off too often.
    Exhausted,
    /// The bytes do not match the digest.
    WrongContent,
    /// The request goes round in a circle.
    Loop,
    /// The agent is shutting down.
    Draining,
}
