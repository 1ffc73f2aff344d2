//! Files that others have broken or removed.

use std::path::PathBuf;
use std::process::Command;

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::place;

use super::{REPOSITORY, pull};

/// The index destroyed: it is rebuilt from the content files, nothing is fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_index_is_rebuilt() {
    let origin = Origin::start().await;
    let image = Image::new(260, &[3_000_000, 1_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let mut agent = Agent::start(&origin.url()).await;
    pull(&agent, &image).await;
    agent.until_idle().await;
    for (how, damage) in [("garbage", Some("not an index")), ("gone", None)] {
        agent.kill();
        let index: Vec<_> = agent
            .data_files()
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name == "CURRENT"
                    || name.starts_with("MANIFEST")
                    || name.ends_with(".sst")
                    || name.ends_with(".log")
            })
            .collect();
        assert!(!index.is_empty(), "no index files found: the test looks for RocksDB's names");
        for path in index {
            match damage {
                Some(text) => std::fs::write(&path, text).expect("the file is ours"),
                None => std::fs::remove_file(&path).expect("the file is ours"),
            }
        }
        agent.restart().await;
        let gets: usize = image.layers.iter().map(|layer| origin.blob_gets(&layer.digest)).sum();
        for layer in &image.layers {
            agent.get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
        }
        let after: usize = image.layers.iter().map(|layer| origin.blob_gets(&layer.digest)).sum();
        assert_eq!(after, gets, "{how}: layers whose files are there were fetched again");
        // And it is an index again.
        let late = Blob::noise(if how == "gone" { 261 } else { 262 }, 400_000);
        origin.add_blob(&late);
        agent.get_blob(REPOSITORY, &late.digest).await.expect(200, &late.bytes);
        agent.until_idle().await;
        agent.restart().await;
        agent.get_blob(REPOSITORY, &late.digest).await.expect(200, &late.bytes);
        assert_eq!(origin.blob_gets(&late.digest), 1);
    }
}

/// I3: an entry whose file is gone, or shorter than it was, is a miss; never an empty 200 (issue 2367 of another
/// registry, open since 2017).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_has_vanished_is_a_miss() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    for (how, seed) in [("gone", 263), ("empty", 264), ("short", 265)] {
        let blob = Blob::noise(seed, 2_000_000);
        origin.add_blob(&blob);
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        agent.until_idle().await;
        let hex = blob.digest.trim_start_matches("sha256:");
        let path = agent
            .data_files()
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(hex)))
            .expect("content files are named by their digest");
        match how {
            "gone" => std::fs::remove_file(&path).expect("ours"),
            "empty" => std::fs::File::create(&path).map(drop).expect("ours"),
            _ => std::fs::File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(1_000_000))
                .expect("ours"),
        }
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(origin.blob_gets(&blob.digest), 2, "{how}");
        agent.until_idle().await;
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        assert_eq!(origin.blob_gets(&blob.digest), 2, "{how}: fetched a third time");
    }
}

/// The runtime's content store: what is there is neither fetched nor stored again, and never written to. Whether the
/// repository has it, its registry is asked once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_of_the_runtime_is_used() {
    let origin = Origin::start().await;
    let setup = Setup::new(&origin.url());
    let runtime = setup.folder().join("io.containerd.content.v1.content");
    let blobs = runtime.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("ours");
    let blob = Blob::noise(266, 8_000_000);
    std::fs::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.bytes).expect("ours");
    origin.add_blob(&blob);
    let path = runtime.display().to_string();
    let agent = setup.set("store.runtime_content", path).start().await;
    for _ in 0..2 {
        agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    let part = agent.client().range(&agent.blob(REPOSITORY, &blob.digest), "bytes=7000000-").await;
    part.expect(206, &blob.bytes[7_000_000..]);
    assert_eq!((origin.blob_gets(&blob.digest), origin.seen().len()), (0, 1), "one HEAD");
    assert_eq!(agent.metric("store_bytes", &[]).await, 0.0, "the runtime's blob was stored again");
    // The index makes room for its log ahead of time.
    assert!(agent.disk_usage() < 8_000_000, "the runtime's blob was stored again");
    assert_eq!(agent.metric("hits_total", &["runtime"]).await, 2.0, "without the further range");
    // The runtime collects its garbage: a miss like any other.
    std::fs::remove_dir_all(&runtime).expect("ours");
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// Can be read, and not be mapped, as all that the kernel tells of itself.
const UNMAPPABLE: &str = "/sys/devices/system/cpu/online";

/// A file that shows another one, until this is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(path: PathBuf, shows: &str) -> Self {
        place::needs_root();
        std::fs::write(&path, "").expect("ours");
        let mounted = Command::new("mount").args(["--bind", shows]).arg(&path).status();
        assert!(mounted.expect("mount is there").success(), "{shows} cannot be mounted");
        Bound(path)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A stored file that cannot be handed out fails no pull: the bytes come from upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mapped_comes_straight_through() {
    let origin = Origin::start().await;
    let content = place::scratch();
    let blobs = content.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("ours");
    // As long as the file claims to be.
    let len = std::fs::metadata(UNMAPPABLE).expect("the kernel tells").len();
    let blob = Blob::noise(267, usize::try_from(len).expect("it is a page"));
    origin.add_blob(&blob);
    let _bound = Bound::new(blobs.join(blob.digest.trim_start_matches("sha256:")), UNMAPPABLE);
    let path = content.path().display().to_string();
    let agent = Setup::new(&origin.url()).set("store.runtime_content", path).start().await;
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(agent.metric("store_degraded", &["disk-error"]).await, 1.0);
    assert!(agent.metric("served_bytes_total", &["pass-through"]).await >= 4096.0);
}
