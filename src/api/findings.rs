//! What the shards have found of connections, as JSON.

use std::net::SocketAddr;

use serde::Serialize;

use crate::api::Side;
use crate::api::connections::{ConnectionInfo, ConnectionState, Finding, PageMark};
use crate::api::refusal::Refusal;
use crate::proto::json;

/// `{"connections":[…],"next":"…"}`; `next` is the `after` of the following page, and absent on the last one.
#[derive(Serialize)]
struct List<'a> {
    connections: Vec<Info<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Info<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    transport: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    age_seconds: u64,
}

#[derive(Serialize)]
struct State<'a> {
    #[serde(flatten)]
    info: Info<'a>,
    shard: u16,
    listener: &'static str,
    ending: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_left_seconds: Option<u64>,
    outbox_bytes: usize,
    outbox_entries: usize,
    outbox_seconds: u64,
    channels: Vec<Listening<'a>>,
}

#[derive(Serialize)]
struct Listening<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

#[derive(Serialize)]
struct Ended {
    ended: usize,
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
            Finding::State(Some(state)) => json::write(out, &State::from(&*state)),
        }
    }
    if let Some(listed) = listed {
        write_list(out, listed, limit);
    }
    if let Some(ended) = ended {
        json::write(out, &Ended { ended });
    }
    Ok(())
}

fn write_list(out: &mut Vec<u8>, mut listed: Vec<(PageMark, ConnectionInfo)>, limit: usize) {
    listed.sort_by_key(|&(mark, _)| mark);
    let has_more = listed.len() > limit;
    listed.truncate(limit);
    let last = listed.last().filter(|_| has_more);
    let list = List {
        connections: listed.iter().map(|(_, info)| info.into()).collect(),
        next: last.map(|(mark, _)| mark.to_string()),
    };
    json::write(out, &list);
}

impl<'a> From<&'a ConnectionInfo> for Info<'a> {
    fn from(info: &'a ConnectionInfo) -> Self {
        Self {
            id: info.id.to_string(),
            user: info.user.as_deref(),
            transport: info.transport,
            address: info.address,
            age_seconds: info.age_ms / 1000,
        }
    }
}

impl<'a> From<&'a ConnectionState> for State<'a> {
    fn from(state: &'a ConnectionState) -> Self {
        let seconds = |ms: u64| ms / 1000;
        let channels = state.channels.iter().map(|(channel, position)| Listening {
            channel: channel.as_str(),
            position: position.map(|position| position.to_string()),
        });
        Self {
            info: (&state.info).into(),
            shard: state.info.id.shard.0,
            listener: match state.side {
                Side::Public => "public",
                Side::Internal | Side::Both => "internal",
            },
            ending: state.is_ending,
            silent_seconds: state.silent_ms.map(seconds),
            token_left_seconds: state.token_left_ms.map(seconds),
            outbox_bytes: state.outbox.bytes,
            outbox_entries: state.outbox.entries,
            outbox_seconds: seconds(state.outbox.since_ms),
            channels: channels.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connections::{ConnectionId, OutboxState};
    use crate::hub::ShardId;
    use crate::hub::message::ChannelName;
    use crate::hub::position::Position;

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
    fn pages_of_several_shards_become_one() {
        let part = |shard, numbers: &[u32]| {
            let mark = |&number| {
                let mark = PageMark {
                    shard: ShardId(shard),
                    number,
                };
                (mark, info(number))
            };
            Finding::Listed(numbers.iter().map(mark).collect())
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
            side: Side::Public,
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
