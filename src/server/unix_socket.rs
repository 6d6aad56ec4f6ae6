//! The unix socket of the internal entrance. All shards listen on the one socket: unlike a port, a path cannot be
//! bound several times.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::ServeError;
use super::entrances::BACKLOG;

/// How long the socket of a process that was killed may seem to be alive: the kernel takes its rings apart, which hold
/// the socket, after the process has ended.
const AFTERLIFE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Dropped, its file is gone; who still has the socket serves those who have come.
#[derive(Debug)]
pub(super) struct UnixSocket {
    path: PathBuf,
    /// Device and inode of the file: what another server puts in its place is not ours to remove.
    identity: Option<(u64, u64)>,
    socket: Arc<Socket>,
}

impl UnixSocket {
    /// `mode` says who may connect, which takes the right to write.
    pub(super) fn listen(path: &Path, mode: u32) -> Result<Self, ServeError> {
        let refuse = |error| ServeError::Unix {
            path: path.to_owned(),
            error,
        };
        remove_stale(path).map_err(refuse)?;
        let listen = || -> io::Result<Self> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let unix_socket = Self {
                path: path.to_owned(),
                identity: identity(path),
                socket: Arc::new(socket),
            };
            // Until it listens nobody can connect, so nobody comes in by the mode that the file was made with.
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
            unix_socket.socket.listen(BACKLOG)?;
            Ok(unix_socket)
        };
        listen().map_err(refuse)
    }

    pub(super) fn socket(&self) -> Arc<Socket> {
        self.socket.clone()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Removes what a server has left behind that could not clean up. Nothing else is touched: neither a socket that
/// somebody answers on, nor a file that is no socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if !file.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let end = Instant::now() + AFTERLIFE;
    while is_answered(path)? {
        if Instant::now() >= end {
            return Err(Errno::ADDRINUSE.into());
        }
        thread::sleep(LOOK_AGAIN);
    }
    std::fs::remove_file(path)
}

/// Somebody has the socket.
fn is_answered(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // A full backlog (`EAGAIN`) is somebody's, too.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn path(name: &str) -> PathBuf {
        let name = format!("pushring-{}-{name}.sock", std::process::id());
        std::env::temp_dir().join(name)
    }

    fn refusal(path: &Path) -> io::ErrorKind {
        match UnixSocket::listen(path, 0o600) {
            Err(ServeError::Unix { error, .. }) => error.kind(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_dead_servers_file_is_replaced_and_a_live_ones_is_not() {
        let path = path("stale");
        let live = UnixListener::bind(&path).unwrap();
        assert_eq!(refusal(&path), io::ErrorKind::AddrInUse);
        drop(live);
        let socket = UnixSocket::listen(&path, 0o640).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        UnixStream::connect(&path).unwrap();
        assert_eq!(refusal(&path), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let path = path("foreign");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(refusal(&path), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();

        let socket = UnixSocket::listen(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(socket);
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }
}
