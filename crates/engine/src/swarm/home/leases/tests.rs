//! Leases are granted, measured, taken away, and every piece is fetched once.

use std::time::Duration;

use super::*;

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

/// What follows from time alone.
fn advance(
    leases: &mut Leases,
    now: Time,
    candidate: impl FnMut(&dyn Fn(&PeerId) -> bool) -> Option<PeerId>,
) -> Vec<Action> {
    let mut actions = leases.take_stalled(now);
    actions.extend(leases.advance(now, candidate));
    actions
}

/// A cluster that fetches at `rate(width)` pieces per second in all, in steps of 50 ms.
fn fetch(pieces: u32, rate: impl Fn(usize) -> f64, millis_max: u64) -> (Leases, u64) {
    let mut leases = Leases::new(1, pieces);
    let mut progress: BTreeMap<LeaseId, (PeerId, f64, u32, u32)> = BTreeMap::new();
    let mut now = 0;
    while !leases.is_there() && now < millis_max {
        let actions = advance(&mut leases, at(now), |avoid| (1..100).map(peer).find(|p| !avoid(p)));
        for action in actions {
            match action {
                Action::Grant { to, lease, run } => {
                    progress.insert(lease, (to, f64::from(run.first), run.first, run.end));
                }
                Action::Trim { lease, end, .. } => progress.get_mut(&lease).unwrap().3 = end,
                Action::GiveUp(_) => panic!("gave up"),
            }
        }
        now += 50;
        let each = rate(progress.len()) / progress.len() as f64 * 0.05;
        for (lease, (holder, position, sent, end)) in progress.clone() {
            let position = (position + each).min(f64::from(end.max(sent)));
            assert!(leases.report(at(now), lease, &holder, sent..position as u32));
            progress.insert(lease, (holder, position, position as u32, end));
            if position as u32 >= end {
                leases.over(at(now), lease, &holder, position as u32, LeaseEnd::Done);
                progress.remove(&lease);
            }
        }
    }
    assert!(leases.is_there(), "not all was fetched");
    (leases, now)
}

#[test]
fn one_connection_that_fills_the_link_stays_alone() {
    let (leases, _) = fetch(400, |_| 4000.0, 10_000);
    assert_eq!(leases.granted(), 1);
    let (leases, took) = fetch(2560, |_| 300.0, 20_000);
    assert!(leases.granted() <= 4, "{} leases", leases.granted());
    assert!(took <= 8_600, "{took} ms");
}

#[test]
fn capped_connections_are_multiplied_until_the_link_is_full() {
    // 1 GiB from a registry of 125 MB/s that gives each connection 40 MB/s.
    let rate = |width: usize| 125f64.min(40.0 * width as f64);
    let (leases, took) = fetch(1024, rate, 30_000);
    assert!(leases.granted() <= 24, "{} leases", leases.granted());
    assert!(took <= 10_000, "{took} ms");
}

/// Each new lease holder brings what its own link takes, which looks like a gain, until they say that they are left behind. Then one of
/// them ends at once, and not when it has nothing left.
#[test]
fn more_than_goes_round_is_taken_back() {
    let candidate = |avoid: &dyn Fn(&PeerId) -> bool| (1..100).map(peer).find(|p| !avoid(p));
    let mut leases = Leases::new(1, 400);
    let mut progress: BTreeMap<LeaseId, (PeerId, Run)> = BTreeMap::new();
    let (mut widest, mut now, mut several, mut surplus) = (0, 0, 0, 0);
    while !leases.is_there() && now < 60_000 {
        for action in advance(&mut leases, at(now), candidate) {
            match action {
                Action::Grant { to, lease, run } => _ = progress.insert(lease, (to, run)),
                Action::Trim { lease, end, .. } => progress.get_mut(&lease).unwrap().1.end = end,
                Action::GiveUp(_) => panic!("gave up"),
            }
        }
        widest = widest.max(progress.len());
        surplus += u32::from(progress.len() > leases.width);
        // Ten pieces a second each. Whoever has seen for a while that others bring as much is left behind.
        now += 100;
        several = if progress.len() > 1 { several + 100 } else { 0 };
        let is_outrun = several > 400;
        for (lease, (holder, run)) in progress.clone() {
            leases.told_busy(&holder, is_outrun);
            if run.first < run.end {
                leases.report(at(now), lease, &holder, run.first..run.first + 1);
                progress.get_mut(&lease).unwrap().1.first += 1;
            }
            if run.first + 1 >= run.end {
                leases.over(at(now), lease, &holder, run.end, LeaseEnd::Done);
                progress.remove(&lease);
            }
        }
    }
    assert!(leases.is_there());
    assert_eq!((widest, leases.width), (2, 1));
    assert!(
        (1..=LEASE_SURPLUS_PIECES).contains(&surplus),
        "{surplus} pieces side by side that were one too many"
    );
    assert!(leases.granted() <= 4, "{} leases", leases.granted());
}

