//! The bytes of all histories of a home together, and the limit for them.

use crate::hub::channel::Channel;

/// The sum over the channels of a home. Every change of a channel's history passes through here.
#[derive(Debug)]
pub struct Histories {
    bytes: usize,
    bytes_max: usize,
}

impl Histories {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
        }
    }

    pub fn set_limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The channel is one of the home's from now on, with the history that it has.
    pub fn add(&mut self, channel: &Channel) {
        self.bytes += channel.history_bytes();
    }

    /// The channel is no longer one of the home's.
    pub fn remove(&mut self, channel: &Channel) {
        self.bytes -= channel.history_bytes();
    }

    /// Changes a channel's history. `change` is told how many bytes all other channels leave it.
    pub fn change(&mut self, channel: &mut Channel, change: impl FnOnce(&mut Channel, usize)) {
        self.remove(channel);
        change(channel, self.bytes_max.saturating_sub(self.bytes));
        self.add(channel);
    }

    /// Whether the channel may come to `bytes` bytes, though it lose all that it has.
    pub fn has_room(&self, channel: &Channel, bytes: usize) -> bool {
        self.bytes - channel.history_bytes() + bytes <= self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Namespace;
    use crate::hub::message::{ChannelName, Message};
    use crate::hub::position::Epoch;
    use crate::proto::payload::PayloadKind;

    const BYTES_MAX: usize = 10_000;

    fn channel(name: &str) -> Channel {
        let namespace = Namespace {
            history_messages: 10,
            history_age_ms: 1000,
            ..Namespace::default()
        };
        let name = ChannelName::parse(name).unwrap();
        Channel::new(name, Arc::new(namespace), Epoch::from_random(1), 0)
    }

    /// Stores a message in `channel`, which the others leave `room` bytes.
    fn store(histories: &mut Histories, channel: &mut Channel, room: usize) {
        histories.change(channel, |channel, bytes_max| {
            assert_eq!(bytes_max, room);
            let message = Message {
                channel: channel.name.clone(),
                position: channel.take_position(0),
                previous: 0,
                kind: PayloadKind::Text,
                event: None,
                payload: (*b"hi").into(),
                published_ms: 0,
                published_us: 0,
                expires_ms: u64::MAX,
            };
            channel.store_within(bytes_max, Arc::new(message), 0);
        });
    }

    #[test]
    fn the_sum_follows_the_channels_and_each_may_fill_what_the_others_leave() {
        let mut histories = Histories::new(BYTES_MAX);
        let [mut a, mut b] = ["a", "b"].map(channel);
        store(&mut histories, &mut a, BYTES_MAX);
        store(&mut histories, &mut a, BYTES_MAX);
        let a_bytes = a.history_bytes();
        assert!(a_bytes > 0);
        let room = BYTES_MAX - a_bytes;
        store(&mut histories, &mut b, room);
        assert_eq!(histories.bytes(), a_bytes + b.history_bytes());
        assert!(histories.has_room(&b, room) && !histories.has_room(&b, room + 1));
        histories.remove(&a);
        assert!(histories.has_room(&b, BYTES_MAX));
        histories.add(&a);
        histories.set_limit(a_bytes - 1);
        assert!(!histories.has_room(&b, 0));
        store(&mut histories, &mut b, 0);
    }
}
