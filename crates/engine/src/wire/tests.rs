//! The form of each message is pinned by its bytes, and whatever is no message is refused.

use proptest::prelude::*;

use super::*;
use crate::limits::{ANNOUNCE_BLOBS_MAX, ENTRIES_PER_FRAME_MAX, FEEDS_PER_CLASS_MAX, RUNS_PER_MESSAGE_MAX};
use crate::swarm::classes::CLASSES_MAX;

fn sha256() -> Digest {
    Digest::new(Algorithm::Sha256, &[0xd1; 32])
}

fn sha512() -> Digest {
    Digest::new(Algorithm::Sha512, &[0xd5; 64])
}

fn peer(byte: u8) -> PeerId {
    PeerId([byte; 32])
}

fn run(first: u32, end: u32) -> Run {
    Run { first, end }
}

fn entry(piece: u32, byte: u8) -> Entry {
    Entry { piece, hash: PieceHash([byte; 32]) }
}

fn signed() -> Hashes {
    Hashes {
        digest: sha256(),
        home: peer(0xa6),
        list: 0x0102_0304_0506,
        entries: vec![entry(70_000, 0xe2), entry(3, 0xe3)],
        signature: Signature([0x51; 64]),
    }
}

const LEASE: LeaseId = LeaseId { epoch: 0x0102_0304_0506, number: 7 };

fn feeds() -> Vec<ClassFeeds> {
    let feed = |byte, run| Feed { peer: peer(byte), run };
    vec![
        ClassFeeds { class: 0, feeds: vec![feed(0xa1, run(0, 300)), feed(0xa2, run(300, 400))] },
        ClassFeeds { class: 3, feeds: vec![] },
    ]
}

/// One of each, in the order of the enum, with everything that a field can be told apart by.
fn one_of_each() -> Vec<Message> {
    let digest = sha256();
    let complain = |why| Message::Complain {
        digest,
        class: 1,
        about: peer(0xa3),
        why,
        missing: vec![run(5, 6), run(9, 10)],
    };
    let over = |end| Message::Over { digest, lease: LEASE, at: 251, end };
    let refuse = |reason| Message::Refuse { digest, class: 2, reason };
    vec![
        Message::Swim(vec![1, 2, 3]),
        Message::Join {
            digest,
            size: 1 << 40,
            have: vec![run(0, 250), run(251, 65_536)],
            leases: vec![(LEASE, run(300, 400))],
            again: true,
            insists: false,
            feeds: feeds(),
        },
        Message::Welcome { digest, classes: 16, list: 300, feeds: feeds() },
        Message::NotHome { digest, home: peer(0xa4) },
        Message::Lease { digest, lease: LEASE, run: run(0, 1024) },
        Message::Trim { digest, lease: LEASE, end: 512 },
        Message::Report { digest, lease: LEASE, entries: vec![entry(0, 0xe0), entry(251, 0xe1)], busy: true },
        over(LeaseEnd::Done),
        over(LeaseEnd::Failed),
        over(LeaseEnd::Denied),
        over(LeaseEnd::GivenUp),
        Message::Hashes(Arc::new(signed())),
        Message::Prove { digest, runs: vec![run(1, 2)] },
        Message::List { digest: sha512() },
        Message::Subscribe {
            digest,
            size: 65_536,
            classes: 8,
            class: 7,
            runs: vec![run(7, 64)],
            unlisted: run(3, 250),
        },
        Message::Unsubscribe { digest, class: 7 },
        refuse(Refusal::Unknown),
        refuse(Refusal::Busy),
        Message::Feeds { digest, feeds: feeds() },
        complain(Complaint::Slow),
        complain(Complaint::Silent),
        complain(Complaint::Lost),
        complain(Complaint::Refused),
        complain(Complaint::Wrong),
        Message::Whole { digest, size: 5 },
        Message::Mismatch { digest },
        Message::Restart { digest },
        Message::Leave { digest },
        Message::Announce { blobs: vec![(digest, 1), (sha512(), 1 << 33)] },
        Message::Withdraw { blobs: vec![digest] },
        Message::Alone { digest, end: LeaseEnd::Failed },
        Message::Warm(WarmOrder {
            set: WarmSetId(0x0a0b),
            run: 3,
            order: 4,
            blobs: vec![(digest, 251)],
            registry: "r.example".into(),
            repository: "a/b".into(),
            targets: vec![peer(0xa5)],
            deadline_ms: 60_000,
            keep_until: 252,
        }),
        Message::WarmProgress {
            set: WarmSetId(5),
            order: 6,
            ready: vec![0b101],
            failed: vec![(7, WarmFault::Silent)],
            bytes: 1 << 20,
        },
        Message::WarmRefuse { set: WarmSetId(5), order: 6, why: WarmFault::Silent },
        Message::WarmCancel { set: WarmSetId(5) },
        Message::Holders { digest, size: 251, holders: vec![peer(0xa1), peer(0xa2)] },
        Message::Inquire { digest },
        Message::Known {
            digest,
            size: 251,
            holders: vec![peer(0xa6)],
            receiving: true,
            better: Some(peer(0xa7)),
        },
        Message::WarmPace { set: WarmSetId(5), run: 3, pace: Pace { upstream: 1 << 20, per_node: 251 } },
        Message::Held { digest },
        Message::Hurry { digest },
        Message::Hail,
        Message::Here,
    ]
}

