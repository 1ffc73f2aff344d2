use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Response;
use shoal_engine::{Algorithm, Digest};
use shoal_store::{Content, Options, Store};
use tempfile::TempDir;

use super::MappedFile;
use super::mapped::find;
use crate::metrics::Metrics;
use crate::registry::listen::fixture::{Server, content, file, sized, soon, steps, until};
use crate::store_health::{StoreHealth, StoredFile};

const MIB: u64 = 1024 * 1024;

fn mapped(len: u64) -> Arc<MappedFile> {
    MappedFile::new(file(len, 0..len), len).expect("files can be mapped")
}

/// Serves `/<start>/<end>/<frame>`: that range of the file in frames of that size.
fn ranges_of(source: &Arc<MappedFile>) -> Router {
    let source = Arc::clone(source);
    Router::new().route(
        "/{start}/{end}/{frame}",
        get(async move |Path((start, end, frame)): Path<(u64, u64, u64)>| {
            sized(end - start, steps(start..end, frame).map(move |part| Ok(source.bytes(part))))
        }),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_arrives_whole_and_by_sendfile_alone() {
    let len = 64 * MIB + 3;
    let source = mapped(len);
    let server = Server::start(ranges_of(&source));
    let mut client = server.client().await;
    let body = soon(client.get(&format!("/0/{len}/{}", 4 * MIB), len)).await;
    assert!(body == content(0..len));
    assert_eq!(source.sent_bytes(), len);
    server.stop().await;
}

#[tokio::test]
async fn ranges_arrive_whole_whatever_their_edges() {
    let len = 3 * MIB + 1234;
    let source = mapped(len);
    let server = Server::start(ranges_of(&source));
    let mut client = server.client().await;
    let mut asked = 0;
    for (start, end, frame) in [
        (0, 1, 1),
        (len - 1, len, 1),
        (4095, 4097, 1),
        (1, 4096, 4096),
        (0, len, len),
        (0, len, 256 * 1024),
        (MIB - 1, 2 * MIB + 1, 10_000),
        (777, len - 777, MIB + 1),
    ] {
        let body = soon(client.get(&format!("/{start}/{end}/{frame}"), end - start)).await;
        assert!(body == content(start..end), "{start}..{end} in frames of {frame}");
        asked += end - start;
        assert_eq!(source.sent_bytes(), asked);
    }
    server.stop().await;
}

/// Small slices of memory and slices of two files in one body, with a known and an unknown length.
#[tokio::test]
async fn memory_and_files_mix_in_one_body() {
    let (one, two) = (mapped(MIB), mapped(2 * MIB));
    let frames = {
        let (one, two) = (Arc::clone(&one), Arc::clone(&two));
        move || {
            vec![
                Bytes::from_static(b"first"),
                one.bytes(10..5000),
                two.bytes(0..2 * MIB),
                Bytes::from(vec![7; 100_000]),
                two.bytes(5..6),
                one.bytes(0..MIB),
                Bytes::from_static(b"last"),
            ]
        }
    };
    let expected = frames().concat();
    let len = expected.len() as u64;
    let of_files = (5000 - 10) + 2 * MIB + 1 + MIB;
    let stream = move || futures_util::stream::iter(frames()).map(std::io::Result::Ok);
    let chunked = stream.clone();
    let app = Router::new()
        .route("/sized", get(async move || sized(len, stream())))
        .route("/chunked", get(async move || Response::new(Body::from_stream(chunked()))));
    let server = Server::start(app);
    let mut client = server.client().await;

    assert!(soon(client.get("/sized", len)).await == expected);
    assert_eq!(one.sent_bytes() + two.sent_bytes(), of_files);

    client.ask("/chunked").await;
    let head = soon(client.head()).await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut body = Vec::new();
    loop {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.extend(soon(client.body(1)).await);
        }
        let size = std::str::from_utf8(&size[..size.len() - 2]).expect("ASCII");
        let size = u64::from_str_radix(size, 16).expect("a chunk size");
        body.extend(soon(client.body(size)).await);
        assert_eq!(soon(client.body(2)).await, b"\r\n");
        if size == 0 {
            break;
        }
    }
    assert!(body == expected);
    assert_eq!(one.sent_bytes() + two.sent_bytes(), 2 * of_files);
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_gets_everything() {
    let len = 64 * MIB;
    let source = mapped(len);
    let server = Server::start(ranges_of(&source));
    let path = format!("/0/{len}/{MIB}");
    let mut slow = server.client().await;
    slow.ask(&path).await;
    soon(slow.head()).await;
    let mut quick = server.client().await;
    assert!(soon(quick.get(&path, len)).await == content(0..len));
    assert!(source.sent_bytes() < 2 * len, "the slow reader's socket holds less than the file");

    let mut got = Vec::new();
    while (got.len() as u64) < len {
        got.extend(soon(slow.body(len / 512)).await);
    }
    assert!(got == content(0..len));
    assert_eq!(source.sent_bytes(), 2 * len);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_each_get_their_own_range() {
    let len = 16 * MIB;
    let source = mapped(len);
    let server = Server::start(ranges_of(&source));
    let clients = (0..48_u64).map(async |n| {
        let (start, end) = (n * 4099, 8 * MIB + n * 70_001);
        let body = server.client().await.get(&format!("/{start}/{end}/{}", 100_000 + n), end - start).await;
        assert!(body == content(start..end), "client {n}");
        end - start
    });
    let got: u64 = soon(futures_util::future::join_all(clients)).await.into_iter().sum();
    assert_eq!(source.sent_bytes(), got);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_file() {
    let len = 64 * MIB;
    let source = mapped(len);
    let app = ranges_of(&source);
    let alive = Arc::downgrade(&source);
    drop(source);
    let server = Server::start(app);
    let mut client = server.client().await;
    client.ask(&format!("/0/{len}/{MIB}")).await;
    soon(client.head()).await;
    let held = alive.strong_count();
    drop(client);
    // The application keeps one.
    until("the connection has let go of the file", || alive.strong_count() < held).await;
    until("the connection is gone", || server.metrics.connections.get() == 0).await;
    server.stop().await;
}

/// Neither a hang, nor a spin, nor a SIGBUS, nor a clean end.
#[tokio::test]
async fn a_file_shortened_behind_our_back_cuts_the_answer() {
    let len = 8 * MIB;
    let file = file(len, 0..len);
    let source = MappedFile::new(Arc::clone(&file), len).expect("files can be mapped");
    let server = Server::start(ranges_of(&source));
    for left in [MIB + 100, MIB, 0] {
        file.set_len(left).expect("files can be shortened");
        let mut client = server.client().await;
        client.ask(&format!("/0/{len}/{len}")).await;
        let head = soon(client.head()).await;
        assert!(head.contains(&format!("content-length: {len}")), "{head}");
        assert!(soon(client.rest()).await == content(0..left), "up to byte {left}");
    }
    server.stop().await;
}

/// A blob of `len` bytes of [`content`] in a store of its own.
struct Stored {
    _folder: TempDir,
    store: Store,
    health: StoreHealth,
    digest: Digest,
    path: PathBuf,
}

impl Stored {
    fn new(len: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options { disk_free_min: 0, ..Options::new(folder.path()) };
        let store = Store::open(options).expect("an empty folder").store;
        let digest = Digest::new(Algorithm::Sha256, &[1; 32]);
        store.put(&digest, None, &Bytes::from(content(0..len)), SystemTime::now()).expect("room");
        let path = folder.path().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
        let health = StoreHealth::new(store.clone(), Metrics::new());
        Stored { _folder: folder, store, health, digest, path }
    }

    fn is_found(&self) -> bool {
        self.store.get(&self.digest, SystemTime::now()).expect("a disk that works").is_some()
    }

    fn mapped(&self) -> Arc<MappedFile> {
        let blob = self.store.get(&self.digest, SystemTime::now()).expect("a disk that works");
        let blob = blob.expect("it is stored");
        let Content::File(file) = &blob.content else { panic!("it is too large for the index") };
        let stored = StoredFile::new(&self.health, &blob, file, Duration::from_secs(60));
        MappedFile::of_stored(stored, blob.size).expect("files can be mapped")
    }

    fn shorten(&self, len: u64) {
        let file = File::options().write(true).open(&self.path).expect("it is there");
        file.set_len(len).expect("files can be shortened");
    }
}

/// One answer ends early; whoever asks again finds no such blob, and has it from elsewhere.
#[tokio::test]
async fn a_stored_blob_that_cannot_be_read_is_served_once() {
    let len = 8 * MIB;
    let stored = Stored::new(len);
    let server = Server::start(ranges_of(&stored.mapped()));
    stored.shorten(MIB);
    let mut client = server.client().await;
    client.ask(&format!("/0/{len}/{len}")).await;
    soon(client.head()).await;
    assert!(soon(client.rest()).await == content(0..MIB));
    // Not by a look-up that notices the length.
    until("the file is gone", || !stored.path.exists()).await;
    until("nothing is left to be done", || !stored.health.doubts(&stored.digest)).await;
    assert!(stored.health.trouble().is_some() && !stored.is_found());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_costs_no_blob() {
    let len = 64 * MIB;
    let stored = Stored::new(len);
    let server = Server::start(ranges_of(&stored.mapped()));
    for _ in 0..3 {
        let mut client = server.client().await;
        client.ask(&format!("/0/{len}/{MIB}")).await;
        soon(client.head()).await;
        // With bytes unread, it is reset.
        drop(client);
        until("the connection is gone", || server.metrics.connections.get() == 0).await;
        assert!(!stored.health.doubts(&stored.digest));
    }
    assert!(stored.is_found() && stored.health.trouble().is_none());
    server.stop().await;
}

/// The file lies there in its full length while it is being received; what is not yet written is not yet asked for.
#[tokio::test]
async fn a_file_is_sent_while_it_is_being_written() {
    let len = 4 * MIB;
    let file = file(len, 0..MIB);
    let source = MappedFile::new(Arc::clone(&file), len).expect("files can be mapped");
    let (progress, frames) = tokio::sync::mpsc::channel::<u64>(1);
    let frames = Arc::new(tokio::sync::Mutex::new(frames));
    let app = {
        let source = Arc::clone(&source);
        Router::new().route(
            "/",
            get(async move || {
                let parts = futures_util::stream::unfold(frames.lock_owned().await, async |mut frames| {
                    Some((frames.recv().await?, frames))
                });
                sized(len, parts.map(move |start| Ok(source.bytes(start..start + MIB))))
            }),
        )
    };
    let server = Server::start(app);
    let mut client = server.client().await;
    client.ask("/").await;
    let send = async |start| progress.send(start).await.expect("the body is alive");
    send(0).await;
    soon(client.head()).await;
    assert!(soon(client.body(MIB)).await == content(0..MIB));
    for start in [MIB, 2 * MIB, 3 * MIB] {
        file.write_all_at(&content(start..start + MIB), start).expect("room");
        send(start).await;
        assert!(soon(client.body(MIB)).await == content(start..start + MIB));
    }
    assert_eq!(source.sent_bytes(), len);
    server.stop().await;
}

#[test]
fn addresses_lead_to_files_as_long_as_the_mapping_lives() {
    let (one, two) = (mapped(10_000), mapped(20_000));
    let is = |slice: &[u8], file: &Arc<MappedFile>, at: u64| {
        let (source, offset) = find(slice).expect("it is mapped");
        let (expected, start) = find(&file.bytes(0..1)).expect("it is mapped");
        Arc::ptr_eq(&source, &expected) && start == 0 && offset == at
    };
    let mut part = two.bytes(100..15_000);
    assert!(is(&part, &two, 100));
    let first = part.split_to(1000);
    assert!(is(&first, &two, 100) && is(&part, &two, 1100));
    assert!(is(&one.bytes(9_999..10_000), &one, 9_999));
    assert!(find(b"in the program").is_none());
    assert!(find(&vec![0; 100_000]).is_none());
    // The mapping outlives its handle as long as a part is in somebody's hands.
    drop((two, first));
    let (source, _) = find(&part).expect("it is mapped");
    let address = part.as_ptr();
    drop(part);
    // SAFETY: a slice of length 0 may point anywhere. `find` looks at the address only, and another test's file may lie
    // there by now.
    let now = find(unsafe { std::slice::from_raw_parts(address, 0) });
    assert!(now.is_none_or(|(now, _)| !Arc::ptr_eq(&now, &source)));
}

#[test]
fn an_empty_file_has_empty_parts() {
    let source = mapped(0);
    assert!(source.is_empty());
    assert!(source.bytes(0..0).is_empty());
}

#[test]
#[should_panic(expected = "lies outside")]
fn a_part_beyond_the_end_is_a_mistake_of_the_caller() {
    let _ = mapped(100).bytes(50..101);
}
