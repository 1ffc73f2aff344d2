//! The two families of faults the engine decides on. They never mix: a source's fault moves the walk to the next
//! source, a local fault moves the node to pass-through.

use std::time::Duration;

/// What an answer (or its absence) from upstream means. The one predicate of `contract.md` rows F2-F5 is
/// [`SourceFault::from_status`]; everything else in the program asks the variant, never a status code.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum SourceFault {
    /// 5xx, connect failure, header timeout. The same request may succeed later or elsewhere (F2).
    Transient,
    /// The body broke after some bytes: reset, stall, short body, HTTP/2 RST_STREAM or GOAWAY (F11). Go on at the
    /// byte reached.
    Interrupted,
    /// The source does not have it (F3).
    Missing,
    /// 429, with the time after which it may be asked again if it said so (F4).
    RateLimited {
        /// `Retry-After`, already bounded by the client.
        retry_after: Option<Duration>,
    },
    /// Any other 4xx: a configuration problem, not a source issue (F5). The status is kept for the message.
    Denied {
        /// HTTP status of the answer.
        status: u16,
    },
    /// The source answered with something that HTTP or the registry protocol does not allow: a wrong
    /// `Content-Range`, a body longer than announced, an oversized manifest, a redirect loop.
    Protocol,
    /// The bytes do not hash to the digest they were asked by.
    WrongContent,
    /// The request came back to an agent that had already forwarded it (C17).
    Loop,
    /// A mirror denied, and a denial ends the walk (F5): what the registry itself would say is not known. Whoever asked
    /// had better ask the registry.
    Stopped,
}

impl SourceFault {
    /// The documented predicate: what an HTTP status of a failed request means for the walk over the sources.
    pub const fn from_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            404 => SourceFault::Missing,
            429 => SourceFault::RateLimited { retry_after },
            508 => SourceFault::Loop,
            // 408 is the server's own timeout and 425 asks to come again: both are transient in all but number.
            408 | 425 => SourceFault::Transient,
            400..=499 => SourceFault::Denied { status },
            500..=599 => SourceFault::Transient,
            _ => SourceFault::Protocol,
        }
    }

    /// Whether the same source may give a better answer when it is asked again soon.
    pub const fn is_worth_a_retry(&self) -> bool {
        matches!(self, SourceFault::Transient | SourceFault::Interrupted)
    }
}

/// What failed on this node. Whoever waits is served straight from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum LocalFault {
    /// No space left, or the size cap cannot be met by evicting.
    StoreFull,
    /// The disk or the index answered with an error.
    StoreBroken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_means() {
        let denied = |status| SourceFault::Denied { status };
        let table = [
            (400, denied(400)),
            (401, denied(401)),
            (403, denied(403)),
            (404, SourceFault::Missing),
            (405, denied(405)),
            (408, SourceFault::Transient),
            (410, denied(410)),
            (429, SourceFault::RateLimited { retry_after: None }),
            (500, SourceFault::Transient),
            (502, SourceFault::Transient),
            (503, SourceFault::Transient),
            (504, SourceFault::Transient),
            (508, SourceFault::Loop),
            (302, SourceFault::Protocol),
        ];
        for (status, fault) in table {
            assert_eq!(SourceFault::from_status(status, None), fault, "{status}");
        }
    }
}
