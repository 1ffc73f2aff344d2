//! Every bound of the engine: a name, a unit and a reason.

mod membership;
mod silence;

use std::time::Duration;

pub use membership::*;
pub use silence::*;

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

/// The same of one registry, as far as manifests have set them in motion: one that is slow must not keep the images of others from
/// being fetched ahead. No image has as many layers.
pub const PREFETCH_FLIGHTS_PER_REGISTRY_MAX: usize = 128;

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

// ---- swarm ----

/// Members of a tree that are looked at to find a place. More would make a home slow when thousands join, and the
/// first ones are as good.
pub const FOREST_SEARCH_MAX: usize = 32;

/// Depth at which a tree is taken for broken: sixteen is what 10,000 members need when each second place is lost.
pub const FOREST_DEPTH_MAX: u32 = 64;

/// Leases of one blob that are worked on at a time: with 16 a registry that gives each connection 10 MB/s fills
/// 1 Gbit/s, and no registry takes 16 connections of a cluster amiss.
pub const LEASES_PER_BLOB_MAX: usize = 16;

/// Leases of other homes that a home lets go on at a time: four may have granted as many as they can. It remembers as many members.
pub const LEASES_ADOPTED_MAX: usize = 4 * LEASES_PER_BLOB_MAX;

/// Those of one member, as long as no piece comes of them: it has one at a time, and may have to tell of it again.
pub const LEASES_ADOPTED_IN_VAIN_MAX: u32 = 4;

/// Time without progress after which a lease is given to somebody else. Longer than a registry's pauses between two
/// packets, shorter than a runtime's patience.
pub const LEASE_STALL: Duration = Duration::from_millis(1500);

/// The same while bytes arrive and no piece is whole: where many share a link, or the registry is slow, one takes its time. Twice
/// as long each time that it was in vain, up to [`LEASE_PIECE_TIME_MAX`]: what nobody can do faster must be possible at all.
pub const LEASE_PIECE_TIME: Duration = Duration::from_secs(8);

/// A piece of the largest size at some kB/s.
pub const LEASE_PIECE_TIME_MAX: Duration = Duration::from_secs(64);

/// Pause between two signs of life of a lease holder whose bytes arrive while no piece is whole. Two of them fit into
/// [`LEASE_STALL`].
pub const LEASE_LIFE_PAUSE: Duration = Duration::from_millis(500);

/// The same before anything has arrived: a token, a redirect and a cold registry come first.
pub const LEASE_FIRST_BYTE_MAX: Duration = Duration::from_secs(8);

/// Time over which the rate of the leases is measured before their number changes.
pub const LEASE_MEASURE_TIME: Duration = Duration::from_millis(120);

/// Pieces that must have come in that time for the measure to mean something.
pub const LEASE_MEASURE_PIECES_MIN: u32 = 4;

/// Time from one change of the number of leases to the next: those who work on them have to see what became of the last one.
pub const LEASE_WIDTH_TIME_MIN: Duration = Duration::from_millis(280);

/// Pieces that must have come in between for the same reason, where that takes no longer than [`LEASE_WIDTH_TIME_MAX`].
pub const LEASE_WIDTH_PIECES_MIN: u32 = 12;

/// See [`LEASE_WIDTH_PIECES_MIN`].
pub const LEASE_WIDTH_TIME_MAX: Duration = Duration::from_millis(1500);

/// More leases are tried only if what is left takes longer than this: trying costs a request.
pub const LEASE_WIDEN_TIME_MIN: Duration = Duration::from_secs(3);

/// Twice as many leases stay only if they bring this factor.
pub const LEASE_WIDEN_GAIN_MIN: f64 = 1.2;

/// Shortest lease when there are several, in time.
pub const LEASE_RUN_TIME_MIN: Duration = Duration::from_secs(1);

/// Pieces that a lease still has when it is one too many: those that were fetched and not reported, and those on their way.
pub const LEASE_SURPLUS_PIECES: u32 = 8;

/// Members that are denied the blob upstream before the home says that everybody has to try alone.
pub const LEASE_DENIALS_MAX: u32 = 3;

/// Failures in a row, without a piece in between, before the home gives up: with the pauses between them half a
/// minute.
pub const LEASE_FAILURES_MAX: u32 = 7;

/// Pause before pieces that were lost with a member are fetched again: every root of a class tells of its own, and
/// together they are one request.
pub const LEASE_REGATHER: Duration = Duration::from_millis(50);

/// Time that lease holders have to tell a home that has taken over what they work on, before it grants anew.
pub const HOME_RECOVERY: Duration = Duration::from_millis(150);

