//! Is the data directory the agent's, is there room, is the disk fast enough, and is it a disk at all?
//!
//! Nothing in the directory is changed: the speed is measured with a file that has no name.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::finding::{Group, Level, Outcome, kinds};
use super::process::{self, Process};
use crate::config::Config;

kinds! {
    UNUSABLE: "store-unusable", Store, Problem,
        "The agent cannot keep blobs there: it does not start, or it passes every pull straight through.",
        "Give store.path to the agent's user (chown), or choose another directory.";
    FOREIGN: "store-foreign", Store, Problem,
        "The directory was not made by this version of the program; the agent refuses to start rather than misread it.",
        "Run the version that wrote it, or move the directory away to begin with an empty store.";
    LOCKED: "store-locked", Store, Problem,
        "A data directory belongs to one agent alone; a second one refuses to start.",
        "Stop the process that has it, or name its configuration with --config.";
    FULL: "disk-full", Store, Problem,
        "Nothing more is stored: pulls go on, but each layer is fetched again and again.",
        "Free space, lower store.disk_free_min, or put the store on another file system.";
    LOW: "disk-low", Store, Warning,
        "Soon the agent will evict blobs to keep store.disk_free_min free, whatever store.capacity says.",
        "Free space, or set a store.capacity that fits.";
    CAPACITY: "capacity-too-large", Store, Warning,
        "The cap is never reached: eviction begins only when the file system is nearly full.",
        "Set store.capacity to less than the file system has, with store.disk_free_min left over.";
    INODES: "inodes-low", Store, Problem,
        "Each blob is a file; without inodes nothing is stored, however much space there is.",
        "Remove small files, or put the store on a file system with more inodes.";
    SLOW: "disk-slow", Store, Warning,
        "Blobs come in no faster than the disk writes them: cold pulls are slower than without the agent.",
        "Put store.path on a faster disk; look for others that write to this one.";
    MEMORY: "store-in-memory", Store, Warning,
        "Blobs take memory from the node's pods and are gone after a restart of the node.",
        "Put store.path on a disk; in a pod, use a hostPath volume.";
    NETWORK: "store-on-network", Store, Warning,
        "Every pull crosses the network twice, and a fault of the file server stops the node's pulls.",
        "Put store.path on a local disk; to share blobs between nodes use the swarm or object_store.";
    OVERLAY: "store-on-overlay", Store, Warning,
        "The directory lies in a container's own layer: it is slower, and gone with the container.",
        "Mount a directory of the node at store.path (hostPath).";
    BROKEN: "index-broken", Store, Problem,
        "The index is gone while blobs are there. The agent makes a new one at its next start; tags and pins are lost.",
        "Restart the agent and look at its log; if it happens again, the disk loses writes.";
    REBUILT: "index-rebuilt", Store, Warning,
        "The index was unreadable once and has been made anew: tags, pins and small blobs of before are gone.",
        "Look for disk errors in the kernel's log (dmesg); then remove the directory that was set aside.";
}

/// Bytes that are written to measure the disk, at most, and how long that may take.
const MEASURED_BYTES: usize = 32 << 20;
const MEASURED_TIME: Duration = Duration::from_secs(2);
/// Bytes that are written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Slower than this the disk is the bottleneck of a pull over a gigabit link.
const RATE_MIN: u64 = 40_000_000;
/// Longer than this, one sync delays every manifest. Disks of servers need milliseconds.
const SYNC_MAX: Duration = Duration::from_millis(250);
/// Less of the inodes free is little.
const INODES_LOW_PERCENT: u64 = 5;
/// Fewer inodes free are none: an image has a hundred blobs at most.
const INODES_MIN: u64 = 1000;

/// What is below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Disk,
    Memory,
    Overlay,
    Network(&'static str),
}

