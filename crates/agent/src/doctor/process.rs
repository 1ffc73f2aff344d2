//! What the kernel tells of other processes: who listens on a port, who a process is, how many files it may open, and which
//! proxies it was told of. Read from `/proc`; what this user may not read is not known.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use rustix::process::{Resource, getrlimit};

/// State of a socket that listens, in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTENING: &str = "0A";

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
    pub name: String,
}

impl Process {
    /// The process with this number, if it is there.
    pub fn of(pid: u32) -> Option<Self> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let name = name.trim_end().chars().filter(|c| !c.is_control()).collect();
        Some(Process { pid, name })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Who listens on an address; `None` where nobody does, or where it is somebody whom this user cannot see.
pub(super) fn listener(address: SocketAddr) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<u64> =
        tables.iter().flat_map(|table| table.lines()).filter_map(|line| inode(line, address)).collect();
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if wanted.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let is_holder = descriptors.any(|descriptor| {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            wanted.iter().any(|socket| link.as_os_str() == socket.as_str())
        });
        if is_holder { Process::of(pid) } else { None }
    })
}

/// Inode of the socket in a line of the table, if it listens there, or at that port of every address.
fn inode(line: &str, address: SocketAddr) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.rsplit_once(':')?;
    let (ip, port) = (ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
    let is_there = port == address.port() && (ip.is_unspecified() || ip == address.ip().to_canonical());
    let is_listening = fields.nth(1)? == LISTENING;
    (is_there && is_listening).then(|| fields.nth(5)?.parse().ok()).flatten()
}

/// An address as the tables have it: words of 32 bits, each in the machine's own order of bytes.
fn ip_of(digits: &str) -> Option<IpAddr> {
    const WORD: usize = 8;
    let words = digits.as_bytes().chunks(WORD).map(|word| std::str::from_utf8(word).ok());
    let words: Option<Vec<u32>> = words.map(|word| u32::from_str_radix(word?, 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let v4 = <[u8; 4]>::try_from(&*bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(&*bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).ok().map(|ip| ip.to_canonical())
}

/// How many files a process may open; of this process's own, which a service manager may treat otherwise, the most that it
/// could have.
pub(super) fn open_files(pid: Option<u32>) -> Option<u64> {
    match pid {
        Some(pid) => soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?),
        None => Some(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
    }
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The values of some variables in another process's environment. `None` if this user may not read it.
pub(super) fn environment(pid: u32, names: &[&str]) -> Option<Vec<(String, String)>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    Some(
        pairs
            .filter(|(name, value)| names.contains(name) && !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// The user whose rights a process has.
pub(super) fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table() {
        let line = "   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41234 1 0 100";
        let inode = |line: &str, address: &str| inode(line, address.parse().unwrap());
        let local = "127.0.0.1:5000".to_owned();
        assert_eq!(inode(line, &local), Some(41234));
        assert_eq!([inode(line, "127.0.0.1:5001"), inode(line, "127.0.0.2:5000")], [None, None]);
        assert_eq!(inode(&line.replace(" 0A ", " 01 "), &local), None, "a connection");
        assert_eq!(inode(&line.replace("0100007F", "00000000"), &local), Some(41234), "every address");
        assert_eq!(inode(&line.replace("0100007F", &"0".repeat(32)), &local), Some(41234), "every address");
        assert_eq!(inode("  sl  local_address rem_address   st tx_queue", &local), None);
    }

    #[test]
    fn limits() {
        let of = |value: &str| {
            soft_limit(&format!("Max cpu time  1 2 s\nMax open files            {value}  4096  files\n"))
        };
        assert_eq!([of("1024"), of("unlimited"), of("")], [Some(1024), Some(u64::MAX), Some(4096)]);
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn this_very_process_is_found() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let found = listener(socket.local_addr().unwrap()).expect("it listens");
        assert_eq!(found.pid, std::process::id());
        assert_eq!(user(found.pid), Some(rustix::process::geteuid().as_raw()));
    }
}
