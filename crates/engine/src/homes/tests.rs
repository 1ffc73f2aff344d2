//! The weights are pinned; the books are spread evenly, over zones, and stay where they are when members come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::Algorithm;
use crate::peer::Member;

fn member(n: u64, zone: &str) -> Arc<Member> {
    let mut key = [0; 32];
    for (i, chunk) in key.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(n.wrapping_mul(4) + i as u64 + 1).to_be_bytes());
    }
    Arc::new(Member {
        peer: PeerId(key),
        generation: 1,
        addresses: Box::new([]),
        data_port: 5002,
        zone: zone.into(),
        labels: Box::new([]),
        version: "1".into(),
    })
}

fn roster(members: u64, zones: u64) -> Roster {
    Roster::new((0..members).map(|n| member(n, &format!("zone-{}", n % zones))))
}

fn digest(n: u64) -> Digest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&mix(n ^ 0x5eed).to_be_bytes());
    Digest::new(Algorithm::Sha256, &hash)
}

#[test]
fn weights_are_part_of_the_protocol() {
    assert_eq!(mix(1), 0x5692_161d_100b_05e5);
    assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    let roster = roster(100, 3);
    let named = |homes: Homes| homes.iter().map(|peer| format!("{peer:?}")).collect::<Vec<_>>().join(" ");
    assert_eq!(named(homes(&digest(1), &roster)), "89607b27da84 2ea7d2fa987b 66d1ecf1bbb8");
    assert_eq!(
        named(tag_homes("docker.io/library/nginx:latest", &roster)),
        "d8013ba0973c 6846c1591a67 66d1ecf1bbb8"
    );
}

#[test]
fn few_members_are_all_homes() {
    assert_eq!(homes(&digest(1), &Roster::default()), Homes::default());
    for members in 1..=4 {
        let found: BTreeSet<_> = homes(&digest(1), &roster(members, 1)).iter().collect();
        assert_eq!(found.len() as u64, members.min(3));
    }
}

#[test]
fn books_are_spread_evenly() {
    const DIGESTS: u64 = 20_000;
    for zones in [1, 4] {
        let roster = roster(100, zones);
        let mut load: BTreeMap<(usize, PeerId), u64> = BTreeMap::new();
        for n in 0..DIGESTS {
            for (rank, home) in homes(&digest(n), &roster).iter().enumerate() {
                *load.entry((rank, home)).or_default() += 1;
            }
        }
        // 200 expected; the standard deviation is 14.
        assert!(load.len() == 300 && load.values().all(|books| (130..=270).contains(books)), "{load:?}");
    }
}

#[test]
fn one_more_member_moves_few_books() {
    const DIGESTS: u64 = 10_000;
    let (before, after) = (roster(100, 1), roster(101, 1));
    let newcomer = member(100, "zone-0").peer;
    let mut first_moved = 0;
    let mut any_moved = 0;
    for n in 0..DIGESTS {
        let (old, new) = (homes(&digest(n), &before), homes(&digest(n), &after));
        first_moved += u64::from(old.first() != new.first());
        any_moved += u64::from(old != new);
        assert!(
            new.iter().all(|home| home == newcomer || old.contains(&home)),
            "only the newcomer may be new"
        );
    }
    // A first home moves with probability 1/101, any with 3/101.
    assert!(
        (60..=140).contains(&first_moved) && (240..=360).contains(&any_moved),
        "{first_moved} {any_moved}"
    );
}

proptest! {
    #[test]
    fn homes_are_distinct_and_in_as_many_zones_as_there_are(
        zones in prop::collection::vec(0u8..5, 1..40), point: u64,
    ) {
        let roster = Roster::new(
            zones.iter().enumerate().map(|(n, zone)| member(n as u64, &format!("{zone}"))),
        );
        let found: Vec<_> = homes(&digest(point), &roster).iter().collect();
        prop_assert_eq!(found.len(), zones.len().min(HOMES_PER_DIGEST));
        prop_assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
        let there: BTreeSet<_> = zones.iter().collect();
        let used: BTreeSet<_> = found.iter().map(|peer| roster.zone(peer)).collect();
        prop_assert_eq!(used.len(), there.len().min(HOMES_PER_DIGEST));
    }

    #[test]
    fn a_member_that_goes_leaves_the_others_in_order(members in 2u64..40, gone in 0u64..40, point: u64) {
        let gone = member(gone % members, "").peer;
        let all = Roster::new((0..members).map(|n| member(n, "")));
        let rest = Roster::new((0..members).map(|n| member(n, "")).filter(|m| m.peer != gone));
        let before: Vec<_> = homes(&digest(point), &all).iter().filter(|home| *home != gone).collect();
        let after: Vec<_> = homes(&digest(point), &rest).iter().collect();
        prop_assert_eq!(&after[..before.len()], &before[..]);
    }
}
