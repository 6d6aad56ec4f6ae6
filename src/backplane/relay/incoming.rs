//! What comes from the broker: messages by themselves, and readings that settle what was in doubt.

use super::feed::{Held, UNKNOWN};
use super::{Relay, Tell};
use crate::backplane::order::{Arrival, Standing};
use crate::hub::message::Message;
use crate::hub::position::Position;

impl<A: Copy> Relay<A> {
    /// A reading is over.
    pub(super) fn on_standing(
        &mut self,
        index: usize,
        standing: Standing,
        is_congested: bool,
        now_ms: u64,
    ) {
        let feed = &mut self.feeds[index];
        feed.is_reading = false;
        feed.read_ms = now_ms;
        let is_used = standing.is_used;
        if !feed.is_known {
            feed.is_known = true;
            self.begin(index, standing.start());
            for arrival in &standing.messages {
                self.keep_arrival(index, arrival, now_ms);
            }
            self.feeds[index].channel.restore_head(standing.head.offset);
        } else if is_congested {
            self.feeds[index].is_in_doubt = true;
        } else {
            self.catch_up(index, standing, now_ms);
        }
        self.feeds[index].is_used |= is_used;
        self.release_held(index, is_congested, now_ms);
        self.answer_waiters(index, is_congested, now_ms);
        let feed = &mut self.feeds[index];
        feed.is_in_doubt |= !feed.held.is_empty() || !feed.waiters.is_empty();
        if feed.is_in_doubt && !is_congested {
            self.read(index);
        }
    }

    /// Takes what a reading has brought of a channel that has listeners already.
    pub(super) fn catch_up(&mut self, index: usize, mut standing: Standing, now_ms: u64) {
        let head = standing.head;
        self.caught_up_messages_total += standing.messages.len() as u64;
        // What is held came by itself, and may be in no history.
        let is_read = |held: &mut Held| {
            let position = held.arrival.message.position;
            position.epoch == head.epoch && position.offset <= head.offset
        };
        let held = self.feeds[index].held.extract_if(.., is_read);
        standing.messages.extend(held.map(|held| held.arrival));
        (standing.messages).sort_by_key(|arrival| arrival.message.position.offset);
        let known = self.feeds[index].channel.head();
        if head.epoch != known.epoch {
            // Whoever listens has had the messages that have outlived their epoch.
            let had = self.n_had(index, &standing.messages);
            self.begin(index, standing.start());
            for arrival in standing.messages.drain(..had) {
                self.keep_arrival(index, &arrival, now_ms);
            }
            self.tell_gap(index, self.feeds[index].channel.head());
        }
        for arrival in standing.messages {
            self.take(index, arrival, now_ms);
        }
        if head.offset > self.feeds[index].channel.head().offset {
            // The last of them are not in the broker's history, or no more.
            self.feeds[index].channel.restore_head(head.offset);
            self.tell_gap(index, head);
        }
    }

    /// How many of `messages`, of another epoch, are up to the last one that is here already: some brokers keep
    /// messages with their numbers, and their times, when others are lost.
    fn n_had(&self, index: usize, messages: &[Arrival]) -> usize {
        let channel = &self.feeds[index].channel;
        let is_here = |Arrival { message, .. }: &Arrival| {
            let mut behind = channel.after(message.position.offset.saturating_sub(1));
            behind.next().is_some_and(|here| {
                (here.position.offset, here.published_us)
                    == (message.position.offset, message.published_us)
            })
        };
        messages
            .iter()
            .rposition(is_here)
            .map_or(0, |last| last + 1)
    }

    /// Takes the next message; one that is here already is not taken twice, and what is missing before it is lost.
    pub(super) fn take(&mut self, index: usize, arrival: Arrival, now_ms: u64) {
        let head = self.feeds[index].channel.head();
        let Message {
            position, previous, ..
        } = *arrival.message;
        if position.offset <= head.offset {
            return;
        }
        if previous > head.offset {
            let lost = Position {
                offset: previous,
                ..head
            };
            self.feeds[index].channel.restore_head(previous);
            self.tell_gap(index, lost);
        }
        self.keep_arrival(index, &arrival, now_ms);
        self.tell(index, Tell::Message(arrival.message));
    }

