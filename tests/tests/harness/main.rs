//! The harness itself: a fault that is not injected proves nothing. Each is looked at from the other side of the wire,
//! without the agent.

use std::time::{Duration, Instant};

use shoal_tests::containerd::{self, Containerd, Version};
use shoal_tests::disk::{Disk, Injection};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::proxy::{Faults, Proxy};
use shoal_tests::wait;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_serves_and_breaks_as_told() {
    let origin = Origin::start().await;
    let blob = Blob::noise(1, 3_000_000);
    origin.add_blob(&blob);
    let client = Client::new();
    let url = format!("{}/v2/a/blobs/{}", origin.url(), blob.digest);
    client.get(&url).await.expect(200, &blob.bytes);
    client.range(&url, "bytes=5-9").await.expect(206, &blob.bytes[5..10]);
    client.range(&url, "bytes=-5").await.expect(206, &blob.bytes[2_999_995..]);
    assert_eq!(client.range(&url, "bytes=3000000-").await.status, 416);
    assert_eq!(client.head(&url).await.header("Content-Length"), "3000000");

    let once = |plan| origin.script_times(1, Match::blob(&blob.digest), plan);
    once(Plan::reset_after(1_000_000));
    let reset = client.get(&url).await;
    assert!(reset.cut.as_deref().is_some_and(|why| why.contains("ConnectionReset")), "{:?}", reset.cut);
    once(Plan::close_after(1_000_000));
    let closed = client.get(&url).await;
    assert!(closed.cut.is_some_and(|why| !why.contains("ConnectionReset")));
    assert_eq!(closed.body, blob.bytes[..1_000_000]);
    once(Plan::wrong_byte_at(7));
    let wrong = client.get(&url).await;
    assert_eq!((wrong.body[7] ^ blob.bytes[7], wrong.cut), (1, None));
    once(Plan::ignore_range());
    client.range(&url, "bytes=5-9").await.expect(200, &blob.bytes);
    once(Plan::chunked());
    let chunked = client.get(&url).await;
    chunked.expect(200, &blob.bytes);
    assert_eq!(chunked.header("Content-Length"), "");
    once(Plan::gzip());
    let gzip = client.get(&url).await;
    assert_eq!(gzip.header("Content-Encoding"), "gzip");
    assert_ne!(gzip.body, blob.bytes);
    once(Plan::rate(6_000_000));
    let start = Instant::now();
    client.get(&url).await.expect(200, &blob.bytes);
    assert!(start.elapsed() >= Duration::from_millis(400));

    let gate = Gate::closed();
    once(Plan::pause_after(1_500_000, &gate));
    let mut paused = client.open(&url).await;
    let first = read_some(&mut paused, 1_500_000).await;
    assert_eq!(
        (first.len(), origin.seen().last().map(shoal_tests::origin::Seen::sent)),
        (1_500_000, Some(1_500_000))
    );
    gate.open();
    finish(paused).await.expect(200, &blob.bytes[1_500_000..]);

    origin.refuse().await;
    assert!(client.request("GET", &url).send().await.is_err());
    origin.recover().await;
    client.get(&url).await.expect(200, &blob.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_breaks_as_told() {
    let origin = Origin::start().await;
    let blob = Blob::noise(2, 3_000_000);
    origin.add_blob(&blob);
    let path = format!("/v2/a/blobs/{}", blob.digest);
    let faults = Faults { reset_after_bytes: Some(1_000_000), ..Faults::default() };
    let proxy = Proxy::start(origin.address(), faults).await;
    let cut = Client::new().get(&format!("{}{path}", proxy.url())).await;
    assert!(cut.cut.is_some() && cut.body == blob.bytes[..cut.body.len()]);
    assert_eq!((proxy.resets(), proxy.connections()), (1, 1));
    // At a rate at which a reset that comes seconds late still comes in the middle.
    let faults =
        Faults { reset_after: Some(Duration::from_millis(200)), rate: Some(500_000), ..Faults::default() };
    let proxy = Proxy::start(origin.address(), faults).await;
    assert!(Client::new().get(&format!("{}{path}", proxy.url())).await.cut.is_some());
    let proxy = Proxy::start(origin.address(), Faults::default()).await;
    Client::new().get(&format!("{}{path}", proxy.url())).await.expect(200, &blob.bytes);
    assert!(proxy.down() > blob.len());
}

/// A real registry and a real containerd, without the agent between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_pull_from_the_registry_directly() {
    let registry = DockerRegistry::start().await;
    let image = Image::small(3);
    registry.push("team/app", "v1", &image).await;
    for version in containerd::at_hand() {
        let containerd = Containerd::start(version, None).await;
        containerd.direct(&registry.url());
        containerd.pull("team/app:v1").await.expect_ok("the direct pull");
        containerd.expect_image(&image).await;
        containerd.forget("team/app:v1").await;
    }
    wait::until_true("the access log", wait::START_MAX, || {
        registry.blob_gets(&image.layers[0].digest) == containerd::at_hand().len()
    })
    .await;
}

/// The parallel fetch of containerd 2 is what the tests take it for: several open-ended ranges of one blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_2_sends_open_ended_ranges() {
    if !containerd::at_hand().contains(&Version::V2) {
        return;
    }
    let origin = Origin::start().await;
    let image = Image::new(4, &[24_000_000]);
    origin.add_image("team/app", "v1", &image);
    let containerd = Containerd::start(Version::V2, Some(4 << 20)).await;
    containerd.direct(&origin.url());
    containerd.pull("team/app:v1").await.expect_ok("the direct pull");
    let ranges: Vec<String> = origin.blob_ranges(&image.layers[0].digest).into_iter().flatten().collect();
    assert!(ranges.len() >= 3 && ranges.iter().all(|range| range.ends_with('-')), "{ranges:?}");
}