#[test]
fn what_stalls_or_fails_goes_to_somebody_else() {
    let mut leases = Leases { settled: true, ..Leases::new(7, 100) };
    let grant =
        |leases: &mut Leases, now| advance(leases, at(now), |avoid| (1..9).map(peer).find(|p| !avoid(p)));
    let id = |number| LeaseId { epoch: 7, number };
    let first = Action::Grant { to: peer(1), lease: id(0), run: Run { first: 0, end: 100 } };
    assert_eq!(grant(&mut leases, 0), [first]);
    assert!(leases.report(at(10), id(0), &peer(1), 0..30));
    assert_eq!(grant(&mut leases, 1400), []);
    let trim = Action::Trim { holder: peer(1), lease: id(0), end: 0 };
    let second = Action::Grant { to: peer(2), lease: id(1), run: Run { first: 30, end: 100 } };
    assert_eq!(grant(&mut leases, 1510), [trim, second]);
    assert!(!leases.report(at(3020), id(0), &peer(1), 30..31), "a late report counts and renews nothing");
    leases.over(at(3030), id(1), &peer(2), 31, LeaseEnd::Failed);
    assert_eq!(grant(&mut leases, 3031), [], "after a pause");
    let third = Action::Grant { to: peer(3), lease: id(2), run: Run { first: 31, end: 100 } };
    assert_eq!(grant(&mut leases, 3300), [third]);
    for (number, now) in (2..5).zip([3400, 3500, 3600]) {
        let holder = leases.active[&id(number)].holder;
        leases.over(at(now), id(number), &holder, 0, LeaseEnd::Denied);
        grant(&mut leases, now + 1);
    }
    assert!(leases.over);
}

#[test]
fn no_wakeup_is_wanted_for_what_is_past() {
    let candidate = |avoid: &dyn Fn(&PeerId) -> bool| (1..100).map(peer).find(|p| !avoid(p));
    // A lease that has brought next to nothing: too little to measure for a while.
    let mut leases = Leases::new(1, 64);
    let Some(Action::Grant { to, lease, .. }) = advance(&mut leases, at(0), candidate).into_iter().next()
    else {
        panic!("a lease is granted")
    };
    assert!(leases.report(at(10), lease, &to, 0..1));
    for _ in 0..8 {
        let wake = leases.next_wakeup().unwrap();
        advance(&mut leases, wake, candidate);
        assert!(leases.next_wakeup().is_none_or(|next| next > wake), "again at {wake:?}");
    }
    // Leases that nobody is allowed to work on: the home gives up and has nothing more to do.
    let mut leases = Leases::new(1, 64);
    for now in 0.. {
        let actions = advance(&mut leases, at(now), candidate);
        if actions.iter().any(|action| matches!(action, Action::GiveUp(_))) {
            break;
        }
        for action in actions {
            if let Action::Grant { to, lease, .. } = action {
                leases.over(at(now), lease, &to, 0, LeaseEnd::Denied);
            }
        }
    }
    assert_eq!(leases.next_wakeup(), None);
}

