//! From one message to its listeners: passes, slices, and bytes that are encoded once.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use pushring::config::Config;
use pushring::hub::batch::{
    Batch, Format, WireForm, write_event_body, write_poll_body, write_websocket,
};
use pushring::hub::fanout::{Delivery, Fanout};
use pushring::hub::message::{ChannelName, Message};
use pushring::hub::{Hub, Publish};
use pushring::proto::http_response::write_chunk;
use pushring::proto::payload::PayloadKind;
use pushring::proto::sse_event::write_id_line;

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "fanout",
    cases,
    agree,
};

/// Connections in a slice, as a shard asks for them.
const SLICE_CONNECTIONS: usize = 64;

const WEBSOCKET: WireForm = WireForm::WebSocket(Format::Raw);
const EVENT_STREAM: WireForm = WireForm::EventStream {
    format: Format::Raw,
    chunked: true,
};

fn cases() -> Vec<Case> {
    vec![
        deliver_case("a message on its way to 1", 1),
        deliver_case("a message on its way to 1,000", 1000),
        subscribe_case("subscribe and leave, 10,000 others", 10_000),
        encode_case("WebSocket frame for 64 listeners", WEBSOCKET),
        encode_case("event for 64 listeners", EVENT_STREAM),
        encode_case("body of a poll for 64 listeners", WireForm::PollBody),
    ]
}

fn deliver_case(name: &'static str, n_listeners: u32) -> Case {
    let message = message(1);
    let copy = message.clone();
    let mut fanout = Fanout::default();
    let mut naive = FanoutNaive::default();
    for connection in 0..n_listeners {
        fanout.listen(&message.channel, connection);
        naive.listen(&message.channel, connection);
    }
    let mut connections = Vec::new();
    Case::pair(
        name,
        move || {
            fanout.enqueue(black_box(&message).clone());
            let mut delivered = 0;
            while let Some(slice) = fanout.next_slice(&mut connections, SLICE_CONNECTIONS) {
                black_box(&slice);
                delivered += black_box(&connections).len();
            }
            delivered
        },
        move || black_box(naive.deliver(black_box(&copy))).len(),
    )
}

fn subscribe_case(name: &'static str, n_others: u32) -> Case {
    let channel = message(1).channel.clone();
    let copy = channel.clone();
    let mut fanout = Fanout::default();
    let mut naive = FanoutNaive::default();
    for connection in 0..n_others {
        fanout.listen(&channel, connection);
        naive.listen(&channel, connection);
    }
    Case::pair(
        name,
        move || {
            let subscription = fanout.listen(black_box(&channel), n_others);
            fanout.unlisten(black_box(subscription)) == channel
        },
        move || {
            naive.listen(black_box(&copy), n_others);
            naive.unlisten(black_box(&copy), n_others)
        },
    )
}

fn encode_case(name: &'static str, form: WireForm) -> Case {
    const N_LISTENERS: usize = 64;
    let message = message(1043);
    let copy = message.clone();
    Case::pair(
        name,
        move || {
            let batch = Batch::new(vec![black_box(&message).clone()]);
            let shares = (0..N_LISTENERS).map(|_| black_box(batch.bytes(form).clone()).len());
            shares.sum::<usize>()
        },
        move || {
            let copies =
                (0..N_LISTENERS).map(|_| black_box(encode_naive(black_box(&copy), form)).len());
            copies.sum::<usize>()
        },
    )
}

fn agree(random: &mut fastrand::Rng) {
    for form in [WEBSOCKET, EVENT_STREAM, WireForm::PollBody] {
        let message = message(random.u64(1..1000));
        let batch = Batch::new(vec![message.clone()]);
        assert_eq!(**batch.bytes(form), encode_naive(&message, form));
    }

    let mut fanout = Fanout::default();
    let mut naive = FanoutNaive::default();
    let mut subscriptions = HashMap::new();
    let channel = message(1).channel.clone();
    for offset in 1..300 {
        let connection = random.u32(0..100);
        if let Some(subscription) = subscriptions.remove(&connection) {
            fanout.unlisten(subscription);
            assert!(naive.unlisten(&channel, connection));
        } else {
            subscriptions.insert(connection, fanout.listen(&channel, connection));
            naive.listen(&channel, connection);
        }
        let message = message(offset);
        fanout.enqueue(message.clone());
        let mut delivered = Vec::new();
        let mut connections = Vec::new();
        while let Some(slice) = fanout.next_slice(&mut connections, SLICE_CONNECTIONS) {
            let Delivery::Messages(batch) = &slice.delivery else {
                unreachable!("no channel was deleted")
            };
            let offsets = batch
                .messages()
                .iter()
                .map(|message| message.position.offset);
            delivered
                .extend(offsets.flat_map(|offset| connections.iter().map(move |&it| (it, offset))));
        }
        let mut expected: Vec<_> = naive
            .deliver(&message)
            .into_iter()
            .map(|(connection, message)| (connection, message.position.offset))
            .collect();
        delivered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(delivered, expected);
    }
}

/// The message of that offset, from a hub: only a hub makes positions.
fn message(offset: u64) -> Arc<Message> {
    let mut hub = Hub::new(Arc::new(Config::default()), 1, 1);
    let publish = Publish {
        channel: ChannelName::parse("news").expect("a valid name"),
        kind: PayloadKind::Json,
        event: None,
        payload: format!("{{\"text\":\"{}\"}}", "x".repeat(128 - 11))
            .into_bytes()
            .into(),
        ttl_ms: None,
        store: false,
        idempotency_key: None,
    };
    let messages =
        (0..offset).filter_map(|_| hub.publish(publish.clone(), 0, &mut Vec::new()).ok()?.1);
    messages.last().expect("offsets start with 1")
}

/// Everybody's mail at once: a list of listeners is copied for each message, and whoever leaves is looked for.
#[derive(Default)]
struct FanoutNaive(HashMap<ChannelName, Vec<u32>>);

impl FanoutNaive {
    fn listen(&mut self, channel: &ChannelName, connection: u32) {
        self.0.entry(channel.clone()).or_default().push(connection);
    }

    fn unlisten(&mut self, channel: &ChannelName, connection: u32) -> bool {
        let listeners = self.0.entry(channel.clone()).or_default();
        let before = listeners.len();
        listeners.retain(|&listener| listener != connection);
        listeners.len() < before
    }

    fn deliver(&self, message: &Arc<Message>) -> Vec<(u32, Arc<Message>)> {
        let listeners = self.0.get(&message.channel).map_or(&[][..], Vec::as_slice);
        listeners
            .iter()
            .map(|&connection| (connection, message.clone()))
            .collect()
    }
}

/// For one listener alone.
fn encode_naive(message: &Message, form: WireForm) -> Vec<u8> {
    let id = message.position.to_string();
    let mut out = Vec::new();
    match form {
        WireForm::WebSocket(format) => write_websocket(&mut out, message, format),
        WireForm::EventStream { format, .. } => {
            let mut event = Vec::new();
            write_id_line(&mut event, &id);
            write_event_body(&mut event, message, format);
            write_chunk(&mut out, &event);
        }
        WireForm::PollBody => write_poll_body(&mut out, &id, true, [message]),
    }
    out
}
