//! Where the bytes of a blob came from, for a person who asks afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shoal_engine::peer::PeerId;
use shoal_engine::swarm::exchange::{Exchange, Standing};
use shoal_engine::swarm::home::account::Account;
use shoal_engine::{ByteRanges, Digest};

use crate::admin::openapi::DigestText;
use crate::swarm::name;

/// Blobs whose story is kept after they have come: those of the last few rollouts.
const STORIES_MAX: usize = 256;
/// Sources of one blob that are told apart; beyond, there is nobody who reads it.
const SOURCES_MAX: usize = 256;

/// Spans of one blob whose sources are remembered: of 1 GiB, all.
const SPANS_MAX: usize = 1024;
/// Members of a book that are named to a person; beyond, a number says enough.
const MEMBERS_NAMED_MAX: usize = 64;
/// Members of a book that are named for a map of all: as many as a cluster can have that is looked at as a map.
const MEMBERS_MAPPED_MAX: usize = 4096;
/// Digits of a name that tell members apart, wherever a whole one is too much: as `shoal peers` shows them, and in orders to warm. They are
/// 48 bits of a hash, so of ten thousand members two have the same with a chance of one in five million.
pub const BRIEF_DIGITS: usize = 12;

/// One source of a blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Another member.
    Member(PeerId),
    /// A registry, a mirror or the object store, by name.
    Upstream(Arc<str>),
}

/// Why a node fetches a blob by itself although there are other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnItsOwn {
    /// No member said anything.
    Silence,
    /// No home took it on, its members could not be reached, or they could not fetch it.
    NoHelp,
}

impl OnItsOwn {
    /// Whether that is how a blob's exchange with the others stands.
    pub(crate) fn of(exchange: &Exchange) -> Option<Self> {
        match exchange.standing() {
            _ if exchange.is_deaf() => Some(OnItsOwn::Silence),
            Standing::Alone(_) => Some(OnItsOwn::NoHelp),
            Standing::Joining(_) | Standing::Joined => None,
        }
    }

    /// As in a metric's label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            OnItsOwn::Silence => "silence",
            OnItsOwn::NoHelp => "no-help",
        }
    }
}

impl fmt::Display for OnItsOwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnItsOwn::Silence => "no member said anything",
            OnItsOwn::NoHelp => "other members could not bring it",
        })
    }
}

/// What one source brought.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceShare {
    /// A member's name in hex, or the name of a registry or mirror.
    pub source: String,
    /// Whether it is another member.
    pub is_member: bool,
    /// Bytes that it brought and that count.
    pub bytes: u64,
    /// Where they lie in the blob, ascending. Of a blob of many pieces only the first thousand spans are known.
    #[serde(default)]
    pub spans: Vec<BlobSpan>,
    /// Seconds from its first to its last bytes.
    pub seconds: f64,
    /// When its last bytes came, Unix milliseconds.
    #[serde(default)]
    pub last_at_ms: u64,
}

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlobSpan {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its last one.
    pub end: u64,
}

/// What is known of a blob on this node.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlobStory {
    /// The blob.
    #[schema(value_type = DigestText)]
    pub digest: Digest,
    /// `receiving`, `stored`, or `absent`.
    pub state: String,
    /// Size in bytes, if it is known.
    pub size: Option<u64>,
    /// When it was stored, Unix seconds; unset while it is not.
    #[serde(default)]
    pub stored_at: Option<u64>,
    /// Bytes received so far, while it is received.
    pub received: Option<u64>,
    /// Where the bytes came from, most first; empty for one that was here before the agent started.
    pub sources: Vec<SourceShare>,
    /// Why this node asked upstream by itself although there are other members, if it did.
    #[serde(default)]
    pub on_its_own: Option<OnItsOwn>,
    /// The members that keep who has it, by rank, in hex; empty without a swarm.
    pub homes: Vec<String>,
    /// What the homes say that answer: who has it, who receives it, who fetches it from upstream. One that is asked of the
    /// agent beside it names what it knows itself.
    #[serde(default)]
    pub books: Vec<Book>,
    /// While it is received: which members send what, by class of pieces.
    pub classes: Vec<ClassStory>,
}

