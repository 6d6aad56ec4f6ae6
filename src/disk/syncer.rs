//! One thread for what takes long: it brings to the disk what the writers have given to the kernel, and removes files
//! that are no longer needed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::writer::{Report, Reporter};
use crate::disk::{FileName, RESTORED, files, sync_directory};
use crate::threads::spawn_or_abort;

/// One shard's log, for the thread that syncs it.
#[derive(Debug, Default)]
pub(super) struct Synced(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The file that is written.
    file: Option<Arc<File>>,
    /// It has more than the disk.
    is_dirty: bool,
    /// A file in which everything has been told anew: the log's earlier ones are needless once it is on the disk.
    complete: Option<FileName>,
}

impl Synced {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_file(&self, file: Arc<File>) {
        self.state().file = Some(file);
    }

    pub(super) fn mark_dirty(&self) {
        self.state().is_dirty = true;
    }

    pub(super) fn complete(&self, name: FileName) {
        let mut state = self.state();
        state.complete = Some(name);
        state.is_dirty = true;
    }

    /// Brings the file to the disk. Gives the file that is complete there.
    fn sync(&self) -> io::Result<Option<FileName>> {
        let mut state = self.state();
        let complete = state.complete.take();
        if !std::mem::take(&mut state.is_dirty) {
            return Ok(complete);
        }
        let file = state.file.clone();
        drop(state);
        file.map_or(Ok(()), |file| file.sync_data())?;
        Ok(complete)
    }
}

/// Ends its thread when it is dropped.
#[derive(Debug)]
pub(super) struct Syncer {
    _stop: Sender<()>,
}

impl Syncer {
    pub(super) fn start(
        directory: PathBuf,
        logs: Vec<Arc<Synced>>,
        report: Reporter,
        interval: Duration,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        // The first file of each log in which everything is told.
        let mut complete: Vec<Option<FileName>> = vec![None; logs.len()];
        let run = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let mut is_news = false;
                for (shard, log) in logs.iter().enumerate() {
                    match log.sync() {
                        Ok(None) => {}
                        Ok(file) => {
                            complete[shard] = file;
                            is_news = true;
                        }
                        Err(error) => {
                            tracing::error!(shard, %error, "the history log did not come to the disk");
                            report(shard, Report::SyncFailed);
                        }
                    }
                }
                if is_news && let Err(error) = remove_needless(&directory, &complete) {
                    tracing::warn!(%error, "old history files are not removed");
                }
            }
        };
        spawn_or_abort("history-sync", run)?;
        Ok(Self { _stop: stop })
    }
}

/// Removes what lies before each log's complete file; and all older generations, once every log has one. In order,
/// each before the next: what a power loss leaves is an end of the log.
fn remove_needless(directory: &Path, complete: &[Option<FileName>]) -> io::Result<()> {
    let all_complete = complete.iter().all(Option::is_some);
    let is_needless = |name: &FileName| {
        let first = complete
            .iter()
            .flatten()
            .find(|first| first.shard == name.shard);
        let is_before =
            |first: &FileName| first.generation == name.generation && name.number < first.number;
        let is_older = |first: &FileName| all_complete && name.generation < first.generation;
        first.is_some_and(is_before) || complete.iter().flatten().any(is_older)
    };
    for name in files(directory)?.into_iter().filter(is_needless) {
        match fs::remove_file(directory.join(name.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync_directory(directory)?,
        }
    }
    // Whatever it stood for is now in every log.
    if all_complete {
        let _ = fs::remove_file(directory.join(RESTORED));
    }
    Ok(())
}
