//! The histories on the disk, from the start of the process to its end.

use std::hash::RandomState;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use crate::config::Config;
use crate::disk::writer::{Append, Report, Reporter, Writers};
use crate::disk::{Directory, DiskError, Found, HistoryClock, load};
use crate::shard::mailbox::{Mail, Mailbox};
use crate::shard::{HistoryLog, home_of};

/// Held until the process ends.
pub(super) struct Histories {
    directory: Directory,
    clock: HistoryClock,
    /// What the shards hand over, until the writers take it.
    appends: Vec<Receiver<Append>>,
    writers: Option<Writers>,
}

impl Histories {
    /// Reads what is there, and gives each shard its part.
    pub(super) fn load(
        path: &Path,
        config: &Arc<Config>,
        shards: usize,
        hasher: &RandomState,
    ) -> Result<(Self, Vec<HistoryLog>), DiskError> {
        let mut directory = Directory::open(path)?;
        let loaded = load(&directory, config)?;
        directory.consolidate(&loaded)?;
        let clock = HistoryClock {
            started: Instant::now(),
            origin_ms: loaded.origin_ms,
        };
        let shares = loaded
            .restored
            .into_shares(shards, |channel| home_of(channel, hasher, shards));
        let mut appends = Vec::new();
        let mut logs = Vec::new();
        for (shard, share) in shares.into_iter().enumerate() {
            let (writer, handed_over) = mpsc::channel();
            appends.push(handed_over);
            let found = match shard {
                0 => loaded.found,
                _ => Found::default(),
            };
            logs.push(HistoryLog {
                share,
                writer,
                found,
            });
        }
        let histories = Self {
            directory,
            clock,
            appends,
            writers: None,
        };
        Ok((histories, logs))
    }

    pub(super) fn clock(&self) -> HistoryClock {
        self.clock
    }

    /// Begins the logs of this process. Must run when the shards have tables of descriptors of their own: a file that
    /// is also in one of these would keep its bytes on the disk after it is removed.
    pub(super) fn begin(
        &mut self,
        config: &Config,
        boxes: &Arc<[Mailbox]>,
    ) -> Result<(), DiskError> {
        let boxes = boxes.clone();
        let report: Reporter = Arc::new(move |shard: usize, report: Report| {
            boxes[shard].post(Mail::HistoryLog(report))
        });
        let appends = std::mem::take(&mut self.appends);
        let interval_ms = config.timing.history_sync_interval_ms;
        let writers = Writers::start(&self.directory, self.clock, appends, interval_ms, &report);
        let failed = |error| DiskError::begin(self.directory.path(), error);
        self.writers = Some(writers.map_err(failed)?);
        Ok(())
    }

    /// Closes the logs, once the shards have ended.
    pub(super) fn finish(self) {
        if let Some(writers) = self.writers {
            writers.finish();
        }
    }
}
