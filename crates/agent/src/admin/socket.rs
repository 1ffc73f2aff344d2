//! The unix socket of the admin API.
//!
//! Invariant: the socket's file is ours alone. One that nobody answers on any more is replaced; one that somebody answers
//! on, or that is no socket, is left as it is. Callers of other users are hung up on, whatever the file's mode.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use axum::serve::Listener;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{AdminState, admin_router};

/// Why the admin socket cannot be listened on. The operator has to act; nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent answers on {path}; stop it, or choose another admin.socket", path = .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{path} is there and is no socket; remove it, or choose another admin.socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("cannot {operation} {path}; choose an admin.socket in a directory of this process's user", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// Listens on `path`. The directory is made when it is not there.
///
/// # Errors
/// See [`SocketError`].
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |operation| move |source| SocketError::Io { operation, path: path.to_owned(), source };
    make_way(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Answers on the socket until `drain` is cancelled, removes its file, and returns when the requests under way have ended: for
/// as long as they take.
pub async fn serve(listener: UnixListener, state: AdminState, drain: CancellationToken) {
    let socket = OwnSocket::new(listener);
    let served = axum::serve(socket, admin_router(state)).with_graceful_shutdown(drain.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin API has stopped");
    }
}

/// A socket whose callers are checked, and whose file is removed with it.
struct OwnSocket {
    listener: UnixListener,
    file: Option<(PathBuf, u64)>,
}

impl OwnSocket {
    fn new(listener: UnixListener) -> Self {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname()).map(Path::to_owned);
        let file = path.and_then(|path| Some((fs::symlink_metadata(&path).ok()?.ino(), path)));
        OwnSocket { listener, file: file.map(|(inode, path)| (path, inode)) }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // Not if a successor has replaced it meanwhile.
        if let Some((path, inode)) = &self.file
            && fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a socket that a process has left behind when it died.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |operation| move |source| SocketError::Io { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(failed("make the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A queue that is full has somebody behind it who does not keep up.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(failed("try")(error)),
    }
}

impl Listener for OwnSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            // The socket's own way of accepting waits and tries again after an error.
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(peer) if may_call(peer.uid()) => return (stream, address),
                Ok(peer) => tracing::warn!(
                    uid = peer.uid(),
                    "a caller of another user was refused on the admin socket"
                ),
                Err(error) => tracing::debug!(%error, "a caller on the admin socket left at once"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Listener::local_addr(&self.listener)
    }
}

fn may_call(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}
