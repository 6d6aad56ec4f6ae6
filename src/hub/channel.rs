//! One channel at its home shard: its history, its head, and which shards listen.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Namespace;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Epoch, Position, Since};
use crate::hub::{ChannelInfo, ShardId};

/// What a listener is given first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// What the listener has before the first of `messages`: its own cursor, or a later one when something in
    /// between is lost.
    pub start: Position,
    /// What it has after the last of them.
    pub end: Position,
    /// Something between the listener's cursor and `end` is lost; where, [`gaps`](Self::gaps) tells.
    pub lost: bool,
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
}

impl Replay {
    /// The positions up to which something is lost, each with the index of the message that it precedes
    /// (`messages.len()` for a loss behind the last one).
    pub fn gaps(&self, since: Since) -> Vec<(usize, Position)> {
        let mut gaps = Vec::new();
        let mut has = self.start;
        let lost_in_front = matches!(since, Since::After(position) if position != self.start);
        for (index, message) in self.messages.iter().enumerate() {
            let before = Position {
                offset: message.previous,
                ..message.position
            };
            if !before.is_within(has) || (index == 0 && lost_in_front) {
                gaps.push((index, before));
            }
            has = message.position;
        }
        if self.lost && (!self.end.is_within(has) || (self.messages.is_empty() && lost_in_front)) {
            gaps.push((self.messages.len(), self.end));
        }
        gaps
    }
}

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
    /// Ascending offsets; what is not stored or expired early leaves holes.
    history: VecDeque<Arc<Message>>,
    history_bytes: usize,
    /// When the first message with a `ttl` of its own expires, which may be out of turn; `u64::MAX` without one.
    early_expiry_ms: u64,
    /// How many listeners each shard has here; shards without any are left out.
    listeners: Vec<(ShardId, u32)>,
    /// When the last of all that was ever stored expires.
    kept_until_ms: u64,
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
            history: VecDeque::new(),
            history_bytes: 0,
            early_expiry_ms: u64::MAX,
            listeners: Vec::new(),
            kept_until_ms: 0,
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
        let oldest = self.history.front();
        ChannelInfo {
            name: self.name.clone(),
            position: self.head(),
            oldest: oldest.map_or_else(|| self.head(), |message| message.position),
            messages: self.history_messages(),
            bytes: self.history_bytes,
            subscribers: self.listeners(),
        }
    }

    pub fn history_messages(&self) -> usize {
        self.history.len()
    }

    pub fn history_bytes(&self) -> usize {
        self.history_bytes
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
        if self.namespace.history_messages == 0 || message.expires_ms <= now_ms {
            return;
        }
        self.insert(self.history.len(), message);
    }

    fn insert(&mut self, at: usize, message: Arc<Message>) {
        self.history_bytes += message.bytes();
        self.early_expiry_ms = self.early_expiry_ms.min(self.early_expiry(&message));
        self.kept_until_ms = self.kept_until_ms.max(message.expires_ms);
        self.history.insert(at, message);
        self.trim();
    }

    /// As [`store`](Self::store), with what all histories together leave for this one: over that, a channel makes room
    /// out of its own past only.
    pub fn store_within(&mut self, bytes_max: usize, message: Arc<Message>, now_ms: u64) {
        while self.history_bytes + message.bytes() > bytes_max && self.drop_oldest() {}
        self.store(message, now_ms);
    }

    /// Other settings from now on; a shorter history is shortened at once.
    pub fn set_namespace(&mut self, namespace: Arc<Namespace>, now_ms: u64) {
        self.namespace = namespace;
        self.trim();
        self.expire(now_ms);
    }

    /// Drops the oldest messages that are beyond the namespace's count and bytes.
    fn trim(&mut self) {
        while self.history.len() > self.namespace.history_messages
            || (self.history_bytes > self.namespace.history_bytes && self.history.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Drops the oldest message of the history; false when there is none.
    pub fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.history.pop_front() else {
            return false;
        };
        self.history_bytes -= oldest.bytes();
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
        true
    }

    /// Drops what is too old. Costs as much as it drops, and a look at all only when a `ttl` has run out.
    pub fn expire(&mut self, now_ms: u64) {
        while self
            .history
            .front()
            .is_some_and(|oldest| self.expires_ms(oldest) <= now_ms)
        {
            self.drop_oldest();
        }
        if self.early_expiry_ms > now_ms {
            return;
        }
        let mut history = std::mem::take(&mut self.history);
        history.retain(|message| self.expires_ms(message) > now_ms);
        self.history = history;
        self.history_bytes = self.history.iter().map(|message| message.bytes()).sum();
        let early_expiries = self
            .history
            .iter()
            .map(|message| self.early_expiry(message));
        self.early_expiry_ms = early_expiries.min().unwrap_or(u64::MAX);
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
    }

    /// When `message` expires; by now its namespace may keep messages for a shorter time than when it was published.
    fn expires_ms(&self, message: &Message) -> u64 {
        let in_turn_ms = message
            .published_ms
            .saturating_add(self.namespace.history_age_ms);
        message.expires_ms.min(in_turn_ms)
    }

    /// When `message` expires, if that is before its turn.
    fn early_expiry(&self, message: &Message) -> u64 {
        let in_turn_ms = message
            .published_ms
            .saturating_add(self.namespace.history_age_ms);
        if message.expires_ms < in_turn_ms {
            message.expires_ms
        } else {
            u64::MAX
        }
    }

    /// What a listener gets that starts at `since`, at most `messages_max` of it and about `bytes_max`.
    pub fn replay(&self, since: Since, messages_max: usize, bytes_max: usize) -> Replay {
        let head = self.head();
        let (skip, wanted_from) = match since {
            Since::Now => (self.history.len(), None),
            Since::Earliest => (0, None),
            Since::Last(n) => (self.history.len().saturating_sub(n), None),
            Since::After(cursor) if cursor.epoch == self.epoch && cursor.offset <= self.head => {
                let skip = self
                    .history
                    .partition_point(|message| message.position.offset <= cursor.offset);
                (skip, Some(cursor))
            }
            Since::After(_) => (0, None),
        };
        let mut bytes = 0;
        let messages: Vec<_> = (self.history.iter().skip(skip).take(messages_max))
            .take_while(|message| {
                // The first one always fits, or a listener with a small limit would never get on.
                let fits = bytes == 0 || bytes + message.bytes() <= bytes_max;
                bytes += message.bytes();
                fits
            })
            .cloned()
            .collect();
        let is_cut = skip + messages.len() < self.history.len();
        let end = if is_cut {
            messages.last().map_or(head, |message| message.position)
        } else {
            head
        };
        let first = messages
            .first()
            .map_or(end.offset, |message| message.previous);
        let start = match wanted_from {
            Some(cursor) if first <= cursor.offset => cursor,
            _ => Position {
                epoch: self.epoch,
                offset: first,
            },
        };
        // Who asks for what there is has lost nothing in front of it, but perhaps something in the midst of it.
        let lost_in_front = matches!(since, Since::After(cursor) if cursor != start);
        let lost =
            since != Since::Now && (lost_in_front || has_hole(start.offset, &messages, end.offset));
        Replay {
            start,
            end,
            lost,
            messages,
        }
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
        self.history = VecDeque::new();
        self.history_bytes = 0;
        self.early_expiry_ms = u64::MAX;
        self.kept_until_ms = 0;
    }

    /// Takes up what a log says of this epoch. Positions up to `head` were given out.
    pub fn restore_head(&mut self, head: u64) {
        self.head = self.head.max(head);
        self.taken = self.head;
    }

    /// Takes up a message that a log has, at its place; one that is here already is not taken twice.
    pub fn restore(&mut self, message: Arc<Message>) {
        let offset = message.position.offset;
        self.restore_head(offset);
        let now_ms = message.published_ms;
        let at = self
            .history
            .partition_point(|other| other.position.offset < offset);
        let is_here = (self.history.get(at)).is_some_and(|other| other.position.offset == offset);
        if is_here {
            return;
        }
        if at == self.history.len() {
            self.expire(now_ms);
            return self.store(message, now_ms);
        }
        // A checkpoint brings what is old behind what came in while it was written.
        self.insert(at, message);
    }

    /// Begins its life in a hub. Those who have been here before have the whole of their time to come back.
    pub fn adopt(&mut self, namespace: Arc<Namespace>, now_ms: u64) {
        self.used_ms = now_ms;
        self.set_namespace(namespace, now_ms);
    }

    /// The history behind `offset`, oldest first.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = &Arc<Message>> {
        let skip = self
            .history
            .partition_point(|message| message.position.offset <= offset);
        self.history.iter().skip(skip)
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
        let unused_since_ms = self.used_ms.max(self.kept_until_ms);
        let is_unused = self.is_deleted() || now_ms >= unused_since_ms.saturating_add(idle_ms);
        self.listeners.is_empty() && self.history.is_empty() && is_unused && self.is_settled()
    }
}

