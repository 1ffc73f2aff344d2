//! A traced child.
//!
//! Only its main thread is traced: that is the one that works through the steps, and also the one on which RocksDB
//! writes its log. RocksDB's own threads run free, which adds some chance to what is on disk at a cut.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the program that it is the child, and where to work.
pub const DIRECTORY: &str = "SHOAL_STORE_CRASH_DIRECTORY";

/// How the child ended, and how many steps it had done.
pub enum Ended {
    Cut { done: usize },
    ByItself { done: usize },
}

impl Ended {
    pub fn done(&self) -> usize {
        match self {
            Ended::Cut { done } | Ended::ByItself { done } => *done,
        }
    }
}

pub struct Child {
    child: std::process::Child,
}

impl Child {
    pub fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(DIRECTORY, dir).stdout(Stdio::piped());
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = Child { child: command.spawn().expect("a traced child") };
        // It stops by itself when it becomes the program.
        assert!(libc::WIFSTOPPED(child.wait()));
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        child.trace(libc::PTRACE_SETOPTIONS, options as usize);
        child
    }

    /// Lets it run until it is about to make its `at`-th system call that touches a file, and cuts it there.
    pub fn run(mut self, at: usize, cut: impl FnOnce(&Child)) -> Ended {
        let mut seen = 0;
        let mut signal = 0;
        loop {
            self.trace(libc::PTRACE_SYSCALL, signal);
            let status = self.wait();
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                assert!(
                    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
                    "the child failed: {status:#x}"
                );
                return Ended::ByItself { done: self.said() };
            }
            let stopped_by = libc::WSTOPSIG(status);
            if stopped_by != libc::SIGTRAP | 0x80 {
                // A signal of its own: it shall have it.
                signal = stopped_by as usize;
                continue;
            }
            signal = 0;
            seen += usize::from(self.is_about_to_touch_a_file());
            if seen == at {
                cut(&self);
                while !libc::WIFSIGNALED(self.wait()) {}
                return Ended::Cut { done: self.said() };
            }
        }
    }

    pub fn kill(&self) {
        assert_eq!(unsafe { libc::kill(self.pid(), libc::SIGKILL) }, 0);
    }

    fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        let pid = unsafe { libc::waitpid(self.pid(), &mut status, 0) };
        assert_eq!(pid, self.pid(), "{}", io::Error::last_os_error());
        status
    }

    fn trace(&self, request: libc::c_uint, data: usize) {
        let done = unsafe { libc::ptrace(request, self.pid(), 0_usize, data) };
        assert_eq!(done, 0, "ptrace {request}: {}", io::Error::last_os_error());
    }

    /// Whether it stands at the entry of such a system call, rather than at the exit or at another one.
    fn is_about_to_touch_a_file(&self) -> bool {
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of_val(&info);
        let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid(), size, &mut info) };
        assert!(got > 0, "{}", io::Error::last_os_error());
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return false;
        }
        touches_a_file(unsafe { info.u.entry.nr } as libc::c_long)
    }

    /// Steps it has said to be done: one byte each.
    fn said(&mut self) -> usize {
        let mut said = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        said.len()
    }
}

fn touches_a_file(call: libc::c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    if [libc::SYS_rename, libc::SYS_unlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_creat].contains(&call)
    {
        return true;
    }
    [
        libc::SYS_write,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync_file_range,
        libc::SYS_openat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_mkdirat,
    ]
    .contains(&call)
}
