//! Channels that a log has brought back, until each has found its home.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::hub::channel::Channel;
use crate::hub::durable::{Fact, MessageFact};
use crate::hub::message::{ChannelName, Message};
use crate::hub::namespaces::Namespaces;
use crate::hub::position::Position;
use crate::hub::{Hub, Published};

/// How far positions jump where some may be missing from the log: beyond every position that can have been given out.
/// Who has one of those, or stands before them, is told of a gap.
const LOST_POSITIONS_MAX: u64 = 1_000_000_000;

/// The state that the facts so far give. Its memory is that of the histories, and of twice `idempotency_keys_max`
/// results, whatever the length of the log.
#[derive(Debug)]
pub struct Restored {
    config: Arc<Config>,
    namespaces: Namespaces,
    channels: HashMap<ChannelName, Channel>,
    /// By channel and key.
    results: HashMap<(ChannelName, Box<str>), (u64, Published)>,
    /// The latest time that a fact tells of.
    newest_ms: u64,
    newest_us: u64,
}

/// One home's part.
#[derive(Debug, Default)]
pub struct Share {
    channels: Vec<Channel>,
    results: Vec<(u64, ChannelName, Box<str>, Published)>,
    newest_us: u64,
}

impl Share {
    pub fn messages(&self) -> usize {
        self.channels.iter().map(Channel::history_messages).sum()
    }
}

impl Restored {
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            namespaces: Namespaces::new(&config),
            config,
            channels: HashMap::new(),
            results: HashMap::new(),
            newest_ms: 0,
            newest_us: 0,
        }
    }

    /// Takes up a fact. One with a name that no channel can have is left out.
    pub fn apply(&mut self, fact: Fact<'_>) {
        match fact {
            Fact::Channel { name, head } => {
                if let Some(channel) = self.channel(name, head) {
                    channel.restore_head(head.offset);
                }
            }
            Fact::Message(message) => self.apply_message(message),
            Fact::Forgotten { name, epoch } => {
                let is_of_epoch = |channel: &Channel| channel.head().epoch == epoch;
                if self.channels.get(name).is_some_and(is_of_epoch) {
                    self.channels.remove(name);
                }
            }
            Fact::Result {
                name,
                key,
                published,
                end_ms,
            } => self.apply_result(name, key, published, end_ms),
        }
    }

    fn apply_message(&mut self, fact: MessageFact<'_>) {
        self.newest_ms = self.newest_ms.max(fact.published_ms);
        self.newest_us = self.newest_us.max(fact.published_us);
        let Some(channel) = self.channel(fact.name, fact.position) else {
            return;
        };
        match fact.payload {
            Some(payload) => channel.restore(Arc::new(Message {
                channel: channel.name.clone(),
                position: fact.position,
                previous: fact.position.offset.saturating_sub(1),
                kind: fact.kind,
                event: fact.event.map(Into::into),
                payload: payload.into(),
                published_ms: fact.published_ms,
                published_us: fact.published_us,
                expires_ms: fact.expires_ms,
            })),
            None => channel.restore_head(fact.position.offset),
        }
        if let Some(key) = fact.idempotency_key {
            let published = Published {
                position: fact.position,
                receivers: 0,
            };
            let end_ms = fact.published_ms + self.config.timing.idempotency_window_ms;
            self.apply_result(fact.name, key, published, end_ms);
        }
    }

    fn apply_result(&mut self, name: &str, key: &str, published: Published, end_ms: u64) {
        // Twice as many as may be alive, so that each time pays for as many that have come since.
        let keys_max = self.config.limits.idempotency_keys_max;
        if self.results.len() >= 2 * keys_max {
            self.forget_results(keys_max);
        }
        if let Some(name) = ChannelName::parse(name) {
            self.results.insert((name, key.into()), (end_ms, published));
        }
    }

    /// Forgets the results that are over, and of the others the soonest to end, so that no more than `keys_max` are
    /// left.
    fn forget_results(&mut self, keys_max: usize) {
        let now_ms = self.newest_ms;
        self.results.retain(|_, (end_ms, _)| *end_ms > now_ms);
        let excess = self.results.len().saturating_sub(keys_max);
        if excess > 0 {
            let mut results: Vec<_> = self.results.drain().collect();
            results.select_nth_unstable_by_key(excess - 1, |(_, (end_ms, _))| *end_ms);
            self.results.extend(results.into_iter().skip(excess));
        }
    }

    /// The channel with the epoch of `position`; another history under its name is over.
    fn channel(&mut self, name: &str, position: Position) -> Option<&mut Channel> {
        let is_known =
            (self.channels.get(name)).is_some_and(|channel| channel.head().epoch == position.epoch);
        if !is_known {
            let name = ChannelName::parse(name)?;
            let namespace = self.namespaces.of(&name);
            let channel = Channel::new(name.clone(), namespace, position.epoch, 0);
            self.channels.insert(name, channel);
        }
        self.channels.get_mut(name)
    }

    /// Some of the positions that were given out may not be here. None of them is given out again.
    pub fn skip_positions(&mut self) {
        for channel in self.channels.values_mut() {
            channel.restore_head(channel.head().offset + LOST_POSITIONS_MAX);
        }
    }

    /// The time of the newest message.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms.max(self.newest_us / 1000)
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    pub fn messages(&self) -> usize {
        self.channels.values().map(Channel::history_messages).sum()
    }

    /// Tells all that it would take to come to the same state.
    pub fn tell_all(&self, now_ms: u64, mut tell: impl FnMut(Fact<'_>)) {
        for channel in self.channels.values() {
            tell(Fact::Channel {
                name: channel.name.as_str(),
                head: channel.head(),
            });
            for message in channel.after(0) {
                if message.expires_ms > now_ms {
                    tell(Fact::Message(MessageFact::new(message, true, None)));
                }
            }
        }
        for ((name, key), (end_ms, published)) in &self.results {
            if *end_ms > now_ms {
                tell(Fact::Result {
                    name: name.as_str(),
                    key,
                    published: *published,
                    end_ms: *end_ms,
                });
            }
        }
    }

    /// Every home's part of it.
    pub fn into_shares(self, n_shards: usize, home: impl Fn(&ChannelName) -> usize) -> Vec<Share> {
        let mut shares: Vec<_> = (0..n_shards).map(|_| Share::default()).collect();
        for share in &mut shares {
            share.newest_us = self.newest_us;
        }
        for (name, channel) in self.channels {
            shares[home(&name)].channels.push(channel);
        }
        for ((name, key), (end_ms, published)) in self.results {
            shares[home(&name)]
                .results
                .push((end_ms, name, key, published));
        }
        shares
    }
}

