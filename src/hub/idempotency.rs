//! Results of publishes that came with an `Idempotency-Key`, remembered for a while.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::hub::Published;
use crate::hub::message::ChannelName;

/// A key counts on its channel only.
type Key = (ChannelName, Box<str>);

/// First results by key. Bounded in time and in count; over the count the oldest goes first.
#[derive(Debug)]
pub struct Idempotency {
    window_ms: u64,
    keys_max: usize,
    results: HashMap<Key, Published>,
    /// In the order of their end, which is the order of their arrival.
    ends: VecDeque<(u64, Key)>,
    /// How many have left `ends` at its front: what names a place in it while it moves.
    forgotten: u64,
    /// Keys that made room for others before their time.
    pub forgotten_early_total: u64,
    /// Of messages that are not published yet. Bounded by what waits for the log.
    drafts: HashSet<Key>,
}

impl Idempotency {
    pub fn new(window_ms: u64, keys_max: usize) -> Self {
        Self {
            window_ms,
            keys_max,
            results: HashMap::new(),
            ends: VecDeque::new(),
            forgotten: 0,
            forgotten_early_total: 0,
            drafts: HashSet::new(),
        }
    }

    /// Other limits, for what is remembered already, too.
    pub fn set_limits(&mut self, window_ms: u64, keys_max: usize, now_ms: u64) {
        self.window_ms = window_ms;
        self.keys_max = keys_max;
        for (end_ms, _) in &mut self.ends {
            *end_ms = (*end_ms).min(now_ms + window_ms);
        }
        while self.ends.len() > keys_max {
            self.forget_oldest();
        }
    }

    /// The first result under `key`, if it is not too long ago.
    pub fn result(&mut self, channel: &ChannelName, key: &str, now_ms: u64) -> Option<Published> {
        self.expire(now_ms);
        self.results.get(&(channel.clone(), key.into())).copied()
    }

    /// Remembers `published`. The key must not be there yet.
    pub fn remember(
        &mut self,
        channel: &ChannelName,
        key: &str,
        published: Published,
        now_ms: u64,
    ) {
        self.restore(channel, key, published, now_ms + self.window_ms);
    }

    /// Takes up a result that is remembered until `end_ms`, which must not be before that of any other.
    pub fn restore(&mut self, channel: &ChannelName, key: &str, published: Published, end_ms: u64) {
        if self.keys_max == 0 {
            return;
        }
        if self.ends.len() >= self.keys_max {
            self.forgotten_early_total += 1;
            self.forget_oldest();
        }
        let key: Key = (channel.clone(), key.into());
        self.results.insert(key.clone(), published);
        self.ends.push_back((end_ms, key));
    }

    /// A message under `key` has a position and is not published yet.
    pub fn note_draft(&mut self, channel: &ChannelName, key: &str) {
        if self.window_ms > 0 {
            self.drafts.insert((channel.clone(), key.into()));
        }
    }

    pub fn forget_draft(&mut self, channel: &ChannelName, key: &str) {
        if !self.drafts.is_empty() {
            self.drafts.remove(&(channel.clone(), key.into()));
        }
    }

    pub fn is_draft(&self, channel: &ChannelName, key: &str) -> bool {
        !self.drafts.is_empty() && self.drafts.contains(&(channel.clone(), key.into()))
    }

    /// The results from place `next` on, in order, each with its end, and the place behind each.
    pub fn from_place(
        &self,
        next: u64,
    ) -> impl Iterator<Item = (u64, &ChannelName, &str, Published, u64)> {
        let skip = next.saturating_sub(self.forgotten) as usize;
        let first = self.forgotten + skip as u64 + 1;
        (first..)
            .zip(self.ends.iter().skip(skip))
            .filter_map(|(place, (end_ms, key))| {
                let published = *self.results.get(key)?;
                Some((place, &key.0, &*key.1, published, *end_ms))
            })
    }

    /// Forgets what is too old; called often enough that each call has little to do.
    pub fn expire(&mut self, now_ms: u64) {
        while self
            .ends
            .front()
            .is_some_and(|&(end_ms, _)| end_ms <= now_ms)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.ends.pop_front() {
            self.results.remove(&key);
            self.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::position::{Epoch, Position};

    fn published(offset: u64) -> Published {
        Published {
            position: Position {
                epoch: Epoch::from_random(1),
                offset,
            },
            receivers: 1,
        }
    }

    #[test]
    fn a_result_is_remembered_for_its_channel_and_its_time() {
        let (a, b) = (
            ChannelName::parse("a").unwrap(),
            ChannelName::parse("b").unwrap(),
        );
        let mut idempotency = Idempotency::new(100, 10);
        idempotency.remember(&a, "k", published(1), 0);
        assert_eq!(idempotency.result(&a, "k", 99), Some(published(1)));
        assert_eq!(idempotency.result(&b, "k", 99), None);
        assert_eq!(idempotency.result(&a, "other", 99), None);
        assert_eq!(idempotency.result(&a, "k", 100), None);
        assert!(idempotency.results.is_empty() && idempotency.ends.is_empty());
    }

    #[test]
    fn a_shorter_window_holds_for_what_is_remembered_already() {
        let a = ChannelName::parse("a").unwrap();
        let mut idempotency = Idempotency::new(1000, 10);
        idempotency.remember(&a, "old", published(1), 0);
        idempotency.set_limits(10, 10, 100);
        idempotency.remember(&a, "new", published(2), 105);
        assert_eq!(idempotency.result(&a, "old", 109), Some(published(1)));
        assert_eq!(idempotency.result(&a, "old", 110), None);
        assert_eq!(idempotency.result(&a, "new", 110), Some(published(2)));
        assert_eq!(idempotency.result(&a, "new", 115), None);
    }

    #[test]
    fn over_the_count_the_oldest_goes() {
        let a = ChannelName::parse("a").unwrap();
        let mut idempotency = Idempotency::new(100, 2);
        for (n, key) in ["x", "y", "z"].into_iter().enumerate() {
            idempotency.remember(&a, key, published(n as u64), 0);
        }
        assert_eq!(idempotency.result(&a, "x", 1), None);
        assert_eq!(idempotency.result(&a, "y", 1), Some(published(1)));
        assert_eq!(idempotency.result(&a, "z", 1), Some(published(2)));
        assert_eq!(idempotency.forgotten_early_total, 1);
        idempotency.expire(100);
        assert_eq!(idempotency.forgotten_early_total, 1);
    }

    #[test]
    fn without_room_none_is_remembered() {
        let a = ChannelName::parse("a").unwrap();
        let mut idempotency = Idempotency::new(100, 0);
        for (n, key) in ["x", "y"].into_iter().enumerate() {
            idempotency.remember(&a, key, published(n as u64), 0);
            assert_eq!(idempotency.result(&a, key, 1), None);
        }
        assert_eq!(idempotency.forgotten_early_total, 0);
    }
}
