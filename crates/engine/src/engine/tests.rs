//! What nodes ask upstream that the swarm cannot help comes spread over time: a budget that all of them keep to without a word.

use super::*;
use crate::homes::mix;
use crate::ids::Algorithm;

const SECOND: Duration = Duration::from_secs(1);

/// A hundred in a second are what is meant. Names are random, so some seconds see more.
const IN_A_SECOND_MAX: usize = 150;

/// Names are keys, and look like chance.
fn peer(number: u64) -> PeerId {
    let mut key = [0; 32];
    for (at, part) in (1..).zip(key.chunks_mut(8)) {
        part.copy_from_slice(&mix(4 * number + at).to_be_bytes());
    }
    PeerId(key)
}

fn digest(byte: u8) -> Digest {
    Digest::new(Algorithm::Sha256, &[byte; 32])
}

/// How long each member of a cluster waits before it asks for a blob.
fn waits(members: u64, digest: &Digest) -> Vec<Duration> {
    (0..members).map(|number| alone_pause(digest, peer(number), members as usize)).collect()
}

/// The most that come within a second, whenever it begins.
fn most_in_a_second(mut waits: Vec<Duration>) -> usize {
    waits.sort_unstable();
    let within = |at: usize| waits[at..].iter().take_while(|wait| **wait < waits[at] + SECOND).count();
    (0..waits.len()).map(within).max().unwrap_or(0)
}

/// Whatever the blob. That nobody waits, or all of them the same time, is a thousand in one second.
#[test]
fn of_a_thousand_about_a_hundred_ask_in_a_second() {
    for byte in 0..=u8::MAX {
        let waits = waits(1000, &digest(byte));
        let longest = waits.iter().max().copied().unwrap_or_default();
        assert!(longest < ALONE_PAUSE_MAX, "blob {byte:02x}: {longest:?}");
        assert!(longest > ALONE_PAUSE_MAX * 9 / 10, "the time is made use of; blob {byte:02x}: {longest:?}");
        let most = most_in_a_second(waits);
        assert!(most <= IN_A_SECOND_MAX, "blob {byte:02x}: {most} in a second");
    }
}

/// The time grows with the cluster, so a second sees no more of a larger one; from a thousand members on it does, since nobody waits for
/// longer than a client does.
#[test]
fn few_do_not_wait_for_long_and_nobody_without_end() {
    let table = [(0, 0), (1, 10), (2, 20), (50, 500), (999, 9_990), (1000, 10_000), (1001, 10_000)];
    for (members, millis) in table.into_iter().chain([(usize::MAX, 10_000)]) {
        assert_eq!(alone_spread(members), Duration::from_millis(millis), "{members} members");
    }
    for members in [1, 2, 10, 100, 300] {
        let waits = waits(members, &digest(7));
        assert!(waits.iter().all(|wait| *wait < alone_spread(members as usize)), "{members} members");
        let most = most_in_a_second(waits);
        assert!(most <= IN_A_SECOND_MAX, "{members} members: {most} in a second");
    }
    let most = most_in_a_second(waits(5000, &digest(7)));
    assert!((500..650).contains(&most), "of 5,000: {most} in a second");
}

/// Nobody has to be told when it is its turn, and it is not always the same one that waits the longest.
#[test]
fn a_wait_follows_from_the_member_and_the_blob() {
    let (one, other) = (waits(1000, &digest(1)), waits(1000, &digest(2)));
    assert_eq!(one, waits(1000, &digest(1)));
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert!(same < 20, "{same} of a thousand wait as long for another blob");
    let different = one.iter().collect::<BTreeSet<_>>().len();
    assert!(different > 500, "{different} different times");
}

/// Upstream has failed others already: it is not asked at all.
#[test]
fn who_waits_for_upstream_and_who_gives_up() {
    let (blob, me) = (digest(3), peer(5));
    assert_eq!(alone(LeaseEnd::Failed, &blob, me, 1000), (Duration::ZERO, Some(PullFault::Exhausted)));
    for end in [LeaseEnd::Denied, LeaseEnd::GivenUp, LeaseEnd::Done] {
        assert_eq!(alone(end, &blob, me, 1000), (alone_pause(&blob, me, 1000), None), "{end:?}");
    }
}

/// The manifests of one registry name more blobs than may be fetched ahead. Those of another still find room, and who asks always does.
#[test]
fn one_registry_does_not_take_all_that_may_be_fetched_ahead() {
    let mut engine = Engine::new(Settings::default());
    let blob = |number: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Digest::new(Algorithm::Sha256, &hash)
    };
    let scope =
        |registry: &str| Scope { registry: registry.parse().unwrap(), repository: "app".parse().unwrap() };
    let named = |engine: &mut Engine, numbers: std::ops::Range<usize>, registry: &str| {
        for number in numbers {
            let prefetch = Some(scope(registry));
            engine.handle(Time::ZERO, Input::Described { digest: blob(number), size: 1000, prefetch });
        }
        engine.flights().count()
    };
    let own = PREFETCH_FLIGHTS_PER_REGISTRY_MAX;
    assert_eq!(named(&mut engine, 0..300, "slow.example"), own);
    assert_eq!(named(&mut engine, 300..310, "other.example"), own + 10);
    assert_eq!(named(&mut engine, 400..600, "third.example"), PREFETCH_FLIGHTS_MAX);
    let (ticket, digest) = (TicketId(1), blob(299));
    let part = crate::demand::Part::Whole;
    engine.handle(Time::ZERO, Input::Open { ticket, digest, scope: scope("slow.example"), part });
    assert_eq!(engine.flight(&digest).map(Flight::ticket_count), Some(1));
}
