//! When silence says something: of everybody, of a home, of a member that is to fetch.

use std::time::Duration;

use super::JOIN_TIMEOUT;

/// Time without a word from anybody after a node has asked a home, after which it hails others.
pub const DEAF_DOUBT: Duration = Duration::from_millis(150);

/// Members that it hails.
pub const HAILED_MAX: usize = 5;

/// Time without a word from anybody after a node has asked a home, after which it fetches by itself: this, or so many times
/// what the slowest of the last answers took, unless that is more than the most.
pub const DEAF_AFTER: Duration = Duration::from_millis(400);

/// See [`DEAF_AFTER`].
pub const DEAF_AFTER_ANSWERS: u32 = 8;

/// See [`DEAF_AFTER`]. As long as the first home has to answer.
pub const DEAF_AFTER_MAX: Duration = JOIN_TIMEOUT;

/// Answers to the membership's probes that count as the last ones: as many, from so long.
pub const ANSWERS_REMEMBERED_MAX: usize = 16;

/// See [`ANSWERS_REMEMBERED_MAX`].
pub const ANSWERS_REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Time after a silence of everybody in which answers may have waited for the network: what was lost is repeated after pauses that double.
pub const HEALING: Duration = Duration::from_secs(2);

/// How long a node remembers that it was late itself: what it waits for may take as many times longer as answers do.
pub const LATENESS_REMEMBERED: Duration = Duration::from_secs(2);

/// A node that is less late than this is in time.
pub const LATENESS_MIN: Duration = Duration::from_millis(1);

/// Times that a node remembers at which it was late, each less than the one before.
pub const LATENESSES_MAX: usize = 16;

/// How much longer a home may take at most because of that.
pub const EXCUSE_MAX: Duration = Duration::from_secs(4);

/// Time without a word from a home that was asked, after which it is hailed, and those that would be home without it. A home that
/// has to ask others first takes [`HOME_RECOVERY`](super::HOME_RECOVERY).
pub const HOME_DOUBT: Duration = Duration::from_millis(200);

/// Members that are hailed because a home says nothing: those that would be home without it.
pub const HEIRS_HAILED_MAX: usize = 8;

/// Of those that are hailed so many may be silent for each that answers. If more are, all are busy, or this node is cut off.
pub const SILENT_PER_ANSWER_MAX: usize = 4;

/// Answers of hailed members that are counted.
pub const HAIL_ANSWERS_MAX: usize = 64;

/// Pause between two looks at members that were told to fetch something and have not begun to: do they still live?
pub const HOLDERS_PAUSE: Duration = Duration::from_millis(500);

/// Pause between two questions of a home to the one in whose place it is asked: are you back?
pub const STAND_IN_PAUSE: Duration = Duration::from_millis(500);
