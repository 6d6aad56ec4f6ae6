//! Asking about connections, and ending them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::api::Side;
use crate::api::listen::{parse_channel, parse_limit};
use crate::api::refusal::Refusal;
use crate::hub::ShardId;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;
use crate::proto::query;

/// Connections of one page when the request does not say.
const LIMIT_DEFAULT: usize = 100;
/// Connections of one page at most.
const LIMIT_MAX: usize = 1000;

/// Names one connection of the process for as long as it lives; afterwards it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    pub shard: ShardId,
    pub index: u32,
    /// Of those that have the index, one after another.
    pub generation: u32,
}

/// What the operator wants to know of connections, or to do to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquiry {
    Subscribers { channel: ChannelName, page: Page },
    OfUser { user: Box<str>, page: Page },
    State(ConnectionId),
    End(ConnectionId),
    EndUser(Box<str>),
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last one of the page before.
    pub after: Option<PageMark>,
    pub limit: usize,
}

/// Where a connection stands in a list, and the next page goes on behind it. That stays as long as it is listed, so
/// paging meets everybody once who was there all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageMark {
    pub shard: ShardId,
    /// On the shard.
    pub number: u32,
}

/// What one shard finds.
#[derive(Debug)]
pub enum Finding {
    /// In their order.
    Listed(Vec<(PageMark, ConnectionInfo)>),
    State(Option<Box<ConnectionState>>),
    /// So many connections are about to end.
    Ended(usize),
}

/// A connection as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub id: ConnectionId,
    /// `sub` of the token that it listens with.
    pub user: Option<Arc<str>>,
    /// As the metrics name it.
    pub transport: &'static str,
    /// Of the client, where a proxy has told it; `None` on a unix socket.
    pub address: Option<SocketAddr>,
    pub age_ms: u64,
}

/// All that is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    pub info: ConnectionInfo,
    pub side: Side,
    /// Its last word is said, or on its way.
    pub is_ending: bool,
    /// Since the last sign of life of a WebSocket.
    pub silent_ms: Option<u64>,
    /// Until the token and its grace end it.
    pub token_left_ms: Option<u64>,
    pub outbox: OutboxState,
    /// Each with its position, where the connection has one of its own.
    pub channels: Vec<(ChannelName, Option<Position>)>,
}

/// What waits for a client to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxState {
    pub bytes: usize,
    /// Messages, and stretches of bytes that are encoded already.
    pub entries: usize,
    pub since_ms: u64,
}

impl Inquiry {
    /// `GET /channels/{channel}/subscribers`; `raw` is the channel, percent-encoded.
    pub fn subscribers(raw: &str, query: &str) -> Result<Self, Refusal> {
        Ok(Self::Subscribers {
            channel: parse_channel(raw)?,
            page: Page::parse(query)?,
        })
    }

    /// `/users/{user}/connections`.
    pub fn of_user(raw: &str, query: &str, ends: bool) -> Result<Self, Refusal> {
        let user = query::decode_component(raw, false)?.into();
        Ok(match ends {
            true => Self::EndUser(user),
            false => Self::OfUser {
                user,
                page: Page::parse(query)?,
            },
        })
    }

    /// `/connections/{id}`.
    pub fn of_connection(raw: &str, ends: bool) -> Result<Self, Refusal> {
        let id = query::decode_component(raw, false)?.parse();
        // Whatever else it may be, it is none of a connection that is there.
        let id = id.map_err(|()| Refusal::CONNECTION_UNKNOWN)?;
        Ok(if ends { Self::End(id) } else { Self::State(id) })
    }

    /// The shard that knows; `None` asks every one.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::State(id) | Self::End(id) => Some(id.shard),
            Self::Subscribers { .. } | Self::OfUser { .. } | Self::EndUser(_) => None,
        }
    }

    /// With one more on its page than is shown, which tells whether there is a next page; and how many are shown.
    pub fn with_one_more(mut self) -> (Self, usize) {
        let mut shown = 0;
        if let Self::Subscribers { page, .. } | Self::OfUser { page, .. } = &mut self {
            shown = page.limit;
            page.limit += 1;
        }
        (self, shown)
    }
}

impl Page {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut page = Self {
            after: None,
            limit: LIMIT_DEFAULT,
        };
        for pair in query::pairs(query) {
            let (key, value) = pair?;
            match &*key {
                "after" => {
                    let mark = value.parse().map_err(|()| Refusal::PARAMETER_INVALID)?;
                    page.after = Some(mark);
                }
                "limit" => page.limit = parse_limit(&value, LIMIT_MAX)?,
                _ => {}
            }
        }
        Ok(page)
    }

    /// The number on `shard` where the page begins; `None` if the page begins behind all of them.
    pub fn begin_on(&self, shard: ShardId) -> Option<u32> {
        match self.after {
            Some(after) if after.shard.0 > shard.0 => None,
            Some(after) if after.shard == shard => after.number.checked_add(1),
            _ => Some(0),
        }
    }
}

/// `shard-index-generation`.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard.0, self.index, self.generation)
    }
}

impl FromStr for ConnectionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let id = Self {
            shard: ShardId(part(parts.next())?),
            index: part(parts.next())?,
            generation: part(parts.next())?,
        };
        parts.next().is_none().then_some(id).ok_or(())
    }
}

/// `shard-number`.
impl fmt::Display for PageMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard.0, self.number)
    }
}

impl FromStr for PageMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let mark = Self {
            shard: ShardId(part(parts.next())?),
            number: part(parts.next())?,
        };
        parts.next().is_none().then_some(mark).ok_or(())
    }
}

/// Digits only: one thing has one name.
fn part<N: FromStr>(text: Option<&str>) -> Result<N, ()> {
    let text = text.ok_or(())?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !has_leading_zero(text);
    is_plain.then(|| text.parse().ok()).flatten().ok_or(())
}

fn has_leading_zero(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ConnectionId = ConnectionId {
        shard: ShardId(1),
        index: 17,
        generation: 4711,
    };

    #[test]
    fn one_connection_has_one_name() {
        assert_eq!(ID.to_string().parse(), Ok(ID));
        for text in [
            "",
            "1",
            "1-17",
            "1-17-",
            "1-17-4711-",
            "1-17-04711",
            "1--4711",
            "+1-17-4711",
            "1-17-4711 ",
            "65536-0-0",
            "0-4294967296-0",
            "a-b-c",
            "1-1-\u{661}",
        ] {
            assert_eq!(text.parse::<ConnectionId>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn a_page_goes_on_behind_the_one_before() {
        let page = |query: &str| Page::parse(query);
        let first = page("").unwrap();
        assert_eq!((first.limit, first.begin_on(ShardId(0))), (100, Some(0)));
        let next = page("after=1-4&limit=5000").unwrap();
        assert_eq!(next.limit, LIMIT_MAX);
        let begins = [0, 1, 2].map(|shard| next.begin_on(ShardId(shard)));
        assert_eq!(begins, [None, Some(5), Some(0)]);
        let last = page("after=1-4294967295").unwrap();
        assert_eq!(last.begin_on(ShardId(1)), None);
        for query in [
            "limit=0",
            "limit=x",
            "after=",
            "after=1",
            "after=1-2-3",
            "after=-1",
        ] {
            assert_eq!(page(query), Err(Refusal::PARAMETER_INVALID), "{query}");
        }
    }
}
