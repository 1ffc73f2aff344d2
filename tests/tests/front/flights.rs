//! Duplicate suppression: one transfer per digest, shared by everybody, harmed by nobody (rows C3, C6, C7, D1-D5).

use std::time::Duration;

use shoal_tests::agent::REGISTRY;
use shoal_tests::http::{Answer, Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Kind, Match, Plan};
use shoal_tests::wait;
use tokio::task::JoinHandle;

use super::{REPOSITORY, Stand, WINDOW_BYTES};

/// Clients at once, as in the seed of rows D3 to D5.
const CLIENTS: usize = 20;

fn gets(urls: impl IntoIterator<Item = String>) -> Vec<JoinHandle<Answer>> {
    urls.into_iter().map(|url| tokio::spawn(async move { Client::new().get(&url).await })).collect()
}

/// D3, C6, C7: twenty clients that have nothing, one GET, and every byte leaves the origin once; and every one has bytes in
/// hand while the transfer is still held up half-way, so nobody waits for the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d3_twenty_clients_cost_one_get() {
    let stand = Stand::new().await;
    let blob = Blob::noise(30, 12_000_000);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &gate));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let clients: Vec<JoinHandle<_>> = (0..CLIENTS)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let mut response = Client::new().open(&url).await;
                let first = read_some(&mut response, 1_000_000).await;
                (response, first)
            })
        })
        .collect();
    let mut half_way = Vec::new();
    for client in clients {
        half_way.push(client.await.expect("every client has its first bytes before the gate opens"));
    }
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
    gate.open();
    let mut waited = Duration::ZERO;
    for (response, first) in half_way {
        let rest = finish(response).await;
        waited += rest.total;
        rest.expect(200, &blob.bytes[first.len()..]);
    }
    // D2: woken when bytes come, not by polling; the rest is copying on two cores, without the time to compare it.
    assert!(waited < Duration::from_secs(15), "{waited:?} after the transfer went on");
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
    assert_eq!(stand.origin.blob_bytes(&blob.digest), blob.len());
    stand.agent.until_idle().await;
    assert_eq!(
        stand.agent.metric("tickets", &[]).await,
        0.0,
        "D1: nothing is left of a flight that has ended"
    );
}

/// D1: the client that started the transfer leaves; whoever waits is not cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_the_leader_leaves() {
    let stand = Stand::new().await;
    let blob = Blob::noise(31, 12_000_000);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &gate));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut leader = stand.client.open(&url).await;
    read_some(&mut leader, 1000).await;
    let waiters = gets(vec![url.clone(); 3]);
    wait::until("the waiters to be waiting", Duration::from_secs(10), || async {
        stand.agent.metric("tickets", &[]).await >= 4.0
    })
    .await;
    drop(leader);
    wait::until("the leader to be gone", Duration::from_secs(10), || async {
        stand.agent.metric("tickets", &[]).await <= 3.0
    })
    .await;
    gate.open();
    for waiter in waiters {
        waiter.await.expect("the request ends").expect(200, &blob.bytes);
    }
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
}

/// All clients leave: what has come is not thrown away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_everybody_leaves_and_one_comes_back() {
    let stand = Stand::new().await;
    let blob = Blob::noise(32, 24_000_000);
    stand.origin.add_blob(&blob);
    stand.origin.script(Match::blob(&blob.digest), Plan::rate(20_000_000));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut client = Client::new().open(&url).await;
    read_some(&mut client, 8_000_000).await;
    drop(client);
    wait::until("the client to be gone", Duration::from_secs(10), || async {
        stand.agent.metric("tickets", &[]).await == 0.0
    })
    .await;
    stand.client.get(&url).await.expect(200, &blob.bytes);
    let sent = stand.origin.blob_bytes(&blob.digest);
    assert!(sent <= blob.len() + WINDOW_BYTES, "{sent} bytes for a blob of {}", blob.len());
}

/// D5: the first GET fails before its first byte, in every way there is; all twenty clients succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_the_first_get_fails() {
    let stand = Stand::new().await;
    for (plan, seed) in [
        (Plan::status(500), 33),
        (Plan::status(503), 34),
        (Plan::reset_after(0), 35),
        (Plan::close_after(0), 36),
        (Plan::reset_after(1_000_000), 37),
    ] {
        let blob = Blob::noise(seed, 3_000_000);
        stand.origin.add_blob(&blob);
        let gate = Gate::closed();
        // Held until all twenty are there, so that they are waiters and not late comers.
        stand.origin.script_times(1, Match::blob(&blob.digest), plan.clone().held_by(&gate));
        let clients = gets(vec![stand.agent.blob(REPOSITORY, &blob.digest); CLIENTS]);
        wait::until("twenty clients to wait", Duration::from_secs(10), || async {
            stand.agent.metric("tickets", &[]).await >= CLIENTS as f64
        })
        .await;
        gate.open();
        for client in clients {
            client.await.expect("the request ends").expect(200, &blob.bytes);
        }
        let asked = stand.origin.blob_gets(&blob.digest);
        assert!((2..=4).contains(&asked), "{plan:?}: {asked} GETs");
    }
}

