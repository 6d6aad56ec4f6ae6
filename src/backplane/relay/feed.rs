//! What a relay knows of one opened channel, and who waits to know more.

use crate::backplane::order::Arrival;
use crate::hub::channel::Channel;
use crate::hub::position::{Epoch, Position, Since};
use crate::hub::{Listen, ShardId};

/// Messages of one channel that wait for a reading. Beyond, a further reading brings them.
const HELD_MAX: usize = 256;

/// Whoever waits for a reading.
#[derive(Debug)]
pub(super) struct Waiter<A> {
    pub(super) asker: A,
    pub(super) question: Waiting,
    /// The number of the reading that has to be over.
    pub(super) needs: u64,
    pub(super) since_ms: u64,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Listen(Listen, ShardId),
    Info,
}

/// A message that cannot be taken yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) arrival: Arrival,
    /// The number of the reading after which what is missing in front of it is lost.
    pub(super) needs: u64,
}

/// One opened channel.
#[derive(Debug)]
pub(super) struct Feed<A> {
    pub(super) channel: Channel,
    /// The channel's epoch and head are the broker's, as far as they are known here.
    pub(super) is_known: bool,
    /// Somebody has published on it.
    pub(super) is_used: bool,
    pub(super) is_reading: bool,
    /// The number of the last reading that was ordered.
    pub(super) reading: u64,
    /// Another reading has to follow: messages were not taken, which the broker has.
    pub(super) is_in_doubt: bool,
    pub(super) held: Vec<Held>,
    pub(super) waiters: Vec<Waiter<A>>,
    pub(super) read_ms: u64,
    /// When somebody last listened or asked.
    pub(super) used_ms: u64,
}

/// Where a channel stands of which the broker has not told yet.
pub(super) const UNKNOWN: Position = Position {
    epoch: Epoch::NONE,
    offset: 0,
};

impl<A> Feed<A> {
    /// What is known here is enough for who starts there. A cursor that is ahead of it, or of another epoch, comes from
    /// a node that knows more, or from before a loss: the broker decides.
    pub(super) fn can_answer(&self, since: Since) -> bool {
        let head = self.channel.head();
        let is_behind =
            |cursor: Position| cursor.epoch == head.epoch && cursor.offset <= head.offset;
        self.is_known
            && match since {
                Since::After(cursor) => is_behind(cursor),
                Since::Now | Since::Earliest | Since::Last(_) => true,
            }
    }

    /// The number of the first reading that has not begun yet, once it is ordered at once.
    pub(super) fn next_reading(&self) -> u64 {
        self.reading + 1
    }

    pub(super) fn hold(&mut self, arrival: Arrival) {
        if self.held.len() >= HELD_MAX {
            self.held.clear();
            self.is_in_doubt = true;
        }
        let needs = self.next_reading();
        self.held.push(Held { arrival, needs });
    }

    /// Somebody has published on it, or listens.
    pub(super) fn is_worth_telling(&self) -> bool {
        self.is_known && (self.is_used || self.channel.listeners() > 0)
    }
}