/// Time that a home has to answer when another one is asked in its place: nothing is fetched by that one's book meanwhile. As
/// long again as those had patience who ask.
pub const FIRST_HOME_WAIT: Duration = JOIN_TIMEOUT;

/// Times that a home gives way to the one in whose place it is asked, for one blob. Members that come back nevertheless get no answer
/// there, or do not believe what they were told.
pub const GIVES_WAY_MAX: u32 = 2;

/// Members that a home asks what they know of a blob when it opens its book: those that were home while the cluster was
/// smaller. While it grows from one member to a thousand a digest has seven or eight homes, and the last few are enough.
pub const RIVALS_ASKED_MAX: usize = 6;

/// Time that a home waits for its list of members when somebody joins who is not on it: a node that has just started is known
/// to others some gossip before it knows them.
pub const BEHIND_WAIT: Duration = Duration::from_millis(500);

/// Better homes that those may name and that are asked in turn, for one book: as many as there may be in a cluster that grows,
/// and no more work for a member that makes them up.
pub const RIVALS_NAMED_MAX: usize = RIVALS_ASKED_MAX;

/// Members that have the blob that are enough to begin with: as many as classes have one each.
pub const HOLDERS_ENOUGH: usize = 8;

/// Time from the first of them in which a home that has just opened a book waits for the answers of the others.
pub const HOLDERS_WAIT: Duration = Duration::from_millis(30);

/// Time for which a better home that has made itself known is remembered; the list of members names it by then.
pub const BETTER_REMEMBERED: Duration = Duration::from_secs(10);

/// Members that have gone and are remembered by a home: others may still take them for better homes.
pub const DEPARTED_MAX: usize = 64;

/// Members that vouch for hashes of one blob: for a receiver the homes before the present one, for a home those whose
/// reports make up the list, which are few more than there are leases.
pub const VOUCHERS_MAX: usize = 255;

/// Entries of signed hashes that a node keeps to pass them on, for each piece of the blob. A lease holder's reports name
/// each piece once, and what was lost is told again in parts of [`ENTRIES_PER_RELAY_MAX`]. What is not kept, the home tells.
pub const SIGNED_ENTRIES_PER_PIECE_MAX: usize = 4;

/// Hashes that a home signs together when it tells what others know already: few, because relays pass on all of them if
/// one is news to them; so many that the signature is a fiftieth.
pub const ENTRIES_PER_RELAY_MAX: usize = 128;

/// Time in which pieces come and none counts before a home is not believed any more: a home that has been told something
/// wrong has put it right by then.
pub const LIST_PATIENCE: Duration = Duration::from_secs(4);

/// Hashes that a holder of a blob takes before it tells them: well within [`LIST_PATIENCE`], also of pieces on a slow disk.
pub const LISTED_AT_ONCE: usize = 64;

/// Pieces that must have come in that time and not matched: a single one says more of its sender.
pub const REFUSED_PIECES_MIN: u32 = 2;

/// Homes that a receiver stops to believe before it goes straight to upstream: with one home that lies, the next one
/// helps.
pub const HOMES_DOUBTED_MAX: usize = 1;

/// Times a home puts the list of a blob right, reporters being shut out each time, before everybody has to see for
/// themselves.
pub const LIST_REPAIRS_MAX: u32 = 4;

/// Complaints about wrong bytes after which pieces are fetched again, for one blob. Each root of a class has one or two
/// when the list is wrong.
pub const WRONG_REFETCHES_MAX: u32 = 128;

/// How long those who have told something wrong of a blob are remembered by its home.
pub const DISTRUST_TIME: Duration = Duration::from_secs(10 * 60);

/// Blobs of which somebody has told something wrong, that are remembered.
pub const DISTRUSTS_MAX: usize = 256;

/// Attempts of a node to receive a blob from members that end with wrong bytes before it fetches the blob itself.
pub const SPOILED_MAX: u32 = 2;

/// How long such attempts are remembered.
pub const SPOILED_TIME: Duration = Duration::from_secs(5 * 60);

/// Blobs with such attempts that are remembered.
pub const SPOILED_BLOBS_MAX: usize = 256;

/// Members that have left the list of members, and whose word as homes still counts: what they have signed is with those
/// that they fed.
pub const FORMER_HOMES_MAX: usize = 64;

/// Streams to other members that are open at a time: those of some hundred blobs.
pub const SUBSCRIPTIONS_MAX: usize = 4096;

/// Pieces that are sent at a time. Few, so that each leaves soon; enough that the time between one's end and the next
/// one's start is not lost.
pub const UPLOADS_MAX: usize = 6;

