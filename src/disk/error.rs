//! Why the histories on the disk cannot be used, and what to change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub enum DiskError {
    Open { path: PathBuf, error: io::Error },
    Locked(PathBuf),
    Read { path: PathBuf, error: io::Error },
    Version(PathBuf),
}

impl DiskError {
    /// The logs of this process cannot be begun.
    pub fn begin(path: &Path, error: io::Error) -> Self {
        Self::open(path, error)
    }

    pub(super) fn open(path: &Path, error: io::Error) -> Self {
        Self::Open {
            path: path.into(),
            error,
        }
    }

    pub(super) fn read(path: &Path, error: io::Error) -> Self {
        Self::Read {
            path: path.into(),
            error,
        }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, error } => {
                let advice = match error.kind() {
                    io::ErrorKind::NotFound => "make the directory that it is to be in",
                    io::ErrorKind::PermissionDenied => {
                        "give it to the user that the server runs as (with systemd: StateDirectory=pushring and \
                         history_dir = \"/var/lib/pushring\")"
                    }
                    io::ErrorKind::NotADirectory => "it is to be a directory of its own",
                    io::ErrorKind::StorageFull => "make space there",
                    io::ErrorKind::ReadOnlyFilesystem => {
                        "choose a place that can be written (with systemd: StateDirectory=pushring and history_dir = \
                         \"/var/lib/pushring\")"
                    }
                    _ => "check the setting history_dir",
                };
                write!(
                    f,
                    "history_dir {} cannot be used ({error}): {advice}",
                    path.display()
                )
            }
            Self::Locked(path) => write!(
                f,
                "history_dir {} is in use by another process: end that one first, or give this one a directory of its \
                 own",
                path.display()
            ),
            Self::Read { path, error } => write!(
                f,
                "{} cannot be read ({error}): see to the disk; or move the file away, which loses what is in it, and \
                 clients are told so only if the whole of history_dir is moved with it",
                path.display()
            ),
            Self::Version(path) => write!(
                f,
                "{} is not a history of this version of pushring: start the version that wrote it, or move all of \
                 history_dir away and begin with empty histories",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DiskError {}
