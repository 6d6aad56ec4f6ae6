//! JSON as it goes over the wire: what a poll, `format=json` and a gap notice say, and what a WebSocket client
//! publishes (RFC 8259). What is written per message is written by hand, all else by serde_json.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr2_iter;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::payload::PayloadKind;

/// How deep arrays and objects of a payload may nest. Common parsers stop at 128, and a payload reaches its
/// reader inside a poll's answer.
pub const DEPTH_MAX: usize = 120;

/// Appends one message: `{"channel":"news","id":"k3Qz9aXb-1043","event":"created","data":{"a":1}}`.
/// A `Json` payload is embedded as it is, so it may bring line ends of its own.
pub fn write_message(
    out: &mut Vec<u8>,
    channel: &str,
    id: &str,
    event: Option<&str>,
    kind: PayloadKind,
    payload: &[u8],
) {
    out.extend_from_slice(b"{\"channel\":");
    write_string(out, channel);
    out.extend_from_slice(b",\"id\":");
    write_string(out, id);
    if let Some(event) = event {
        out.extend_from_slice(b",\"event\":");
        write_string(out, event);
    }
    match kind {
        PayloadKind::Json => {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(payload);
        }
        PayloadKind::Text => {
            out.extend_from_slice(b",\"data\":");
            write_string_bytes(out, payload);
        }
        PayloadKind::Binary => {
            out.extend_from_slice(b",\"data_base64\":\"");
            write_base64(out, payload);
            out.push(b'"');
        }
    }
    out.push(b'}');
}

/// Appends `{"channel":"news","position":"k3Qz9aXb-1043"}`: messages up to this position are lost.
pub fn write_gap(out: &mut Vec<u8>, channel: &str, position: &str) {
    out.extend_from_slice(b"{\"channel\":");
    write_string(out, channel);
    out.extend_from_slice(b",\"position\":");
    write_string(out, position);
    out.push(b'}');
}

/// Appends a value whose keys are text.
pub fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("a Vec takes everything");
}

/// Appends a JSON string (RFC 8259 §7).
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    write_string_bytes(out, text.as_bytes());
}

/// Appends base64 with padding.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    // Four characters for three bytes, the last group padded.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(out.len() - start));
}

/// Whether `payload` is one JSON value, UTF-8, nested no deeper than [`DEPTH_MAX`].
pub fn is_valid(payload: &[u8]) -> bool {
    // serde_json skips over ignored strings without a look at their UTF-8.
    str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
        && !is_too_deep(payload)
}

/// What a WebSocket client publishes in `format=json`: `{"channel":"news","event":"created","data":{"a":1}}`.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientPublish<'a> {
    pub channel: Cow<'a, str>,
    pub event: Option<Cow<'a, str>>,
    pub kind: PayloadKind,
    pub payload: Cow<'a, [u8]>,
}

/// Why a client's publish is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPublishError {
    /// Not JSON at all.
    NotJson,
    /// JSON, but not an object of the fields that there are.
    FieldsInvalid,
    /// Neither `data` nor `data_base64`.
    DataMissing,
    /// Both of them.
    DataTwice,
    Base64Invalid,
    TooDeep,
}

impl ClientPublishError {
    /// Short enough for the reason of a close frame.
    pub fn message(self) -> &'static str {
        match self {
            Self::NotJson => "Send JSON: {\"channel\":\"news\",\"data\":…}.",
            Self::FieldsInvalid => {
                "Send an object of channel, data or data_base64, and optionally event."
            }
            Self::DataMissing => "Send the payload as data or data_base64.",
            Self::DataTwice => "Send either data or data_base64.",
            Self::Base64Invalid => "data_base64 has to be base64 with padding.",
            Self::TooDeep => "data may nest 120 levels at most.",
        }
    }
}