/// The number of a variant on the wire. Without a catch-all arm, so that a new variant does not compile before it is
/// here, and [`every_variant_is_pinned`] fails until it has its bytes.
fn tag(message: &Message) -> u8 {
    match message {
        Message::Swim(_) => 0,
        Message::Join { .. } => 1,
        Message::Welcome { .. } => 2,
        Message::NotHome { .. } => 3,
        Message::Lease { .. } => 4,
        Message::Trim { .. } => 5,
        Message::Report { .. } => 6,
        Message::Over { .. } => 7,
        Message::Hashes(_) => 8,
        Message::Prove { .. } => 9,
        Message::List { .. } => 10,
        Message::Subscribe { .. } => 11,
        Message::Unsubscribe { .. } => 12,
        Message::Refuse { .. } => 13,
        Message::Feeds { .. } => 14,
        Message::Complain { .. } => 15,
        Message::Whole { .. } => 16,
        Message::Mismatch { .. } => 17,
        Message::Restart { .. } => 18,
        Message::Leave { .. } => 19,
        Message::Announce { .. } => 20,
        Message::Withdraw { .. } => 21,
        Message::Alone { .. } => 22,
        Message::Warm(_) => 23,
        Message::WarmProgress { .. } => 24,
        Message::WarmRefuse { .. } => 25,
        Message::WarmCancel { .. } => 26,
        Message::Holders { .. } => 27,
        Message::Inquire { .. } => 28,
        Message::Known { .. } => 29,
        Message::WarmPace { .. } => 30,
        Message::Held { .. } => 31,
        Message::Hurry { .. } => 32,
        Message::Hail => 33,
        Message::Here => 34,
    }
}

/// Number of variants, one more than the largest tag.
const VARIANTS: u8 = 35;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs of one byte are written `d1*32`, and parts are set apart by spaces: a frame that a person can read.
fn unpack(golden: &str) -> String {
    let part = |part: &str| match part.split_once('*') {
        Some((byte, times)) => byte.repeat(times.parse().expect("a number of times")),
        None => part.to_owned(),
    };
    golden.split_whitespace().map(part).collect()
}