/// Pieces on the way to one member at a time: one travels while the next starts.
pub const UPLOADS_PER_PEER_MAX: usize = 4;

/// Pieces on the way to slow readers, beside the others.
pub const UPLOADS_TO_SLOW_MAX: usize = 4;

/// Pieces on the way to slow readers, those included whose readers turned out to be slow when the pieces had been begun: each
/// holds a stream until it is given up, and the others go on meanwhile.
pub const UPLOADS_DOUBTED_MAX: usize = 32;

/// A reader that takes this many times as long as the quickest is slow.
pub const SLOW_READER_FACTOR: f64 = 6.0;

/// Books with receivers that a home keeps at a time; a member that joins one more is told to go alone.
pub const BOOKS_MAX: usize = 4096;

/// Blobs that nobody receives and of which a home remembers who has them.
pub const KNOWN_MAX: usize = 1 << 20;

/// Members that a home remembers for a blob that nobody receives: any few of them can feed the next joiner.
pub const HOLDERS_PER_BLOB_MAX: usize = 64;

/// Hashes in one frame: half a megabyte of them.
pub const ENTRIES_PER_FRAME_MAX: usize = 8192;

/// Members that must have received wrong bytes from another before it is shut out of a blob: a single voice may itself
/// be the broken one.
pub const ACCUSERS_MIN: usize = 2;

/// Time that a home has to answer before the next one is asked, which has twice as long.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The same for a home to which the connection was lost, and that the next home believes to live: enough to connect anew.
pub const REJOIN_TIMEOUT: Duration = Duration::from_millis(400);

/// Time between two looks of an exchange at its feeds.
pub const EXCHANGE_CHECK: Duration = Duration::from_millis(100);

/// Time without a piece and without a word from the home after which it is asked whether it lives.
pub const HOME_SILENCE_MAX: Duration = Duration::from_secs(2);

/// Pause between two questions of a home to those that receive by its book: do you still? Of 1,000 receivers that costs 4 KB/s,
/// and none has to answer. Most transfers are over by then.
pub const ROLL_PAUSE: Duration = Duration::from_secs(15);

/// Members whose ports for pieces a node could not reach, with nothing from any other, after which it fetches a blob by itself.
pub const PORTS_CLOSED_MAX: usize = 4;

/// Time that a piece waits for its hash before the home is asked for it.
pub const HASH_WAIT: Duration = Duration::from_millis(200);

/// Pieces that wait for their hashes; more are thrown away and sent again later.
pub const PENDING_PIECES_MAX: usize = 1024;

/// Hashes that a lease holder gathers before it tells them.
pub const REPORT_PIECES: usize = 4;

/// Time for which it gathers them.
pub const REPORT_AGE_MAX: Duration = Duration::from_millis(2);

/// Runs of pieces in one message.
pub const RUNS_PER_MESSAGE_MAX: usize = 256;

/// Feeds of one class: more lease holders than there are at a time, and those before them.
pub const FEEDS_PER_CLASS_MAX: usize = 64;

/// Time between two complaints about one class: the new feed needs some time to show what it can do.
pub const COMPLAINT_PAUSE: Duration = Duration::from_millis(400);

/// Time that a home waits for other complaints before it acts on one: members look at their feeds this often.
pub const HEARING_TIME: Duration = Duration::from_millis(100);

/// Complaints of one member in a row that are dismissed because the accused complains as well.
pub const DISMISSALS_MAX: u8 = 3;

/// Time without a piece, while other classes move, after which a feed counts as silent.
pub const FEED_SILENCE_MAX: Duration = Duration::from_secs(1);

/// The same where the others are far ahead meanwhile. Longer than a lost segment is waited for on most links.
pub const FAR_BEHIND_SILENCE_MAX: Duration = Duration::from_millis(300);

/// Pieces by which a class is far behind the others.
pub const FAR_BEHIND_PIECES: f64 = 6.0;

/// A slow link is no silent feed: one may be silent for as long as so many pieces of each class take, at the pace at
/// which they come.
pub const FEED_PATIENCE_PIECES: f64 = 4.0;

/// The same for a member that is as fast as the others: where all links are slow, each class has to wait for its turn.
pub const FEED_TURNS_MAX: f64 = 3.0;

/// And no longer than this.
pub const FEED_PATIENCE_MAX: Duration = Duration::from_secs(15);

/// A member that gains less than this share of what goes round, while its feeds wait for it, receives slowly.
pub const GAIN_SHARE_MAX: f64 = 0.7;

/// Pieces of each class that have to be new before what this node has gained of them tells anything,
pub const CRAWL_ROWS_MIN: f64 = 3.0;