/// The same blob through two repositories is one transfer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_repositories_share_a_transfer() {
    let stand = Stand::new().await;
    let blob = Blob::noise(38, 12_000_000);
    stand.origin.add_blob(&blob);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &gate));
    let clients =
        gets(["team/one", "team/two", "team/three"].map(|name| stand.agent.blob(name, &blob.digest)));
    wait::until("three clients to wait", Duration::from_secs(10), || async {
        stand.agent.metric("tickets", &[]).await >= 3.0
    })
    .await;
    gate.open();
    for client in clients {
        client.await.expect("the request ends").expect(200, &blob.bytes);
    }
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
}

/// Section 2.5: containerd 2.1 asks for `bytes=N-` once for each chunk, reads the chunk and closes. All together are
/// one transfer, and it is not cancelled by any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_open_ended_ranges_dropped_early_cost_one_transfer() {
    const CHUNK: usize = 2 << 20;
    let stand = Stand::new().await;
    let blob = Blob::noise(39, 40 << 20);
    stand.origin.add_blob(&blob);
    // 40 MB in 0.8 s: the readers are ahead of the transfer most of the time.
    stand.origin.script(Match::blob(&blob.digest), Plan::rate(50 << 20));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let chunks = blob.bytes.len() / CHUNK;
    // The first request tells containerd the length; the others go out when its headers are there.
    let mut first = Client::new().open_range(&url, "bytes=0-").await;
    assert_eq!(first.status(), 206);
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(1));
    let readers: Vec<JoinHandle<()>> = (0..6)
        .map(|_| {
            let (url, next, bytes) = (url.clone(), next.clone(), blob.bytes.clone());
            tokio::spawn(async move {
                loop {
                    let chunk = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if chunk >= chunks {
                        return;
                    }
                    let offset = chunk * CHUNK;
                    // A connection of its own each time: closing it is how the client leaves.
                    let mut response = Client::new().open_range(&url, &format!("bytes={offset}-")).await;
                    assert_eq!(response.status(), 206);
                    let length = response.headers()["content-length"].to_str().expect("text").to_owned();
                    assert_eq!(length, (bytes.len() - offset).to_string());
                    let read = read_some(&mut response, CHUNK).await;
                    assert_eq!(read[..CHUNK], bytes[offset..offset + CHUNK]);
                }
            })
        })
        .collect();
    assert_eq!(read_some(&mut first, CHUNK).await[..CHUNK], blob.bytes[..CHUNK]);
    drop(first);
    for reader in readers {
        reader.await.expect("every chunk is right");
    }
    stand.agent.until_idle().await;
    let (asked, sent) = (stand.origin.blob_gets(&blob.digest), stand.origin.blob_bytes(&blob.digest));
    assert!(sent <= blob.len() + WINDOW_BYTES, "{sent} bytes in {asked} GETs for a blob of {}", blob.len());
    assert!(asked <= 2, "{asked} GETs: {:?}", stand.origin.blob_ranges(&blob.digest));
    // The shared fill went on although every tail was dropped: the blob is whole now.
    stand.client.get(&url).await.expect(200, &blob.bytes);
    assert_eq!(stand.origin.blob_bytes(&blob.digest), sent);
}

/// I7: a client that stops reading holds up neither the transfer nor anybody else, and gets its bytes in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_harms_nobody() {
    let stand = Stand::new().await;
    let blob = Blob::noise(40, 64_000_000);
    stand.origin.add_blob(&blob);
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let mut slow = Client::new().open(&url).await;
    let first = read_some(&mut slow, 1000).await;
    let fast = stand.client.get(&url).await;
    fast.expect(200, &blob.bytes);
    assert!(fast.total < Duration::from_secs(15), "{:?}", fast.total);
    stand.agent.until_idle().await;
    finish(slow).await.expect(200, &blob.bytes[first.len()..]);
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1);
}

/// C8: a manifest that passes starts the layers of its platform before the client asks; they are fetched once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_manifests_prefetch_their_layers() {
    let stand = Stand::new().await;
    let image = Image::new(41, &[3_000_000, 2_000_000]);
    let other = Image::for_platform(42, &[3_000_000], "s390x");
    stand.origin.add_image(REPOSITORY, "amd64", &image);
    stand.origin.add_image(REPOSITORY, "s390x", &other);
    let index = Image::index(&[(&other, "s390x"), (&image, "amd64")]);
    stand.origin.add_manifest(REPOSITORY, &index);
    stand.origin.tag(REPOSITORY, "v1", &index.digest);
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &index.bytes);
    stand.agent.get_manifest(REPOSITORY, &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    let layers = &image.layers;
    wait::until_true("the layers to be fetched", Duration::from_secs(20), || {
        layers.iter().all(|layer| stand.origin.blob_bytes(&layer.digest) == layer.len())
    })
    .await;
    stand.agent.until_idle().await;
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(stand.origin.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    assert_eq!(stand.origin.blob_gets(&other.layers[0].digest), 0, "another platform's layer was fetched");
}

/// C5: a blob that no manifest has named, and C22: plain GETs warm the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_blob_that_no_manifest_has_named() {
    let stand = Stand::new().await;
    let blob = Blob::noise(43, 500_000);
    stand.origin.add_blob(&blob);
    let by_path = format!("{}/v2/{REGISTRY}/never/seen/blobs/{}", stand.agent.url(), blob.digest);
    stand.client.get(&by_path).await.expect(200, &blob.bytes);
    assert_eq!(stand.origin.count(Kind::Manifest, "GET") + stand.origin.count(Kind::Manifest, "HEAD"), 0);
    stand.origin.refuse().await;
    stand.client.get(&by_path).await.expect(200, &blob.bytes);
}
