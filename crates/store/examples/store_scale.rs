//! How long a store with many blobs takes to open, and what memory it takes.
//!
//! ```text
//! cargo run -p shoal-store --example store_scale [blobs] [directory]
//! ```
//! Makes that many content files (100,000 if not said otherwise), has the index rebuilt from them, adds 2,000 inline
//! blobs, and measures in a fresh process for each figure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use shoal_engine::{Algorithm, Digest};
use shoal_store::{Options, Store};

const BLOBS: u64 = 100_000;
const INLINE: u64 = 2_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("--measure") {
        let what = arguments.next().ok_or("what?")?;
        return measure(&what, &PathBuf::from(arguments.next().ok_or("where?")?));
    }
    let blobs = first.map_or(Ok(BLOBS), |text| text.parse())?;
    let temporary = tempfile::tempdir()?;
    let dir = arguments.next().map_or_else(|| temporary.path().join("data"), PathBuf::from);
    drop(Store::open(options(&dir))?);
    fill(&dir, blobs)?;
    fs::remove_dir_all(dir.join("index"))?;
    for what in ["rebuild", "inline", "open", "use", "evict"] {
        let done = Command::new(std::env::current_exe()?).args(["--measure", what]).arg(&dir).status()?;
        if !done.success() {
            return Err(format!("{what}: {done}").into());
        }
    }
    Ok(())
}

fn options(dir: &Path) -> Options {
    Options { disk_free_min: 0, ..Options::new(dir) }
}

fn name(number: u64) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, &number.to_le_bytes());
    Digest::new(Algorithm::Sha256, hash.as_ref())
}

/// Content files, as a copied directory would have them.
fn fill(dir: &Path, blobs: u64) -> Result<(), Failure> {
    let started = Instant::now();
    for number in 0..blobs {
        let hex = name(number).hex();
        let fan_out = dir.join("blobs/sha256").join(&hex[..2]);
        fs::create_dir_all(&fan_out)?;
        fs::write(fan_out.join(hex), number.to_le_bytes())?;
    }
    println!("{blobs} content files made in {:.1?}", started.elapsed());
    Ok(())
}

fn measure(what: &str, dir: &Path) -> Result<(), Failure> {
    let before = resident()?;
    let started = Instant::now();
    let mut options = options(dir);
    if what == "evict" {
        options.capacity = Some(1000 * 8);
    }
    let opened = Store::open(options)?;
    let took = started.elapsed();
    let store = opened.store;
    println!(
        "{what}: open {took:.1?}, {} blobs, RSS {} KiB (before: {before})",
        opened.report.blobs,
        resident()?
    );
    let now = SystemTime::now();
    match what {
        "inline" => {
            let started = Instant::now();
            for number in 0..INLINE {
                let bytes = Bytes::from(vec![number as u8; 2000]);
                store.put(&name(number | 1 << 40), Some("application/json"), &bytes, now)?;
            }
            let each = started.elapsed() / INLINE as u32;
            println!("  {INLINE} inline puts, {each:.1?} each, RSS {} KiB", resident()?);
        }
        "use" => {
            for (label, base) in [("file", 0), ("inline", 1 << 40)] {
                let mut times: Vec<Duration> = Vec::new();
                for number in 0..INLINE {
                    let started = Instant::now();
                    store.get(&name(number | base), now)?.ok_or("a blob is missing")?;
                    times.push(started.elapsed());
                }
                times.sort();
                let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
                println!("  get {label}: p50 {p50:.1?}, p99 {p99:.1?}, RSS {} KiB", resident()?);
            }
            let started = Instant::now();
            store.sweep(now)?;
            println!("  first sweep {:.1?}, RSS {} KiB", started.elapsed(), resident()?);
            let started = Instant::now();
            store.sweep(now)?;
            println!("  next sweep {:.1?}", started.elapsed());
        }
        "evict" => {
            let started = Instant::now();
            let swept = store.sweep(now)?;
            println!(
                "  {} evicted in {:.1?}, RSS {} KiB",
                swept.evicted.count,
                started.elapsed(),
                resident()?
            );
        }
        _ => {}
    }
    Ok(())
}

/// KiB of memory that this process has.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
