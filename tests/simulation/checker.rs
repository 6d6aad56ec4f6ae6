//! What was published, and whether what a client saw of it is in order.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pushring::config::{Config, SlowReader};
use pushring::hub::message::Message;
use pushring::proto::payload::PayloadKind;

/// A position as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct At {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

impl At {
    pub(crate) fn parse(text: &str) -> Self {
        let (epoch, offset) = text.split_once('-').expect("epoch-offset");
        Self {
            epoch: epoch.to_owned(),
            offset: offset.parse().expect("a number"),
        }
    }

    pub(crate) fn parse_cursor(text: &str) -> Vec<Self> {
        text.split(',').map(Self::parse).collect()
    }

    pub(crate) fn next(&self) -> Self {
        Self {
            epoch: self.epoch.clone(),
            offset: self.offset + 1,
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

struct Record {
    kind: PayloadKind,
    event: Option<String>,
    payload: Vec<u8>,
    is_stored: bool,
    expires_ms: u64,
}

/// Every message that a home has numbered, by channel, epoch and offset (from 1).
#[derive(Default)]
pub(crate) struct Ledger {
    messages: HashMap<(String, String), Vec<Record>>,
    /// Payloads are unique.
    by_payload: HashMap<Vec<u8>, (String, At)>,
}

impl Ledger {
    pub(crate) fn record(&mut self, message: &Message, store: bool) {
        let at = At::parse(&message.position.to_string());
        let channel = message.channel.as_str().to_owned();
        let records = self
            .messages
            .entry((channel.clone(), at.epoch.clone()))
            .or_default();
        assert_eq!(
            at.offset,
            records.len() as u64 + 1,
            "positions of {channel} have a hole"
        );
        records.push(Record {
            kind: message.kind,
            event: message.event.as_deref().map(Into::into),
            payload: message.payload.to_vec(),
            is_stored: store,
            expires_ms: message.expires_ms,
        });
        self.by_payload.insert(
            [channel.as_bytes(), b"/", &message.payload].concat(),
            (channel, at),
        );
    }

    fn get(&self, channel: &str, at: &At) -> &Record {
        let records = self.messages.get(&(channel.to_owned(), at.epoch.clone()));
        let record = records.and_then(|records| records.get((at.offset as usize).checked_sub(1)?));
        record.unwrap_or_else(|| panic!("{channel} has nothing at {at}"))
    }

    pub(crate) fn is_payload(&self, channel: &str, at: &At, payload: &[u8]) -> bool {
        self.get(channel, at).payload == payload
    }

    pub(crate) fn find(&self, channel: &str, payload: &[u8]) -> Option<&At> {
        self.by_payload
            .get(&[channel.as_bytes(), b"/", payload].concat())
            .map(|(_, at)| at)
    }

    /// A payload alone: a frame, or the data of an event.
    pub(crate) fn check_raw(
        &self,
        channel: &str,
        at: &At,
        payload: &[u8],
        is_text_transport: bool,
    ) {
        let record = self.get(channel, at);
        let expected = match record.kind {
            PayloadKind::Binary if is_text_transport => {
                STANDARD.encode(&record.payload).into_bytes()
            }
            _ => record.payload.clone(),
        };
        assert_eq!(payload, expected, "payload of {channel} at {at}");
    }

    /// The object of a poll or of `format=json`; gives its channel and position.
    pub(crate) fn check_object(&self, object: &serde_json::Value) -> (String, At) {
        let channel = object["channel"].as_str().expect("a channel").to_owned();
        let at = At::parse(object["id"].as_str().expect("an id"));
        let record = self.get(&channel, &at);
        assert_eq!(
            object["event"].as_str(),
            record.event.as_deref(),
            "event of {channel} at {at}"
        );
        match record.kind {
            PayloadKind::Json => {
                assert_eq!(
                    object["data"],
                    serde_json::from_slice::<serde_json::Value>(&record.payload).unwrap()
                );
            }
            PayloadKind::Text => {
                assert_eq!(object["data"].as_str().unwrap().as_bytes(), record.payload)
            }
            PayloadKind::Binary => {
                assert_eq!(object["data_base64"], STANDARD.encode(&record.payload))
            }
        }
        (channel, at)
    }

    /// Whether a client that has everything up to `has` may be told that something after it is lost: some message
    /// after it is no longer, or never was, in the history.
    pub(crate) fn may_be_lost(
        &self,
        channel: &str,
        has: &At,
        config: &Config,
        now_ms: u64,
    ) -> bool {
        let Some(records) = self.messages.get(&(channel.to_owned(), has.epoch.clone())) else {
            return true;
        };
        let namespace = config.namespace(namespace(channel));
        let later = &records[(has.offset as usize).min(records.len())..];
        later.len() > namespace.history_messages
            || later
                .iter()
                .any(|record| !record.is_stored || record.expires_ms <= now_ms)
            || later
                .iter()
                .map(|record| record.payload.len() + 200)
                .sum::<usize>()
                > namespace.history_bytes
    }
}

fn namespace(channel: &str) -> &str {
    let parts = channel.split_once(':');
    parts.map_or("", |(namespace, _)| namespace)
}

/// For a client that reads too slowly messages of the channel are dropped.
fn gives_way(channel: &str, config: &Config) -> bool {
    config.namespace(namespace(channel)).slow_reader != SlowReader::Close
}

/// What one client has of one channel, and whether it was told of what it has not.
pub(crate) struct View<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) config: &'a Config,
    pub(crate) now_ms: u64,
    pub(crate) channel: &'a str,
    pub(crate) has: &'a mut Option<At>,
}

impl View<'_> {
    /// A message without any notice: it has to be the next one.
    pub(crate) fn on_message(&mut self, at: At) {
        if let Some(has) = &self.has {
            assert_eq!(at, has.next(), "on {} the client has {has}", self.channel);
        }
        *self.has = Some(at);
    }

    /// A notice that something up to `at` is lost.
    pub(crate) fn on_gap(&mut self, at: At) {
        self.skip(at, true);
    }

    /// The same in the midst of a stream, where messages may have given way to newer ones.
    pub(crate) fn on_gap_in_stream(&mut self, at: At) {
        let gives_way = gives_way(self.channel, self.config);
        self.skip(at, !gives_way);
    }

    fn skip(&mut self, at: At, must_be_gone: bool) {
        if at.offset > 0 {
            self.ledger.get(self.channel, &at);
        }
        if let Some(has) = &self.has {
            if at == *has {
                return;
            }
            if at.epoch == has.epoch {
                assert!(
                    at.offset > has.offset,
                    "on {} a gap up to {at} leads back from {has}",
                    self.channel
                );
                if must_be_gone {
                    self.check_lost();
                }
            }
        }
        *self.has = Some(at);
    }

    /// The client is told that something after what it has is lost.
    pub(crate) fn check_lost(&self) {
        if let Some(has) = &self.has {
            let may_be_lost = self
                .ledger
                .may_be_lost(self.channel, has, self.config, self.now_ms);
            assert!(
                may_be_lost,
                "on {} a loss after {has} is told, and nothing is lost",
                self.channel
            );
        }
    }
}
