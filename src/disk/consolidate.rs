//! One generation instead of many, at the start.
//!
//! A process that ends before it has told everything anew leaves its generation and all before it. If processes ended
//! so again and again, each would leave a copy of the histories. So after two of them the next begins by making one
//! generation of what is there, under a name that is no log's until it is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::disk::{Directory, DiskError, FileName, Loaded, RESTORED, sync_directory, wall_ms};
use crate::history::record::{self, BootId, Clock, Entry, FILE_HEAD};

/// Generations that a start may leave for the shards to tell anew: the last one that was whole, and one that was not.
pub(super) const GENERATIONS_MAX: usize = 2;
/// Removed at the start, whatever is in it.
pub(super) const UNFINISHED: &str = "unfinished";
const BUFFER_BYTES: usize = 1 << 20;

impl Directory {
    /// Makes one generation of all that was `loaded`, if it came from too many. Whenever the process ends meanwhile,
    /// what was there is still there.
    pub fn consolidate(&mut self, loaded: &Loaded) -> Result<(), DiskError> {
        if loaded.generations <= GENERATIONS_MAX {
            return Ok(());
        }
        let name = FileName {
            generation: self.generation,
            shard: 0,
            number: 1,
        };
        let bytes = self
            .write_consolidated(loaded, name)
            .map_err(|error| DiskError::open(self.path(), error))?;
        self.generation += 1;
        tracing::warn!(
            directory = %self.path().display(),
            generations = loaded.generations,
            bytes,
            "made one history log of many: the processes before this one ended before they had written theirs anew"
        );
        Ok(())
    }

    fn write_consolidated(&self, loaded: &Loaded, name: FileName) -> io::Result<u64> {
        let older = self.files()?;
        let unfinished = self.path().join(UNFINISHED);
        let bytes = write_all(&unfinished, loaded, self.boot).inspect_err(|_| {
            // It may have taken the space that is missing.
            let _ = fs::remove_file(&unfinished);
        })?;
        fs::rename(&unfinished, self.path().join(name.to_string()))?;
        sync_directory(self.path())?;
        // In order, each before the next: what a power loss leaves is an end of the log.
        for name in older {
            fs::remove_file(self.path().join(name.to_string()))?;
            sync_directory(self.path())?;
        }
        // Whatever it stood for is in the new generation.
        match fs::remove_file(self.path().join(RESTORED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(bytes),
        }
    }
}

/// Writes a whole log of one file, and brings it to the disk.
fn write_all(path: &Path, loaded: &Loaded, boot: BootId) -> io::Result<u64> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut record = FILE_HEAD.to_vec();
    let mut bytes = 0;
    let mut result = Ok(());
    let mut write = |entry: &Entry<'_>| {
        record::write(&mut record, entry);
        bytes += record.len() as u64;
        if result.is_ok() {
            result = out.write_all(&record);
        }
        record.clear();
    };
    let clock = Clock {
        history_ms: loaded.origin_ms,
        wall_ms: wall_ms(),
    };
    write(&Entry::Begin {
        boot,
        is_synced: true,
        clock,
    });
    (loaded.restored).tell_all(loaded.origin_ms, |fact| write(&Entry::Fact(fact)));
    write(&Entry::End(clock));
    result?;
    out.into_inner()?.sync_all()?;
    Ok(bytes)
}
