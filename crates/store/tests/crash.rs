//! Crashes at every system call.
//!
//! This program is its own child: the child works through a list of steps and says after each that it is done; the
//! parent traces it (`ptrace`) and, at the n-th system call that touches a file, kills it or cuts the power of the file
//! system under it. Then the store is opened again and everything that was said to be done must be true, and nothing
//! else may be believed. This is done for every n until the child gets through.

#[path = "crash/check.rs"]
mod check;
#[path = "crash/cut.rs"]
mod cut;
mod fixture;
#[path = "crash/steps.rs"]
mod steps;

use std::path::Path;
use std::time::Instant;

use cut::{Child, Ended};
use fixture::Mount;

/// Every how many system calls the power is cut; each cut takes a mount and a recovery.
const POWER_STRIDE: usize = 2;

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
    if wanted("power_lost") && fixture::is_root("power_lost") {
        power_lost();
    }
}

/// What was given to the kernel survives.
fn killed() {
    let started = Instant::now();
    let mut at = 0;
    loop {
        at += 1;
        let dir = tempfile::tempdir_in(memory()).unwrap();
        let ended = Child::start(dir.path()).run(at, Child::kill);
        let done = ended.done();
        let check = check::Check { dir: dir.path(), done, cut: at, power: false };
        check.run();
        if let Ended::ByItself { .. } = ended {
            assert_eq!(done, steps::COUNT, "the child did all its steps");
            break;
        }
    }
    println!("test killed ... ok ({} cuts, {:?})", at - 1, started.elapsed());
    assert!(at > 100, "only {at} system calls were seen");
}

/// What was synced survives, and by chance some of the rest.
fn power_lost() {
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut mount = Mount::ext4(&dir.path().join("mnt"), &dir.path().join("image"), 128 << 20);
    let data = mount.path.join("data");
    let (mut at, mut cuts) = (1, 0);
    loop {
        let ended = Child::start(&data).run(at, |child| {
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
        let check = check::Check { dir: &data, done, cut: at, power: true };
        check.run();
        std::fs::remove_dir_all(&data).unwrap();
        if through {
            assert_eq!(done, steps::COUNT, "the child did all its steps");
            break;
        }
        cuts += 1;
        at += POWER_STRIDE;
    }
    println!("test power_lost ... ok ({cuts} cuts, {:?})", started.elapsed());
    assert!(cuts > 50, "only {cuts} cuts");
}

/// Memory is as good as a disk for a process that is killed, and quicker.
fn memory() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