/// and the share of them that a class gains at least where its node's link is not what is slow.
pub const CRAWL_GAIN_MAX: f64 = 0.3;

/// Members of which one is believed to be slower than the others at most, one in so many: if more say so, something else
/// is slow.
pub const SLOW_MEMBERS_SHARE_MIN: usize = 4;

/// The same when no class moves. Longer than [`LEASE_STALL`]: what the home notices itself is not complained about.
pub const ALL_SILENT_MAX: Duration = Duration::from_secs(4);

/// Pieces by which a class may lag behind the others without a complaint.
pub const LAG_PIECES_MIN: f64 = 3.0;

/// With so few pieces of a class left the old feed is kept beside the new one.
pub const ENDGAME_PIECES: u32 = 2;

/// Time for which announcements are gathered.
pub const ANNOUNCE_AGE_MAX: Duration = Duration::from_secs(1);

/// How long a member that could not be reached is not asked: as long as its death takes to be noticed by all.
pub const GONE_REMEMBERED: Duration = Duration::from_secs(10);

/// Time without a change of the list of members before what is stored is announced to those who have become homes:
/// members that join together are one change.
pub const SWEEP_AFTER: Duration = Duration::from_secs(5);

/// The same at most, when members come and go all the time.
pub const SWEEP_AFTER_MAX: Duration = Duration::from_secs(30);

/// What is added to it at most; each node has its own.
pub const SWEEP_JITTER_MAX: Duration = Duration::from_secs(10);

/// Pause between two parts of such a look through the store.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Weights of members that are computed for one part, twice: some milliseconds. With 1,000 members 100,000 blobs are
/// looked through in twenty seconds.
pub const SWEEP_WEIGHTS_MAX: usize = 500_000;

/// Blobs of one part at most.
pub const SWEEP_BLOBS_MAX: usize = 1024;

/// Blobs in one announcement: 320 KiB.
pub const ANNOUNCE_BLOBS_MAX: usize = 8192;

/// Streams that wait for a look into the store, over all blobs.
pub const INSPECTIONS_MAX: usize = 4096;

/// Whole blobs whose size and list of hashes are kept at hand: with a thousand pieces each, 2 MiB.
pub const SEEDS_MAX: usize = 64;

/// A node that the swarm cannot help waits a part of this, times the number of members, before it asks upstream itself:
/// of 1,000 nodes that lose the swarm at once a hundred ask in each second.
pub const ALONE_PAUSE_PER_MEMBER: Duration = Duration::from_millis(10);

/// The longest such pause: a client's patience ends too.
pub const ALONE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Members up to which a home sends each hash to each of them itself: one hop, and no relay that may fail.
pub const LISTED_DIRECTLY_MAX: usize = 64;

/// Share of a class by which it may lag before its feed is given up although it has nothing to send: those above it have
/// had time to mend it.
pub const LAG_STARVED_SHARE: f64 = 0.12;

/// Time over which the gains of classes are compared. Shorter, and what is only the turn of the others looks like a slow
/// feed.
pub const COMPARE_TIME: Duration = Duration::from_millis(300);

/// Pieces of each class that have to go round in that time: on slow links it takes longer.
pub const COMPARE_ROWS_MIN: f64 = 3.0;

/// A class that gains less than this share of what the others gain crawls.
pub const CRAWL_SHARE_MAX: f64 = 0.6;

/// Pieces of each class that may wait at a lease holder before it counts as busy.
pub const AHEAD_ROWS_MAX: u32 = 2;

/// Time over which a lease holder compares what it gains with what is new to all. Longer than a new piece takes to come round.
pub const OUTRUN_TIME: Duration = Duration::from_millis(250);

/// New pieces in that time without which the comparison tells nothing.
pub const OUTRUN_PIECES_MIN: u32 = 8;

/// Share of the new pieces that a lease holder gains at most where its own link is what is slow.
pub const OUTRUN_SHARE_MAX: f64 = 0.75;

/// Leases granted for one blob, failures included, before work is no longer divided further.
pub const LEASES_GRANTED_MAX: u32 = 64;

/// A lease gives half of what is left away only if that half takes at least this long.
pub const LEASE_SHARE_TIME_MIN: Duration = Duration::from_millis(150);

/// Least time between two looks at the leases of a blob.
pub const LEASE_LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Time that members have to tell what they have, when nobody knows where the pieces are.
pub const CENSUS_TIME: Duration = Duration::from_millis(120);

/// Members that feed the roots after a census.
pub const CENSUS_FEEDS_MAX: usize = 4;

