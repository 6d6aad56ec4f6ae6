//! One channel at its home shard: its history, its head, and which shards listen.

use std::sync::Arc;

use crate::config::Namespace;
use crate::hub::kept::Kept;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Epoch, Position, Since};
use crate::hub::replay::Replay;
use crate::hub::{ChannelInfo, ShardId};

/// A channel's place among all of its node: only the home shard has one, and only it gives out positions.
#[derive(Debug)]
pub struct Channel {
    pub name: ChannelName,
    pub namespace: Arc<Namespace>,
    epoch: Epoch,
    /// Offset of the newest message, stored or not.
    head: u64,
    /// Offset of the newest position that is given out: beyond `head` while drafts wait for their log.
    taken: u64,
    kept: Kept,
    /// How many listeners each shard has here; shards without any are left out.
    listeners: Vec<(ShardId, u32)>,
    /// When it was last published to or listened on; [`DELETED`] since it was deleted.
    used_ms: u64,
}

const DELETED: u64 = u64::MAX;

impl Channel {
    pub fn new(name: ChannelName, namespace: Arc<Namespace>, epoch: Epoch, now_ms: u64) -> Self {
        Self {
            name,
            namespace,
            epoch,
            head: 0,
            taken: 0,
            kept: Kept::new(),
            listeners: Vec::new(),
            used_ms: now_ms,
        }
    }

    pub fn head(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.head,
        }
    }

    /// What is told of it to whoever asks.
    pub fn info(&self) -> ChannelInfo {
        let oldest = self.kept.oldest();
        ChannelInfo {
            name: self.name.clone(),
            position: self.head(),
            oldest: oldest.map_or_else(|| self.head(), |message| message.position),
            messages: self.history_messages(),
            bytes: self.kept.bytes(),
            subscribers: self.listeners(),
        }
    }

    pub fn history_messages(&self) -> usize {
        self.kept.len()
    }

    pub fn history_bytes(&self) -> usize {
        self.kept.bytes()
    }

    pub fn listeners(&self) -> u32 {
        self.listeners.iter().map(|&(_, count)| count).sum()
    }

    pub fn listening_shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.listeners.iter().map(|&(shard, _)| shard)
    }

    /// The position of the next message, which is not [`published`](Self::publish_position) yet. Taken whether or not
    /// it will be stored: whoever misses a message that was never stored is told of a gap, too.
    pub fn take_position(&mut self, now_ms: u64) -> Position {
        self.taken += 1;
        self.used_ms = now_ms;
        Position {
            epoch: self.epoch,
            offset: self.taken,
        }
    }

    /// The message of a taken position is there for everybody.
    pub fn publish_position(&mut self, offset: u64) {
        debug_assert!(self.head < offset && offset <= self.taken);
        self.head = offset;
    }

    /// Takes back a position that nobody has seen, and all after it.
    pub fn give_back(&mut self, offset: u64) {
        debug_assert!(self.head < offset);
        self.taken = self.taken.min(offset - 1);
    }

    /// Keeps `message` within the namespace's count, age and bytes. The newest message always has room, whatever its
    /// size: it was promised to those who come back.
    pub fn store(&mut self, message: Arc<Message>, now_ms: u64) {
        self.kept.store(message, &self.namespace, now_ms);
    }

    /// As [`store`](Self::store), with what all histories together leave for this one: over that, a channel makes room
    /// out of its own past only.
    pub fn store_within(&mut self, bytes_max: usize, message: Arc<Message>, now_ms: u64) {
        self.kept.make_room(message.bytes(), bytes_max);
        self.store(message, now_ms);
    }

    /// Other settings from now on; a shorter history is shortened at once.
    pub fn set_namespace(&mut self, namespace: Arc<Namespace>, now_ms: u64) {
        self.namespace = namespace;
        self.kept.trim(&self.namespace);
        self.expire(now_ms);
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now_ms: u64) {
        self.kept.expire(&self.namespace, now_ms);
    }

    /// What a listener gets that starts at `since`, at most `messages_max` of it and about `bytes_max`.
    pub fn replay(&self, since: Since, messages_max: usize, bytes_max: usize) -> Replay {
        Replay::new(self.head(), &self.kept, since, messages_max, bytes_max)
    }

    /// One more listener on `shard`.
    pub fn listen(&mut self, shard: ShardId, now_ms: u64) {
        self.used_ms = now_ms;
        match self
            .listeners
            .iter_mut()
            .find(|(listening, _)| *listening == shard)
        {
            Some((_, count)) => *count += 1,
            None => self.listeners.push((shard, 1)),
        }
    }

    /// One listener less on `shard`.
    pub fn unlisten(&mut self, shard: ShardId, now_ms: u64) {
        if !self.is_deleted() {
            self.used_ms = now_ms;
        }
        let Some(index) = self
            .listeners
            .iter()
            .position(|(listening, _)| *listening == shard)
        else {
            return;
        };
        self.listeners[index].1 -= 1;
        if self.listeners[index].1 == 0 {
            self.listeners.swap_remove(index);
            self.listeners.shrink_to_fit();
        }
    }

    /// Touches the channel: somebody asked where it stands.
    pub fn touch(&mut self, now_ms: u64) {
        self.used_ms = now_ms;
    }

    /// Drops the history and begins another one under `epoch`. The listeners stay counted until each is ended, so
    /// that a late goodbye is never taken for that of somebody who came after.
    pub fn delete(&mut self, epoch: Epoch) {
        self.begin(Position { epoch, offset: 0 });
        self.used_ms = DELETED;
    }

    /// Drops the history; what comes is behind `position`.
    pub fn begin(&mut self, position: Position) {
        self.epoch = position.epoch;
        self.head = position.offset;
        self.taken = position.offset;
        self.kept = Kept::new();
    }

    /// Takes up what a log says of this epoch. Positions up to `head` were given out.
    pub fn restore_head(&mut self, head: u64) {
        self.head = self.head.max(head);
        self.taken = self.head;
    }

    /// Takes up a message that a log has, at its place; one that is here already is not taken twice.
    pub fn restore(&mut self, message: Arc<Message>) {
        self.restore_head(message.position.offset);
        self.kept.restore(message, &self.namespace);
    }

    /// Begins its life in a hub. Those who have been here before have the whole of their time to come back.
    pub fn adopt(&mut self, namespace: Arc<Namespace>, now_ms: u64) {
        self.used_ms = now_ms;
        self.set_namespace(namespace, now_ms);
    }

    /// The history behind `offset`, oldest first.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = &Arc<Message>> {
        self.kept.iter().skip(self.kept.place_behind(offset))
    }

    /// No draft waits for its log.
    pub fn is_settled(&self) -> bool {
        self.taken == self.head
    }

    /// Deleted, and not used since.
    pub fn is_deleted(&self) -> bool {
        self.used_ms == DELETED
    }

    /// Nobody listens, and for `idle_ms` nothing was kept and nobody came by: it may be forgotten, epoch and all.
    /// Whoever had everything when the history ran out, and comes back within that time, has lost nothing.
    pub fn is_forgettable(&self, now_ms: u64, idle_ms: u64) -> bool {
        let unused_since_ms = self.used_ms.max(self.kept.until_ms());
        let is_unused = self.is_deleted() || now_ms >= unused_since_ms.saturating_add(idle_ms);
        self.listeners.is_empty() && self.kept.is_empty() && is_unused && self.is_settled()
    }
}

#[cfg(test)]
mod tests;
