//! Channels, histories, positions. Pure: time is an argument, and nothing here writes to a connection.
//!
//! [`Hub`] is the home of some channels of the node: it alone numbers their messages and keeps their histories.
//! [`fanout::Fanout`] knows which connections of this shard listen, on whichever home's channels.
#![forbid(unsafe_code)]

pub mod batch;
pub mod channel;
pub mod durable;
pub mod epochs;
pub mod fanout;
pub mod histories;
pub mod idempotency;
mod kept;
pub mod message;
pub mod namespaces;
pub mod position;
pub mod publishing;
pub mod replay;
pub mod restored;

use std::collections::BTreeMap;
use std::sync::Arc;

use slab::Slab;

use crate::config::{self, Config};
use crate::proto::payload::PayloadKind;

use channel::Channel;
use durable::Change;
use epochs::Epochs;
use histories::Histories;
use idempotency::Idempotency;
use message::ChannelName;
use namespaces::{Namespaces, page};
use position::{Epoch, Position, Since};
use replay::Replay;

/// Channels that get other settings in one sweep: a million within seconds, and no turn longer than usual.
const RELOADS_PER_SWEEP: usize = 4096;

/// Names one shard of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A publish after every check that needs no channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub channel: ChannelName,
    pub kind: PayloadKind,
    pub event: Option<Box<str>>,
    pub payload: Arc<[u8]>,
    /// Shorter than the namespace's age, or without effect.
    pub ttl_ms: Option<u64>,
    /// Keep it in the history; otherwise only those who listen now get it.
    pub store: bool,
    pub idempotency_key: Option<Box<str>>,
}

/// The promise of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub position: Position,
    /// Listeners of the whole node at that moment.
    pub receivers: u32,
}

/// Whose listeners the receivers of a publish are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// There is no other node.
    Alone,
    /// This node's; others may have more.
    Node,
    /// This node's, and nobody else has the message: the broker is away.
    Local,
    /// Those of so many nodes; of all that there are, if it is complete.
    Cluster { nodes: u32, is_complete: bool },
}

/// Where a listener wants to start and how it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub channel: ChannelName,
    pub since: Since,
    pub mode: ListenMode,
    pub messages_max: usize,
    pub bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenMode {
    /// Tell what is there and forget the listener: a short poll.
    Once,
    /// Listen from now on only if there is nothing to tell: a long poll.
    UntilFirst,
    /// Listen from now on: a stream.
    Stream,
}

impl ListenMode {
    /// Whether who gets `replay` first listens from now on.
    pub fn stays(self, replay: &Replay) -> bool {
        match self {
            Self::Once => false,
            Self::UntilFirst => replay.messages.is_empty() && !replay.lost,
            Self::Stream => true,
        }
    }
}

/// Why a home does not do what it is asked. The setting that was hit is named at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeRefusal {
    /// `channels_max`
    ChannelsFull,
    /// `history_bytes_total_max`
    HistoryFull,
    /// `fanout_backlog_bytes_max` or `mailbox_max`: messages are published faster than they can be delivered.
    BacklogFull,
    /// `history_queue_bytes_max` or `history_stall_timeout`: the disk of `history_dir` does not keep up.
    DiskSlow,
    /// The last write to `history_dir` failed.
    WriteFailed,
    /// The broker of `backplane` cannot be reached. What was on its way there may have come through.
    BrokerAway,
    /// `backplane_queue_bytes_max`: publishes come faster than the broker takes them.
    BrokerSlow,
    /// The broker takes no publish.
    BrokerRefused,
}

/// What is told of a channel to whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    pub name: ChannelName,
    pub position: Position,
    /// Position of the oldest message that can still be had, or `position` if there is none.
    pub oldest: Position,
    pub messages: usize,
    pub bytes: usize,
    pub subscribers: u32,
}

/// The channels whose home is one shard.
#[derive(Debug)]
pub struct Hub {
    config: Arc<Config>,
    namespaces: Namespaces,
    channels: Slab<Channel>,
    /// In the order of names, for paging; and nobody who chooses names can make a look-up slow.
    by_name: BTreeMap<ChannelName, u32>,
    histories: Histories,
    channels_max: usize,
    idempotency: Idempotency,
    /// The clock, finer than the `now_ms` of each call, and the newest message's time by it.
    now_us: u64,
    newest_us: u64,
    /// The next slab index that [`sweep`](Self::sweep) looks at.
    sweep_next: usize,
    /// Slab indices from there on whose channels still have the settings of before a reload.
    to_reload: usize,
    epochs: Epochs,
    /// Bytes of drafts, which will be in the histories if their log takes them.
    draft_bytes: usize,
    /// What a log has to know beside the drafts; `None` without a log.
    changes: Option<Vec<Change>>,
    /// Whoever listens is about to go, and is to find its channel again in the next process.
    is_ending: bool,
}