#[test]
fn a_member_that_only_says_that_it_works_on_a_lease_loses_it() {
    let mut leases = Leases { settled: true, ..Leases::new(7, 100) };
    let grant =
        |leases: &mut Leases, now| advance(leases, at(now), |avoid| (1..9).map(peer).find(|p| !avoid(p)));
    let (id, all) = (|number| LeaseId { epoch: 7, number }, Run { first: 0, end: 100 });
    grant(&mut leases, 0);
    leases.report(at(10), id(0), &peer(1), 0..30);
    // It joins again every now and then, because nothing moves.
    assert_eq!(leases.adopt(at(1000), id(0), peer(1), Run { first: 0, end: u32::MAX }), Some(all));
    assert_eq!(leases.adopt(at(1000), id(0), peer(3), all), None, "it is not that one's");
    let trim = Action::Trim { holder: peer(1), lease: id(0), end: 0 };
    let run = Run { first: 30, end: 100 };
    assert_eq!(grant(&mut leases, 1510), [trim, Action::Grant { to: peer(2), lease: id(1), run }]);
    assert_eq!(leases.adopt(at(3020), id(0), peer(1), all), None, "what was taken away stays so");
    let of_before = LeaseId { epoch: 6, number: 0 };
    assert_eq!(leases.adopt(at(3020), of_before, peer(4), all), Some(all), "the home before granted it");
}

proptest::proptest! {
    /// Of one book no two leases cover one piece, whatever is told in whatever order, and none begins with a piece that
    /// somebody has.
    #[test]
    fn leases_do_not_overlap(
        steps in proptest::collection::vec((0u8..9, 0u8..6, 0u32..60, 0u32..40, 0u64..900), 1..80),
    ) {
        let mut leases = Leases::new(7, 60);
        let mut now = 0;
        for (what, who, first, len, time) in steps {
            now += time;
            let run = Run { first, end: (first + len).min(60) };
            let mine = leases.active.iter().find(|(_, a)| a.holder == peer(who)).map(|(l, a)| (*l, *a));
            match (what, mine) {
                (0..=2, Some((lease, active))) => {
                    let from = leases.first_missing(active.run);
                    let to = (from + len / 4).min(active.run.end);
                    proptest::prop_assert!(leases.report(at(now), lease, &peer(who), from..to));
                }
                (3, Some((lease, active))) => {
                    leases.over(at(now), lease, &peer(who), active.run.end, LeaseEnd::Done);
                }
                (4, Some((lease, active))) => {
                    let reached = leases.first_missing(active.run);
                    leases.over(at(now), lease, &peer(who), reached, LeaseEnd::GivenUp);
                }
                (5, _) => leases.lost(&peer(who)),
                (6, _) => leases.has(&[run]),
                (7, _) if !leases.active.values().any(|a| a.run.first < run.end && run.first < a.run.end) => {
                    leases.misses(at(now), &[run]);
                }
                _ => {}
            }
            let there = leases.there.clone();
            for action in advance(&mut leases, at(now), |avoid| (0..6).map(peer).find(|p| !avoid(p))) {
                if let Action::Grant { run, .. } = action {
                    proptest::prop_assert!(!run.is_empty() && !there.contains(run.first), "{run:?}");
                }
            }
            let mut runs: Vec<_> = leases.active.values().map(|a| a.run).filter(|r| !r.is_empty()).collect();
            runs.sort();
            proptest::prop_assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].first), "{runs:?}");
            proptest::prop_assert!(leases.active.len() <= LEASES_PER_BLOB_MAX);
            proptest::prop_assert!(leases.next_wakeup().is_none_or(|next| next > at(now)), "a wakeup in the past");
        }
    }
}

/// When a lease is taken from its only holder, whose pieces come each `piece_ms` (none if 0) and whose bytes come until `alive_ms`;
/// the home is late itself by what is worth `excuse`.
fn taken_after(piece_ms: u64, alive_ms: u64, stalls: u32, excuse: Duration) -> Option<u64> {
    let mut leases = Leases::new(1, 64);
    leases.excuse(excuse);
    leases.stalls = stalls;
    let [Action::Grant { lease, .. }] = advance(&mut leases, at(0), |_| Some(peer(1)))[..] else {
        panic!("one lease")
    };
    leases.report(at(0), lease, &peer(1), 0..1);
    leases.stalls = stalls;
    for now in (100..200_000).step_by(100) {
        if piece_ms > 0 && now % piece_ms == 0 {
            let next = leases.there.count();
            leases.report(at(now), lease, &peer(1), next..next + 1);
        }
        if now <= alive_ms {
            leases.breathes(at(now), &lease, &peer(1));
        }
        if leases.active.is_empty() || leases.is_there() {
            return (!leases.is_there()).then_some(now);
        }
        let is_stalled = |action: &Action| matches!(action, Action::Trim { end: 0, .. });
        if leases.next_wakeup().is_some_and(|due| due <= at(now))
            && advance(&mut leases, at(now), |_| None).iter().any(is_stalled)
        {
            return Some(now);
        }
    }
    None
}

