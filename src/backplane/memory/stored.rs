//! One channel at the broker in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::backplane::broker::Publishing;
use crate::backplane::order::{Arrival, Keep, Standing};
use crate::hub::Published;
use crate::hub::message::Message;
use crate::hub::position::{Epoch, Position};

/// Between the last number that a restarted server knows and the next one that it gives: more than it can have given
/// and lost.
const JUMP: u64 = 1_000_000;

pub(super) struct Stored {
    epoch: Epoch,
    /// Offset of the newest message.
    head: u64,
    /// What the next offset is more than.
    numbered: u64,
    /// Offsets between these two, both left out, were never given, or given and lost.
    jumps: Vec<(u64, u64)>,
    messages: VecDeque<Arc<Message>>,
    /// First results by key, each with its end.
    results: HashMap<Box<str>, (Published, u64)>,
    /// When the channel's epoch is forgotten, unless it is used before.
    end_ms: u64,
    /// Of the newest message.
    last_us: u64,
}

impl Stored {
    pub(super) fn new(random: u64) -> Self {
        Self {
            epoch: Epoch::from_random(random),
            head: 0,
            numbered: 0,
            jumps: Vec::new(),
            messages: VecDeque::new(),
            results: HashMap::new(),
            end_ms: u64::MAX,
            last_us: 0,
        }
    }

    /// Nobody has used it for so long that the broker knows no such channel.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.end_ms <= now_ms
    }

    /// The channel is used: it lives on, and what is too old or too much goes.
    pub(super) fn touch(&mut self, now_us: u64, keep: Keep) {
        let now_ms = now_us / 1000;
        let surplus = self.messages.len().saturating_sub(keep.history_messages);
        self.messages.drain(..surplus);
        let is_live = |message: &Arc<Message>| {
            let age_ms = now_ms.saturating_sub(message.published_ms);
            age_ms < keep.history_age_ms && now_ms < message.expires_ms
        };
        self.messages.retain(is_live);
        self.results.retain(|_, (_, end_ms)| now_ms < *end_ms);
        // With a message in it, or a result to repeat, the epoch is needed for longer.
        let messages_end_ms = self.messages.back().map_or(0, |message| {
            message.published_ms.saturating_add(keep.history_age_ms)
        });
        let results_end_ms = self.results.values().map(|(_, end_ms)| *end_ms).max();
        self.end_ms = now_ms
            .saturating_add(keep.idle_timeout_ms)
            .max(messages_end_ms)
            .max(results_end_ms.unwrap_or(0));
    }

    /// Numbers and keeps a message. A repeat under the same key gets the first result, and nothing is to be announced.
    pub(super) fn publish(
        &mut self,
        publishing: Publishing,
        now_us: u64,
    ) -> (Published, Option<Arrival>) {
        let Publishing {
            publish,
            keep,
            receivers,
        } = publishing;
        let key = publish.idempotency_key;
        if let Some((published, _)) = key.as_ref().and_then(|key| self.results.get(key)) {
            return (*published, None);
        }
        let previous = self.head;
        self.numbered += 1;
        self.head = self.numbered;
        if self.head > previous + 1 {
            self.jumps.push((previous, self.head));
        }
        self.last_us = now_us.max(self.last_us + 1);
        let published_ms = self.last_us / 1000;
        let message = Arc::new(Message {
            channel: publish.channel,
            position: Position {
                epoch: self.epoch,
                offset: self.head,
            },
            previous,
            kind: publish.kind,
            event: publish.event,
            payload: publish.payload,
            published_ms,
            published_us: self.last_us,
            expires_ms: publish
                .ttl_ms
                .map_or(u64::MAX, |ttl_ms| published_ms.saturating_add(ttl_ms)),
        });
        let published = Published {
            position: message.position,
            receivers,
        };
        let is_stored = publish.store && keep.history_messages > 0;
        if is_stored {
            self.messages.push_back(Arc::clone(&message));
        }
        if let Some(key) = key
            && keep.idempotency_window_ms > 0
        {
            let end_ms = now_us / 1000 + keep.idempotency_window_ms;
            self.results.insert(key, (published, end_ms));
        }
        self.touch(now_us, keep);
        (published, Some(Arrival { message, is_stored }))
    }

    /// Somebody had a message of this epoch that is not known here.
    pub(super) fn has_lost(&self, after: Position) -> bool {
        let is_between = |&(from, to): &(u64, u64)| from < after.offset && after.offset < to;
        after.epoch == self.epoch && (after.offset > self.head || self.jumps.iter().any(is_between))
    }

    /// What is behind `after`.
    pub(super) fn standing(&self, after: Option<Position>, now_ms: u64) -> Standing {
        let after = after
            .filter(|after| after.epoch == self.epoch)
            .map_or(0, |after| after.offset);
        let is_wanted = |message: &&Arc<Message>| {
            message.position.offset > after && now_ms < message.expires_ms
        };
        let arrival = |message: &Arc<Message>| Arrival {
            message: Arc::clone(message),
            is_stored: true,
        };
        Standing {
            head: Position {
                epoch: self.epoch,
                offset: self.head,
            },
            is_used: self.head > 0,
            messages: self
                .messages
                .iter()
                .filter(is_wanted)
                .map(arrival)
                .collect(),
        }
    }

    /// A restart with an older state: the newest `lost` messages are as if they had never been, and the numbers go on
    /// far behind whatever may have been given.
    pub(super) fn lose_newest(&mut self, lost: usize) {
        for _ in 0..lost {
            if let Some(message) = self.messages.pop_back() {
                self.head = message.previous;
            }
        }
        let head = self.head;
        self.jumps.retain(|&(_, to)| to <= head);
        self.results
            .retain(|_, (published, _)| published.position.offset <= head);
        self.numbered += JUMP;
    }
}
