//! Control messages between members, and how they are written down.
//!
//! A frame is one byte of version, then the message in bincode's standard configuration (little endian, integers of
//! variable length). Frames are bounded by [`FRAME_BYTES_MAX`], in both directions. What a message means stands at its
//! variant; the golden bytes at the end of this file pin the form. Bytes of blobs are never in a message: a
//! [`Message::Subscribe`] opens a stream on which the pieces follow.

use std::sync::Arc;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::{BorrowDecoder, Decoder, read::Reader};
use bincode::enc::{Encoder, write::SizeWriter, write::Writer};
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use crate::ids::{Algorithm, Digest, WarmSetId};
use crate::io::PullFault;
use crate::peer::PeerId;
use crate::pieces::{BLOB_BYTES_MAX, piece_count};

pub use hashes::{Forged, Hashes, Signature, check, seal};

mod hashes;

/// Version of the frames. A member of another version is not talked to; it learns so when it is admitted.
pub const WIRE_VERSION: u8 = 1;

/// Largest frame, bytes: a list of 16,384 piece hashes and room.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// BLAKE3 hash of one piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PieceHash(pub [u8; 32]);

impl std::fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A run of pieces, `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Run {
    /// The first piece.
    pub first: u32,
    /// The piece behind the last.
    pub end: u32,
}

impl Run {
    /// Whether a piece is in the run.
    pub const fn contains(self, piece: u32) -> bool {
        self.first <= piece && piece < self.end
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.first >= self.end
    }
}

/// Whether these runs are at most `most`, of a blob that can have `size` bytes, and name each of its pieces about once: nobody has to walk
/// over more because another member says so.
pub fn are_fit(runs: &[Run], size: u64, most: usize) -> bool {
    if size > BLOB_BYTES_MAX {
        return false;
    }
    let pieces = piece_count(size) as u32;
    let named: u64 = runs.iter().map(|run| u64::from(run.end.saturating_sub(run.first))).sum();
    runs.len() <= most && runs.iter().all(|run| run.end <= pieces) && named <= 2 * u64::from(pieces)
}

/// Name of a lease: unique for a home, and `epoch` tells homes and their lives apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct LeaseId {
    /// When the home opened the blob's book, on its own clock: only compared for equality.
    pub epoch: u64,
    /// Counts the leases of one book.
    pub number: u32,
}

/// A piece's hash and the piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// The piece.
    pub piece: u32,
    /// Its hash.
    pub hash: PieceHash,
}

/// Where a member gets pieces of one class from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Feed {
    /// Who sends them.
    pub peer: PeerId,
    /// Which pieces.
    pub run: Run,
}

/// Who feeds a member with one class.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClassFeeds {
    /// The class.
    pub class: u8,
    /// Its feeds; none while pieces of the class come from nowhere yet.
    pub feeds: Vec<Feed>,
}

/// Why a member wants another feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Complaint {
    /// It sends less than what it has.
    Slow,
    /// It sends nothing.
    Silent,
    /// It cannot be reached.
    Lost,
    /// It refused.
    Refused,
    /// It sent bytes that do not match the piece list.
    Wrong,
}

/// Why a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaseEnd {
    /// Everything of it has arrived.
    Done,
    /// The sources failed; another member may have more luck.
    Failed,
    /// The sources deny access or do not have it, for this member.
    Denied,
    /// The member gives it back: nobody there wants the blob any more.
    GivenUp,
}

/// Why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The member does not have the blob and is not receiving it.
    Unknown,
    /// It has as many subscriptions as it can serve.
    Busy,
}

/// Why a member is not warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum WarmFault {
    /// No source has a blob.
    Unknown,
    /// The sources deny access to a blob.
    Denied,
    /// The sources failed, or broke off too often.
    Exhausted,
    /// The bytes do not match the digest.
    WrongContent,
    /// The member's store cannot take a blob.
    Store,
    /// The member is shutting down.
    Draining,
    /// It works on as many sets as it can, or the set is too large.
    Busy,
    /// The order makes no sense to it.
    Malformed,
    /// It is no member, or cannot be reached.
    Unreachable,
    /// It has not answered, or not for too long.
    Silent,
    /// The deadline came first.
    Deadline,
    /// The set was cancelled.
    Cancelled,
}

impl WarmFault {
    /// Whether the member is only away, or has no place for the set just now: it may come back and be ready.
    pub fn may_pass(self) -> bool {
        matches!(self, WarmFault::Draining | WarmFault::Busy | WarmFault::Unreachable | WarmFault::Silent)
    }
}

impl From<PullFault> for WarmFault {
    fn from(fault: PullFault) -> Self {
        match fault {
            PullFault::Unknown => WarmFault::Unknown,
            PullFault::Denied => WarmFault::Denied,
            PullFault::Exhausted | PullFault::Loop => WarmFault::Exhausted,
            PullFault::WrongContent => WarmFault::WrongContent,
            PullFault::Draining => WarmFault::Draining,
        }
    }
}

/// An order to warm, see [`Message::Warm`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WarmOrder {
    /// The set. Its name stands for its blobs: the first order with it says which.
    pub set: WarmSetId,
    /// Which beginning of the set this belongs to. With a new one, what has failed is tried again.
    pub run: u64,
    /// Number that the sender has given this order; reports name it.
    pub order: u32,
    /// The blobs, with their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Registry where they may be fetched.
    pub registry: String,
    /// Repository inside it.
    pub repository: String,
    /// Members that the receiver passes the order on to.
    pub targets: Vec<PeerId>,
    /// Time that is left, milliseconds.
    pub deadline_ms: u64,
    /// Until when the blobs shall be kept, in seconds since 1970; 0: as long as any other.
    pub keep_until: u64,
}

/// How fast a warm set may come. It holds for flights that nothing but warm sets wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Pace {
    /// Bytes per second that all members together receive from upstream; 0: as many as come.
    pub upstream: u64,
    /// Bytes per second that each member receives, from anybody; 0: as many as come.
    pub per_node: u64,
}

impl Pace {
    /// As fast as it comes.
    pub const FREE: Pace = Pace { upstream: 0, per_node: 0 };
}

/// What one member tells another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// A packet of the membership protocol; opaque here.
    Swim(Vec<u8>),
    /// To a home: I am receiving this blob, tell me from whom, and count on me as a source.
    Join {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Pieces that the member has.
        have: Vec<Run>,
        /// Leases that it works on.
        leases: Vec<(LeaseId, Run)>,
        /// Whether it has been in the book of another home, or of an earlier life of this one, before.
        again: bool,
        /// Whether it asks this home because those before it did not answer.
        insists: bool,
        /// Who feeds it now, by the word of the home before.
        feeds: Vec<ClassFeeds>,
    },
    /// From the home: you are in the book; this is who feeds you. Leases come separately.
    Welcome {
        /// The blob.
        digest: Digest,
        /// Number of classes that the blob's pieces are dealt to.
        classes: u8,
        /// The list whose hashes count, see [`Hashes::list`].
        list: u64,
        /// Feeds for the classes.
        feeds: Vec<ClassFeeds>,
    },
    /// The asked one does not keep this book; `home` does, as far as it knows.
    NotHome {
        /// The blob.
        digest: Digest,
        /// Who does.
        home: PeerId,
    },
    /// From the home: fetch these pieces upstream.
    Lease {
        /// The blob.
        digest: Digest,
        /// Name of the lease.
        lease: LeaseId,
        /// The pieces.
        run: Run,
    },
    /// From the home: the lease ends earlier, at once if `end` lies behind what has arrived.
    Trim {
        /// The blob.
        digest: Digest,
        /// The lease.
        lease: LeaseId,
        /// Its new end.
        end: u32,
    },
    /// To the home: pieces of the lease have arrived, with these hashes. Renews the lease.
    Report {
        /// The blob.
        digest: Digest,
        /// The lease.
        lease: LeaseId,
        /// Hashes of the pieces.
        entries: Vec<Entry>,
        /// Whether the member gains clearly less than what is new to all, or its readers take less than it has.
        busy: bool,
    },
    /// To the home: the lease is over.
    Over {
        /// The blob.
        digest: Digest,
        /// The lease.
        lease: LeaseId,
        /// First piece of it that has not arrived.
        at: u32,
        /// How it ended.
        end: LeaseEnd,
    },
    /// Hashes of pieces, signed by the home: from itself, or relayed as they are down the tree of class 0.
    Hashes(Arc<Hashes>),
    /// To the home: send me the hashes of these pieces yourself.
    Prove {
        /// The blob.
        digest: Digest,
        /// The pieces.
        runs: Vec<Run>,
    },
    /// From the home, to a member that has the blob: report the hashes of its pieces.
    List {
        /// The blob.
        digest: Digest,
    },
    /// Opens a stream: send me these pieces of this class, each as soon as you have it.
    Subscribe {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Number of classes.
        classes: u8,
        /// The class.
        class: u8,
        /// The pieces that are wanted; those of other classes are not meant.
        runs: Vec<Run>,
        /// A run that covers the pieces, of any class, whose hashes the sender lacks. The class that relays sends what it
        /// knows of them first.
        unlisted: Run,
    },
    /// Closes that stream.
    Unsubscribe {
        /// The blob.
        digest: Digest,
        /// The class.
        class: u8,
    },
    /// The stream is not opened.
    Refuse {
        /// The blob.
        digest: Digest,
        /// The class.
        class: u8,
        /// Why.
        reason: Refusal,
    },
    /// From the home: from now on, these are the feeds of these classes. With none it is a question: who does not receive the
    /// blob by this home's book (any more) says so.
    Feeds {
        /// The blob.
        digest: Digest,
        /// The classes that change.
        feeds: Vec<ClassFeeds>,
    },
    /// To the home: I need another feed. About the sender itself: I receive slowly, nobody should be fed by me.
    Complain {
        /// The blob.
        digest: Digest,
        /// For this class.
        class: u8,
        /// Instead of this one.
        about: PeerId,
        /// Because of this.
        why: Complaint,
        /// Pieces of the class that are missing and that this feed was to send.
        missing: Vec<Run>,
    },
    /// To the home: I have all of it, verified: the pieces match their list.
    Whole {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// To the home: all pieces match the list, and the whole does not match the digest.
    Mismatch {
        /// The blob.
        digest: Digest,
    },
    /// From the home: forget the list of hashes and every piece that was checked against it.
    Restart {
        /// The blob.
        digest: Digest,
    },
    /// To the home: I do not want it any more.
    Leave {
        /// The blob.
        digest: Digest,
    },
    /// To a home: I have these blobs, with their sizes in bytes.
    Announce {
        /// The blobs.
        blobs: Vec<(Digest, u64)>,
    },
    /// To a home: I do not have these any more.
    Withdraw {
        /// The blobs.
        blobs: Vec<Digest>,
    },
    /// From the home: those who were asked to fetch it could not.
    Alone {
        /// The blob.
        digest: Digest,
        /// How it ended for them.
        end: LeaseEnd,
    },
    /// Receive these blobs, pass the order on to these members, and report until all are ready or have failed. The same
    /// order once more is a question: what has become of it?
    Warm(WarmOrder),
    /// Answers [`Message::Warm`] at once, and again at a bounded rate. All of it stands for the whole order, so that a
    /// report that is lost is made up for by the next.
    WarmProgress {
        /// The set.
        set: WarmSetId,
        /// The order.
        order: u32,
        /// A bit for each member that is ready, lowest bit first: the sender's own, then those of the targets in the
        /// order's succession.
        ready: Vec<u8>,
        /// Members that are not going to be, by the same numbers, and why.
        failed: Vec<(u32, WarmFault)>,
        /// Bytes that those have who are not ready.
        bytes: u64,
    },
    /// Answers [`Message::Warm`]: the sender neither receives the blobs nor passes the order on.
    WarmRefuse {
        /// The set.
        set: WarmSetId,
        /// The order.
        order: u32,
        /// Why.
        why: WarmFault,
    },
    /// Stop warming this set, and tell those whom the order was passed on to.
    WarmCancel {
        /// The set.
        set: WarmSetId,
    },
    /// From a home to the one that keeps the book from now on: these members have the blob.
    Holders {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Members.
        holders: Vec<PeerId>,
    },
    /// To those that would be home without the sender: it opens the book of a blob; what do they know of it?
    Inquire {
        /// The blob.
        digest: Digest,
    },
    /// Answers [`Message::Inquire`]; also unasked, to a home that another one is better than.
    Known {
        /// The blob.
        digest: Digest,
        /// Its size in bytes, if somebody has it.
        size: u64,
        /// Members that have it.
        holders: Vec<PeerId>,
        /// Whether members that receive it have been sent to the asker.
        receiving: bool,
        /// A home that is better than the asker.
        better: Option<PeerId>,
    },
    /// How fast a set may come in a run: follows each [`Message::Warm`] with it. Another pace is another run. Who does not
    /// understand it receives at full speed.
    WarmPace {
        /// The set.
        set: WarmSetId,
        /// The run that it is for; it says nothing about others.
        run: u64,
        /// How fast.
        pace: Pace,
    },
    /// To the home, to feeds and to readers: I live and receive this blob slowly on purpose. Told again and again as long as
    /// that holds.
    Held {
        /// The blob.
        digest: Digest,
    },
    /// Answers [`Message::Held`] of a feed: somebody waits for this blob here or behind me, so do not hold back. It holds until
    /// the feed has the blob, and is passed on to its own feeds.
    Hurry {
        /// The blob.
        digest: Digest,
    },
    /// Is anybody there? Sent to a few members by whoever asked a home and has heard nothing from anybody since.
    Hail,
    /// Answers [`Message::Hail`].
    Here,
}

type Config = Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();

/// Why a frame is not a message. The sender is at fault; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// There is not even a version.
    #[error("the frame is empty")]
    Empty,
    /// The sender speaks another version.
    #[error("frame of version {0}, this member speaks {WIRE_VERSION}")]
    Version(u8),
    /// More than [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The bytes make no message.
    #[error("the frame's bytes are no message")]
    Malformed(#[source] Box<DecodeError>),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

impl Message {
    /// The frame.
    ///
    /// # Panics
    /// If the message is too long: whoever makes messages keeps to the bounds.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![WIRE_VERSION];
        bincode::encode_into_std_write(self, &mut frame, CONFIG).expect("a message of a bounded size");
        debug_assert!(frame.len() <= FRAME_BYTES_MAX);
        frame
    }

    /// Length of the frame in bytes.
    pub fn encoded_len(&self) -> usize {
        let mut size = SizeWriter::default();
        bincode::encode_into_writer(self, &mut size, CONFIG).expect("a message of a bounded size");
        1 + size.bytes_written
    }

    /// Reads a frame.
    pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(WireError::TooLong(frame.len()));
        }
        let (&version, body) = frame.split_first().ok_or(WireError::Empty)?;
        if version != WIRE_VERSION {
            return Err(WireError::Version(version));
        }
        let (message, read) =
            bincode::decode_from_slice(body, CONFIG).map_err(|e| WireError::Malformed(Box::new(e)))?;
        match body.len() - read {
            0 => Ok(message),
            more => Err(WireError::Trailing(more)),
        }
    }
}

impl Encode for Digest {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let algorithm: u8 = match self.algorithm() {
            Algorithm::Sha256 => 0,
            Algorithm::Sha512 => 1,
        };
        algorithm.encode(encoder)?;
        encoder.writer().write(self.hash())
    }
}

impl<C> Decode<C> for Digest {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let algorithm = match u8::decode(decoder)? {
            0 => Algorithm::Sha256,
            1 => Algorithm::Sha512,
            _ => return Err(DecodeError::Other("unknown digest algorithm")),
        };
        let mut hash = [0; 64];
        let hash = &mut hash[..algorithm.hash_len()];
        decoder.claim_bytes_read(hash.len())?;
        decoder.reader().read(hash)?;
        Ok(Digest::new(algorithm, hash))
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Digest {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Digest::decode(decoder)
    }
}

#[cfg(test)]
mod tests;