/// A gap shorter than a part of this of the longest is fetched after it.
pub const GAP_PART_MIN: u32 = 4;

// ---- warming ----

/// Members that a member passes the order to warm on to, at first: 1,000 are reached in four hops, and nobody hears more
/// than eight reports in a [`WARM_REPORT_PAUSE`].
pub const WARM_FANOUT: usize = 8;

/// Members that a member waits for at a time, where many are silent and their parts have been handed on.
pub const WARM_CHILDREN_MAX: usize = 64;

/// Warm sets that a node knows at a time. One of 1,000 targets and a hundred blobs takes some 100 KiB where it was asked
/// for, and an eighth of that one hop below; one of [`MEMBERS_MAX`] targets takes a few megabytes.
pub const WARM_SETS_MAX: usize = 32;

/// Blobs of one set: a hundred images that share little.
pub const WARM_BLOBS_MAX: usize = 2048;

/// Members that have asked this one to warm the same set and are reported to: two that ask at once, and those that have
/// taken over for somebody who did not answer.
pub const WARM_PARENTS_MAX: usize = 4;

/// Beginnings of one set that are remembered, so that each is obeyed once.
pub const WARM_RUNS_MAX: usize = 8;

/// Flights of warm sets at a time.
pub const WARM_FLIGHTS_MAX: usize = 16;

/// Pieces from which on a blob counts as large: no more than a few of them are to leave upstream at a time.
pub const LARGE_PIECES_MIN: u64 = 8;

/// Flights of large blobs at a time, of warm sets and prefetched, that are not known to have left upstream as a whole. All members
/// take the blobs of an image in one order, so a few share the links; a dozen would leave each stream of a slow link less than a piece
/// in several seconds, and whoever fetches or feeds would look as if it stood still.
pub const LARGE_LEAVING_MAX: usize = 3;

/// Flights of large blobs at a time, those included of which only the last pieces still go round.
pub const LARGE_FLIGHTS_MAX: usize = 6;

/// Time that a member has to answer when it is asked to warm, before the next one is asked instead.
pub const WARM_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Pause between two reports while there are news.
pub const WARM_REPORT_PAUSE: Duration = Duration::from_secs(1);

/// Pause between two reports while there are none: they say that the member lives.
pub const WARM_CALM_PAUSE: Duration = Duration::from_secs(3);

/// Time without a report after which a member is asked again: two were lost.
pub const WARM_SILENCE_MAX: Duration = Duration::from_secs(7);

/// Time after the deadline in which the last reports arrive.
pub const WARM_GRACE: Duration = Duration::from_secs(3);

/// The longest deadline: a set that is given more would hold its place for good.
pub const WARM_DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a set that is over is remembered, so that whoever asks again is answered at once.
pub const WARM_REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Members that are named with the reason why they are not ready: more are read by nobody.
pub const WARM_FAILURES_MAX: usize = 1024;

/// Pause between two looks at flights that keep to a pace: what they may take changes with what has come, and they say that
/// they live. A few of them fit into [`LEASE_STALL`].
pub const PACE_LOOK: Duration = Duration::from_millis(400);

/// How long a feed is excused that has said that it holds back: some such words may be lost.
pub const HELD_EXCUSE: Duration = Duration::from_secs(2);

/// Time without a piece after which a feed counts as silent where it, or this node, holds back: a piece of the largest size at
/// the least pace that is worth asking for.
pub const HELD_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Times a blob is fetched whose bytes did not match: somebody has lied, and who did is shut out by then.
pub const WARM_TRIES_MAX: u32 = 2;

/// Times in a row that homes may name another one: two of them disagree for a moment when members come and go.
pub const REDIRECTS_MAX: u8 = 8;

/// Runs of pieces that a joiner tells it has: of a blob of 10 GiB received class by class there are a thousand.
pub const RUNS_OF_HAVE_MAX: usize = 8192;

// ---- recordings ----

/// Largest frame of a recording, bytes: the hashes of a blob of half a million pieces.
pub const RECORD_FRAME_BYTES_MAX: usize = 16 << 20;

/// Largest recording, bytes: an hour of a busy node, and nothing that fills a disk.
pub const RECORDING_BYTES_MAX: u64 = 256 << 20;

/// Time after its start for which a node that has found no other member holds what it would ask upstream.
pub const MEMBERS_WAIT: Duration = Duration::from_secs(2);

/// Time that a root waits for one piece of those who have fetched it before it is fetched again.
pub const SOURCE_SILENCE_MAX: Duration = Duration::from_secs(8);

/// Time without a report from upstream for which silent feeds are not held to account.
pub const DRY_MAX: Duration = Duration::from_secs(10);
