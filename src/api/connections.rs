//! Asking about connections, and ending them.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::api::Audience;
use crate::api::listen::{parse_channel, parse_number};
use crate::api::refusal::Refusal;
use crate::hub::ShardId;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;
use crate::proto::{json, query};

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
    pub after: Option<Place>,
    pub limit: usize,
}

/// A connection's place in a list. It keeps it as long as it is listed, so that paging meets everybody once who was
/// there all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub shard: ShardId,
    /// On the shard.
    pub number: u32,
}

/// What one shard finds.
#[derive(Debug)]
pub enum Finding {
    /// In the order of their places.
    Listed(Vec<(Place, ConnectionInfo)>),
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
    pub audience: Audience,
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
                    let place = value.parse().map_err(|()| Refusal::PARAMETER_INVALID)?;
                    page.after = Some(place);
                }
                "limit" => match parse_number(&value)? {
                    0 => return Err(Refusal::PARAMETER_INVALID),
                    limit => page.limit = limit.min(LIMIT_MAX),
                },
                _ => {}
            }
        }
        Ok(page)
    }

    /// The number of the first place on `shard`; `None` if the page begins behind all of them.
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
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard.0, self.number)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let place = Self {
            shard: ShardId(part(parts.next())?),
            number: part(parts.next())?,
        };
        parts.next().is_none().then_some(place).ok_or(())
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