impl Hub {
    /// A hub that holds its share, one of `n_shards`, of the process's limits. `seed` draws the epochs: it must
    /// differ from start to start and from shard to shard.
    pub fn new(config: Arc<Config>, n_shards: usize, seed: u64) -> Self {
        let share = |limit| config::share(limit, n_shards);
        Self {
            namespaces: Namespaces::new(&config),
            channels: Slab::new(),
            by_name: BTreeMap::new(),
            histories: Histories::new(share(config.limits.history_bytes_total_max)),
            channels_max: share(config.limits.channels_max),
            idempotency: Idempotency::new(
                config.timing.idempotency_window_ms,
                share(config.limits.idempotency_keys_max),
            ),
            now_us: 0,
            newest_us: 0,
            sweep_next: 0,
            to_reload: 0,
            epochs: Epochs::new(seed, share(config.limits.channels_max)),
            draft_bytes: 0,
            changes: None,
            is_ending: false,
            config,
        }
    }

    /// Another configuration from now on. The channels get their settings by and by, from [`sweep`](Self::sweep).
    pub fn reload(&mut self, config: Arc<Config>, n_shards: usize, now_ms: u64) {
        let share = |limit| config::share(limit, n_shards);
        self.channels_max = share(config.limits.channels_max);
        self.histories
            .set_limit(share(config.limits.history_bytes_total_max));
        self.idempotency.set_limits(
            config.timing.idempotency_window_ms,
            share(config.limits.idempotency_keys_max),
            now_ms,
        );
        if config.namespaces != self.config.namespaces {
            self.namespaces = Namespaces::new(&config);
            self.sweep_next = 0;
            self.to_reload = self.channels.capacity();
        }
        self.config = config;
    }