/// Whoever has everything up to `start`, and gets `messages`, misses something up to `end`.
fn has_hole(start: u64, messages: &[Arc<Message>], end: u64) -> bool {
    let mut has = start;
    for message in messages {
        if message.previous > has {
            return true;
        }
        has = message.position.offset;
    }
    has < end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::payload::PayloadKind;

    const EPOCH_SEED: u64 = 7;

    fn channel(history_messages: usize, history_bytes: usize) -> Channel {
        let namespace = Namespace {
            history_messages,
            history_bytes,
            history_age_ms: 1000,
            ..Namespace::default()
        };
        Channel::new(
            ChannelName::parse("a").unwrap(),
            Arc::new(namespace),
            Epoch::from_random(EPOCH_SEED),
            0,
        )
    }

    fn publish(channel: &mut Channel, expires_ms: u64, store: bool) {
        let position = channel.take_position(0);
        channel.publish_position(position.offset);
        let message = Arc::new(Message {
            channel: channel.name.clone(),
            position,
            previous: position.offset - 1,
            kind: PayloadKind::Text,
            event: None,
            payload: (*b"hi").into(),
            published_ms: 0,
            published_us: 0,
            expires_ms,
        });
        if store {
            channel.store(message, 0);
        }
    }

    fn at(offset: u64) -> Position {
        Position {
            epoch: Epoch::from_random(EPOCH_SEED),
            offset,
        }
    }

    /// Replays from `since` and compares offsets, the new cursor, and the offsets up to which gaps are told.
    #[track_caller]
    fn check(
        channel: &Channel,
        since: Since,
        messages_max: usize,
        offsets: &[u64],
        end: u64,
        gaps: &[(usize, u64)],
    ) {
        let replay = channel.replay(since, messages_max, usize::MAX);
        let got: Vec<_> = replay
            .messages
            .iter()
            .map(|message| message.position.offset)
            .collect();
        assert_eq!(got, offsets, "messages");
        assert_eq!(replay.end, at(end), "end");
        let told: Vec<_> = replay
            .gaps(since)
            .iter()
            .map(|&(index, position)| (index, position.offset))
            .collect();
        assert_eq!(told, gaps, "gaps");
        assert_eq!(
            replay.lost,
            !gaps.is_empty(),
            "a loss is told as a gap, and only then"
        );
    }

    #[test]
    fn a_listener_gets_what_it_asks_for() {
        let mut channel = channel(3, usize::MAX);
        check(&channel, Since::Now, 9, &[], 0, &[]);
        check(&channel, Since::After(at(0)), 9, &[], 0, &[]);
        for _ in 0..5 {
            publish(&mut channel, 1000, true);
        }
        check(&channel, Since::Now, 9, &[], 5, &[]);
        check(&channel, Since::Earliest, 9, &[3, 4, 5], 5, &[]);
        check(&channel, Since::Last(2), 9, &[4, 5], 5, &[]);
        check(&channel, Since::Last(9), 9, &[3, 4, 5], 5, &[]);
        check(&channel, Since::After(at(5)), 9, &[], 5, &[]);
        check(&channel, Since::After(at(4)), 9, &[5], 5, &[]);
        check(&channel, Since::After(at(2)), 9, &[3, 4, 5], 5, &[]);
        check(&channel, Since::After(at(2)), 2, &[3, 4], 4, &[]);
        check(&channel, Since::Earliest, 2, &[3, 4], 4, &[]);
    }

    #[test]
    fn lost_history_is_told() {
        let mut channel = channel(3, usize::MAX);
        for _ in 0..5 {
            publish(&mut channel, 1000, true);
        }
        check(&channel, Since::After(at(1)), 9, &[3, 4, 5], 5, &[(0, 2)]);
        check(&channel, Since::After(at(6)), 9, &[3, 4, 5], 5, &[(0, 2)]);
        let other = Position {
            epoch: Epoch::from_random(8),
            offset: 4,
        };
        check(&channel, Since::After(other), 9, &[3, 4, 5], 5, &[(0, 2)]);
        check(&channel, Since::After(other), 1, &[3], 3, &[(0, 2)]);
        channel.expire(1000);
        check(&channel, Since::After(at(4)), 9, &[], 5, &[(0, 5)]);
        check(&channel, Since::After(other), 9, &[], 5, &[(0, 5)]);
        check(&channel, Since::After(at(5)), 9, &[], 5, &[]);
        check(&channel, Since::Earliest, 9, &[], 5, &[]);
    }

    #[test]
    fn holes_are_told_where_they_are() {
        let mut channel = channel(9, usize::MAX);
        for (expires_ms, store) in [
            (1000, true),
            (10, true),
            (1000, true),
            (1000, false),
            (1000, true),
            (1000, false),
        ] {
            publish(&mut channel, expires_ms, store);
        }
        channel.expire(10);
        check(
            &channel,
            Since::After(at(0)),
            9,
            &[1, 3, 5],
            6,
            &[(1, 2), (2, 4), (3, 6)],
        );
        check(&channel, Since::After(at(0)), 1, &[1], 1, &[]);
        check(
            &channel,
            Since::After(at(1)),
            9,
            &[3, 5],
            6,
            &[(0, 2), (1, 4), (2, 6)],
        );
        check(&channel, Since::After(at(5)), 9, &[], 6, &[(0, 6)]);
        check(
            &channel,
            Since::Earliest,
            9,
            &[1, 3, 5],
            6,
            &[(1, 2), (2, 4), (3, 6)],
        );
        check(&channel, Since::Earliest, 1, &[1], 1, &[]);
        check(&channel, Since::Last(1), 9, &[5], 6, &[(1, 6)]);
        check(&channel, Since::Last(0), 9, &[], 6, &[]);
    }

    #[test]
    fn history_is_bounded_by_count_and_bytes() {
        let mut by_count = channel(2, usize::MAX);
        publish(&mut by_count, 1000, true);
        let message_bytes = by_count.history_bytes();
        publish(&mut by_count, 1000, true);
        publish(&mut by_count, 1000, true);
        assert_eq!(
            (by_count.history_messages(), by_count.history_bytes()),
            (2, 2 * message_bytes)
        );
        let mut by_bytes = channel(100, 3 * message_bytes);
        for _ in 0..9 {
            publish(&mut by_bytes, 1000, true);
        }
        assert_eq!(by_bytes.history_messages(), 3);
        assert_eq!(by_bytes.info().oldest, at(7));
        let mut by_few_bytes = channel(100, 1);
        publish(&mut by_few_bytes, 1000, true);
        publish(&mut by_few_bytes, 1000, true);
        assert_eq!(
            (by_few_bytes.history_messages(), by_few_bytes.info().oldest),
            (1, at(2))
        );
        let mut none = channel(0, usize::MAX);
        publish(&mut none, 1000, true);
        assert_eq!((none.history_messages(), none.head()), (0, at(1)));
    }

    #[test]
    fn a_replay_is_bounded_by_bytes_but_never_empty() {
        let mut channel = channel(9, usize::MAX);
        for _ in 0..4 {
            publish(&mut channel, 1000, true);
        }
        let message_bytes = channel.history_bytes() / 4;
        let replay = channel.replay(Since::Earliest, 9, 2 * message_bytes);
        assert_eq!((replay.messages.len(), replay.end), (2, at(2)));
        let replay = channel.replay(Since::After(at(1)), 9, 1);
        assert_eq!(
            (replay.messages.len(), replay.end, replay.lost),
            (1, at(2), false)
        );
    }

    #[test]
    fn a_channel_is_forgotten_only_when_nobody_needs_it() {
        let mut channel = channel(9, usize::MAX);
        let (one, two) = (ShardId(1), ShardId(2));
        channel.listen(one, 0);
        channel.listen(two, 0);
        channel.listen(two, 5);
        assert_eq!(channel.listeners(), 3);
        channel.unlisten(one, 6);
        channel.unlisten(two, 6);
        assert_eq!(channel.listening_shards().collect::<Vec<_>>(), [two]);
        assert!(!channel.is_forgettable(100, 10));
        channel.unlisten(two, 100);
        assert!(!channel.is_forgettable(109, 10));
        assert!(channel.is_forgettable(110, 10));
        publish(&mut channel, 1000, true);
        assert!(!channel.is_forgettable(500, 10));
        channel.expire(1000);
        assert!(
            !channel.is_forgettable(1009, 10),
            "who has everything may still come back"
        );
        assert!(channel.is_forgettable(1010, 10));
    }
}
