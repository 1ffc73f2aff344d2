//! Why the object store did not answer: the operation, the object and the cause. No text of a server's error is passed
//! on but its code, and no URL: both may hold credentials.

use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use shoal_engine::SourceFault;
use shoal_engine::breaker::Failure;

use super::limits::CAUSE_CHARS_MAX;
use crate::node::Cause;

/// What went wrong, doing what, with which object.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {fault}")]
pub struct TierError {
    operation: &'static str,
    object: String,
    #[source]
    fault: Box<TierFault>,
}

/// What went wrong. Nothing of it is worse than a miss for whoever pulls.
#[derive(Debug, thiserror::Error)]
pub enum TierFault {
    /// The store has failed lately and is not asked. Not its answer, and not its fault this time.
    #[error("the store has failed and is left alone for another {left:?}")]
    LeftAlone {
        /// How much longer.
        left: Duration,
    },
    /// No connection: name look-up, TCP, TLS.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// Access was denied.
    #[error("access denied ({0}); for a missing object too, if the credentials may not list the bucket")]
    Denied(String),
    /// The store answered with an error, or its answer broke off, or the directory could not be used.
    #[error("{0}")]
    Failed(String),
    /// No byte within the idle timeout.
    #[error("stalled after {received} bytes: nothing came within {idle:?}")]
    Stalled {
        /// Bytes that had come.
        received: u64,
        /// The timeout.
        idle: Duration,
    },
    /// The object ended before what was asked for had come.
    #[error("ended after {received} of {expected} bytes")]
    Short {
        /// Bytes that had come.
        received: u64,
        /// Bytes that were asked for.
        expected: u64,
    },
    /// The object's size is not the one its marker says: an upload of somebody else broke off. It is a miss from now on,
    /// until it is replaced.
    #[error("has {found} bytes, not {expected}")]
    WrongSize {
        /// What the marker says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The range lies outside the blob. Whoever asked is to blame.
    #[error("has {size} bytes, asked for {start}..{end}")]
    OutOfRange {
        /// Size of the blob.
        size: u64,
        /// First byte that was asked for.
        start: u64,
        /// Byte behind the last one that was asked for.
        end: u64,
    },
    /// Other bytes were sent than were asked for.
    #[error("asked for {asked:?}, got {got:?}")]
    WrongRange {
        /// What was asked for.
        asked: std::ops::Range<u64>,
        /// What the answer says it has.
        got: std::ops::Range<u64>,
    },
    /// More than the caller takes.
    #[error("has {size} bytes, more than {limit}")]
    TooLarge {
        /// Size of the blob.
        size: u64,
        /// What the caller takes.
        limit: u64,
    },
    /// The offered content cannot be read on this node. The store is not to blame.
    #[error("cannot read what was to be uploaded")]
    Content(#[source] std::io::Error),
    /// The credentials file cannot be used. The operator has to help.
    #[error("{0}")]
    Credentials(String),
    /// The directory is not there.
    #[error("the directory cannot be used: {0}")]
    Directory(String),
}

impl TierError {
    pub(super) fn new(operation: &'static str, object: impl ToString, fault: TierFault) -> Self {
        TierError { operation, object: object.to_string(), fault: Box::new(fault) }
    }

    /// What went wrong.
    pub fn fault(&self) -> &TierFault {
        &self.fault
    }

    /// What it means for a walk over the sources: never the end of it.
    pub fn source_fault(&self) -> SourceFault {
        match *self.fault {
            TierFault::Stalled { .. } | TierFault::Short { .. } => SourceFault::Interrupted,
            TierFault::WrongSize { .. } | TierFault::WrongRange { .. } | TierFault::TooLarge { .. } => {
                SourceFault::Protocol
            }
            TierFault::LeftAlone { .. }
            | TierFault::Connect(_)
            | TierFault::Late(_)
            | TierFault::Denied(_)
            | TierFault::Failed(_)
            | TierFault::OutOfRange { .. }
            | TierFault::Content(_)
            | TierFault::Credentials(_)
            | TierFault::Directory(_) => SourceFault::Transient,
        }
    }

    /// The whole story in one line, for the `detail` of an error and for the log.
    pub fn cause(&self) -> Cause {
        Cause { source: "the object store".into(), reason: self.to_string() }
    }
}

impl TierFault {
    /// How the store failed, if it is the store that failed.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self {
            TierFault::Connect(_)
            | TierFault::Late(_)
            | TierFault::Stalled { .. }
            | TierFault::Credentials(_)
            | TierFault::Directory(_) => Some(Failure::Absent),
            TierFault::Denied(_)
            | TierFault::Failed(_)
            | TierFault::Short { .. }
            | TierFault::WrongRange { .. } => Some(Failure::Error),
            TierFault::LeftAlone { .. }
            | TierFault::WrongSize { .. }
            | TierFault::OutOfRange { .. }
            | TierFault::TooLarge { .. }
            | TierFault::Content(_) => None,
        }
    }
}

/// The fault behind a library's error; `None` if the object is not there.
pub(super) fn fault_of(error: &object_store::Error) -> Option<TierFault> {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => None,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            Some(TierFault::Denied(deepest(error)))
        }
        other => Some(match http_kind(other) {
            Some(HttpErrorKind::Connect) => TierFault::Connect(deepest(other)),
            _ => TierFault::Failed(deepest(other)),
        }),
    }
}

fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    chain(error).find_map(|error| error.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// The text of the innermost cause. The layers above it repeat it, with the URL: the signed one, for some stores.
fn deepest(error: &object_store::Error) -> String {
    let text = chain(error).last().map(ToString::to_string).unwrap_or_default();
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(CAUSE_CHARS_MAX).collect::<String>().trim_end_matches([' ', ':']).to_owned()
}

fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}
