//! What a token grants, and what a connection that showed one has.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::pattern::Patterns;
use crate::auth::users::Seat;
use crate::hub::message::ChannelName;

/// The claims of a verified token, or what the backend answered in place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// `sub`.
    pub user: Option<Arc<str>>,
    /// `exp`.
    pub expires_unix_ms: Option<u64>,
    /// `nbf`; 0 without.
    pub starts_unix_ms: u64,
    pub subscribe: Patterns,
    pub publish: Patterns,
    /// Joined by a request that names no channel, in this order.
    pub channels: Box<[ChannelName]>,
    /// Of somebody whom the backend let in without saying who it is: nothing is granted but what is listed.
    pub is_anonymous: bool,
}

impl Grant {
    /// Of whom the backend names; nothing is listed.
    pub fn of_user(user: Option<&str>) -> Self {
        Self {
            user: user.map(Into::into),
            is_anonymous: user.is_none(),
            ..Self::default()
        }
    }

    /// Says as little as nothing.
    pub fn is_empty(&self) -> bool {
        let lists_none =
            self.subscribe.is_empty() && self.publish.is_empty() && self.channels.is_empty();
        self.is_anonymous && lists_none
    }

    pub fn lists_for_subscribe(&self, channel: &ChannelName) -> bool {
        self.channels.contains(channel) || self.subscribe.contains(channel.as_str())
    }

    pub fn lists_for_publish(&self, channel: &ChannelName) -> bool {
        self.publish.contains(channel.as_str())
    }
}

/// Names of channels, each once; `None` if they are not.
pub fn parse_channels<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Box<[ChannelName]>> {
    let mut channels: Vec<ChannelName> = Vec::new();
    for name in names {
        let name = ChannelName::parse(name)?;
        if channels.contains(&name) {
            return None;
        }
        channels.push(name);
    }
    Some(channels.into())
}

/// A grant in use by a request or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Shared with the cache that it is from, and with other connections of the same token or answer.
    pub grant: Arc<Grant>,
    /// When the token is refused, in milliseconds of the monotonic clock: its end and the leeway.
    pub expires_ms: Option<u64>,
    /// The end of what was opened with it: `token_expiry_grace` behind the token's, and not before `expires_ms`.
    pub ends_ms: Option<u64>,
    /// Among the connections of the user, as long as it listens.
    pub seat: Option<Rc<Seat>>,
    /// When the backend wants to be asked again: the end of everything, whatever token comes until then.
    pub reask_ms: Option<u64>,
}

impl Session {
    pub fn unlimited(grant: Arc<Grant>) -> Self {
        Self {
            grant,
            expires_ms: None,
            ends_ms: None,
            seat: None,
            reask_ms: None,
        }
    }

    /// Ends at `until_ms`, if not before.
    pub fn limit(&mut self, until_ms: u64) {
        for end in [&mut self.expires_ms, &mut self.ends_ms, &mut self.reask_ms] {
            *end = Some(end.map_or(until_ms, |end_ms| end_ms.min(until_ms)));
        }
    }

    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.ends_ms.is_some_and(|ends_ms| now_ms >= ends_ms)
    }
}