/// What a home knows of a blob.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Book {
    /// The home, in hex.
    pub home: String,
    /// Size of the blob, bytes.
    pub size: u64,
    /// Members that have all of it, in hex, and how many they are: not all are named.
    pub holders: Vec<String>,
    /// See `holders`.
    pub holder_count: usize,
    /// Members that receive it, in the same way.
    pub receivers: Vec<String>,
    /// See `receivers`.
    pub receiver_count: usize,
    /// Those of them that receive slowly, in the same way.
    #[serde(default)]
    pub slow: Vec<String>,
    /// See `slow`.
    pub slow_count: usize,
    /// Who fetches what from upstream.
    pub leases: Vec<Lease>,
    /// How often a part was given to somebody to fetch.
    pub leases_granted: u32,
}

/// A part of a blob that a member fetches from upstream for all.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lease {
    /// The member, in hex.
    pub holder: String,
    /// First byte.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
}

/// How a book names members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// A few of them, in full.
    Full,
    /// All that fit on a map, by the beginnings of their names.
    Brief,
}

impl Naming {
    fn name(self, peer: &PeerId) -> String {
        match self {
            Naming::Full => name(peer),
            Naming::Brief => brief_name(peer),
        }
    }

    fn names(self, peers: &[PeerId]) -> Vec<String> {
        let max = match self {
            Naming::Full => MEMBERS_NAMED_MAX,
            Naming::Brief => MEMBERS_MAPPED_MAX,
        };
        peers.iter().take(max).map(|peer| self.name(peer)).collect()
    }
}

/// The beginning of a member's name, enough to tell it from others.
pub(crate) fn brief_name(peer: &PeerId) -> String {
    let mut name = name(peer);
    name.truncate(BRIEF_DIGITS);
    name
}

impl Book {
    pub(crate) fn of(home: &PeerId, account: &Account, naming: Naming) -> Self {
        let lease = |(holder, bytes): &(PeerId, std::ops::Range<u64>)| Lease {
            holder: naming.name(holder),
            start: bytes.start,
            end: bytes.end,
        };
        Book {
            home: naming.name(home),
            size: account.size,
            holders: naming.names(&account.holders),
            holder_count: account.holders.len(),
            receivers: naming.names(&account.receivers),
            receiver_count: account.receivers.len(),
            slow: naming.names(&account.slow),
            slow_count: account.slow.len(),
            leases: account.leases.iter().map(lease).collect(),
            leases_granted: account.leases_granted,
        }
    }
}

/// The pieces of one class of a blob that is being received.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClassStory {
    /// The class.
    pub class: u8,
    /// Pieces of it that are missing.
    pub missing: u32,
    /// The first of them.
    pub first_missing: Option<u32>,
    /// The members that send it, in hex.
    pub feeds: Vec<String>,
}

#[derive(Clone, Debug)]
struct Share {
    bytes: u64,
    spans: ByteRanges,
    first: Instant,
    last: Instant,
}

/// What each source brought of one blob.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    by_source: BTreeMap<Source, Share>,
    /// Spans of all of them.
    spans: usize,
    on_its_own: Option<OnItsOwn>,
}

impl Shares {
    /// Something is fetched without the others.
    pub fn set_on_its_own(&mut self, why: OnItsOwn) {
        self.on_its_own = Some(why);
    }

    /// Why something was fetched without the others, the last time that it was.
    pub fn on_its_own(&self) -> Option<OnItsOwn> {
        self.on_its_own
    }

    /// Bytes have come.
    pub fn add(&mut self, source: Source, bytes: u64, now: Instant) {
        if self.by_source.len() >= SOURCES_MAX && !self.by_source.contains_key(&source) {
            return;
        }
        let fresh = || Share { bytes: 0, spans: ByteRanges::new(), first: now, last: now };
        let share = self.by_source.entry(source).or_insert_with(fresh);
        share.bytes += bytes;
        share.last = now;
    }

    /// Bytes have come that lie here in the blob.
    pub fn add_span(&mut self, source: Source, span: Range<u64>, now: Instant) {
        self.add(source.clone(), span.end - span.start, now);
        if let Some(share) = self.by_source.get_mut(&source).filter(|_| self.spans < SPANS_MAX) {
            let before = share.spans.iter().count();
            share.spans.insert(span);
            self.spans = self.spans + share.spans.iter().count() - before;
        }
    }

