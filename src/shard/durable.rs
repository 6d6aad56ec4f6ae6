//! The shard and its history log: publishes wait for it, and what it says is carried out.

use crate::api::question::Answer;
use crate::disk::writer::Report;
use crate::hub::publishing::Drafted;
use crate::hub::{HomeRefusal, Publish, Published, Scope};
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::shard::journal::Pending;
use crate::shard::mailbox::Asker;

impl Shard {
    /// Why the log takes nothing at the moment; never without a log.
    pub(super) fn journal_refusal(&self) -> Option<HomeRefusal> {
        let journal = self.journal.as_ref()?;
        journal.refusal(&self.config, self.clock.now_ms)
    }

    /// Numbers a message and lets it wait for the log. `Some` for a repeat, whose first result is known.
    pub(super) fn draft(
        &mut self,
        asker: Asker,
        publish: Publish,
    ) -> Result<Option<Published>, HomeRefusal> {
        if let Some(refusal) = self.journal_refusal() {
            return Err(refusal);
        }
        let pending = match self.hub.draft(publish, self.clock.hub_ms)? {
            Drafted::Known(first) => return Ok(Some(first)),
            Drafted::New(_, draft) => Pending::Publish(asker, draft),
            Drafted::Repeated(name, key) => Pending::Repeat(asker, name, key),
        };
        if let Some(journal) = &mut self.journal {
            journal.wait(pending, &mut self.hub);
        }
        Ok(None)
    }

    /// Hands the turn's records to the writer.
    pub(super) fn hand_over_records(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.hand_over(
                &mut self.hub,
                &self.config,
                self.clock.hub_ms,
                self.clock.now_ms,
            );
        }
    }

    pub(super) fn on_history_report(&mut self, report: Report) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let (append, result, file_bytes) = match report {
            Report::SyncFailed => {
                journal.on_sync_failed();
                self.metrics.history_sync_errors_total += 1;
                return;
            }
            Report::Written {
                append,
                result,
                file_bytes,
                took_us,
            } => {
                self.metrics.history_write_time.record_us(took_us);
                (append, result, file_bytes)
            }
        };
        self.metrics.history_writes_total += 1;
        self.metrics.history_file_bytes = file_bytes;
        match result {
            Ok(()) => self.metrics.history_written_bytes_total += append.bytes.len() as u64,
            Err(_) => self.metrics.history_write_errors_total += 1,
        }
        let pending = journal.on_written(append, result, file_bytes, &self.hub, self.clock.now_ms);
        match result {
            Ok(()) => pending.into_iter().for_each(|one| self.commit(one)),
            Err(_) => {
                // All are taken back before anybody is told: whoever hears of it may publish anew at once.
                for one in &pending {
                    if let Pending::Publish(_, draft) = one {
                        self.hub.withdraw(draft);
                    }
                }
                pending.into_iter().for_each(|one| self.refuse(one));
            }
        }
    }

    /// The log has it.
    fn commit(&mut self, pending: Pending) {
        let (asker, answer) = match pending {
            Pending::Publish(asker, draft) => {
                let mut listening = std::mem::take(&mut self.scratch.listening);
                let (published, message) =
                    self.hub.commit(draft, self.clock.hub_ms, &mut listening);
                if let Some(message) = message {
                    self.tell_published(&message, &mut listening);
                }
                self.scratch.listening = listening;
                (asker, Answer::Published(Ok((published, Scope::Alone))))
            }
            Pending::Repeat(asker, name, key) => {
                let first = self.hub.first_result(&name, &key, self.clock.hub_ms);
                let first = first.map(|first| (first, Scope::Alone));
                (asker, Answer::Published(first.ok_or(HomeRefusal::DiskSlow)))
            }
            Pending::Delete(asker, _) => (asker, Answer::Deleted(Ok(true))),
        };
        self.reply(asker, answer);
    }

    /// The log does not have it.
    fn refuse(&mut self, pending: Pending) {
        self.complain(Complaint::WriteFailed);
        let (asker, answer) = match pending {
            Pending::Publish(asker, _) | Pending::Repeat(asker, ..) => {
                (asker, Answer::Published(Err(HomeRefusal::WriteFailed)))
            }
            Pending::Delete(asker, change) => {
                if let Some(journal) = &mut self.journal {
                    journal.keep_deletion(&change);
                }
                (asker, Answer::Deleted(Err(HomeRefusal::WriteFailed)))
            }
        };
        self.reply(asker, answer);
    }

    /// Closes the log.
    pub(super) fn finish_journal(&mut self) {
        if let Some(journal) = self.journal.take() {
            journal.finish(&mut self.hub);
        }
    }
}
