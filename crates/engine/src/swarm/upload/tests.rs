//! Turns, bounds and slow readers.

use super::*;
use crate::ids::Algorithm;

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn blob() -> Digest {
    Digest::new(Algorithm::Sha256, &[5; 32])
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

/// All blobs are still being received.
fn relays(_: &Digest) -> bool {
    true
}

const ALL: Run = Run { first: 0, end: 64 };

#[test]
fn subscriptions_take_turns_and_backlog_is_told() {
    let mut uploads = Uploads::default();
    for reader in [1, 2] {
        uploads.subscribe(peer(reader), blob(), 0, 4, vec![ALL], |piece| piece < 20);
    }
    let next: Vec<_> =
        std::iter::from_fn(|| uploads.next(at(0), relays)).map(|s| (s.to, s.piece, s.backlog)).collect();
    let turn = |piece, backlog| [(peer(1), piece, backlog), (peer(2), piece, backlog)];
    assert_eq!(next, [turn(0, 4), turn(4, 3), turn(8, 2)].concat(), "as many as there are places");
    uploads.sent(at(1), UploadId(1));
    let send = uploads.next(at(1), relays).unwrap();
    assert_eq!((send.to, send.piece, send.backlog), (peer(1), 12, 1));
    uploads.offer(&blob(), 20);
    uploads.offer(&blob(), 21);
    uploads.offer(&blob(), 16);
    let mut rest = Vec::new();
    for done in 2..20 {
        uploads.sent(at(done), UploadId(done));
        rest.extend(std::iter::from_fn(|| uploads.next(at(done), relays)).map(|s| (s.to, s.piece)));
    }
    let of = |reader| rest.iter().filter(|(to, _)| *to == peer(reader)).map(|(_, p)| *p).collect::<Vec<_>>();
    assert_eq!(
        (of(1), of(2)),
        (vec![16, 20], vec![12, 16, 20]),
        "of this class only, in order, and none twice"
    );
}

#[test]
fn a_stream_on_which_everything_has_been_sent_closes_unless_it_relays() {
    for (class, closes) in [(0, false), (1, true), (2, true), (3, true)] {
        let mut uploads = Uploads::default();
        uploads.subscribe(peer(1), blob(), class, 4, vec![Run { first: 0, end: 8 }], |piece| piece < 4);
        uploads.offer(&blob(), u32::from(class) + 4);
        assert_eq!(std::iter::from_fn(|| uploads.next(at(0), relays)).count(), 2);
        assert_eq!(uploads.is_empty(), closes, "class {class}");
        uploads.end_relay(&blob());
        assert!(uploads.is_empty(), "no more hashes come: class {class}");
    }
    // What is stored is relayed by nobody,
    let mut uploads = Uploads::default();
    uploads.subscribe(peer(1), blob(), 0, 4, vec![ALL], |piece| piece < 60);
    uploads.subscribe(peer(2), blob(), 0, 4, vec![Run { first: 4, end: 8 }], |_| true);
    uploads.end_relay(&blob());
    assert_eq!(uploads.len(), 2, "and what is to be sent still goes");
    let mut sent = 0;
    while let Some(send) = uploads.next(at(0), |_| false) {
        uploads.sent(at(0), send.upload);
        sent += 1;
    }
    assert_eq!((sent, uploads.len()), (16, 1));
    uploads.offer(&blob(), 60);
    assert!(uploads.next(at(0), |_| false).is_some() && uploads.is_empty());
}

#[test]
fn a_piece_that_is_named_twice_is_sent_once_and_keeps_no_stream_open() {
    let (mut uploads, run) = (Uploads::default(), Run { first: 1, end: 2 });
    uploads.subscribe(peer(1), blob(), 1, 4, vec![run, run], |_| true);
    assert!(uploads.next(at(0), relays).is_some());
    assert!(uploads.is_empty());
}

#[test]
fn what_is_not_wanted_is_not_sent() {
    let mut uploads = Uploads::default();
    uploads.subscribe(peer(1), blob(), 1, 4, vec![Run { first: 5, end: 10 }], |_| false);
    (0..20).for_each(|piece| uploads.offer(&blob(), piece));
    let pieces: Vec<_> = std::iter::from_fn(|| uploads.next(at(0), relays)).map(|s| s.piece).collect();
    assert_eq!(pieces, [5, 9]);
    uploads.unsubscribe(&peer(1), &blob(), 1);
    assert!(uploads.is_empty() && !uploads.serves(&blob()));
}

#[test]
fn a_slow_reader_does_not_hold_the_places_of_the_others() {
    let mut uploads = Uploads::default();
    for reader in 1..=8 {
        uploads.subscribe(peer(reader), blob(), 0, 1, vec![ALL], |_| true);
    }
    // Half of the readers take a hundred times as long as the others.
    let mut running: Vec<(u64, UploadId, u8)> = Vec::new();
    let mut pieces = [0; 9];
    for now in 0..400 {
        let (ended, rest) = running.into_iter().partition(|(until, _, _)| *until <= now);
        running = rest;
        for (_, upload, reader) in ended {
            pieces[usize::from(reader)] += 1;
            uploads.sent(at(now), upload);
        }
        while let Some(send) = uploads.next(at(now), relays) {
            let reader = send.to.0[0];
            let takes = if reader <= 4 { 100 } else { 1 };
            running.push((now + takes, send.upload, reader));
        }
        assert!(running.len() <= UPLOADS_MAX + UPLOADS_TO_SLOW_MAX);
    }
    assert!(pieces[5..].iter().all(|n| *n == 64), "{pieces:?}");
    assert!(pieces[1..5].iter().all(|n| *n >= 1), "{pieces:?}");
}

/// Whoever rearranges a tree opens and closes streams while the first piece to a reader is on its way.
#[test]
fn a_stream_that_closes_before_its_turn_leaves_it_to_the_others() {
    let mut uploads = Uploads::default();
    uploads.subscribe(peer(9), blob(), 0, 4, vec![Run { first: 0, end: 1 }], |_| true);
    let first = uploads.next(at(0), relays).unwrap();
    uploads.sent(at(1), first.upload);
    // This reader is not known yet: one piece is on its way to it, and the other classes wait.
    (0..4).for_each(|class| uploads.subscribe(peer(1), blob(), class, 4, vec![ALL], |piece| piece < 8));
    let first = uploads.next(at(2), relays).unwrap();
    assert!((first.class, uploads.next(at(2), relays)) == (0, None));
    uploads.unsubscribe(&peer(1), &blob(), 0);
    uploads.sent(at(3), first.upload);
    uploads.unsubscribe(&peer(1), &blob(), 1);
    let mut pieces = Vec::new();
    while let Some(send) = uploads.next(at(4), relays) {
        pieces.push(send.piece);
        uploads.sent(at(4), send.upload);
    }
    pieces.sort_unstable();
    assert_eq!(pieces, [2, 3, 6, 7]);
}

#[test]
fn a_member_that_is_gone_is_forgotten() {
    let mut uploads = Uploads::default();
    uploads.subscribe(peer(1), blob(), 0, 1, vec![ALL], |_| true);
    let send = uploads.next(at(0), relays).unwrap();
    uploads.forget(&peer(1));
    uploads.sent(at(1), send.upload);
    assert!(uploads.is_empty() && uploads.next(at(2), relays).is_none() && uploads.fast == 0);
}

#[test]
fn readers_that_stand_still_hold_a_bounded_number_of_places() {
    let mut uploads = Uploads::default();
    uploads.subscribe(peer(0), blob(), 0, 1, vec![ALL], |piece| piece == 0);
    let quick = uploads.next(at(0), relays).unwrap();
    uploads.sent(at(1), quick.upload);
    (1..=200).for_each(|reader| uploads.subscribe(peer(reader), blob(), 0, 1, vec![ALL], |_| true));
    let mut running = 0;
    for now in 2..2000 {
        running += std::iter::from_fn(|| uploads.next(at(now), relays)).count();
        assert!(running <= UPLOADS_MAX + UPLOADS_DOUBTED_MAX, "{running} at {now} ms");
    }
    assert!(running > UPLOADS_MAX + UPLOADS_TO_SLOW_MAX);
}

#[test]
fn what_a_member_takes_slowly_on_purpose_holds_up_nothing_else_of_it() {
    let mut uploads = Uploads::default();
    let other = Digest::new(Algorithm::Sha256, &[6; 32]);
    uploads.subscribe(peer(1), blob(), 0, 1, vec![ALL], |piece| piece < 20);
    let of = |sends: &[Send], digest: Digest| sends.iter().filter(|send| send.digest == digest).count();
    let take = |uploads: &mut Uploads| std::iter::from_fn(|| uploads.next(at(1), relays)).collect::<Vec<_>>();
    let first = take(&mut uploads);
    assert_eq!(of(&first, blob()), UPLOADS_PER_PEER_MAX);
    uploads.subscribe(peer(1), other, 0, 1, vec![ALL], |piece| piece < 20);
    assert!(take(&mut uploads).is_empty(), "it has as many on the way as it may have");
    uploads.held(&peer(1), &blob());
    assert!(take(&mut uploads).iter().all(|send| send.digest == blob()), "of its own places");
    // The pieces that had left before count as they did; when the first is there, the other blob goes on.
    uploads.sent(at(500), first[0].upload);
    assert!(of(&take(&mut uploads), other) >= 1);
    for send in &first[1..] {
        uploads.sent(at(500), send.upload);
    }
    assert!(of(&take(&mut uploads), other) >= 1, "none is forgotten");
    // A reader of nothing but what is held waits for nobody either.
    uploads.forget(&peer(1));
    assert!(uploads.is_empty());
}

/// A link was cut in the middle of four pieces, and their reader opens the stream anew before they are given up.
#[test]
fn what_is_stuck_in_an_old_stream_keeps_its_reader_from_nothing() {
    let (mut uploads, since) = (Uploads::default(), at(0) + FEED_SILENCE_MAX);
    let subscribe = |uploads: &mut Uploads, now| {
        uploads.leave_behind(now, &peer(1), (blob(), 0));
        uploads.subscribe(peer(1), blob(), 0, 1, vec![ALL], |_| true);
    };
    let sent = |uploads: &mut Uploads, now| std::iter::from_fn(|| uploads.next(now, relays)).count();
    subscribe(&mut uploads, at(0));
    assert_eq!(sent(&mut uploads, at(0)), UPLOADS_PER_PEER_MAX);
    subscribe(&mut uploads, at(1));
    assert_eq!(sent(&mut uploads, at(1)), 0, "that may be the one piece that is still wanted");
    subscribe(&mut uploads, since);
    assert_eq!(sent(&mut uploads, since), UPLOADS_PER_PEER_MAX);
    (1..=4).for_each(|upload| uploads.sent(since, UploadId(upload)));
    assert_eq!(sent(&mut uploads, since), 0, "those had no places any more");
    (5..=8).for_each(|upload| uploads.sent(since, UploadId(upload)));
    assert_eq!(sent(&mut uploads, since), UPLOADS_PER_PEER_MAX);
    // Whoever does that again and again gets no more than a few.
    let later = |times: u32| since + times * FEED_SILENCE_MAX;
    for times in 1..100 {
        subscribe(&mut uploads, later(times));
        sent(&mut uploads, later(times));
    }
    assert_eq!(uploads.on_the_way.len(), UPLOADS_DOUBTED_MAX + 1);
}

/// Over all readers: one that opens its stream anew has its place already, and one that is closed leaves it to the next.
#[test]
fn so_many_streams_have_room_and_no_more() {
    let reader = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        PeerId(key)
    };
    let subscribe = |uploads: &mut Uploads, number: usize| {
        uploads.subscribe(reader(number), blob(), 0, 1, vec![ALL], |_| true);
    };
    let has_room = |uploads: &Uploads, number: usize| uploads.has_room(&reader(number), &blob(), 0);
    let mut uploads = Uploads::default();
    let another = SUBSCRIPTIONS_MAX;
    for number in 0..SUBSCRIPTIONS_MAX {
        assert!(has_room(&uploads, another), "{number} are open");
        subscribe(&mut uploads, number);
    }
    assert_eq!((uploads.len(), has_room(&uploads, another)), (SUBSCRIPTIONS_MAX, false));
    assert!(has_room(&uploads, 7), "that one is open");
    subscribe(&mut uploads, 7);
    assert_eq!(uploads.len(), SUBSCRIPTIONS_MAX, "that one was open");
    assert!(uploads.next(at(0), relays).is_some() && !has_room(&uploads, another), "it has not had all yet");

    uploads.unsubscribe(&reader(8), &blob(), 0);
    assert!(has_room(&uploads, another));
    subscribe(&mut uploads, another);
    assert!(!has_room(&uploads, another + 1), "the next one is in its place");
    uploads.forget(&reader(9));
    assert!(has_room(&uploads, another));
    assert_eq!(uploads.withdraw(&blob()).len(), SUBSCRIPTIONS_MAX - 1);
    assert!(uploads.is_empty() && has_room(&uploads, another));
}
