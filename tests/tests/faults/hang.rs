//! A disk that says neither yes nor no.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use shoal_tests::agent::Setup;
use shoal_tests::disk::Disk;
use shoal_tests::image::Image;
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};

use super::{REPOSITORY, pull};

/// A file system on which whoever writes waits, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: &Path) -> Self {
        assert!(fsfreeze("--freeze", path).success(), "{} cannot be frozen", path.display());
        Frozen(path.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fsfreeze("--unfreeze", &self.0);
    }
}

fn fsfreeze(what: &str, path: &Path) -> ExitStatus {
    let mut command = Command::new(place::program("fsfreeze", "util-linux"));
    command.arg(what).arg(path).status().expect("fsfreeze is there")
}

/// A pull waits for it once, in time for the rest to come straight through; when it answers again, everything is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs() {
    let disk = Disk::ext4(256);
    let origin = Origin::start().await;
    let image = Image::new(270, &[3_000_000, 1_000_000]);
    origin.add_image(REPOSITORY, "v1", &image);
    let agent = Setup::new(&origin.url()).data(&disk.path().join("shoal")).start().await;
    let frozen = Frozen::new(&disk.path());
    pull(&agent, &image).await;
    let degraded = || async { agent.metric("store_degraded", &["disk-error"]).await };
    assert_eq!(degraded().await, 1.0);
    drop(frozen);
    wait::until("the disk to answer", Duration::from_secs(20), || async { degraded().await == 0.0 }).await;
    pull(&agent, &image).await;
    agent.until_idle().await;
    origin.refuse().await;
    pull(&agent, &image).await;
}
