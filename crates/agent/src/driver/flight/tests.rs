use std::time::Duration;

use shoal_engine::pieces::PIECE_BYTES_MIN;
use shoal_store::{Options, Store};

use super::*;

const PIECE: u64 = PIECE_BYTES_MIN;
const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);

/// Of three pieces, in a file.
fn flight() -> (tempfile::TempDir, FlightIo) {
    flight_of(Digest::new(Algorithm::Sha256, &[1; 32]), 3 * PIECE)
}

fn flight_of(digest: Digest, size: u64) -> (tempfile::TempDir, FlightIo) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
    let partial = store.partial(&digest, size).unwrap();
    (folder, FlightIo::in_file(digest, Arc::new(partial)))
}

fn piece(byte: u8) -> Vec<Bytes> {
    vec![Bytes::from(vec![byte; PIECE as usize])]
}

/// The byte that a piece begins with in the file; `None` if it may not be read.
fn readable(flight: &FlightIo, piece: u64) -> Option<u8> {
    let mut read = [0];
    flight.partial().unwrap().file().read_exact_at(&mut read, piece * PIECE).unwrap();
    flight.has(piece * PIECE..(piece + 1) * PIECE).then_some(read[0])
}

/// One that sends a piece as it is, and again with other bytes before the first has been judged, must not have those believed.
#[test]
fn of_what_one_member_sends_twice_the_first_counts_until_it_is_judged() {
    let (_folder, flight) = flight();
    // The first lies where it belongs, the second comes from somebody else and is kept.
    let right = flight.offer(0, A, piece(1)).unwrap();
    assert!(right.is_some());
    assert!(flight.offer(0, B, piece(2)).unwrap().is_some());
    for again in [A, B] {
        assert_eq!(flight.offer(0, again, piece(3)).unwrap(), None);
    }
    assert_eq!(readable(&flight, 0), None, "nobody has judged it");
    assert!(flight.place(0, A).unwrap());
    flight.discard(0, B);
    assert_eq!(readable(&flight, 0), Some(1));

    assert!(flight.offer(1, A, piece(4)).unwrap().is_some());
    assert!(flight.offer(1, B, piece(5)).unwrap().is_some());
    assert_eq!(flight.offer(1, B, piece(6)).unwrap(), None);
    assert!(flight.place(1, B).unwrap(), "the one that was kept");
    flight.discard(1, A);
    assert_eq!(readable(&flight, 1), Some(5));

    // What has been judged may come again.
    let wrong = flight.offer(2, A, piece(7)).unwrap();
    flight.discard(2, A);
    assert_ne!(flight.offer(2, A, piece(8)).unwrap(), wrong);
    assert!(flight.place(2, A).unwrap());
    assert_eq!(readable(&flight, 2), Some(8));
    let offers = flight.offers.lock();
    assert!(offers.sent.is_empty() && offers.laid.is_empty() && offers.kept_bytes == 0);
}