#[test]
fn a_lease_is_taken_from_one_that_stands_still_and_not_from_one_that_is_slow() {
    let stall = LEASE_STALL.as_millis() as u64;
    let piece = LEASE_PIECE_TIME.as_millis() as u64;
    let table = [
        (0, 0, 0, Some(stall), "nothing comes"),
        (1000, 0, 0, None, "a piece a second"),
        (3000, 0, 0, Some(stall), "silence between two pieces"),
        (3000, u64::MAX, 0, None, "a slow link that says so"),
        (0, 3000, 0, Some(3000 + stall), "it stops"),
        (0, u64::MAX, 0, Some(piece), "bytes that never become a piece"),
        (0, u64::MAX, 1, Some(2 * piece), "after somebody else was in vain, too"),
        (0, u64::MAX, 9, Some(LEASE_PIECE_TIME_MAX.as_millis() as u64), "there is an end to it"),
    ];
    for (every, alive, stalls, expected, why) in table {
        assert_eq!(taken_after(every, alive, stalls, Duration::ZERO), expected, "{why}");
    }
    let late = Duration::from_secs(2);
    assert_eq!(taken_after(0, 0, 0, late), Some(stall + 2000), "this node is late itself");
}

/// A registry thinks for seven seconds, and its first piece takes two.
#[test]
fn a_lease_of_which_the_first_bytes_come_late_is_not_taken() {
    let grant = || {
        let mut leases = Leases::new(1, 64);
        advance(&mut leases, at(0), |_| Some(peer(1)));
        leases
    };
    let (mut silent, mut thinking) = (grant(), grant());
    let lease = LeaseId { epoch: 1, number: 0 };
    for now in (7000..9000).step_by(500) {
        thinking.breathes(at(now), &lease, &peer(1));
    }
    let due = |leases: &mut Leases, now| leases.take_stalled(at(now)).len();
    assert_eq!((due(&mut silent, 7999), due(&mut silent, 8000)), (0, 1));
    assert_eq!((due(&mut thinking, 9999), thinking.take_unbegun(&peer(1)).len()), (0, 0));
    assert_eq!(due(&mut thinking, 10_000), 1, "nothing comes any more");
}

/// Its reports may be what is read next.
#[test]
fn what_a_member_says_takes_no_lease_whose_time_is_up() {
    let mut leases = Leases { settled: true, ..Leases::new(1, 64) };
    advance(&mut leases, at(0), |_| Some(peer(1)));
    let (id, late) = (LeaseId { epoch: 1, number: 0 }, at(20_000));
    assert_eq!(leases.advance(late, |_| Some(peer(2))), []);
    assert!(leases.report(late, id, &peer(1), 0..8));
    assert_eq!(leases.take_stalled(late), []);
}

