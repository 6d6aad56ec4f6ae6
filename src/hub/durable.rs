//! What a log has to keep of a hub, as values: each change when it happens, and everything now and then.

use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Epoch, Position};
use crate::hub::{Hub, Published};
use crate::proto::payload::PayloadKind;

/// One thing that a log keeps. Facts in the order of their happening give the hub's state; a fact that comes twice, or
/// a state between newer facts of the same epoch, changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// The channel has this epoch, and has given out positions up to this one.
    Channel { name: &'a str, head: Position },
    /// A message was published, or is still in the history.
    Message(MessageFact<'a>),
    /// The channel is no more, if it still has this epoch.
    Forgotten { name: &'a str, epoch: Epoch },
    /// A publish with an `Idempotency-Key` gave this result.
    Result {
        name: &'a str,
        key: &'a str,
        published: Published,
        end_ms: u64,
    },
}

/// What a log keeps of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageFact<'a> {
    pub name: &'a str,
    pub position: Position,
    pub kind: PayloadKind,
    pub event: Option<&'a str>,
    /// `None` for a message that only took its position and is not in the history.
    pub payload: Option<&'a [u8]>,
    pub published_ms: u64,
    pub published_us: u64,
    pub expires_ms: u64,
    pub idempotency_key: Option<&'a str>,
}

impl<'a> MessageFact<'a> {
    pub fn new(message: &'a Message, is_stored: bool, idempotency_key: Option<&'a str>) -> Self {
        Self {
            name: message.channel.as_str(),
            position: message.position,
            kind: message.kind,
            event: message.event.as_deref().filter(|_| is_stored),
            payload: is_stored.then_some(&message.payload),
            published_ms: message.published_ms,
            published_us: message.published_us,
            expires_ms: message.expires_ms,
            idempotency_key,
        }
    }
}

/// What happens to a channel beside messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Created(ChannelName, Epoch),
    Forgotten(ChannelName, Epoch),
}

impl Change {
    pub fn fact(&self) -> Fact<'_> {
        match self {
            Self::Created(name, epoch) => Fact::Channel {
                name: name.as_str(),
                head: Position {
                    epoch: *epoch,
                    offset: 0,
                },
            },
            Self::Forgotten(name, epoch) => Fact::Forgotten {
                name: name.as_str(),
                epoch: *epoch,
            },
        }
    }
}

/// How far the telling of everything has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The channel that comes next, by its slab index.
    index: usize,
    /// Where in its history, if it has been begun.
    begun: Option<Position>,
    /// The results of publishes follow the channels.
    result_place: u64,
}

impl Hub {
    /// From now on [`take_changes`](Self::take_changes) has what a log must know beside the drafts.
    pub fn begin_log(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self, mut taker: impl FnMut(Change)) {
        for change in self
            .changes
            .iter_mut()
            .flat_map(|changes| changes.drain(..))
        {
            taker(change);
        }
    }

    /// The epoch of a channel that is there.
    pub fn epoch(&self, name: &ChannelName) -> Option<Epoch> {
        let channel = &self.channels[*self.by_name.get(name)? as usize];
        (!channel.is_deleted()).then(|| channel.head().epoch)
    }

    /// Tells all that is published, slice by slice; drafts are not part of it. Whoever takes the facts says when a
    /// slice is enough. `true` when everything has been told that was there at the beginning; what has happened since
    /// was told as it happened.
    pub fn tell_all(
        &mut self,
        progress: &mut Progress,
        now_ms: u64,
        mut is_enough: impl FnMut(Fact<'_>) -> bool,
    ) -> bool {
        while progress.index < self.channels.capacity() {
            let index = progress.index;
            let is_there = |channel: &&_| !super::Channel::is_deleted(channel);
            let Some(channel) = self.channels.get(index).filter(is_there) else {
                (progress.index, progress.begun) = (index + 1, None);
                continue;
            };
            let head = channel.head();
            let begun = progress.begun.filter(|begun| begun.epoch == head.epoch);
            let name = channel.name.as_str();
            if begun.is_none() {
                progress.begun = Some(Position { offset: 0, ..head });
                if is_enough(Fact::Channel { name, head }) {
                    return false;
                }
            }
            for message in channel.after(begun.map_or(0, |begun| begun.offset)) {
                if message.expires_ms <= now_ms {
                    continue;
                }
                progress.begun = Some(message.position);
                if is_enough(Fact::Message(MessageFact::new(message, true, None))) {
                    return false;
                }
            }
            (progress.index, progress.begun) = (index + 1, None);
        }
        for (place, name, key, published, end_ms) in
            self.idempotency.from_place(progress.result_place)
        {
            progress.result_place = place;
            let name = name.as_str();
            if is_enough(Fact::Result {
                name,
                key,
                published,
                end_ms,
            }) {
                return false;
            }
        }
        true
    }

    /// About the bytes that [`tell_all`](Self::tell_all) would tell.
    pub fn told_bytes(&self) -> usize {
        self.histories.bytes() + size_of::<super::Channel>() * self.channels.len()
    }
}
