//! What processes and the whole machine use, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// Clock ticks per second in `/proc/<pid>/stat`: 100 on every Linux architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, in user and kernel, of a process and its children so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    family(pid)?.into_iter().map(ticks).sum::<Result<f64>>().map(|ticks| ticks / TICKS_PER_SECOND)
}

/// CPU seconds of this process alone so far: what the clients cost.
pub fn own_cpu_seconds() -> Result<f64> {
    ticks(std::process::id()).map(|ticks| ticks / TICKS_PER_SECOND)
}

/// CPU seconds of all programs so far that this process has started and that have ended.
pub fn children_cpu_seconds() -> Result<f64> {
    let mut usage = std::mem::MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure in when it answers 0.
    let usage = unsafe {
        ensure!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) == 0, "getrusage failed");
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// CPU seconds that all processes of this machine have used.
pub fn machine_cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; then idle and iowait, which are none; then interrupts.
    let busy = ticks.iter().take(3).chain(ticks.iter().skip(5).take(2));
    Ok(busy.sum::<f64>() / TICKS_PER_SECOND)
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn ticks(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in brackets that may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    ticks(11).zip(ticks(12)).map(|(user, system)| user + system).context("/proc/<pid>/stat is odd")
}

/// MiB of memory that a process and its children hold now.
pub fn resident_mib(pid: u32) -> Result<f64> {
    family(pid)?.into_iter().map(|pid| status_mib(pid, "VmRSS:")).sum()
}

/// The part of [`resident_mib`] that is the process's own: not the pages of its program's file, which the kernel maps in larger or smaller
/// chunks, shares with other processes and takes back.
pub fn own_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "RssAnon:")
}

/// Most MiB that a process held since [`reset_peak`].
pub fn peak_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmHWM:")
}

/// Forgets the peak so far.
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak of memory use")
}

fn status_mib(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)).context("/proc/<pid>/status is odd")?;
    let kib: f64 = line.split_whitespace().next().context("/proc/<pid>/status is odd")?.parse()?;
    Ok(kib / 1024.0)
}

/// A process and its direct children.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut pids = vec![pid];
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(pids)
}
