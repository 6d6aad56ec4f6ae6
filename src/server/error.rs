//! Why the server does not run: what is wrong, and what to change.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::io::Errno;

use super::KeysError;
use crate::disk::DiskError;
use crate::tls::TlsConfigError;

/// Why the server does not run. The text says what to change.
#[derive(Debug)]
pub enum ServeError {
    /// io_uring is not to be had, or not enough of it.
    Ring(io::Error),
    Descriptors {
        limit: u64,
        reserved: usize,
    },
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    Disk(DiskError),
    /// The keys of the configuration.
    Keys(KeysError),
    /// The issuer's keys at the start.
    Jwks(String),
    /// The socket file of `internal`.
    Unix {
        path: PathBuf,
        error: io::Error,
    },
    Tls(TlsConfigError),
    Start(io::Error),
    Shard(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => {
                let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::PERM | Errno::ACCESS) => {
                        "it is forbidden: allow io_uring_setup, io_uring_enter and io_uring_register in the container's \
                         seccomp profile, and check sysctl kernel.io_uring_disabled"
                    }
                    Some(Errno::NOSYS) => {
                        "this kernel has none: pushring needs Linux 6.1 or newer with CONFIG_IO_URING"
                    }
                    Some(Errno::INVAL) => {
                        "this kernel's is too old: pushring needs Linux 6.1 or newer"
                    }
                    Some(Errno::NOMEM) => {
                        "there is no memory for it: raise the memory limit, or ulimit -l (LimitMEMLOCK)"
                    }
                    Some(Errno::MFILE | Errno::NFILE) => {
                        "there are no descriptors left: raise ulimit -n (LimitNOFILE)"
                    }
                    _ => "see io_uring_setup(2)",
                };
                write!(f, "io_uring cannot be used ({error}): {advice}")
            }
            Self::Descriptors { limit, reserved } => write!(
                f,
                "the descriptor limit is {limit}, and {reserved} are needed beside the connections: raise \
                 ulimit -n (LimitNOFILE)"
            ),
            Self::Listen { address, error } => {
                let advice = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "another program has this port: choose another one with --listen"
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        "this host does not have that address: check --listen"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "ports below 1024 need a privilege: choose a higher one"
                    }
                    _ => "check --listen and --internal",
                };
                write!(f, "cannot listen on {address} ({error}): {advice}")
            }
            Self::Disk(error) => write!(f, "{error}"),
            Self::Keys(error) => write!(f, "{error}"),
            Self::Jwks(error) => write!(f, "jwks: {error}"),
            Self::Unix { path, error } => {
                let advice = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "another server listens on it: end that one first, or choose another path with --internal"
                    }
                    io::ErrorKind::AlreadyExists => {
                        "there is a file that is not a socket: remove it, or choose another path with --internal"
                    }
                    io::ErrorKind::NotFound => "its directory has to exist",
                    io::ErrorKind::PermissionDenied => {
                        "this user has to have the right to write to the directory, and to the file if it exists"
                    }
                    _ => "check --internal",
                };
                write!(
                    f,
                    "cannot listen on unix:{} ({error}): {advice}",
                    path.display()
                )
            }
            Self::Tls(error) => error.fmt(f),
            Self::Start(error) => write!(f, "cannot start: {error}"),
            Self::Shard(error) => write!(f, "a shard has failed: {error}"),
        }
    }
}

impl From<DiskError> for ServeError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl std::error::Error for ServeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_change() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let listen = |error: io::ErrorKind| ServeError::Listen {
            address,
            error: error.into(),
        };
        let unix = |error: io::ErrorKind| ServeError::Unix {
            path: "/run/a.sock".into(),
            error: error.into(),
        };
        for (error, needles) in [
            (
                ServeError::Ring(Errno::PERM.into()),
                &[
                    "forbidden",
                    "seccomp",
                    "io_uring_setup",
                    "kernel.io_uring_disabled",
                ][..],
            ),
            (ServeError::Ring(Errno::NOSYS.into()), &["Linux 6.1"]),
            (ServeError::Ring(Errno::INVAL.into()), &["Linux 6.1"]),
            (ServeError::Ring(Errno::NOMEM.into()), &["ulimit -l"]),
            (ServeError::Ring(Errno::MFILE.into()), &["ulimit -n"]),
            (
                ServeError::Descriptors {
                    limit: 64,
                    reserved: 96,
                },
                &["64", "96", "ulimit -n"],
            ),
            (
                listen(io::ErrorKind::AddrInUse),
                &["127.0.0.1:80", "--listen"],
            ),
            (
                unix(io::ErrorKind::AddrInUse),
                &["unix:/run/a.sock", "end that one", "--internal"],
            ),
            (unix(io::ErrorKind::AlreadyExists), &["not a socket"]),
            (unix(io::ErrorKind::NotFound), &["directory"]),
            (unix(io::ErrorKind::PermissionDenied), &["right to write"]),
            (listen(io::ErrorKind::AddrNotAvailable), &["--listen"]),
            (listen(io::ErrorKind::PermissionDenied), &["1024"]),
        ] {
            let text = error.to_string();
            for needle in needles {
                assert!(text.contains(needle), "no {needle:?} in: {text}");
            }
        }
    }
}
