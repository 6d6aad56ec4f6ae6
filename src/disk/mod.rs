//! The history log on the disk: a directory that one process has for itself, and a thread for each shard that writes.
//!
//! Beside the lock there are files `GENERATION-SHARD-FILE.log`. A process begins a new generation: it reads all that is
//! there, and once each of its shards has told everything anew, the older generations are removed. Within a
//! generation a shard's files go by number; it begins the next one to tell everything anew, and then removes those
//! before it. What is removed goes in order, so that what is left is always an end of the log and never has a hole.
//! Where processes ended before that, again and again, the next one makes a single generation of all theirs.

mod consolidate;
mod error;
mod load;
mod syncer;
pub mod writer;

pub use error::DiskError;
pub use load::{Found, Loaded, load};

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use crate::disk::consolidate::UNFINISHED;
use crate::history::record::{BootId, Clock, UNKNOWN_BOOT};

/// An operator puts this file beside a backup: clients may have seen more than it holds.
const RESTORED: &str = "restored";

/// The directory of the histories, held by this process.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// The one that this process writes.
    pub generation: u32,
    pub boot: BootId,
}

/// Names one file of the log, in the order in which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    pub generation: u32,
    pub shard: u16,
    pub number: u32,
}

impl FileName {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".log")?.splitn(3, '-');
        let parsed = Self {
            generation: parts.next()?.parse().ok()?,
            shard: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            generation,
            shard,
            number,
        } = self;
        write!(f, "{generation:08}-{shard:03}-{number:06}.log")
    }
}

impl Directory {
    /// Takes the directory, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |error| DiskError::open(path, error);
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DiskError::Locked(path.into())),
            Err(error) => return Err(failed(error.into())),
        }
        let mut directory = Self {
            path: path.into(),
            _lock: lock,
            generation: 1,
            boot: boot_id(),
        };
        match fs::remove_file(path.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        if let Some(last) = directory.files().map_err(failed)?.last() {
            directory.generation = last.generation + 1;
        }
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files of the log, in order.
    pub fn files(&self) -> io::Result<Vec<FileName>> {
        files(&self.path)
    }
}

fn files(directory: &Path) -> io::Result<Vec<FileName>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        files.extend(entry?.file_name().to_str().and_then(FileName::parse));
    }
    files.sort_unstable();
    Ok(files)
}

/// The names in a directory, made and removed, come to the disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// [`UNKNOWN_BOOT`] where the kernel does not say.
fn boot_id() -> BootId {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or(UNKNOWN_BOOT, u128::to_be_bytes)
}

/// The clock of the histories of this process. See [`Clock`].
#[derive(Clone, Copy, Debug)]
pub struct HistoryClock {
    pub started: Instant,
    /// What it said when the process started.
    pub origin_ms: u64,
}

impl Default for HistoryClock {
    /// That of a process without a log.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            origin_ms: 0,
        }
    }
}

impl HistoryClock {
    /// That of a process whose histories are a broker's.
    pub fn of_the_wall() -> Self {
        Self {
            started: Instant::now(),
            origin_ms: wall_ms(),
        }
    }

    pub fn read(&self) -> Clock {
        Clock {
            history_ms: self.origin_ms + self.started.elapsed().as_millis() as u64,
            wall_ms: wall_ms(),
        }
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
