//! Tags: may a remembered answer be used?
//!
//! Question: a client asks for a tag; is the digest that we remember good enough, must its source be asked, and what
//! if the source cannot be asked? Answer: fresh while its time to live lasts; then the source decides; and only when
//! the source cannot be asked (it failed, or limits us), for a bounded time, the old digest, marked stale (C9). A
//! source that answers "there is none" is believed. Prevents: a tag pinned for ever, a pull that fails because Docker
//! Hub has a bad day, and a deleted tag that lives on.

use std::time::Duration;

use crate::fault::SourceFault;
use crate::ids::Digest;

/// How long answers about mutable names live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPolicy {
    /// Time to live when upstream names none.
    pub ttl: Duration,
    /// Longest time to live that is accepted from upstream.
    pub ttl_max: Duration,
    /// How long after its time to live an answer may still be served while the source cannot be asked.
    pub stale_max: Duration,
}

impl TagPolicy {
    /// The time to live of an answer, given upstream's `Cache-Control: max-age`.
    pub fn time_to_live(&self, max_age: Option<Duration>) -> Duration {
        max_age.unwrap_or(self.ttl).min(self.ttl_max)
    }

    /// Whether an answer that was checked `age` ago and may live for `ttl` is good without asking. `None` is an age
    /// that cannot be told, because the wall clock went backwards: then the source is asked.
    pub fn is_fresh(&self, age: Option<Duration>, ttl: Duration) -> bool {
        age.is_some_and(|age| age < ttl.min(self.ttl_max))
    }

    /// Whether the old answer is served after the source has failed with `fault`.
    pub fn serves_stale(&self, fault: &SourceFault, age: Option<Duration>, ttl: Duration) -> bool {
        let could_not_be_asked = matches!(
            fault,
            SourceFault::Transient
                | SourceFault::Interrupted
                | SourceFault::RateLimited { .. }
                | SourceFault::Protocol
                | SourceFault::Loop
        );
        could_not_be_asked && age.is_none_or(|age| age < ttl.saturating_add(self.stale_max))
    }
}

/// How much a source's word about a tag counts: zero is the registry itself, mirrors follow in the order in which they
/// are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trust(pub u32);

impl Trust {
    /// The registry itself.
    pub const REGISTRY: Trust = Trust(0);
    /// A mirror that is no longer configured.
    pub const NOBODY: Trust = Trust(u32::MAX);
}

/// Whether an answer is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It is the truth now.
    Accept,
    /// It contradicts somebody whose word counts more: the registry itself decides, and while that cannot be asked what
    /// is known stays.
    AskRegistry,
}

/// Question: a mirror stood in for a source that could not be asked, and says something else than was known; is the tag
/// moved? Answer: only by somebody whose word counts as much as that of who told the known answer. Prevents: a tag that
/// goes back from v2 to v1 because a mirror lags behind (`contract.md` T4).
pub fn believes(known: Option<(Trust, &Digest)>, answer: (Trust, &Digest)) -> Belief {
    match known {
        Some((trust, digest)) if *digest != *answer.1 && answer.0 > trust => Belief::AskRegistry,
        Some(_) | None => Belief::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: TagPolicy = TagPolicy {
        ttl: Duration::from_secs(60),
        ttl_max: Duration::from_secs(3600),
        stale_max: Duration::from_secs(600),
    };

    #[test]
    fn a_tag_does_not_go_back() {
        let digest = |n: u8| Digest::new(crate::ids::Algorithm::Sha256, &[n; 32]);
        let (v1, v2) = (digest(1), digest(2));
        let (registry, a, b) = (Trust::REGISTRY, Trust(1), Trust(2));
        let table = [
            ("nothing is known", None, (b, v1), Belief::Accept),
            ("the same again", Some((registry, v2)), (b, v2), Belief::Accept),
            ("T4: from A to B", Some((a, v2)), (b, v1), Belief::AskRegistry),
            ("T4: from the registry to a mirror", Some((registry, v2)), (a, v1), Belief::AskRegistry),
            ("A comes back", Some((b, v1)), (a, v2), Belief::Accept),
            ("A moves its own tag", Some((a, v2)), (a, v1), Belief::Accept),
            ("the registry decides", Some((a, v2)), (registry, v1), Belief::Accept),
            ("a mirror that has left", Some((Trust::NOBODY, v2)), (b, v1), Belief::Accept),
        ];
        for (name, known, (trust, told), expected) in table {
            let known = known.as_ref().map(|(trust, digest)| (*trust, digest));
            assert_eq!(believes(known, (trust, &told)), expected, "{name}");
        }
    }

    #[test]
    fn fresh_stale_or_gone() {
        let secs = Duration::from_secs;
        assert_eq!(POLICY.time_to_live(None), secs(60));
        assert_eq!(POLICY.time_to_live(Some(secs(2))), secs(2));
        assert_eq!(POLICY.time_to_live(Some(secs(1 << 30))), secs(3600));
        assert!(POLICY.is_fresh(Some(secs(1)), secs(2)));
        assert!(!POLICY.is_fresh(Some(secs(2)), secs(2)));
        assert!(!POLICY.is_fresh(None, secs(2)), "a clock that went backwards asks the source");
        let limited = SourceFault::RateLimited { retry_after: None };
        let table = [
            (SourceFault::Transient, Some(secs(61)), true),
            (limited, Some(secs(61)), true),
            (SourceFault::Transient, Some(secs(660)), false),
            (SourceFault::Transient, None, true),
            (SourceFault::Missing, Some(secs(61)), false),
            (SourceFault::Denied { status: 401 }, Some(secs(61)), false),
        ];
        for (fault, age, stale) in table {
            assert_eq!(POLICY.serves_stale(&fault, age, secs(60)), stale, "{fault:?} {age:?}");
        }
    }
}
