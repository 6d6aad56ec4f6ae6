//! What a connection asks of the shard that is at home, and what it hears.

use crate::api::callback::{Consultation, Decision};
use crate::api::channels::ChannelList;
use crate::api::connections::{Finding, Inquiry};
use crate::hub::message::ChannelName;
use crate::hub::replay::Replay;
use crate::hub::{ChannelInfo, HomeRefusal, Listen, Publish, Published, Scope, ShardId};
use crate::metrics::Metrics;

/// Goes to the channel's home, or to a shard's connections, or to every shard, or to the backend.
#[derive(Clone, Debug)]
pub enum Question {
    Publish(Publish),
    /// As `Publish`, with the listeners of all nodes in the answer.
    PublishCounted(Publish),
    Listen(Listen),
    Info(ChannelName),
    Delete(ChannelName),
    List(ChannelList),
    Inquiry(Inquiry),
    Metrics,
    /// Who somebody is, or whether they may listen.
    Authorize(Box<Consultation>),
}

/// What comes back to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    Published(Result<(Published, Scope), HomeRefusal>),
    /// `listening`: the home counts the connection as a listener until it is told otherwise.
    Replay {
        channel: ChannelName,
        replay: Replay,
        listening: bool,
    },
    /// To whoever wanted to listen, or to be told of a channel.
    Refused(HomeRefusal),
    Info(Option<ChannelInfo>),
    Deleted(Result<bool, HomeRefusal>),
    List(Vec<ChannelInfo>),
    Finding(Finding),
    Metrics(Box<Metrics>),
    Authorized(Decision),
}

impl Question {
    /// The channel whose home answers.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Publish(publish) | Self::PublishCounted(publish) => Some(&publish.channel),
            Self::Listen(listen) => Some(&listen.channel),
            Self::Info(channel) | Self::Delete(channel) => Some(channel),
            Self::List(_) | Self::Inquiry(_) | Self::Metrics | Self::Authorize(_) => None,
        }
    }

    /// The shard that answers for its connections. Without one, and without a channel, every shard is asked.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Inquiry(inquiry) => inquiry.shard(),
            _ => None,
        }
    }
}