    pub(super) fn keep_arrival(&mut self, index: usize, arrival: &Arrival, now_ms: u64) {
        let feed = &mut self.feeds[index];
        feed.is_used = true;
        let channel = &mut feed.channel;
        channel.restore_head(arrival.message.position.offset);
        if !arrival.is_stored {
            return;
        }
        let broker_ms = now_ms.saturating_add_signed(self.broker_ahead_ms);
        self.histories.change(channel, |channel, bytes_max| {
            channel.store_within(bytes_max, arrival.message.clone(), broker_ms);
        });
    }

    pub(super) fn on_arrival(
        &mut self,
        index: usize,
        arrival: Arrival,
        is_congested: bool,
        now_ms: u64,
    ) {
        let feed = &mut self.feeds[index];
        let Message {
            position, previous, ..
        } = *arrival.message;
        let head = feed.channel.head();
        if !feed.is_known {
            // The reading that is under way brings it, or did not see it.
            return feed.hold(arrival);
        }
        if position.epoch == head.epoch && position.offset <= head.offset {
            return;
        }
        if is_congested {
            feed.is_in_doubt = true;
            return;
        }
        if position.epoch == head.epoch && previous <= head.offset && feed.held.is_empty() {
            return self.take(index, arrival, now_ms);
        }
        if feed.held.is_empty() {
            self.holes_found_total += 1;
        }
        feed.hold(arrival);
        self.read(index);
    }

    /// Takes what was held, as far as nothing in front of it may still come.
    pub(super) fn release_held(&mut self, index: usize, is_congested: bool, now_ms: u64) {
        let reading = self.feeds[index].reading;
        let mut held = std::mem::take(&mut self.feeds[index].held);
        if is_congested {
            // The next reading has all of it.
            self.feeds[index].is_in_doubt |= !held.is_empty();
            return;
        }
        let is_settled = |held: &Held, head: Position| {
            let message = &held.arrival.message;
            held.needs <= reading
                || message.position.epoch == head.epoch && message.previous <= head.offset
        };
        let mut n_settled = 0;
        for one in &held {
            if !is_settled(one, self.feeds[index].channel.head()) {
                break;
            }
            n_settled += 1;
            // Of another epoch than the one that was just read, it is of one that is over.
            if one.arrival.message.position.epoch == self.feeds[index].channel.head().epoch {
                self.take(index, one.arrival.clone(), now_ms);
            }
        }
        held.drain(..n_settled);
        self.feeds[index].held = held;
    }

    pub(super) fn on_ended(&mut self, index: usize) {
        // Listeners stay counted until each is ended.
        self.begin(index, UNKNOWN);
        let feed = &mut self.feeds[index];
        let name = feed.channel.name.clone();
        feed.is_known = false;
        feed.held.clear();
        // A reading that is under way may be of before.
        feed.is_in_doubt = feed.is_reading;
        self.tell(index, Tell::End(name));
    }

    pub(super) fn on_interrupted(&mut self, index: usize) {
        let feed = &mut self.feeds[index];
        if feed.is_reading {
            // It is still ordered, and comes once the broker is back.
            return;
        }
        if feed.channel.listeners() == 0 && feed.waiters.is_empty() {
            return self.forget(index);
        }
        self.read(index);
    }

    /// The channel's history begins anew behind `position`.
    pub(super) fn begin(&mut self, index: usize, position: Position) {
        let feed = &mut self.feeds[index];
        self.histories
            .change(&mut feed.channel, |channel, _| channel.begin(position));
        feed.is_used = false;
    }

    pub(super) fn tell_gap(&mut self, index: usize, position: Position) {
        self.gaps_total += 1;
        let name = self.feeds[index].channel.name.clone();
        self.tell(index, Tell::Gap(name, position));
    }
}
