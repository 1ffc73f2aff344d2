//! When a feed is complained about, and what becomes of pieces that wait for their hashes.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ids::Algorithm;
use crate::limits::{
    ALL_SILENT_MAX, EXCHANGE_CHECK, FAR_BEHIND_SILENCE_MAX, FEED_PATIENCE_MAX, FEED_SILENCE_MAX,
};
use crate::wire::{Feed, Hashes};

const PIECES: u32 = 32;
const HOME: PeerId = PeerId([1; 32]);

fn feed(class: u8) -> PeerId {
    PeerId([10 + class; 32])
}

fn right(piece: u32) -> PieceHash {
    PieceHash([piece as u8; 32])
}

/// The list of the home's book.
const LIST: u64 = 5;

/// The right hashes of some pieces, as a home tells them.
fn signed(home: PeerId, list: u64, pieces: std::ops::Range<u32>) -> Arc<Hashes> {
    let entries = pieces.map(|piece| Entry { piece, hash: right(piece) }).collect();
    let digest = Digest::new(Algorithm::Sha256, &[5; 32]);
    Arc::new(Hashes { digest, home, list, entries, signature: Default::default() })
}

const WRONG: PieceHash = PieceHash([0xff; 32]);

/// In the book, with one feed for each of the four classes, and the list if `listed`.
fn joined(listed: bool) -> (Exchange, Mail) {
    joined_at(Time::ZERO, listed)
}

fn joined_at(now: Time, listed: bool) -> (Exchange, Mail) {
    let (digest, mut mail) = (Digest::new(Algorithm::Sha256, &[5; 32]), Mail::new());
    let size = u64::from(PIECES) * crate::pieces::PIECE_BYTES_MIN;
    let have = PieceSet::new(PIECES);
    let me = PeerId([9; 32]);
    let mut exchange = Exchange::new(now, me, (digest, size), have, (vec![HOME], false), &mut mail);
    let run = Run { first: 0, end: PIECES };
    let feeds = (0..4).map(|class| ClassFeeds { class, feeds: vec![Feed { peer: feed(class), run }] });
    exchange.handle_welcome(now, HOME, (4, LIST), feeds.collect(), &mut mail);
    if listed {
        exchange.handle_hashes(now, &signed(HOME, LIST, 0..PIECES), |_| false, &mut mail);
    }
    mail.clear();
    (exchange, mail)
}

/// Looks at the feeds every 100 ms, while `pieces` says which come when; what was complained about, with the moment.
fn complaints(time: Duration, arrives: impl FnMut(u32) -> Option<u64>) -> Vec<(u8, Complaint, Duration)> {
    complaints_in(1, time, arrives)
}

/// The same while the node receives `crowd` blobs.
fn complaints_in(
    crowd: usize,
    time: Duration,
    mut arrives: impl FnMut(u32) -> Option<u64>,
) -> Vec<(u8, Complaint, Duration)> {
    // The node has been up for long: nobody is silent for as long as that.
    let begun = Time::ZERO + Duration::from_secs(3600);
    let (mut exchange, mut mail) = joined_at(begun, true);
    let mut told = Vec::new();
    for millis in (0..time.as_millis() as u64).step_by(100) {
        let now = begun + Duration::from_millis(millis);
        for piece in (0..PIECES).filter(|p| arrives(*p) == Some(millis)) {
            let from = feed((piece % 4) as u8);
            exchange.handle_arrived(now, from, (piece, right(piece), 0), &mut mail);
        }
        exchange.advance(now, || vec![HOME], Load { crowd, ..Load::default() }, &mut mail);
        for (_, message) in mail.drain(..) {
            match message {
                Message::Complain { class, why, .. } => told.push((class, why, now - begun)),
                // The home lives, and changes nothing.
                Message::Join { .. } => exchange.heard = now,
                _ => {}
            }
        }
        exchange.standing = Standing::Joined;
    }
    told
}

