//! Opening the port.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted. The kernel lowers it to its own `somaxconn`; a node that starts 100 pods at
/// once opens a few hundred connections in one moment.
const BACKLOG: i32 = 1024;

/// Congestion control of clients on this machine. There is no network between us whose congestion could be controlled,
/// but the price is paid all the same: an algorithm that paces its packets, as BBR does, makes a loopback connection
/// several times slower and dearer. Reno does not pace, is part of every kernel and open to every user.
const LOOPBACK_CONGESTION_CONTROL: &[u8] = b"reno";

/// Why a port cannot be opened. The operator has to act; nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process, or this one, listens there.
    #[error(
        "cannot listen on {address}: the port is in use; stop the process that holds it (`ss -ltnp sport = {port}` names it) or choose another address",
        port = address.port()
    )]
    InUse {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A port below 1024, and no privilege for it.
    #[error(
        "cannot listen on {address}: not allowed; choose a port from 1024 up, or grant the process CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address belongs to no interface of this machine, or its address family is switched off.
    #[error(
        "cannot listen on {address}: this machine has no such address; choose one that `ip address` lists, or the wildcard 0.0.0.0 or [::]"
    )]
    NotHere {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else, such as a lack of file descriptors.
    #[error("cannot listen on {address}")]
    Failed {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `address`. `[::]` takes clients of IPv4 as well; port 0 lets the kernel choose one.
///
/// # Errors
/// See [`BindError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address, false)
}

/// Listens on `address` for clients of its own family, so that `0.0.0.0` and `[::]` can have the same port.
///
/// # Errors
/// See [`BindError`].
pub fn bind_own_family(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address, true)
}

fn listen(address: SocketAddr, own_family: bool) -> Result<TcpListener, BindError> {
    open(address, own_family).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => BindError::InUse { address, source },
        Some(libc::EACCES | libc::EPERM) => BindError::Denied { address, source },
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => BindError::NotHere { address, source },
        _ => BindError::Failed { address, source },
    })
}

fn open(address: SocketAddr, own_family: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of a former process in TIME_WAIT must not keep a restarted agent off its port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The system's default for this differs between machines.
        socket.set_only_v6(own_family)?;
    }
    if address.ip().to_canonical().is_loopback() {
        // Connections inherit it, and only from here: one that is changed later goes on pacing. Without it everything
        // works, if slower.
        if let Err(error) = socket.set_tcp_congestion(LOOPBACK_CONGESTION_CONTROL) {
            tracing::debug!(%error, "local clients are sent to with the system's congestion control");
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::{BindError, bind, bind_own_family};

    /// Whether IPv4 finds the port free that IPv6 has. Of a few ports, because somebody else may use one of them.
    fn leave_room(bind_six: fn(SocketAddr) -> Result<TcpListener, BindError>) -> bool {
        (0..8).any(|_| {
            let six = bind_six("[::]:0".parse().unwrap()).expect("a port is free");
            let port = six.local_addr().unwrap().port();
            bind_own_family(format!("0.0.0.0:{port}").parse().unwrap()).is_ok()
        })
    }

    #[tokio::test]
    async fn both_families_can_have_one_port() {
        assert!(leave_room(bind_own_family));
        assert!(!leave_room(bind), "[::] takes clients of IPv4 as well");
    }
}
