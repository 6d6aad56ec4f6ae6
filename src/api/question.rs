//! What a connection asks of the shard that is at home, and what it hears.

use crate::api::channels::ChannelList;
use crate::hub::channel::Replay;
use crate::hub::message::ChannelName;
use crate::hub::{ChannelInfo, HubFull, Listen, Publish, Published};
use crate::metrics::Metrics;

/// Goes to the channel's home, or to every shard where it is about no single channel.
#[derive(Clone, Debug)]
pub enum Question {
    Publish(Publish),
    Listen(Listen),
    Info(ChannelName),
    Delete(ChannelName),
    List(ChannelList),
    Metrics,
}

/// The answer to the question of the same place in [`Question`].
#[derive(Debug)]
pub enum Answer {
    Published(Result<Published, HubFull>),
    /// `listening`: the home counts the connection as a listener until it is told otherwise.
    Replay {
        channel: ChannelName,
        replay: Replay,
        listening: bool,
    },
    NotListening(HubFull),
    Info(Option<ChannelInfo>),
    Deleted(Result<bool, HubFull>),
    List(Vec<ChannelInfo>),
    Metrics(Box<Metrics>),
}

impl Question {
    /// The channel whose home answers; `None` asks every shard.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Publish(publish) => Some(&publish.channel),
            Self::Listen(listen) => Some(&listen.channel),
            Self::Info(channel) | Self::Delete(channel) => Some(channel),
            Self::List(_) | Self::Metrics => None,
        }
    }
}
