//! What this node has promised of late: the newest position of each channel on which it has published.
//!
//! A broker that lost its newest messages, in a fail-over or by a restart, finds that out when somebody names one of
//! them. Whoever listens does, when the connection is back; a message that nobody on any node listened to is named by
//! nobody but the node that published it. So after each reconnect these are read once, for the sake of the asking: what
//! the broker has no trace of gets another epoch, and clients that come back later are told of a gap.

use std::collections::{HashMap, VecDeque};

use crate::backplane::broker::Reading;
use crate::backplane::order::Keep;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;

/// Longer than any replica lags whose loss is still noticed.
const KEPT_MS: u64 = 60_000;

/// Channels; over that the oldest is forgotten.
const CHANNELS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Acknowledged {
    newest: HashMap<ChannelName, Newest>,
    /// When each channel is looked at next, in that order: as long after the last look as a position is kept.
    order: VecDeque<(u64, ChannelName)>,
}

#[derive(Debug)]
struct Newest {
    position: Position,
    /// The newest of the epoch before this one, if it was another one meanwhile. No epoch comes back: what is answered
    /// of it was published then, under an idempotency key. What goes beyond it tells that it was the other way round.
    former: Option<Position>,
    keep: Keep,
    at_ms: u64,
}

impl Acknowledged {
    /// The broker has acknowledged a publish. Of two answers in the wrong order the higher offset counts.
    pub fn note(&mut self, channel: &ChannelName, position: Position, keep: Keep, now_ms: u64) {
        self.forget_old(now_ms);
        if let Some(newest) = self.newest.get_mut(channel) {
            let known = [Some(newest.position), newest.former];
            let is_known =
                |known: Position| known.epoch == position.epoch && known.offset >= position.offset;
            if !known.into_iter().flatten().any(is_known) {
                if newest.position.epoch != position.epoch {
                    newest.former = Some(newest.position);
                }
                newest.position = position;
            }
            newest.keep = keep;
            newest.at_ms = now_ms;
            return;
        }
        if self.newest.len() == CHANNELS_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.newest.remove(&oldest);
        }
        let newest = Newest {
            position,
            former: None,
            keep,
            at_ms: now_ms,
        };
        self.newest.insert(channel.clone(), newest);
        self.order.push_back((now_ms, channel.clone()));
    }

    /// The channel was deleted: nothing is missing there.
    pub fn forget(&mut self, channel: &ChannelName) {
        if self.newest.remove(channel).is_some() {
            self.order.retain(|(_, known)| known != channel);
        }
    }

    /// To be read when a connection is back.
    pub fn readings(&mut self, now_ms: u64) -> Vec<Reading> {
        self.forget_old(now_ms);
        let reading = |(channel, newest): (&ChannelName, &Newest)| Reading {
            channel: channel.clone(),
            after: Some(newest.position),
            keep: newest.keep,
        };
        let is_late = |newest: &Newest| newest.at_ms + KEPT_MS > now_ms;
        let late = self.newest.iter().filter(|(_, newest)| is_late(newest));
        late.map(reading).collect()
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((at_ms, _)) = self.order.front()
            && at_ms + KEPT_MS <= now_ms
            && let Some((_, channel)) = self.order.pop_front()
        {
            let at_ms = self.newest.get(&channel).map_or(0, |newest| newest.at_ms);
            if at_ms + KEPT_MS <= now_ms {
                self.newest.remove(&channel);
            } else {
                self.order.push_back((now_ms, channel));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::position::Epoch;

    const KEEP: Keep = Keep {
        history_messages: 1,
        history_age_ms: 1,
        idle_timeout_ms: 1,
        idempotency_window_ms: 1,
    };

    fn position(epoch: u64, offset: u64) -> Position {
        let epoch = Epoch::from_random(epoch);
        Position { epoch, offset }
    }

    fn channel(number: usize) -> ChannelName {
        ChannelName::parse(&format!("c{number}")).unwrap()
    }

    fn positions(acknowledged: &mut Acknowledged, now_ms: u64) -> Vec<(ChannelName, Position)> {
        let readings = acknowledged.readings(now_ms).into_iter();
        let mut all: Vec<_> = readings
            .map(|reading| (reading.channel, reading.after.unwrap()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    #[test]
    fn the_newest_of_each_channel_is_kept_for_a_while() {
        let mut acknowledged = Acknowledged::default();
        acknowledged.note(&channel(1), position(1, 5), KEEP, 0);
        acknowledged.note(&channel(1), position(1, 4), KEEP, 10);
        acknowledged.note(&channel(2), position(1, 5), KEEP, 20);
        acknowledged.note(&channel(2), position(2, 1), KEEP, 20);
        let first = (channel(1), position(1, 5));
        let second = (channel(2), position(2, 1));
        let all = [first.clone(), second.clone()];
        assert_eq!(positions(&mut acknowledged, 60_009), all);
        acknowledged.note(&channel(2), position(2, 2), KEEP, 60_009);
        let second = (channel(2), position(2, 2));
        assert_eq!(positions(&mut acknowledged, 120_000), [second]);
        assert_eq!(positions(&mut acknowledged, 180_100), []);
        assert!(acknowledged.order.is_empty());
    }

    #[test]
    fn a_repeat_of_what_was_published_in_a_former_epoch_is_no_news() {
        let mut acknowledged = Acknowledged::default();
        for (epoch, offset, want) in [
            (1, 5, (1, 5)),
            (2, 1, (2, 1)),
            (1, 5, (2, 1)),
            (2, 2, (2, 2)),
            (3, 1, (3, 1)),
            (2, 2, (3, 1)),
            // A repeat comes first, and then what is published now.
            (1, 9, (1, 9)),
            (3, 2, (3, 2)),
            (1, 9, (3, 2)),
        ] {
            acknowledged.note(&channel(1), position(epoch, offset), KEEP, 0);
            let want = (channel(1), position(want.0, want.1));
            assert_eq!(positions(&mut acknowledged, 0), [want]);
        }
    }

    #[test]
    fn no_more_are_kept_than_there_may_be() {
        let mut acknowledged = Acknowledged::default();
        for number in 0..CHANNELS_MAX + 3 {
            acknowledged.note(&channel(number), position(1, 1), KEEP, number as u64 / 1000);
        }
        assert_eq!(acknowledged.newest.len(), CHANNELS_MAX);
        assert_eq!(acknowledged.order.len(), CHANNELS_MAX);
        assert!(!acknowledged.newest.contains_key(&channel(2)));
        acknowledged.forget(&channel(3));
        assert_eq!(acknowledged.newest.len(), CHANNELS_MAX - 1);
        assert_eq!(acknowledged.order.len(), CHANNELS_MAX - 1);
        acknowledged.forget(&channel(2));
        assert_eq!(acknowledged.order.len(), CHANNELS_MAX - 1);
    }
}
