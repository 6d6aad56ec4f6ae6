//! One shard's log: a thread of its own writes it, so that a slow disk never holds the shard.
//!
//! The shard hands over one append at a time and gathers the next one meanwhile: a slow disk makes large appends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::disk::syncer::{Synced, Syncer};
use crate::disk::{Directory, FileName, HistoryClock, sync_directory};
use crate::history::record::{self, BootId, Entry, FILE_HEAD};
use crate::threads::spawn_or_abort;

/// How far the wall clock may drift from the clock of the histories before the log notes it.
const DRIFT_MS: u64 = 1_000;
/// How often needless files are looked for where nothing else is to be done.
const CLEAN_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last appends may take at the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Records that go into the log together, or not at all.
#[derive(Debug, Default)]
pub struct Append {
    pub bytes: Vec<u8>,
    /// They are the first of a new file, in which everything is told anew.
    pub begins_file: bool,
    /// With them everything has been told anew: what is older than this file is needless.
    pub completes_file: bool,
}

/// What a shard hears of its log.
#[derive(Debug)]
pub enum Report {
    /// The append comes back. `Err`: nothing of it is in the log.
    Written {
        append: Append,
        result: Result<(), WriteFailed>,
        /// Of the file that is written now.
        file_bytes: u64,
        took_us: u64,
    },
    /// What was written may be lost although the machine stays up.
    SyncFailed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFailed;

/// Brings a shard its news.
pub type Reporter = Arc<dyn Fn(usize, Report) + Send + Sync>;

/// The writers of all shards.
#[derive(Debug)]
pub struct Writers {
    _syncer: Syncer,
    /// Disconnected when all have ended.
    ended: Receiver<()>,
}

impl Writers {
    /// Begins the directory's new generation: a log for each of the shards, whose appends come here.
    pub fn start(
        directory: &Directory,
        clock: HistoryClock,
        shards: Vec<Receiver<Append>>,
        sync_interval_ms: u64,
        report: &Reporter,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel::<()>();
        let mut logs = Vec::new();
        for (shard, appends) in shards.into_iter().enumerate() {
            let name = FileName {
                generation: directory.generation,
                shard: shard as u16,
                number: 0,
            };
            let mut writer = Writer {
                directory: directory.path().into(),
                name,
                boot: directory.boot,
                clock,
                is_synced: sync_interval_ms == 0,
                noted_drift_ms: 0,
                file: Arc::new(File::open(directory.path())?),
                file_bytes: 0,
                begun_bytes: 0,
                is_torn: false,
                synced: Arc::default(),
            };
            writer.begin_file(1)?;
            logs.push(writer.synced.clone());
            let (report, end) = (report.clone(), end.clone());
            let run = move || {
                writer.run(&appends, &report);
                drop(end);
            };
            spawn_or_abort(format!("history-{shard}"), run)?;
        }
        let interval = match sync_interval_ms {
            0 => CLEAN_INTERVAL,
            ms => Duration::from_millis(ms),
        };
        let path = directory.path().to_owned();
        Ok(Self {
            _syncer: Syncer::start(path, logs, report.clone(), interval)?,
            ended,
        })
    }

    /// Waits until every log is closed, once the shards have dropped their senders.
    pub fn finish(self) {
        if self.ended.recv_timeout(FINISH_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the history logs are not closed: the disk does not answer");
        }
    }
}

struct Writer {
    directory: PathBuf,
    name: FileName,
    boot: BootId,
    clock: HistoryClock,
    /// Nothing is reported before it is on the disk.
    is_synced: bool,
    /// The wall clock before the clock of the histories, as last noted; wrapping.
    noted_drift_ms: u64,
    file: Arc<File>,
    /// All of them whole records.
    file_bytes: u64,
    /// What it had when it was begun.
    begun_bytes: u64,
    /// Behind `file_bytes` there is something else.
    is_torn: bool,
    synced: Arc<Synced>,
}

impl Writer {
    fn run(&mut self, appends: &Receiver<Append>, report: &Reporter) {
        let mut is_failing = false;
        while let Ok(mut append) = appends.recv() {
            let began = Instant::now();
            let result = self.write(&mut append);
            let took_us = began.elapsed().as_micros() as u64;
            match &result {
                Ok(()) if is_failing => {
                    tracing::info!(shard = self.name.shard, "the history log is written again");
                }
                // Said once; the shard says again what it means.
                Err(error) if !is_failing => {
                    tracing::error!(shard = self.name.shard, %error, "the history log cannot be written");
                }
                _ => {}
            }
            is_failing = result.is_err();
            let written = Report::Written {
                append,
                result: result.map_err(|_| WriteFailed),
                file_bytes: self.file_bytes,
                took_us,
            };
            report(usize::from(self.name.shard), written);
        }
        if let Err(error) = self.close() {
            tracing::error!(shard = self.name.shard, %error, "the history log is not closed");
        }
    }

