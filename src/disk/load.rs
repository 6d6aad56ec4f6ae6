//! Reading at the start: every file of the log, in order, in bounded memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::disk::{Directory, DiskError, FileName, RESTORED, wall_ms};
use crate::history::reader::{Fault, FileReader, may_lack_facts};
use crate::history::record::Clock;
use crate::hub::restored::Restored;

/// Bytes read at a time. A longer record makes the buffer as long as itself.
const READ_BYTES: usize = 1 << 20;

/// What the log has brought back.
#[derive(Debug)]
pub struct Loaded {
    pub restored: Restored,
    /// What the clock of the histories says at the start of this process.
    pub origin_ms: u64,
    pub found: Found,
    /// How many processes it comes from.
    pub generations: usize,
}

/// What reading the log came upon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Bytes of records that their writer did not get to finish.
    pub torn_bytes: u64,
    /// Bytes that are not what was written.
    pub damaged_bytes: u64,
    /// Positions may be missing, and were skipped.
    pub is_skipped: bool,
}

/// Reads all that the earlier generations have left.
pub fn load(directory: &Directory, config: &Arc<Config>) -> Result<Loaded, DiskError> {
    let began = Instant::now();
    let path = directory.path();
    let files = directory
        .files()
        .map_err(|error| DiskError::read(path, error))?;
    let mut loaded = Loaded {
        restored: Restored::new(config.clone()),
        origin_ms: 0,
        found: Found::default(),
        generations: 0,
    };
    let mut clock = Clock::default();
    let mut read_bytes = 0;
    for generation in files.chunk_by(|a, b| a.generation == b.generation) {
        loaded.generations += 1;
        let mut lacks = false;
        for log in generation.chunk_by(|a, b| a.shard == b.shard) {
            let mut readers = Vec::new();
            for name in log {
                let reader = loaded.read_file(path, *name)?;
                if reader.clock.history_ms >= clock.history_ms {
                    clock = reader.clock;
                }
                read_bytes += reader.read_bytes;
                readers.push(reader);
            }
            lacks |= may_lack_facts(&readers, directory.boot) || has_hole(log, path);
        }
        if lacks {
            loaded.found.is_skipped = true;
            loaded.restored.skip_positions();
        }
    }
    if path.join(RESTORED).exists() {
        loaded.found.is_skipped = true;
        loaded.restored.skip_positions();
    }
    loaded.origin_ms = origin_ms(clock, loaded.restored.newest_ms(), wall_ms());
    tracing::info!(
        directory = %path.display(),
        files = files.len(),
        bytes = read_bytes,
        channels = loaded.restored.channels(),
        messages = loaded.restored.messages(),
        ms = began.elapsed().as_millis() as u64,
        "histories restored"
    );
    if loaded.found.is_skipped {
        tracing::warn!(
            "the machine went down, the log is damaged, or a backup was put back: what was published last may be \
             missing. Positions go on behind a jump, and every client is told of a gap"
        );
    }
    Ok(loaded)
}

impl Loaded {
    fn read_file(&mut self, directory: &Path, name: FileName) -> Result<FileReader, DiskError> {
        let path = directory.join(name.to_string());
        let failed = |error| DiskError::read(&path, error);
        let mut file = File::open(&path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let mut reader = FileReader::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                buffer.resize(2 * buffer.len(), 0);
            }
            let bytes = read(&mut file, &mut buffer[filled..]).map_err(failed)?;
            filled += bytes;
            let used = reader.feed(&buffer[..filled], &mut self.restored);
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if bytes == 0 || reader.fault.is_some() {
                break;
            }
        }
        reader.end(filled);
        let lost_bytes = file_bytes - reader.read_bytes.min(file_bytes);
        match reader.fault {
            None => {}
            Some(Fault::Version) => return Err(DiskError::Version(path)),
            Some(Fault::Torn) => {
                self.found.torn_bytes += lost_bytes;
                tracing::warn!(
                    file = %path.display(),
                    at = reader.read_bytes,
                    bytes = lost_bytes,
                    "cut a torn tail: its writer was ended while it wrote"
                );
            }
            Some(Fault::Damaged(error)) => {
                self.found.damaged_bytes += lost_bytes;
                tracing::error!(
                    file = %path.display(),
                    at = reader.read_bytes,
                    bytes = lost_bytes,
                    ?error,
                    "left out the rest of a damaged file: see to the disk"
                );
            }
        }
        Ok(reader)
    }
}

fn read(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A file in the midst of a log is gone. The server itself removes from the beginning only.
fn has_hole(log: &[FileName], directory: &Path) -> bool {
    let hole = log
        .windows(2)
        .find(|pair| pair[0].number + 1 != pair[1].number);
    if let Some(pair) = hole {
        let after = directory.join(pair[0].to_string());
        tracing::error!(after = %after.display(), "a file of the log is missing");
    }
    hole.is_some()
}

/// The clock of the histories goes on from the newest time that was noted, by as much as the wall clock has since. A
/// wall clock that was set back meanwhile takes nothing away.
pub(super) fn origin_ms(noted: Clock, newest_ms: u64, wall_ms: u64) -> u64 {
    let since_noted_ms = match noted {
        Clock { wall_ms: 0, .. } => 0,
        noted => wall_ms.saturating_sub(noted.wall_ms),
    };
    let origin_ms = noted.history_ms + since_noted_ms;
    let first_ms = if noted.history_ms == 0 { wall_ms } else { 0 };
    origin_ms.max(newest_ms).max(first_ms)
}
