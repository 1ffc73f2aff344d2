//! Crashes at every system call.
//!
//! This program is its own child: the child works through a list of steps and says after each that it is done; the
//! parent traces it (`ptrace`) and, at the n-th system call that touches a file, kills it or cuts the power of the file
//! system under it. Then the store is opened again and everything that was said to be done must be true, and nothing
//! else may be believed. This goes on with larger n until the child gets through.

#[path = "crash/check.rs"]
mod check;
#[path = "crash/cut.rs"]
mod cut;
mod fixture;
#[path = "crash/steps.rs"]
mod steps;

use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use cut::{Child, Ended};
use fixture::Mount;

/// System calls between two kills while the store is made for the first time: RocksDB makes hundreds of them, and until
/// the index gets its name there is nothing to lose.
const STRIDE_OPENING: usize = 11;
/// System calls between two cuts of the power, after that and during it. Each takes half a second: a mount and a recovery.
const STRIDE_POWER: usize = 4;
const STRIDE_POWER_OPENING: usize = 67;
/// Set, it cuts at every single one, which takes a quarter of an hour.
const EXHAUSTIVE: &str = "SHOAL_STORE_CRASH_EXHAUSTIVE";
/// Children that are killed at the same time.
const THREADS: usize = 2;
/// Between its fork and its exec a child shares the locks of all stores that are open here, also while they are closed.
static FORKING: RwLock<()> = RwLock::new(());

fn main() {
    if let Some(dir) = std::env::var_os(cut::DIRECTORY) {
        steps::work(Path::new(&dir));
        return;
    }
    // `cargo test -- --list` and filters: this is one test, or rather two.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("killed: test\npower_lost: test");
        return;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter.as_str()));
    if wanted("killed") {
        killed();
    }
    if wanted("power_lost") && fixture::may_mount_disk("power_lost") {
        power_lost();
    }
}

/// What was given to the kernel survives.
fn killed() {
    let started = Instant::now();
    let next = AtomicUsize::new(1);
    let stride = AtomicUsize::new(stride_of(STRIDE_OPENING));
    let cuts = AtomicUsize::new(0);
    let through = AtomicBool::new(false);
    let work = || {
        while !through.load(Ordering::Relaxed) {
            let cut = next.fetch_add(stride.load(Ordering::Relaxed), Ordering::Relaxed);
            let dir = tempfile::tempdir_in(memory()).unwrap();
            let child = {
                let _nobody_has_a_store_open = FORKING.write().unwrap();
                Child::start(dir.path())
            };
            let ended = child.run(cut, Child::kill);
            let done = ended.done();
            {
                let _nobody_forks = FORKING.read().unwrap();
                check::Check { dir: dir.path(), done, cut, power: false }.run();
            }
            cuts.fetch_add(1, Ordering::Relaxed);
            if done > steps::OPEN {
                stride.store(1, Ordering::Relaxed);
            }
            if let Ended::ByItself { .. } = ended {
                assert_eq!(done, steps::COUNT, "the child did all its steps");
                through.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let cuts = cuts.into_inner();
    println!("test killed ... ok ({cuts} cuts, {:?})", started.elapsed());
    assert!(cuts > 150, "only {cuts} cuts");
}

/// What was synced survives, and by chance some of the rest.
fn power_lost() {
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut mount = Mount::ext4(&dir.path().join("mnt"), &dir.path().join("image"), 64 << 20);
    let data = mount.path.join("data");
    let (mut cut, mut cuts) = (1, 0);
    loop {
        let ended = Child::start(&data).run(cut, |child| {
            mount.cut_power();
            child.kill();
        });
        let done = ended.done();
        let through = matches!(ended, Ended::ByItself { .. });
        if through {
            mount.cut_power();
        }
        mount.unmount().unwrap();
        mount.mount();
        check::Check { dir: &data, done, cut, power: true }.run();
        std::fs::remove_dir_all(&data).unwrap();
        // Or it would be there again after the next cut.
        mount.sync();
        cuts += 1;
        if through {
            assert_eq!(done, steps::COUNT, "the child did all its steps");
            break;
        }
        cut += stride_of(if done > steps::OPEN { STRIDE_POWER } else { STRIDE_POWER_OPENING });
    }
    println!("test power_lost ... ok ({cuts} cuts, {:?})", started.elapsed());
    assert!(cuts > 30, "only {cuts} cuts");
}

fn stride_of(stride: usize) -> usize {
    if std::env::var_os(EXHAUSTIVE).is_some() { 1 } else { stride }
}

/// Memory is as good as a disk for a process that is killed, and quicker.
fn memory() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