#[test]
fn who_is_complained_about_and_when() {
    let second = Duration::from_secs(1);
    assert_eq!(complaints(3 * second, |piece| Some(u64::from(piece) * 100)), [], "all is well");
    let slowly = |piece| Some(1000 + u64::from(piece) * 500);
    assert_eq!(complaints(10 * second, slowly), [], "each class waits for two seconds, on slow links");
    // The feeds of two classes send two pieces at a time: who is ahead says nothing.
    let by_turns =
        |piece| Some(500 * u64::from(if piece % 4 < 2 { piece - piece / 4 % 2 * 4 } else { piece }));
    assert_eq!(complaints(10 * second, by_turns), [], "a piece more or less is no difference");
    let one_is_silent = complaints(4 * second, |p| (p % 4 != 2).then_some(u64::from(p) * 100));
    assert!(one_is_silent.iter().all(|(class, ..)| *class == 2), "{one_is_silent:?}");
    assert!(one_is_silent.iter().any(|(_, why, _)| *why == Complaint::Silent), "{one_is_silent:?}");
    let first = one_is_silent.first().map(|c| c.2);
    assert!(first.is_some_and(|at| at <= FEED_SILENCE_MAX + second), "{one_is_silent:?}");
    // Where the others are far ahead meanwhile it does not take as long,
    let far_ahead = complaints(second, |p| (p % 4 != 2).then_some(u64::from(p) / 8 * 100));
    let first = far_ahead.first().copied();
    assert_eq!(first, Some((2, Complaint::Silent, FAR_BEHIND_SILENCE_MAX)), "{far_ahead:?}");
    // nor does it where nothing comes any more because the others are complete.
    let last = |p: u32| (p % 4 != 2 || p < PIECES - 8).then_some(u64::from(p) / 8 * 100);
    let ended = complaints(2 * second, last);
    assert!(ended.first().is_some_and(|c| c.2 <= FEED_SILENCE_MAX + 3 * EXCHANGE_CHECK), "{ended:?}");
    let all_are_silent = complaints(6 * second, |_| None);
    let classes: Vec<_> = all_are_silent.iter().map(|c| (c.0, c.1)).collect();
    assert_eq!(classes, [0, 1, 2, 3].map(|class| (class, Complaint::Silent)));
    assert!(
        all_are_silent.iter().all(|c| c.2 >= ALL_SILENT_MAX),
        "the home has its time: {all_are_silent:?}"
    );
    // Beside two other blobs each stream has a third of the link.
    let thirds = |piece| Some(5000 + u64::from(piece) * 600);
    assert!(!complaints(12 * second, thirds).is_empty());
    assert_eq!(complaints_in(3, 12 * second, thirds), []);
    let silent = complaints_in(100, 20 * second, |_| None);
    let first = silent.first().map(|c| c.2);
    assert!(first.is_some_and(|at| at <= FEED_PATIENCE_MAX + EXCHANGE_CHECK), "there is an end to patience");
}

#[test]
fn faults_of_a_feed_are_told_at_once_and_it_is_left() {
    type Fault = fn(&mut Exchange, &mut Mail);
    let faults: [(Complaint, Fault); 3] = [
        (Complaint::Lost, |e, mail| e.handle_lost(Time::ZERO, &feed(1), || vec![HOME], mail)),
        (Complaint::Refused, |e, mail| e.handle_refused(Time::ZERO, &feed(1), 1, mail)),
        (Complaint::Wrong, |e, mail| {
            assert_eq!(e.handle_arrived(Time::ZERO, feed(1), (5, WRONG, 0), mail), Arrival::Wrong);
        }),
    ];
    for (expected, fault) in faults {
        let (mut exchange, mut mail) = joined(true);
        fault(&mut exchange, &mut mail);
        let (to, Message::Complain { class, about, why, missing, .. }) = &mail[0] else { panic!("{mail:?}") };
        assert_eq!((*to, *class, *about, *why), (HOME, 1, feed(1), expected));
        let pieces: Vec<_> = missing.iter().map(|run| run.first).collect();
        assert_eq!(pieces, (1..PIECES).step_by(4).collect::<Vec<_>>(), "{expected:?}");
        assert!(exchange.feeds().all(|(class, _)| class != 1), "{expected:?}");
    }
}

#[test]
fn whoever_is_no_feed_is_not_complained_about() {
    let (mut exchange, mut mail) = joined(true);
    exchange.handle_refused(Time::ZERO, &feed(1), 2, &mut mail);
    exchange.handle_lost(Time::ZERO, &PeerId([77; 32]), || vec![HOME], &mut mail);
    assert!(mail.is_empty(), "{mail:?}");
}

#[test]
fn of_pieces_that_do_not_exist_a_feed_is_asked_for_none() {
    for first in [PIECES, u32::MAX - 1, u32::MAX] {
        let (mut exchange, mut mail) = joined(true);
        let run = Run { first, end: u32::MAX };
        let feeds = (0..4).map(|class| ClassFeeds { class, feeds: vec![Feed { peer: feed(class), run }] });
        exchange.handle_feeds(Time::ZERO, feeds.collect(), &mut mail);
        let is_closed = |(_, message): &(PeerId, Message)| matches!(message, Message::Unsubscribe { .. });
        assert!(mail.len() == 4 && mail.iter().all(is_closed), "from {first}: {mail:?}");
    }
}