/// A power cut loses what was not synced and keeps what was; a tmpfs is full when it is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_fail_as_told() {
    let disk = Disk::ext4(32);
    let (kept, lost) = (disk.path().join("kept"), disk.path().join("lost"));
    let file = std::fs::File::create(&kept).expect("the disk is mounted");
    std::io::Write::write_all(&mut &file, b"synced").expect("there is room");
    file.sync_all().expect("the disk works");
    std::fs::File::open(disk.path()).and_then(|folder| folder.sync_all()).expect("the disk works");
    std::fs::write(&lost, "not synced").expect("there is room");
    disk.cut_power();
    assert!(std::fs::write(disk.path().join("late"), "x").is_err());
    drop(file);
    disk.power_on().await;
    assert_eq!(std::fs::read(&kept).expect("synced"), b"synced");
    assert!(!lost.exists());

    let disk = Disk::tmpfs(2);
    let full = std::fs::write(disk.path().join("large"), vec![1; 3 << 20]).expect_err("2 MB are not 3");
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
}

/// Injected errors reach a running process, and stop when they are taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_calls_fail_as_told() {
    let folder = shoal_tests::place::scratch();
    let (log, file) = (folder.path().join("log"), folder.path().join("file"));
    let script = format!("while :; do echo alive > '{}'; sleep 0.02; done", file.display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    let process = shoal_tests::process::Process::spawn("sh", &mut command, &log).expect("there is a shell");
    let removed_and_back = || {
        let _ = std::fs::remove_file(&file);
        std::thread::sleep(Duration::from_millis(5));
        file.exists()
    };
    wait::until_true("the process to write", wait::START_MAX, removed_and_back).await;
    let injection = Injection::into(process.pid(), "openat:error=EIO").await;
    let _ = std::fs::remove_file(&file);
    wait::until_true("an error to be said", wait::START_MAX, || process.log().contains("Input/output error"))
        .await;
    assert!(!file.exists());
    drop(injection);
    wait::until_true("the process to write again", wait::START_MAX, removed_and_back).await;
}