impl<'a> ClientPublish<'a> {
    /// A JSON string in `data` becomes `Text`, any other value becomes `Json` as it stands. The channel and the
    /// event are as the client wrote them, still to be checked.
    pub fn decode(input: &'a [u8]) -> Result<Self, ClientPublishError> {
        let text = str::from_utf8(input).map_err(|_| ClientPublishError::NotJson)?;
        let fields: PublishFields<'a> =
            serde_json::from_str(text).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => ClientPublishError::FieldsInvalid,
                _ => ClientPublishError::NotJson,
            })?;
        // serde takes a list of the values for the object too.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(ClientPublishError::FieldsInvalid);
        }
        let (kind, payload) = match (fields.data, fields.data_base64) {
            (Some(data), None) => decode_data(data)?,
            (None, Some(base64)) => {
                let bytes = STANDARD
                    .decode(&*base64.0)
                    .map_err(|_| ClientPublishError::Base64Invalid)?;
                (PayloadKind::Binary, Cow::Owned(bytes))
            }
            (None, None) => return Err(ClientPublishError::DataMissing),
            (Some(_), Some(_)) => return Err(ClientPublishError::DataTwice),
        };
        let event = fields.event.map(|event| event.0);
        Ok(Self {
            channel: fields.channel,
            event,
            kind,
            payload,
        })
    }
}

/// The token of `{"token":"…"}`, which a WebSocket client sends to say who it is; `None` for any other message.
pub fn decode_token(payload: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TokenFields<'a> {
        #[serde(borrow)]
        token: Cow<'a, str>,
    }
    // Publishes are many and tokens few: one look tells them apart.
    let inside = payload.trim_ascii_start().strip_prefix(b"{")?;
    if !inside.trim_ascii_start().starts_with(b"\"token\"") {
        return None;
    }
    let fields: TokenFields<'_> = serde_json::from_slice(payload).ok()?;
    Some(fields.token)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishFields<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    event: Option<JsonString<'a>>,
    #[serde(borrow, default, deserialize_with = "present_value")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<JsonString<'a>>,
}

/// Borrowed if nothing in it is escaped; serde borrows into a bare `Cow` only where it is a field.
#[derive(Deserialize)]
#[serde(transparent)]
struct JsonString<'a>(#[serde(borrow)] Cow<'a, str>);

/// `"data":null` is the JSON value null and not a missing field, which is what `Option` alone would make of it.
fn present_value<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn decode_data(data: &RawValue) -> Result<(PayloadKind, Cow<'_, [u8]>), ClientPublishError> {
    let json = data.get();
    if !json.starts_with('"') {
        if is_too_deep(json.as_bytes()) {
            return Err(ClientPublishError::TooDeep);
        }
        return Ok((PayloadKind::Json, Cow::Borrowed(json.as_bytes())));
    }
    // Half of a surrogate pair is within JSON's grammar, but it is no text.
    let text: JsonString<'_> =
        serde_json::from_str(json).map_err(|_| ClientPublishError::NotJson)?;
    let payload = match text.0 {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    Ok((PayloadKind::Text, payload))
}

/// Whether valid JSON nests deeper than [`DEPTH_MAX`]. What has no more than that many opening brackets in all, as most
/// has, need not be looked at byte by byte.
fn is_too_deep(json: &[u8]) -> bool {
    memchr2_iter(b'[', b'{', json).nth(DEPTH_MAX).is_some() && depth(json) > DEPTH_MAX
}

/// How deep arrays and objects nest in valid JSON.
fn depth(json: &[u8]) -> usize {
    let mut open = 0_usize;
    let mut deepest = 0;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// `text` is UTF-8. Only ASCII is ever escaped, so bytes beyond it pass through.
fn write_string_bytes(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = find_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        write_escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The first byte that needs an escape. Most text has none, so it looks at 16 bytes at a time, in a form that
/// the compiler turns into vector instructions.
fn find_escape(text: &[u8]) -> Option<usize> {
    let (chunks, _) = text.as_chunks::<16>();
    let clean_chunks = chunks
        .iter()
        .take_while(|chunk| {
            !chunk
                .iter()
                .fold(false, |found, &byte| found | needs_escape(byte))
        })
        .count();
    let clean_bytes = clean_chunks * 16;
    text[clean_bytes..]
        .iter()
        .position(|&byte| needs_escape(byte))
        .map(|at| clean_bytes + at)
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xF)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests;