/// In the order of [`one_of_each`]. Integers up to 250 are one byte; `fb` announces two bytes, `fc` four, `fd` eight.
const GOLDEN: &[&str] = &[
    // Swim
    "01 00 03 010203",
    // Join: size, have, leases, again, insists, feeds
    "01 01 00 d1*32 fd 0000000000010000 02 00 fa fbfb00 fc00000100 01 fd 0605040302010000 07 fb2c01 fb9001 01 00 \
      02 00 02 a1*32 00 fb2c01 a2*32 fb2c01 fb9001 03 00",
    // Welcome: classes, list, feeds
    "01 02 00 d1*32 10 fb2c01 02 00 02 a1*32 00 fb2c01 a2*32 fb2c01 fb9001 03 00",
    // NotHome
    "01 03 00 d1*32 a4*32",
    // Lease
    "01 04 00 d1*32 fd 0605040302010000 07 00 fb0004",
    // Trim
    "01 05 00 d1*32 fd 0605040302010000 07 fb0002",
    // Report: entries, busy
    "01 06 00 d1*32 fd 0605040302010000 07 02 00 e0*32 fbfb00 e1*32 01",
    // Over: at, end
    "01 07 00 d1*32 fd 0605040302010000 07 fbfb00 00",
    "01 07 00 d1*32 fd 0605040302010000 07 fbfb00 01",
    "01 07 00 d1*32 fd 0605040302010000 07 fbfb00 02",
    "01 07 00 d1*32 fd 0605040302010000 07 fbfb00 03",
    // Hashes: home, list, entries, signature
    "01 08 00 d1*32 a6*32 fd 0605040302010000 02 fc70110100 e2*32 03 e3*32 51*64",
    // Prove
    "01 09 00 d1*32 01 01 02",
    // List, of a SHA-512 digest
    "01 0a 01 d5*64",
    // Subscribe: size, classes, class, runs, unlisted
    "01 0b 00 d1*32 fc00000100 08 07 01 07 40 03 fa",
    // Unsubscribe
    "01 0c 00 d1*32 07",
    // Refuse
    "01 0d 00 d1*32 02 00",
    "01 0d 00 d1*32 02 01",
    // Feeds
    "01 0e 00 d1*32 02 00 02 a1*32 00 fb2c01 a2*32 fb2c01 fb9001 03 00",
    // Complain: class, about, why, missing
    "01 0f 00 d1*32 01 a3*32 00 02 05 06 09 0a",
    "01 0f 00 d1*32 01 a3*32 01 02 05 06 09 0a",
    "01 0f 00 d1*32 01 a3*32 02 02 05 06 09 0a",
    "01 0f 00 d1*32 01 a3*32 03 02 05 06 09 0a",
    "01 0f 00 d1*32 01 a3*32 04 02 05 06 09 0a",
    // Whole
    "01 10 00 d1*32 05",
    // Mismatch
    "01 11 00 d1*32",
    // Restart
    "01 12 00 d1*32",
    // Leave
    "01 13 00 d1*32",
    // Announce
    "01 14 02 00 d1*32 01 01 d5*64 fd 0000000002000000",
    // Withdraw
    "01 15 01 00 d1*32",
    // Alone
    "01 16 00 d1*32 01",
    // Warm: set, run, order, blobs, registry, repository, targets, deadline, keep
    "0117fb0b0a03040100 d1*32 fbfb0009722e6578616d706c6503612f6201 a5*32 fb60ea fbfc00",
    // WarmProgress: set, order, ready, failed, bytes
    "011805060105010709fc00001000",
    // WarmRefuse
    "0119050609",
    // WarmCancel
    "011a05",
    // Holders: size, holders
    "01 1b 00 d1*32 fbfb00 02 a1*32 a2*32",
    // Inquire
    "01 1c 00 d1*32",
    // Known: size, holders, receiving, better
    "01 1d 00 d1*32 fbfb00 01 a6*32 01 01 a7*32",
    // WarmPace: set, run, upstream, per node
    "011e0503 fc00001000 fbfb00",
    // Held
    "01 1f 00 d1*32",
    // Hurry
    "01 20 00 d1*32",
    // Hail
    "0121",
    // Here
    "0122",
];

#[test]
fn every_message_is_written_as_it_always_was() {
    let messages = one_of_each();
    assert_eq!(messages.len(), GOLDEN.len());
    for (message, golden) in messages.iter().zip(GOLDEN) {
        assert_eq!(hex(&message.encode()), unpack(golden), "{message:?}");
    }
}

