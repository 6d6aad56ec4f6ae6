//! What waits for the shard's history log: records that are to be written, and whoever waits for an answer until they
//! are.
//!
//! A publish is a draft until its record is with the kernel: nobody sees the message before, and nobody is answered.
//! If the write fails, all drafts are taken back and refused, so that no position has a hole that nobody knows of.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::Sender;

use crate::config::Config;
use crate::disk::writer::{Append, WriteFailed};
use crate::history::record::{self, Entry};
use crate::hub::durable::{Change, Fact, MessageFact, Progress};
use crate::hub::message::ChannelName;
use crate::hub::publishing::Draft;
use crate::hub::{HomeRefusal, Hub};
use crate::shard::mailbox::Asker;

/// Bytes of one slice of telling everything anew: some 100 µs of a turn.
const SLICE_BYTES: usize = 128 * 1024;
/// After a failed write, until the next publish may try again.
const RETRY_MS: u64 = 1_000;
/// A buffer that grew beyond this in a burst is not kept.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// What is done once its record is written.
#[derive(Debug)]
pub(super) enum Pending {
    Publish(Asker, Draft),
    /// A publish that repeats a draft before it.
    Repeat(Asker, ChannelName, Box<str>),
    /// Done already; the asker is to hear that it lasts.
    Delete(Asker, Change),
}

/// How far everything has been told anew, in the file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retelling {
    Done,
    /// A new file is to be begun for it.
    Wanted,
    /// What is published is told from here on.
    At(Progress),
    /// The last of it has not been written yet.
    Told,
}

/// Records in the order of what they tell, which is also the order in which they must be read.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    /// The stretches of them that wait until they are written, whatever happens. The others are drafts.
    kept: Vec<Range<usize>>,
}

impl Records {
    fn keep(&mut self, fact: Fact<'_>) {
        let start = self.bytes.len();
        record::write(&mut self.bytes, &Entry::Fact(fact));
        let end = self.bytes.len();
        match self.kept.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.kept.push(start..end),
        }
    }

    fn kept_bytes(&self) -> usize {
        self.kept.iter().map(Range::len).sum()
    }

    /// Without the drafts, or with nothing but them.
    fn retain(&mut self, kept: bool) {
        let mut start = 0;
        let mut drafts = Vec::new();
        let mut others = Vec::new();
        for stretch in &self.kept {
            drafts.extend_from_slice(&self.bytes[start..stretch.start]);
            others.extend_from_slice(&self.bytes[stretch.clone()]);
            start = stretch.end;
        }
        drafts.extend_from_slice(&self.bytes[start..]);
        self.kept.clear();
        if kept {
            if !others.is_empty() {
                self.kept.push(0..others.len());
            }
            self.bytes = others;
        } else {
            self.bytes = drafts;
        }
    }
}

#[derive(Debug)]
struct InFlight {
    /// How many of `pending` have their records in it.
    n_pending: usize,
    /// As in [`Records`].
    kept: Vec<Range<usize>>,
    since_ms: u64,
}

#[derive(Debug)]
pub(super) struct Journal {
    writer: Sender<Append>,
    records: Records,
    /// First those whose records are in flight.
    pending: VecDeque<Pending>,
    in_flight: Option<InFlight>,
    /// An empty buffer that was in flight.
    spare: Vec<u8>,
    /// Set while the log cannot be written: when it may be tried again.
    retry_ms: Option<u64>,
    retelling: Retelling,
    /// Of the file that is written: its bytes now, and once everything had been told in it; and what there was to be
    /// told then.
    file_bytes: u64,
    retold_bytes: u64,
    retold_hub_bytes: usize,
}

impl Journal {
    /// A journal of a log that has begun its first file, in which everything is still to be told.
    pub(super) fn new(writer: Sender<Append>) -> Self {
        Self {
            writer,
            records: Records::default(),
            pending: VecDeque::new(),
            in_flight: None,
            spare: Vec::new(),
            retry_ms: None,
            retelling: Retelling::At(Progress::default()),
            file_bytes: 0,
            retold_bytes: 0,
            retold_hub_bytes: 0,
        }
    }

    /// Why nothing can be published at the moment.
    pub(super) fn refusal(&self, config: &Config, now_ms: u64) -> Option<HomeRefusal> {
        let stall_ms = config.timing.history_stall_timeout_ms;
        let is_stalled = |in_flight: &InFlight| now_ms > in_flight.since_ms + stall_ms;
        if self.retry_ms.is_some_and(|retry_ms| now_ms < retry_ms) {
            Some(HomeRefusal::WriteFailed)
        } else if self.records.bytes.len() > config.limits.history_queue_bytes_max
            || self.in_flight.as_ref().is_some_and(is_stalled)
        {
            Some(HomeRefusal::DiskSlow)
        } else {
            None
        }
    }

    pub(super) fn wait(&mut self, pending: Pending, hub: &mut Hub) {
        // What has happened before it stands before it.
        self.take_changes(hub);
        let fact = match &pending {
            Pending::Publish(_, draft) => {
                let key = draft.idempotency_key.as_deref();
                let fact = MessageFact::new(&draft.message, draft.is_stored, key);
                Some(Fact::Message(fact))
            }
            Pending::Repeat(..) => None,
            Pending::Delete(_, change) => Some(change.fact()),
        };
        if let Some(fact) = fact {
            record::write(&mut self.records.bytes, &Entry::Fact(fact));
        }
        self.pending.push_back(pending);
    }

    fn take_changes(&mut self, hub: &mut Hub) {
        hub.take_changes(|change| self.records.keep(change.fact()));
    }

