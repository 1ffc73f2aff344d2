//! Disks that are full, sick, or lose their power.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::place;
use crate::process::Process;
use crate::wait;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// No log flush: what was not synced is gone, as in a power cut.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// A mounted file system of its own, unmounted when dropped.
pub struct Disk {
    folder: TempDir,
    image: Option<PathBuf>,
}

impl Disk {
    /// A tmpfs of so many MiB.
    pub fn tmpfs(mebibytes: u32) -> Self {
        place::needs_root();
        let disk = Disk { folder: place::scratch(), image: None };
        std::fs::create_dir(disk.path()).expect("the folder is ours");
        let size = format!("size={mebibytes}m");
        expect(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "shoal-test"]).arg(disk.path()));
        disk
    }

    /// An ext4 of so many MiB in a file.
    pub fn ext4(mebibytes: u32) -> Self {
        place::needs_root();
        let folder = place::scratch();
        let image = folder.path().join("disk.img");
        let file = File::create(&image).expect("the folder is ours");
        file.set_len(u64::from(mebibytes) << 20).expect("a sparse file can be made");
        expect(Command::new(place::program("mkfs.ext4", "e2fsprogs")).args(["-q", "-F"]).arg(&image));
        let disk = Disk { folder, image: Some(image) };
        std::fs::create_dir(disk.path()).expect("the folder is ours");
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Fills it to the last byte with a file of its own.
    pub fn fill(&self) {
        let mut file = File::create(self.path().join("ballast")).expect("the folder is ours");
        let block = vec![0; 64 << 10];
        let last = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        assert_eq!(last.kind(), ErrorKind::StorageFull, "the disk cannot be filled: {last}");
    }

    fn mount(&self) {
        let image = self.image.as_ref().expect("an ext4 disk has an image");
        expect(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()));
    }

    /// Cuts the power of an ext4 disk: everything that was not synced is lost, and every access fails from now on.
    pub fn cut_power(&self) {
        let root = File::open(self.path()).expect("the disk is mounted");
        let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
        // SAFETY: the ioctl reads one u32 through the pointer, which lives until it returns.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(done, 0, "EXT4_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
    }

    /// Brings the disk back as it is after a power cut. Whoever had files open there has to be gone.
    pub async fn power_on(&self) {
        // A child that another test is just starting holds copies of this process's files until it runs.
        let unmounted =
            || Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success());
        wait::until_true("the disk to be unmounted", wait::START_MAX, unmounted).await;
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, so that a child that is still being ended does not keep the mount for ever.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[track_caller]
fn expect(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// System calls of a process that fail or take long, until this is dropped.
pub struct Injection {
    strace: Process,
    _folder: TempDir,
}

impl Drop for Injection {
    fn drop(&mut self) {
        // On a signal strace lets its tracees go; one that is killed may leave a call unfinished.
        self.strace.signal(libc::SIGTERM);
        for _ in 0..500 {
            if self.strace.ended().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Injection {
    /// Lets system calls of a running process and all its threads fail: `inject` in strace's words, for example
    /// `fsync,fdatasync:error=EIO`.
    pub async fn into(pid: i32, inject: &str) -> Self {
        Injection::start(pid, None, &[inject]).await
    }

    /// The same for calls that concern one file, several kinds of failure at a time. They can also take long: `pread64:delay_enter=60s`.
    pub async fn into_file(pid: i32, file: &Path, injects: &[&str]) -> Self {
        Injection::start(pid, Some(file), injects).await
    }

    async fn start(pid: i32, file: Option<&Path>, injects: &[&str]) -> Self {
        place::needs_root();
        let folder = place::scratch();
        let log = folder.path().join("strace");
        let calls: Vec<_> =
            injects.iter().map(|inject| inject.split(':').next().unwrap_or_default()).collect();
        let mut command = Command::new(place::program("strace", "strace"));
        command.args(["-f", "-e", &format!("trace={}", calls.join(","))]);
        for inject in injects {
            command.args(["-e", &format!("inject={inject}")]);
        }
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        command.args(["-p", &pid.to_string()]);
        let strace = Process::spawn("strace", &mut command, &log).unwrap_or_else(|e| panic!("{e}"));
        wait::until_true("strace to hold every thread", wait::START_MAX, || all_traced(pid)).await;
        Injection { strace, _folder: folder }
    }
}

/// Whether every thread of a process has a tracer.
fn all_traced(pid: i32) -> bool {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let Ok(entries) = std::fs::read_dir(tasks) else { return false };
    entries.flatten().all(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}
