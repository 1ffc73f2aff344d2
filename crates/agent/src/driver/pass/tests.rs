use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::response::Response;
use shoal_engine::pieces::PIECE_BYTES_MIN;
use shoal_engine::{Algorithm, Registry, Scope};
use shoal_store::{Options, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::metrics::Metrics;
use crate::store_health::Reason;
use crate::upstream::{RegistrySettings, Settings, Upstream};

const REGISTRY: &str = "registry.test";
const SIZE: u64 = 3 * PIECE_BYTES_MIN + 1000;
/// What clients have got when they have to go on without their flight.
const SENT: u64 = 2 * PIECE_BYTES_MIN;

/// A flight that has got the beginning of a blob, not hashed, and a registry that has all of it. One transfer may run at a time.
struct Stand {
    _folder: TempDir,
    blob: Bytes,
    digest: Digest,
    flight: Arc<FlightIo>,
    health: StoreHealth,
    pass: PassThrough,
    asked: Arc<AtomicUsize>,
}

impl Stand {
    async fn new() -> Self {
        let blob: Bytes = (0..SIZE).map(|n| (n / 251 + n) as u8).collect();
        let digest =
            Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, &blob).as_ref());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path()) }).unwrap().store;
        let flight = FlightIo::in_file(digest, Arc::new(store.partial(&digest, SIZE).unwrap()));
        flight.write(0, &[blob.slice(..SENT as usize)]).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: url::Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (all, asked) = (blob.clone(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let app = axum::Router::new().fallback(move |request: Request| {
            count.fetch_add(1, Ordering::Relaxed);
            let answer = part(&all, &request);
            async move { answer }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        let registry: Registry = REGISTRY.parse().unwrap();
        let own = RegistrySettings { endpoint: Some(endpoint), ..RegistrySettings::default() };
        let settings = Settings { registries: BTreeMap::from([(registry, own)]), ..Settings::default() };
        let upstream = Upstream::new(settings, Metrics::new()).unwrap();
        let (driver, _) = mpsc::channel(1);
        Stand {
            _folder: folder,
            blob,
            digest,
            flight: Arc::new(flight),
            health: StoreHealth::new(store, Metrics::new()),
            pass: PassThrough::new(upstream.into(), 1, driver),
            asked,
        }
    }

    /// A client that wants the whole blob, and has got all before `from`.
    fn start(&self, from: u64) -> mpsc::Receiver<Result<Bytes, PassError>> {
        let scope = Scope { registry: REGISTRY.parse().unwrap(), repository: "library/app".parse().unwrap() };
        self.pass.start(Rest {
            asked: Asked::without_token(scope),
            digest: self.digest,
            size: SIZE,
            range: 0..SIZE,
            from,
            flight: (from > 0).then(|| (Arc::clone(&self.flight), self.health.clone())),
        })
    }

    /// Takes all places for those who read.
    async fn keep_from_reading(&self) -> SemaphorePermit<'_> {
        self.pass.reads.acquire_many(READS_MAX as u32).await.unwrap()
    }

    fn shorten_file(&self) {
        self.flight.partial().unwrap().file().set_len(100).unwrap();
    }

    fn free_places(&self) -> usize {
        self.pass.permits.available_permits()
    }
}

/// What a registry answers that knows ranges.
fn part(all: &Bytes, request: &Request) -> Response {
    let range = request.headers()["range"].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    Response::builder()
        .status(206)
        .header("content-range", format!("bytes {first}-{last}/{}", all.len()))
        .body(all.slice(first..=last).into())
        .unwrap()
}

/// All that comes, and why it ends.
async fn received(mut chunks: mpsc::Receiver<Result<Bytes, PassError>>) -> (Vec<u8>, Option<PassError>) {
    let mut all = Vec::new();
    while let Some(next) = chunks.recv().await {
        match next {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

#[tokio::test]
async fn what_a_flight_has_hashed_is_not_read_again() {
    let stand = Stand::new().await;
    assert!(!stand.flight.hash(0, &[stand.blob.slice(..SENT as usize)]));
    stand.shorten_file();
    let _reading = stand.keep_from_reading().await;
    for _ in 0..3 {
        let (bytes, error) = received(stand.start(SENT)).await;
        assert!(error.is_none() && bytes == stand.blob[SENT as usize..], "{} bytes: {error:?}", bytes.len());
    }
}

#[tokio::test]
async fn others_have_the_place_while_a_beginning_is_read_back() {
    let stand = Stand::new().await;
    let reading = stand.keep_from_reading().await;
    let waits = stand.start(SENT);
    let (bytes, error) = received(stand.start(0)).await;
    assert!(error.is_none() && bytes == stand.blob[..], "{} bytes: {error:?}", bytes.len());
    assert!(waits.is_empty() && stand.free_places() == 1, "it has not been read back");
    drop(reading);
    let (bytes, error) = received(waits).await;
    assert!(error.is_none() && bytes == stand.blob[SENT as usize..], "{} bytes: {error:?}", bytes.len());
}

/// I2: nobody can tell any more whether the blob would be right. Whoever asks again goes on where it has been cut off.
#[tokio::test]
async fn i2_nothing_follows_on_a_beginning_that_cannot_be_read_back() {
    let stand = Stand::new().await;
    stand.shorten_file();
    let clients: Vec<_> = (0..20).map(|_| stand.start(SENT)).collect();
    let mut errors = Vec::new();
    for client in clients {
        match received(client).await {
            (bytes, Some(PassError::Unread(error))) if bytes.is_empty() => errors.push(error),
            (bytes, end) => panic!("{} bytes: {end:?}", bytes.len()),
        }
    }
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])), "it was read more than once");
    assert_eq!((stand.asked.load(Ordering::Relaxed), stand.free_places()), (0, 1));
    assert_eq!(stand.health.trouble().unwrap().reason, Reason::DiskError);
}