/// Who has the directory, and what is in it.
#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    /// Why it cannot be used, if that is so.
    fault: Option<String>,
    /// Why it is not a store of this version.
    foreign: Option<String>,
    /// The process that has written itself into the lock, if it is alive.
    holder: Option<Process>,
    /// Whether blobs are there and no index.
    index_missing: bool,
    /// Where a broken index was set aside.
    set_aside: Option<PathBuf>,
}

/// What the file system has.
#[derive(Clone, Copy, Debug)]
struct Room {
    medium: Medium,
    bytes: u64,
    bytes_free: u64,
    /// 0 for file systems that do not count them.
    inodes: u64,
    inodes_free: u64,
}

/// How fast the disk takes writes.
#[derive(Clone, Copy, Debug)]
struct Speed {
    bytes: u64,
    wrote: Duration,
    /// The last sync alone.
    synced: Duration,
}

/// Looks and judges. Blocks on the disk. `agent` is the agent that answers.
pub(super) fn check(config: &Config, agent: Option<u32>) -> Vec<Outcome> {
    let options = config.store_options();
    let directory = look(&options.path, agent);
    let mut outcomes = judge_directory(&directory, agent);
    let Some(place) = existing(&options.path) else { return outcomes };
    match room(place) {
        Ok(room) => {
            outcomes.extend(judge_room(&options.path, &room, options.disk_free_min, options.capacity));
            if outcomes.iter().all(|outcome| outcome.level() != Some(Level::Problem)) {
                outcomes.extend(measure(place).ok().map(|speed| judge_speed(&options.path, &speed)));
            }
        }
        Err(error) => outcomes.push(UNUSABLE.found(format!("{}: {error}", place.display())).into()),
    }
    outcomes
}

/// The directory, or the nearest one above it that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.is_dir())
}

fn look(path: &Path, agent: Option<u32>) -> Directory {
    let glance = shoal_store::glance(path);
    Directory {
        path: path.to_owned(),
        fault: fault(path, agent),
        foreign: glance.foreign.map(|error| error.to_string()),
        holder: glance.lock_pid.and_then(Process::of),
        index_missing: glance.index_missing,
        set_aside: glance.broken_index,
    }
}

/// Why the agent's user cannot write there.
fn fault(path: &Path, agent: Option<u32>) -> Option<String> {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => return Some(format!("{shown} is no directory")),
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = existing(path)?;
            return may_write(above).err().map(|error| {
                format!("{shown} is not there and cannot be made in {}: {error}", above.display())
            });
        }
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    let user = agent.and_then(process::user);
    match user {
        Some(user) if user != meta.uid() => {
            Some(format!("{shown} belongs to user {}, the agent runs as user {user}", meta.uid()))
        }
        _ => may_write(path).err().map(|error| format!("{shown} cannot be written: {error}")),
    }
}

/// As far as this user is not another one than the agent's, which it is not in most cases.
fn may_write(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?)
}

fn judge_directory(directory: &Directory, agent: Option<u32>) -> Vec<Outcome> {
    let shown = directory.path.display();
    if let Some(fault) = &directory.fault {
        return vec![UNUSABLE.found(fault.clone()).into()];
    }
    if let Some(foreign) = &directory.foreign {
        return vec![FOREIGN.found(foreign.clone()).into()];
    }
    let mut outcomes = Vec::new();
    match (&directory.holder, agent) {
        (Some(holder), agent) if agent != Some(holder.pid) && holder.name.starts_with("shoal") => {
            outcomes.push(LOCKED.found(format!("{shown} is in use by {holder}")).into());
        }
        _ if directory.index_missing => {
            outcomes.push(BROKEN.found(format!("there is no index in {shown}")).into())
        }
        _ => {}
    }
    if let Some(aside) = &directory.set_aside {
        let found = REBUILT.found(format!("a broken index was set aside as {}", aside.display()));
        outcomes.push(found.into());
    }
    outcomes
}