    /// What the clock says now. Messages published within one millisecond on different homes get their order by it.
    pub fn observe_us(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// What a listener on `shard` gets first. `true`: it is counted as listening from now on, until
    /// [`unlisten`](Self::unlisten).
    pub fn listen(
        &mut self,
        listen: &Listen,
        shard: ShardId,
        now_ms: u64,
    ) -> Result<(Replay, bool), HomeRefusal> {
        if let Some(replay) = self.replay_of_unknown(listen) {
            return Ok((replay, false));
        }
        let index = self.channel_or_new(&listen.channel, now_ms)?;
        self.expire_channel(index, now_ms);
        let channel = &mut self.channels[index];
        let replay = channel.replay(listen.since, listen.messages_max, listen.bytes_max);
        let stays = listen.mode.stays(&replay);
        if channel.is_deleted() {
            // Its epoch becomes known to somebody.
            note(&mut self.changes, Change::Created, channel);
        }
        if stays {
            channel.listen(shard, now_ms);
        }
        channel.touch(now_ms);
        Ok((replay, stays))
    }

    /// The answer to who asks about a channel that is not there, and does not stay: it leaves no trace.
    fn replay_of_unknown(&self, listen: &Listen) -> Option<Replay> {
        if self.by_name.contains_key(&listen.channel) {
            return None;
        }
        let position = self.epochs.before_first(&listen.channel)?;
        let replay = Replay {
            start: position,
            end: position,
            lost: matches!(listen.since, Since::After(cursor) if cursor != position),
            messages: Vec::new(),
        };
        (!listen.mode.stays(&replay)).then_some(replay)
    }

    /// One listener on `shard` less.
    pub fn unlisten(&mut self, name: &ChannelName, shard: ShardId, now_ms: u64) {
        if let Some(&index) = self.by_name.get(name) {
            let channel = &mut self.channels[index as usize];
            channel.unlisten(shard, now_ms);
            let is_blank = self.epochs.is_blank(name, channel.head()) && channel.is_settled();
            let is_kept = self.is_ending && self.changes.is_some();
            if is_blank && channel.listeners() == 0 && !is_kept {
                self.remove(index as usize);
            } else if channel.is_deleted() {
                self.forget_if_unneeded(index as usize, now_ms);
            }
        }
    }

    /// The process is about to end, and with it all listening. The next one draws other first epochs: where a log tells
    /// it of the channels, those without a message are kept from now on, too.
    pub fn begin_end(&mut self) {
        self.is_ending = true;
    }

    /// `None` for a channel that nobody used, or that is forgotten.
    pub fn info(&mut self, name: &ChannelName, now_ms: u64) -> Option<ChannelInfo> {
        let index = *self.by_name.get(name)? as usize;
        self.expire_channel(index, now_ms);
        (!self.channels[index].is_deleted()).then(|| self.channels[index].info())
    }

    /// Up to `limit` channels with `prefix` in the order of their names, after `after`.
    pub fn list(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now_ms: u64,
    ) -> Vec<ChannelInfo> {
        let indices: Vec<_> = page(&self.by_name, prefix, after)
            .filter(|&index| !self.channels[index].is_deleted())
            .take(limit)
            .collect();
        let info = |index| {
            self.expire_channel(index, now_ms);
            self.channels[index].info()
        };
        indices.into_iter().map(info).collect()
    }

    /// Drops a channel's history and its epoch. The shards that listen come back, since their listeners are to be
    /// ended; `false` when there is no such channel.
    pub fn delete(
        &mut self,
        name: &ChannelName,
        now_ms: u64,
        listening: &mut Vec<ShardId>,
    ) -> bool {
        listening.clear();
        let Some(&index) = self.by_name.get(name) else {
            return false;
        };
        let channel = &mut self.channels[index as usize];
        if channel.is_deleted() {
            return false;
        }
        listening.extend(channel.listening_shards());
        self.epochs.end(name, channel.head().epoch);
        let epoch = self.epochs.draw();
        self.histories
            .change(channel, |channel, _| channel.delete(epoch));
        self.forget_if_unneeded(index as usize, now_ms);
        true
    }

    /// Expires and forgets among the next `channels_max` channels: called often with a small number, it goes round
    /// all of them without ever stalling a turn.
    pub fn sweep(&mut self, channels_max: usize, now_ms: u64) {
        self.idempotency.expire(now_ms);
        let channels_max = match self.to_reload {
            0 => channels_max,
            _ => channels_max.max(RELOADS_PER_SWEEP),
        };
        for _ in 0..channels_max.min(self.channels.capacity()) {
            let is_old = self.to_reload > 0;
            self.to_reload = self.to_reload.saturating_sub(1);
            let index = self.sweep_next;
            self.sweep_next = if index + 1 < self.channels.capacity() {
                index + 1
            } else {
                0
            };
            if !self.channels.contains(index) {
                continue;
            }
            if is_old {
                self.reload_channel(index, now_ms);
            }
            self.expire_channel(index, now_ms);
            self.forget_if_unneeded(index, now_ms);
        }
    }

    /// Channels that this shard is the home of.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Their places, vacant ones among them: what a round of sweeps goes through.
    pub fn places(&self) -> usize {
        self.channels.capacity()
    }

    /// Keys that were forgotten before their time, for want of room.
    pub fn idempotency_keys_forgotten_total(&self) -> u64 {
        self.idempotency.forgotten_early_total
    }

    /// Bytes of all histories.
    pub fn history_bytes(&self) -> usize {
        self.histories.bytes()
    }

    fn channel_or_new(&mut self, name: &ChannelName, now_ms: u64) -> Result<usize, HomeRefusal> {
        if let Some(&index) = self.by_name.get(name) {
            return Ok(index as usize);
        }
        if self.channels.len() >= self.channels_max {
            return Err(HomeRefusal::ChannelsFull);
        }
        let namespace = self.namespaces.of(name);
        let epoch = self.epochs.begin(name);
        let index = self
            .channels
            .insert(Channel::new(name.clone(), namespace, epoch, now_ms));
        note(&mut self.changes, Change::Created, &self.channels[index]);
        self.by_name.insert(name.clone(), index as u32);
        Ok(index)
    }

    fn reload_channel(&mut self, index: usize, now_ms: u64) {
        let namespace = self.namespaces.of(&self.channels[index].name);
        self.histories
            .change(&mut self.channels[index], |channel, _| {
                channel.set_namespace(namespace, now_ms);
            });
    }

    fn expire_channel(&mut self, index: usize, now_ms: u64) {
        self.histories
            .change(&mut self.channels[index], |channel, _| {
                channel.expire(now_ms);
            });
    }

    fn forget_if_unneeded(&mut self, index: usize, now_ms: u64) {
        if self.channels[index].is_forgettable(now_ms, self.config.timing.channel_idle_timeout_ms) {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let channel = self.channels.remove(index);
        self.by_name.remove(&channel.name);
        let head = channel.head();
        if !self.epochs.is_blank(&channel.name, head) {
            self.epochs.end(&channel.name, head.epoch);
        }
        if !channel.is_deleted() {
            note(&mut self.changes, Change::Forgotten, &channel);
        }
    }
}

/// Notes what the log has to know, if there is one.
fn note(
    changes: &mut Option<Vec<Change>>,
    change: fn(ChannelName, Epoch) -> Change,
    channel: &Channel,
) {
    if let Some(changes) = changes {
        changes.push(change(channel.name.clone(), channel.head().epoch));
    }
}

#[cfg(test)]
mod tests;
