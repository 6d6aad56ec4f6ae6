//! The messages that a channel keeps for those who come later, within its namespace's count, age and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Namespace;
use crate::hub::message::Message;

#[derive(Debug)]
pub(super) struct Kept {
    /// Ascending offsets; what is not stored or expired early leaves holes.
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// When the first message with a `ttl` of its own expires, which may be out of turn; `u64::MAX` without one.
    early_expiry_ms: u64,
    /// When the last of all that was ever stored expires.
    until_ms: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            early_expiry_ms: u64::MAX,
            until_ms: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn until_ms(&self) -> u64 {
        self.until_ms
    }

    pub(super) fn oldest(&self) -> Option<&Arc<Message>> {
        self.messages.front()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.messages.iter()
    }

    /// How many messages are not behind `offset`.
    pub(super) fn place_behind(&self, offset: u64) -> usize {
        self.messages
            .partition_point(|message| message.position.offset <= offset)
    }

    /// Takes up the newest message, which always has room, whatever its size: it was promised to those who come back.
    pub(super) fn store(&mut self, message: Arc<Message>, namespace: &Namespace, now_ms: u64) {
        if namespace.history_messages == 0 || message.expires_ms <= now_ms {
            return;
        }
        self.insert(self.messages.len(), message, namespace);
    }

    /// Takes up a message that a log has, at its place; one that is here already is not taken twice.
    pub(super) fn restore(&mut self, message: Arc<Message>, namespace: &Namespace) {
        let offset = message.position.offset;
        let now_ms = message.published_ms;
        let at = self
            .messages
            .partition_point(|other| other.position.offset < offset);
        let is_here = (self.messages.get(at)).is_some_and(|other| other.position.offset == offset);
        if is_here {
            return;
        }
        if at == self.messages.len() {
            self.expire(namespace, now_ms);
            return self.store(message, namespace, now_ms);
        }
        // A checkpoint brings what is old behind what came in while it was written.
        self.insert(at, message, namespace);
    }

    fn insert(&mut self, at: usize, message: Arc<Message>, namespace: &Namespace) {
        self.bytes += message.bytes();
        self.early_expiry_ms = (self.early_expiry_ms).min(early_expiry_ms(&message, namespace));
        self.until_ms = self.until_ms.max(message.expires_ms);
        self.messages.insert(at, message);
        self.trim(namespace);
    }

    /// Drops the oldest messages until there is room for `bytes` within `bytes_max`, or nothing is left.
    pub(super) fn make_room(&mut self, bytes: usize, bytes_max: usize) {
        while self.bytes + bytes > bytes_max && self.drop_oldest() {}
    }

    /// Drops the oldest messages that are beyond the namespace's count and bytes.
    pub(super) fn trim(&mut self, namespace: &Namespace) {
        while self.messages.len() > namespace.history_messages
            || (self.bytes > namespace.history_bytes && self.messages.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Drops what is too old. Costs as much as it drops, and a look at all only when a `ttl` has run out.
    pub(super) fn expire(&mut self, namespace: &Namespace, now_ms: u64) {
        while self
            .messages
            .front()
            .is_some_and(|oldest| expires_ms(oldest, namespace) <= now_ms)
        {
            self.drop_oldest();
        }
        if self.early_expiry_ms > now_ms {
            return;
        }
        self.messages
            .retain(|message| expires_ms(message, namespace) > now_ms);
        self.bytes = self.messages.iter().map(|message| message.bytes()).sum();
        let early_expiries = self
            .messages
            .iter()
            .map(|message| early_expiry_ms(message, namespace));
        self.early_expiry_ms = early_expiries.min().unwrap_or(u64::MAX);
        self.free_if_empty();
    }

    /// `false` when there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.messages.pop_front() else {
            return false;
        };
        self.bytes -= oldest.bytes();
        self.free_if_empty();
        true
    }

    fn free_if_empty(&mut self) {
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
    }
}

/// When `message` expires; by now its namespace may keep messages for a shorter time than when it was published.
fn expires_ms(message: &Message, namespace: &Namespace) -> u64 {
    message.expires_ms.min(in_turn_ms(message, namespace))
}

/// When `message` expires, if that is before its turn.
fn early_expiry_ms(message: &Message, namespace: &Namespace) -> u64 {
    if message.expires_ms < in_turn_ms(message, namespace) {
        message.expires_ms
    } else {
        u64::MAX
    }
}

/// When `message` expires unless it has a `ttl` of its own: after those before it.
fn in_turn_ms(message: &Message, namespace: &Namespace) -> u64 {
    message
        .published_ms
        .saturating_add(namespace.history_age_ms)
}