#[test]
fn each_piece_that_is_kept_aside_gets_one_word() {
    let (mut exchange, mut mail) = joined(false);
    let pending = |e: &mut Exchange, from, piece, mail: &mut Mail| {
        assert_eq!(e.handle_arrived(Time::ZERO, from, (piece, right(piece), 0), mail), Arrival::Pending);
    };
    pending(&mut exchange, feed(0), 0, &mut mail);
    pending(&mut exchange, feed(1), 1, &mut mail);
    pending(&mut exchange, feed(2), 2, &mut mail);
    let twice = exchange.handle_arrived(Time::ZERO, feed(3), (2, right(2), 0), &mut mail);
    assert_eq!(twice, Arrival::Duplicate);
    assert_eq!(exchange.take_useless(), []);
    // One is fetched upstream meanwhile, one is judged, and one is left when the flight ends.
    exchange.handle_fetched(Time::ZERO, 0, right(0), false, &mut mail);
    assert_eq!(exchange.take_useless(), [(0, feed(0))]);
    let hashes = signed(HOME, LIST, 1..2);
    let (judged, _) = exchange.handle_hashes(Time::ZERO, &hashes, |_| false, &mut mail);
    assert_eq!(judged, [(1, feed(1), true)]);
    exchange.finish(&mut mail);
    assert_eq!(exchange.take_useless(), [(2, feed(2))]);
    assert_eq!(exchange.take_useless(), []);
}

#[test]
fn whose_hashes_count() {
    let other = feed(1);
    let arrives = |e: &mut Exchange, piece: u32, hash, mail: &mut Mail| {
        e.handle_arrived(Time::ZERO, feed((piece % 4) as u8), (piece, hash, 0), mail)
    };
    let (mut exchange, mut mail) = joined(false);
    let hear = |e: &mut Exchange, hashes, is_home| {
        e.handle_hashes(Time::ZERO, &hashes, |_| is_home, &mut Mail::new())
    };
    assert!(!hear(&mut exchange, signed(HOME, LIST - 1, 0..8), true).1, "a list that is void");
    assert!(!hear(&mut exchange, signed(other, LIST, 0..8), false).1, "no home");
    assert!(hear(&mut exchange, signed(other, LIST, 0..8), true).1, "a home by another list of members");
    assert_eq!(arrives(&mut exchange, 0, right(0), &mut mail), Arrival::Accepted);
    assert_eq!(arrives(&mut exchange, 5, right(5), &mut mail), Arrival::Pending, "it vouches for itself");
    assert_eq!(arrives(&mut exchange, 2, WRONG, &mut mail), Arrival::Pending, "perhaps the hash is wrong");
    let (judged, _) = hear(&mut exchange, signed(HOME, LIST, 0..8), true);
    assert_eq!(judged, [(2, feed(2), false), (5, feed(1), true)], "the home that was joined decides");
    assert!(!hear(&mut exchange, signed(other, LIST, 0..8), true).1, "and has the last word");
}

/// Three homes, the best one first, and an exchange that asks the first.
fn asking() -> (Exchange, [PeerId; 3], Mail) {
    let digest = Digest::new(Algorithm::Sha256, &[5; 32]);
    let mut homes = [1, 2, 3].map(|n| PeerId([n; 32]));
    homes.sort_by(
        |a, b| if crate::homes::outranks(&digest, a, b) { Ordering::Less } else { Ordering::Greater },
    );
    let mut mail = Mail::new();
    let size = u64::from(PIECES) * crate::pieces::PIECE_BYTES_MIN;
    let me = PeerId([9; 32]);
    let exchange = Exchange::new(
        Time::ZERO,
        me,
        (digest, size),
        PieceSet::new(PIECES),
        (homes.to_vec(), false),
        &mut mail,
    );
    (exchange, homes, mail)
}

#[test]
fn each_home_has_longer_than_the_one_before() {
    let (mut exchange, homes, mut mail) = asking();
    let mut asked = Vec::new();
    while let Some(at) = exchange.next_wakeup() {
        mail.clear();
        exchange.advance(at, || homes.to_vec(), Load::default(), &mut mail);
        let joins = mail.iter().filter(|(_, message)| matches!(message, Message::Join { .. }));
        asked.extend(joins.map(|(to, _)| (*to, at.since_origin())));
    }
    let left = mail.iter().filter(|(_, message)| matches!(message, Message::Leave { .. }));
    assert!(left.map(|(to, _)| to).eq(&homes), "they do not count on it, should they answer after all");
    let join = crate::limits::JOIN_TIMEOUT;
    assert_eq!(asked, [(homes[1], join), (homes[2], 3 * join)]);
    assert_eq!(exchange.standing(), Standing::Alone(LeaseEnd::Denied));
}