    /// Bytes from upstream by whoever began to send after `since`; all, if there is no such time.
    pub fn upstream_bytes(&self, since: Option<Instant>) -> u64 {
        let counts = |(source, share): &(&Source, &Share)| {
            matches!(source, Source::Upstream(_)) && since.is_none_or(|since| share.first >= since)
        };
        self.by_source.iter().filter(counts).map(|(_, share)| share.bytes).sum()
    }

    /// For a person, most first.
    pub fn told(&self) -> Vec<SourceShare> {
        let (now, unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let at_ms = |at: Instant| unix.saturating_sub(now.saturating_duration_since(at)).as_millis() as u64;
        let mut told: Vec<SourceShare> = self
            .by_source
            .iter()
            .map(|(source, share)| SourceShare {
                source: match source {
                    Source::Member(peer) => crate::swarm::name(peer),
                    Source::Upstream(name) => name.to_string(),
                },
                is_member: matches!(source, Source::Member(_)),
                bytes: share.bytes,
                spans: share.spans.iter().map(|span| BlobSpan { start: span.start, end: span.end }).collect(),
                seconds: (share.last - share.first).as_secs_f64(),
                last_at_ms: at_ms(share.last),
            })
            .collect();
        told.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        told
    }
}

/// The last blobs that have come.
#[derive(Default)]
pub(crate) struct Stories(VecDeque<(Digest, Shares)>);

impl Stories {
    /// A blob has come, or what was received of it was put down.
    pub fn keep(&mut self, digest: Digest, shares: Shares) {
        self.0.retain(|(of, _)| *of != digest);
        if self.0.len() == STORIES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((digest, shares));
    }

    /// Bytes have gone past the store.
    pub fn passed(&mut self, digest: Digest, from: Source, bytes: u64) {
        let mut shares = self.of(&digest).cloned().unwrap_or_default();
        shares.add(from, bytes, Instant::now());
        self.keep(digest, shares);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(Digest, Shares)> {
        self.0.iter()
    }

    /// The story of a blob.
    pub fn of(&self, digest: &Digest) -> Option<&Shares> {
        self.0.iter().find(|(of, _)| of == digest).map(|(_, shares)| shares)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_engine::Algorithm;

    use super::*;

    #[test]
    fn who_brought_most_comes_first() {
        let start = Instant::now();
        let mut shares = Shares::default();
        shares.add(Source::Upstream("registry.test".into()), 10, start);
        shares.add_span(Source::Member(PeerId([7; 32])), 0..15, start);
        shares.add_span(Source::Member(PeerId([7; 32])), 30..35, start);
        shares.add_span(Source::Member(PeerId([7; 32])), 15..20, start + Duration::from_secs(2));
        let told = shares.told();
        assert_eq!(
            told.iter().map(|s| (s.is_member, s.bytes)).collect::<Vec<_>>(),
            [(true, 25), (false, 10)]
        );
        assert_eq!((told[0].seconds, told[1].seconds), (2.0, 0.0));
        assert_eq!(told[0].source, "07".repeat(32));
        assert_eq!(told[0].spans, [BlobSpan { start: 0, end: 20 }, BlobSpan { start: 30, end: 35 }]);
        assert_eq!(told[1].spans, [], "it went past");
    }

    #[test]
    fn spans_are_bounded() {
        let (start, mut shares) = (Instant::now(), Shares::default());
        for at in 0..2 * SPANS_MAX as u64 {
            shares.add_span(Source::Member(PeerId([(at % 3) as u8; 32])), at * 10..at * 10 + 10, start);
        }
        let told = shares.told();
        assert_eq!(told.iter().map(|share| share.bytes).sum::<u64>(), 20 * SPANS_MAX as u64);
        assert_eq!(told.iter().map(|share| share.spans.len()).sum::<usize>(), SPANS_MAX);
    }

    #[test]
    fn the_oldest_story_is_forgotten() {
        let digest = |n: usize| Digest::new(Algorithm::Sha256, &[n as u8; 32]);
        let mut stories = Stories::default();
        for n in 0..STORIES_MAX {
            stories.keep(digest(n), Shares::default());
        }
        stories.keep(digest(0), Shares::default());
        stories.keep(Digest::new(Algorithm::Sha512, &[1; 64]), Shares::default());
        assert!(stories.of(&digest(1)).is_none());
        assert!(stories.of(&digest(0)).is_some() && stories.of(&digest(2)).is_some());
    }
}
