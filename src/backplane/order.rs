//! What the home shards and the thread of the broker say to each other.

use std::sync::Arc;

use crate::config::Namespace;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::Position;
use crate::hub::{Publish, Published, ShardId};
use crate::metrics::backplane::BackplaneStats;

/// Names a question of one shard until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// From a home shard.
#[derive(Debug)]
pub enum Order {
    /// Answered by [`News::Published`].
    Publish {
        ticket: Ticket,
        publish: Publish,
        keep: Keep,
        /// Listeners of this node, which a repeat under the same `Idempotency-Key` is told again.
        receivers: u32,
    },
    /// Listen to the channel at the broker, if that is not so yet, and then say where it stands: what is behind
    /// `after` in its history, or all of it. Answered by [`News::Standing`]; kept until then, however long the broker
    /// is away.
    Open {
        channel: ChannelName,
        after: Option<Position>,
        keep: Keep,
    },
    /// Listen no more.
    Close(ChannelName),
    /// Answered by [`News::Deleted`].
    Delete {
        ticket: Ticket,
        channel: ChannelName,
        keep: Keep,
    },
    /// How many listeners all nodes have on the channel. Answered by [`News::Counted`].
    Count {
        ticket: Ticket,
        channel: ChannelName,
    },
    /// The answer to [`News::CountWanted`].
    CountAnswer {
        question: CountQuestion,
        listeners: u32,
    },
}

/// An order with the shard that it comes from.
#[derive(Debug)]
pub struct FromShard {
    pub shard: ShardId,
    pub order: Order,
}

/// How long the broker keeps what it has of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub history_messages: usize,
    pub history_age_ms: u64,
    /// After the last use of a channel: how long its epoch lives on without any message.
    pub idle_timeout_ms: u64,
    pub idempotency_window_ms: u64,
}

impl Keep {
    pub fn new(namespace: &Namespace, idle_timeout_ms: u64, idempotency_window_ms: u64) -> Self {
        Self {
            history_messages: namespace.history_messages,
            history_age_ms: namespace.history_age_ms,
            idle_timeout_ms,
            idempotency_window_ms,
        }
    }
}

/// To a home shard; in the order in which it happened at the broker.
#[derive(Debug)]
pub enum News {
    Published {
        ticket: Ticket,
        result: Result<Published, NotPublished>,
    },
    Deleted {
        ticket: Ticket,
        result: Result<bool, NotPublished>,
    },
    Counted {
        ticket: Ticket,
        count: ClusterCount,
    },
    CountWanted {
        question: CountQuestion,
        channel: ChannelName,
    },
    /// Where an opened channel stands.
    Standing {
        channel: ChannelName,
        standing: Standing,
    },
    /// Something was published on an opened channel.
    Arrival(Arrival),
    /// The channel has another epoch: it is to be read again.
    Moved(ChannelName),
    /// The channel was deleted, by whichever node. Its listeners are to be ended.
    Ended(ChannelName),
    /// These opened channels are listened to no more, since a connection to the broker is lost: messages may be
    /// missed from here on, and each is to be opened again.
    Interrupted(Vec<ChannelName>),
    /// Whether the broker can be heard.
    Health(Health),
    /// How far the broker's clock, whose times messages have, is ahead of the shards'. Nothing at first; told before
    /// any [`News::Standing`].
    Clock {
        ahead_ms: i64,
    },
    /// To the first shard, again and again: what the thread of the broker has counted.
    Stats(Box<BackplaneStats>),
}

/// A message as the broker has numbered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub message: Arc<Message>,
    /// It is in the broker's history; otherwise it is for those only who listen now.
    pub is_stored: bool,
}

/// What the broker has of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Position of the newest message, stored or not. Of a channel that nobody knows the broker begins one
    /// where it likes, and remembers it for as long as the channel may be idle: who stands there has missed nothing.
    pub head: Position,
    /// Somebody has published on it, as far as the broker can still know.
    pub is_used: bool,
    /// Stored messages behind the position that was asked for, oldest first; all that there are if it was none of
    /// this epoch. Each says what was `previous` to it, so that a loss shows.
    pub messages: Vec<Arrival>,
}

impl Standing {
    /// Whoever is there lacks nothing in front of the messages.
    pub fn start(&self) -> Position {
        let first = self.messages.first();
        Position {
            offset: first.map_or(self.head.offset, |first| first.message.previous),
            ..self.head
        }
    }
}

/// Why a publish was not taken. In both cases it may yet have been: the broker may have lost its voice after it
/// had the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPublished {
    /// The broker cannot be reached.
    Away,
    /// The broker is reached, and refuses: it is full, read-only, or not what it should be. The log says which.
    Refused,
}

/// Names a question of a node about the listeners of a channel, among all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CountQuestion {
    pub node: NodeId,
    pub number: u64,
}

/// Names a process among those that share a broker; drawn at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What the nodes have counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterCount {
    pub listeners: u32,
    /// Those that answered, this one among them.
    pub nodes: u32,
    /// Every node that is known has answered in time.
    pub is_complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The canary comes back through every connection.
    Hearing,
    /// It does not: nothing can be promised.
    Deaf,
}
