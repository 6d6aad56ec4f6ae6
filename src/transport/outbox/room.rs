//! Room for a newer message: what gives way to it, and how the client is told.

use super::{Outbox, Waiting};
use crate::config::SlowReader;
use crate::metrics::Metrics;

impl Outbox {
    /// Adds a live message behind all others. Where its namespace lets messages give way, older ones do, until the
    /// new one has room; it always finds some itself. Says whether any did.
    pub(super) fn push_live(
        &mut self,
        waiting: Waiting,
        bytes_max: usize,
        metrics: &mut Metrics,
    ) -> bool {
        let before = self.droppable;
        if let Waiting::Message {
            place, slow_reader, ..
        } = waiting
        {
            if slow_reader == SlowReader::Latest {
                while let Some(index) = self.oldest_droppable(Some(place)) {
                    self.drop_at(index, metrics);
                }
            }
            if slow_reader != SlowReader::Close {
                self.make_room(bytes_max, metrics);
            }
        }
        let has_dropped = self.droppable < before;
        self.push(waiting);
        has_dropped
    }

    /// Drops the oldest messages that may give way, of whichever channel, for as long as too much waits.
    pub fn make_room(&mut self, bytes_max: usize, metrics: &mut Metrics) {
        while self.exceeds(bytes_max)
            && let Some(index) = self.oldest_droppable(None)
        {
            self.drop_at(index, metrics);
        }
    }

    /// Of the channel at this place of the request, or of any. It stands near the front, unless channels that give
    /// nothing away have much before it.
    fn oldest_droppable(&self, place: Option<u16>) -> Option<usize> {
        if self.droppable == 0 {
            return None;
        }
        let is_wanted = |waiting: &Waiting| {
            waiting.may_give_way() && (place.is_none() || waiting.place() == place)
        };
        self.queue.iter().position(is_wanted)
    }

    /// Leaves the notice of a loss where the message was: before the next one of its channel. A notice that already
    /// stands there says it for both.
    fn drop_at(&mut self, index: usize, metrics: &mut Metrics) {
        let Waiting::Message {
            place,
            ref message,
            slow_reader,
        } = self.queue[index]
        else {
            unreachable!("only messages give way")
        };
        metrics.dropped_messages_total[slow_reader as usize] += 1;
        let position = message.position;
        let gap = Waiting::Gap {
            place,
            channel: message.channel.clone(),
            position,
        };
        self.droppable -= 1;
        self.bytes -= self.queue[index].bytes();
        if let Some(told) = self.notice_before(index, place) {
            *told = gap;
            self.queue.remove(index);
            self.replay_entries -= usize::from(index < self.replay_entries);
        } else {
            metrics.gaps_told_total += 1;
            self.bytes += gap.bytes();
            self.queue[index] = gap;
        }
    }

    /// The notice for the channel with nothing of the channel between it and `index`. What is encoded does not say
    /// whose it is, so nothing is told ahead of that.
    fn notice_before(&mut self, index: usize, place: u16) -> Option<&mut Waiting> {
        let before = self.queue.range_mut(..index).rev();
        let nearest = before
            .take_while(|waiting| !matches!(waiting, Waiting::Bytes { .. }))
            .find(|waiting| waiting.place() == Some(place))?;
        matches!(nearest, Waiting::Gap { .. }).then_some(nearest)
    }
}

impl Waiting {
    /// That of its channel in the request's order; what is encoded does not say.
    fn place(&self) -> Option<u16> {
        match self {
            Self::Bytes { .. } => None,
            Self::Message { place, .. } | Self::Gap { place, .. } => Some(*place),
        }
    }
}

#[cfg(test)]
mod tests;
