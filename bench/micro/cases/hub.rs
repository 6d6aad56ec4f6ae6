//! The home of a channel: publish, short poll, replay.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use pushring::config::{Config, Namespace};
use pushring::hub::message::ChannelName;
use pushring::hub::position::{Position, Since};
use pushring::hub::{Hub, Listen, ListenMode, Publish, ShardId};
use pushring::proto::payload::PayloadKind;

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "hub",
    cases,
    agree,
};

const NOW_MS: u64 = 1_000_000;
const HERE: ShardId = ShardId(0);

fn cases() -> Vec<Case> {
    vec![
        publish_case("publish 128 B to the one channel", 1),
        publish_case("publish 128 B to one of 10,000", 10_000),
        listen_case("short poll with nothing new", 0),
        listen_case("replay of 10 out of 100 messages", 10),
    ]
}

/// Publishes to the channels in turn.
fn publish_case(name: &'static str, n_channels: usize) -> Case {
    let (mut hub, mut naive, channels) = filled(n_channels);
    let names = channels.clone();
    let mut listening = Vec::new();
    let (mut next, mut next_naive) = (0, 0);
    let payload: Arc<[u8]> = vec![b'x'; 128].into();
    let payload_naive = payload.clone();
    Case::pair(
        name,
        move || {
            next = (next + 1) % channels.len();
            let publish = publish(channels[next].clone(), payload.clone());
            let result = hub.publish(black_box(publish), NOW_MS, &mut listening);
            result.expect("there is room").0.position.offset
        },
        move || {
            next_naive = (next_naive + 1) % names.len();
            naive.publish(
                names[next_naive].as_str(),
                black_box(&payload_naive),
                NOW_MS,
            )
        },
    )
}

/// Asks for the last `n` messages by a cursor.
fn listen_case(name: &'static str, n: u64) -> Case {
    let (mut hub, naive, channels) = filled(1);
    let channel = channels[0].clone();
    let head = hub
        .info(&channel, NOW_MS)
        .expect("it was published to")
        .position;
    let after = head.offset - n;
    let listen = listen(
        &channel,
        Position {
            offset: after,
            ..head
        },
    );
    Case::pair(
        name,
        move || {
            let result = hub.listen(black_box(&listen), HERE, NOW_MS);
            result.expect("there is room").0.messages.len()
        },
        move || {
            naive
                .replay(black_box(channel.as_str()), black_box(after))
                .len()
        },
    )
}

/// Both hubs with full histories, and their channels.
fn filled(n_channels: usize) -> (Hub, HubNaive, Vec<ChannelName>) {
    let mut hub = Hub::new(Arc::new(Config::default()), 1, 1);
    let mut naive = HubNaive::default();
    let channels: Vec<ChannelName> = (0..n_channels)
        .map(|n| ChannelName::parse(&format!("room-{n}")).expect("a valid name"))
        .collect();
    let payload: Arc<[u8]> = vec![b'x'; 128].into();
    // A few more messages than are kept, where there is memory for it.
    let n_messages = if n_channels == 1 { 120 } else { 1 };
    for channel in &channels {
        for _ in 0..n_messages {
            hub.publish(
                publish(channel.clone(), payload.clone()),
                NOW_MS,
                &mut Vec::new(),
            )
            .expect("there is room");
            naive.publish(channel.as_str(), &payload, NOW_MS);
        }
    }
    (hub, naive, channels)
}

fn publish(channel: ChannelName, payload: Arc<[u8]>) -> Publish {
    Publish {
        channel,
        kind: PayloadKind::Text,
        event: None,
        payload,
        ttl_ms: None,
        store: true,
        idempotency_key: None,
    }
}

fn listen(channel: &ChannelName, after: Position) -> Listen {
    Listen {
        channel: channel.clone(),
        since: Since::After(after),
        mode: ListenMode::Once,
        messages_max: usize::MAX,
        bytes_max: usize::MAX,
    }
}

fn agree(random: &mut fastrand::Rng) {
    let (mut hub, mut naive, channels) = filled(3);
    let mut now_ms = NOW_MS;
    for _ in 0..2000 {
        now_ms += random.u64(0..20_000);
        let channel = &channels[random.usize(0..channels.len())];
        let payload: Arc<[u8]> = vec![random.u8(..); random.usize(0..200)].into();
        let published = hub.publish(
            publish(channel.clone(), payload.clone()),
            now_ms,
            &mut Vec::new(),
        );
        let position = published.expect("there is room").0.position;
        assert_eq!(
            position.offset,
            naive.publish(channel.as_str(), &payload, now_ms)
        );

        let offset = random.u64(0..=position.offset);
        let (replay, _) = hub
            .listen(
                &listen(channel, Position { offset, ..position }),
                HERE,
                now_ms,
            )
            .expect("there is room");
        let replayed = replay
            .messages
            .iter()
            .map(|message| (message.position.offset, message.payload.to_vec()));
        naive.expire(channel.as_str(), now_ms);
        assert_eq!(
            replayed.collect::<Vec<_>>(),
            naive.replay(channel.as_str(), offset)
        );
    }
}

/// Histories by name, copied in and copied out; no limit but the namespace's count and age.
#[derive(Default)]
struct HubNaive(BTreeMap<String, ChannelNaive>);

#[derive(Default)]
struct ChannelNaive {
    head: u64,
    history: Vec<MessageNaive>,
}

struct MessageNaive {
    offset: u64,
    payload: Vec<u8>,
    expires_ms: u64,
}

impl HubNaive {
    fn publish(&mut self, name: &str, payload: &[u8], now_ms: u64) -> u64 {
        let kept = Namespace::default();
        let channel = self.0.entry(name.to_owned()).or_default();
        channel.head += 1;
        channel.history.push(MessageNaive {
            offset: channel.head,
            payload: payload.to_vec(),
            expires_ms: now_ms + kept.history_age_ms,
        });
        if channel.history.len() > kept.history_messages {
            channel.history.remove(0);
        }
        channel.head
    }

    fn replay(&self, name: &str, after: u64) -> Vec<(u64, Vec<u8>)> {
        let history = self.0.get(name).map_or(&[][..], |channel| &channel.history);
        let missed = history.iter().filter(|message| message.offset > after);
        missed
            .map(|message| (message.offset, message.payload.clone()))
            .collect()
    }

    fn expire(&mut self, name: &str, now_ms: u64) {
        if let Some(channel) = self.0.get_mut(name) {
            channel
                .history
                .retain(|message| message.expires_ms > now_ms);
        }
    }
}
