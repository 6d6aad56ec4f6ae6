//! One entry of the stream, as headers and payload.
//!
//! A backend may publish without any header. With them it says what the HTTP interface takes as `Content-Type`,
//! `event`, `ttl` and `store`; a header that makes no sense is as good as none: the message has its position already.

use std::ops::Range;
use std::sync::Arc;

use async_nats::HeaderMap;

use crate::backplane::broker::Publishing;
use crate::backplane::order::Arrival;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Epoch, Position};
use crate::proto::payload::{MediaType, PayloadKind};
use crate::proto::sse_event::event_name_is_free;

use super::subject::token;

const CONTENT_TYPE: &str = "Content-Type";
const EVENT: &str = "Pushring-Event";
const TTL_MS: &str = "Pushring-TTL-Ms";
/// `false`: for those only who listen now.
const STORE: &str = "Pushring-Store";
/// What a repeat under the same key is told.
const RECEIVERS: &str = "Pushring-Receivers";
/// The entry is no message: [`BEGUN`], [`ENDED`] or [`TOUCHED`].
const MARK: &str = "Pushring-Mark";
const BEGUN: &str = "begun";
const ENDED: &str = "ended";
const TOUCHED: &str = "touched";
/// With [`TOUCHED`]: the channel's head, which is not this entry.
const HEAD: &str = "Pushring-Head";

/// NATS: a repeat within the stream's window is not stored again.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// NATS: whatever was on the subject before goes as this is stored.
const ROLLUP: &str = "Nats-Rollup";
/// NATS: refused unless the subject's newest entry is this one; 0 if there is to be none.
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// An entry on a channel's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the stream, which is the offset of a message.
    pub sequence: u64,
    /// When the server took it, in microseconds since 1970.
    pub time_us: u64,
    /// What was before it on the subject was dropped.
    pub is_cut: bool,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Message(Body),
    /// Somebody has asked where the channel stands, and there was no entry: it stands here.
    Begun,
    /// The channel was deleted.
    Ended,
    /// The channel is in use and quiet: there was nothing between `head` and this entry.
    Touched {
        head: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub kind: PayloadKind,
    pub event: Option<Box<str>>,
    pub payload: Arc<[u8]>,
    pub ttl_ms: Option<u64>,
    pub is_stored: bool,
}

impl Entry {
    /// Somebody has published it.
    pub fn is_message(&self) -> bool {
        matches!(self.content, Content::Message(_))
    }

    /// `None` when the server's own headers are not there.
    pub fn decode(headers: &HeaderMap, payload: &[u8]) -> Option<Self> {
        let sequence = server_number(headers, "Nats-Sequence")?;
        let time_us = time_us(headers.get_last("Nats-Time-Stamp")?.as_str())?;
        Some(Self::new(headers, payload, sequence, time_us))
    }

    pub fn new(headers: &HeaderMap, payload: &[u8], sequence: u64, time_us: u64) -> Self {
        let head = || value(headers, HEAD)?.parse().ok();
        let content = match (value(headers, MARK), head()) {
            (Some(BEGUN), _) => Content::Begun,
            (Some(ENDED), _) => Content::Ended,
            (Some(TOUCHED), Some(head)) if head < sequence => Content::Touched { head },
            _ => Content::Message(Body::decode(headers, payload)),
        };
        Self {
            sequence,
            time_us,
            is_cut: value(headers, ROLLUP).is_some(),
            content,
        }
    }

    /// Where the channel stands with this as its newest entry.
    pub fn head(&self) -> u64 {
        match self.content {
            Content::Touched { head } => head,
            _ => self.sequence,
        }
    }

    pub fn time_ms(&self) -> u64 {
        self.time_us / 1000
    }
}

impl Body {
    fn decode(headers: &HeaderMap, payload: &[u8]) -> Self {
        let kind = MediaType::parse(value(headers, CONTENT_TYPE))
            .and_then(|media_type| PayloadKind::of(payload, media_type))
            .unwrap_or_else(|_| kind_by_bytes(payload));
        Self {
            kind,
            event: value(headers, EVENT)
                .filter(|event| event_name_is_free(event))
                .map(Into::into),
            payload: payload.into(),
            ttl_ms: value(headers, TTL_MS).and_then(|ttl| ttl.parse().ok()),
            is_stored: value(headers, STORE) != Some("false"),
        }
    }

    pub fn expires_ms(&self, published_ms: u64) -> u64 {
        self.ttl_ms
            .map_or(u64::MAX, |ttl_ms| published_ms.saturating_add(ttl_ms))
    }

    pub fn arrival(
        &self,
        channel: &ChannelName,
        position: Position,
        previous: u64,
        time_us: u64,
    ) -> Arrival {
        let published_ms = time_us / 1000;
        Arrival {
            is_stored: self.is_stored,
            message: Arc::new(Message {
                channel: channel.clone(),
                position,
                previous,
                kind: self.kind,
                event: self.event.clone(),
                payload: self.payload.clone(),
                published_ms,
                published_us: time_us,
                expires_ms: self.expires_ms(published_ms),
            }),
        }
    }
}