/// What all shards have found together, as the body of the answer. A list shows at most `limit`.
pub fn write_findings(
    out: &mut Vec<u8>,
    findings: Vec<Finding>,
    limit: usize,
) -> Result<(), Refusal> {
    let mut listed = None;
    let mut ended = None;
    for finding in findings {
        match finding {
            Finding::Listed(part) => listed.get_or_insert_with(Vec::new).extend(part),
            Finding::Ended(count) => *ended.get_or_insert(0) += count,
            Finding::State(None) => return Err(Refusal::CONNECTION_UNKNOWN),
            Finding::State(Some(state)) => write_state(out, &state),
        }
    }
    if let Some(listed) = listed {
        write_list(out, listed, limit);
    }
    if let Some(ended) = ended {
        write!(out, r#"{{"ended":{ended}}}"#).expect("writing to a Vec");
    }
    Ok(())
}

/// `{"connections":[…],"next":"…"}`; `next` is the `after` of the following page, and absent on the last one.
fn write_list(out: &mut Vec<u8>, mut listed: Vec<(Place, ConnectionInfo)>, limit: usize) {
    listed.sort_by_key(|&(place, _)| place);
    let has_more = listed.len() > limit;
    listed.truncate(limit);
    out.extend_from_slice(br#"{"connections":["#);
    for (index, (_, info)) in listed.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        write_info(out, info);
        out.push(b'}');
    }
    out.push(b']');
    if has_more && let Some((last, _)) = listed.last() {
        write!(out, r#","next":"{last}""#).expect("writing to a Vec");
    }
    out.push(b'}');
}

fn write_info(out: &mut Vec<u8>, info: &ConnectionInfo) {
    write!(out, r#""id":"{}","#, info.id).expect("writing to a Vec");
    if let Some(user) = &info.user {
        out.extend_from_slice(br#""user":"#);
        json::write_string(out, user);
        out.push(b',');
    }
    write!(out, r#""transport":"{}","#, info.transport).expect("writing to a Vec");
    if let Some(address) = info.address {
        write!(out, r#""address":"{address}","#).expect("writing to a Vec");
    }
    write!(out, r#""age_seconds":{}"#, info.age_ms / 1000).expect("writing to a Vec");
}

fn write_state(out: &mut Vec<u8>, state: &ConnectionState) {
    let ConnectionState {
        info,
        audience,
        is_ending,
        silent_ms,
        token_left_ms,
        outbox,
        channels,
    } = state;
    out.push(b'{');
    write_info(out, info);
    let listener = match audience {
        Audience::Public => "public",
        Audience::Internal => "internal",
    };
    let shard = info.id.shard.0;
    write!(out, r#","shard":{shard},"listener":"{listener}""#).expect("writing to a Vec");
    write!(out, r#","ending":{is_ending}"#).expect("writing to a Vec");
    for (name, ms) in [
        ("silent_seconds", silent_ms),
        ("token_left_seconds", token_left_ms),
    ] {
        if let Some(ms) = ms {
            write!(out, r#","{name}":{}"#, ms / 1000).expect("writing to a Vec");
        }
    }
    let OutboxState {
        bytes,
        entries,
        since_ms,
    } = outbox;
    write!(
        out,
        r#","outbox_bytes":{bytes},"outbox_entries":{entries},"outbox_seconds":{},"channels":["#,
        since_ms / 1000
    )
    .expect("writing to a Vec");
    for (index, (channel, position)) in channels.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"channel":"#);
        json::write_string(out, channel.as_str());
        if let Some(position) = position {
            write!(out, r#","position":"{position}""#).expect("writing to a Vec");
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: &str = "k3Qz9aXb-1043";
    const ID: ConnectionId = ConnectionId {
        shard: ShardId(1),
        index: 17,
        generation: 4711,
    };

    fn info(index: u32) -> ConnectionInfo {
        ConnectionInfo {
            id: ConnectionId { index, ..ID },
            user: Some("a\"b".into()),
            transport: "websocket",
            address: Some("192.0.2.1:5".parse().unwrap()),
            age_ms: 12_999,
        }
    }

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

    #[test]
    fn pages_of_several_shards_become_one() {
        let part = |shard, numbers: &[u32]| {
            let place = |&number| {
                let place = Place {
                    shard: ShardId(shard),
                    number,
                };
                (place, info(number))
            };
            Finding::Listed(numbers.iter().map(place).collect())
        };
        for (limit, ids, next) in [
            (9, &["1-3-4711", "1-8-4711", "1-2-4711"][..], None),
            (3, &["1-3-4711", "1-8-4711", "1-2-4711"], None),
            (2, &["1-3-4711", "1-8-4711"], Some("0-8")),
            (1, &["1-3-4711"], Some("0-3")),
        ] {
            let mut out = Vec::new();
            let findings = vec![part(1, &[2]), part(0, &[3, 8]), part(2, &[])];
            write_findings(&mut out, findings, limit).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let found = json["connections"].as_array().unwrap();
            let found: Vec<_> = found.iter().map(|it| it["id"].as_str().unwrap()).collect();
            assert_eq!(found, ids);
            assert_eq!(json["next"].as_str(), next);
        }
    }

    #[test]
    fn what_is_known_is_told() {
        let mut state = ConnectionState {
            info: info(17),
            audience: Audience::Public,
            is_ending: false,
            silent_ms: Some(3_500),
            token_left_ms: None,
            outbox: OutboxState {
                bytes: 10,
                entries: 2,
                since_ms: 1_000,
            },
            channels: vec![
                (ChannelName::parse("a").unwrap(), None),
                (ChannelName::parse("b").unwrap(), Position::parse(POSITION)),
            ],
        };
        let text = |state: &ConnectionState| {
            let mut out = Vec::new();
            let findings = vec![Finding::State(Some(Box::new(state.clone())))];
            write_findings(&mut out, findings, 0).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(&state),
            [
                r#"{"id":"1-17-4711","user":"a\"b","transport":"websocket","address":"192.0.2.1:5","age_seconds":12,"#,
                r#""shard":1,"listener":"public","ending":false,"silent_seconds":3,"outbox_bytes":10,"#,
                r#""outbox_entries":2,"outbox_seconds":1,"channels":[{"channel":"a"},"#,
                r#"{"channel":"b","position":"k3Qz9aXb-1043"}]}"#,
            ]
            .concat()
        );
        state.info.user = None;
        state.info.address = None;
        state.channels.clear();
        state.token_left_ms = Some(60_000);
        assert!(
            text(&state)
                .starts_with(r#"{"id":"1-17-4711","transport":"websocket","age_seconds":12,"#)
        );
        assert!(text(&state).contains(r#""token_left_seconds":60,"#));
        let unknown = write_findings(&mut Vec::new(), vec![Finding::State(None)], 0);
        assert_eq!(unknown, Err(Refusal::CONNECTION_UNKNOWN));
    }
}