fn judge_room(path: &Path, room: &Room, free_min: u64, capacity: Option<u64>) -> Vec<Outcome> {
    let shown = path.display();
    let size = |bytes: u64| ByteSize(bytes).display().si().to_string();
    let mut outcomes: Vec<Outcome> = Vec::new();
    match room.medium {
        Medium::Disk => {}
        Medium::Memory => outcomes.push(MEMORY.found(format!("{shown} lies in memory (tmpfs)")).into()),
        Medium::Overlay => {
            outcomes.push(OVERLAY.found(format!("{shown} lies on an overlay file system")).into())
        }
        Medium::Network(name) => outcomes.push(NETWORK.found(format!("{shown} lies on {name}")).into()),
    }
    let free = format!("{} free of {} at {shown}", size(room.bytes_free), size(room.bytes));
    if room.bytes_free < free_min {
        outcomes.push(FULL.found(format!("{free}, store.disk_free_min is {}", size(free_min))).into());
    } else if room.bytes_free < free_min.saturating_mul(2) {
        outcomes.push(LOW.found(format!("{free}, store.disk_free_min is {}", size(free_min))).into());
    } else {
        outcomes.push(Outcome::well(Group::Store, free));
    }
    let most = room.bytes.saturating_sub(free_min);
    if let Some(capacity) = capacity.filter(|capacity| *capacity > most) {
        let what = format!("store.capacity is {}, the file system has {}", size(capacity), size(room.bytes));
        outcomes.push(CAPACITY.found(what).into());
    }
    if room.inodes > 0
        && room.inodes_free.saturating_mul(100) < room.inodes.saturating_mul(INODES_LOW_PERCENT)
    {
        let found = INODES.found(format!("{} of {} inodes free at {shown}", room.inodes_free, room.inodes));
        let level = if room.inodes_free < INODES_MIN { Level::Problem } else { Level::Warning };
        outcomes.push(found.at_most(level).into());
    }
    outcomes
}

fn judge_speed(path: &Path, speed: &Speed) -> Outcome {
    let rate = (speed.bytes as f64 / speed.wrote.as_secs_f64().max(1e-6)) as u64;
    let sync = format!("{:.1} ms", speed.synced.as_secs_f64() * 1e3);
    let what = format!(
        "{}/s written and synced at {}, one sync {sync}",
        ByteSize(rate).display().si(),
        path.display()
    );
    if rate < RATE_MIN || speed.synced > SYNC_MAX {
        return SLOW.found(what).into();
    }
    Outcome::well(Group::Store, what)
}

fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    let block = stat.f_frsize;
    Ok(Room {
        medium: medium(rustix::fs::statfs(path)?.f_type as u64),
        bytes: stat.f_blocks.saturating_mul(block),
        bytes_free: stat.f_bavail.saturating_mul(block),
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// From the file system's magic number (`statfs(2)`).
fn medium(magic: u64) -> Medium {
    // Some are negative where the kernel's type is signed and narrow.
    match magic & 0xffff_ffff {
        0x0102_1994 | 0x8584_58f6 => Medium::Memory,
        0x794c_7630 => Medium::Overlay,
        0x6969 => Medium::Network("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Medium::Network("SMB"),
        0x00c3_6400 => Medium::Network("CephFS"),
        0x0bd0_0bd0 => Medium::Network("Lustre"),
        0x0102_1997 => Medium::Network("9P"),
        0x6573_5546 => Medium::Network("FUSE"),
        _ => Medium::Disk,
    }
}

/// Writes for a moment to a file without a name, and syncs it.
fn measure(directory: &Path) -> io::Result<Speed> {
    let mut file: File = tempfile::tempfile_in(directory)?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let begun = Instant::now();
    let mut bytes = 0;
    while bytes < MEASURED_BYTES && begun.elapsed() < MEASURED_TIME {
        file.write_all(&chunk)?;
        bytes += chunk.len();
        // Otherwise the memory of the page cache would be measured, and the sync could take minutes.
        if bytes % (8 * CHUNK_BYTES) == 0 {
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    let wrote = begun.elapsed();
    file.write_all(&chunk[..4096])?;
    let begun = Instant::now();
    file.sync_data()?;
    Ok(Speed { bytes: bytes as u64, wrote, synced: begun.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn ids(outcomes: &[Outcome]) -> Vec<&'static str> {
        let id = |outcome: &Outcome| match outcome {
            Outcome::Well { .. } => None,
            Outcome::Found(finding) => Some(finding.kind.id),
        };
        outcomes.iter().filter_map(id).collect()
    }

    #[test]
    fn rooms() {
        let good = Room {
            medium: Medium::Disk,
            bytes: 100 * GB,
            bytes_free: 50 * GB,
            inodes: 1_000_000,
            inodes_free: 900_000,
        };
        let table: Vec<(Room, Option<u64>, &[&str])> = vec![
            (good, None, &[]),
            (good, Some(80 * GB), &[]),
            (good, Some(100 * GB), &["capacity-too-large"]),
            (Room { bytes_free: GB / 2, ..good }, None, &["disk-full"]),
            (Room { bytes_free: GB + GB / 2, ..good }, None, &["disk-low"]),
            (Room { inodes_free: 10_000, ..good }, None, &["inodes-low"]),
            (Room { inodes: 0, inodes_free: 0, ..good }, None, &[]),
            (Room { medium: Medium::Memory, ..good }, None, &["store-in-memory"]),
            (Room { medium: Medium::Overlay, ..good }, None, &["store-on-overlay"]),
            (Room { medium: Medium::Network("NFS"), ..good }, None, &["store-on-network"]),
        ];
        for (room, capacity, expected) in table {
            assert_eq!(ids(&judge_room(Path::new("/data"), &room, GB, capacity)), expected, "{room:?}");
        }
    }

    #[test]
    fn speeds() {
        let of = |bytes, millis, sync| {
            let (wrote, synced) = (Duration::from_millis(millis), Duration::from_millis(sync));
            judge_speed(Path::new("/data"), &Speed { bytes, wrote, synced }).level()
        };
        assert_eq!(of(32_000_000, 300, 5), None);
        assert_eq!(of(2_000_000, 2000, 5), Some(Level::Warning));
        assert_eq!(of(32_000_000, 300, 900), Some(Level::Warning));
    }

    #[test]
    fn directories() {
        let good = Directory {
            path: "/data".into(),
            fault: None,
            foreign: None,
            holder: None,
            index_missing: false,
            set_aside: None,
        };
        let shoal = |pid| Some(Process { pid, name: "shoal".into() });
        let table: Vec<(Directory, Option<u32>, &[&str])> = vec![
            (good.clone(), None, &[]),
            (Directory { holder: shoal(7), ..good.clone() }, Some(7), &[]),
            (Directory { holder: shoal(7), ..good.clone() }, None, &["store-locked"]),
            (Directory { holder: shoal(7), ..good.clone() }, Some(8), &["store-locked"]),
            // The number in the lock is another program's by now.
            (Directory { holder: Some(Process { pid: 7, name: "sh".into() }), ..good.clone() }, None, &[]),
            (Directory { fault: Some("no".into()), ..good.clone() }, None, &["store-unusable"]),
            (Directory { foreign: Some("no".into()), ..good.clone() }, None, &["store-foreign"]),
            (Directory { index_missing: true, ..good.clone() }, None, &["index-broken"]),
            (Directory { set_aside: Some("/x".into()), ..good.clone() }, None, &["index-rebuilt"]),
        ];
        for (directory, agent, expected) in table {
            assert_eq!(ids(&judge_directory(&directory, agent)), expected, "{directory:?}");
        }
    }

    #[test]
    fn a_disk_is_measured_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let speed = measure(folder.path()).unwrap();
        assert!(speed.bytes > 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(medium(0xffff_ffff_9123_683e), Medium::Disk, "btrfs");
    }
}
