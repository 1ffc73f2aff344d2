//! Bounds of the list of members: how many, how soon they are asked and told, and how long one may be silent.

use std::time::Duration;

/// Members that keep the book of one digest: two may be lost at once, and a third is rarely in the zone of both.
pub const HOMES_PER_DIGEST: usize = 3;

/// Members that are known at a time, those that are gone included. Three times the largest cluster that is planned for
/// (5,000); some 10 MiB.
pub const MEMBERS_MAX: usize = 16_384;

/// Members that are gone and remembered, so that nobody brings them back by old hearsay and a partition can heal.
/// Beyond that the ones that went first are forgotten.
pub const LOST_MAX: usize = 4096;

/// How long a member that is gone is remembered. A partition that lasts longer heals when discovery makes contact.
pub const LOST_REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// Pause between two looks through those that are gone, unless there are too many: one more minute is nothing to them.
pub const FORGET_PAUSE: Duration = Duration::from_secs(60);

/// Members that discovery made contact with and that have not answered yet.
pub const CONTACTS_MAX: usize = 16;

/// Times one of them is asked to let us in before it is given up: discovery will name it again if it is alive.
pub const CONTACT_TRIES_MAX: u32 = 10;

/// Pause between two attempts to find anybody, while this node knows nobody who is alive.
pub const ALONE_PAUSE: Duration = Duration::from_secs(1);

/// Members asked in one such attempt.
pub const ALONE_FANOUT: usize = 3;

/// Pause between two attempts to reach one of the members that are gone, while others are alive. Each node tries one,
/// so after a partition the first two halves of a cluster of any size meet within a few seconds, and a node that was
/// taken away for good costs each of the others six connection attempts a minute at most.
pub const LOST_PAUSE: Duration = Duration::from_secs(10);

/// Pause between two comparisons with members whose list differs from ours, at first; doubles while it does not help.
pub const SYNC_PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The same at most. A list of 1,000 members is 130 KB: 4 KB/s in the worst case.
pub const SYNC_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Pause between two whole lists that are sent to one member: it asks with 150 bytes and is answered with 130 KB. Shorter
/// than the pause after which an honest one asks again.
pub const LIST_PAUSE: Duration = Duration::from_millis(250);

/// A list that changed within this time differs from others' because the news is still on its way. Afterwards a few
/// others are shown that it has changed.
pub const SYNC_CALM: Duration = Duration::from_millis(300);

/// Pause between two lists of members that are handed out: a thousand that join in ten seconds cost two hundred lists,
/// not a thousand.
pub const ROSTER_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a membership packet. Packets travel over reliable streams, so no MTU counts; news of 200 members fit, and it
/// takes a 1 Gbit/s link a quarter of a millisecond.
pub const MEMBERSHIP_PACKET_BYTES_MAX: usize = 32 << 10;

/// One member is asked for a sign of life in each such period (SWIM's protocol period). All members ask, so however many
/// they are, a dead one is asked once in a period on average, and not for t periods with probability e^-t. Noticing a
/// death takes this, one period, [`SUSPICION`] and less than a second of gossip: more than 10 s once in 100 deaths that break no connection.
pub const PROBE_PERIOD: Duration = Duration::from_millis(750);

/// How long its answer may take before others are asked to try: a busy node answers within milliseconds, a connection
/// that has to be opened first takes some round trips, and on a full link a packet or its answer is sent once more.
pub const PROBE_ANSWER_MAX: Duration = Duration::from_millis(400);

/// How long a probe may stay unanswered by a member that is there, as others say, until it is connected to anew: long enough that
/// one that is not there is off the list by then, and that a busy one has answered.
pub const PROBE_UNANSWERED_MAX: Duration = Duration::from_secs(10);

/// Probes whose answers are timed. One is under way at a time, besides those to members whose connections broke.
pub const PROBES_TIMED_MAX: usize = 64;

/// Members that are asked to try, and to whom news of oneself goes at once.
pub const PROBE_HELPERS: usize = 3;

/// How long a suspected member has to object. Hearing of it and objecting take a second each, the rest is for a node
/// that has no CPU for a moment, and for links that pieces fill, where each word is lost now and then.
pub const SUSPICION: Duration = Duration::from_millis(4500);

/// Pause between two times that a suspected member is told so by whoever suspects it.
pub const SUSPICION_REPEAT: Duration = Duration::from_millis(500);

/// Pause between two rounds of news, while there are any.
pub const GOSSIP_PAUSE: Duration = Duration::from_millis(200);

/// Members told in one round.
pub const GOSSIP_FANOUT: usize = 3;

/// Times a member passes a piece of news on. Each reaches about this many copies: e^-8 of the members, one in 3,000,
/// miss it and find out by comparing lists.
pub const GOSSIP_COPIES: u8 = 8;

/// Members that news is told to in turn, once there are enough: those that something was last sent to or heard from.
pub const PARTNERS_MAX: usize = 64;

/// With fewer, news goes to members that may have to be connected to first. Each node has this many and is had by as many: in a
/// random graph with sixteen edges at each of its nodes no part is far from the rest.
pub const PARTNERS_MIN: usize = 8;

/// How long the list has to be calm before members are asked for a sign of life only to be connected to them: what happens when
/// many start together is urgent, and this is not.
pub const ACQUAINTANCE_CALM: Duration = Duration::from_secs(3);

/// Pause between two of them, on average. With as many that ask this node, four handshakes a second: half a percent of a core.
pub const ACQUAINTANCE_PAUSE: Duration = Duration::from_millis(500);

/// Members that are connected to in this way. In a larger cluster the others are met by probing, and when they are needed.
pub const ACQUAINTANCES_MAX: usize = 256;

/// Members of whom a sign of life is wanted because their connection broke, at a time. A node that loses its own link
/// loses all its connections; the others are found by probing.
pub const DOUBTS_MAX: usize = 128;

/// A node that hears nothing from anybody for this long doubts everybody, so that one whose link is cut knows that it is
/// alone in seconds, and not after as many probe periods as there are members. Each node's own probes are answered six
/// times in this time.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How late a node may come to its own appointments before what is missing counts as time in which it did not live. A
/// node with a processor is late by a few milliseconds; the deadlines of others' answers are three times as long.
pub const LATENESS_MAX: Duration = Duration::from_millis(100);

/// Addresses of one member: two networks, both families, and some to spare.
pub const ADDRESSES_MAX: usize = 8;

/// Bytes of the name of a zone.
pub const ZONE_BYTES_MAX: usize = 64;

/// Labels of one member.
pub const LABELS_MAX: usize = 16;

/// Bytes of a label's key: what Kubernetes allows with its prefix (253 + 1 + 63).
pub const LABEL_KEY_BYTES_MAX: usize = 317;

/// Bytes of a label's value: what Kubernetes allows.
pub const LABEL_VALUE_BYTES_MAX: usize = 63;

/// Bytes of the version of a member's software.
pub const VERSION_BYTES_MAX: usize = 32;

/// Bytes of all that is told of one member beside its name. The lists of 5,000 members are sent around whole.
pub const MEMBER_DETAILS_BYTES_MAX: usize = 1024;