    /// Hands over what has gathered, unless an append is still on its way.
    pub(super) fn hand_over(&mut self, hub: &mut Hub, config: &Config, hub_ms: u64, now_ms: u64) {
        self.take_changes(hub);
        if self.records.kept_bytes() > config.limits.history_queue_bytes_max + SLICE_BYTES {
            // The log is down and the world goes on: rather than keep all of that, tell everything anew later.
            self.records.retain(false);
            self.retelling = Retelling::Wanted;
        }
        let is_waiting = self.retry_ms.is_some_and(|retry_ms| now_ms < retry_ms);
        if self.in_flight.is_some() || is_waiting {
            return;
        }
        if self.is_too_long(hub, config) {
            self.retelling = Retelling::Wanted;
        }
        self.retell(hub, hub_ms);
        let begins_file = self.retelling == Retelling::Wanted;
        let completes_file = self.retelling == Retelling::Told;
        if self.records.bytes.is_empty() && !begins_file && !completes_file {
            return;
        }
        let bytes = std::mem::replace(&mut self.records.bytes, std::mem::take(&mut self.spare));
        self.in_flight = Some(InFlight {
            n_pending: self.pending.len(),
            kept: std::mem::take(&mut self.records.kept),
            since_ms: now_ms,
        });
        self.send(Append {
            bytes,
            begins_file,
            completes_file,
        });
    }

    fn send(&self, append: Append) {
        // The writer outlives the shard; where it does not, the process is on its way down.
        let _ = self.writer.send(append);
    }

    /// The next slice of telling everything anew.
    fn retell(&mut self, hub: &mut Hub, hub_ms: u64) {
        let Retelling::At(mut progress) = self.retelling else {
            return;
        };
        let records = &mut self.records;
        let enough_bytes = records.bytes.len() + SLICE_BYTES;
        let is_told = hub.tell_all(&mut progress, hub_ms, |fact| {
            records.keep(fact);
            records.bytes.len() >= enough_bytes
        });
        self.retelling = match is_told {
            true => Retelling::Told,
            false => Retelling::At(progress),
        };
    }

    /// More than half of the log is needless, and it is worth the trouble.
    fn is_too_long(&self, hub: &Hub, config: &Config) -> bool {
        if self.retelling != Retelling::Done
            || self.file_bytes < config.limits.history_log_bytes_min as u64
        {
            return false;
        }
        let needed_bytes = match hub.told_bytes() {
            hub_bytes if hub_bytes < self.retold_hub_bytes => {
                let share = hub_bytes as f64 / self.retold_hub_bytes as f64;
                (self.retold_bytes as f64 * share) as u64
            }
            _ => self.retold_bytes,
        };
        self.file_bytes > 2 * needed_bytes
    }

    /// An append has come back. Gives those whose records were in it: written, or all that wait, with nothing of theirs
    /// in the log.
    pub(super) fn on_written(
        &mut self,
        mut append: Append,
        result: Result<(), WriteFailed>,
        file_bytes: u64,
        hub: &Hub,
        now_ms: u64,
    ) -> VecDeque<Pending> {
        let Some(in_flight) = self.in_flight.take() else {
            return VecDeque::new();
        };
        self.file_bytes = file_bytes;
        if result.is_err() {
            let mut records = Records {
                bytes: append.bytes,
                kept: in_flight.kept,
            };
            records.retain(true);
            self.records.retain(true);
            records.bytes.append(&mut self.records.bytes);
            records.kept.clear();
            if !records.bytes.is_empty() {
                records.kept.push(0..records.bytes.len());
            }
            self.records = records;
            self.retry_ms = Some(now_ms + RETRY_MS);
            return std::mem::take(&mut self.pending);
        }
        self.retry_ms = None;
        if append.begins_file && self.retelling == Retelling::Wanted {
            self.retelling = Retelling::At(Progress::default());
        }
        if append.completes_file && self.retelling == Retelling::Told {
            self.retelling = Retelling::Done;
            self.retold_bytes = file_bytes;
            self.retold_hub_bytes = hub.told_bytes();
        }
        append.bytes.clear();
        if append.bytes.capacity() <= BUFFER_BYTES_KEPT {
            self.spare = append.bytes;
        }
        // A repeat has no record of its own: it goes with what is before it.
        let is_repeat = |pending: &&Pending| matches!(pending, Pending::Repeat(..));
        let repeats = self.pending.iter().skip(in_flight.n_pending);
        let n_written = in_flight.n_pending + repeats.take_while(is_repeat).count();
        let behind = self.pending.split_off(n_written);
        std::mem::replace(&mut self.pending, behind)
    }

    /// The deletion is done, so the log will have it as soon as it can be written.
    pub(super) fn keep_deletion(&mut self, change: &Change) {
        self.records.keep(change.fact());
    }

    /// What was written may not be there: everything is to be told anew.
    pub(super) fn on_sync_failed(&mut self) {
        self.retelling = Retelling::Wanted;
    }

    /// When something is to be done if nothing happens before.
    pub(super) fn retry_ms(&self) -> Option<u64> {
        // Drafts are no reason: they come after the retry, which they are.
        let has_something = !self.records.kept.is_empty() || self.retelling != Retelling::Done;
        self.retry_ms
            .filter(|_| self.in_flight.is_none() && has_something)
    }

    pub(super) fn queue_bytes(&self) -> usize {
        self.records.bytes.len()
    }

    /// Hands over what is left, and waits for nothing.
    pub(super) fn finish(mut self, hub: &mut Hub) {
        self.take_changes(hub);
        let bytes = std::mem::take(&mut self.records.bytes);
        if !bytes.is_empty() {
            self.send(Append {
                bytes,
                ..Append::default()
            });
        }
    }
}

#[cfg(test)]
mod tests;