/// It says that a home has granted them that died a moment ago; or that it is slow on purpose.
#[test]
fn a_member_that_makes_leases_up_does_not_keep_a_blob_from_the_others() {
    type Says = fn(&mut Leases, Time, LeaseId);
    let (all, piece) = (Run { first: 0, end: 100 }, LEASE_PIECE_TIME_MAX.as_secs());
    let ends_the_last: Says = |leases, now, id| {
        let last = LeaseId { epoch: id.epoch - 1, ..id };
        leases.over(now, last, &peer(1), 0, LeaseEnd::Done);
    };
    let has_bytes: Says = |leases, now, _| {
        let ids: Vec<_> = leases.active.keys().copied().collect();
        ids.iter().for_each(|id| leases.breathes(now, id, &peer(1)));
    };
    let is_held: Says = |leases, now, _| leases.lives(now, &peer(1));
    // Whether it has a fresh one each second, or one.
    let table: [(u64, bool, Says, &str); 5] = [
        (60, true, |_, _, _| {}, "and it is silent"),
        (60, true, ends_the_last, "and the last one ends"),
        (60, true, has_bytes, "and bytes come of all"),
        (piece + 10, true, is_held, "and it is slow on purpose"),
        (piece + 10, false, is_held, "one, and it is slow on purpose"),
    ];
    for (seconds, is_fresh, says, why) in table {
        let mut leases = Leases::new(7, 100);
        let goes_to_another = (0..seconds).any(|second| {
            let now = at(1000 * second);
            let id = LeaseId { epoch: 1000 + if is_fresh { second } else { 0 }, number: 0 };
            if is_fresh || second == 0 {
                leases.adopt(now, id, peer(1), all);
            }
            says(&mut leases, now, id);
            let actions = advance(&mut leases, now, |avoid| (1..3).map(peer).find(|p| !avoid(p)));
            actions.iter().any(|action| matches!(action, Action::Grant { to, .. } if *to == peer(2)))
        });
        assert!(goes_to_another, "{why}");
    }
}

#[test]
fn leases_of_a_home_that_died_go_on() {
    let mut leases = Leases::new(7, 128);
    let adopts = |leases: &mut Leases, number: u32| {
        let (id, run) = (LeaseId { epoch: 6, number }, Run { first: number, end: number + 1 });
        leases.adopt(at(0), id, peer(number as u8), run) == Some(run)
    };
    let most = LEASES_ADOPTED_MAX as u32;
    assert!((0..most).all(|number| adopts(&mut leases, number)));
    assert!((0..most).all(|number| adopts(&mut leases, number)), "they are told once more");
    assert!(!adopts(&mut leases, most), "that is more than homes grant");
    // One that goes from home to home, and has a piece to show each time.
    let mut leases = Leases::new(7, 128);
    for number in 0..100u32 {
        let (now, id) = (at(1000 * u64::from(number)), LeaseId { epoch: 100, number });
        let run = Run { first: number, end: number + 2 };
        assert_eq!(leases.adopt(now, id, peer(1), run), Some(run));
        assert!(leases.report(now, id, &peer(1), number..number + 1));
        leases.over(now, id, &peer(1), number + 1, LeaseEnd::Done);
    }
    // One that is lost twice before a piece has come, and then stands still.
    let (id, run) = (LeaseId { epoch: 200, number: 0 }, Run { first: 120, end: 128 });
    for now in [200_000, 201_000] {
        assert_eq!(leases.adopt(at(now), id, peer(2), run), Some(run));
        leases.lost(&peer(2));
    }
    assert_eq!(leases.adopt(at(202_000), id, peer(2), run), Some(run));
    assert_eq!(leases.take_stalled(at(204_000)), [Action::Trim { holder: peer(2), lease: id, end: 0 }]);
    assert_eq!(leases.adopt(at(204_000), id, peer(2), run), None, "what was taken away stays so");
}

/// At a pace at which a piece takes a minute the first holder goes on; where it takes two the second one has the time.
#[test]
fn whoever_is_slow_on_purpose_has_long_for_a_piece() {
    for (piece, expected) in [(60, 1), (120, 2)] {
        let mut leases = Leases { settled: true, ..Leases::new(7, 4) };
        let (mut holder, mut since, mut holders) = (None, 0, 0);
        for second in 0..300 {
            let now = at(1000 * second);
            for action in advance(&mut leases, now, |avoid| (1..9).map(peer).find(|p| !avoid(p))) {
                match action {
                    Action::Grant { to, lease, .. } => {
                        (holder, since) = (Some((to, lease)), second);
                        holders += 1;
                    }
                    Action::Trim { .. } => holder = None,
                    Action::GiveUp(_) => panic!("gave up"),
                }
            }
            let Some((to, lease)) = holder else { continue };
            leases.lives(now, &to);
            if second == since + piece {
                assert!(leases.report(now, lease, &to, 0..1));
                break;
            }
        }
        assert_eq!((leases.there.count(), holders), (1, expected), "{piece} s a piece");
    }
}
