use super::*;
use crate::demand::Part;
use crate::fault::SourceFault;
use crate::ids::{Algorithm, Digest, FetchId, TicketId};
use crate::io::{FetchFault, Found};
use crate::name::Scope;
use crate::ranges::ByteRanges;
use crate::wire::Message;

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn member(n: u8, generation: u64) -> Arc<Member> {
    Arc::new(Member {
        peer: peer(n),
        generation,
        addresses: ["10.0.0.1:5001".parse().unwrap()].into(),
        data_port: 5002,
        zone: "a".into(),
        labels: Box::default(),
        version: "0.1.0".into(),
    })
}

fn digest() -> Digest {
    Digest::new(Algorithm::Sha256, &[0xab; 32])
}

fn settings() -> Settings {
    Settings { peer: Some(peer(1)), ..Settings::default() }
}

fn ms(n: u64) -> Time {
    Time::from_origin(Duration::from_millis(n))
}

fn inputs() -> Vec<(Time, Input)> {
    let scope =
        Scope { registry: "docker.io".parse().unwrap(), repository: "library/redis".parse().unwrap() };
    let have: ByteRanges = [0..10, 20..30].into_iter().collect();
    let roster = |members: &[Arc<Member>]| Input::Roster(Arc::new(Roster::new(members.to_vec())));
    let fault = FetchFault::Source(SourceFault::RateLimited { retry_after: Some(Duration::from_secs(1)) });
    vec![
        (ms(1), roster(&[member(1, 1), member(2, 1)])),
        (ms(1), Input::Open { ticket: TicketId(7), digest: digest(), scope, part: Part::Bounded(3, 9) }),
        (ms(2), Input::Looked { digest: digest(), found: Found::Partial { size: 300, have } }),
        (ms(5), roster(&[member(1, 1), member(2, 2), member(3, 1)])),
        (ms(6), Input::FetchEnded { fetch: FetchId(300), result: Err(fault) }),
        (ms(7), Input::Heard { from: peer(2), message: Message::List { digest: digest() } }),
        (ms(9), roster(&[member(1, 1), member(3, 1)])),
        (ms(9), Input::Wakeup),
    ]
}

fn recording() -> Vec<u8> {
    let (mut recorder, mut bytes) = Recorder::begin(settings());
    for (now, input) in inputs() {
        bytes.extend(recorder.input(now, &input));
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Recorded>, RecordError> {
    Recording::open(bytes)?.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_is_read_is_what_was_recorded() {
    let read = read(&recording()).unwrap();
    assert!(matches!(read[0], Recorded::Begun(s) if s == settings()));
    let expected = inputs().into_iter().map(|(now, input)| format!("{:?}", Recorded::Input(now, input)));
    let found = read[1..].iter().map(|recorded| format!("{recorded:?}"));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn golden_bytes() {
    let (mut recorder, begin) = Recorder::begin(settings());
    let mut frames = vec![hex(&begin)];
    frames.extend(inputs().iter().map(|(now, input)| hex(&recorder.input(*now, input))));
    assert_eq!(frames, GOLDEN);
}

#[test]
fn a_restart_forgets_the_members() {
    let (mut recorder, mut bytes) = Recorder::begin(settings());
    let (now, roster) = inputs().swap_remove(0);
    let first = recorder.input(now, &roster);
    bytes.extend(&first);
    bytes.extend(recorder.restart(settings()));
    let second = recorder.input(now, &roster);
    assert_eq!(first.len(), second.len() + 4, "the same list, at a shorter distance");
    bytes.extend(second);
    let read = read(&bytes).unwrap();
    assert_eq!(format!("{:?}", read[1]), format!("{:?}", read[3]));
}

#[test]
fn what_is_no_recording_is_refused_with_its_place() {
    let whole = recording();
    let (_, begin) = Recorder::begin(settings());
    let mut long = whole.clone();
    long[begin.len()..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut malformed = whole.clone();
    malformed[begin.len() + 4] = 99;
    let mut trailing = whole[..begin.len()].to_vec();
    trailing.extend([2, 0, 0, 0, 3, 0]);
    let mut early = whole[..HEAD_BYTES].to_vec();
    early.extend_from_slice(&whole[begin.len()..]);
    let table = [
        (b"".to_vec(), "frame 0, at byte 0: this is not a recording of an engine"),
        (b"{\"scenario\": 1}".to_vec(), "frame 0, at byte 0: this is not a recording of an engine"),
        (MAGIC.to_vec(), "frame 0, at byte 0: the recording ends in the middle: 1 bytes are missing"),
        (b"shoalrec\x09".to_vec(), "frame 0, at byte 0: the recording has version 9; this program reads 2"),
        (long, "frame 1, at byte 48: a frame of 4294967295 bytes; at most 16777216 are allowed"),
        (trailing, "frame 1, at byte 48: 1 bytes follow what the frame holds"),
        (early, "frame 0, at byte 9: an input before the engine's settings"),
        (whole[..50].to_vec(), "frame 1, at byte 48: the recording ends in the middle: 2 bytes are missing"),
    ];
    for (bytes, message) in table {
        assert_eq!(read(&bytes).unwrap_err().to_string(), message);
    }
    let error = read(&malformed).unwrap_err();
    assert!(error.to_string().starts_with("frame 1, at byte 48: the bytes make no frame"), "{error}");
    // Wherever it is cut, it is either a shorter recording or an error, and never a panic.
    for end in 0..whole.len() {
        let _ = read(&whole[..end]);
    }
}

#[test]
fn a_full_recording_says_so_and_ends() {
    let (mut recorder, mut bytes) = Recorder::begin(settings());
    recorder.bytes = RECORDING_BYTES_MAX - 5;
    let found = Some((1, vec![crate::wire::PieceHash([1; 32])]));
    bytes.extend(recorder.input(ms(1), &Input::Listed { digest: digest(), found }));
    assert!(recorder.is_full());
    assert!(recorder.input(ms(2), &Input::Wakeup).is_empty());
    assert!(matches!(read(&bytes).unwrap().last(), Some(Recorded::Full)));
}

const GOLDEN: [&str; 9] = [
    "73686f616c72656302230000000020010101010101010101010101010101010101010101010101010101010101010101",
    "7400000002fc40420f00000201010101010101010101010101010101010101010101010101010101010101010101000a0000\
     01fb8913fb8a1301610005302e312e3002020202020202020202020202020202020202020202020202020202020202020101000a00\
     0001fb8913fb8a1301610005302e312e30",
    "400000000100000700abababababababababababababababababababababababababababababababab09646f636b65722e69\
     6f0d6c6962726172792f7265646973020309",
    "3100000001fc40420f000300abababababababababababababababababababababababababababababababab01fb2c010200\
     0a141e",
    "7400000002fcc0c62d00000202020202020202020202020202020202020202020202020202020202020202020201000a0000\
     01fb8913fb8a1301610005302e312e3003030303030303030303030303030303030303030303030303030303030303030101000a00\
     0001fb8913fb8a1301610005302e312e30",
    "1000000001fc40420f0008fb2c01010003010100",
    "4900000001fc40420f000e02020202020202020202020202020202020202020202020202020202020202020a00ababababab\
     ababababababababababababababababababababababababababab",
    "2800000002fc80841e0001020202020202020202020202020202020202020202020202020202020202020200",
    "03000000010019",
];