impl Hub {
    /// Takes up what a log has brought back. A hub over its limits keeps what it is given, and takes nothing new.
    pub fn adopt(&mut self, share: Share, now_ms: u64) {
        self.newest_us = self.newest_us.max(share.newest_us);
        for mut channel in share.channels {
            let namespace = self.namespaces.of(&channel.name);
            channel.adopt(namespace, now_ms);
            self.histories.add(&channel);
            let name = channel.name.clone();
            let index = self.channels.insert(channel);
            self.by_name.insert(name, index as u32);
        }
        let mut results = share.results;
        results.sort_by_key(|(end_ms, ..)| *end_ms);
        for (end_ms, name, key, published) in results {
            // By a shorter window than it was promised, for what comes now.
            let end_ms = end_ms.min(now_ms + self.config.timing.idempotency_window_ms);
            if end_ms > now_ms {
                self.idempotency.restore(&name, &key, published, end_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;
    use crate::hub::position::{Epoch, Since};
    use crate::hub::{Listen, ListenMode, ShardId};
    use crate::proto::payload::PayloadKind;

    const KEYS_MAX: usize = 10;

    fn result(key: &str, end_ms: u64) -> Fact<'_> {
        let position = Position {
            epoch: Epoch::from_random(1),
            offset: end_ms,
        };
        Fact::Result {
            name: "a",
            key,
            published: Published {
                position,
                receivers: 0,
            },
            end_ms,
        }
    }

    #[test]
    fn of_more_results_than_may_be_remembered_the_soonest_to_end_go() {
        for (name, end_ms) in [
            ("in order", (|n| 1 + n) as fn(u64) -> u64),
            ("backwards", |n| 1000 - n),
            ("mixed", |n| 1 + n * 7 % 1000),
        ] {
            let mut config = Config::default();
            config.limits.idempotency_keys_max = KEYS_MAX;
            let mut restored = Restored::new(Arc::new(config));
            for n in 0..1000 {
                restored.apply(result(&n.to_string(), end_ms(n)));
                let results = restored.results.len();
                assert!(results <= 2 * KEYS_MAX, "{name}: {results} behind {n}");
            }
            let mut ends: Vec<_> = restored.results.values().map(|(end, _)| *end).collect();
            ends.sort_unstable();
            let last: Vec<u64> = (1001 - KEYS_MAX as u64..=1000).collect();
            assert!(ends.ends_with(&last), "{name}: {ends:?}");
        }
    }

    fn message(offset: u64) -> Fact<'static> {
        Fact::Message(MessageFact {
            name: "a",
            position: Position {
                epoch: Epoch::from_random(1),
                offset,
            },
            kind: PayloadKind::Text,
            event: None,
            payload: Some(b"hi"),
            published_ms: offset,
            published_us: 0,
            expires_ms: u64::MAX,
            idempotency_key: None,
        })
    }

    #[test]
    fn a_history_that_is_told_behind_newer_messages_stays_within_its_namespace() {
        let mut config = Config::default();
        let few = Namespace {
            history_messages: 4,
            ..Namespace::default()
        };
        config.namespaces.insert(String::new(), few);
        let config = Arc::new(config);
        let mut restored = Restored::new(config.clone());
        for offset in (8..=10).chain(1..=7) {
            restored.apply(message(offset));
            let messages = restored.messages();
            assert!(messages <= 4, "{messages} behind {offset}");
        }
        let mut hub = Hub::new(config, 1, 99);
        let share = restored.into_shares(1, |_| 0).pop().unwrap();
        hub.adopt(share, 10);
        let listen = Listen {
            channel: ChannelName::parse("a").unwrap(),
            since: Since::Earliest,
            mode: ListenMode::Once,
            messages_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        let (replay, _) = hub.listen(&listen, ShardId(0), 10).unwrap();
        let offsets = replay.messages.iter().map(|one| one.position.offset);
        assert_eq!(offsets.collect::<Vec<_>>(), [7, 8, 9, 10]);
    }
}