    /// All of `append` or nothing.
    fn write(&mut self, append: &mut Append) -> io::Result<()> {
        self.mend()?;
        // Where a disk is nearly full, each attempt would leave one more file there.
        let is_begun = self.file_bytes == self.begun_bytes;
        if append.begins_file && !is_begun {
            // What the old file has must be there before the new one counts as its continuation.
            self.file.sync_data()?;
            self.begin_file(self.name.number + 1)?;
        }
        let own_bytes = append.bytes.len();
        let drift_ms = self.note_clock(&mut append.bytes);
        let result = self.append(&append.bytes);
        append.bytes.truncate(own_bytes);
        result?;
        self.noted_drift_ms = drift_ms;
        if append.completes_file {
            self.synced.complete(self.name);
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Until it is whole, it is nothing.
        self.is_torn = true;
        let written = self
            .file
            .write_all_at(bytes, self.file_bytes)
            .and_then(|()| match self.is_synced {
                true => self.file.sync_data(),
                false => Ok(()),
            });
        if let Err(error) = written {
            // If this fails, too, it comes before the next append.
            let _ = self.mend();
            return Err(error);
        }
        self.is_torn = false;
        self.file_bytes += bytes.len() as u64;
        if !self.is_synced {
            self.synced.mark_dirty();
        }
        Ok(())
    }

    /// Cuts off what a failed write has left: good records never follow half a one.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.file_bytes)?;
            self.is_torn = false;
        }
        Ok(())
    }

