//! Who is told of what, as members come, go and start again.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::ids::Algorithm;
use crate::peer::Member;

fn peer(n: u64) -> PeerId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&mix(n).to_be_bytes());
    PeerId(id)
}

fn blob(n: u64) -> Digest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&mix(1 << 32 | n).to_be_bytes());
    Digest::new(Algorithm::Sha256, &hash)
}

/// The first `count` members, of which one has been started for the second time.
fn roster(count: u64, restarted: Option<u64>) -> Arc<Roster> {
    let member = |n| {
        Arc::new(Member {
            peer: peer(n),
            generation: 1 + u64::from(restarted == Some(n)),
            addresses: Box::default(),
            data_port: 0,
            zone: "".into(),
            labels: Box::default(),
            version: "".into(),
        })
    };
    Arc::new(Roster::new((0..count).map(member)))
}

/// Everything that is told until nothing is left to do, with the number of wakeups.
fn told(a: &mut Announcements, now: &mut Time, roster: &Arc<Roster>) -> (BTreeSet<(PeerId, Digest)>, u32) {
    let (mut all, mut wakeups) = (BTreeSet::new(), 0);
    while let Some(at) = a.next_wakeup() {
        assert!(at >= *now, "no wakeup in the past");
        *now = at;
        let mut mail = Mail::new();
        let mine = a.advance(*now, roster, &mut mail);
        all.extend(mine.into_iter().map(|(digest, _)| (a.me, digest)));
        for (to, message) in mail {
            let Message::Announce { blobs } = message else { panic!("{message:?}") };
            for (digest, _) in blobs {
                assert!(all.insert((to, digest)), "told twice");
            }
        }
        wakeups += 1;
    }
    (all, wakeups)
}

/// By the homes of the blobs: who has to be told.
fn all_homes(blobs: u64, roster: &Roster) -> BTreeSet<(PeerId, Digest)> {
    let of = |n| homes(&blob(n), roster).iter().map(|home| (home, blob(n))).collect::<Vec<_>>();
    (0..blobs).flat_map(of).collect()
}

#[test]
fn what_was_stored_before_anybody_was_known_is_told() {
    let (mut a, mut now) = (Announcements::new(peer(0)), Time::ZERO);
    for n in 0..300 {
        assert!(!a.add(now, &Roster::default(), blob(n), 1));
    }
    assert_eq!(a.next_wakeup(), None, "there is nobody");
    let roster = roster(50, None);
    a.roster_changed(now, &roster);
    let (told, _) = told(&mut a, &mut now, &roster);
    assert_eq!(told, all_homes(300, &roster));
    assert!(now - Time::ZERO <= SWEEP_AFTER + SWEEP_JITTER_MAX + ANNOUNCE_AGE_MAX + SWEEP_PAUSE);
}

#[test]
fn after_a_change_only_new_homes_are_told() {
    let (mut a, mut now, before) = (Announcements::new(peer(0)), Time::ZERO, roster(50, None));
    a.roster_changed(now, &before);
    for n in 0..500 {
        a.add(now, &before, blob(n), 1);
    }
    told(&mut a, &mut now, &before);
    for after in [roster(51, None), roster(40, None), roster(45, None)] {
        let old = all_homes(500, &a.told);
        a.roster_changed(now, &after);
        let (told, _) = told(&mut a, &mut now, &after);
        assert_eq!(told, all_homes(500, &after).difference(&old).copied().collect());
    }
    // One that has been started again has forgotten.
    let again = roster(45, Some(7));
    a.roster_changed(now, &again);
    let (told, _) = told(&mut a, &mut now, &again);
    assert_eq!(told, all_homes(500, &again).into_iter().filter(|(home, _)| *home == peer(7)).collect());
    assert!(!told.is_empty());
}

/// A home strikes a member off its books when the connection breaks, or when it takes it for gone.
#[test]
fn homes_that_have_forgotten_are_told_again() {
    let (mut a, mut now, list) = (Announcements::new(peer(0)), Time::ZERO, roster(30, None));
    a.roster_changed(now, &list);
    for n in 0..400 {
        a.add(now, &list, blob(n), 1);
    }
    told(&mut a, &mut now, &list);

    // The connections to two of them broke, to one of these twice.
    let broken = [peer(3), peer(8)];
    broken.iter().chain(&broken[..1]).for_each(|peer| a.lost(now, *peer));
    assert!(a.next_wakeup().is_some_and(|at| at >= now + SWEEP_AFTER), "it may take a while to be back");
    let theirs = |peers: &[PeerId]| -> BTreeSet<_> {
        all_homes(400, &list).into_iter().filter(|(home, _)| peers.contains(home)).collect()
    };
    let (again, _) = told(&mut a, &mut now, &list);
    assert_eq!(again, theirs(&broken));
    assert!(broken.iter().all(|peer| again.iter().any(|(home, _)| home == peer)));

    // This node was taken for gone, and says that it lives.
    let renewed = roster(30, Some(0));
    a.roster_changed(now, &renewed);
    assert_eq!(told(&mut a, &mut now, &renewed).0, all_homes(400, &renewed));
    a.roster_changed(now, &renewed);
    assert_eq!(told(&mut a, &mut now, &renewed).0, BTreeSet::new(), "nobody has forgotten");
}

#[test]
fn many_changes_are_one_and_each_wakeup_does_little() {
    let (mut a, mut now) = (Announcements::new(peer(0)), Time::ZERO);
    for n in 0..3000 {
        a.add(now, &Roster::default(), blob(n), 1);
    }
    for count in 1..=600 {
        a.roster_changed(now, &roster(count, None));
        assert!(a.next_wakeup().is_some_and(|at| at > now), "while they come nothing is told");
        now = now + Duration::from_millis(30);
    }
    let roster = roster(600, None);
    let (told, wakeups) = told(&mut a, &mut now, &roster);
    assert_eq!(told, all_homes(3000, &roster));
    assert!(wakeups >= (3000 * 600 / SWEEP_WEIGHTS_MAX) as u32, "{wakeups}");
    // What has gone meanwhile is not announced.
    a.roster_changed(now, &super::tests::roster(300, None));
    (0..3000).for_each(|n| a.forget(&blob(n)));
    assert_eq!(told_of(&mut a, &mut now), 0);
}

fn told_of(a: &mut Announcements, now: &mut Time) -> usize {
    told(a, now, &roster(300, None)).0.len()
}
