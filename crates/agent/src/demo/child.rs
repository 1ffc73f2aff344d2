//! A child process with its log. It ends with the value that stands for it, whatever happens in between.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::process::{Child as TokioChild, Command};

/// How long a local server may take until it answers.
pub const START_MAX: Duration = Duration::from_secs(30);

/// How long a child may take to end after it has been asked to.
const END_MAX: Duration = Duration::from_secs(10);

/// Pause between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Lines of its log that an error about a child shows.
const TAIL_LINES: usize = 20;

/// A running child process.
pub struct Child {
    name: String,
    child: TokioChild,
    out: PathBuf,
    err: PathBuf,
}

impl Child {
    /// Starts a program whose stdout and stderr go to `<name>.out` and `<name>.err` in `folder`.
    pub fn spawn(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let create = |path: &Path| {
            std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?).kill_on_drop(true);
        // SAFETY: one system call that only concerns the child and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Child { name: name.to_owned(), child, out, err })
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has written to stdout.
    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    /// What it has written to stderr.
    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Looks until `look` finds something. An error when the child ends first, or after [`START_MAX`].
    pub async fn until<T>(&mut self, what: &str, mut look: impl AsyncFnMut(&Self) -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before {what}:\n{}", self.name, self.tail());
            }
            if let Some(found) = look(self).await {
                return Ok(found);
            }
            if start.elapsed() > START_MAX {
                bail!("{}: waited {START_MAX:?} in vain for {what}:\n{}", self.name, self.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks it to end (SIGTERM) and waits; ends it after [`END_MAX`]. Returns how it ended and its last words.
    pub async fn end(mut self) -> Result<(ExitStatus, String)> {
        if let Some(pid) = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        match tokio::time::timeout(END_MAX, self.child.wait()).await {
            Ok(status) => Ok((status?, self.tail())),
            Err(_) => {
                self.child.kill().await?;
                bail!("{} did not end within {END_MAX:?} of SIGTERM:\n{}", self.name, self.tail())
            }
        }
    }

    fn tail(&self) -> String {
        let log = self.stdout() + &self.stderr();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