#[test]
fn homes_that_name_each_other_are_left() {
    let (mut exchange, homes, mut mail) = asking();
    let mut asked = homes[0];
    for _ in 0..REDIRECTS_MAX {
        let other = if asked == homes[0] { homes[1] } else { homes[0] };
        exchange.handle_not_home(Time::ZERO, asked, other, &mut mail);
        assert_eq!(exchange.home(), Some(other));
        asked = other;
    }
    let other = if asked == homes[0] { homes[1] } else { homes[0] };
    exchange.handle_not_home(Time::ZERO, asked, other, &mut mail);
    assert_eq!(exchange.home(), Some(other), "the next in the row");
    assert!(matches!(exchange.standing(), Standing::Joining(1)));
}

#[test]
fn a_home_that_welcomes_a_node_on_its_own_is_left() {
    let (mut exchange, homes, mut mail) = asking();
    exchange.handle_alone(LeaseEnd::Denied, &mut mail);
    mail.clear();
    exchange.handle_welcome(Time::ZERO, homes[0], (1, 1), vec![], &mut mail);
    assert!(matches!(mail.make_contiguous(), [(to, Message::Leave { .. })] if *to == homes[0]));
}

#[test]
fn a_node_that_is_late_itself_gives_a_home_longer() {
    let (mut exchange, homes, mut mail) = asking();
    let join = crate::limits::JOIN_TIMEOUT;
    let late = Load { excuse: join / 2, ..Load::default() };
    exchange.advance(Time::ZERO + join, || homes.to_vec(), late, &mut mail);
    let excused = exchange.next_wakeup().unwrap();
    assert_eq!(excused, Time::ZERO + join + join / 2);
    exchange.advance(excused, || homes.to_vec(), late, &mut mail);
    assert_eq!(mail.back().map(|(to, _)| *to), Some(homes[1]));
    // The next one has it as well only if the node is still late.
    assert_eq!(exchange.next_wakeup(), Some(excused + 2 * join));
}

#[test]
fn of_several_homes_that_answer_late_the_best_one_counts_and_the_others_hear_of_it() {
    let left = |mail: &Mail| {
        let left = mail.iter().filter(|(_, m)| matches!(m, Message::Leave { .. }));
        left.map(|(to, _)| *to).collect::<Vec<_>>()
    };
    // The order in which the first two answer once both were asked.
    for order in [[0, 1], [1, 0]] {
        let (mut exchange, homes, mut mail) = asking();
        exchange.advance(
            Time::ZERO + crate::limits::JOIN_TIMEOUT,
            || homes.to_vec(),
            Load::default(),
            &mut mail,
        );
        mail.clear();
        for rank in order {
            exchange.handle_welcome(Time::ZERO, homes[rank], (4, LIST), vec![], &mut mail);
        }
        assert_eq!(exchange.home(), Some(homes[0]), "{order:?}");
        assert!(left(&mail).contains(&homes[1]) && !left(&mail).contains(&homes[0]), "{order:?}: {mail:?}");
    }
}

/// A feed that has everything always has more than it can send.
#[test]
fn a_node_whose_feeds_have_everything_does_not_take_itself_for_slow() {
    const MANY: u32 = 64;
    // `backlog` of a piece's feed behind that piece.
    let tells = |backlog: fn(u32) -> u32| {
        let (digest, mut mail, me) = (Digest::new(Algorithm::Sha256, &[5; 32]), Mail::new(), PeerId([9; 32]));
        let size = u64::from(MANY) * crate::pieces::PIECE_BYTES_MIN;
        let have = PieceSet::new(MANY);
        let mut exchange =
            Exchange::new(Time::ZERO, me, (digest, size), have, (vec![HOME], false), &mut mail);
        let run = Run { first: 0, end: MANY };
        let feeds = (0..4).map(|class| ClassFeeds { class, feeds: vec![Feed { peer: feed(class), run }] });
        exchange.handle_welcome(Time::ZERO, HOME, (4, LIST), feeds.collect(), &mut mail);
        exchange.handle_hashes(Time::ZERO, &signed(HOME, LIST, 0..MANY), |_| false, &mut mail);
        for piece in 0..MANY / 2 {
            let now = Time::ZERO + (piece + 1) * EXCHANGE_CHECK / 4;
            let came = (piece, right(piece), backlog(piece));
            exchange.handle_arrived(now, feed((piece % 4) as u8), came, &mut mail);
            exchange.advance(now, || vec![HOME], Load::default(), &mut mail);
        }
        mail.iter().any(|(_, m)| matches!(m, Message::Complain { about, .. } if *about == me))
    };
    assert!(!tells(|piece| (MANY - 1 - piece) / 4), "all that is left of the class");
    assert!(!tells(|_| 3), "feeds that are a little ahead and get no further");
    assert!(tells(|piece| (piece / 4).min(9)), "feeds that gain twice as much");
}