/// Tells what comes live on one channel, in order.
#[derive(Debug)]
pub struct Live {
    channel: ChannelName,
    epoch: Epoch,
    /// The newest touch: its own number, and the head that it names.
    touch: Option<(u64, u64)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Arrival(Arrival),
    Ended,
    Nothing,
}

impl Live {
    pub fn new(channel: ChannelName, epoch: Epoch) -> Self {
        Self {
            channel,
            epoch,
            touch: None,
        }
    }

    /// `None` when this is nothing that the stream sent.
    pub fn hear(&mut self, headers: &HeaderMap, payload: &[u8]) -> Option<Heard> {
        let entry = Entry::decode(headers, payload)?;
        let before = server_number(headers, "Nats-Last-Sequence")?;
        Some(match entry.content {
            Content::Begun => Heard::Nothing,
            Content::Ended => Heard::Ended,
            Content::Touched { head } => {
                self.touch = Some((entry.sequence, head));
                Heard::Nothing
            }
            Content::Message(body) => {
                let previous = match self.touch {
                    Some((touch, head)) if touch == before => head,
                    _ => before,
                };
                let position = Position {
                    epoch: self.epoch,
                    offset: entry.sequence,
                };
                Heard::Arrival(body.arrival(&self.channel, position, previous, entry.time_us))
            }
        })
    }
}

/// The headers of a message to be published.
pub fn message_headers(publishing: &Publishing) -> HeaderMap {
    let Publishing {
        publish,
        keep,
        receivers,
    } = publishing;
    let mut headers = HeaderMap::new();
    if publish.kind != kind_by_bytes(&publish.payload) {
        let media_type = match publish.kind {
            PayloadKind::Json => "application/json",
            PayloadKind::Text => "text/plain",
            PayloadKind::Binary => "application/octet-stream",
        };
        headers.insert(CONTENT_TYPE, media_type);
    }
    if let Some(event) = &publish.event {
        headers.insert(EVENT, &**event);
    }
    if let Some(ttl_ms) = publish.ttl_ms {
        headers.insert(TTL_MS, ttl_ms.to_string());
    }
    if !publish.store || keep.history_messages == 0 {
        headers.insert(STORE, "false");
    }
    if let Some(key) = publish
        .idempotency_key
        .as_deref()
        .filter(|_| keep.idempotency_window_ms > 0)
    {
        let channel = token(publish.channel.as_str());
        headers.insert(MESSAGE_ID, format!("{channel}/{}", token(key)));
        headers.insert(RECEIVERS, receivers.to_string());
    }
    headers
}

/// Says where a channel without entries stands: refused if it has one.
pub fn begun_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(MARK, BEGUN);
    headers.insert(EXPECTED_LAST, "0");
    headers
}

/// Drops the channel's history: the entry takes its place, and tells everybody.
pub fn ended_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(MARK, ENDED);
    headers.insert(ROLLUP, "sub");
    headers
}

/// Keeps the channel's head known: refused if anything came since `newest`, which is 0 if there is no entry.
pub fn touch_headers(head: u64, newest: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(MARK, TOUCHED);
    headers.insert(HEAD, head.to_string());
    headers.insert(EXPECTED_LAST, newest.to_string());
    headers
}

/// The canary, of which the stream keeps the newest only.
pub fn canary_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ROLLUP, "sub");
    headers
}

pub fn receivers(headers: &HeaderMap) -> Option<u32> {
    value(headers, RECEIVERS)?.parse().ok()
}

fn kind_by_bytes(payload: &[u8]) -> PayloadKind {
    match str::from_utf8(payload) {
        Ok(_) => PayloadKind::Text,
        Err(_) => PayloadKind::Binary,
    }
}

/// Of a header that people write, in whichever case.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let (_, values) = headers.iter().find(|(it, _)| {
        let it: &str = it.as_ref();
        it.eq_ignore_ascii_case(name)
    })?;
    values.first().map(|value| value.as_str().trim())
}

/// Of a header that the server writes behind those of the publisher, who may have written the same name.
pub fn server_number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get_last(name)?.as_str().parse().ok()
}

/// Microseconds since 1970 of a time as the server writes it: RFC 3339 in UTC, with any number of decimals.
pub fn time_us(text: &str) -> Option<u64> {
    let number = |range: Range<usize>| text.get(range)?.parse::<u64>().ok();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators
        .iter()
        .all(|(at, byte)| text.as_bytes().get(*at) == Some(byte))
    {
        return None;
    }
    let decimals = text.get(19..)?.strip_suffix('Z')?;
    let micros = match decimals.strip_prefix('.') {
        Some(digits) => format!("{:0<6}", digits.get(..digits.len().min(6))?)
            .parse()
            .ok()?,
        None if decimals.is_empty() => 0,
        None => return None,
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = (365 * year + leap_days + (153 * month + 2) / 5 + day - 1).checked_sub(719_468)?;
    let seconds = ((days * 24 + number(11..13)?) * 60 + number(14..16)?) * 60 + number(17..19)?;
    Some(seconds * 1_000_000 + micros)
}

#[cfg(test)]
mod tests;
