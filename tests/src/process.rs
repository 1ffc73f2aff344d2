//! A child process with its log. It is ended by its own process id when dropped; the end of its log is shown when the
//! test that started it fails, and all of it when `SHOAL_TEST_LOGS` is set.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of a child's log that a failing test shows.
const TAIL_LINES: usize = 60;

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// The child dies with the thread that starts it, so that a test run that is killed leaves nothing behind: call
    /// this from the test's own thread, not from a spawned task.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // SAFETY: prctl is async-signal-safe and only touches the child.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start {}: {e}", command.get_program().to_string_lossy()))
        })?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids fit")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for yet, so its id is still its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(libc::SIGKILL);
        }
        let _ = self.child.wait();
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it has ended; panics after `within`.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < within, "{} did not end within {within:?}\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines it has written.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::env::var_os("SHOAL_TEST_LOGS").is_some() {
            eprintln!("--- {}'s log\n{}---", self.name, self.log());
        } else if std::thread::panicking() {
            eprintln!("--- the end of {}'s log\n{}\n---", self.name, self.tail());
        }
    }
}

/// What a program that was run to its end has said.
pub struct Finished {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Exit code, or `None` when a signal ended it.
    pub code: Option<i32>,
    /// stdout and stderr together.
    pub output: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// Panics with the output unless the program exited with 0.
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> Self {
        assert!(self.ok, "{what} failed after {:?} (exit code {:?}):\n{}", self.took, self.code, self.output);
        self
    }
}

/// Runs a program to its end without blocking the test's tasks; kills it and panics after `within`.
pub async fn run(command: &mut Command, within: Duration) -> Finished {
    let folder = crate::place::scratch();
    let log = folder.path().join("output");
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let mut process = Process::spawn(&name, command, &log).unwrap_or_else(|e| panic!("{e}"));
    let status = process.exit(within).await;
    Finished { ok: status.success(), code: status.code(), output: process.log(), took: start.elapsed() }
}