#[test]
fn what_is_being_written_or_never_came_is_not_believed() {
    let (_folder, flight) = flight();
    assert!(!flight.place(0, A).unwrap(), "it never came");
    flight.offers.lock().sent.insert((0, A), Sent::Coming);
    flight.offers.lock().laid.insert(0, A);
    flight.discard(0, A);
    assert!(!flight.place(0, A).unwrap(), "it is being written");
    assert_eq!(readable(&flight, 0), None);
    assert!(!flight.place(3, A).unwrap(), "there is no such piece");
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

fn finished(hash: ring::digest::Context) -> Vec<u8> {
    hash.finish().as_ref().to_vec()
}

/// A flight that has got so many bytes, and these bytes, which are not the same anywhere.
fn received(len: u64, is_hashed: bool) -> (tempfile::TempDir, FlightIo, Vec<u8>) {
    let content: Vec<u8> = (0..len).map(|n| (n / 251 + n) as u8).collect();
    let (folder, flight) = flight_of(Digest::new(Algorithm::Sha256, &sha256(&content)), len);
    let mut at = 0;
    for part in content.chunks(512 << 10) {
        let batch = [Bytes::copy_from_slice(part)];
        let written = flight.write(at, &batch).unwrap();
        if is_hashed {
            assert!(!flight.hash(at, &batch));
        }
        at += written;
    }
    (folder, flight, content)
}

/// Time for everything.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn what_the_hash_has_passed_is_not_read_again() {
    let (_folder, flight, content) = received(3 * PASSED_EVERY_BYTES, true);
    let kept = 2 * PASSED_EVERY_BYTES;
    // Whoever reads this gets another hash from now on.
    flight.partial().unwrap().file().write_all_at(&vec![0; kept as usize], 0).unwrap();
    for upto in [kept, 3 * PASSED_EVERY_BYTES] {
        assert_eq!(finished(flight.kept_hash(upto).unwrap()), sha256(&content[..upto as usize]));
    }
    let beyond = kept + 1000;
    assert_eq!(flight.kept_hash(beyond).err(), Some(1000));
    let hash = flight.prefix_hash(beyond, later()).unwrap();
    assert_eq!(finished(hash), sha256(&content[..beyond as usize]));
    assert!(flight.verify().unwrap(), "the running hash is where it was");
}

#[test]
fn what_is_read_for_one_is_hashed_for_all() {
    let (_folder, flight, content) = received(3 * PIECE, false);
    let upto = 2 * PIECE + 5;
    assert_eq!(flight.kept_hash(upto).err(), Some(upto));
    let expected = sha256(&content[..upto as usize]);
    assert_eq!(finished(flight.prefix_hash(upto, later()).unwrap()), expected);
    assert_eq!(finished(flight.kept_hash(upto).unwrap()), expected);
    assert!(flight.verify().unwrap());

    let (first, is_new) = flight.prefix(upto);
    assert!(is_new);
    let (second, is_new) = flight.prefix(upto);
    assert!(!is_new && Arc::ptr_eq(&first, &second));
    assert!(flight.prefix(upto + 1).1, "it is another hash");
}

#[test]
fn a_hash_that_cannot_be_had_is_none_and_takes_no_longer_than_it_may() {
    let (_folder, flight, _) = received(3 * PIECE, false);
    let failure = |upto: u64, due_at| flight.prefix_hash(upto, due_at).err().map(|error| error.kind());
    let catching_up = flight.hasher.lock();
    assert_eq!(flight.kept_hash(PIECE).err(), Some(PIECE));
    assert_eq!(failure(PIECE, Instant::now()), Some(io::ErrorKind::TimedOut), "somebody hangs in the file");
    drop(catching_up);
    assert_eq!(failure(PIECE, Instant::now()), Some(io::ErrorKind::TimedOut));
    flight.partial().unwrap().file().set_len(PIECE).unwrap();
    assert_eq!(failure(2 * PIECE, later()), Some(io::ErrorKind::UnexpectedEof), "the file is shorter");
    assert_eq!(failure(PIECE, later()), None);

    let (_folder, flight) = flight_of(flight.digest(), 3 * PIECE);
    flight.write(PIECE, &piece(1)).unwrap();
    let failed = flight.prefix_hash(2 * PIECE, later()).err().map(|error| error.kind());
    assert_eq!(failed, Some(io::ErrorKind::UnexpectedEof), "the first piece has not come");
}

#[test]
fn no_more_is_kept_of_a_hash_than_there_is_room_for() {
    let mut hasher = Hasher::new(&ring::digest::SHA256);
    let bytes = vec![1; PASSED_EVERY_BYTES as usize];
    for _ in 0..PASSED_MAX + 3 {
        hasher.update(&bytes);
    }
    assert_eq!(hasher.passed.len(), PASSED_MAX);
    let oldest = 4 * PASSED_EVERY_BYTES;
    let table = [(oldest - 1, 0), (oldest, oldest), (oldest + 1, oldest), (u64::MAX, hasher.upto)];
    for (upto, expected) in table {
        assert_eq!(hasher.before(upto).upto, expected, "before {upto}");
    }
}