    fn begin_file(&mut self, number: u32) -> io::Result<()> {
        let name = FileName {
            number,
            ..self.name
        };
        let path = self.directory.join(name.to_string());
        let begin = || -> io::Result<(File, usize)> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            let mut bytes = FILE_HEAD.to_vec();
            let begin = Entry::Begin {
                boot: self.boot,
                is_synced: self.is_synced,
                clock: self.clock.read(),
            };
            record::write(&mut bytes, &begin);
            file.write_all_at(&bytes, 0)?;
            file.sync_data()?;
            sync_directory(&self.directory)?;
            Ok((file, bytes.len()))
        };
        let (file, bytes) = begin().inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        self.name = name;
        self.file = Arc::new(file);
        self.file_bytes = bytes as u64;
        self.begun_bytes = self.file_bytes;
        let clock = self.clock.read();
        self.noted_drift_ms = clock.wall_ms.wrapping_sub(clock.history_ms);
        self.synced.set_file(self.file.clone());
        Ok(())
    }

    /// Appends what the clocks say if one of them was set. Gives the drift that is noted with these bytes.
    fn note_clock(&self, bytes: &mut Vec<u8>) -> u64 {
        let clock = self.clock.read();
        let drift_ms = clock.wall_ms.wrapping_sub(clock.history_ms);
        let changed_ms = drift_ms.wrapping_sub(self.noted_drift_ms) as i64;
        if changed_ms.unsigned_abs() <= DRIFT_MS {
            return self.noted_drift_ms;
        }
        record::write(bytes, &Entry::Clock(clock));
        drift_ms
    }

    /// Says that nothing is missing, and brings it to the disk.
    fn close(&mut self) -> io::Result<()> {
        self.mend()?;
        let mut bytes = Vec::new();
        record::write(&mut bytes, &Entry::End(self.clock.read()));
        self.append(&bytes)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::history::reader::FileReader;
    use crate::history::record::{Clock, UNKNOWN_BOOT};
    use crate::hub::restored::Restored;

    /// One with a directory of its own.
    fn writer() -> Writer {
        let directory = std::env::temp_dir().join(format!("pushring-writer-{}", fastrand::u64(..)));
        fs::create_dir(&directory).unwrap();
        Writer {
            name: FileName {
                generation: 1,
                shard: 0,
                number: 0,
            },
            boot: UNKNOWN_BOOT,
            clock: HistoryClock::default(),
            is_synced: true,
            noted_drift_ms: 0,
            file: Arc::new(File::open(&directory).unwrap()),
            file_bytes: 0,
            begun_bytes: 0,
            is_torn: false,
            synced: Arc::default(),
            directory,
        }
    }

    /// A file that takes nothing; gives the one that did.
    fn break_file(writer: &mut Writer) -> Arc<File> {
        let path = writer.directory.join(writer.name.to_string());
        std::mem::replace(&mut writer.file, Arc::new(File::open(&path).unwrap()))
    }

    #[test]
    fn a_clock_that_was_set_is_noted_until_it_is_written() {
        let mut writer = writer();
        writer.begin_file(1).unwrap();
        let begun_bytes = writer.file_bytes;
        // As if the clock on the wall had been set meanwhile.
        writer.noted_drift_ms = writer.noted_drift_ms.wrapping_sub(2 * DRIFT_MS);
        let writable = break_file(&mut writer);
        assert!(writer.write(&mut Append::default()).is_err());
        writer.file = writable;
        writer.write(&mut Append::default()).unwrap();
        let noted_bytes = writer.file_bytes;
        assert!(noted_bytes > begun_bytes, "a record of the clock");
        writer.write(&mut Append::default()).unwrap();
        assert_eq!(writer.file_bytes, noted_bytes, "once");
        fs::remove_dir_all(&writer.directory).unwrap();
    }

    #[test]
    fn a_file_that_was_begun_in_vain_is_the_next_one() {
        let mut writer = writer();
        writer.begin_file(1).unwrap();
        let mut append = Append {
            begins_file: true,
            ..Append::default()
        };
        record::write(&mut append.bytes, &Entry::Clock(Clock::default()));
        let writable = break_file(&mut writer);
        for _ in 0..3 {
            assert!(writer.write(&mut append).is_err());
            assert_eq!(writer.name.number, 1);
        }
        writer.file = writable;
        for number in 1..4 {
            writer.write(&mut append).unwrap();
            assert_eq!(writer.name.number, number);
        }
        fs::remove_dir_all(&writer.directory).unwrap();
    }

    #[test]
    fn what_a_failed_write_has_left_is_cut_before_the_next() {
        let mut writer = writer();
        writer.begin_file(1).unwrap();
        let mut append = Append::default();
        record::write(&mut append.bytes, &Entry::Clock(Clock::default()));
        writer.write(&mut append).unwrap();
        let whole_bytes = writer.file_bytes;

        // Neither the write nor the cut succeeds.
        let path = writer.directory.join(writer.name.to_string());
        let writable = break_file(&mut writer);
        assert!(writer.write(&mut append).is_err());
        assert!(writer.is_torn);
        writable
            .write_all_at(&append.bytes[..5], whole_bytes)
            .unwrap();
        assert!(writer.write(&mut append).is_err());
        writer.file = writable;
        // Shorter than what was left behind.
        writer.write(&mut Append::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), whole_bytes);
        writer.write(&mut append).unwrap();
        writer.close().unwrap();

        let bytes = fs::read(&path).unwrap();
        let mut reader = FileReader::default();
        let mut restored = Restored::new(Arc::new(Config::default()));
        let used = reader.feed(&bytes, &mut restored);
        assert_eq!((used, reader.fault), (bytes.len(), None));
        fs::remove_dir_all(&writer.directory).unwrap();
    }
}