#[test]
fn what_a_home_signs_is_what_it_always_was() {
    let golden = "73686f616c2070696563652068617368657320310000 d1*32 0605040302010000 02000000 \
                  70110100 e2*32 03000000 e3*32";
    assert_eq!(hex(&signed().signed_bytes()), unpack(golden));
    let long = Hashes { digest: sha512(), entries: vec![], ..signed() };
    let golden = "73686f616c2070696563652068617368657320310001 d5*64 0605040302010000 00000000";
    assert_eq!(hex(&long.signed_bytes()), unpack(golden));
}

#[test]
fn only_hashes_are_signed_and_only_by_their_home() {
    let sealed = |me: u8| {
        let mut message = Message::Hashes(Arc::new(signed()));
        seal(&mut message, &peer(me), |bytes| [bytes.len() as u8; 64]);
        message
    };
    let length = signed().signed_bytes().len() as u8;
    assert_eq!(sealed(0xa7), Message::Hashes(Arc::new(signed())), "a relay changes nothing");
    let expected = Hashes { signature: Signature([length; 64]), ..signed() };
    assert_eq!(sealed(0xa6), Message::Hashes(Arc::new(expected)));
    let verify = |home: &PeerId, bytes: &[u8], signature: &[u8; 64]| {
        *home == peer(0xa6) && *signature == [bytes.len() as u8; 64]
    };
    assert_eq!(check(&sealed(0xa6), verify), Ok(()));
    assert_eq!(check(&sealed(0xa7), verify), Err(Forged { home: peer(0xa6) }));
    for message in one_of_each().into_iter().filter(|m| !matches!(m, Message::Hashes(_))) {
        let mut same = message.clone();
        seal(&mut same, &peer(0xa6), |_| unreachable!("nothing to sign"));
        assert_eq!(same, message);
        assert_eq!(check(&same, |_, _, _| false), Ok(()), "{message:?}");
    }
}

#[test]
fn every_variant_is_pinned() {
    let mut tags: Vec<u8> = one_of_each().iter().map(tag).collect();
    tags.dedup();
    assert_eq!(tags, (0..VARIANTS).collect::<Vec<_>>());
    for message in one_of_each() {
        assert_eq!(message.encode()[1], tag(&message), "{message:?}");
    }
}

#[test]
fn what_is_written_is_read_again_and_its_length_is_known_before() {
    for message in one_of_each() {
        let frame = message.encode();
        assert_eq!(message.encoded_len(), frame.len(), "{message:?}");
        assert_eq!(Message::decode(&frame).unwrap(), message);
    }
}

#[test]
fn the_largest_messages_that_the_engine_makes_fit() {
    let digest = sha512();
    let feed = Feed { peer: peer(9), run: run(0, u32::MAX) };
    let classes = (0..CLASSES_MAX as u8)
        .map(|class| ClassFeeds { class, feeds: vec![feed; FEEDS_PER_CLASS_MAX] })
        .collect::<Vec<_>>();
    let runs = vec![run(u32::MAX - 1, u32::MAX); RUNS_PER_MESSAGE_MAX];
    let entries = vec![entry(u32::MAX, 1); ENTRIES_PER_FRAME_MAX];
    let messages = [
        Message::Welcome { digest, classes: CLASSES_MAX as u8, list: u64::MAX, feeds: classes.clone() },
        Message::Feeds { digest, feeds: classes },
        Message::Hashes(Arc::new(Hashes { digest, list: u64::MAX, entries: entries.clone(), ..signed() })),
        Message::Report { digest, lease: LEASE, entries, busy: true },
        Message::Announce { blobs: vec![(digest, u64::MAX); ANNOUNCE_BLOBS_MAX] },
        Message::Subscribe { digest, size: u64::MAX, classes: 16, class: 15, runs, unlisted: run(0, 9) },
    ];
    for message in messages {
        let frame = message.encode();
        assert!(frame.len() <= FRAME_BYTES_MAX, "{} bytes", frame.len());
        assert_eq!(Message::decode(&frame).unwrap(), message);
    }
}