#[tokio::test]
async fn i2_the_last_piece_does_not_follow_on_a_wrong_beginning() {
    let stand = Stand::new().await;
    stand.flight.write(7, &[Bytes::from_static(b"wrong")]).unwrap();
    let (bytes, error) = received(stand.start(SENT)).await;
    assert!(matches!(error, Some(PassError::WrongContent)), "{error:?}");
    assert!(bytes == stand.blob[SENT as usize..3 * PIECE_BYTES_MIN as usize], "{} bytes", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_waited_for_once_and_not_for_ever() {
    let stand = Stand::new().await;
    let _reading = stand.keep_from_reading().await;
    let (begun, patience) = (tokio::time::Instant::now(), patience_with_disk(SENT));
    // The first one has less patience, and the others wait on.
    let first = stand.start(SENT);
    tokio::time::sleep(patience / 2).await;
    let others = [stand.start(SENT), stand.start(SENT)];
    drop(first);
    for client in others {
        let (bytes, error) = received(client).await;
        let error = error.expect("it was not read").to_string();
        assert!(bytes.is_empty() && error.ends_with("the disk has not answered for 10s"), "{error}");
    }
    let (_, error) = received(stand.start(SENT)).await;
    assert!(matches!(error, Some(PassError::Unread(_))), "{error:?}");
    let waited = begun.elapsed();
    assert!(waited >= patience && waited < patience + Duration::from_secs(1), "{waited:?}");
    assert_eq!((stand.asked.load(Ordering::Relaxed), stand.free_places()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_is_told_how_many_there_are() {
    let permits = Semaphore::new(2);
    let (chunks, _client) = mpsc::channel(CHUNKS_MAX);
    let _taken = permits.acquire_many(2).await.unwrap();
    let error = Outlet::new(&chunks, &permits, 2).take_place().await.unwrap_err();
    assert_eq!(error.to_string(), "all 2 pass-through transfers are busy");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_leaves_its_place_to_others() {
    let permits = Semaphore::new(1);
    let (chunks, mut client) = mpsc::channel(1);
    let mut outlet = Outlet::new(&chunks, &permits, 1);
    let chunk = Bytes::from_static(b"chunk");
    outlet.take_place().await.unwrap();
    outlet.send(chunk.clone()).await;
    assert_eq!(permits.available_permits(), 0, "it keeps up");
    {
        let mut sending = pin!(outlet.send(chunk.clone()));
        assert!(tokio::time::timeout(2 * SLOW_AFTER, sending.as_mut()).await.is_err());
        assert_eq!(permits.available_permits(), 1);
        client.recv().await.unwrap().unwrap();
        sending.await;
    }
    // Another one has the place; this one's transfer goes on, and does not open another one.
    let taken = permits.try_acquire().unwrap();
    client.recv().await.unwrap().unwrap();
    outlet.send(chunk.clone()).await;
    assert!(outlet.take_place().await.is_err());
    drop(taken);
    client.recv().await.unwrap().unwrap();
    outlet.send(chunk).await;
    assert_eq!(permits.available_permits(), 0, "it keeps up again");
}
