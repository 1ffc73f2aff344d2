//! What a process asks of the kernel, the allocator and the runtime before it does its work.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tokio::runtime::{Builder, Runtime};

use super::Failure;

/// Threads that carry futures. Hashing and disk work have their own; more of these would mostly wait for each other.
const WORKERS_MAX: usize = 4;

/// Threads that wait for disks. Each costs little more than its stack's touched pages; the bound is for a disk that
/// hangs, on which all of them would wait.
const BLOCKING_THREADS_MAX: usize = 128;

/// A blocking thread without work ends after this long: its stack and its share of the allocator go back.
const BLOCKING_THREAD_LIFETIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Heaps of the C allocator. By default there are eight for each processor, and each keeps what its threads have once
/// used: with a hundred threads that come and go, most of the agent's memory.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Allocations from this size are mapped and unmapped on their own, bytes. Set, because otherwise it grows with what is
/// freed, and large buffers would stay in the heaps. Above the read buffers of upstream connections, which have up to
/// 408 KiB and are new with each chunk: mapping them takes a fifth of a cold transfer's CPU time.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 512 << 10;

/// Free memory at the top of the heap that is kept, bytes.
#[cfg(target_env = "gnu")]
const TRIM_BYTES: libc::c_int = 512 << 10;

/// Prepares the process that runs the agent. Must be called before there is a second thread. Nothing here keeps the
/// agent from starting; what did not work is returned, to be logged when there is a log.
pub(super) fn prepare_agent() -> Vec<(&'static str, io::Error)> {
    lean_allocator();
    let mut refused = Vec::new();
    // Keys and tokens are in memory: no core file, and no debugger of another process of this user.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        refused.push(("keep secrets out of core files", error.into()));
    }
    if let Err(error) = raise_open_files() {
        refused.push(("raise the limit of open files", error));
    }
    refused
}

/// Raises the soft limit to the hard one. The soft limit is low for the sake of programs that use `select`.
fn raise_open_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

#[cfg(target_env = "gnu")]
fn lean_allocator() {
    let settings = [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, TRIM_BYTES),
    ];
    for (parameter, value) in settings {
        // SAFETY: `mallopt` takes two numbers and changes the allocator's own state; it refuses what it does not know.
        // It does not lock, and this process has one thread yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other C libraries have one heap and give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
fn lean_allocator() {}

/// A runtime for the agent, and for the demo, which is a load of clients. Each of `transfers` under way keeps a thread that writes
/// what comes: not one of those that look into the store meanwhile.
pub(super) fn runtime(transfers: usize) -> Result<Runtime, Failure> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(processors.min(WORKERS_MAX));
    builder.max_blocking_threads(BLOCKING_THREADS_MAX + transfers);
    builder.thread_keep_alive(BLOCKING_THREAD_LIFETIME);
    builder.thread_name("shoal").enable_all().build().map_err(no_runtime)
}

/// A runtime for one question.
pub(super) fn light_runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(no_runtime)
}

fn no_runtime(source: io::Error) -> Failure {
    Failure::System { operation: "start the asynchronous runtime", source }
}