#[test]
fn what_is_no_frame_is_refused_with_its_reason() {
    assert!(matches!(Message::decode(&[]), Err(WireError::Empty)));
    let mut frame = Message::Leave { digest: sha256() }.encode();
    for version in (0..=u8::MAX).filter(|v| *v != WIRE_VERSION) {
        frame[0] = version;
        assert!(matches!(Message::decode(&frame), Err(WireError::Version(v)) if v == version));
    }
    frame[0] = WIRE_VERSION;
    frame.extend([0, 0]);
    assert!(matches!(Message::decode(&frame), Err(WireError::Trailing(2))));
    let long = vec![WIRE_VERSION; FRAME_BYTES_MAX + 1];
    assert!(matches!(Message::decode(&long), Err(WireError::TooLong(n)) if n == FRAME_BYTES_MAX + 1));
    for variant in VARIANTS..=250 {
        assert!(matches!(Message::decode(&[WIRE_VERSION, variant]), Err(WireError::Malformed(_))));
    }
    // A digest of an algorithm that does not exist.
    let frame = [&[WIRE_VERSION, 19, 2][..], &[0; 64]].concat();
    assert!(matches!(Message::decode(&frame), Err(WireError::Malformed(_))));
}

#[test]
fn a_frame_that_was_cut_short_is_refused_at_every_length() {
    for message in one_of_each() {
        let frame = message.encode();
        for len in 1..frame.len() {
            assert!(
                matches!(Message::decode(&frame[..len]), Err(WireError::Malformed(_))),
                "{len} bytes of {message:?}"
            );
        }
    }
}

#[test]
fn a_length_that_nobody_has_sent_reserves_nothing() {
    // 2^62 elements in a few bytes: if memory were reserved for them, the test would not survive it.
    let huge = [&[0xfd][..], &(1u64 << 62).to_le_bytes()].concat();
    let large = [&[0xfc][..], &(FRAME_BYTES_MAX as u32).to_le_bytes()].concat();
    let digest = [&[0][..], &[0xd1; 32]].concat();
    let lease = [1, 1];
    // What stands before a length, of each message that has one.
    let heads: [(u8, Vec<u8>); 12] = [
        (0, vec![]),
        (1, [&digest[..], &[5]].concat()),
        (1, [&digest[..], &[5, 0]].concat()),
        (2, [&digest[..], &[16, 1]].concat()),
        (6, [&digest[..], &lease].concat()),
        (8, [&digest[..], &[7; 32], &[1]].concat()),
        (9, digest.clone()),
        (11, [&digest[..], &[5, 1, 0]].concat()),
        (15, [&digest[..], &[0], &[7; 32], &[0]].concat()),
        (20, vec![]),
        (21, vec![]),
        (27, [&digest[..], &[5]].concat()),
    ];
    for (variant, head) in heads {
        for length in [&huge, &large] {
            let frame = [&[WIRE_VERSION, variant][..], &head, length, &[0; 8]].concat();
            assert!(matches!(Message::decode(&frame), Err(WireError::Malformed(_))), "{}", hex(&frame));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever comes, it is a message or it is refused; and there is one way to write a message.
    #[test]
    fn random_bytes_are_refused_or_read(variant in 0..VARIANTS, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let frame = [&[WIRE_VERSION, variant][..], &body].concat();
        if let Ok(message) = Message::decode(&frame) {
            prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }
    }

    /// A frame in which some bytes have changed is a message or it is refused.
    #[test]
    fn changed_frames_are_refused_or_read(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let messages = one_of_each();
        let mut frame = messages[which.index(messages.len())].encode();
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if let Ok(message) = Message::decode(&frame) {
            prop_assert_eq!(message.encoded_len(), message.encode().len());
        }
    }
}
